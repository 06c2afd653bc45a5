//! A port whose protocol changes, or whose name: its listener stays open.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sharedlb_providers::aws::{Settings, TargetKind};
use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::{Error, Listener, ListenerKey, Owner, Protocol, Provider as _};
use sharedlb_testbed::{AwsCall, AwsFault};

use crate::peer::{Cloud, text};
use crate::steps::{alter, converge, is_as_wanted, lb, listener, observe, tcp};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    a_listener_changes_its_protocol_in_one_call,
    a_listener_without_backends_changes_its_protocol,
    a_port_that_is_renamed_too_is_tagged_after_its_listener_has_changed,
    the_listener_of_another_claim_closes_before_one_of_another_protocol_opens,
    a_listener_stays_as_it_was_while_its_successor_is_refused,
    a_listener_stays_as_it_was_while_there_is_no_room_for_its_successor,
    a_listener_that_waits_for_its_successor_leads_to_no_pod_that_is_gone,
    a_listener_that_waits_for_its_successor_leads_to_no_port_of_a_node_that_is_gone,
    a_protocol_changed_by_hand_is_changed_back,
    a_port_is_renamed_by_tags_alone,
];

/// The port that the tests change.
const PORT: u16 = 20000;
/// The calls by which a listener is replaced.
const REPLACED: [&str; 4] = ["CreateTargetGroup", "RegisterTargets", "ModifyListener", "DeleteTargetGroup"];

fn key(protocol: Protocol) -> ListenerKey {
    ListenerKey { port: tcp(PORT).port, protocol }
}

/// The listener of the claim's port of this name.
fn named(port: &str, hosts: impl IntoIterator<Item = u8>) -> Listener {
    let listener = listener("a", hosts);
    Listener { owner: Owner { port: port.into(), ..listener.owner }, ..listener }
}

/// The calls so far, and forgets them.
async fn calls(cloud: &Cloud) -> Vec<AwsCall> {
    let calls = cloud.0.log().await.expect("the log is there");
    cloud.0.forget().await.expect("the log is emptied");
    calls
}

/// The listener at the port, as AWS describes it.
async fn described(cloud: &Cloud) -> Value {
    cloud.listeners(&lb(0)).await.remove(&u64::from(PORT)).expect("the port is open")
}

/// The hosts that the listener at the port sends traffic to.
async fn hosts(cloud: &Cloud) -> BTreeSet<String> {
    let group = described(cloud).await["DefaultActions"][0]["TargetGroupArn"].clone();
    let health = cloud.call("describe_target_health", json!({"TargetGroupArn": group})).await;
    let targets = health["TargetHealthDescriptions"].as_array().into_iter().flatten();
    let registered = targets.filter(|target| target["TargetHealth"]["State"] != "draining");
    registered.map(|target| text(&target["Target"]["Id"])).collect()
}

async fn a_listener_changes_its_protocol_in_one_call(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let mut before = [(key(Protocol::Tcp), listener("a", [1, 2]))];
    converge(&*provider, 0, before.clone()).await;
    let arn = described(cloud).await["ListenerArn"].clone();
    calls(cloud).await;
    for protocol in [Protocol::TcpUdp, Protocol::Udp, Protocol::TcpUdp, Protocol::Tcp, Protocol::Udp, Protocol::Tcp] {
        let after = [(key(protocol), listener("a", [1, 2]))];
        let applied = alter(&*provider, &before, &after).await;
        assert!(applied.failed.is_empty(), "{applied:?}");
        let made = calls(cloud).await;
        let actions: Vec<&str> = made.iter().map(|call| &*call.action).collect();
        assert_eq!(actions, REPLACED, "from {} to {protocol}", before[0].0);
        assert_eq!(made[2].parameters["Protocol"], protocol.to_string());
        assert_eq!(described(cloud).await["ListenerArn"], arn, "it is the same listener");
        is_as_wanted(&*cloud.provider().await, after.clone()).await;
        assert_eq!(cloud.groups().await.len(), 1, "the group of {} is gone", before[0].0);
        calls(cloud).await;
        before = after;
    }
}

async fn a_listener_without_backends_changes_its_protocol(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let (before, after) = ([(key(Protocol::Tcp), listener("a", []))], [(key(Protocol::TcpUdp), listener("a", []))]);
    converge(&*provider, 0, before.clone()).await;
    cloud.actions().await;
    alter(&*provider, &before, &after).await;
    assert_eq!(cloud.actions().await, ["CreateTargetGroup", "ModifyListener", "DeleteTargetGroup"]);
    is_as_wanted(&*cloud.provider().await, after).await;
}

