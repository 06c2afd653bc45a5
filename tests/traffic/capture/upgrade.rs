//! Statuses that an earlier version wrote, by which kube-proxy captures traffic.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{Patch, PatchParams};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::tenant::ip_modes;
use sharedlb_harness::{Tests, install};
use sharedlb_testbed::Cluster;
use sharedlb_testbed::Protocol::Tcp;

use super::place::{OWN, Place, THIEF, VICTIMS, port};

/// The sources switched off.
const OFF: &[&str] = &["--source-services=false", "--source-configmaps=false"];

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("after an upgrade, no Service keeps an address that kube-proxy captures", upgraded),
        test.test(
            "after an upgrade with the source switched off, no Service keeps an address that kube-proxy captures",
            switched_off,
        ),
        test.test(
            "without the right to correct an address, the Service reports the command for an admin",
            without_right,
        ),
    ]
}

/// The thief's Service with the status that an earlier version wrote, and the
/// victim's number; no controller runs.
async fn captured(place: &mut Place) -> anyhow::Result<()> {
    place.thiefs_service().await?;
    place.replica.kill().await?;
    forge_vip(place).await?;
    place.thief.change("evil", json!({"spec": {"ports": [port(VICTIMS)]}})).await
}

/// Writes what an earlier version wrote where the Service has its ports.
async fn forge_vip(place: &Place) -> anyhow::Result<()> {
    let admin = Api::<Service>::namespaced(place.victim.site.cluster.admin(), &place.thief.site.namespace);
    let mut ingress = serde_json::to_value(place.thief.services.get("evil").await?.status)?["loadBalancer"].clone();
    ingress["ingress"][0]["ipMode"] = json!("VIP");
    let status = Patch::Merge(json!({"status": {"loadBalancer": ingress}}));
    admin.patch_status("evil", &PatchParams::default(), &status).await?;
    Ok(())
}

async fn proxied(place: &Place) -> anyhow::Result<()> {
    place.thief.until("evil", "ipMode Proxy", |service| (ip_modes(service) == ["Proxy"]).then_some(())).await?;
    place.victim.only_answer(place.front, &["bank-0"]).await?;
    place.victim.only_answer_inside(place.front, &["bank-0"]).await?;
    place.only_the_bank(50).await
}

async fn upgraded(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut place = Place::open(&cluster, "upgraded", json!({"loadBalancers": {"max": 1}})).await?;
    captured(&mut place).await?;
    place.replica.start()?;
    place.thief.reports("evil", "Allocated", "PortTaken").await?;
    place.victim.only_answer(place.front, &["bank-0"]).await?;
    place.victim.only_answer_inside(place.front, &["bank-0"]).await?;
    // So is one whose ports are its own.
    place.thief.change("evil", json!({"spec": {"ports": [port(OWN)]}})).await?;
    let own = place.thief.served("evil", &[(OWN, Tcp)]).await?[0];
    place.replica.kill().await?;
    forge_vip(&place).await?;
    place.replica.start()?;
    proxied(&place).await?;
    place.thief.only_answer(own, &[THIEF]).await?;
    place.thief.only_answer_inside(own, &[THIEF]).await?;
    place.clear().await
}

async fn switched_off(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut place = Place::open(&cluster, "upgraded-off", json!({"loadBalancers": {"max": 1}})).await?;
    captured(&mut place).await?;
    let claim = place.thief.claim("evil").await?;
    place.replica.ready_with(OFF).await?;
    proxied(&place).await?;
    let now = place.thief.claim("evil").await?;
    ensure!(now.spec == claim.spec, "it follows the Service: {:?}", now.spec);
    place.replica.kill().await?;
    place.replica.ready_with(&[]).await?;
    place.clear().await
}

async fn without_right(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut place = Place::open(&cluster, "no-right", json!({"loadBalancers": {"max": 1}})).await?;
    captured(&mut place).await?;
    cluster.kubectl_output(&["delete", "clusterrolebinding,clusterrole", "sharedlb-source-services"]).await?;
    place.replica.ready_with(OFF).await?;
    let told = place.thief.event("Service", "evil", "Rejected").await?;
    let command = told.split_once("kubectl ").with_context(|| told.clone())?.1;
    // It is as a shell takes it: the patch is in quotes, and all else is not.
    let (words, patch) = command.trim_end_matches('\'').split_once(" '").with_context(|| told.clone())?;
    let words: Vec<&str> = words.split(' ').chain([patch]).collect();
    // Nothing else is held up by it.
    let spec = json!({"selector": {"app": "bank"}, "ports": [{"targetPort": "http"}]});
    place.victim.site.claim_with("bystander", spec).await?;
    place.victim.site.ready("bystander").await?;
    place.victim.site.delete("bystander").await?;
    cluster.kubectl_output(&words).await?;
    proxied(&place).await?;
    let log = place.replica.controller()?.log()?;
    ensure!(log.lines().any(|line| line.contains("ERROR") && line.contains("evil")), "nothing in the log");
    place.replica.kill().await?;
    install(&cluster).await?;
    place.replica.ready_with(&[]).await?;
    place.thief.reports("evil", "Allocated", "PortTaken").await?;
    place.clear().await
}
