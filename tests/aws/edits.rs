//! Edits of a claim that keep its port: the listener at AWS is never closed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::ConditionType;
use sharedlb_harness::{LIMIT, Tests};
use sharedlb_testbed::{AwsFeed, eventually};

use crate::seen::Listener;
use crate::setting::{Setting, World};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a Service's port is renamed ten times by tags alone", service_renamed),
        test.test("a claim's port is renamed ten times by tags alone", claim_renamed),
        test.test("adding UDP to a claim's TCP port, and removing it, interrupts no traffic", protocol_changed),
        test.test("UDP joins TCP on a claim's port to a Service, and its pods are always reached", protocol_to_service),
        test.test("UDP joins TCP on a Service's port, and its pods are always reached", udp_joins),
        test.test("session affinity of a claim is stickiness of its target group alone", session_affinity),
        test.test("session affinity of a Service is stickiness of its target group", session_affinity_of_service),
    ]
}

/// The number that every port here asks for.
const NUMBER: u16 = 8443;

/// How often a port is renamed: whether two writes meet is a matter of chance.
const RENAMES: usize = 10;

/// The calls by which a listener takes another protocol.
const REPLACED: [&str; 4] = ["CreateTargetGroup", "RegisterTargets", "ModifyListener", "DeleteTargetGroup"];

/// A class whose claims may ask for any number, with one pod.
async fn start(world: &Arc<World>, name: &str) -> anyhow::Result<Setting> {
    Setting::start(world, name, json!({"ports": {"requestable": [{"min": 1, "max": 65535}]}})).await
}

/// The ports of a SharedLB.
fn claim_ports(name: &str, protocol: &str) -> Value {
    json!([{"name": name, "port": NUMBER, "protocol": protocol, "targetPort": 8080}])
}

/// A port of a Service.
fn service_port(name: &str, protocol: &str) -> Value {
    json!({"name": name, "port": NUMBER, "protocol": protocol, "targetPort": 8080})
}

/// Creates Service `web` with this spec.
async fn create_service(setting: &Setting, spec: Value) -> anyhow::Result<()> {
    let service: Service = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec}))?;
    services(setting).create(&PostParams::default(), &service).await?;
    Ok(())
}

/// The same for the pods of the setting, with these ports on a load balancer of its class.
async fn share_service(setting: &Setting, ports: Value) -> anyhow::Result<()> {
    let spec = json!({
        "type": "LoadBalancer",
        "loadBalancerClass": format!("sharedlb.dev/{}", setting.class),
        "allocateLoadBalancerNodePorts": false,
        "selector": {"app": "web"},
        "ports": ports,
    });
    create_service(setting, spec).await
}

async fn change_service(setting: &Setting, ports: Value) -> anyhow::Result<()> {
    let patch = Patch::Merge(json!({"spec": {"ports": ports}}));
    services(setting).patch("web", &PatchParams::default(), &patch).await?;
    Ok(())
}

fn services(setting: &Setting) -> Api<Service> {
    Api::namespaced(setting.cluster.admin(), &setting.namespace)
}

/// Waits until the listener at the number is as looked for, and forwards to all pods.
async fn listener(setting: &Setting, what: &str, is_found: impl Fn(&Listener) -> bool) -> anyhow::Result<Listener> {
    eventually(&format!("the listener at {NUMBER} to {what}"), LIMIT, async || {
        let seen = setting.seen().await?;
        let found = seen.ours().map(|(_, listener)| listener).find(|listener| listener.port == NUMBER);
        let found = found.with_context(|| format!("there is none in {seen:?}"))?;
        ensure!(is_found(found) && found.group.targets == setting.targets(), "it is {found:?}");
        Ok(Some(found.clone()))
    })
    .await
}

/// Requires that in every state since the feed was last asked, the port was open and
/// led to all pods.
async fn always_served(setting: &Setting, feed: &mut AwsFeed) -> anyhow::Result<()> {
    for done in feed.next(Duration::ZERO).await?.calls {
        let Some(state) = &done.state else { continue };
        let mut listeners = state.balancers.iter().flat_map(|balancer| &balancer.listeners);
        let listener = listeners.find(|listener| listener.port == NUMBER);
        let listener = listener.with_context(|| format!("closed by {}: {state:?}", done.action))?;
        let groups = state.groups.iter().filter(|group| listener.groups.contains(&group.arn));
        let targets: Vec<String> = groups.flat_map(|group| group.targets.clone()).collect();
        ensure!(targets == setting.targets(), "{targets:?} after {}: {state:?}", done.action);
    }
    Ok(())
}

