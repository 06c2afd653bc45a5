//! What there must be at AWS in the end.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use serde_json::Value;
use sharedlb_testbed::{AwsListener, AwsState};

use super::owner::BY_HAND;
use super::{FOREIGN_THINGS, balancers, groups, is_foreign, listeners};
use crate::api::{Kind, entries, name, text};
use crate::objects::{CLOUD, class_name};
use crate::stage::Stage;

/// Address, port and protocol of a listener.
type Front = (String, u64, String);
/// Whose it is, as its tags say, and the targets behind it.
type Behind = (String, BTreeSet<String>);

/// Requires that there is exactly what the claims' status promises: a listener for
/// each port, whose tags name the claim, with just the pods that are ready and that
/// the claim sends its traffic to; and no target group without a listener.
pub(crate) async fn as_promised(stage: &Stage, state: &AwsState) -> anyhow::Result<()> {
    let mut promised = BTreeMap::new();
    for claim in stage.server.list(Kind::Claim, "", "").await? {
        if text(&claim, "/status/className") == class_name(CLOUD) {
            promised.extend(promises(stage, &claim).await?);
        }
    }
    ensure!(!promised.is_empty(), "no claim is promised anything at AWS");
    let mut found = BTreeMap::new();
    let mut used = BTreeSet::new();
    for (balancer, listener) in listeners(state) {
        let group = state.groups.iter().find(|group| listener.groups == [group.arn.clone()]);
        let group = group.with_context(|| format!("{listener:?} leads to no target group"))?;
        let front = (balancer.address.clone(), listener.port.into(), listener.protocol.clone());
        found.insert(front, (owner(listener), group.targets.iter().cloned().collect()));
        used.insert(&group.arn);
    }
    let differs = |of: &BTreeMap<Front, Behind>, from: &BTreeMap<Front, Behind>| -> Vec<String> {
        let differing = of.iter().filter(|(front, behind)| from.get(*front) != Some(behind));
        differing.map(|(front, behind)| format!("{front:?}: {behind:?}")).collect()
    };
    let (lacking, other) = (differs(&promised, &found), differs(&found, &promised));
    ensure!(lacking.is_empty() && other.is_empty(), "promised is {lacking:#?}, and instead there is {other:#?}");
    let unused: Vec<_> = groups(state).into_iter().filter(|group| !used.contains(&group.arn)).collect();
    ensure!(unused.is_empty(), "unused target groups: {unused:#?}");
    Ok(())
}

/// What the tags of a listener say.
fn owner(listener: &AwsListener) -> String {
    let tag = |key: &str| listener.tags.get(&format!("sharedlb.dev/{key}")).map_or("", String::as_str);
    format!("{}/{}:{}", tag("namespace"), tag("claim"), tag("port"))
}

async fn promises(stage: &Stage, claim: &Value) -> anyhow::Result<Vec<(Front, Behind)>> {
    let address = text(claim, "/status/address").to_owned();
    let (namespace, name) = (text(claim, "/metadata/namespace"), name(claim));
    let service = match claim["spec"]["serviceName"].as_str() {
        Some(service) => stage.server.get(Kind::Service, namespace, service).await?,
        None => None,
    };
    let selector = service.as_ref().map_or_else(|| &claim["spec"]["selector"], |service| &service["spec"]["selector"]);
    let selected = format!("app={}", text(selector, "/app"));
    let pods = stage.server.list(Kind::Pod, namespace, &selected).await?;
    let ready: Vec<&Value> = pods.iter().filter(|pod| is_ready(pod)).collect();
    let mut promises = Vec::new();
    for port in entries(claim, "/status/ports") {
        let asked = entries(claim, "/spec/ports").find(|asked| asked["name"] == port["name"]);
        let asked = asked.with_context(|| format!("{namespace}/{name} has a port that it does not ask for"))?;
        let of_service = service.iter().flat_map(|service| entries(service, "/spec/ports"));
        let of_service = of_service.into_iter().find(|each| each["port"] == asked["targetPort"]);
        let target_port = of_service.map_or(&asked["targetPort"], |each| &each["targetPort"]);
        let target = |pod: &&Value| Some(format!("{}:{}", text(pod, "/status/podIP"), number(pod, target_port)?));
        let front = (address.clone(), port["port"].as_u64().unwrap_or(0), text(port, "/protocol").to_owned());
        let owner = format!("{namespace}/{name}:{}", text(port, "/name"));
        promises.push((front, (owner, ready.iter().filter_map(target).collect())));
    }
    Ok(promises)
}

fn is_ready(pod: &Value) -> bool {
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    pod["metadata"]["deletionTimestamp"].is_null() && entries(pod, "/status/conditions").any(ready)
}

/// The number of a port of a pod, which may be given by its name.
fn number(pod: &Value, port: &Value) -> Option<u64> {
    let named = |each: &&Value| each["name"] == *port;
    port.as_u64().or_else(|| entries(pod, "/spec/containers/0/ports").find(named)?["containerPort"].as_u64())
}

/// Requires that nothing of ours is left, and that what strangers had is there.
pub(crate) fn nothing_left(state: &AwsState) -> anyhow::Result<()> {
    let ours: Vec<&str> = balancers(state).iter().map(|balancer| balancer.name.as_str()).collect();
    ensure!(ours.is_empty(), "load balancers at AWS: {ours:?}");
    let ours: Vec<&str> = groups(state).iter().map(|group| group.name.as_str()).collect();
    ensure!(ours.is_empty(), "target groups at AWS: {ours:?}");
    let foreign = foreign_things(state);
    ensure!(foreign == FOREIGN_THINGS, "of {FOREIGN_THINGS} things of strangers at AWS, {foreign} are left");
    Ok(())
}

/// How many things strangers have, but for what the owner made by hand.
pub(crate) fn foreign_things(state: &AwsState) -> usize {
    let of = |tags: &BTreeMap<String, String>| usize::from(is_foreign(tags));
    let balancers = state.balancers.iter().map(|each| of(&each.tags));
    let listeners = state.balancers.iter().flat_map(|each| &each.listeners).map(|each| of(&each.tags));
    let groups = state.groups.iter().filter(|each| !each.name.starts_with(BY_HAND));
    balancers.chain(listeners).chain(groups.map(|each| of(&each.tags))).sum()
}
