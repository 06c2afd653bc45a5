//! Calls that fail: their answers are lost, AWS throttles, refuses or has no room.

use std::sync::Arc;

use anyhow::{Context, ensure};
use kube::ResourceExt;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::{LIMIT, Tests, slots};
use sharedlb_testbed::{AwsFault, FaultKind, eventually};

use crate::seen::STRANGER;
use crate::setting::{Setting, World};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a lost answer to any call creates nothing twice", lost),
        test.test("calls that do not arrive are retried", unreached),
        test.test("while AWS throttles, claims report it, and continue afterwards", throttled),
        test.test("a denied call is reported with the missing permission", denied),
        test.test("if a foreign listener opens an assigned port first, the claim gets another port", stranger_first),
        test.test("a requested port with a foreign listener is reported", stranger_on_asked),
        test.test("a claim moves to another load balancer if foreign listeners use up the limit", no_listeners),
        test.test("a claim moves to another load balancer if foreign targets use up the limit", no_targets),
        test.test("a missing security group is reported", security_group),
        test.test("a load balancer with deletion protection stays, and the class reports it", protected),
    ]
}

async fn lost(world: Arc<World>) -> anyhow::Result<()> {
    let mut setting = Setting::before_class(&world, "lost").await?;
    for (number, action) in
        ["CreateLoadBalancer", "CreateTargetGroup", "RegisterTargets", "CreateListener"].iter().enumerate()
    {
        setting.region.fault(&AwsFault::new(action, FaultKind::Lost, &[action])).await?;
        if number == 0 {
            setting.create_class(json!({}), setting.provider()).await?;
        }
        setting.create_burst(number..number + 1).await?;
        setting.hit(action, 1).await?;
        setting.all_ready(number + 1).await.with_context(|| format!("after {action}"))?;
        let seen = setting.as_promised().await.with_context(|| format!("after {action}"))?;
        ensure!(seen.balancers.len() == 1, "after {action}: {:?}", seen.balancers);
    }
    // Of each of the four ports.
    let register = AwsFault::new("register", FaultKind::Lost, &["RegisterTargets"]).times(Some(4));
    setting.region.fault(&register).await?;
    setting.pod().await?;
    setting.hit("register", 4).await?;
    setting.as_promised().await?;
    let deregister = AwsFault::new("deregister", FaultKind::Lost, &["DeregisterTargets"]).times(Some(4));
    setting.region.fault(&deregister).await?;
    setting.pods.remove(0).delete().await?;
    setting.hit("deregister", 4).await?;
    setting.as_promised().await?;
    for (number, action) in ["DeleteListener", "DeleteTargetGroup"].iter().enumerate() {
        setting.region.fault(&AwsFault::new(action, FaultKind::Lost, &[action])).await?;
        setting.delete(&format!("web-{number}")).await?;
        setting.hit(action, 1).await?;
        setting.as_promised().await.with_context(|| format!("after {action}"))?;
    }
    setting.region.fault(&AwsFault::new("delete", FaultKind::Lost, &["DeleteLoadBalancer"])).await?;
    setting.clear().await?;
    let seen = setting.seen().await?;
    ensure!(seen.balancers.is_empty() && seen.unused_groups.is_empty(), "{seen:?}");
    Ok(())
}

async fn unreached(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::before_class(&world, "unreached").await?;
    for action in ["CreateLoadBalancer", "CreateTargetGroup", "RegisterTargets", "CreateListener", "Describe*"] {
        setting.region.fault(&AwsFault::new(action, FaultKind::Unreached, &[action])).await?;
    }
    setting.create_class(json!({}), setting.provider()).await?;
    setting.create_burst(0..1).await?;
    setting.all_ready(1).await?;
    for action in ["CreateLoadBalancer", "CreateTargetGroup", "RegisterTargets", "CreateListener", "Describe*"] {
        setting.hit(action, 1).await?;
    }
    setting.as_promised().await?;
    setting.clear().await
}

async fn throttled(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::start(&world, "throttled", json!({})).await?;
    let neighbour = setting.neighbour().await?;
    let fault = AwsFault::error("busy", &["*"], "ThrottlingException", "Rate exceeded").times(None);
    setting.region.fault(&fault).await?;
    setting.create_burst(0..1).await?;
    setting.verdict("web-0", ConditionType::Programmed, ("False", Reason::Throttled)).await?;
    // The user learns when it is tried again.
    setting.says("web-0", ConditionType::Programmed, &["again"]).await?;
    setting.verdict("web-0", ConditionType::Allocated, ("True", Reason::Allocated)).await?;
    setting.undisturbed(&neighbour).await?;
    setting.region.release("busy").await?;
    setting.all_ready(2).await?;
    setting.as_promised().await?;
    setting.clear().await
}