/// Requires that all that was called since the calls were last forgotten was AddTags.
async fn only_tagged(setting: &Setting) -> anyhow::Result<()> {
    let actions = setting.actions().await?;
    ensure!(actions.iter().all(|action| action == "AddTags"), "{actions:?}");
    ensure!(actions.len() == RENAMES, "one call for each: {actions:?}");
    Ok(())
}

async fn service_renamed(world: Arc<World>) -> anyhow::Result<()> {
    let setting = start(&world, "service-renamed").await?;
    share_service(&setting, json!([service_port("port", "TCP")])).await?;
    let is_named = |listener: &Listener, name: &str| listener.tags["sharedlb.dev/port"] == name;
    let before = listener(&setting, "open", |listener| is_named(listener, "port")).await?;
    setting.region.forget().await?;
    for number in 0..RENAMES {
        let name = format!("port-{number}");
        change_service(&setting, json!([service_port(&name, "TCP")])).await?;
        let after = listener(&setting, &name, |listener| is_named(listener, &name)).await?;
        ensure!(after.arn == before.arn && after.group.arn == before.group.arn, "{before:?} {after:?}");
    }
    only_tagged(&setting).await?;
    services(&setting).delete("web", &Default::default()).await?;
    setting.clear().await
}

async fn claim_renamed(world: Arc<World>) -> anyhow::Result<()> {
    let setting = start(&world, "claim-renamed").await?;
    setting.claim("web", claim_ports("port", "TCP")).await?;
    let is_named = |listener: &Listener, name: &str| listener.tags["sharedlb.dev/port"] == name;
    let before = listener(&setting, "open", |listener| is_named(listener, "port")).await?;
    setting.ready("web").await?;
    setting.region.forget().await?;
    for number in 0..RENAMES {
        let name = format!("port-{number}");
        setting.change("web", json!({"spec": {"ports": claim_ports(&name, "TCP")}})).await?;
        let after = listener(&setting, &name, |listener| is_named(listener, &name)).await?;
        ensure!(after.arn == before.arn && after.group.arn == before.group.arn, "{before:?} {after:?}");
    }
    only_tagged(&setting).await?;
    setting.clear().await
}

async fn protocol_changed(world: Arc<World>) -> anyhow::Result<()> {
    let setting = start(&world, "protocol-changed").await?;
    setting.claim("dns", claim_ports("dns", "TCP")).await?;
    changes_protocol(&setting).await
}

/// The claim's traffic goes to a Service that has the port for both protocols.
async fn protocol_to_service(world: Arc<World>) -> anyhow::Result<()> {
    let setting = start(&world, "protocol-to-service").await?;
    let ports = [("tcp", "TCP"), ("udp", "UDP")];
    let ports = ports.map(|(name, protocol)| json!({"name": name, "port": 8080, "protocol": protocol}));
    create_service(&setting, json!({"selector": {"app": "web"}, "ports": ports})).await?;
    setting.claim_with("dns", json!({"serviceName": "web", "ports": claim_ports("dns", "TCP")})).await?;
    changes_protocol(&setting).await
}

/// Requires that the listener of claim `dns` is modified by each edit of its protocol.
async fn changes_protocol(setting: &Setting) -> anyhow::Result<()> {
    setting.ready("dns").await?;
    let before = listener(setting, "open", |_| true).await?;
    let mut feed = setting.region.follow().await?;
    for protocol in ["TCP_UDP", "UDP", "TCP_UDP", "TCP"] {
        setting.region.forget().await?;
        setting.change("dns", json!({"spec": {"ports": claim_ports("dns", protocol)}})).await?;
        let after = listener(setting, protocol, |listener| listener.protocol == protocol).await?;
        ensure!(after.arn == before.arn, "{before:?} {after:?}");
        setting.ready("dns").await?;
        setting.as_promised().await?;
        let actions = setting.actions().await?;
        ensure!(actions == REPLACED, "to {protocol}: {actions:?}");
        always_served(setting, &mut feed).await?;
    }
    setting.clear().await
}

