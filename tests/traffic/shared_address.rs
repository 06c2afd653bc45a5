//! A load balancer whose address MetalLB shares with a foreign Service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::front::front;
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{LIMIT, Tests, World};
use sharedlb_testbed::eventually;

/// An address of MetalLB's pool that no other test is given.
const ADDRESS: &str = "10.99.0.249";

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![test.test("a port that a foreign Service has on a shared address is refused alone", refused_alone)]
}

async fn refused_alone(world: Arc<World>) -> anyhow::Result<()> {
    let admin = world.cluster.admin();
    let annotations = json!({"metallb.io/allow-shared-ip": "shared-address", "metallb.io/loadBalancerIPs": ADDRESS});
    let class = json!({
        "provider": {"service": {"annotations": annotations, "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}},
    });
    let tenant = Tenant::open(&world.cluster, "shared-address", class).await?;
    tenant.pod("web-0", "web").await?;
    let good = front(&tenant.site.assigned("good").await?, "")?;
    tenant.answers(good, "web-0").await?;

    let services = Api::<Service>::namespaced(admin, &tenant.site.namespace);
    let foreign: Service = serde_json::from_value(json!({
        "metadata": {"name": "foreign", "annotations": annotations},
        "spec": {
            "type": "LoadBalancer", "selector": {"app": "other"}, "ports": [{"port": 8443}],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
        },
    }))?;
    services.create(&PostParams::default(), &foreign).await?;
    eventually("MetalLB to give the foreign Service the same address", LIMIT, async || {
        let status = services.get("foreign").await?.status.and_then(|status| status.load_balancer);
        let ingress = status.and_then(|status| status.ingress).unwrap_or_default();
        Ok(ingress.iter().any(|ingress| ingress.ip.as_deref() == Some(ADDRESS)).then_some(()))
    })
    .await?;

    tenant.site.claim("bad", json!([{"port": 8443, "targetPort": "http"}])).await?;
    tenant.site.verdict("bad", ConditionType::Programmed, ("False", Reason::ProviderRefused)).await?;
    let begun = Instant::now();
    let told = tenant.site.event("bad", Reason::ProviderRefused.as_str()).await?;
    ensure!(told.contains("lost its address when port 8443/TCP was opened"), "{told}");
    // Traffic of the others comes back, and stays.
    tenant.answers(good, "web-0").await?;
    tenant.site.ready("good").await?;
    ensure!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    tenant.only_answer(good, &["web-0"]).await?;
    let bad = tenant.site.claims.get("bad").await?;
    let ingress = bad.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    ensure!(ingress.is_none(), "{:?}", bad.status);

    // What was in its way goes: it is tried again by itself.
    services.delete("foreign", &DeleteParams::default()).await?;
    let bad = front(&tenant.site.ready("bad").await.context("it is tried again")?, "")?;
    tenant.answers(bad, "web-0").await.map(drop)
}
