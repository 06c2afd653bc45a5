//! Watches that expire or break, an API server that is away, and rights that are missing.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_endpoints::{Config, LoadBalancer};
use sharedlb_harness::proxy::{Ending, Proxy};
use sharedlb_harness::{LIMIT, Tests};
use sharedlb_testbed::{Cluster, eventually};

use crate::hyper_client;
use crate::setting::{Place, synced, until_pods};

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("changes are seen after a watch has expired (410)", expired),
        test.test("changes while connections are refused are seen after", refused),
        test.test("the Role of the README is enough, and a list without it says what is missing", rights),
    ]
}

/// Those that the API server is not there for.
pub(crate) fn trials_of_their_own(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![test.test("requests go on while the API server is away, and changes are seen after", away)]
}

async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(config.try_into()?)
}

async fn expired(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let place = Place::make(&cluster, "expired").await?;
    let proxy = Proxy::start_at(cluster.kubeconfig(), 7071)?;
    let load_balancer = synced(client(&proxy.kubeconfig()?).await?, place.config());
    let mut pod = place.pod("web-0").await?;
    until_pods(&load_balancer, &["web-0"]).await?;
    for (number, ending) in [Ending::Expired, Ending::Broken, Ending::Expired].into_iter().enumerate() {
        // That the last change was seen shows that there is a watch to end.
        proxy.faults.end_watches(ending);
        pod.end().await?;
        let name = format!("web-{}", number + 1);
        pod = place.pod(&name).await?;
        until_pods(&load_balancer, &[&name]).await?;
    }
    load_balancer.shutdown().await;
    Ok(())
}

async fn refused(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let place = Place::make(&cluster, "refused").await?;
    let mut proxy = Proxy::start_at(cluster.kubeconfig(), 7072)?;
    let load_balancer = synced(client(&proxy.kubeconfig()?).await?, place.config());
    let first = place.pod("web-0").await?;
    until_pods(&load_balancer, &["web-0"]).await?;

    proxy.refuse();
    // One with a connection of its own shows when the EndpointSlices have changed.
    let current = place.load_balancer(place.config());
    first.end().await?;
    let _second = place.pod("web-1").await?;
    until_pods(&current, &["web-1"]).await?;
    until_pods(&load_balancer, &["web-0"]).await?;
    proxy.accept()?;
    until_pods(&load_balancer, &["web-1"]).await
}

async fn away(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let place = Place::make(&cluster, "away").await?;
    let load_balancer = place.load_balancer(place.config());
    let first = place.pod("web-0").await?;
    let _second = place.pod("web-1").await?;
    until_pods(&load_balancer, &["web-0", "web-1"]).await?;

    cluster.stop_apiserver().await?;
    let list = load_balancer.sync_endpoints().await;
    ensure!(list.is_err(), "the API server is not away");
    for _ in 0..100 {
        hyper_client::get(&load_balancer, "/").await?;
    }
    cluster.start_apiserver().await?;
    first.end().await?;
    until_pods(&load_balancer, &["web-1"]).await?;

    cluster.stop_apiserver().await?;
    // The watch is being retried.
    for _ in 0..2 {
        tokio::time::timeout(LIMIT, load_balancer.shutdown()).await.context("waiting for the shutdown")?;
    }
    cluster.start_apiserver().await
}

async fn rights(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let place = Place::make(&cluster, "rights").await?;
    let _pod = place.pod("web-0").await?;
    let (admin, namespace) = (cluster.admin(), place.namespace.as_str());
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "client"}}))?;
    Api::namespaced(admin.clone(), namespace).create(&PostParams::default(), &account).await?;
    let client = client(&cluster.kubeconfig_for_service_account(namespace, "client").await?).await?;
    // Its namespace is not that of the kubeconfig file.
    let load_balancer = Arc::new(LoadBalancer::new(client, Config::new("web").namespace(namespace)));
    let refused = load_balancer.sync_endpoints().await.err().context("the list should be refused")?;
    let refused = format!("{:#}", anyhow::Error::from(refused));
    ensure!(refused.contains("Service web") && refused.contains("cannot list resource"), "{refused}");

    let role = role_of_the_readme()?;
    Api::namespaced(admin.clone(), namespace).create(&PostParams::default(), &role).await?;
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "client"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role.metadata.name},
        "subjects": [{"kind": "ServiceAccount", "name": "client", "namespace": namespace}],
    }))?;
    Api::namespaced(admin, namespace).create(&PostParams::default(), &binding).await?;
    eventually("the Role to be in force", LIMIT, async || Ok(Some(load_balancer.sync_endpoints().await?))).await?;
    load_balancer.start_background_sync();
    let _another = place.pod("web-1").await?;
    until_pods(&load_balancer, &["web-0", "web-1"]).await
}

/// The Role that the README tells users to create.
fn role_of_the_readme() -> anyhow::Result<Role> {
    let readme = include_str!("../../README.md");
    let (_, role) = readme.split_once("```yaml\n").context("the README has no YAML")?;
    let (role, _) = role.split_once("```").context("the YAML of the README does not end")?;
    Ok(serde_saphyr::from_str(role)?)
}
