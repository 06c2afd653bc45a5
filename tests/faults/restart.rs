//! Orderly starts and ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use libtest_mimic::Trial;
use serde::de::DeserializeOwned;
use serde_json::json;
use sharedlb_crds::{ConditionType, Reason, SharedLB, SharedLBClass};
use sharedlb_harness::{LIMIT, Launch, Site, Tests, controller_kubeconfig, install};
use sharedlb_testbed::{Cluster, eventually};

use crate::SHAREDLB;
use crate::setting::Setting;

/// How long a graceful end may take.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("started without its CRDs, the controller reports it, and works once they exist", no_definitions),
        test.test("a restart in a steady state writes nothing", settled),
        test.test("SIGTERM ends the controller within five seconds with success, also during a burst", terminated),
    ]
}

async fn no_definitions(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    for crd in sharedlb_crds::crds() {
        cluster.kubectl_output(&["delete", "crd", &crd.name_any(), "--ignore-not-found"]).await?;
    }
    let launch = Launch::new(SHAREDLB, controller_kubeconfig(&cluster).await?, &cluster);
    let mut controller = launch.alone().verbose().start()?;
    for _ in 0..3 {
        eventually("/readyz to say what is missing", LIMIT, async || {
            let answer = controller.get("/readyz").await?;
            let says = answer.body().contains("sharedlbs") || answer.body().contains("SharedLB");
            ensure!(answer.status() == 503 && says, "/readyz answers {answer:?}");
            Ok(Some(()))
        })
        .await?;
    }
    let answer = controller.get("/healthz").await?;
    ensure!(answer.status() == 200, "/healthz answers {answer:?}");
    ensure!(controller.is_running()?, "it has ended");
    install(&cluster).await?;
    controller.until_ready().await?;
    let site = Site::with_pod(&cluster, "no-definitions", json!({})).await?;
    site.assigned("web").await?;
    site.delete("web").await?;
    site.delete_class().await?;
    site.class_gone().await?;
    controller.kill().await
}

async fn settled(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut setting = Setting::start(&cluster, "settled").await?;
    setting.site.create_burst(0..40).await?;
    let lost = json!({"selector": {"app": "web"}, "address": "192.0.2.1", "ports": [{"targetPort": "http"}]});
    setting.site.claim_with("lost", lost).await?;
    setting.site.refused("lost", Reason::AddressUnknown, &[]).await?;
    setting.site.claim_with("nobody", json!({"selector": {"app": "nobody"}, "ports": [{"targetPort": 1}]})).await?;
    setting.site.without_backends("nobody", &[]).await?;
    setting.site.all_ready(40).await?;
    let addresses = all_told(&setting.site, 41).await?;
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    setting.site.refused("lost", Reason::AddressUnknown, &addresses).await?;
    let ended = setting.replica.terminate().await?;
    ensure!(ended.success(), "it ended with {ended}");

    let before = versions(&cluster.admin()).await?;
    let writes = setting.replica.proxy.faults.writes();
    setting.replica.start()?;
    let controller = setting.replica.controller_mut()?;
    controller.until_ready().await?;
    eventually("every load balancer to have been looked at", LIMIT, async || {
        let metrics = controller.metrics().await?;
        let runs = metrics.sum("sharedlb_load_balancer_run_duration_seconds_count", &[]);
        ensure!(runs >= 2.0, "{runs} runs");
        Ok(Some(()))
    })
    .await?;
    let after = versions(&cluster.admin()).await?;
    let written: Vec<_> = after.iter().filter(|(object, version)| before.get(*object) != Some(version)).collect();
    ensure!(written.is_empty() && before.len() == after.len(), "written: {written:#?}");
    let writes = setting.replica.proxy.faults.writes() - writes;
    ensure!(writes == 0, "it made {writes} writes");
    setting.nobody_wronged(41).await?;
    setting.clear().await
}

/// Waits until the class tells of this many listeners on two load balancers,
/// all of which are well, and returns their addresses.
async fn all_told(site: &Site, listeners: u32) -> anyhow::Result<Vec<String>> {
    let addresses = site.class_status("all listeners", |status| {
        let told: u32 = status.load_balancers.iter().map(|each| each.listeners).sum();
        let addresses: Option<Vec<_>> = status.load_balancers.iter().map(|each| each.address.clone()).collect();
        addresses.filter(|addresses| told == listeners && addresses.len() == 2)
    });
    let addresses = addresses.await?;
    site.class_verdict(ConditionType::Ready, ("True", Reason::Ready)).await?;
    Ok(addresses)
}

async fn terminated(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut setting = Setting::start(&cluster, "terminated").await?;
    setting.site.create_burst(0..30).await?;
    let asked = Instant::now();
    let ended = setting.replica.terminate().await?;
    let took = asked.elapsed();
    ensure!(ended.success(), "it ended with {ended}");
    ensure!(took < GRACE, "it took {took:?}");
    setting.replica.start()?;
    setting.site.all_ready(30).await?;
    setting.nobody_wronged(30).await?;
    setting.clear().await
}

/// The versions of all objects that the controller writes.
async fn versions(client: &Client) -> anyhow::Result<BTreeMap<String, String>> {
    let mut versions = BTreeMap::new();
    add_versions::<SharedLB>(client, &mut versions).await?;
    add_versions::<SharedLBClass>(client, &mut versions).await?;
    add_versions::<Service>(client, &mut versions).await?;
    add_versions::<EndpointSlice>(client, &mut versions).await?;
    add_versions::<Event>(client, &mut versions).await?;
    Ok(versions)
}

async fn add_versions<K>(client: &Client, versions: &mut BTreeMap<String, String>) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    for object in Api::<K>::all(client.clone()).list(&ListParams::default()).await? {
        let name = format!("{} {}/{}", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any());
        versions.insert(name, object.resource_version().unwrap_or_default());
    }
    Ok(())
}
