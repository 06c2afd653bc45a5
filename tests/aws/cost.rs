//! What it costs in calls, by the request log of the stand-in.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::{LIMIT, Tests};
use sharedlb_testbed::{AwsCall, AwsFault, FaultKind, eventually};

use crate::setting::{FLAGS, RESYNCING, Setting, World};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a new port costs three writes, a closed one two, and no reads", port),
        test.test("a port without backends costs two writes", empty_port),
        test.test("several changes of endpoints cost one call for each target group", endpoints),
        test.test("a start makes only reads, and claims are served meanwhile", start),
        test.test("in a steady state there are no calls", steady),
        test.test("a resync only reads if nothing changed", resync),
    ]
}

/// The actions of some calls.
fn actions(calls: &[AwsCall]) -> Vec<&str> {
    calls.iter().map(|call| call.action.as_str()).collect()
}

/// Waits until as many calls were answered as there are here, and requires that
/// they are just these, in this order.
async fn calls_are(setting: &Setting, wanted: &[&str]) -> anyhow::Result<Vec<AwsCall>> {
    let what = format!("the calls {wanted:?}");
    let calls = eventually(&what, LIMIT, async || {
        let calls = setting.calls().await?;
        ensure!(calls.len() >= wanted.len() && calls.iter().all(|call| call.outcome == "ok"), "{calls:?}");
        Ok(Some(calls))
    });
    let calls = calls.await?;
    ensure!(actions(&calls) == wanted, "{:?}", actions(&calls));
    Ok(calls)
}

async fn port(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::start(&world, "cost-port", json!({})).await?;
    setting.create_burst(0..1).await?;
    setting.all_ready(1).await?;
    setting.region.forget().await?;

    setting.create_burst(1..2).await?;
    setting.all_ready(2).await?;
    let calls = calls_are(&setting, &["CreateTargetGroup", "RegisterTargets", "CreateListener"]).await?;
    for call in [&calls[0], &calls[2]] {
        ensure!(call.parameters.contains_key("Tags.member.1.Key"), "{} without tags: {call:?}", call.action);
    }
    setting.as_promised().await?;

    setting.region.forget().await?;
    setting.delete("web-1").await?;
    calls_are(&setting, &["DeleteListener", "DeleteTargetGroup"]).await?;
    setting.as_promised().await?;
    setting.clear().await
}

async fn empty_port(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::start(&world, "cost-empty", json!({})).await?;
    setting.create_burst(0..1).await?;
    setting.all_ready(1).await?;
    setting.region.forget().await?;
    let nobody = json!({"selector": {"app": "nobody"}, "ports": [{"targetPort": "http"}]});
    setting.claim_with("nobody", nobody).await?;
    setting.without_backends("nobody", &[]).await?;
    calls_are(&setting, &["CreateTargetGroup", "CreateListener"]).await?;
    setting.clear().await
}

/// Makes a Service whose endpoints are written by hand, so that each change of
/// them is one write.
async fn service_by_hand(setting: &Setting) -> anyhow::Result<()> {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "by-hand"},
        "spec": {"ports": [{"name": "http", "port": 8080}]},
    }))?;
    let services = Api::<Service>::namespaced(setting.cluster.admin(), &setting.namespace);
    services.create(&PostParams::default(), &service).await?;
    Ok(())
}

/// Has the Service lead to these hosts of the pods' network.
async fn lead_to(setting: &Setting, hosts: &[u8]) -> anyhow::Result<()> {
    let endpoints: Vec<_> = hosts.iter().map(|host| json!({"addresses": [format!("10.244.3.{host}")]})).collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "by-hand", "labels": {"kubernetes.io/service-name": "by-hand"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints,
    });
    let slices = Api::<EndpointSlice>::namespaced(setting.cluster.admin(), &setting.namespace);
    slices.patch("by-hand", &PatchParams::apply("test").force(), &Patch::Apply(slice)).await?;
    Ok(())
}

