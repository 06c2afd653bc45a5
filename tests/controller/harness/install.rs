//! Installs what is in `deploy/`, as the README says.

use std::path::PathBuf;

use anyhow::Context;
use kube::Api;
use kube::runtime::conditions::is_crd_established;
use kube::runtime::wait::await_condition;
use sharedlb_testbed::Cluster;

use super::LIMIT;

/// Everything of `deploy/`. Returns when claims and classes can be created.
pub(crate) async fn install(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.kubectl_output(&["apply", "--server-side", "-k", &repository("deploy")?]).await?;
    for crd in sharedlb_crds::crds() {
        let name = crd.metadata.name.context("a definition has a name")?;
        let established = await_condition(Api::all(cluster.admin()), &name, is_crd_established());
        tokio::time::timeout(LIMIT, established)
            .await
            .with_context(|| format!("waiting for {name} to be established"))??;
    }
    Ok(())
}

/// The namespace and the roles alone: the controller may run, and finds none of
/// our kinds to work on.
pub(crate) async fn install_without_definitions(cluster: &Cluster) -> anyhow::Result<()> {
    for file in
        ["deploy/namespace.yaml", "deploy/rbac.yaml", "deploy/source-services.yaml", "deploy/source-configmaps.yaml"]
    {
        cluster.kubectl_output(&["apply", "--server-side", "-f", &repository(file)?]).await?;
    }
    Ok(())
}

/// A kubeconfig with the rights of the controller's service account.
pub(crate) async fn controller_kubeconfig(cluster: &Cluster) -> anyhow::Result<PathBuf> {
    cluster.kubeconfig_for_service_account("sharedlb-system", "sharedlb").await
}

/// A file or folder of the repository, for `kubectl`.
fn repository(path: &str) -> anyhow::Result<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    path.into_os_string().into_string().ok().context("the repository's path is not UTF-8")
}
