//! Claims whose ports are changed.

use std::sync::Arc;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::Reason;
use sharedlb_harness::{LIMIT, Site, Slot, Tests, World, slots};
use sharedlb_testbed::eventually;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a port that is removed is released, and the others stay", removed),
        test.test("a port that is renamed keeps its number", renamed),
        test.test("a port that changes from assigned to requested gets its number", now_asked_for),
        test.test("a port that requests the number that it has keeps it", same_number),
        test.test("a port that requests a taken number is refused, and the holder keeps it", asks_for_taken),
        test.test("a port that no longer requests its number keeps it", no_longer_asked_for),
        test.test("a port that changes its protocol is another port", other_protocol),
        test.test("a changed target changes no port", other_target),
    ]
}

/// A site where a claim `web` has the assigned ports `a` and `b`.
async fn two_ports(world: &World, name: &str) -> anyhow::Result<(Site, [Slot; 2])> {
    let class = json!({"loadBalancers": {"max": 1}, "reclaimDelaySeconds": 3600});
    let site = Site::with_pod(&world.cluster, name, class).await?;
    site.claim("web", ports(json!({"name": "a"}), json!({"name": "b"}))).await?;
    let slots = slots(&site.ready("web").await?);
    Ok((site, [slots["a"], slots["b"]]))
}

/// Two ports with the target `http` unless they have another.
fn ports(a: Value, b: Value) -> Value {
    let full = |mut port: Value| {
        port.as_object_mut().expect("a port is an object").entry("targetPort").or_insert(json!("http"));
        port
    };
    json!([full(a), full(b)])
}

async fn change(site: &Site, ports: Value) -> anyhow::Result<()> {
    site.change("web", json!({"spec": {"ports": ports}})).await
}

async fn closed(site: &Site, port: u16) -> anyhow::Result<()> {
    eventually(&format!("port {port} to be closed"), LIMIT, async || {
        Ok(site.front_slices(port).await?.is_empty().then_some(()))
    })
    .await
}

async fn removed(world: Arc<World>) -> anyhow::Result<()> {
    let (site, [a, b]) = two_ports(&world, "removed").await?;
    let neighbour = site.neighbour().await?;
    change(&site, json!([{"name": "a", "targetPort": "http"}])).await?;
    site.released("web", b.2).await?;
    let now = slots(&site.ready("web").await?);
    ensure!(now == [("a".to_owned(), a)].into(), "{now:?}");
    closed(&site, b.2).await?;
    // Its own again, from the same name.
    change(&site, ports(json!({"name": "a"}), json!({"name": "b"}))).await?;
    let now = slots(&site.ready("web").await?);
    ensure!(now["a"] == a && now["b"] == b, "it had {a:?} and {b:?}, and has {now:?}");
    site.undisturbed(&neighbour).await
}

async fn renamed(world: Arc<World>) -> anyhow::Result<()> {
    let (site, [a, b]) = two_ports(&world, "renamed").await?;
    let neighbour = site.neighbour().await?;
    change(&site, ports(json!({"name": "a"}), json!({"name": "c"}))).await?;
    let now = slots(&site.ready("web").await?);
    ensure!(now.len() == 2 && now["a"] == a && now["c"] == b, "{now:?}");
    site.undisturbed(&neighbour).await
}

async fn now_asked_for(world: Arc<World>) -> anyhow::Result<()> {
    let (site, [a, b]) = two_ports(&world, "now-asked-for").await?;
    let neighbour = site.neighbour().await?;
    change(&site, ports(json!({"name": "a"}), json!({"name": "b", "port": 5432}))).await?;
    site.released("web", b.2).await?;
    let now = slots(&site.ready("web").await?);
    ensure!(now["a"] == a && now["b"] == (0, "TCP", 5432), "{now:?}");
    closed(&site, b.2).await?;
    site.undisturbed(&neighbour).await
}

async fn same_number(world: Arc<World>) -> anyhow::Result<()> {
    let (site, [a, b]) = two_ports(&world, "same-number").await?;
    change(&site, ports(json!({"name": "a", "port": a.2}), json!({"name": "b", "port": 0}))).await?;
    let now = slots(&site.ready("web").await?);
    ensure!(now["a"] == a && now["b"] == b, "it had {a:?} and {b:?}, and has {now:?}");
    Ok(())
}

async fn asks_for_taken(world: Arc<World>) -> anyhow::Result<()> {
    let (site, [a, b]) = two_ports(&world, "asks-for-taken").await?;
    let neighbour = site.neighbour().await?;
    let number = neighbour.slot().2;
    change(&site, ports(json!({"name": "a"}), json!({"name": "b", "port": number}))).await?;
    site.refused("web", Reason::PortTaken, &[&number.to_string(), "leave port out"]).await?;
    site.released("web", b.2).await?;
    let now = slots(&site.claims.get("web").await?);
    ensure!(now == [("a".to_owned(), a)].into(), "{now:?}");
    site.undisturbed(&neighbour).await
}

async fn no_longer_asked_for(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"ports": {"dynamic": [{"min": 20_000, "max": 20_010}]}});
    let site = Site::with_pod(&world.cluster, "not-asked-for", class).await?;
    site.claim("web", json!([{"port": 443, "targetPort": "http"}])).await?;
    let before = slots(&site.ready("web").await?);
    change(&site, json!([{"targetPort": "http"}])).await?;
    let now = slots(&site.ready("web").await?);
    ensure!(now == before, "it had {before:?} and has {now:?}");
    Ok(())
}

async fn other_protocol(world: Arc<World>) -> anyhow::Result<()> {
    let (site, [a, b]) = two_ports(&world, "other-protocol").await?;
    let neighbour = site.neighbour().await?;
    change(&site, ports(json!({"name": "a"}), json!({"name": "b", "protocol": "UDP", "targetPort": "dns"}))).await?;
    site.released("web", b.2).await?;
    let now = slots(&site.ready("web").await?);
    let (_, protocol, _) = now.get("b").context("it has no port b")?;
    ensure!(now["a"] == a && *protocol == "UDP", "{now:?}");
    site.undisturbed(&neighbour).await
}

async fn other_target(world: Arc<World>) -> anyhow::Result<()> {
    let (site, [a, b]) = two_ports(&world, "other-target").await?;
    change(&site, ports(json!({"name": "a", "targetPort": 8081}), json!({"name": "b"}))).await?;
    let now = slots(&site.ready("web").await?);
    ensure!(now["a"] == a && now["b"] == b, "it had {a:?} and {b:?}, and has {now:?}");
    eventually("the listener to lead to the new target", LIMIT, async || {
        let slices = site.front_slices(a.2).await?;
        let mut targets = slices.iter().flat_map(|slice| slice.ports.iter().flatten()).map(|port| port.port);
        Ok(targets.any(|port| port == Some(8081)).then_some(()))
    })
    .await
}
