//! Which endpoints of real Services get requests.

use std::sync::Arc;

use anyhow::ensure;
use kube::api::DeleteParams;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_endpoints::{Families, LoadBalancer, NoEndpoint};
use sharedlb_harness::{LIMIT, Tests};
use sharedlb_testbed::{Cluster, eventually};

use crate::setting::{Place, ZONES, pods, until_pods};

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("pods get requests while they are ready, and terminating ones if none is", readiness),
        test.test("a Service without pods has no endpoint, and a deleted one keeps none", without_endpoints),
        test.test("a list gets the endpoints once, without a background task", listed_once),
        test.test("a named port is reached at the number that it has in each pod", named_ports),
        test.test("of a dual-stack Service the preferred IP family is used", dual_stack),
        test.test("requests stay in the zone where the Service prefers close endpoints", zones),
    ]
}

async fn readiness(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let place = Place::make(&cluster, "readiness").await?;
    let load_balancer = place.load_balancer(place.config());
    let first = place.pod("web-0").await?;
    let second = place.pod("web-1").await?;
    until_pods(&load_balancer, &["web-0", "web-1"]).await?;
    second.set_ready(false).await?;
    until_pods(&load_balancer, &["web-0"]).await?;
    second.set_ready(true).await?;
    until_pods(&load_balancer, &["web-0", "web-1"]).await?;

    first.terminate().await?;
    until_pods(&load_balancer, &["web-1"]).await?;
    second.set_ready(false).await?;
    until_pods(&load_balancer, &["web-0"]).await?;
    first.end().await?;
    until_pods(&load_balancer, &[]).await
}

/// Waits until there is no endpoint, for this reason.
async fn until_none(load_balancer: &LoadBalancer, reason: NoEndpoint) -> anyhow::Result<()> {
    eventually(&format!("there to be no endpoint: {reason}"), LIMIT, async || {
        let next = load_balancer.next().map(|endpoint| endpoint.clone());
        ensure!(next == Err(reason.clone()), "it is {next:?}");
        Ok(Some(()))
    })
    .await
}

async fn without_endpoints(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let place = Place::make(&cluster, "without-endpoints").await?;
    let load_balancer = place.load_balancer(place.config());
    until_none(&load_balancer, NoEndpoint::NoneReady).await?;
    let _pod = place.pod("web-0").await?;
    until_pods(&load_balancer, &["web-0"]).await?;
    place.services().delete("web", &DeleteParams::default()).await?;
    until_none(&load_balancer, NoEndpoint::NoneReady).await
}

async fn listed_once(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let place = Place::make(&cluster, "listed-once").await?;
    let load_balancer = LoadBalancer::new(cluster.admin(), place.config());
    let _first = place.pod("web-0").await?;
    eventually("the pod to be in a list", LIMIT, async || {
        load_balancer.sync_endpoints().await?;
        Ok(pods(&load_balancer).contains("web-0").then_some(()))
    })
    .await?;
    // One that is kept up to date shows when there is a second pod.
    let current = place.load_balancer(place.config());
    let _second = place.pod("web-1").await?;
    until_pods(&current, &["web-0", "web-1"]).await?;
    until_pods(&load_balancer, &["web-0"]).await?;
    load_balancer.sync_endpoints().await?;
    until_pods(&load_balancer, &["web-0", "web-1"]).await
}

async fn named_ports(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let ports =
        json!({"ports": [{"name": "web", "port": 80, "targetPort": "http"}, {"name": "metrics", "port": 9090}]});
    let place = Place::make_with(&cluster, "named-ports", ports).await?;
    let _pods = [place.pod_on("web-0", ZONES[0], 8080).await?, place.pod_on("web-1", ZONES[0], 8081).await?];
    let load_balancer = place.load_balancer(place.config().port("web"));
    until_pods(&load_balancer, &["web-0", "web-1"]).await?;
    let mut numbers: Vec<u16> = load_balancer.endpoints().iter().map(|endpoint| endpoint.address.port()).collect();
    numbers.sort_unstable();
    ensure!(numbers == [8080, 8081], "{numbers:?}");

    let names = ["metrics", "web"].map(str::to_owned);
    let unnamed = place.load_balancer(place.config());
    until_none(&unnamed, NoEndpoint::SeveralPorts { ports: names.clone().into() }).await?;
    let misspelt = place.load_balancer(place.config().port("wbe"));
    until_none(&misspelt, NoEndpoint::UnknownPort { port: "wbe".to_owned(), ports: names.into() }).await
}

async fn dual_stack(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    if !cluster.ipv6() {
        eprintln!("skipped: this machine has no IPv6");
        return Ok(());
    }
    let spec = json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80, "targetPort": 8080}]});
    let place = Place::make_with(&cluster, "dual-stack", spec).await?;
    let _pod = place.pod("web-0").await?;
    for (families, is_ipv6) in [(Families::PreferIpv4, false), (Families::PreferIpv6, true), (Families::Ipv6, true)] {
        let load_balancer = place.load_balancer(place.config().families(families));
        eventually(&format!("the pod to be reached with {families:?}"), LIMIT, async || {
            let endpoints: Vec<_> = load_balancer.endpoints().into_iter().collect();
            ensure!(endpoints.len() == 1 && endpoints[0].address.is_ipv6() == is_ipv6, "it is at {endpoints:?}");
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

async fn zones(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let spec = json!({"trafficDistribution": "PreferClose", "ports": [{"port": 80, "targetPort": 8080}]});
    let place = Place::make_with(&cluster, "zones", spec).await?;
    let near = place.pod_on("near", ZONES[0], 8080).await?;
    let _far = place.pod_on("far", ZONES[1], 8080).await?;
    let here = place.load_balancer(place.config().zone(ZONES[0]));
    let nowhere = place.load_balancer(place.config());
    until_pods(&here, &["near"]).await?;
    until_pods(&nowhere, &["far", "near"]).await?;
    near.set_ready(false).await?;
    until_pods(&here, &["far"]).await
}