async fn a_port_that_is_renamed_too_is_tagged_after_its_listener_has_changed(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let (before, after) = ([(key(Protocol::Tcp), named("dns-tcp", [1]))], [(key(Protocol::TcpUdp), named("dns", [1]))]);
    converge(&*provider, 0, before.clone()).await;
    cloud.actions().await;
    alter(&*provider, &before, &after).await;
    let [create, register, modify, delete] = REPLACED;
    assert_eq!(cloud.actions().await, [create, register, modify, "AddTags", delete]);
    is_as_wanted(&*cloud.provider().await, after).await;
}

async fn the_listener_of_another_claim_closes_before_one_of_another_protocol_opens(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let (before, after) = ([(key(Protocol::Tcp), listener("a", [1]))], [(key(Protocol::TcpUdp), listener("b", [2]))]);
    converge(&*provider, 0, before.clone()).await;
    cloud.actions().await;
    alter(&*provider, &before, &after).await;
    let calls = ["DeleteListener", "CreateTargetGroup", "RegisterTargets", "CreateListener", "DeleteTargetGroup"];
    assert_eq!(cloud.actions().await, calls, "the clients of one claim never reach the pods of the other");
    is_as_wanted(&*cloud.provider().await, after).await;
}

async fn a_listener_stays_as_it_was_while_its_successor_is_refused(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let (before, after) = ([(key(Protocol::Tcp), listener("a", [1]))], [(key(Protocol::TcpUdp), listener("a", [1]))]);
    converge(&*provider, 0, before.clone()).await;
    let open = described(cloud).await;
    for action in &REPLACED[..3] {
        cloud.fault(AwsFault::error("no", &[action], "InvalidConfigurationRequest", "not like this").times(None)).await;
        cloud.actions().await;
        let applied = alter(&*provider, &before, &after).await;
        for (key, _) in before.iter().chain(&after) {
            let told = applied.failed.get(key);
            assert!(
                matches!(told, Some(Error::Refused(why)) if format!("{why:#}").contains(action)),
                "{action}: {applied:?}"
            );
        }
        assert!(!cloud.actions().await.iter().any(|action| action.starts_with("De")), "{action}: nothing goes");
        assert_eq!(described(cloud).await, open, "{action}");
        let seen = observe(&*provider, 0).await.load_balancer.listeners;
        assert_eq!(seen, before.clone().into(), "{action}");
        cloud.0.release("no").await.expect("it is taken");
    }
    cloud.actions().await;
    alter(&*provider, &before, &after).await;
    assert_eq!(cloud.actions().await, REPLACED[2..], "what was done already is not done again");
    is_as_wanted(&*cloud.provider().await, after).await;
}

async fn a_listener_stays_as_it_was_while_there_is_no_room_for_its_successor(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let (before, after) =
        ([(key(Protocol::Tcp), listener("a", 1..=8))], [(key(Protocol::TcpUdp), listener("a", 1..=8))]);
    converge(&*provider, 0, before.clone()).await;
    let open = described(cloud).await;
    let quota = |targets: u32| json!({"quotas": {"targets-per-network-load-balancer": targets}});
    cloud.0.set(quota(9)).await.expect("the quota is small");
    let applied = alter(&*provider, &before, &after).await;
    assert!(matches!(&applied.failed[&after[0].0], Error::NoRoom(_)), "{applied:?}");
    assert_eq!(described(cloud).await, open);
    is_as_wanted(&*provider, before.clone()).await;
    cloud.0.set(quota(16)).await.expect("the quota is raised");
    alter(&*provider, &before, &after).await;
    is_as_wanted(&*cloud.provider().await, after).await;
}

async fn a_listener_that_waits_for_its_successor_leads_to_no_pod_that_is_gone(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let before = [(key(Protocol::Tcp), listener("a", [1, 2]))];
    converge(&*provider, 0, before.clone()).await;
    for action in &REPLACED[..3] {
        cloud.fault(AwsFault::error("no", &[action], "InvalidConfigurationRequest", "not like this").times(None)).await;
        // The address of pod 2 may by now be that of another tenant's pod.
        let applied = alter(&*provider, &before, &[(key(Protocol::TcpUdp), listener("a", [1, 3]))]).await;
        assert_eq!(applied.failed.len(), 2, "{action}: {applied:?}");
        assert_eq!(hosts(cloud).await, ["10.244.0.1".to_owned()].into(), "{action}");
        cloud.0.release("no").await.expect("it is taken");
        converge(&*provider, 0, before.clone()).await;
    }
}

