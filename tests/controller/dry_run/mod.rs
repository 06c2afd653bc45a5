//! `sharedlb controller --dry-run` against the real API server, with the rights of
//! `deploy/dry-run.yaml` and no others: what it says is what the controller then does,
//! and it changes nothing.
//!
//! Each test has a controller of its own, and sees the objects of all, so one begins
//! when the former has settled.

mod setting;

use std::sync::Arc;

use anyhow::{Context, ensure};
use kube::api::{DeleteParams, Patch, PatchParams};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_crds::SharedLB;
use sharedlb_harness::{DryRun, LIMIT, Launch, Site, Tests, slots};
use sharedlb_testbed::eventually;

use crate::SHAREDLB;
pub(crate) use setting::World;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("the report for a new class and its claims is what the controller then does", newcomers),
        test.test("the report is empty if nothing is left to do", settled),
        test.test("an edit of a class that moves nothing changes only the class' status", edited_class),
        test.test("a port that would be closed is reported, and stays open", closing),
        test.test("objects that cannot be read in time are an error that names them", unreachable),
    ]
}

async fn newcomers(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "newcomers", json!({})).await?;
    site.claim(
        "web",
        json!([{"name": "web", "targetPort": "http"}, {"name": "db", "port": 5432, "targetPort": "http"}]),
    )
    .await?;
    world.service(&site, "queue").await?;
    world.config_map(&site, "legacy").await?;
    let would = world.dry_run_alone().await?;
    ensure!(would.code == Some(2), "{would:?}");
    for expected in [
        "~ SharedLB newcomers/web",
        "~ SharedLBClass newcomers",
        "+ SharedLB newcomers/service-queue",
        "+ SharedLB newcomers/configmap-legacy",
        "~ Service newcomers/queue",
        "+ load balancer slb-newcomers-0-",
        "listener 5432/TCP of newcomers/web/db: no backends",
    ] {
        ensure!(would.text.contains(expected), "{expected} is missing:\n{}", would.text);
    }

    let controller = world.controller().await?;
    let claims = [("web", 2), ("service-queue", 1), ("configmap-legacy", 1)];
    for (name, ports) in claims {
        let claim = claim_with_ports(&site, name, ports).await?;
        for (port, (_, protocol, number)) in slots(&claim) {
            let block = would.block(&format!("SharedLB newcomers/{name}"))?;
            let is_given = |line: &str| {
                line.starts_with(&format!("    + status.ports[{port}]: "))
                    && line.contains(&format!("\"port\":{number},"))
            };
            ensure!(block.lines().any(is_given), "{port:?} has {number}, and it said\n{block}");
            let owner = if port.is_empty() { name.to_owned() } else { format!("{name}/{port}") };
            let listener = format!("    + listener {number}/{protocol} of newcomers/{owner}: ");
            ensure!(would.text.contains(&listener), "{listener:?} is not in\n{}", would.text);
        }
    }
    world.settled().await?;
    controller.terminate().await?;
    ensure!(world.dry_run().await?.is_nothing(), "the controller that ended has left something to do");
    Ok(())
}

async fn settled(world: Arc<World>) -> anyhow::Result<()> {
    let controller = world.controller().await?;
    let site = Site::with_pod(&world.cluster, "settled", json!({})).await?;
    site.assigned("web").await?;
    world.service(&site, "queue").await?;
    world.config_map(&site, "legacy").await?;
    claim_with_ports(&site, "service-queue", 1).await?;
    claim_with_ports(&site, "configmap-legacy", 1).await?;
    // Beside the controller that acts, as an admin would do it before an upgrade.
    world.settled().await?;
    controller.terminate().await?;
    ensure!(world.dry_run().await?.is_nothing());
    Ok(())
}

async fn edited_class(world: Arc<World>) -> anyhow::Result<()> {
    let controller = world.controller().await?;
    let site = Site::with_pod(&world.cluster, "edited-class", json!({})).await?;
    let claim = site.assigned("web").await?;
    world.settled().await?;
    controller.terminate().await?;
    let patch = Patch::Merge(json!({"spec": {"reclaimDelaySeconds": 600}}));
    let edited = site.classes.patch(&site.class, &PatchParams::default(), &patch).await?;
    ensure!(edited.metadata.generation == Some(2), "the edit counts");

    let would = world.dry_run_alone().await?;
    ensure!(would.code == Some(2), "{would:?}");
    let changed: Vec<&str> = would.text.lines().filter(|line| !line.starts_with(' ')).collect();
    let summary =
        "Objects: 0 to create, 1 to change, 0 to delete. Load balancers: 0 to create, 0 to change, 0 to delete.";
    ensure!(changed == ["~ SharedLBClass edited-class", summary], "{}", would.text);

    let controller = world.controller().await?;
    site.class_seen().await?;
    ensure!(slots(&site.claims.get("web").await?) == slots(&claim), "the port has moved");
    world.settled().await?;
    controller.terminate().await?;
    Ok(())
}

async fn closing(world: Arc<World>) -> anyhow::Result<()> {
    let controller = world.controller().await?;
    let site = Site::with_pod(&world.cluster, "closing", json!({})).await?;
    let claim = site.assigned("web").await?;
    let (_, (_, protocol, port)) = slots(&claim).pop_first().context("it has a port")?;
    world.settled().await?;
    controller.terminate().await?;
    site.claims.delete("web", &DeleteParams::default()).await?;

    let would = world.dry_run_alone().await?;
    ensure!(would.code == Some(2), "{would:?}");
    for expected in [
        "- SharedLB closing/web\n".to_owned(),
        format!("    - listener {port}/{protocol} of closing/web\n"),
        ".released".to_owned(),
    ] {
        ensure!(would.text.contains(&expected), "{expected} is missing:\n{}", would.text);
    }
    ensure!(!site.front_slices(port).await?.is_empty(), "the port was closed");

    let controller = world.controller().await?;
    site.gone("web").await?;
    world.settled().await?;
    controller.terminate().await?;
    Ok(())
}

async fn unreachable(world: Arc<World>) -> anyhow::Result<()> {
    // The role of the tenants has no right to list classes.
    let kubeconfig = world.cluster.kubeconfig_for_service_account("default", "default").await?;
    let launch = Launch::new(SHAREDLB, kubeconfig, &world.cluster);
    let would = DryRun::make(&launch.flags(["--cluster-id", "test", "--dry-run-timeout", "2s"])).await?;
    ensure!(would.code == Some(1) && would.text.is_empty(), "{would:?}");
    let says = "not finished within 2 s: waiting for the lists of";
    ensure!(would.log.contains(says), "{}", would.log);
    Ok(())
}

/// Waits until a claim has so many ports.
async fn claim_with_ports(site: &Site, name: &str, ports: usize) -> anyhow::Result<SharedLB> {
    eventually(&format!("claim {name} to have {ports} ports"), LIMIT, async || {
        let claim = site.claims.get(name).await?;
        Ok((slots(&claim).len() == ports).then_some(claim))
    })
    .await
}
