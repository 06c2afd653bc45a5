//! Many claims: how many load balancers they take, and what fits on one.

use std::sync::Arc;

use anyhow::ensure;
use k8s_openapi::api::core::v1::Service;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::{ConditionType, LoadBalancerStatus, Reason};
use sharedlb_harness::{LIMIT, Tests, slots};
use sharedlb_testbed::eventually;

use crate::setting::{Setting, World};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("120 claims make three load balancers", hundred_and_twenty),
        test.test("a claim whose targets do not fit is assigned to the next load balancer", targets),
        test.test(
            "a claim that gets more targets than fit moves to the next load balancer before it is opened",
            targets_found_later,
        ),
        test.test("a load balancer that is being provisioned is reported, and used once it is active", provisioning),
        test.test("one port for TCP and UDP is one listener", tcp_udp),
        test.test("deleting a class deletes its load balancers, and leaves nothing", gone),
    ]
}

async fn hundred_and_twenty(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::start(&world, "hundred-and-twenty", json!({"portsPerNamespace": 200})).await?;
    setting.create_burst(0..120).await?;
    setting.all_ready(120).await?;
    let seen = setting.as_promised().await?;
    let counts: Vec<_> = seen.balancers.iter().map(|balancer| balancer.listeners.len()).collect();
    ensure!(counts == [50, 50, 20], "{counts:?}");
    let status = setting.class_status("three load balancers with 120 listeners", |status| {
        let told = status.load_balancers.iter().map(|balancer| balancer.listeners);
        told.eq([50, 50, 20]).then(|| status.load_balancers.clone())
    });
    for balancer in status.await? {
        let capacity = balancer.capacity.clone().unwrap_or_default();
        // 500 for each of the three zones.
        ensure!((capacity.listeners, capacity.targets) == (50, Some(1500)), "{balancer:?}");
    }
    setting.clear().await
}

/// A Service that is there before the claims, so that it is known how many
/// targets each of them takes when it comes.
async fn targets(world: Arc<World>) -> anyhow::Result<()> {
    let mut setting = Setting::before_class(&world, "targets").await?;
    setting.region.set(json!({"quotas": {"targets-per-network-load-balancer": 4}})).await?;
    setting.pod().await?;
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 8080}]},
    }))?;
    let services = Api::<Service>::namespaced(setting.cluster.admin(), &setting.namespace);
    services.create(&PostParams::default(), &service).await?;
    setting.create_class(json!({"loadBalancers": {"max": 2}}), setting.provider()).await?;
    // Until it was looked at, AWS' defaults are taken for its room.
    let room = |found: &LoadBalancerStatus| found.capacity.as_ref()?.targets.filter(|room| *room == 4);
    setting.load_balancer(0, "room for 4 targets", room).await?;
    let of_service = json!({"serviceName": "web", "ports": [{"targetPort": "http"}]});
    for number in 0..4 {
        setting.claim_with(&format!("web-{number}"), of_service.clone()).await?;
        setting.all_ready(number + 1).await?;
    }
    let seen = setting.as_promised().await?;
    let counts: Vec<_> = seen.balancers.iter().map(|balancer| balancer.listeners.len()).collect();
    ensure!(counts == [2, 2], "{counts:?}");
    setting.claim_with("web-4", of_service).await?;
    setting.refused("web-4", Reason::PoolExhausted, &["4 of 4 targets"]).await?;
    setting.clear().await
}