async fn a_listener_that_waits_for_its_successor_leads_to_no_port_of_a_node_that_is_gone(cloud: &Cloud) {
    let (image, subnet) = ("ami-12345678", &cloud.0.subnets[0]);
    let machine = json!({"ImageId": image, "SubnetId": subnet, "MinCount": 1, "MaxCount": 1});
    let started = cloud.0.ec2("run_instances", machine).await.expect("it starts");
    let id = format!("aws:///zone/{}", text(&started["Instances"][0]["InstanceId"]));
    let provider = cloud.provider_with(Settings { target_kind: TargetKind::Node, ..cloud.settings() });
    let on_node_port = |port| {
        let mut node = listener("a", [1]).backends.first().cloned().expect("it has one");
        (node.port, node.provider_id) = (tcp(port).port, Some(id.as_str().into()));
        Listener { backends: provider.as_observed(node).into_iter().collect(), ..listener("a", []) }
    };
    let before = [(key(Protocol::Tcp), on_node_port(30001))];
    converge(&provider, 0, before.clone()).await;
    assert_eq!(hosts(cloud).await.len(), 1);
    cloud.fault(AwsFault::error("no", &["ModifyListener"], "InvalidConfigurationRequest", "no").times(None)).await;
    // Kubernetes may by now have given node port 30001 to a Service of another tenant.
    let applied = alter(&provider, &before, &[(key(Protocol::TcpUdp), on_node_port(30002))]).await;
    assert_eq!(applied.failed.len(), 2, "{applied:?}");
    assert_eq!(hosts(cloud).await.len(), 0);
}

async fn a_protocol_changed_by_hand_is_changed_back(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let wanted = [(key(Protocol::TcpUdp), listener("a", [1]))];
    converge(&*provider, 0, wanted.clone()).await;
    let arn = described(cloud).await["ListenerArn"].clone();
    // AWS lets a TCP listener forward to a target group of TCP_UDP.
    cloud.call("modify_listener", json!({"ListenerArn": arn, "Protocol": "TCP"})).await;
    observe(&*provider, 0).await;
    cloud.actions().await;
    let applied = alter(&*provider, &[], &wanted).await;
    assert!(applied.failed.is_empty(), "{applied:?}");
    assert_eq!(cloud.actions().await, ["ModifyListener"]);
    is_as_wanted(&*cloud.provider().await, wanted).await;
}

async fn a_port_is_renamed_by_tags_alone(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let (before, after) = ([(tcp(PORT), named("http", [1, 2]))], [(tcp(PORT), named("web", [1, 2]))]);
    converge(&*provider, 0, before.clone()).await;
    let open = described(cloud).await;
    calls(cloud).await;
    alter(&*provider, &before, &after).await;
    let made = calls(cloud).await;
    assert_eq!(made.iter().map(|call| &*call.action).collect::<Vec<_>>(), ["AddTags"]);
    let of = |prefix: &str| {
        let found = made[0].parameters.iter().filter(|(name, _)| name.starts_with(prefix));
        found.map(|(_, value)| value.clone()).collect::<BTreeSet<String>>()
    };
    let touched = [&open["ListenerArn"], &open["DefaultActions"][0]["TargetGroupArn"]].map(text);
    assert_eq!(of("ResourceArns."), touched.into(), "its listener and its target group, and nothing else");
    assert_eq!(of("Tags."), ["sharedlb.dev/port".to_owned(), "web".to_owned()].into());
    is_as_wanted(&*cloud.provider().await, after.clone()).await;
    calls(cloud).await;

    // All pods are replaced at the same time: the new ones come before the old ones go.
    let moved = [(tcp(PORT), named("www", [3, 4]))];
    alter(&*provider, &after, &moved).await;
    assert_eq!(cloud.actions().await, ["RegisterTargets", "AddTags", "DeregisterTargets"]);
    is_as_wanted(&*cloud.provider().await, moved).await;
}
