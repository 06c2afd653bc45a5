//! The command lines of the cluster's own programs.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::GetParams;
use kube::core::Request;
use kube::{Api, Client};

use crate::Testbed;
use crate::assets::Binary;
use crate::component::{Component, http_ok};
use crate::network::SERVICE_RANGES;
use crate::pki::Pki;

pub(crate) const ETCD_URL: &str = "http://127.0.0.1:2379";
const ETCD_PORT: u16 = 2379;
pub(crate) const API_SERVER_PORT: u16 = 6443;

/// Far more than any of them needs on a machine that is busy.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(60);

/// The controllers that tests rely on.
const CONTROLLERS: [&str; 7] = [
    "endpointslice-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "garbage-collector-controller",
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "replicaset-controller",
];

/// etcd with its data in memory.
pub(crate) fn etcd(testbed: &Testbed) -> anyhow::Result<Component> {
    let peers = "http://127.0.0.1:2380";
    let arguments = [
        format!("--data-dir={}", testbed.dir.join("etcd").display()),
        "--unsafe-no-fsync".to_owned(),
        format!("--listen-client-urls={ETCD_URL}"),
        format!("--advertise-client-urls={ETCD_URL}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
    ];
    Component::new(Binary::Etcd, &testbed.assets, &testbed.logs, arguments)
}

/// Waits until etcd answers.
pub(crate) async fn etcd_ready(etcd: &Component) -> anyhow::Result<()> {
    let ask = async || http_ok(ETCD_PORT, "/readyz").await;
    etcd.until_ready(READY_LIMIT, ask).await
}

/// The API server, with RBAC.
pub(crate) fn api_server(testbed: &Testbed, pki: &Pki) -> anyhow::Result<Component> {
    let services = testbed.network.families(SERVICE_RANGES).join(",");
    let file = |option: &str, name: &str| format!("--{option}={}", pki.path(name).display());
    let storage = match testbed.parts.json_storage {
        true => "application/json",
        // Its default.
        false => "application/vnd.kubernetes.protobuf",
    };
    let node_ports = testbed.parts.node_ports.map(|(first, last)| format!("--service-node-port-range={first}-{last}"));
    let arguments = [
        format!("--etcd-servers={ETCD_URL}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--advertise-address=127.0.0.1".to_owned(),
        format!("--secure-port={API_SERVER_PORT}"),
        // EndpointSlices refuse 127.0.0.1, so nothing can publish the API
        // server's own.
        "--endpoint-reconciler-type=none".to_owned(),
        file("tls-cert-file", "apiserver.crt"),
        file("tls-private-key-file", "apiserver.key"),
        file("client-ca-file", "ca.crt"),
        format!("--service-cluster-ip-range={services}"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        file("service-account-key-file", "tokens.pub"),
        file("service-account-signing-key-file", "tokens.key"),
        "--authorization-mode=RBAC".to_owned(),
        // Pods need no token in here, nor a service account to be there first.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--storage-media-type={storage}"),
    ];
    Component::new(Binary::ApiServer, &testbed.assets, &testbed.logs, arguments.into_iter().chain(node_ports))
}

/// Waits until the API server is ready.
pub(crate) async fn api_server_ready(api_server: &Component, client: &Client) -> anyhow::Result<()> {
    let root = Request::new("");
    let ask = async || {
        let request = root.get("readyz", &GetParams::default())?;
        client.request_text(request).await?;
        Ok(Some(()))
    };
    api_server.until_ready(READY_LIMIT, ask).await
}

/// kube-controller-manager with the controllers that tests rely on.
pub(crate) fn controller_manager(testbed: &Testbed, kubeconfig: &Path) -> anyhow::Result<Component> {
    let arguments = [
        format!("--kubeconfig={}", kubeconfig.display()),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
        format!("--controllers={}", CONTROLLERS.join(",")),
        // With its default of 20 requests a second, a thousand new Services
        // would take it a minute.
        "--kube-api-qps=1000".to_owned(),
        "--kube-api-burst=2000".to_owned(),
    ];
    let binary = Binary::ControllerManager;
    Component::new(binary, &testbed.assets, &testbed.logs, arguments)
}

/// Waits until controllers have run: one of them has made the service account
/// that every namespace has.
pub(crate) async fn controller_manager_ready(controller_manager: &Component, client: &Client) -> anyhow::Result<()> {
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "default");
    let ask = async || Ok(accounts.get_opt("default").await?.map(drop));
    controller_manager.until_ready(READY_LIMIT, ask).await
}
