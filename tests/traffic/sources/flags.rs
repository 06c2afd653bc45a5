//! What the flags switch on and off.

use std::sync::Arc;

use anyhow::ensure;
use kube::ResourceExt;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::tenant::{Tenant, conditions};
use sharedlb_harness::{Replica, Tests, install};
use sharedlb_testbed::Cluster;
use sharedlb_testbed::Protocol::Tcp;

use crate::SHAREDLB;

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("--serve-unclassed-services serves Services without a class by their annotation", unclassed),
        test.test("disabled sources do nothing, and need no rights", switched_off),
    ]
}

async fn unclassed(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut replica = Replica::alone(SHAREDLB, &cluster, &["--serve-unclassed-services"]).await?;
    let tenant = Tenant::open(&cluster, "unclassed", json!({})).await?;
    tenant.site.fronts(1).await?;
    // No other implementation may serve Services without a class then. Here MetalLB does, but
    // not if it has no such pool.
    let annotations = json!({"sharedlb.dev/class": "unclassed", "metallb.io/address-pool": "none"});
    tenant.pod("web-0", "web").await?;
    tenant.service_with("web", annotations, json!({"loadBalancerClass": null})).await?;
    let front = tenant.served("web", &[(80, Tcp)]).await?[0];
    tenant.only_answer(front, &["web-0"]).await?;
    tenant.change("web", json!({"metadata": {"annotations": {"sharedlb.dev/class": null}}})).await?;
    tenant.let_go("web").await?;
    tenant.closed(front).await?;
    tenant.site.delete_class().await?;
    tenant.site.class_gone().await?;
    replica.kill().await
}

async fn switched_off(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let roles = ["sharedlb-source-services", "sharedlb-source-configmaps"];
    for role in roles {
        cluster.kubectl_output(&["delete", "clusterrolebinding,clusterrole", role]).await?;
    }
    let mut replica =
        Replica::alone(SHAREDLB, &cluster, &["--source-services=false", "--source-configmaps=false"]).await?;
    let tenant = Tenant::open(&cluster, "switched-off", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({})).await?;
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "mine", "namespace": "switched-off", "labels": {"app": "loadbalancer"}},
        "data": {"namespace": "switched-off", "target-service-name": "web", "class": "switched-off"},
    });
    cluster.apply(&map.to_string()).await?;
    // What is asked for by hand is given all the same, and so it has had time.
    tenant.site.assigned("mine").await?;
    ensure!(tenant.site.claims.get_opt("configmap-mine").await?.is_none(), "the ConfigMap has a claim");
    let service = tenant.services.get("web").await?;
    ensure!(service.finalizers().is_empty() && conditions(&service).is_empty(), "{service:?}");
    ensure!(tenant.site.claims.get_opt("service-web").await?.is_none(), "it has a claim");
    let metrics = replica.controller()?.metrics().await?;
    for (name, labels) in
        [("sharedlb_watch_errors_total", &[][..]), ("sharedlb_api_writes_total", &[("result", "refused")])]
    {
        ensure!(metrics.sum(name, labels) == 0.0, "it was refused something: {name}");
    }
    tenant.site.delete("mine").await?;
    tenant.site.delete_class().await?;
    tenant.site.class_gone().await?;
    replica.kill().await?;
    install(&cluster).await
}
