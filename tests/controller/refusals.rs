//! Claims that cannot have what they ask for: each reports the reason and what to do,
//! and no other claim of the class notices.

use std::sync::Arc;

use anyhow::{Context, ensure};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::{Site, Tests, World, slots};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("an address that no load balancer has is refused, and the message lists the known ones", address),
        test.test("a claim with a known address is assigned to that load balancer", known_address),
        test.test("a port outside of the requestable ranges is refused", not_allowed),
        test.test("a port that is taken is refused, and assigned once it is free", taken),
        test.test("a port that is taken on one load balancer is assigned on the next one", taken_on_one),
        test.test("a port of a foreign Service is refused, and stays with that Service", foreign),
        test.test("a claim's port that a foreign Service takes is PortInUse until it is free again", taken_away),
        test.test("a full class refuses claims, and serves a waiting one when another is deleted", full),
        test.test("a claim with more ports than fit on any load balancer is refused", too_many),
        test.test("one port too many is refused alone, and the claim's other ports stay", added_port),
        test.test("a dynamic range without a free port refuses", no_dynamic_port),
    ]
}

/// A class with one load balancer.
fn one_load_balancer() -> Value {
    json!({"loadBalancers": {"max": 1}, "reclaimDelaySeconds": 0})
}

async fn address(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "address", one_load_balancer()).await?;
    let neighbour = site.neighbour().await?;
    let known = neighbour.claim().status.as_ref().and_then(|status| status.address.clone()).context("an address")?;
    let spec = json!({"selector": {"app": "web"}, "address": "192.0.2.1", "ports": [{"targetPort": "http"}]});
    site.claim_with("lost", spec).await?;
    site.refused("lost", Reason::AddressUnknown, &["192.0.2.1", &known, "leave address out"]).await?;
    site.undisturbed(&neighbour).await
}

async fn known_address(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"min": 2, "max": 2}});
    let site = Site::with_pod(&world.cluster, "known-address", class).await?;
    let second = site.load_balancer(1, "an address", |found| found.address.clone()).await?;
    let spec = json!({"selector": {"app": "web"}, "address": second, "ports": [{"targetPort": "http"}]});
    site.claim_with("picky", spec).await?;
    let claim = site.ready("picky").await?;
    ensure!(slots(&claim).values().all(|slot| slot.0 == 1), "{:?}", claim.status);
    ensure!(claim.status.as_ref().and_then(|status| status.address.as_ref()) == Some(&second), "{:?}", claim.status);
    Ok(())
}

async fn not_allowed(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"ports": {"requestable": [{"min": 30_000, "max": 30_010}]}});
    let site = Site::with_pod(&world.cluster, "not-allowed", class).await?;
    let neighbour = site.neighbour().await?;
    site.claim("web", json!([{"port": 443}])).await?;
    site.refused("web", Reason::PortNotAllowed, &["443", "spec.ports.requestable", "leave port out"]).await?;
    site.undisturbed(&neighbour).await?;
    site.change("web", json!({"spec": {"ports": [{"port": 30_010, "targetPort": "http"}]}})).await?;
    site.ready("web").await?;
    site.undisturbed(&neighbour).await
}

async fn taken(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "taken", one_load_balancer()).await?;
    let neighbour = site.neighbour().await?;
    let ports = json!([{"port": 6379, "targetPort": "http"}]);
    site.claim("first", ports.clone()).await?;
    site.ready("first").await?;
    site.claim("second", ports).await?;
    site.refused("second", Reason::PortTaken, &["6379", "leave port out"]).await?;
    site.undisturbed(&neighbour).await?;
    site.delete("first").await?;
    site.ready("second").await?;
    site.undisturbed(&neighbour).await
}

async fn taken_on_one(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "taken-on-one", json!({"loadBalancers": {"max": 2}})).await?;
    for (name, index) in [("first", 0), ("second", 1)] {
        site.claim(name, json!([{"port": 6379, "targetPort": "http"}])).await?;
        let claim = site.ready(name).await?;
        ensure!(slots(&claim) == [(String::new(), (index, "TCP", 6379))].into(), "{:?}", claim.status);
    }
    site.claim("third", json!([{"port": 6379, "targetPort": "http"}])).await?;
    site.refused("third", Reason::PortTaken, &["6379", "load balancers 0 and 1"]).await
}

async fn foreign(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "foreign", one_load_balancer()).await?;
    let neighbour = site.neighbour().await?;
    add_foreign_port(&site, 9000).await?;
    site.load_balancer(0, "a foreign port", |found| (found.foreign_ports == ["9000/TCP"]).then_some(())).await?;
    site.claim("web", json!([{"port": 9000, "targetPort": "http"}])).await?;
    site.refused("web", Reason::PortTaken, &["9000"]).await?;
    site.assigned("other").await?;
    let names = sharedlb_harness::port_names(&site.fronts(1).await?[0]);
    ensure!(names.contains(&"theirs".to_owned()), "{names:?}");
    site.undisturbed(&neighbour).await
}

