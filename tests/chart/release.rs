//! The release of the chart, and the controller that it describes.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, EnvVar};
use kube::Api;
use sharedlb_harness::{self as harness, LIMIT, definitions_established, repository};
use sharedlb_testbed::{Cluster, eventually};
use tokio::process::Command;

pub(crate) const NAMESPACE: &str = "sharedlb-system";

/// The release and, since it has the name of the chart, its objects.
pub(crate) const NAME: &str = "sharedlb";

/// The folder of the chart.
pub(crate) fn chart() -> anyhow::Result<String> {
    repository("deploy/chart")
}

/// The path of one of the values files that come with the chart.
pub(crate) fn values(name: &str) -> anyhow::Result<String> {
    repository(&format!("deploy/chart/ci/{name}-values.yaml"))
}

/// Installs a chart, and waits until claims and classes can be created.
pub(crate) async fn install(cluster: &Cluster, chart: &str, further: &[&str]) -> anyhow::Result<String> {
    let printed = cluster.helm(&[&["install", NAME, chart, "--namespace", NAMESPACE], further].concat()).await?;
    definitions_established(cluster).await?;
    Ok(printed)
}

/// Upgrades the release to a chart.
pub(crate) async fn upgrade(cluster: &Cluster, chart: &str, further: &[&str]) -> anyhow::Result<String> {
    cluster.helm(&[&["upgrade", NAME, chart, "--namespace", NAMESPACE], further].concat()).await
}

const CRDS: [&str; 2] = ["crd/sharedlbs.sharedlb.dev", "crd/sharedlbclasses.sharedlb.dev"];

/// Uninstalls the release in the order that docs/install.md has, and removes the CRDs.
/// Nothing is left of it for the next test.
pub(crate) async fn remove(cluster: &Cluster, controller: Controller) -> anyhow::Result<()> {
    cluster.kubectl_output(&["delete", "slb", "--all", "--all-namespaces", "--timeout=60s"]).await?;
    cluster.kubectl_output(&["delete", "slbc", "--all", "--timeout=60s"]).await?;
    uninstall(cluster).await?;
    controller.terminate().await?;
    remove_crds(cluster).await
}

/// Uninstalls the release.
pub(crate) async fn uninstall(cluster: &Cluster) -> anyhow::Result<String> {
    cluster.helm(&["uninstall", NAME, "--namespace", NAMESPACE]).await
}

/// Deletes what an uninstall keeps.
pub(crate) async fn remove_crds(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.kubectl_output(&[&["delete", "--timeout=60s", "--ignore-not-found"][..], &CRDS].concat()).await.map(drop)
}

/// The Deployment of the release.
pub(crate) async fn deployment(cluster: &Cluster) -> anyhow::Result<Deployment> {
    Ok(Api::namespaced(cluster.admin(), NAMESPACE).get(NAME).await?)
}

/// The only container of the Deployment.
pub(crate) async fn container(cluster: &Cluster) -> anyhow::Result<Container> {
    let pod = deployment(cluster).await?.spec.and_then(|spec| spec.template.spec).context("the pods have a spec")?;
    pod.containers.into_iter().next().context("the pods have a container")
}

/// The controller as the kubelet would start it: the arguments, the environment and the
/// rights are those of the Deployment. It ends when this is dropped.
pub(crate) struct Controller {
    process: harness::Controller,
    address: SocketAddr,
    ready: String,
}

impl Controller {
    /// Starts it, and waits until it is the leader and ready.
    pub(crate) async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let controller = Self::launch(cluster).await?;
        eventually("the controller to lead and to be ready", LIMIT, async || {
            ensure!(controller.page("/metrics").await?.contains("\nsharedlb_leader 1\n"), "it does not lead");
            controller.page(&controller.ready).await.map(Some)
        })
        .await?;
        Ok(controller)
    }

    /// Starts it. Its log is added to that of those before.
    pub(crate) async fn launch(cluster: &Cluster) -> anyhow::Result<Self> {
        let pod =
            deployment(cluster).await?.spec.and_then(|spec| spec.template.spec).context("the pods have a spec")?;
        let account = pod.service_account_name.context("the pods have a service account")?;
        let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, &account).await?;
        let container = container(cluster).await?;
        let ready = container.readiness_probe.and_then(|probe| probe.http_get?.path).context("there is a probe")?;
        let port = container.ports.iter().flatten().next().context("the container has a port")?.container_port;
        let log = cluster.logs().join("controller.log");
        let output = OpenOptions::new().create(true).append(true).open(&log)?;
        let child = Command::new(env!("CARGO_BIN_EXE_sharedlb"))
            .args(container.args.unwrap_or_default())
            .env_clear()
            .envs(
                container.env.unwrap_or_default().into_iter().map(|variable| (variable.name.clone(), value(variable))),
            )
            .env("SHAREDLB_KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .context("starting the controller")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.try_into()?));
        Ok(Self { process: harness::Controller::of(child, address, log), address, ready })
    }

    /// Where its metrics are.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A page, which is there.
    pub(crate) async fn page(&self, path: &str) -> anyhow::Result<String> {
        let answer = self.process.get(path).await?;
        ensure!(answer.status().is_success(), "{path}: {answer:?}");
        Ok(answer.into_body())
    }

    /// Ends it, so that it gives back its Lease.
    pub(crate) async fn terminate(self) -> anyhow::Result<()> {
        self.process.terminate().await.map(drop)
    }
}

/// What the kubelet would put into the environment.
fn value(variable: EnvVar) -> String {
    let field = variable.value_from.and_then(|source| source.field_ref).map(|field| field.field_path);
    match field.as_deref() {
        Some("metadata.namespace") => NAMESPACE.to_owned(),
        Some(_) => format!("{NAME}-0"),
        None => variable.value.unwrap_or_default(),
    }
}
