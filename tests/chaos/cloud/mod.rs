//! The class whose load balancers are at AWS: what is there besides them, and
//! what their owner does.

mod end;
mod faults;
mod owner;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sharedlb_testbed::{AwsBalancer, AwsGroup, AwsListener, AwsRegion, AwsState};

use crate::api::text;
use crate::objects::{CLOUD, FOREIGN, class_name};

pub(crate) use end::{as_promised, foreign_things, nothing_left};
pub(crate) use faults::{WRITES, faults};
pub(crate) use owner::{owner, undo};

/// The tags by which we know what is ours, as docs/provider-aws.md has them.
pub(crate) const CLUSTER: &str = "sharedlb.dev/cluster";
pub(crate) const LOAD_BALANCER: &str = "sharedlb.dev/load-balancer";

/// What tells two strangers apart: the tags of their things.
type Pair = (&'static str, &'static str);

/// The `provider` of the class.
pub(crate) fn provider(region: &AwsRegion) -> Value {
    json!({"aws": {
        "region": region.name, "vpcId": region.vpc, "subnets": region.subnets, "scheme": "internal",
    }})
}

/// Makes what belongs to strangers: a load balancer with a listener, and two target
/// groups, one of which nobody uses; and the like of another cluster's controller,
/// for a class of the same name.
pub(crate) async fn make_foreign(region: &AwsRegion) -> anyhow::Result<()> {
    let another = [(CLUSTER, "another"), ("sharedlb.dev/class", class_name(CLOUD)), (LOAD_BALANCER, ANOTHER)];
    make(region, "stranger", &[]).await?;
    make(region, ANOTHER, &another).await
}

/// How many things these are.
pub(crate) const FOREIGN_THINGS: usize = 8;

/// The name of the load balancer of another cluster.
const ANOTHER: &str = "slb-cloud-0-another";

async fn make(region: &AwsRegion, name: &str, tags: &[Pair]) -> anyhow::Result<()> {
    let tags = foreign_tags(tags);
    let balancer =
        json!({"Name": name, "Type": "network", "Scheme": "internal", "Subnets": region.subnets, "Tags": tags});
    let made = region.call("create_load_balancer", balancer).await?;
    let balancer = text(&made, "/LoadBalancers/0/LoadBalancerArn").to_owned();
    let used = make_group(region, &format!("{name}-used"), &tags).await?;
    make_group(region, &format!("{name}-unused"), &tags).await?;
    make_listener(region, &balancer, 20001, &used, &tags).await
}

/// Makes a target group with a target that is nobody's pod, and returns its ARN.
/// One of this name that is there already is as good.
async fn make_group(region: &AwsRegion, name: &str, tags: &Value) -> anyhow::Result<String> {
    let group = json!({
        "Name": name, "Protocol": "TCP", "Port": 9, "TargetType": "ip", "VpcId": region.vpc, "Tags": tags,
    });
    let made = region.call("create_target_group", group).await?;
    let group = text(&made, "/TargetGroups/0/TargetGroupArn").to_owned();
    register(region, &group, "10.245.0.9", 9).await?;
    Ok(group)
}

async fn make_listener(region: &AwsRegion, balancer: &str, port: u64, group: &str, tags: &Value) -> anyhow::Result<()> {
    let listener = json!({
        "LoadBalancerArn": balancer, "Port": port, "Protocol": "TCP", "Tags": tags,
        "DefaultActions": [{"Type": "forward", "TargetGroupArn": group}],
    });
    region.call("create_listener", listener).await.map(drop)
}

/// Registers an address, of whatever network.
async fn register(region: &AwsRegion, group: &str, address: &str, port: u16) -> anyhow::Result<()> {
    let mut target = json!({"Id": address, "Port": port});
    if !address.starts_with("10.244.") {
        target["AvailabilityZone"] = json!("all");
    }
    region.call("register_targets", json!({"TargetGroupArn": group, "Targets": [target]})).await?;
    Ok(())
}

/// Tags of a stranger's things.
fn foreign_tags(more: &[Pair]) -> Value {
    let all = more.iter().chain(&[(FOREIGN, "yes")]);
    all.map(|(key, value)| json!({"Key": key, "Value": value})).collect()
}

/// Whether they are the tags of something that nobody but its owner may change.
pub(crate) fn is_foreign(tags: &BTreeMap<String, String>) -> bool {
    tags.contains_key(FOREIGN)
}

/// Load balancers of ours, whatever tags they have lost.
fn balancers(state: &AwsState) -> Vec<&AwsBalancer> {
    state.balancers.iter().filter(|balancer| !is_foreign(&balancer.tags)).collect()
}

/// Listeners of ours on them, each with its load balancer.
fn listeners(state: &AwsState) -> Vec<(&AwsBalancer, &AwsListener)> {
    let all = balancers(state).into_iter().flat_map(|on| on.listeners.iter().map(move |listener| (on, listener)));
    all.filter(|(_, listener)| !is_foreign(&listener.tags)).collect()
}

/// Target groups of ours.
fn groups(state: &AwsState) -> Vec<&AwsGroup> {
    state.groups.iter().filter(|group| !is_foreign(&group.tags)).collect()
}
