//! A deleted claim that a finalizer of the tenant keeps, and its Service.

use std::sync::Arc;

use anyhow::ensure;
use kube::api::DeleteParams;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::Tests;
use sharedlb_harness::tenant::fronts;
use sharedlb_testbed::Cluster;

use super::place::{OWN, Place, port};

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![test.test("a deleted claim that a finalizer keeps leaves its Service neither address nor packets", lingering)]
}

async fn lingering(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"max": 1}, "reclaimDelaySeconds": 0});
    let mut place = Place::open(&cluster, "held", class).await?;
    let own = place.thiefs_service().await?;
    let held = json!({"metadata": {"finalizers": ["sharedlb.dev/release-ports", "example.com/hold"]}});
    place.thief.site.change("service-evil", held).await?;
    place.thief.site.claims.delete("service-evil", &DeleteParams::default()).await?;
    place.thief.reports("evil", "Ready", "NameTaken").await?;
    let status = place.thief.services.get("evil").await?;
    ensure!(fronts(&status).is_empty(), "it has an address: {:?}", status.status);
    place.thief.closed(own).await?;
    place.thief.silent(own).await?;
    // Its port goes to another tenant, whose pods alone answer there.
    let next = place.victim.neighbour("held-next").await?;
    next.pod("next-0", "next").await?;
    let ports = json!([{"name": "http", "port": OWN, "targetPort": "http"}]);
    next.site.claim_with("next", json!({"selector": {"app": "next"}, "ports": ports})).await?;
    next.site.ready("next").await?;
    for number in [OWN, own.port + 1, OWN] {
        place.thief.change("evil", json!({"spec": {"ports": [port(number)]}})).await?;
        next.only_answer(own, &["next-0"]).await?;
        next.only_answer_inside(own, &["next-0"]).await?;
    }
    place.while_asked(place.edits(5)).await?;
    place.replica.kill().await?;
    place.while_asked(place.edits(5)).await?;
    next.only_answer(own, &["next-0"]).await?;
    place.replica.start()?;
    place.while_asked(place.edits(5)).await?;
    place.thief.reports("evil", "Ready", "NameTaken").await?;
    next.only_answer(own, &["next-0"]).await?;
    next.only_answer_inside(own, &["next-0"]).await?;
    place.thief.site.change("service-evil", json!({"metadata": {"finalizers": null}})).await?;
    place.thief.reports("evil", "Allocated", "PortTaken").await?;
    next.site.delete("next").await?;
    place.clear().await
}
