//! What the load balancers' owner does to them by hand at AWS.

use std::time::Duration;

use serde_json::{Value, json};
use sharedlb_testbed::{AwsBalancer, AwsListener, AwsRegion, AwsState, eventually};

use super::{CLUSTER, balancers, foreign_tags, groups, is_foreign, listeners, make_group, make_listener, register};
use crate::owner::{self, pick};
use crate::plan::{CloudDeed, Step};
use crate::report::Became;
use crate::stage::{LIMIT, Stage, Times};

/// How the names of the owner's own target groups begin.
pub(super) const BY_HAND: &str = "hand-";

/// Does what the owner does at AWS, in order.
pub(crate) async fn owner(stage: &Stage, times: Times, steps: &[Step<CloudDeed>]) {
    for step in steps {
        if !times.come(step).await {
            break;
        }
        let state = stage.observer.at_aws();
        let became = match act(&stage.region, &state, step.act).await {
            Ok(Some(())) => Became::Done,
            Ok(None) => Became::Void,
            Err(error) if is_void(&error) => Became::Void,
            Err(_) => Became::Failed,
        };
        stage.report.count("owner at AWS", step.act, became);
    }
}

/// Another client was faster, or AWS does not allow it.
fn is_void(error: &anyhow::Error) -> bool {
    let reasons = ["NotFound", "Duplicate", "IncompatibleProtocols", "TargetGroupAssociationLimit"];
    let error = format!("{error:#}");
    reasons.iter().any(|reason| error.contains(reason))
}

/// None: there was nothing to do it to.
async fn act(region: &AwsRegion, state: &AwsState, deed: CloudDeed) -> anyhow::Result<Option<()>> {
    match deed {
        CloudDeed::DeleteBalancer { nth }
        | CloudDeed::AddListener { nth, .. }
        | CloudDeed::RemoveOwnListeners { nth } => {
            let Some(balancer) = pick(balancers(state), nth) else { return Ok(None) };
            to_balancer(region, balancer, deed).await
        }
        CloudDeed::DeleteListener { nth }
        | CloudDeed::PointElsewhere { nth }
        | CloudDeed::Cross { nth, .. }
        | CloudDeed::TakePort { nth } => {
            let Some((balancer, listener)) = pick(listeners(state), nth) else { return Ok(None) };
            to_listener(region, balancer, listener, deed).await
        }
        CloudDeed::Deregister { nth } | CloudDeed::Register { nth } | CloudDeed::RegisterOther { nth, .. } => {
            to_targets(region, state, deed, nth).await
        }
        CloudDeed::Untag { nth, lasting } => untag(region, state, nth, Duration::from_millis(lasting)).await,
    }
}

async fn to_balancer(region: &AwsRegion, balancer: &AwsBalancer, deed: CloudDeed) -> anyhow::Result<Option<()>> {
    match deed {
        CloudDeed::AddListener { number, .. } => {
            // Mostly one that may be assigned, now and then one that is asked for.
            let number = if number < 900 { 20000 + number % 61 } else { 5000 + number % 2 };
            open_own(region, balancer, number).await?;
        }
        CloudDeed::RemoveOwnListeners { .. } => return remove_own(region, balancer).await,
        _ => _ = region.call("delete_load_balancer", json!({"LoadBalancerArn": balancer.arn})).await?,
    }
    Ok(Some(()))
}

async fn to_listener(
    region: &AwsRegion,
    balancer: &AwsBalancer,
    listener: &AwsListener,
    deed: CloudDeed,
) -> anyhow::Result<Option<()>> {
    match deed {
        CloudDeed::PointElsewhere { .. } => point(region, listener, &own_group(region, balancer).await?).await?,
        CloudDeed::Cross { other, .. } => {
            let others = balancer.listeners.iter().filter(|each| each.arn != listener.arn && !is_foreign(&each.tags));
            let others = others.filter(|each| each.protocol == listener.protocol).flat_map(|each| &each.groups);
            let Some(group) = pick(others.collect(), other) else { return Ok(None) };
            point(region, listener, group).await?;
        }
        _ => {
            region.call("delete_listener", json!({"ListenerArn": listener.arn})).await?;
            if matches!(deed, CloudDeed::TakePort { .. }) {
                open_own(region, balancer, listener.port.into()).await?;
            }
        }
    }
    Ok(Some(()))
}

