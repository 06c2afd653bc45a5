//! Pods that have not every IP family of their load balancer.

use std::sync::Arc;

use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::front::{front, fronts};
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{Tests, World};
use sharedlb_testbed::{Families, PodPort};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("pods without an address of the load balancer's family are NoBackends until one has one", no_address),
        test.test("a Service of one family is NoBackends behind a load balancer of the other", service_of_one_family),
        test.test("an address without pods is reported, and the other one serves", half_served),
    ]
}

async fn no_address(world: Arc<World>) -> anyhow::Result<()> {
    if !world.cluster.ipv6() {
        return Ok(());
    }
    let tenant = Tenant::open(&world.cluster, "no-address", json!({})).await?;
    let http = || [PodPort::tcp("http", 8080)];
    tenant.pod_of(Families::V6, "v6-0", "web", http()).await?;
    tenant.site.claim("web", json!([{"targetPort": "http"}])).await?;
    let words = ["sends traffic only to IPv4", "no ready pod has an IPv4 address"];
    tenant.site.without_backends("web", &words).await?;
    tenant.pod_of(Families::V4, "v4-0", "web", http()).await?;
    let front = front(&tenant.site.ready("web").await?, "")?;
    tenant.only_answer(front, &["v4-0"]).await
}

async fn service_of_one_family(world: Arc<World>) -> anyhow::Result<()> {
    if !world.cluster.ipv6() {
        return Ok(());
    }
    let class = json!({"provider": {"service": {"ipFamilies": ["IPv6"]}}});
    let tenant = Tenant::open(&world.cluster, "one-family", class).await?;
    tenant.pod("web-0", "web").await?;
    // As most Services are: of the first family of the cluster.
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "one-family"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
    });
    world.cluster.apply(&service.to_string()).await?;
    tenant.site.claim_with("web", json!({"serviceName": "web", "ports": [{"targetPort": 80}]})).await?;
    let words = ["sends traffic only to IPv6", "Service web has only IPv4", "ipFamilyPolicy to PreferDualStack"];
    tenant.site.without_backends("web", &words).await?;
    service["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
    world.cluster.apply(&service.to_string()).await?;
    let front = front(&tenant.site.ready("web").await?, "")?;
    tenant.answers(front, "web-0").await.map(drop)
}

async fn half_served(world: Arc<World>) -> anyhow::Result<()> {
    if !world.cluster.ipv6() {
        return Ok(());
    }
    let class = json!({"provider": {"service": {"ipFamilyPolicy": "PreferDualStack"}}});
    let tenant = Tenant::open(&world.cluster, "half-served", class).await?;
    let http = || [PodPort::tcp("http", 8080)];
    tenant.pod_of(Families::V4, "v4-0", "web", http()).await?;
    tenant.site.claim("web", json!([{"targetPort": "http"}])).await?;
    let half = ("True", Reason::AddressWithoutBackends);
    let words = ["nothing answers at fd00", "no ready pod has an IPv6 address"];
    tenant.site.verdict_with("web", ConditionType::Ready, half, &words).await?;
    tenant.site.event("web", Reason::AddressWithoutBackends.as_str()).await?;
    let both = fronts(&tenant.site.claims.get("web").await?, "")?;
    for front in both {
        if front.address.is_ipv4() {
            tenant.answers(front, "v4-0").await?;
        } else {
            tenant.closed(front).await?;
        }
    }
    tenant.pod_of(Families::V6, "v6-0", "web", http()).await?;
    for front in fronts(&tenant.site.ready("web").await?, "")? {
        let pod = if front.address.is_ipv4() { "v4-0" } else { "v6-0" };
        tenant.only_answer(front, &[pod]).await?;
    }
    Ok(())
}
