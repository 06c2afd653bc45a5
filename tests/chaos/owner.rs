//! What the load balancers' owner does to them by hand: to the Services that
//! they are, and to their EndpointSlices.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::api::{Kind, entries, name, text};
use crate::objects::SYSTEM;
use crate::plan::{Deed, Step};
use crate::report::Became;
use crate::stage::{Stage, Times};

/// How the names of the owner's own ports begin.
pub(crate) const OWN_PORT: &str = "hand-";
/// How the names begin that the owner gives to ports of ours. They are still
/// ours to correct.
const RENAMED: &str = "renamed-";
/// How addresses begin that only the owner adds to a slice. No pod has
/// such a one.
pub(crate) const BY_HAND: &str = "10.245.";

/// What our load balancers' objects are known by.
const OURS: &str = "sharedlb.dev/load-balancer,sharedlb.dev/cluster-id!=another";
const CLASS: &str = "sharedlb.dev/class";

/// Does what the owner does, in order.
pub(crate) async fn owner(stage: &Stage, times: Times, steps: &[Step<Deed>]) {
    for step in steps {
        if !times.come(step).await {
            break;
        }
        let became = match act(stage, step.act).await {
            Ok(None) => Became::Void,
            other => Became::of(&other),
        };
        stage.report.count("owner", step.act, became);
    }
}

/// None: there was nothing to do it to.
async fn act(stage: &Stage, deed: Deed) -> anyhow::Result<Option<()>> {
    let server = &stage.server;
    match deed {
        Deed::DeleteSlice { nth } | Deed::EmptySlice { nth } | Deed::AddAddress { nth } => {
            let Some(slice) = pick(server.list(Kind::Slice, SYSTEM, OURS).await?, nth) else { return Ok(None) };
            match deed {
                Deed::DeleteSlice { .. } => server.delete(Kind::Slice, SYSTEM, name(&slice)).await?,
                Deed::EmptySlice { .. } => change(stage, Kind::Slice, &slice, json!({"endpoints": []})).await?,
                _ => change(stage, Kind::Slice, &slice, with_address(&slice)).await?,
            }
        }
        _ => {
            let Some(service) = pick(server.list(Kind::Service, SYSTEM, OURS).await?, deed.nth()) else {
                return Ok(None);
            };
            let name = name(&service).to_owned();
            stage.observer.expect_by_hand(&name);
            let done = to_service(stage, deed, service).await;
            // Otherwise it may have happened, or happen yet, and stays expected.
            if done.is_ok() {
                stage.observer.altered_by_hand(&name).await?;
            }
            return done;
        }
    }
    Ok(Some(()))
}

async fn to_service(stage: &Stage, deed: Deed, service: Value) -> anyhow::Result<Option<()>> {
    let mut ports: Vec<Value> = entries(&service, "/spec/ports").cloned().collect();
    let ours: Vec<usize> = (0..ports.len()).filter(|&nth| !is_own(&ports[nth]) && ports.len() > 1).collect();
    match deed {
        Deed::DeleteService { .. } => stage.server.delete(Kind::Service, SYSTEM, name(&service)).await?,
        Deed::RemovePort { port, .. } => {
            let Some(nth) = pick(ours, port) else { return Ok(None) };
            ports.remove(nth);
            change(stage, Kind::Service, &service, json!({"spec": {"ports": ports}})).await?;
        }
        Deed::TakePort { port, .. } => {
            let Some(nth) = pick(ours, port) else { return Ok(None) };
            let mut taken = ports.remove(nth);
            let service = changed(stage, Kind::Service, &service, json!({"spec": {"ports": ports}})).await?;
            taken["name"] = json!(format!("{OWN_PORT}{}", text(&taken, "/name")));
            ports.push(taken);
            change(stage, Kind::Service, &service, json!({"spec": {"ports": ports}})).await?;
        }
        Deed::RenamePort { port, .. } => {
            let Some(nth) = pick(ours, port) else { return Ok(None) };
            ports[nth]["name"] = json!(format!("{RENAMED}{}", text(&ports[nth], "/name")));
            change(stage, Kind::Service, &service, json!({"spec": {"ports": ports}})).await?;
        }
        Deed::AddPort { number, .. } => {
            // Mostly one that may be assigned, now and then one that is asked for.
            let number = if number < 900 { 20000 + number % 61 } else { 5000 + number % 2 };
            ports.push(json!({"name": format!("{OWN_PORT}{number}"), "port": number, "protocol": "TCP"}));
            change(stage, Kind::Service, &service, json!({"spec": {"ports": ports}})).await?;
        }
        Deed::RemoveOwnPorts { .. } => return remove_own_ports(stage, &service).await,
        Deed::ChangeType { .. } => {
            let cluster_ip =
                json!({"type": "ClusterIP", "allocateLoadBalancerNodePorts": null, "externalTrafficPolicy": null});
            change(stage, Kind::Service, &service, json!({"spec": cluster_ip})).await?;
        }
        Deed::Disown { lasting, .. } => disown(stage, &service, Duration::from_millis(lasting)).await?,
        _ => {
            let annotations = json!({"sharedlb.dev/attributes": null});
            change(stage, Kind::Service, &service, json!({"metadata": {"annotations": annotations}})).await?;
        }
    }
    Ok(Some(()))
}