async fn denied(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::start(&world, "denied", json!({})).await?;
    let neighbour = setting.neighbour().await?;
    let message = "User: arn:aws:iam::123456789012:user/controller is not authorized to perform: \
                   elasticloadbalancing:CreateListener because no identity-based policy allows it";
    setting.region.fault(&AwsFault::error("denied", &["CreateListener"], "AccessDenied", message).times(None)).await?;
    setting.create_burst(0..1).await?;
    setting.verdict("web-0", ConditionType::Programmed, ("False", Reason::ProviderRefused)).await?;
    setting.says("web-0", ConditionType::Programmed, &["elasticloadbalancing:CreateListener"]).await?;
    setting.undisturbed(&neighbour).await?;
    setting.region.release("denied").await?;
    setting.all_ready(2).await.context("after it was allowed")?;
    setting.as_promised().await?;
    setting.clear().await
}

/// Opens a listener on the first load balancer as somebody else, with targets.
async fn open_as_stranger(setting: &Setting, port: u16, targets: &[&str]) -> anyhow::Result<String> {
    let seen = setting.seen().await?;
    let balancer = seen.balancers.first().context("there is no load balancer")?;
    let tags = json!([{"Key": STRANGER, "Value": "yes"}]);
    let group = json!({"Name": format!("stranger-{port}"), "Protocol": "TCP", "Port": 9, "TargetType": "ip",
                       "VpcId": setting.region.vpc, "Tags": tags});
    let group = setting.region.call("create_target_group", group).await?;
    let group = group["TargetGroups"][0]["TargetGroupArn"].as_str().context("no ARN")?.to_owned();
    let action = json!([{"Type": "forward", "TargetGroupArn": group}]);
    let listener = json!({"LoadBalancerArn": balancer.arn, "Port": port, "Protocol": "TCP",
                          "DefaultActions": action, "Tags": tags});
    let listener = setting.region.call("create_listener", listener).await?;
    if !targets.is_empty() {
        let targets: Vec<_> = targets.iter().map(|id| json!({"Id": id, "Port": 9})).collect();
        setting.region.call("register_targets", json!({"TargetGroupArn": group, "Targets": targets})).await?;
    }
    Ok(listener["Listeners"][0]["ListenerArn"].as_str().context("no ARN")?.to_owned())
}

/// Requires that a stranger's listener is as it was made.
async fn stranger_untouched(setting: &Setting, listener: &str) -> anyhow::Result<()> {
    let seen = setting.seen().await?;
    let mut all = seen.balancers.iter().flat_map(|balancer| &balancer.listeners);
    let found = all.find(|found| found.arn == listener).context("the stranger's listener is gone")?;
    ensure!(found.tags.len() == 1 && found.group.tags.len() == 1, "{found:?}");
    Ok(())
}

async fn stranger_first(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::start(&world, "stranger-first", json!({})).await?;
    let neighbour = setting.neighbour().await?;
    setting.region.forget().await?;
    setting.region.fault(&AwsFault::new("wait", FaultKind::HoldBefore, &["CreateListener"])).await?;
    setting.create_burst(0..1).await?;
    setting.hit("wait", 1).await?;
    let calls = setting.calls().await?;
    let call = calls.iter().find(|call| call.action == "CreateListener").context("no CreateListener")?;
    let port: u16 = call.parameters.get("Port").context("without a port")?.parse()?;
    let stranger = open_as_stranger(&setting, port, &[]).await?;
    setting.region.release("wait").await?;
    setting.all_ready(2).await?;
    let claim = setting.claims.get("web-0").await?;
    ensure!(slots(&claim)[""].2 != port, "it has the stranger's port {port}");
    setting.as_promised().await?;
    stranger_untouched(&setting, &stranger).await?;
    setting.undisturbed(&neighbour).await?;
    setting
        .load_balancer(0, "the stranger's port", |found| {
            found.foreign_ports.contains(&format!("{port}/TCP")).then_some(())
        })
        .await?;
    setting.region.call("delete_listener", json!({"ListenerArn": stranger})).await?;
    setting.clear().await
}

async fn stranger_on_asked(world: Arc<World>) -> anyhow::Result<()> {
    let spec = json!({"ports": {"requestable": [{"min": 1, "max": 65535}]}, "loadBalancers": {"max": 1}});
    let setting = Setting::start(&world, "stranger-asked", spec).await?;
    let neighbour = setting.neighbour().await?;
    let stranger = open_as_stranger(&setting, 6379, &[]).await?;
    setting.claim("redis", json!([{"targetPort": "http", "port": 6379}])).await?;
    setting.verdict("redis", ConditionType::Programmed, ("False", Reason::PortInUse)).await?;
    stranger_untouched(&setting, &stranger).await?;
    setting.undisturbed(&neighbour).await?;
    // While it is there, the load balancer is not deleted with the class.
    setting.region.call("delete_listener", json!({"ListenerArn": stranger})).await?;
    setting.clear().await
}