/// Adds a port to the class's first Service, as somebody else.
async fn add_foreign_port(site: &Site, port: u16) -> anyhow::Result<()> {
    let name = site.fronts(1).await?[0].name_any();
    let patch = json!([{"op": "add", "path": "/spec/ports/-", "value": {"name": "theirs", "port": port}}]);
    let patch = Patch::<()>::Json(serde_json::from_value(patch)?);
    site.services().patch(&name, &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn taken_away(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "taken-away", one_load_balancer()).await?;
    let neighbour = site.neighbour().await?;
    site.claim("web", json!([{"port": 9001, "targetPort": "http"}])).await?;
    let before = slots(&site.ready("web").await?);
    // By its name, it is no longer ours.
    change_port(&site, 9001, Some("theirs")).await?;
    site.verdict("web", ConditionType::Programmed, ("False", Reason::PortInUse)).await?;
    site.verdict("web", ConditionType::Ready, ("False", Reason::PortInUse)).await?;
    site.event("web", Reason::PortInUse.as_str()).await?;
    site.undisturbed(&neighbour).await?;
    change_port(&site, 9001, None).await?;
    let after = slots(&site.ready("web").await?);
    ensure!(after == before, "{after:?}");
    site.undisturbed(&neighbour).await
}

/// Another client renames a port of the class's first Service, or removes it.
async fn change_port(site: &Site, number: u16, name: Option<&str>) -> anyhow::Result<()> {
    let service = site.fronts(1).await?.remove(0);
    let mut ports = service.spec.clone().unwrap_or_default().ports.unwrap_or_default();
    match name {
        Some(name) => {
            let port = ports.iter_mut().find(|port| port.port == i32::from(number)).context("it has the port")?;
            port.name = Some(name.to_owned());
        }
        None => ports.retain(|port| port.port != i32::from(number)),
    }
    let patch = Patch::Merge(json!({"spec": {"ports": ports}}));
    site.services().patch(&service.name_any(), &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn full(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"max": 1, "listenersPerLoadBalancer": 2}});
    let site = Site::with_pod(&world.cluster, "full", class).await?;
    let neighbour = site.neighbour().await?;
    site.assigned("second").await?;
    site.claim("third", json!([{"targetPort": "http"}])).await?;
    site.refused("third", Reason::PoolExhausted, &["2 of 2 listeners", "spec.loadBalancers.max"]).await?;
    site.undisturbed(&neighbour).await?;
    site.delete("second").await?;
    site.ready("third").await?;
    site.undisturbed(&neighbour).await
}

async fn too_many(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"listenersPerLoadBalancer": 50}});
    let site = Site::with_pod(&world.cluster, "too-many", class).await?;
    let neighbour = site.neighbour().await?;
    let ports: Vec<_> = (0..64).map(|n| json!({"name": format!("port-{n}"), "targetPort": "http"})).collect();
    site.claim("many", json!(ports)).await?;
    site.refused("many", Reason::PoolExhausted, &["64 listeners", "at most 50"]).await?;
    ensure!(slots(&site.claims.get("many").await?).is_empty(), "it has some of its ports");
    site.undisturbed(&neighbour).await
}

async fn added_port(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"max": 2, "listenersPerLoadBalancer": 2}});
    let site = Site::with_pod(&world.cluster, "added-port", class).await?;
    let neighbour = site.neighbour().await?;
    site.claim("web", json!([{"name": "a", "targetPort": "http"}])).await?;
    let before = slots(&site.ready("web").await?);
    let more = json!([{"name": "a", "targetPort": "http"}, {"name": "b", "targetPort": "http"}]);
    site.change("web", json!({"spec": {"ports": more}})).await?;
    site.refused("web", Reason::PoolExhausted, &["2 of 2 listeners", "load balancer 0"]).await?;
    let after = slots(&site.claims.get("web").await?);
    ensure!(after == before, "it had {before:?} and has {after:?}");
    let (.., port) = before["a"];
    ensure!(!site.front_slices(port).await?.is_empty(), "its first port is closed");
    site.undisturbed(&neighbour).await
}

async fn no_dynamic_port(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"ports": {"dynamic": [{"min": 25_000, "max": 25_000}]}, "loadBalancers": {"max": 1}});
    let site = Site::with_pod(&world.cluster, "no-dynamic-port", class).await?;
    let neighbour = site.neighbour().await?;
    ensure!(neighbour.slot() == (0, "TCP", 25_000), "{:?}", neighbour.slot());
    site.claim("second", json!([{"targetPort": "http"}])).await?;
    site.refused("second", Reason::PoolExhausted, &["spec.ports.dynamic"]).await?;
    // There is room for ports of other numbers.
    site.claim("third", json!([{"port": 80, "targetPort": "http"}])).await?;
    site.ready("third").await?;
    site.undisturbed(&neighbour).await
}
