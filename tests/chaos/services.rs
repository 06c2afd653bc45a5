//! What a team does with its Services that share a load balancer, and what it
//! writes by hand: finalizers and EndpointSlices.

use anyhow::Context;
use serde_json::{Value, json};
use sharedlb_testbed::eventually;

use crate::api::{Kind, entries, name, text};
use crate::objects::{
    self, BARE, HAND_WRITTEN, HOLD, NAMED, claim_name, claim_of_service, namespace_name, pod_name, service_name,
};
use crate::owner::{BY_HAND, pick};
use crate::plan::{CLAIMS, HandSlice, Reshape, Target};
use crate::stage::{LIMIT, Stage};
use crate::{asker, reshape};

/// Gives a Service these ports.
pub(crate) async fn set_ports(stage: &Stage, team: u64, service: u64, ports: Value) -> anyhow::Result<()> {
    let (namespace, name) = (namespace_name(team), service_name(service));
    let patch = json!({"spec": {"ports": ports}});
    Ok(stage.server.change(Kind::Service, &namespace, &name, patch).await.map(drop)?)
}

/// Gives the first port of a Service the number of a port that a claim of another
/// team holds. None: no other team holds one.
pub(crate) async fn covet(stage: &Stage, team: u64, service: u64, nth: u64) -> anyhow::Result<Option<()>> {
    let (namespace, name) = (namespace_name(team), service_name(service));
    let Some(found) = stage.server.get(Kind::Service, &namespace, &name).await? else { return Ok(None) };
    let class = text(&found, "/spec/loadBalancerClass").trim_start_matches("sharedlb.dev/").to_owned();
    let claims = stage.server.list(Kind::Claim, "", "").await?;
    let others = claims.iter().filter(|claim| text(claim, "/metadata/namespace") != namespace);
    let others = others.filter(|claim| text(claim, "/status/className") == class);
    let held: Vec<(&Value, &str)> = others
        .flat_map(|claim| entries(claim, "/status/ports"))
        .map(|port| (&port["port"], if port["protocol"] == "UDP" { "UDP" } else { "TCP" }))
        .collect();
    let Some((number, protocol)) = pick(held, nth) else { return Ok(None) };
    let mut ports: Vec<Value> = entries(&found, "/spec/ports").cloned().collect();
    let first = ports.first_mut().context("a Service has a port")?;
    (first["port"], first["protocol"]) = (number.clone(), json!(protocol));
    first["targetPort"] = if protocol == "UDP" { json!(5353) } else { json!("http") };
    let number = number.as_u64().unwrap_or(0);
    set_ports(stage, team, service, json!(ports)).await?;
    asker::insist(stage, number).await;
    Ok(Some(()))
}

/// Writes the ports of a Service in another way. None: they can't be.
pub(crate) async fn reshape(stage: &Stage, team: u64, service: u64, how: Reshape) -> anyhow::Result<Option<()>> {
    let (namespace, name) = (namespace_name(team), service_name(service));
    let Some(found) = stage.server.get(Kind::Service, &namespace, &name).await? else { return Ok(None) };
    let ports = entries(&found, "/spec/ports").cloned().collect();
    let Some(ports) = reshape::of_service(ports, how) else { return Ok(None) };
    set_ports(stage, team, service, json!(ports)).await.map(Some)
}

/// Puts a finalizer of the team on a claim, and deletes it. None: it is not there,
/// or going already.
pub(crate) async fn hold(stage: &Stage, team: u64, claim: u64) -> anyhow::Result<Option<()>> {
    let namespace = namespace_name(team);
    let name = if claim < CLAIMS { claim_name(claim) } else { claim_of_service(claim - CLAIMS) };
    let found = stage.server.get(Kind::Claim, &namespace, &name).await?;
    let Some(found) = found.filter(|claim| claim["metadata"]["deletionTimestamp"].is_null()) else { return Ok(None) };
    let held: Vec<&Value> = entries(&found, "/metadata/finalizers").collect();
    let finalizers: Vec<Value> = held.into_iter().cloned().chain([json!(HOLD)]).collect();
    set_finalizers(stage, &found, finalizers).await?;
    stage.server.delete(Kind::Claim, &namespace, &name).await?;
    Ok(Some(()))
}

