//! Who wants words of their own in what others read: logs, Events, conditions.

use std::sync::Arc;

use anyhow::ensure;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_harness::{LIMIT, Tests, World};
use sharedlb_testbed::eventually;

use super::tenant::{Tenant, create, invalid};

/// A line of a log that never happened, and what clears a terminal.
const FORGED: &str = "x\n{\"level\":\"INFO\",\"message\":\"forged\"}\r\u{1b}[2J\u{202e}";

/// The longest line of the log that is due to a tenant, in bytes.
const LINE_MAX: usize = 8 * 1024;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("names and labels with invalid characters are rejected", not_taken),
        test.test("text of a ConfigMap is shown on one line, and cut", config_map),
        test.test("text of a Service's annotations is shown on one line, and cut", annotations),
    ]
}

async fn not_taken(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "not-taken", json!({})).await?;
    for (what, forged) in [
        ("its name", json!({"metadata": {"name": FORGED}})),
        ("its class", json!({"spec": {"className": FORGED}})),
        ("its class' length", json!({"spec": {"className": "x".repeat(64)}})),
        ("its Service", json!({"spec": {"selector": null, "serviceName": FORGED}})),
        ("its address", json!({"spec": {"address": FORGED}})),
        ("a label", json!({"spec": {"selector": {"app": FORGED}}})),
        ("the name of a port", json!({"spec": {"ports": [{"name": FORGED, "targetPort": 1}]}})),
        ("a targetPort", json!({"spec": {"ports": [{"targetPort": FORGED}]}})),
        ("a protocol", json!({"spec": {"ports": [{"targetPort": 1, "protocol": FORGED}]}})),
    ] {
        let made = tenant.forged("web", json!({"targetPort": 1}), forged).await;
        invalid(&format!("forge {what}"), made)?;
    }
    // This one is not taken where it would be put to use.
    let label = json!({"spec": {"selector": {FORGED: "web"}}});
    tenant.forged("web", json!({"targetPort": 1}), label).await?;
    tenant.site.without_backends("web", &["its companion Service could not be written"]).await?;
    said_nothing_odd(&world, &tenant).await
}

async fn config_map(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "odd-map", json!({})).await?;
    tenant.service("web", json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]})).await?;
    let long = format!("{FORGED}{}", "x".repeat(500 * 1024));
    for (n, (key, value)) in [
        ("namespace", FORGED),
        ("namespace", long.as_str()),
        ("target-service-name", FORGED),
        ("target-service-name", &long),
        ("bind-port", FORGED),
        ("bind-port", &long),
        ("target-port", FORGED),
        ("target-port", &long),
        ("class", FORGED),
        ("class", &long),
    ]
    .into_iter()
    .enumerate()
    {
        let mut data =
            json!({"namespace": tenant.site.namespace, "target-service-name": "web", "class": tenant.site.class});
        data[key] = json!(value);
        let name = format!("map-{n}");
        let map = json!({"metadata": {"name": name, "labels": {"app": "loadbalancer"}}, "data": data});
        create::<ConfigMap>(&tenant.api(), map).await?;
        told(&tenant, "ConfigMap", &name).await?;
    }
    said_nothing_odd(&world, &tenant).await
}

async fn annotations(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "odd-annotations", json!({})).await?;
    let long = format!("{FORGED}{}", "x".repeat(200 * 1024));
    for (n, value) in [FORGED, &long].into_iter().enumerate() {
        let name = format!("web-{n}");
        let service = json!({
            "metadata": {"name": name, "annotations": {
                "sharedlb.dev/address": value, "sharedlb.dev/claim": FORGED, "sharedlb.dev/class": FORGED,
            }},
            "spec": {
                "type": "LoadBalancer", "loadBalancerClass": format!("sharedlb.dev/{}", tenant.site.class),
                "allocateLoadBalancerNodePorts": false, "selector": {"app": "web"},
                "ports": [{"port": 8080, "targetPort": "http"}],
            },
        });
        create::<Service>(&tenant.api(), service).await?;
        eventually("the Service to be told", LIMIT, async || {
            let status = tenant.api::<Service>().get(&name).await?.status.unwrap_or_default();
            let told =
                status.conditions.unwrap_or_default().into_iter().find(|condition| condition.reason == "Rejected");
            told.map(|condition| one_short_line("a condition", &condition.message)).transpose()
        })
        .await?;
        told(&tenant, "Service", &name).await?;
    }
    said_nothing_odd(&world, &tenant).await
}

/// Waits until an Event says something of an object.
async fn told(tenant: &Tenant, kind: &str, name: &str) -> anyhow::Result<()> {
    let about = ListParams::default().fields(&format!("regarding.kind={kind},regarding.name={name}"));
    eventually(&format!("an Event about {kind} {name}"), LIMIT, async || {
        Ok((!tenant.api::<Event>().list(&about).await?.items.is_empty()).then_some(()))
    })
    .await
}

fn one_short_line(what: &str, text: &str) -> anyhow::Result<()> {
    ensure!(text.len() <= 1024, "{what} has {} bytes", text.len());
    ensure!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{what} is {text:?}");
    Ok(())
}

/// Requires that all Events are short lines, and that every line of the log is
/// one of the controller's.
async fn said_nothing_odd(world: &World, tenant: &Tenant) -> anyhow::Result<()> {
    for event in tenant.api::<Event>().list(&ListParams::default()).await? {
        one_short_line("an Event", &event.note.unwrap_or_default())?;
    }
    let log = world.controller.log()?;
    // Of the last line there may be a part by now.
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    for line in whole.lines() {
        let parsed: Value = serde_json::from_str(line).unwrap_or_default();
        ensure!(parsed["target"].is_string(), "this is no line of the controller's: {line:?}");
        ensure!(line.len() <= LINE_MAX, "a line of the log has {} bytes: {:.200}", line.len(), line);
    }
    tenant.victim_is_safe().await
}
