//! The cluster: its start, and what can be done with it as a whole.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU8;
use std::time::Instant;

use anyhow::Context;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::client::ConfigExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tokio::task::AbortHandle;
use tower::{BoxError, ServiceBuilder};

use crate::assets::Binary;
use crate::component::Component;
use crate::kubelet::Kubelet;
use crate::network::Network;
use crate::node::{NODE, add_node, kube_proxy, kube_proxy_ready};
use crate::pki::Pki;
use crate::{Testbed, control_plane, metallb};

const TOKEN_SECONDS: i64 = 24 * 60 * 60;

/// A running cluster. It ends when this is dropped, and with the process at
/// the latest.
///
/// It belongs to the runtime that it was started on.
pub struct Cluster {
    testbed: Testbed,
    pki: Pki,
    kubeconfig: PathBuf,
    kubectl: PathBuf,
    admin: Client,
    etcd: Component,
    api_server: Component,
    controller_manager: Option<Component>,
    kube_proxy: Option<Component>,
    others: Vec<Component>,
    kubelet: Option<(Kubelet, AbortHandle)>,
    pub(crate) next_node: AtomicU8,
}

impl Cluster {
    /// Starts the cluster with the parts that [`enter`](crate::enter) was
    /// called for, and returns when all of them are ready.
    pub async fn start(testbed: Testbed) -> anyhow::Result<Self> {
        let started = Instant::now();
        let mut cluster = Self::start_api(testbed).await?;
        let parts = cluster.testbed.parts;
        if parts.node {
            cluster.start_node_objects().await?;
        }
        let (controllers, proxy, balancer) =
            tokio::try_join!(cluster.start_controller_manager(), cluster.start_kube_proxy(), cluster.start_metallb(),)?;
        cluster.controller_manager = controllers;
        cluster.kube_proxy = proxy;
        cluster.others.extend(balancer);
        let seconds = started.elapsed().as_secs_f32();
        eprintln!("testbed: the cluster is up after {seconds:.1} s");
        Ok(cluster)
    }

    /// etcd and the API server, which everything else needs.
    async fn start_api(testbed: Testbed) -> anyhow::Result<Self> {
        let pki = Pki::create(testbed.dir.join("pki"))?;
        let kubeconfig = testbed.dir.join("admin.kubeconfig");
        pki.admin_kubeconfig(&kubeconfig)?;
        let admin = client_of(&kubeconfig).await?;

        let etcd = control_plane::etcd(&testbed)?;
        etcd.start()?;
        control_plane::etcd_ready(&etcd).await?;
        let api_server = control_plane::api_server(&testbed, &pki)?;
        api_server.start()?;
        control_plane::api_server_ready(&api_server, &admin).await?;
        Ok(Self {
            kubectl: testbed.assets.path(Binary::Kubectl)?.to_owned(),
            testbed,
            pki,
            kubeconfig,
            admin,
            etcd,
            api_server,
            controller_manager: None,
            kube_proxy: None,
            others: Vec::new(),
            kubelet: None,
            next_node: AtomicU8::new(2),
        })
    }

    async fn start_node_objects(&mut self) -> anyhow::Result<()> {
        add_node(self.admin(), NODE, &self.network().node_addresses(1)).await?;
        let kubelet = Kubelet::new(self.admin(), self.network());
        let task = tokio::spawn(kubelet.clone().run());
        self.kubelet = Some((kubelet, task.abort_handle()));
        Ok(())
    }

    async fn start_controller_manager(&self) -> anyhow::Result<Option<Component>> {
        if !self.testbed.parts.controller_manager {
            return Ok(None);
        }
        let component = control_plane::controller_manager(&self.testbed, &self.kubeconfig)?;
        component.start()?;
        control_plane::controller_manager_ready(&component, &self.admin).await?;
        Ok(Some(component))
    }

    async fn start_kube_proxy(&self) -> anyhow::Result<Option<Component>> {
        if !self.testbed.parts.node {
            return Ok(None);
        }
        let component = kube_proxy(&self.testbed, &self.kubeconfig)?;
        component.start()?;
        kube_proxy_ready(&component).await?;
        Ok(Some(component))
    }

    async fn start_metallb(&self) -> anyhow::Result<Option<Component>> {
        if !self.testbed.parts.metallb {
            return Ok(None);
        }
        let component = metallb::controller(&self.testbed, &self.kubeconfig)?;
        metallb::start(&component, self, self.testbed.assets.metallb_crds()).await?;
        Ok(Some(component))
    }