/// Takes the team's finalizers off all its claims. None: there are none.
pub(crate) async fn let_go(stage: &Stage, namespace: &str) -> anyhow::Result<Option<()>> {
    let claims = stage.server.list(Kind::Claim, namespace, "").await?;
    let is_held = |claim: &&Value| entries(claim, "/metadata/finalizers").any(|each| each == HOLD);
    let mut let_go = None;
    for claim in claims.iter().filter(is_held) {
        let others = entries(claim, "/metadata/finalizers").filter(|each| *each != HOLD).cloned().collect();
        set_finalizers(stage, claim, others).await?;
        let_go = Some(());
    }
    Ok(let_go)
}

/// The same, until there is none.
pub(crate) async fn let_all_go(stage: &Stage, namespace: &str) -> anyhow::Result<()> {
    eventually("the team's finalizers to be taken off", LIMIT, async || {
        Ok(let_go(stage, namespace).await?.is_none().then_some(()))
    })
    .await
}

/// Sets the finalizers of a claim if it is still what it was.
async fn set_finalizers(stage: &Stage, claim: &Value, finalizers: Vec<Value>) -> anyhow::Result<()> {
    let version = &claim["metadata"]["resourceVersion"];
    let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}});
    let namespace = text(claim, "/metadata/namespace");
    Ok(stage.server.change(Kind::Claim, namespace, name(claim), patch).await.map(drop)?)
}

/// Writes an EndpointSlice by hand, instead of the nth one. None: there is
/// no such Service, or no pod to lead to.
pub(crate) async fn write_slice(stage: &Stage, team: u64, nth: u64, slice: HandSlice) -> anyhow::Result<Option<()>> {
    let (server, namespace) = (&stage.server, namespace_name(team));
    let Some(service) = find(stage, &namespace, slice.of).await? else { return Ok(None) };
    let forged = slice.forged.then(|| pod_name(team, 0, 0));
    // A forged slice of a Service with a selector counts until Kubernetes removes it
    // (SECURITY.md, "Endpoints that were written by hand"), so it leads to no pod.
    let counts = slice.forged && slice.of != Target::Service(BARE);
    let address = match slice.neighbour.filter(|other| *other != team && !counts) {
        Some(other) => {
            let pod = server.get(Kind::Pod, &namespace_name(other), &pod_name(other, nth, 0)).await?;
            let address = pod.map(|pod| text(&pod, "/status/podIP").to_owned()).filter(|address| !address.is_empty());
            let Some(address) = address else { return Ok(None) };
            address
        }
        None => format!("{BY_HAND}1.{}", nth + 1),
    };
    let name = format!("by-hand-{nth}");
    match server.delete(Kind::Slice, &namespace, &name).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        result => result?,
    }
    server.create(&namespace, &objects::hand_slice(&name, &service, &address, forged.as_deref())).await?;
    Ok(Some(()))
}

async fn find(stage: &Stage, namespace: &str, target: Target) -> anyhow::Result<Option<Value>> {
    let server = &stage.server;
    Ok(match target {
        Target::Service(service) => server.get(Kind::Service, namespace, &service_name(service)).await?,
        Target::Named => server.get(Kind::Service, namespace, NAMED).await?,
        Target::Companion(claim) => companion(stage, namespace, claim).await?,
    })
}

/// The Service that the controller keeps beside a claim.
pub(crate) async fn companion(stage: &Stage, namespace: &str, claim: u64) -> anyhow::Result<Option<Value>> {
    let label = format!("sharedlb.dev/claim={}", claim_name(claim));
    Ok(stage.server.list(Kind::Service, namespace, &label).await?.into_iter().next())
}

/// Deletes the EndpointSlices that were written by hand. None: there are none.
pub(crate) async fn remove_slices(stage: &Stage, namespace: &str) -> anyhow::Result<Option<()>> {
    let mut removed = None;
    for slice in stage.server.list(Kind::Slice, namespace, HAND_WRITTEN).await? {
        match stage.server.delete(Kind::Slice, namespace, name(&slice)).await {
            // Kubernetes removes those itself that say that they are its own.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            result => result?,
        }
        removed = Some(());
    }
    Ok(removed)
}
