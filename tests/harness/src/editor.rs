//! A tenant with the rights that Kubernetes' own role `edit` gives in one
//! namespace once `deploy/` is applied.

use anyhow::Context;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;
use sharedlb_crds::{SharedLB, SharedLBSpec};
use sharedlb_testbed::{Cluster, eventually};

use crate::LIMIT;

/// The account of the tenant.
const ACCOUNT: &str = "mallory";

/// A client with the rights of an editor of this namespace, which must exist.
pub async fn editor(cluster: &Cluster, namespace: &str) -> anyhow::Result<Client> {
    let admin = cluster.admin();
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": ACCOUNT}}))?;
    Api::namespaced(admin.clone(), namespace).create(&PostParams::default(), &account).await?;
    bind(&admin, namespace, "ClusterRole", "edit").await?;
    let kubeconfig = cluster.kubeconfig_for_service_account(namespace, ACCOUNT).await?;
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let claims = Api::<SharedLB>::namespaced(client.clone(), namespace);
    eventually("the tenant to have the rights of an editor", LIMIT, async || {
        // A claim that the API server does not take: its author is told why only
        // if claims may be created at all.
        let nonsense = SharedLB::new("trial", SharedLBSpec::default());
        let error = claims.create(&PostParams::default(), &nonsense).await.err().context("it was taken")?;
        Ok(matches!(&error, kube::Error::Api(status) if status.code == 422).then_some(()))
    })
    .await?;
    Ok(client)
}

/// Gives the tenant of a namespace the rights of a role there.
pub async fn bind(admin: &Client, namespace: &str, kind: &str, role: &str) -> anyhow::Result<()> {
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "namespace": namespace, "name": ACCOUNT}],
    }))?;
    Api::namespaced(admin.clone(), namespace).create(&PostParams::default(), &binding).await?;
    Ok(())
}