    /// A client with all rights.
    pub fn admin(&self) -> Client {
        self.admin.clone()
    }

    /// The kubeconfig file of the administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Writes a kubeconfig file for a service account, which must exist: who
    /// uses it has the account's rights and no others.
    pub async fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> anyhow::Result<PathBuf> {
        let accounts = Api::<ServiceAccount>::namespaced(self.admin(), namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let reply = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("a token for service account {namespace}/{name}"))?;
        let token = reply.status.context("the reply has no token")?.token;
        let file = format!("{namespace}.{name}.kubeconfig");
        let file = self.testbed.dir.join(file);
        let user = format!("system:serviceaccount:{namespace}:{name}");
        self.pki.token_kubeconfig(&file, &user, &token)?;
        Ok(file)
    }

    /// Whether nodes, pods and Services have IPv6 addresses.
    pub fn ipv6(&self) -> bool {
        self.testbed.network.ipv6
    }

    /// Where the components' logs are.
    pub fn logs(&self) -> &Path {
        &self.testbed.logs
    }

    /// Where etcd serves its API, also as JSON (the paths under `/v3`).
    pub fn etcd_url(&self) -> &'static str {
        control_plane::ETCD_URL
    }

    /// Kills the API server.
    pub async fn stop_apiserver(&self) -> anyhow::Result<()> {
        self.api_server.stop().await
    }

    /// Starts the API server again, and waits until it is ready.
    pub async fn start_apiserver(&self) -> anyhow::Result<()> {
        self.api_server.start()?;
        control_plane::api_server_ready(&self.api_server, &self.admin).await
    }

    /// Kills etcd: the API server stays, and fails what it is asked.
    pub async fn stop_etcd(&self) -> anyhow::Result<()> {
        self.etcd.stop().await
    }

    /// Starts etcd again, with what it held, and waits until the API server is
    /// ready.
    pub async fn start_etcd(&self) -> anyhow::Result<()> {
        self.etcd.start()?;
        control_plane::etcd_ready(&self.etcd).await?;
        control_plane::api_server_ready(&self.api_server, &self.admin).await
    }

    /// Kills kube-controller-manager: EndpointSlices and garbage collection stop.
    pub async fn stop_controller_manager(&self) -> anyhow::Result<()> {
        self.the_controller_manager()?.stop().await
    }

    /// Starts it again with nothing in mind, and waits until it is ready.
    pub async fn resume_controller_manager(&self) -> anyhow::Result<()> {
        let component = self.the_controller_manager()?;
        component.start()?;
        control_plane::controller_manager_ready(component, &self.admin).await
    }

    /// Does both. Its garbage collector tries again what failed after up to 1,000 s,
    /// and so may do for long what an API server that was away has taught it.
    pub async fn restart_controller_manager(&self) -> anyhow::Result<()> {
        self.stop_controller_manager().await?;
        self.resume_controller_manager().await
    }

    /// Kills kube-proxy: the rules of the node stay as they are.
    pub async fn stop_kube_proxy(&self) -> anyhow::Result<()> {
        self.the_kube_proxy()?.stop().await
    }

    /// Starts it again, and waits until it has programmed what there is.
    pub async fn resume_kube_proxy(&self) -> anyhow::Result<()> {
        let component = self.the_kube_proxy()?;
        component.start()?;
        kube_proxy_ready(component).await
    }

    fn the_kube_proxy(&self) -> anyhow::Result<&Component> {
        self.kube_proxy.as_ref().context("the cluster has no kube-proxy")
    }

    fn the_controller_manager(&self) -> anyhow::Result<&Component> {
        self.controller_manager.as_ref().context("the cluster has no controller manager")
    }

    pub(crate) fn testbed(&self) -> &Testbed {
        &self.testbed
    }

    pub(crate) fn network(&self) -> Network {
        self.testbed.network
    }

    pub(crate) fn kubectl_path(&self) -> &Path {
        &self.kubectl
    }

    pub(crate) fn kubelet(&self) -> anyhow::Result<&Kubelet> {
        let (kubelet, _) = self.kubelet.as_ref().context("the cluster has no node")?;
        Ok(kubelet)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The components end by being dropped.
        if let Some((_, task)) = &self.kubelet {
            task.abort();
        }
    }
}

async fn client_of(kubeconfig: &Path) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // kube's own client leaves Nagle's algorithm on: the last part of a request then waits
    // until the rest is acknowledged, which a receiver may delay by 40 ms.
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .map_err(BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build(config.rustls_https_connector_with_connector(http)?));
    Ok(Client::new(service, config.default_namespace))
}
