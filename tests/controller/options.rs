//! Source ranges and session affinity, in a class whose load balancers have neither (the
//! provider `service`).

use std::sync::Arc;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::{LIMIT, Site, Tests, World, slots};
use sharedlb_testbed::eventually;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a new claim with options that its class lacks is refused, and served without them", new_claim),
        test.test("source ranges that are added close the ports, which stay reserved", added_ranges),
        test.test("session affinity that is added closes nothing, and the claim reports it", added_affinity),
        test.test("a port that is added to a claim with such options is refused alone", added_port),
    ]
}

fn ranges() -> Value {
    json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]})
}

fn affinity() -> Value {
    json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}})
}

/// The same fields, removed.
fn none_of(options: &Value) -> Value {
    options.as_object().into_iter().flatten().map(|(field, _)| (field.clone(), Value::Null)).collect()
}

async fn new_claim(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "new-options", json!({})).await?;
    let neighbour = site.neighbour().await?;
    for (name, options, words) in [
        ("ranges", ranges(), ["loadBalancerSourceRanges", "remove them", "a class of the provider vip"]),
        ("affinity", affinity(), ["sessionAffinity", "set it to None", "a class of the provider vip"]),
    ] {
        let mut spec = json!({"selector": {"app": "web"}, "ports": [{"targetPort": "http"}]});
        sharedlb_harness::merge(&mut spec, options.clone());
        site.claim_with(name, spec).await?;
        site.refused(name, Reason::Unsupported, &words).await?;
        ensure!(slots(&site.claims.get(name).await?).is_empty(), "{name} has a port");
        site.change(name, json!({"spec": none_of(&options)})).await?;
        site.ready(name).await?;
    }
    site.undisturbed(&neighbour).await
}

async fn added_ranges(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "added-ranges", json!({"loadBalancers": {"max": 1}})).await?;
    let neighbour = site.neighbour().await?;
    let before = slots(&site.assigned("web").await?);
    let (.., port) = before[""];
    site.change("web", json!({"spec": ranges()})).await?;
    for kind in [ConditionType::Programmed, ConditionType::Ready] {
        let words = ["loadBalancerSourceRanges", "are closed, and stay reserved", "remove them"];
        site.verdict_with("web", kind, ("False", Reason::Unsupported), &words).await?;
    }
    site.verdict("web", ConditionType::Allocated, ("True", Reason::Allocated)).await?;
    site.event("web", Reason::Unsupported.as_str()).await?;
    eventually("the port to be closed", LIMIT, async || Ok(site.front_slices(port).await?.is_empty().then_some(())))
        .await?;
    ensure!(slots(&site.claims.get("web").await?) == before, "it lost its port");
    site.claim("second", json!([{"port": port, "targetPort": "http"}])).await?;
    site.refused("second", Reason::PortTaken, &[]).await?;
    // All clients may be written in words, too.
    site.change("web", json!({"spec": {"loadBalancerSourceRanges": ["0.0.0.0/0"]}})).await?;
    let after = slots(&site.ready("web").await?);
    ensure!(after == before, "it had {before:?} and has {after:?}");
    ensure!(!site.front_slices(port).await?.is_empty(), "its port is closed");
    site.undisturbed(&neighbour).await
}

async fn added_affinity(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "added-affinity", json!({})).await?;
    let neighbour = site.neighbour().await?;
    let before = slots(&site.assigned("web").await?);
    let (.., port) = before[""];
    site.change("web", json!({"spec": affinity()})).await?;
    let words = ["sessionAffinity", "connections of one client go to any pod", "set it to None"];
    for kind in [ConditionType::Programmed, ConditionType::Ready] {
        site.verdict_with("web", kind, ("False", Reason::Unsupported), &words).await?;
    }
    ensure!(!site.front_slices(port).await?.is_empty(), "its port is closed");
    site.change("web", json!({"spec": none_of(&affinity())})).await?;
    let after = slots(&site.ready("web").await?);
    ensure!(after == before, "it had {before:?} and has {after:?}");
    site.undisturbed(&neighbour).await
}

async fn added_port(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "added-port-options", json!({})).await?;
    site.claim("web", json!([{"name": "a", "targetPort": "http"}])).await?;
    let before = slots(&site.ready("web").await?);
    let mut spec = affinity();
    spec["ports"] = json!([{"name": "a", "targetPort": "http"}, {"name": "b", "targetPort": "http"}]);
    site.change("web", json!({"spec": spec})).await?;
    site.refused("web", Reason::Unsupported, &["port b", "sessionAffinity"]).await?;
    let after = slots(&site.claims.get("web").await?);
    ensure!(after == before, "it had {before:?} and has {after:?}");
    let (.., port) = before["a"];
    ensure!(!site.front_slices(port).await?.is_empty(), "its first port is closed");
    Ok(())
}