async fn no_listeners(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::start(&world, "no-listeners", json!({"loadBalancers": {"max": 2}})).await?;
    setting.create_burst(0..2).await?;
    setting.all_ready(2).await?;
    setting.region.set(json!({"quotas": {"listeners-per-network-load-balancer": 4}})).await?;
    let strangers = [open_as_stranger(&setting, 1, &[]).await?, open_as_stranger(&setting, 2, &[]).await?];
    setting.create_burst(2..3).await?;
    setting.all_ready(3).await?;
    let seen = setting.as_promised().await?;
    ensure!(seen.balancers.iter().map(|each| each.listeners.len()).eq([4, 1]), "{seen:?}");
    let claim = setting.claims.get("web-2").await?;
    ensure!(slots(&claim)[""].0 == 1, "{:?}", claim.status);
    // It is known now, so that the next one is not tried there.
    setting.region.forget().await?;
    setting.create_burst(3..4).await?;
    setting.all_ready(4).await?;
    let calls = setting.calls().await?;
    ensure!(calls.iter().all(|call| call.outcome == "ok"), "{calls:?}");
    for stranger in &strangers {
        stranger_untouched(&setting, stranger).await?;
        setting.region.call("delete_listener", json!({"ListenerArn": stranger})).await?;
    }
    setting.clear().await
}

async fn no_targets(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::start(&world, "no-targets", json!({"loadBalancers": {"max": 2}})).await?;
    setting.create_burst(0..2).await?;
    setting.all_ready(2).await?;
    setting.region.set(json!({"quotas": {"targets-per-network-load-balancer": 4}})).await?;
    let stranger = open_as_stranger(&setting, 1, &["10.244.40.1", "10.244.40.2"]).await?;
    setting.create_burst(2..3).await?;
    setting.all_ready(3).await?;
    setting.as_promised().await?;
    let claim = setting.claims.get("web-2").await?;
    ensure!(slots(&claim)[""].0 == 1, "{:?}", claim.status);
    let status = setting.load_balancer(0, "less room for targets", |found| {
        found.capacity.as_ref()?.targets.filter(|targets| *targets < 1500)
    });
    status.await?;
    stranger_untouched(&setting, &stranger).await?;
    setting.region.call("delete_listener", json!({"ListenerArn": stranger})).await?;
    setting.clear().await
}

async fn security_group(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::before_class(&world, "security-group").await?;
    let (group, subnets) = (setting.region.security_group.clone(), setting.region.subnets.clone());
    setting.region.ec2("delete_security_group", json!({"GroupId": group})).await?;
    let provider = json!({"subnets": subnets, "scheme": "internal", "securityGroups": [group]});
    setting.create_class(json!({}), provider).await?;
    setting.create_burst(0..1).await?;
    setting.verdict("web-0", ConditionType::Programmed, ("False", Reason::ProviderRefused)).await?;
    setting.says("web-0", ConditionType::Programmed, &[&group]).await?;
    setting.clear().await
}

async fn protected(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::start(&world, "protected", json!({})).await?;
    setting.create_burst(0..1).await?;
    setting.all_ready(1).await?;
    let arn = setting.seen().await?.balancers[0].arn.clone();
    let protect = |value: &str| {
        let attributes = json!([{"Key": "deletion_protection.enabled", "Value": value}]);
        json!({"LoadBalancerArn": arn, "Attributes": attributes})
    };
    setting.region.call("modify_load_balancer_attributes", protect("true")).await?;
    setting.delete("web-0").await?;
    setting.delete_class().await?;
    eventually("the class to tell of the protection", LIMIT, async || {
        let class = setting.classes.get(&setting.class).await?;
        ensure!(class.metadata.deletion_timestamp.is_some() && !class.finalizers().is_empty());
        let status = serde_json::to_string(&class.status)?;
        ensure!(status.contains("protection"), "{status}");
        Ok(Some(()))
    })
    .await?;
    let seen = setting.seen().await?;
    ensure!(seen.balancers.len() == 1, "{seen:?}");
    setting.region.call("modify_load_balancer_attributes", protect("false")).await?;
    setting.class_gone().await?;
    let seen = setting.seen().await?;
    ensure!(seen.balancers.is_empty() && seen.unused_groups.is_empty(), "{seen:?}");
    Ok(())
}
