//! Statuses that another client has changed.

use std::sync::Arc;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;

use sharedlb_harness::{Site, Tests, World, slots};
use sharedlb_testbed::eventually;

use sharedlb_harness::LIMIT;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a claim whose status was cleared gets its port again", wiped),
        test.test("a claim whose status names an older claim's port gets a port of its own", stolen_by_younger),
        test.test(
            "if an older claim's status names a younger claim's port, both end with ports of their own",
            stolen_by_elder,
        ),
        test.test("a claim whose status names a load balancer that does not exist gets a port", no_such_index),
        test.test("a condition that another client wrote is corrected", condition_set_right),
        test.test("a class whose status was cleared assigns no held port to another claim", class_wiped),
    ]
}

async fn wiped(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "wiped", json!({"loadBalancers": {"max": 1}})).await?;
    let neighbour = site.neighbour().await?;
    let ports = json!([{"name": "a", "targetPort": "http"}, {"name": "b", "port": 6379, "targetPort": "http"}]);
    site.claim("web", ports).await?;
    let before = slots(&site.ready("web").await?);
    site.tamper("web", json!(null)).await?;
    let after = slots(&site.ready("web").await?);
    ensure!(after == before, "it had {before:?} and has {after:?}");
    site.undisturbed(&neighbour).await
}

async fn stolen_by_younger(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "stolen", json!({"loadBalancers": {"max": 1}})).await?;
    let neighbour = site.neighbour().await?;
    site.assigned("thief").await?;
    let (_, protocol, port) = neighbour.slot();
    site.tamper("thief", json!({"ports": [{"name": "", "protocol": protocol, "port": port}]})).await?;
    site.event("thief", "PortTaken").await?;
    eventually("the thief to have another port", LIMIT, async || {
        let slots = slots(&site.ready("thief").await?);
        Ok((slots.len() == 1 && slots[""] != neighbour.slot()).then_some(()))
    })
    .await?;
    site.undisturbed(&neighbour).await
}

/// The older's status names a port that its holder was given rightly. What
/// counts is that the two never share it, and that both end up with a port.
async fn stolen_by_elder(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "stolen-by-older", json!({"loadBalancers": {"max": 1}})).await?;
    site.assigned("a-older").await?;
    let younger = slots(&site.assigned("b-younger").await?);
    let (_, protocol, port) = younger[""];
    site.tamper("a-older", json!({"ports": [{"name": "", "protocol": protocol, "port": port}]})).await?;
    eventually("both to have ports of their own", LIMIT, async || {
        let (older, younger) = (slots(&site.ready("a-older").await?), slots(&site.ready("b-younger").await?));
        Ok((older.len() == 1 && younger.len() == 1 && older != younger).then_some(()))
    })
    .await
}

async fn no_such_index(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "no-such-index", json!({"loadBalancers": {"max": 1}})).await?;
    let neighbour = site.neighbour().await?;
    site.assigned("web").await?;
    site.tamper("web", json!({"loadBalancerIndex": 7})).await?;
    eventually("the claim to be on a load balancer that there is", LIMIT, async || {
        let slots = slots(&site.ready("web").await?);
        Ok(slots.values().all(|slot| slot.0 == 0).then_some(()))
    })
    .await?;
    site.fronts(1).await?;
    site.undisturbed(&neighbour).await
}

async fn condition_set_right(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "set-right", json!({})).await?;
    let before = site.assigned("web").await?.status.unwrap_or_default();
    let mut wrong = before.clone();
    for condition in &mut wrong.conditions {
        condition.status = "False".to_owned();
        condition.message = "Nobody knows.".to_owned();
    }
    wrong.address = Some("192.0.2.1".to_owned());
    wrong.summary = Some("nothing".to_owned());
    site.tamper("web", serde_json::to_value(&wrong)?).await?;
    eventually("the status to be as it was", LIMIT, async || {
        let mut now = site.claims.get("web").await?.status.unwrap_or_default();
        // They did change.
        for (now, before) in now.conditions.iter_mut().zip(&before.conditions) {
            now.last_transition_time = before.last_transition_time.clone();
        }
        ensure!(now == before, "it was {before:?} and is {now:?}");
        Ok(Some(()))
    })
    .await
}

async fn class_wiped(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "class-wiped", json!({"loadBalancers": {"max": 1}})).await?;
    let neighbour = site.neighbour().await?;
    let patch = kube::api::Patch::Merge(json!({"status": null}));
    site.classes.patch_status(&site.class, &kube::api::PatchParams::default(), &patch).await?;
    site.claim("web", json!([{"port": neighbour.slot().2, "targetPort": "http"}])).await?;
    site.refused("web", sharedlb_crds::Reason::PortTaken, &[]).await?;
    site.load_balancer(0, "its listener", |found| (found.listeners == 1).then_some(())).await?;
    site.undisturbed(&neighbour).await
}