/// Removes the owner's ports from a Service. The observer is told, for whom it
/// would be somebody else's doing. None: there are none.
async fn remove_own_ports(stage: &Stage, service: &Value) -> anyhow::Result<Option<()>> {
    let ports = entries(service, "/spec/ports");
    let (own, others): (Vec<_>, Vec<_>) = ports.partition(|port| is_own(port));
    if own.is_empty() || others.is_empty() {
        return Ok(None);
    }
    stage.observer.expect_removal(name(service));
    let removed = change(stage, Kind::Service, service, json!({"spec": {"ports": others}})).await;
    // Otherwise it may have happened, or happen yet, and stays expected.
    if removed.is_ok() {
        stage.observer.removed(name(service)).await?;
    }
    removed.map(Some)
}

/// Takes our label off a Service, and puts it back.
async fn disown(stage: &Stage, service: &Value, lasting: Duration) -> anyhow::Result<()> {
    let class = text(service, "/metadata/labels/sharedlb.dev~1class");
    change(stage, Kind::Service, service, json!({"metadata": {"labels": {CLASS: null}}})).await?;
    tokio::time::sleep(lasting).await;
    give_back(stage, name(service), class).await
}

async fn give_back(stage: &Stage, service: &str, class: &str) -> anyhow::Result<()> {
    let patch = json!({"metadata": {"labels": {CLASS: class}}});
    let given = sharedlb_testbed::eventually("a label to be put back", crate::stage::LIMIT, async || {
        match stage.server.change(Kind::Service, SYSTEM, service, patch.clone()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Some(())),
            other => Ok(other.map(|_| Some(()))?),
        }
    });
    given.await
}

/// Undoes what would be in the way for ever: the owner's ports, and new names.
pub(crate) async fn undo(stage: &Stage) -> anyhow::Result<()> {
    sharedlb_testbed::eventually("the owner's ports to be removed", crate::stage::LIMIT, async || {
        let services = stage.server.list(Kind::Service, SYSTEM, OURS).await?;
        let mut own = services.iter().filter(|service| entries(service, "/spec/ports").any(is_own));
        match own.next() {
            Some(service) => remove_or_replace(stage, service).await.map(|()| None),
            None => Ok(Some(())),
        }
    })
    .await
}

/// A Service must have a port: where all are the owner's, it is deleted.
async fn remove_or_replace(stage: &Stage, service: &Value) -> anyhow::Result<()> {
    stage.observer.expect_by_hand(name(service));
    match remove_own_ports(stage, service).await? {
        Some(()) => Ok(()),
        None => Ok(stage.server.delete(Kind::Service, SYSTEM, name(service)).await?),
    }
}

fn with_address(slice: &Value) -> Value {
    let mut endpoints: Vec<Value> = entries(slice, "/endpoints").cloned().collect();
    let address = if text(slice, "/addressType") == "IPv4" { format!("{BY_HAND}0.1") } else { return json!({}) };
    endpoints.push(json!({"addresses": [address]}));
    json!({"endpoints": endpoints})
}

/// Changes an object if it is still what it was.
async fn change(stage: &Stage, kind: Kind, object: &Value, patch: Value) -> anyhow::Result<()> {
    changed(stage, kind, object, patch).await.map(drop)
}

/// The same; returns what it is then.
async fn changed(stage: &Stage, kind: Kind, object: &Value, mut patch: Value) -> anyhow::Result<Value> {
    patch["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
    let changed = stage.server.change(kind, SYSTEM, name(object), patch).await;
    changed.with_context(|| format!("{kind:?} {}", name(object)))
}

fn is_own(port: &Value) -> bool {
    [OWN_PORT, RENAMED].iter().any(|own| text(port, "/name").starts_with(own))
}

pub(crate) fn pick<T>(mut among: Vec<T>, nth: u64) -> Option<T> {
    let count = among.len() as u64;
    let nth = nth.checked_rem(count)?;
    Some(among.swap_remove(usize::try_from(nth).ok()?))
}

impl Deed {
    fn nth(self) -> u64 {
        match self {
            Self::DeleteService { nth }
            | Self::DeleteSlice { nth }
            | Self::EmptySlice { nth }
            | Self::AddAddress { nth }
            | Self::RemovePort { nth, .. }
            | Self::TakePort { nth, .. }
            | Self::RenamePort { nth, .. }
            | Self::AddPort { nth, .. }
            | Self::RemoveOwnPorts { nth }
            | Self::ChangeType { nth }
            | Self::Disown { nth, .. }
            | Self::DropAnnotation { nth } => nth,
        }
    }
}
