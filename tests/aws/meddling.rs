//! Others who have rights in the account: what they do by hand, and what is
//! theirs.

use std::sync::Arc;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_harness::Tests;

use crate::seen::{Balancer, STRANGER, Seen};
use crate::setting::{FLAGS, RESYNCING, Setting, World};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a resync reverts changes by hand", by_hand),
        test.test("a load balancer that was deleted by hand is recreated, and the class reports it", deleted),
        test.test("load balancers of another cluster's class of the same name are unchanged", another_cluster),
        test.test("an adopted load balancer gets our listeners, and keeps its settings and foreign listeners", adopted),
    ]
}

async fn by_hand(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::with_flags(&world, "by-hand", json!({}), &RESYNCING).await?;
    setting.create_burst(0..4).await?;
    setting.all_ready(4).await?;
    let before = setting.as_promised().await?;
    let listeners = &before.balancers[0].listeners;
    let target = |listener: usize| {
        let (id, port) = listeners[listener].group.targets[0].rsplit_once(':').expect("id:port");
        json!([{"Id": id, "Port": port.parse::<u16>().expect("a port")}])
    };
    // One listener is gone, one leads to another's pods, one has lost a target.
    setting.region.call("delete_listener", json!({"ListenerArn": listeners[0].arn})).await?;
    let elsewhere = json!([{"Type": "forward", "TargetGroupArn": listeners[2].group.arn}]);
    let modified = json!({"ListenerArn": listeners[1].arn, "DefaultActions": elsewhere});
    setting.region.call("modify_listener", modified).await?;
    let removed = json!({"TargetGroupArn": listeners[3].group.arn, "Targets": target(3)});
    setting.region.call("deregister_targets", removed).await?;
    // A target group serves one port.
    let seen = setting.as_promised().await?;
    let mut groups: Vec<_> = seen.ours().map(|(_, listener)| &listener.group.arn).collect();
    groups.sort();
    groups.dedup();
    ensure!(groups.len() == 4, "{seen:?}");
    setting.all_ready(4).await?;
    setting.clear().await
}

async fn deleted(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::with_flags(&world, "deleted", json!({}), &RESYNCING).await?;
    setting.create_burst(0..2).await?;
    setting.all_ready(2).await?;
    let before = setting.as_promised().await?;
    let arn = &before.balancers[0].arn;
    setting.region.call("delete_load_balancer", json!({"LoadBalancerArn": arn})).await?;
    // The claims' status names the new one in the end, and it has all of them.
    let after = setting.as_promised().await?;
    ensure!(after.balancers.len() == 1 && after.balancers[0].arn != *arn, "{after:?}");
    setting.all_ready(2).await?;
    setting.class_event("LoadBalancerGone").await?;
    setting.clear().await
}

/// Makes a load balancer with a listener, with these tags on both, and on a
/// target group that nobody uses.
async fn make(setting: &Setting, name: &str, port: u16, tags: &Value) -> anyhow::Result<String> {
    let region = &setting.region;
    let balancer =
        json!({"Name": name, "Type": "network", "Scheme": "internal", "Subnets": region.subnets, "Tags": tags});
    let balancer = region.call("create_load_balancer", balancer).await?;
    let balancer = balancer["LoadBalancers"][0]["LoadBalancerArn"].as_str().context("no ARN")?.to_owned();
    let mut groups = Vec::new();
    for suffix in ["used", "unused"] {
        let group = json!({"Name": format!("{name}-{suffix}"), "Protocol": "TCP", "Port": 9, "TargetType": "ip",
                           "VpcId": region.vpc, "Tags": tags});
        let group = region.call("create_target_group", group).await?;
        groups.push(group["TargetGroups"][0]["TargetGroupArn"].as_str().context("no ARN")?.to_owned());
    }
    let action = json!([{"Type": "forward", "TargetGroupArn": groups[0]}]);
    let listener = json!({"LoadBalancerArn": balancer, "Port": port, "Protocol": "TCP",
                          "DefaultActions": action, "Tags": tags});
    region.call("create_listener", listener).await?;
    Ok(balancer)
}

fn balancer<'a>(seen: &'a Seen, arn: &str) -> anyhow::Result<&'a Balancer> {
    seen.balancers.iter().find(|each| each.arn == arn).with_context(|| format!("{arn} is gone"))
}

async fn another_cluster(world: Arc<World>) -> anyhow::Result<()> {
    let setting = Setting::with_flags(&world, "another-cluster", json!({}), &RESYNCING).await?;
    setting.create_burst(0..1).await?;
    setting.all_ready(1).await?;
    let ours = setting.seen().await?.balancers[0].clone();
    // The tags of ours, but for the one that names the cluster.
    let cluster = setting.cluster_id().await?;
    ensure!(ours.tags.values().any(|value| *value == cluster), "no tag names the cluster: {:?}", ours.tags);
    let mut tags = vec![json!({"Key": STRANGER, "Value": "yes"})];
    for (key, value) in &ours.tags {
        let value = if *value == cluster { "another-cluster" } else { value };
        tags.push(json!({"Key": key, "Value": value}));
    }
    let theirs = make(&setting, "slb-theirs", 1234, &json!(tags)).await?;
    let before = setting.seen().await?;
    // It has seen them: a claim was served since, and a resync has been.
    setting.create_burst(1..2).await?;
    setting.all_ready(2).await?;
    setting.resynced().await?;
    setting.as_promised().await?;
    setting.clear().await?;
    let after = setting.seen().await?;
    let unchanged = |seen: &Seen| -> anyhow::Result<String> { Ok(format!("{:?}", balancer(seen, &theirs)?)) };
    ensure!(unchanged(&before)? == unchanged(&after)?, "{after:?}");
    ensure!(after.balancers.len() == 1 && after.unused_groups.len() == 1, "{after:?}");
    Ok(())
}

async fn adopted(world: Arc<World>) -> anyhow::Result<()> {
    let mut setting = Setting::without_class(&world, "adopted").await?;
    let tags = json!([{"Key": STRANGER, "Value": "yes"}]);
    let arn = make(&setting, "theirs", 443, &tags).await?;
    let spec = json!({"loadBalancers": {"max": 1}, "ports": {"requestable": [{"min": 1, "max": 65535}]}});
    setting.create_class(spec, json!({"loadBalancerArn": arn})).await?;
    setting.pod().await?;
    world.controller(&setting.region, &FLAGS).await?;
    let before = setting.seen().await?;
    setting.create_burst(0..2).await?;
    setting.all_ready(2).await?;
    let seen = setting.as_promised().await?;
    ensure!(balancer(&seen, &arn)?.listeners.len() == 3, "{seen:?}");
    setting.claim("https", json!([{"port": 443, "targetPort": "http"}])).await?;
    setting.refused("https", sharedlb_crds::Reason::PortTaken, &[]).await?;
    setting.clear().await?;
    let after = setting.seen().await?;
    ensure!(format!("{after:?}") == format!("{before:?}"), "before\n{before:?}\nafter\n{after:?}");
    let calls = setting.actions().await?;
    let others = ["CreateLoadBalancer", "DeleteLoadBalancer", "ModifyLoadBalancerAttributes", "SetSecurityGroups"];
    ensure!(calls.iter().all(|call| !others.contains(&call.as_str())), "{calls:?}");
    Ok(())
}