async fn endpoints(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::start(&world, "cost-endpoints", json!({"endpoints": "Any"})).await?;
    service_by_hand(&setting).await?;
    lead_to(&setting, &[1, 2, 3]).await?;
    for number in 0..3 {
        let spec = json!({"serviceName": "by-hand", "ports": [{"targetPort": "http"}]});
        setting.claim_with(&format!("web-{number}"), spec).await?;
    }
    setting.all_ready(3).await?;
    setting.region.forget().await?;
    let targets = |hosts: &[u8]| -> Vec<String> { hosts.iter().map(|host| format!("10.244.3.{host}:8080")).collect() };

    lead_to(&setting, &[1, 2, 3, 4]).await?;
    lead_to(&setting, &[1, 2, 3, 4, 5]).await?;
    setting.as_promised_with(&targets(&[1, 2, 3, 4, 5])).await?;
    calls_are(&setting, &["RegisterTargets"; 3]).await?;

    // As in a rollout: some come, and some go.
    setting.region.forget().await?;
    lead_to(&setting, &[2, 3, 4, 5, 6]).await?;
    lead_to(&setting, &[3, 4, 5, 6, 7]).await?;
    setting.as_promised_with(&targets(&[3, 4, 5, 6, 7])).await?;
    let calls = setting.calls().await?;
    let count = |action: &str| calls.iter().filter(|call| call.action == action).count();
    ensure!(count("RegisterTargets") == 3 && count("DeregisterTargets") == 3, "{:?}", actions(&calls));
    ensure!(calls.len() == 6, "{:?}", actions(&calls));
    setting.clear().await
}

async fn start(world: Arc<World>) -> anyhow::Result<()> {
    let spec = json!({"loadBalancers": {"max": 6, "listenersPerLoadBalancer": 2}});
    let setting = Setting::start(&world, "cost-start", spec).await?;
    setting.create_burst(0..10).await?;
    setting.all_ready(10).await?;
    let before = setting.as_promised().await?;
    ensure!(before.balancers.len() == 5, "{} load balancers", before.balancers.len());
    world.kill().await?;
    setting.region.forget().await?;

    // One of the load balancers does not answer. All are full, so that the new
    // claim goes to another.
    setting.region.fault(&AwsFault::new("stuck", FaultKind::Hold, &["DescribeListeners"])).await?;
    world.start_controller(&setting.region, &FLAGS).await?;
    setting.hit("stuck", 1).await?;
    setting.create_burst(10..11).await?;
    setting.ready("web-10").await.context("while one load balancer does not answer")?;
    let calls = setting.calls().await?;
    let writes: Vec<_> = calls.iter().filter(|call| !call.reads()).map(|call| call.action.as_str()).collect();
    let of_the_claim = ["CreateTargetGroup", "RegisterTargets", "CreateListener"];
    ensure!(writes.iter().all(|write| *write == "CreateLoadBalancer" || of_the_claim.contains(write)), "{writes:?}");
    setting.region.release("stuck").await?;
    setting.all_ready(11).await?;
    setting.as_promised().await?;
    setting.clear().await
}

async fn steady(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::start(&world, "cost-steady", json!({})).await?;
    setting.create_burst(0..5).await?;
    setting.all_ready(5).await?;
    setting.as_promised().await?;
    setting.region.forget().await?;
    // Meanwhile there is work: for another class, and around the claims of this one.
    let other = Setting::start(&world, "cost-other", json!({})).await?;
    setting.change("web-0", json!({"metadata": {"labels": {"some": "label"}}})).await?;
    setting.change_class(json!({"metadata": {"labels": {"some": "label"}}})).await?;
    other.create_burst(0..2).await?;
    other.all_ready(2).await?;
    other.clear().await?;
    let calls = setting.calls().await?;
    ensure!(calls.is_empty(), "{:?}", actions(&calls));
    setting.clear().await
}

async fn resync(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::with_flags(&world, "cost-resync", json!({}), &RESYNCING).await?;
    setting.create_burst(0..3).await?;
    setting.all_ready(3).await?;
    setting.as_promised().await?;
    setting.region.forget().await?;
    // One look at each target group; it is the last that is read.
    let calls = eventually("a resync", LIMIT, async || {
        let calls = setting.calls().await?;
        let looks = calls.iter().filter(|call| call.action == "DescribeTargetHealth").count();
        Ok((looks >= 3).then_some(calls))
    });
    let calls = calls.await?;
    ensure!(calls.iter().all(AwsCall::reads), "{:?}", actions(&calls));
    // DescribeLoadBalancers, its attributes, listeners, target groups, tags (of
    // 7 ARNs: one call), and the targets of each group, with some to spare.
    ensure!(calls.len() <= 3 + 8, "{:?}", actions(&calls));
    setting.clear().await
}
