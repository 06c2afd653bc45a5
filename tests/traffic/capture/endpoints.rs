//! A Service whose endpoints are written by hand (CVE-2021-25740).

use std::sync::Arc;

use anyhow::Context;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::Tests;
use sharedlb_harness::tenant::fronts;
use sharedlb_testbed::Cluster;

use super::place::{OWN, Place, port};

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![test.test("nothing answers at the port of a Service whose endpoints were written by hand", by_hand)]
}

async fn by_hand(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut place = Place::open(&cluster, "slices-by-hand", json!({"loadBalancers": {"max": 1}})).await?;
    let target = place.victim.pod("target-0", "target").await?;
    let address = target.addresses.first().context("an address")?.to_string();
    place.thief.service("evil", json!({"selector": null, "ports": [port(OWN)]})).await?;
    // In some clusters the role `edit` permits it.
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "evil-1", "namespace": place.thief.site.namespace, "labels": {"kubernetes.io/service-name": "evil"},
        },
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
    });
    cluster.apply(&slice.to_string()).await?;
    place.thief.reports("evil", "Ready", "NoBackends").await?;
    let front = place.thief.until("evil", "an address", |service| fronts(service).first().copied()).await?;
    place.thief.silent(front).await?;
    place.replica.kill().await?;
    place.thief.change("evil", json!({"spec": {"ports": [port(OWN + 1)]}})).await?;
    place.thief.silent(front.at(OWN + 1)).await?;
    place.thief.change("evil", json!({"spec": {"ports": [port(OWN)]}})).await?;
    place.thief.silent(front).await?;
    place.replica.start()?;
    place.thief.silent(front).await?;
    place.thief.reports("evil", "Ready", "NoBackends").await?;
    place.thief.silent(front).await?;
    place.clear().await
}
