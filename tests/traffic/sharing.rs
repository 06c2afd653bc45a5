//! Many claims on few addresses.

use std::sync::Arc;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::{Tests, World};
use sharedlb_testbed::Protocol;

use crate::place::{Place, front};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("many claims share one address, and each port leads to its own pods", one_address),
        test.test("a deleted claim's port is closed, and the others go on", deleted),
        test.test("a claim that is created again is reached where it was", created_again),
        test.test("a second load balancer has its own address, and both work", second),
        test.test("the address stays while the class has no claim", address_stays),
    ]
}

async fn one_address(world: Arc<World>) -> anyhow::Result<()> {
    let place = Place::open(world, "one-address", json!({})).await?;
    let mut fronts = Vec::new();
    for number in 0..5 {
        let (claim, pod) = (format!("team-{number}"), format!("pod-{number}"));
        place.pod(&pod, &claim).await?;
        let spec = json!({"selector": {"app": claim}, "ports": [{"targetPort": "http"}]});
        place.site.claim_with(&claim, spec).await?;
        fronts.push((front(&place.site.ready(&claim).await?, "")?, pod));
    }
    ensure!(fronts.iter().all(|(front, _)| front.address == fronts[0].0.address), "{fronts:?}");
    for (front, pod) in &fronts {
        place.only_answer(*front, Protocol::Tcp, &[pod]).await?;
    }
    Ok(())
}

async fn deleted(world: Arc<World>) -> anyhow::Result<()> {
    let place = Place::open(world, "deleted", json!({})).await?;
    place.pod("web-0", "web").await?;
    let stays = front(&place.site.assigned("stays").await?, "")?;
    let goes = front(&place.site.assigned("goes").await?, "")?;
    place.answers(goes, Protocol::Tcp, "web-0").await?;
    place.site.delete("goes").await?;
    place.closed(goes, Protocol::Tcp).await?;
    place.answers(stays, Protocol::Tcp, "web-0").await.map(drop)
}

async fn created_again(world: Arc<World>) -> anyhow::Result<()> {
    let place = Place::open(world, "created-again", json!({})).await?;
    place.pod("web-0", "web").await?;
    let before = front(&place.site.assigned("web").await?, "")?;
    place.site.delete("web").await?;
    let after = front(&place.site.assigned("web").await?, "")?;
    ensure!((before.address, before.port) == (after.address, after.port), "{before:?}, {after:?}");
    place.answers(after, Protocol::Tcp, "web-0").await.map(drop)
}

async fn second(world: Arc<World>) -> anyhow::Result<()> {
    let limits = json!({"max": 2, "listenersPerLoadBalancer": 1, "emptyDelaySeconds": 0});
    let place = Place::open(world, "second", json!({"loadBalancers": limits})).await?;
    place.pod("web-0", "web").await?;
    let first = front(&place.site.assigned("one").await?, "")?;
    let second = front(&place.site.assigned("two").await?, "")?;
    ensure!(first.address != second.address, "both are at {}", first.address);
    for front in [first, second] {
        place.answers(front, Protocol::Tcp, "web-0").await?;
    }
    place.site.delete("two").await?;
    place.closed(second, Protocol::Tcp).await?;
    place.answers(first, Protocol::Tcp, "web-0").await.map(drop)
}

async fn address_stays(world: Arc<World>) -> anyhow::Result<()> {
    let place = Place::open(world, "address-stays", json!({"reclaimDelaySeconds": 0})).await?;
    place.pod("web-0", "web").await?;
    let before = front(&place.site.assigned("web").await?, "")?;
    place.site.delete("web").await?;
    place.closed(before, Protocol::Tcp).await?;
    let after = front(&place.site.assigned("other").await?, "")?;
    ensure!(before.address == after.address, "{before:?}, {after:?}");
    place.answers(after, Protocol::Tcp, "web-0").await.map(drop)
}
