//! How the controller tells what it does: columns, Events, metrics, logs and
//! its pages.

use std::sync::Arc;

use anyhow::{Context, ensure};
use jiff::SignedDuration;
use kube::ResourceExt;
use kube::api::ListParams;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, Reason, SharedLB};
use sharedlb_harness::{LIMIT, Site, Tests, World, Writes, addresses, at_most, slots};
use sharedlb_testbed::eventually;

/// How many claims there are where their writes are counted.
const COUNTED: usize = 40;

/// How long a claim waits before its status says what for.
const PASSING: SignedDuration = SignedDuration::from_secs(5);

/// How many of them are created at once.
const AT_ONCE: usize = 8;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("kubectl get slb shows class, address, ports and readiness", columns),
        test.test("an open claim is reported by one Event, and a failure by another", events),
        test.test("a new claim costs five writes, until it is ready and its Event is there", writes),
        test.test("kubectl describe slb shows why a claim is refused", described),
        test.test("metrics count claims by verdict and slots by state", metrics),
        test.test("metrics count reconciles, provider calls and writes", loops_in_metrics),
        test.test("a decision is one line of the log, with class, claim and load balancer", log),
        test.test("/healthz and /readyz report success", pages),
    ]
}

async fn columns(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "columns", json!({})).await?;
    site.claim("redis", json!([{"name": "redis", "targetPort": "http"}])).await?;
    let (.., port) = slots(&site.ready("redis").await?)["redis"];
    let address = addresses(&site.fronts(1).await?[0]).pop().context("an address")?;
    let shown = world.cluster.kubectl_output(&["get", "slb", "-n", "columns", "-o", "wide", "--no-headers"]).await?;
    let row: Vec<_> = shown.split_whitespace().collect();
    let expected = ["redis", "columns", &address, &format!("{port}/TCP→redis"), "True", "Ready"];
    ensure!(row.get(..6) == Some(&expected[..]), "{shown}");
    site.class_verdict(ConditionType::Ready, ("True", Reason::Ready)).await?;
    let shown = world.cluster.kubectl_output(&["get", "slbc", "columns", "--no-headers"]).await?;
    ensure!(shown.contains("service") && shown.contains("1 of 10") && shown.contains("True"), "{shown}");
    Ok(())
}

async fn events(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "events", json!({})).await?;
    let (.., port) = slots(&site.assigned("web").await?)[""];
    let note = site.event("web", Reason::Ready.as_str()).await?;
    ensure!(note.contains(&port.to_string()), "it does not name port {port}: {note}");
    let address = addresses(&site.fronts(1).await?[0]).pop().context("an address")?;
    ensure!(note.contains(&address), "it does not name {address}: {note}");
    let events = site.events("web").await?;
    ensure!(events.iter().all(|event| event.type_.as_deref() == Some("Normal")), "{events:?}");
    ensure!(events.len() == 1, "{events:?}");
    site.change("web", json!({"spec": {"selector": {"app": "nobody"}}})).await?;
    site.event("web", Reason::NoBackends.as_str()).await?;
    let events = site.events("web").await?;
    let told = events.iter().find(|event| event.reason.as_deref() == Some(Reason::NoBackends.as_str()));
    ensure!(told.is_some_and(|event| event.type_.as_deref() == Some("Warning")), "{told:?}");
    Ok(())
}

async fn writes(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "writes", json!({"portsPerNamespace": 1000})).await?;
    // The load balancer has its address before the claims that count.
    site.assigned("first").await?;
    site.event("first", Reason::Ready.as_str()).await?;
    let writes = Writes::of(&world.cluster.admin(), "writes").await?;
    let names: Vec<String> = (0..COUNTED).map(|number| format!("web-{number}")).collect();
    for names in names.chunks(AT_ONCE) {
        for name in names {
            site.claim(name, json!([{"targetPort": "http"}])).await?;
        }
        // Events are written one after another, after all else about a claim.
        for name in names {
            site.event(name, Reason::Ready.as_str()).await?;
        }
    }
    // The status of one that waits for longer says what for, which is a write more.
    let claims = site.claims.list(&ListParams::default()).await?;
    let slow = claims.iter().filter(|claim| took(claim).is_none_or(|took| took >= PASSING)).count();
    at_most(&writes.counts(), 5 * COUNTED + slow, COUNTED)
}

