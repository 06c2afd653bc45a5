//! Which traffic comes through, and how it is asked for.

use std::sync::Arc;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::front::{front, fronts};
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{Tests, World};
use sharedlb_testbed::{PodPort, Protocol};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("TCP reaches the pods that a selector finds", tcp),
        test.test("UDP reaches the pods that a selector finds", udp),
        test.test("TCP and UDP come through one port", both),
        test.test("TCP and UDP on one number each reach their own targetPort", apart),
        test.test("a requested port number gets traffic", asked_for),
        test.test("traffic reaches the pods of a Service that is named", by_service),
        test.test("a named port is resolved for each pod", named),
        test.test("IPv4 and IPv6 reach the same pods", dual_stack),
    ]
}

async fn tcp(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "tcp", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let claim = tenant.site.assigned("web").await?;
    let answer = tenant.answers(front(&claim, "")?, "web-0").await?;
    ensure!(answer.seen.is_ipv4(), "{answer:?}");
    Ok(())
}

async fn udp(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "udp", json!({})).await?;
    tenant.pod("dns-0", "web").await?;
    tenant.site.claim("dns", json!([{"protocol": "UDP", "targetPort": "dns"}])).await?;
    let claim = tenant.site.ready("dns").await?;
    tenant.answers(front(&claim, "")?.by(Protocol::Udp), "dns-0").await?;
    tenant.closed(front(&claim, "")?).await
}

async fn both(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "both", json!({})).await?;
    tenant.pod("dns-0", "web").await?;
    tenant.site.claim("dns", json!([{"protocol": "TCP_UDP", "targetPort": 5353}])).await?;
    let claim = tenant.site.ready("dns").await?;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        tenant.answers(front(&claim, "")?.by(protocol), "dns-0").await?;
    }
    Ok(())
}

async fn apart(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "apart", json!({})).await?;
    let ports = || [PodPort::tcp("dns-tcp", 5353), PodPort::udp("dns-udp", 5354)];
    tenant.pod_with("dns-0", "dns", ports()).await?;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "dns", "namespace": "apart"},
        "spec": {"selector": {"app": "dns"}, "ports": [
            {"name": "dns-tcp", "port": 53, "targetPort": "dns-tcp", "protocol": "TCP"},
            {"name": "dns-udp", "port": 53, "targetPort": "dns-udp", "protocol": "UDP"},
        ]},
    });
    world.cluster.apply(&service.to_string()).await?;
    let ports_of_claim = json!([{"protocol": "TCP_UDP", "port": 53, "targetPort": 53}]);
    tenant.site.claim_with("dns", json!({"serviceName": "dns", "ports": ports_of_claim})).await?;
    let front = front(&tenant.site.ready("dns").await?, "")?;
    ensure!(front.port == 53, "{front:?}");
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        tenant.answers(front.by(protocol), "dns-0").await?;
    }
    // A pod that comes later is reached by both as well.
    tenant.pod_with("dns-1", "dns", ports()).await?;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        tenant.only_answer(front.by(protocol), &["dns-0", "dns-1"]).await?;
    }
    Ok(())
}

async fn asked_for(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "asked-for", json!({})).await?;
    tenant.pod("db-0", "web").await?;
    tenant.site.claim("db", json!([{"port": 5432, "targetPort": "http"}])).await?;
    let front = front(&tenant.site.ready("db").await?, "")?;
    ensure!(front.port == 5432, "{front:?}");
    tenant.answers(front, "db-0").await.map(drop)
}

async fn by_service(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "by-service", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "by-service"},
        "spec": {"selector": {"app": "web"}, "ports": [
            {"name": "web", "port": 80, "targetPort": "http"},
            {"name": "names", "port": 53, "targetPort": "dns", "protocol": "UDP"},
        ]},
    });
    world.cluster.apply(&service.to_string()).await?;
    let ports = json!([
        {"name": "web", "targetPort": "web"},
        {"name": "names", "targetPort": 53, "protocol": "UDP"},
    ]);
    tenant.site.claim_with("web", json!({"serviceName": "web", "ports": ports})).await?;
    let claim = tenant.site.ready("web").await?;
    tenant.answers(front(&claim, "web")?, "web-0").await?;
    tenant.answers(front(&claim, "names")?.by(Protocol::Udp), "web-0").await.map(drop)
}

async fn named(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "named", json!({})).await?;
    tenant.pod_with("old-0", "web", [PodPort::tcp("http", 8080)]).await?;
    tenant.pod_with("new-0", "web", [PodPort::tcp("http", 9090)]).await?;
    let claim = tenant.site.assigned("web").await?;
    tenant.only_answer(front(&claim, "")?, &["old-0", "new-0"]).await
}

async fn dual_stack(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"provider": {"service": {"ipFamilyPolicy": "PreferDualStack"}}});
    let tenant = Tenant::open(&world.cluster, "dual-stack", class).await?;
    tenant.pod("dns-0", "web").await?;
    tenant.site.claim("dns", json!([{"protocol": "TCP_UDP", "targetPort": 5353}])).await?;
    let fronts = fronts(&tenant.site.ready("dns").await?, "")?;
    ensure!(fronts.len() == if world.cluster.ipv6() { 2 } else { 1 }, "{fronts:?}");
    for front in fronts {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let answer = tenant.answers(front.by(protocol), "dns-0").await?;
            ensure!(answer.seen.is_ipv4() == front.address.is_ipv4(), "{answer:?}");
        }
    }
    Ok(())
}
