//! Installs what is in `deploy/`, as an administrator would.

use std::path::PathBuf;

use anyhow::Context;
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use kube::{Api, ResourceExt};
use sharedlb_testbed::Cluster;

use crate::LIMIT;

/// Applies everything of `deploy/`. Returns when claims and classes can be created.
///
/// # Errors
/// If the API server refuses something of it.
pub async fn install(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.kubectl_output(&["apply", "--server-side", "-k", &repository("deploy")?]).await?;
    definitions_established(cluster).await
}

/// Waits until the API server serves claims and classes, whose definitions were
/// applied.
///
/// # Errors
/// If it does not within [`LIMIT`].
pub async fn definitions_established(cluster: &Cluster) -> anyhow::Result<()> {
    for crd in sharedlb_crds::crds() {
        let name = crd.name_any();
        let established = await_condition(Api::all(cluster.admin()), &name, is_crd_established());
        tokio::time::timeout(LIMIT, established)
            .await
            .with_context(|| format!("waiting for {name} to be established"))??;
    }
    Ok(())
}

/// Applies the namespace and the roles alone: the controller may run, and finds none
/// of our kinds to work on.
///
/// # Errors
/// If the API server refuses something of it.
pub async fn install_without_definitions(cluster: &Cluster) -> anyhow::Result<()> {
    for file in
        ["deploy/namespace.yaml", "deploy/rbac.yaml", "deploy/source-services.yaml", "deploy/source-configmaps.yaml"]
    {
        cluster.kubectl_output(&["apply", "--server-side", "-f", &repository(file)?]).await?;
    }
    Ok(())
}

/// A kubeconfig file with the rights of the controller's service account, which must
/// be installed.
///
/// # Errors
/// If the API server gives no token for it.
pub async fn controller_kubeconfig(cluster: &Cluster) -> anyhow::Result<PathBuf> {
    cluster.kubeconfig_for_service_account("sharedlb-system", "sharedlb").await
}

/// A file or folder of the repository, for `kubectl`.
///
/// # Errors
/// If the path is not UTF-8.
pub fn repository(path: &str) -> anyhow::Result<String> {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    root.join(path).into_os_string().into_string().ok().context("the repository's path is not UTF-8")
}