async fn udp_joins(world: Arc<World>) -> anyhow::Result<()> {
    let setting = start(&world, "udp-joins").await?;
    share_service(&setting, json!([service_port("dns-tcp", "TCP")])).await?;
    let before = listener(&setting, "open", |_| true).await?;
    let mut feed = setting.region.follow().await?;
    change_service(&setting, json!([service_port("dns", "UDP"), service_port("dns-tcp", "TCP")])).await?;
    let after = listener(&setting, "TCP_UDP", |listener| listener.protocol == "TCP_UDP").await?;
    ensure!(after.arn == before.arn, "{before:?} {after:?}");
    change_service(&setting, json!([service_port("dns-tcp", "TCP")])).await?;
    let after = listener(&setting, "TCP", |listener| listener.protocol == "TCP").await?;
    ensure!(after.arn == before.arn, "{before:?} {after:?}");
    always_served(&setting, &mut feed).await?;
    services(&setting).delete("web", &Default::default()).await?;
    setting.clear().await
}

/// Session affinity with a timeout, as in the spec of a claim or a Service.
fn affinity() -> Value {
    json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}})
}

/// Whether the target group sends all connections of a client to one target.
async fn is_sticky(setting: &Setting, listener: &Listener) -> anyhow::Result<bool> {
    let group = json!({"TargetGroupArn": listener.group.arn});
    let answer = setting.region.call("describe_target_group_attributes", group).await?;
    let attributes = answer["Attributes"].as_array().context("attributes")?;
    let value = |key: &str| attributes.iter().find(|each| each["Key"] == key).map(|each| each["Value"].clone());
    ensure!(value("stickiness.type") == Some(json!("source_ip")), "{answer}");
    Ok(value("stickiness.enabled") == Some(json!("true")))
}

async fn session_affinity(world: Arc<World>) -> anyhow::Result<()> {
    let setting = start(&world, "session-affinity").await?;
    setting.claim("neighbour", json!([{"port": 8444, "targetPort": 8080}])).await?;
    setting.ready("neighbour").await?;
    let mut spec = affinity();
    spec["selector"] = json!({"app": "web"});
    spec["ports"] = claim_ports("port", "TCP");
    setting.claim_with("web", spec).await?;
    setting.ready("web").await?;
    let before = listener(&setting, "open", |_| true).await?;
    ensure!(is_sticky(&setting, &before).await?, "no affinity: {before:?}");
    // AWS has a timeout of its own.
    setting.says("web", ConditionType::Programmed, &["session affinity lasts for at least 600 s"]).await?;

    // The port stays open while affinity goes and comes back.
    let mut feed = setting.region.follow().await?;
    let none = json!({"sessionAffinity": null, "sessionAffinityConfig": null});
    for (edit, sticky) in [(none, false), (affinity(), true)] {
        setting.change("web", json!({"spec": edit})).await?;
        setting.ready("web").await?;
        let after = listener(&setting, "open", |_| true).await?;
        ensure!(after.arn == before.arn && after.group.arn == before.group.arn, "{before:?} {after:?}");
        ensure!(is_sticky(&setting, &after).await? == sticky, "it is not {sticky}: {after:?}");
    }
    always_served(&setting, &mut feed).await?;
    let seen = setting.as_promised().await?;
    let neighbour = seen.ours().map(|(_, listener)| listener).find(|listener| listener.port == 8444);
    ensure!(!is_sticky(&setting, neighbour.context("the neighbour's listener")?).await?, "its neighbour has affinity");
    setting.clear().await
}

async fn session_affinity_of_service(world: Arc<World>) -> anyhow::Result<()> {
    let setting = start(&world, "service-affinity").await?;
    share_service(&setting, json!([service_port("port", "TCP")])).await?;
    let before = listener(&setting, "open", |_| true).await?;
    ensure!(!is_sticky(&setting, &before).await?, "it has affinity: {before:?}");
    let edit = Patch::Merge(json!({"spec": affinity()}));
    services(&setting).patch("web", &PatchParams::default(), &edit).await?;
    eventually("the target group to be sticky", LIMIT, async || {
        let now = listener(&setting, "open", |_| true).await?;
        ensure!(now.group.arn == before.group.arn, "{before:?} {now:?}");
        Ok(is_sticky(&setting, &now).await?.then_some(()))
    })
    .await?;
    services(&setting).delete("web", &Default::default()).await?;
    setting.clear().await
}
