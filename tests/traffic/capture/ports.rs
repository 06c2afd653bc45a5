//! A Service whose ports are edited to those of another tenant.

use std::sync::Arc;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::Tests;
use sharedlb_harness::tenant::ip_modes;
use sharedlb_testbed::Cluster;
use sharedlb_testbed::Protocol::Tcp;

use super::place::{OWN, Place, THIEF, VICTIMS, port};

/// How often the thief tries. Without protection the window of each edit is some
/// 10 ms to 100 ms.
const TIMES: usize = 10;

/// A number that no claim has.
const FREE: u16 = 9999;

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("a Service whose ports are edited to the victim's gets none of its packets", running),
        test.test("a Service whose ports are edited gets none of the victim's packets while no controller runs, or just after a start", stopped),
        test.test("a Service that lists both ports, or is created while no controller runs, gets none of the victim's packets", both),
    ]
}

async fn running(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let place = Place::open(&cluster, "edited", json!({"loadBalancers": {"max": 1}})).await?;
    let own = place.thiefs_service().await?;
    place.while_asked(place.edits(TIMES)).await?;
    place.thief.change("evil", json!({"spec": {"ports": [port(VICTIMS)]}})).await?;
    place.while_asked(place.thief.reports("evil", "Allocated", "PortTaken")).await?;
    place.only_the_bank(50).await?;
    place.thief.change("evil", json!({"spec": {"ports": [port(OWN)]}})).await?;
    place.thief.served("evil", &[(OWN, Tcp)]).await?;
    place.thief.only_answer(own, &[THIEF]).await?;
    place.clear().await
}

async fn stopped(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut place = Place::open(&cluster, "edited-alone", json!({"loadBalancers": {"max": 1}})).await?;
    let own = place.thiefs_service().await?;
    place.replica.kill().await?;
    // kube-proxy takes either of two Services that have one address and port, and
    // not always the same.
    place.while_asked(place.edits(TIMES)).await?;
    // Nor does it get a number that is free, and may be given to another tenant.
    // (Here is no other Service that kube-proxy could choose.)
    place.thief.change("evil", json!({"spec": {"ports": [port(FREE)]}})).await?;
    place.thief.silent(own.at(FREE)).await?;
    // What is open goes on meanwhile, whatever the thief's spec says.
    place.thief.change("evil", json!({"spec": {"ports": [port(VICTIMS)]}})).await?;
    place.thief.only_answer(own, &[THIEF]).await?;
    place.thief.only_answer_inside(own, &[THIEF]).await?;
    place.only_the_bank(50).await?;
    place.replica.start()?;
    place.while_asked(place.thief.reports("evil", "Allocated", "PortTaken")).await?;
    place.only_the_bank(50).await?;
    place.clear().await
}

async fn both(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut place = Place::open(&cluster, "both-listed", json!({"loadBalancers": {"max": 1}})).await?;
    place.thiefs_service().await?;
    place.replica.kill().await?;
    let second = json!({"name": "more", "port": VICTIMS, "targetPort": "http"});
    place.thief.change("evil", json!({"spec": {"ports": [port(OWN), second]}})).await?;
    // A status is the controller's alone: what a tenant creates with one has none.
    let annotations = json!({"sharedlb.dev/claim": "service-new"});
    place.thief.service_with("new", annotations, json!({"ports": [port(VICTIMS)]})).await?;
    place.only_the_bank(50).await?;
    place.replica.start()?;
    place.while_asked(place.thief.reports("evil", "Allocated", "PortTaken")).await?;
    place.thief.reports("new", "Allocated", "PortTaken").await?;
    let service = place.thief.services.get("evil").await?;
    ensure!(ip_modes(&service).iter().all(|mode| mode == "Proxy"), "{:?}", service.status);
    place.only_the_bank(50).await?;
    place.clear().await
}
