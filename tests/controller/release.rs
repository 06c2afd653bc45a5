//! What happens to ports that are given back.

use std::sync::Arc;

use anyhow::{Context, ensure};
use kube::ResourceExt;
use kube::api::DeleteParams;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::Reason;
use sharedlb_harness::{LIMIT, Site, Tests, World, addresses, port_names, slots};
use sharedlb_testbed::eventually;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a released port is recorded, closed, and cools down", rests),
        test.test("a recreated claim gets its port back at once", created_again),
        test.test("a port without a reclaim delay is free for any claim once it is closed", no_delay),
        test.test("a claim can be deleted while its load balancer is unreachable", no_wait_for_cloud),
        test.test("a class without claims keeps its Service, its address and a parked port", parked),
    ]
}

/// A class with one load balancer, whose released ports rest for an hour.
fn resting() -> Value {
    json!({"loadBalancers": {"max": 1}, "reclaimDelaySeconds": 3600})
}

async fn rests(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "rests", resting()).await?;
    let neighbour = site.neighbour().await?;
    let (_, (.., port)) = slots(&site.assigned("first").await?).pop_first().context("it has a port")?;
    site.delete("first").await?;
    site.released("first", port).await?;
    eventually("its listener to be closed", LIMIT, async || {
        let names = port_names(&site.fronts(1).await?[0]);
        let open = names.contains(&format!("tcp-{port}")) || !site.front_slices(port).await?.is_empty();
        Ok((!open).then_some(()))
    })
    .await?;
    site.claim("second", json!([{"port": port, "targetPort": "http"}])).await?;
    site.refused("second", Reason::PortTaken, &[&port.to_string()]).await?;
    site.released("first", port).await?;
    site.undisturbed(&neighbour).await
}

async fn created_again(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "created-again", resting()).await?;
    let neighbour = site.neighbour().await?;
    let ports = json!([{"name": "a", "targetPort": "http"}, {"name": "b", "port": 6379, "targetPort": "http"}]);
    site.claim("web", ports.clone()).await?;
    let before = slots(&site.ready("web").await?);
    site.claims.delete("web", &DeleteParams::default()).await?;
    site.gone("web").await?;
    site.claim("web", ports).await?;
    let after = slots(&site.ready("web").await?);
    ensure!(after == before, "it had {before:?} and has {after:?}");
    site.class_status("no port released", |status| {
        status.load_balancers.iter().all(|load_balancer| load_balancer.released.is_empty()).then_some(())
    })
    .await?;
    site.undisturbed(&neighbour).await
}

async fn no_delay(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"max": 1}, "reclaimDelaySeconds": 0});
    let site = Site::with_pod(&world.cluster, "no-delay", class).await?;
    let neighbour = site.neighbour().await?;
    let (_, (.., port)) = slots(&site.assigned("first").await?).pop_first().context("it has a port")?;
    site.delete("first").await?;
    site.claim("second", json!([{"port": port, "targetPort": "http"}])).await?;
    let after = slots(&site.ready("second").await?);
    ensure!(after == [(String::new(), (0, "TCP", port))].into(), "{after:?}");
    site.undisturbed(&neighbour).await
}

async fn no_wait_for_cloud(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "no-wait", resting()).await?;
    let (_, (.., port)) = slots(&site.assigned("web").await?).pop_first().context("it has a port")?;
    // A Service of that name that is not ours is as good as none: the load
    // balancer can be neither read nor written.
    let front = site.fronts(1).await?.remove(0);
    let labels = json!({"metadata": {"labels": {"sharedlb.dev/cluster-id": "another"}}});
    let patch = kube::api::Patch::Merge(labels);
    site.services().patch(&front.name_any(), &kube::api::PatchParams::default(), &patch).await?;
    site.delete("web").await?;
    site.released("web", port).await?;
    let theirs = site.services().get(&front.name_any()).await?;
    ensure!(port_names(&theirs) == port_names(&front), "somebody else's Service was changed: {theirs:?}");
    Ok(())
}

async fn parked(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "parked", json!({"reclaimDelaySeconds": 0})).await?;
    let before = site.fronts(1).await?.remove(0);
    ensure!(port_names(&before) == ["parked"], "{:?}", before.spec);
    let (_, (.., port)) = slots(&site.assigned("web").await?).pop_first().context("it has a port")?;
    let open = site.fronts(1).await?.remove(0);
    ensure!(port_names(&open) == [format!("tcp-{port}")], "{:?}", open.spec);
    site.delete("web").await?;
    eventually("the Service to be parked again", LIMIT, async || {
        let now = site.fronts(1).await?.remove(0);
        ensure!(port_names(&now) == ["parked"], "{:?}", now.spec);
        ensure!(now.uid() == before.uid(), "it is another Service");
        ensure!(addresses(&now) == addresses(&before), "its address has changed");
        Ok(Some(()))
    })
    .await
}
