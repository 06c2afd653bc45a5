//! Many claims on few addresses.

use std::sync::Arc;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::front::front;
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{Tests, World};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("many claims share one address, and each port sends traffic to its own pods", one_address),
        test.test("a deleted claim's port is closed, and the others keep serving", deleted),
        test.test("a recreated claim is reached at its former port", created_again),
        test.test("a second load balancer has its own address, and both work", second),
        test.test("the address stays while the class has no claim", address_stays),
    ]
}

async fn one_address(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "one-address", json!({})).await?;
    let mut fronts = Vec::new();
    for number in 0..5 {
        let (claim, pod) = (format!("team-{number}"), format!("pod-{number}"));
        tenant.pod(&pod, &claim).await?;
        let spec = json!({"selector": {"app": claim}, "ports": [{"targetPort": "http"}]});
        tenant.site.claim_with(&claim, spec).await?;
        fronts.push((front(&tenant.site.ready(&claim).await?, "")?, pod));
    }
    ensure!(fronts.iter().all(|(front, _)| front.address == fronts[0].0.address), "{fronts:?}");
    for (front, pod) in &fronts {
        tenant.only_answer(*front, &[pod]).await?;
    }
    Ok(())
}

async fn deleted(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "deleted", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let stays = front(&tenant.site.assigned("stays").await?, "")?;
    let goes = front(&tenant.site.assigned("goes").await?, "")?;
    tenant.answers(goes, "web-0").await?;
    tenant.site.delete("goes").await?;
    tenant.closed(goes).await?;
    tenant.answers(stays, "web-0").await.map(drop)
}

async fn created_again(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "created-again", json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let before = front(&tenant.site.assigned("web").await?, "")?;
    tenant.site.delete("web").await?;
    let after = front(&tenant.site.assigned("web").await?, "")?;
    ensure!((before.address, before.port) == (after.address, after.port), "{before:?}, {after:?}");
    tenant.answers(after, "web-0").await.map(drop)
}

async fn second(world: Arc<World>) -> anyhow::Result<()> {
    let limits = json!({"max": 2, "listenersPerLoadBalancer": 1, "emptyDelaySeconds": 0});
    let tenant = Tenant::open(&world.cluster, "second", json!({"loadBalancers": limits})).await?;
    tenant.pod("web-0", "web").await?;
    let first = front(&tenant.site.assigned("one").await?, "")?;
    let second = front(&tenant.site.assigned("two").await?, "")?;
    ensure!(first.address != second.address, "both are at {}", first.address);
    for front in [first, second] {
        tenant.answers(front, "web-0").await?;
    }
    tenant.site.delete("two").await?;
    tenant.closed(second).await?;
    tenant.answers(first, "web-0").await.map(drop)
}

async fn address_stays(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world.cluster, "address-stays", json!({"reclaimDelaySeconds": 0})).await?;
    tenant.pod("web-0", "web").await?;
    let before = front(&tenant.site.assigned("web").await?, "")?;
    tenant.site.delete("web").await?;
    tenant.closed(before).await?;
    let after = front(&tenant.site.assigned("other").await?, "")?;
    ensure!(before.address == after.address, "{before:?}, {after:?}");
    tenant.answers(after, "web-0").await.map(drop)
}