/// How long a claim took to be ready. (Times in the API are whole seconds.)
fn took(claim: &SharedLB) -> Option<SignedDuration> {
    let conditions = &claim.status.as_ref()?.conditions;
    let ready = conditions.iter().find(|condition| condition.type_ == ConditionType::Ready.as_str())?;
    Some(ready.last_transition_time.0.duration_since(claim.creation_timestamp()?.0))
}

async fn described(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"ports": {"requestable": [{"min": 30_000, "max": 30_010}]}});
    let site = Site::with_pod(&world.cluster, "described", class).await?;
    site.claim("web", json!([{"port": 443, "targetPort": "http"}])).await?;
    site.refused("web", Reason::PortNotAllowed, &[]).await?;
    let shown = world.cluster.kubectl_output(&["describe", "slb", "-n", "described", "web"]).await?;
    let (conditions, events) = shown.split_once("Events:").context("it shows no Events")?;
    for part in [conditions, events] {
        ensure!(part.contains("PortNotAllowed") && part.contains("spec.ports.requestable"), "{shown}");
    }
    Ok(())
}

async fn metrics(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"max": 1, "listenersPerLoadBalancer": 2}});
    let site = Site::with_pod(&world.cluster, "metrics", class).await?;
    site.neighbour().await?;
    site.assigned("two").await?;
    site.claim("three", json!([{"targetPort": "http"}])).await?;
    site.refused("three", Reason::PoolExhausted, &[]).await?;
    eventually("metrics of these claims", LIMIT, async || {
        let metrics = world.controller.metrics().await?;
        let claims = |verdict| metrics.sum("sharedlb_claims", &[("class", "metrics"), ("verdict", verdict)]);
        let slots = |state| metrics.sum("sharedlb_slots", &[("class", "metrics"), ("state", state)]);
        let found = (claims("ready"), claims("refused"), slots("held"), slots("free"), slots("released"));
        ensure!(found == (2.0, 1.0, 2.0, 0.0, 0.0), "{found:?}");
        Ok(Some(()))
    })
    .await
}

async fn loops_in_metrics(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "loops", json!({})).await?;
    site.neighbour().await?;
    // What is written can be seen before it is counted.
    for (name, labels) in [
        ("sharedlb_class_run_duration_seconds_count", &[][..]),
        ("sharedlb_load_balancer_run_duration_seconds_count", &[]),
        ("sharedlb_provider_calls_total", &[("provider", "service"), ("operation", "apply")]),
        ("sharedlb_api_writes_total", &[("kind", "SharedLB")]),
        ("sharedlb_api_writes_total", &[("kind", "SharedLBClass")]),
    ] {
        eventually(&format!("{name} {labels:?}"), LIMIT, async || {
            let metrics = world.controller.metrics().await?;
            let names: std::collections::BTreeSet<_> = metrics.names().collect();
            ensure!(metrics.sum(name, labels) >= 1.0, "there is {names:?}");
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

async fn log(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "log", json!({})).await?;
    site.assigned("web").await?;
    eventually("a line about the claim", LIMIT, async || {
        let log = world.controller.log()?;
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let about: Vec<_> = lines.filter(|line| line.to_string().contains("log/web")).collect();
        let complete = about.iter().any(|line| {
            let fields = &line["fields"];
            let has = |name: &str| !fields[name].is_null() || !line["span"][name].is_null();
            line["level"] == "INFO" && has("class") && has("claim") && has("load_balancer")
        });
        ensure!(complete, "there is {about:?}");
        Ok(Some(()))
    })
    .await
}

async fn pages(world: Arc<World>) -> anyhow::Result<()> {
    for page in ["/healthz", "/readyz"] {
        let answer = world.controller.get(page).await?;
        ensure!(answer.status() == 200, "{page} answers {answer:?}");
    }
    let answer = world.controller.get("/nothing").await?;
    ensure!(answer.status() == 404, "/nothing answers {answer:?}");
    Ok(())
}