/// The pods of a selector are counted once there is a Service for it, and
/// Kubernetes has listed them: here it takes its time.
async fn targets_found_later(world: Arc<World>) -> anyhow::Result<()> {
    let mut setting = Setting::before_class(&world, "found-later").await?;
    setting.region.set(json!({"quotas": {"targets-per-network-load-balancer": 8}})).await?;
    setting.pod().await?;
    setting.pod().await?;
    setting.create_class(json!({"loadBalancers": {"max": 2}}), setting.provider()).await?;
    let room = |found: &LoadBalancerStatus| found.capacity.as_ref()?.targets.filter(|room| *room == 8);
    setting.load_balancer(0, "room for 8 targets", room).await?;
    setting.create_burst(0..1).await?;
    setting.all_ready(1).await?;
    let known = companion_service(&setting, "web-0").await?;
    setting.cluster.stop_controller_manager().await?;
    setting.create_burst(1..2).await?;
    setting.verdict("web-1", ConditionType::Programmed, ("Unknown", Reason::Pending)).await?;
    companion_service(&setting, "web-1").await?;
    // Once that one is open, the other would be, too.
    let port = known.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).next().map(|port| port.port);
    let spec = json!({"serviceName": known.name_any(), "ports": [{"targetPort": port}]});
    setting.claim_with("web-2", spec).await?;
    setting.ready("web-2").await?;
    let seen = setting.seen().await?;
    ensure!(seen.ours().count() == 2, "a listener is open before its pods are known: {seen:?}");

    setting.cluster.resume_controller_manager().await?;
    setting.all_ready(3).await?;
    // All three pods are behind each.
    let seen = setting.as_promised().await?;
    let counts: Vec<_> = seen.balancers.iter().map(|balancer| balancer.listeners.len()).collect();
    ensure!(counts == [2, 1], "{counts:?}");
    setting.clear().await
}

/// Waits for the Service that is kept for a claim, and returns its name.
async fn companion_service(setting: &Setting, claim: &str) -> anyhow::Result<Service> {
    let services = Api::<Service>::namespaced(setting.cluster.admin(), &setting.namespace);
    let of_claim = ListParams::default().labels(&format!("sharedlb.dev/claim={claim}"));
    eventually(&format!("a Service of claim {claim}"), LIMIT, async || Ok(services.list(&of_claim).await?.items.pop()))
        .await
}

async fn provisioning(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::before_class(&world, "provisioning").await?;
    setting.region.set(json!({"provisioning_seconds": 3600})).await?;
    setting.create_class(json!({}), setting.provider()).await?;
    setting.create_burst(0..1).await?;
    // Its address is published at once, so that a name can be pointed at it.
    setting.verdict("web-0", ConditionType::Programmed, ("False", Reason::Pending)).await?;
    let seen = setting.as_promised().await?;
    let claim = setting.claims.get("web-0").await?;
    let address = claim.status.and_then(|status| status.address);
    ensure!(address.as_ref() == Some(&seen.balancers[0].address), "{address:?}");
    setting.region.set(json!({"clock": 1e6})).await?;
    setting.all_ready(1).await?;
    setting.clear().await
}

async fn tcp_udp(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::start(&world, "tcp-udp", json!({})).await?;
    setting.claim("both", json!([{"protocol": "TCP_UDP", "targetPort": 8080}])).await?;
    setting.all_ready(1).await?;
    let seen = setting.as_promised().await?;
    let listener = &seen.balancers[0].listeners[0];
    ensure!((listener.protocol.as_str(), listener.group.protocol.as_str()) == ("TCP_UDP", "TCP_UDP"), "{listener:?}");
    let claim = setting.claims.get("both").await?;
    let port = slots(&claim)[""].2;
    // The number is taken for every protocol.
    let udp = json!([{"protocol": "UDP", "targetPort": "dns", "port": port}]);
    setting
        .change_class(
            json!({"spec": {"ports": {"requestable": [{"min": 1, "max": 65535}]}, "loadBalancers": {"max": 1}}}),
        )
        .await?;
    setting.claim("other", udp).await?;
    setting.refused("other", Reason::PortTaken, &[]).await?;
    setting.clear().await
}

async fn gone(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::start(&world, "gone", json!({})).await?;
    // AWS says for a while of a target group that it is in use.
    setting.region.set(json!({"in_use_seconds": 3})).await?;
    setting.create_burst(0..3).await?;
    setting.all_ready(3).await?;
    setting.clear().await?;
    let seen = setting.seen().await?;
    ensure!(seen.balancers.is_empty() && seen.unused_groups.is_empty(), "{seen:?}");
    Ok(())
}