async fn to_targets(region: &AwsRegion, state: &AwsState, deed: CloudDeed, nth: u64) -> anyhow::Result<Option<()>> {
    let Some(group) = pick(groups(state), nth) else { return Ok(None) };
    let of_others = groups(state).into_iter().filter(|each| each.arn != group.arn).flat_map(|each| &each.targets);
    let target = match deed {
        CloudDeed::Deregister { .. } => pick(group.targets.iter().collect(), nth),
        CloudDeed::RegisterOther { other, .. } => pick(of_others.collect(), other),
        _ => None,
    };
    let target = target.and_then(|target| target.rsplit_once(':'));
    let target = target.and_then(|(address, port)| Some((address.to_owned(), port.parse().ok()?)));
    match (deed, target) {
        (CloudDeed::Register { .. }, _) => {
            register(region, &group.arn, &format!("{}0.1", owner::BY_HAND), 8080).await?
        }
        (CloudDeed::RegisterOther { .. }, Some((address, port))) => {
            register(region, &group.arn, &address, port).await?;
        }
        (_, Some((address, port))) => {
            let targets: Value = json!([{"Id": address, "Port": port}]);
            region.call("deregister_targets", json!({"TargetGroupArn": group.arn, "Targets": targets})).await?;
        }
        _ => return Ok(None),
    }
    Ok(Some(()))
}

async fn point(region: &AwsRegion, listener: &AwsListener, group: &str) -> anyhow::Result<()> {
    let actions = json!([{"Type": "forward", "TargetGroupArn": group}]);
    region.call("modify_listener", json!({"ListenerArn": listener.arn, "DefaultActions": actions})).await.map(drop)
}

async fn open_own(region: &AwsRegion, balancer: &AwsBalancer, port: u64) -> anyhow::Result<()> {
    let group = own_group(region, balancer).await?;
    make_listener(region, &balancer.arn, port, &group, &foreign_tags(&[])).await
}

/// The target group that the owner has for its listeners on this load balancer: it
/// can be used by one alone. It stays, as a foreign one.
async fn own_group(region: &AwsRegion, balancer: &AwsBalancer) -> anyhow::Result<String> {
    let id = balancer.arn.rsplit('/').next().unwrap_or_default();
    make_group(region, &format!("{BY_HAND}{id}"), &foreign_tags(&[])).await
}

/// None: there are none.
async fn remove_own(region: &AwsRegion, balancer: &AwsBalancer) -> anyhow::Result<Option<()>> {
    let mut removed = None;
    for listener in balancer.listeners.iter().filter(|listener| is_foreign(&listener.tags)) {
        region.call("delete_listener", json!({"ListenerArn": listener.arn})).await?;
        removed = Some(());
    }
    Ok(removed)
}

/// Takes our tag off a load balancer, a listener or a target group, and puts it back.
async fn untag(region: &AwsRegion, state: &AwsState, nth: u64, lasting: Duration) -> anyhow::Result<Option<()>> {
    let balancers = balancers(state).into_iter().map(|each| (&each.arn, &each.tags));
    let listeners = listeners(state).into_iter().map(|(_, each)| (&each.arn, &each.tags));
    let groups = groups(state).into_iter().map(|each| (&each.arn, &each.tags));
    let all = balancers.chain(listeners).chain(groups).collect();
    let Some((arn, id)) = pick(all, nth).and_then(|(arn, tags)| Some((arn, tags.get(CLUSTER)?))) else {
        return Ok(None);
    };
    region.call("remove_tags", json!({"ResourceArns": [arn], "TagKeys": [CLUSTER]})).await?;
    tokio::time::sleep(lasting).await;
    region.call("add_tags", json!({"ResourceArns": [arn], "Tags": [{"Key": CLUSTER, "Value": id}]})).await?;
    Ok(Some(()))
}

/// Undoes what would be in the way for ever: the owner's own listeners.
pub(crate) async fn undo(stage: &Stage) -> anyhow::Result<()> {
    eventually("the owner's listeners to be removed", LIMIT, async || {
        stage.observer.catch_up().await?;
        let state = stage.observer.at_aws();
        let mut left = false;
        for balancer in balancers(&state) {
            match remove_own(&stage.region, balancer).await {
                Err(error) if !is_void(&error) => return Err(error),
                Ok(None) => {}
                _ => left = true,
            }
        }
        Ok((!left).then_some(()))
    })
    .await
}
