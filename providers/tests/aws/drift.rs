//! What somebody changes by hand is found and made good, and so is what a class
//! changes.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sharedlb_providers::aws::{HealthCheck, Settings, TargetKind};
use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::{
    Change, ChangeSet, Error, FrontPort, Listener, ListenerKey, ListenerOptions, Protocol, Provider, SessionAffinity,
    Transport,
};
use sharedlb_testbed::AwsFault;

use crate::peer::{Cloud, text};
use crate::steps::{converge, is_as_wanted, lb, listener, observe, tcp, wanted};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    a_listener_deleted_by_hand_is_opened_again,
    a_port_that_became_foreign_keeps_no_target_group,
    a_listener_pointed_elsewhere_by_hand_is_pointed_back,
    a_redirected_listener_that_is_no_longer_desired_is_closed,
    what_is_prepared_for_a_listener_that_waits_stays_until_nothing_waits,
    targets_changed_by_hand_are_corrected,
    settings_changed_by_hand_are_corrected,
    a_load_balancer_deleted_by_hand_is_recreated,
    target_groups_of_a_killed_process_are_used_or_removed,
    settings_that_the_class_changes_reach_what_there_is,
    session_affinity_comes_and_goes_and_the_settings_of_the_class_stay,
    a_number_changes_its_protocol,
    targets_change_from_pods_to_nodes,
    an_adopted_load_balancer_keeps_all_but_our_listeners,
    a_foreign_object_with_a_name_like_ours_is_not_ours,
];

fn two() -> [(ListenerKey, Listener); 2] {
    [(tcp(20000), listener("a", [1, 2])), (tcp(20001), listener("b", []))]
}

/// It is made good in one go, and there is nothing left to be done.
async fn is_made_good(cloud: &Cloud, provider: &dyn Provider, listeners: &[(ListenerKey, Listener)]) {
    let observed = observe(provider, 0).await;
    assert_ne!(observed.changes_to(&wanted(provider, listeners.to_vec()), &BTreeSet::new()), [], "it is seen");
    let applied = converge(provider, 0, listeners.to_vec()).await;
    assert!(applied.failed.is_empty() && applied.unconfigured.is_none(), "{applied:?}");
    is_as_wanted(&*cloud.provider().await, listeners.to_vec()).await;
    assert_eq!(cloud.groups().await.iter().filter(|name| name.starts_with("slb-")).count(), listeners.len());
}

async fn a_listener_deleted_by_hand_is_opened_again(cloud: &Cloud) {
    let provider = cloud.provider().await;
    converge(&*provider, 0, two()).await;
    for port in [20000, 20001] {
        let arn = cloud.listeners(&lb(0)).await[&port]["ListenerArn"].clone();
        cloud.call("delete_listener", json!({"ListenerArn": arn})).await;
        is_made_good(cloud, &*provider, &two()).await;
    }
}

async fn a_port_that_became_foreign_keeps_no_target_group(cloud: &Cloud) {
    let provider = cloud.provider().await;
    converge(&*provider, 0, two()).await;
    let arn = cloud.listeners(&lb(0)).await[&20000]["ListenerArn"].clone();
    cloud.call("delete_listener", json!({"ListenerArn": arn})).await;
    let theirs = FrontPort { port: tcp(20000).port, transport: Transport::Tcp };
    cloud.open_foreign(&lb(0), theirs).await;
    let applied = converge(&*provider, 0, two()).await;
    assert!(matches!(applied.failed[&tcp(20000)], Error::PortInUse(_)), "{applied:?}");
    assert!(cloud.has_foreign(&lb(0), theirs).await);
    // Its claim may get another port, and nobody comes back to this one.
    assert_eq!(cloud.groups().await.iter().filter(|name| name.starts_with("slb-")).count(), 1);
}

async fn point_elsewhere(cloud: &Cloud, port: u64) {
    let elsewhere = cloud.foreign_group(&format!("elsewhere-{port}"), "TCP").await;
    let arn = cloud.listeners(&lb(0)).await[&port]["ListenerArn"].clone();
    let action = json!({"Type": "forward", "TargetGroupArn": elsewhere});
    cloud.call("modify_listener", json!({"ListenerArn": arn, "DefaultActions": [action]})).await;
}

async fn a_listener_pointed_elsewhere_by_hand_is_pointed_back(cloud: &Cloud) {
    let provider = cloud.provider().await;
    converge(&*provider, 0, two()).await;
    for port in [20000, 20001] {
        point_elsewhere(cloud, port).await;
        is_made_good(cloud, &*provider, &two()).await;
        let group = text(&cloud.listeners(&lb(0)).await[&port]["DefaultActions"][0]["TargetGroupArn"]);
        assert!(group.contains(&format!("-{port}-tcp-")), "{group}");
    }
}

async fn a_redirected_listener_that_is_no_longer_desired_is_closed(cloud: &Cloud) {
    let provider = cloud.provider().await;
    converge(&*provider, 0, two()).await;
    point_elsewhere(cloud, 20000).await;
    is_made_good(cloud, &*provider, &two()[1..]).await;
    assert_eq!(cloud.listeners(&lb(0)).await.keys().collect::<Vec<_>>(), [&20001]);
}

async fn what_is_prepared_for_a_listener_that_waits_stays_until_nothing_waits(cloud: &Cloud) {
    let (provider, key) = (cloud.provider().await, tcp(20000));
    cloud.fault(AwsFault::error("denied", &["CreateListener"], "AccessDenied", "no").times(None)).await;
    converge(&*provider, 0, [(key, listener("a", [1]))]).await;
    let drift = observe(&*provider, 0).await.drift;
    assert!(drift[&key.port].starts_with("no listener forwards to target group slb-"), "{drift:?}");
    let (none, waiting, nothing) = (wanted(&*provider, []), BTreeSet::from([key]), BTreeSet::new());
    for (waiting, groups) in [(&waiting, 1), (&nothing, 0)] {
        let set = ChangeSet::new(&none, &[Change::Configure]).while_waiting(waiting);
        provider.apply(&lb(0), set).await.expect("it is carried out");
        assert_eq!(cloud.groups().await.len(), groups, "while {waiting:?} wait");
    }
}

async fn targets_changed_by_hand_are_corrected(cloud: &Cloud) {
    let provider = cloud.provider().await;
    converge(&*provider, 0, two()).await;
    let group = cloud.listeners(&lb(0)).await[&20000]["DefaultActions"][0]["TargetGroupArn"].clone();
    let target = |host: &str| json!({"TargetGroupArn": group, "Targets": [{"Id": host, "Port": 6379}]});
    cloud.call("deregister_targets", target("10.244.0.1")).await;
    is_made_good(cloud, &*provider, &two()).await;
    cloud.call("register_targets", target("10.244.0.9")).await;
    is_made_good(cloud, &*provider, &two()).await;
}

async fn settings_changed_by_hand_are_corrected(cloud: &Cloud) {
    let provider = cloud.provider().await;
    converge(&*provider, 0, two()).await;
    let arn = cloud.arn(&lb(0)).await;
    let listener = cloud.listeners(&lb(0)).await[&20000].clone();
    let (group, listener) = (&listener["DefaultActions"][0]["TargetGroupArn"], &listener["ListenerArn"]);
    let cross_zone = json!([{"Key": "load_balancing.cross_zone.enabled", "Value": "true"}]);
    let other =
        cloud.0.ec2("create_security_group", json!({"GroupName": "x", "Description": "x", "VpcId": cloud.0.vpc}));
    let other = other.await.expect("it is made")["GroupId"].clone();
    for (call, parameters) in [
        ("modify_load_balancer_attributes", json!({"LoadBalancerArn": arn, "Attributes": cross_zone})),
        ("set_security_groups", json!({"LoadBalancerArn": arn, "SecurityGroups": [other]})),
        ("modify_target_group", json!({"TargetGroupArn": group, "HealthCheckIntervalSeconds": 10})),
        ("remove_tags", json!({"ResourceArns": [arn], "TagKeys": ["team"]})),
        ("remove_tags", json!({"ResourceArns": [listener], "TagKeys": ["team"]})),
        ("add_tags", json!({"ResourceArns": [group], "Tags": [{"Key": "team", "Value": "x"}]})),
    ] {
        cloud.call(call, parameters).await;
        is_made_good(cloud, &*provider, &two()).await;
    }
}

async fn a_load_balancer_deleted_by_hand_is_recreated(cloud: &Cloud) {
    let provider = cloud.provider().await;
    converge(&*provider, 0, two()).await;
    cloud.call("delete_load_balancer", json!({"LoadBalancerArn": cloud.arn(&lb(0)).await})).await;
    assert_eq!(provider.observe(&lb(0)).await, Ok(None));
    let three = [two()[0].clone(), (tcp(20009), listener("new", [3]))];
    converge(&*provider, 0, three.clone()).await;
    is_as_wanted(&*cloud.provider().await, three).await;
    assert_eq!(cloud.groups().await.len(), 2, "the one that is not wanted any more is gone");
}

async fn target_groups_of_a_killed_process_are_used_or_removed(cloud: &Cloud) {
    for after in 1..3 {
        let dying = cloud.provider().await;
        converge(&*dying, 0, two()).await;
        let four = [&two()[..], &[(tcp(20002), listener("c", [3])), (tcp(20003), listener("d", [4]))]].concat();
        let calls = AwsFault::new("cut", sharedlb_testbed::FaultKind::Unreached, &["CreateListener"]);
        cloud.fault(calls.times(None)).await;
        let applied = crate::steps::alter(&*dying, &two(), &four).await;
        assert_eq!(applied.failed.len(), 2);
        cloud.0.release("cut").await.expect("the network is back");
        assert_eq!(cloud.groups().await.len(), 4);

        // Of the two claims one is gone by the time that the next process starts.
        let provider = cloud.provider().await;
        let three = &four[..2 + after.min(1)];
        is_made_good(cloud, &*provider, three).await;
        provider.delete(&lb(0)).await.expect("it is deleted");
    }
}

async fn settings_that_the_class_changes_reach_what_there_is(cloud: &Cloud) {
    converge(&*cloud.provider().await, 0, two()).await;
    let health_check =
        HealthCheck { interval_seconds: Some(5), healthy_threshold_count: Some(2), ..HealthCheck::default() };
    let changed = Settings {
        health_check,
        deregistration_delay_seconds: Some(7),
        preserve_client_ip: Some(true),
        cross_zone: true,
        tags: [("team".to_owned(), "another".to_owned())].into(),
        ..cloud.settings()
    };
    let provider = cloud.provider_with(changed);
    let three =
        [&two()[..], &[(ListenerKey { port: tcp(53).port, protocol: Protocol::Udp }, listener("dns", [3]))]].concat();
    for _ in 0..2 {
        let applied = converge(&provider, 0, three.clone()).await;
        assert!(applied.failed.is_empty() && applied.unconfigured.is_none(), "{applied:?}");
        is_as_wanted(&provider, three.clone()).await;
    }
    for (port, listener) in cloud.listeners(&lb(0)).await {
        let group = &listener["DefaultActions"][0]["TargetGroupArn"];
        let attributes = cloud.call("describe_target_group_attributes", json!({"TargetGroupArn": group})).await;
        assert_eq!(value(&attributes["Attributes"], "deregistration_delay.timeout_seconds"), "7", "port {port}");
        let described = cloud.call("describe_target_groups", json!({"TargetGroupArns": [group]})).await;
        assert_eq!(described["TargetGroups"][0]["HealthCheckIntervalSeconds"], 5, "port {port}");
    }
    // And back, with what the class no longer says as AWS has it by itself.
    let provider = cloud.provider().await;
    is_made_good(cloud, &*provider, &three).await;
    let group = cloud.listeners(&lb(0)).await[&20000]["DefaultActions"][0]["TargetGroupArn"].clone();
    let attributes = cloud.call("describe_target_group_attributes", json!({"TargetGroupArn": group})).await;
    assert_eq!(value(&attributes["Attributes"], "deregistration_delay.timeout_seconds"), "300");
}

async fn session_affinity_comes_and_goes_and_the_settings_of_the_class_stay(cloud: &Cloud) {
    let provider = cloud.provider_with(Settings { deregistration_delay_seconds: Some(7), ..cloud.settings() });
    let with = |affinity: bool| {
        let options = ListenerOptions::new([], affinity.then(SessionAffinity::default));
        [(tcp(20000), Listener { options, ..listener("a", [1, 2]) }), (tcp(20001), listener("b", []))]
    };
    let attributes = async |port: u64| {
        let group = cloud.listeners(&lb(0)).await[&port]["DefaultActions"][0]["TargetGroupArn"].clone();
        cloud.call("describe_target_group_attributes", json!({"TargetGroupArn": group})).await["Attributes"].clone()
    };
    for affinity in [true, false, true] {
        converge(&provider, 0, with(affinity)).await;
        is_as_wanted(&provider, with(affinity)).await;
        for (port, expected) in [(20000, affinity), (20001, false)] {
            let found = attributes(port).await;
            assert_eq!(value(&found, "stickiness.enabled"), expected.to_string(), "port {port}");
            assert_eq!(value(&found, "deregistration_delay.timeout_seconds"), "7", "port {port}");
        }
    }
    // A setting of the class that changes takes no affinity away.
    let provider = cloud.provider().await;
    converge(&*provider, 0, with(true)).await;
    is_as_wanted(&*cloud.provider().await, with(true)).await;
    let found = attributes(20000).await;
    assert_eq!(value(&found, "stickiness.enabled"), "true");
    assert_eq!(value(&found, "stickiness.type"), "source_ip");
    assert_eq!(value(&found, "deregistration_delay.timeout_seconds"), "300");
}

/// The value of a key in a list of keys and values.
fn value(list: &Value, key: &str) -> String {
    let found = list.as_array().into_iter().flatten().find(|item| item["Key"] == key);
    text(&found.unwrap_or_else(|| panic!("there is no {key} in {list}"))["Value"])
}

async fn a_number_changes_its_protocol(cloud: &Cloud) {
    let provider = cloud.provider().await;
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::TcpUdp, Protocol::Tcp] {
        let one = [(ListenerKey { port: tcp(20000).port, protocol }, listener("a", [1]))];
        let applied = converge(&*provider, 0, one.clone()).await;
        assert!(applied.failed.is_empty(), "{applied:?}");
        is_as_wanted(&*cloud.provider().await, one).await;
        assert_eq!(cloud.groups().await.len(), 1);
    }
}

async fn targets_change_from_pods_to_nodes(cloud: &Cloud) {
    converge(&*cloud.provider().await, 0, two()).await;
    let instance = cloud.0.ec2(
        "run_instances",
        json!({
            "ImageId": "ami-12345678", "SubnetId": cloud.0.subnets[0], "MinCount": 1, "MaxCount": 1,
        }),
    );
    let instance = text(&instance.await.expect("it starts")["Instances"][0]["InstanceId"]);
    let provider = cloud.provider_with(Settings { target_kind: TargetKind::Node, ..cloud.settings() });
    let mut node = listener("a", [1]).backends.first().cloned().expect("it has one");
    node.provider_id = Some(format!("aws:///us-test-1a/{instance}").into());
    let node = provider.as_observed(node).expect("it is an instance");
    let on_node = [(tcp(20000), Listener { backends: [node].into(), ..listener("a", []) })];
    let applied = converge(&provider, 0, on_node.clone()).await;
    assert!(applied.failed.is_empty() && applied.unconfigured.is_none(), "{applied:?}");
    is_as_wanted(&provider, on_node).await;
    assert_eq!(cloud.groups().await.len(), 1, "those with pods are gone");
}

async fn an_adopted_load_balancer_keeps_all_but_our_listeners(cloud: &Cloud) {
    let made = json!({"Name": "theirs", "Type": "network", "Scheme": "internal", "Subnets": cloud.0.subnets});
    let arn = text(&cloud.call("create_load_balancer", made).await["LoadBalancers"][0]["LoadBalancerArn"]);
    let settings = Settings {
        load_balancer_arn: Some(arn.clone()),
        subnet_mappings: Vec::new(),
        security_groups: Vec::new(),
        ..cloud.settings()
    };
    let provider = cloud.provider_with(settings.clone());
    let group = cloud.foreign_group("theirs-22", "TCP").await;
    let theirs = json!({
        "LoadBalancerArn": arn, "Port": 22, "Protocol": "TCP",
        "DefaultActions": [{"Type": "forward", "TargetGroupArn": group}],
    });
    cloud.call("create_listener", theirs).await;
    cloud.actions().await;
    for desired in [two().to_vec(), vec![two()[0].clone()]] {
        let applied = converge(&provider, 0, desired.clone()).await;
        assert!(applied.failed.is_empty() && applied.unconfigured.is_none(), "{applied:?}");
        is_as_wanted(&cloud.provider_with(settings.clone()), desired).await;
    }
    assert_eq!(observe(&provider, 0).await.foreign.len(), 1);
    provider.delete(&lb(0)).await.expect("our part is deleted");
    let touched = cloud.actions().await;
    assert!(
        !touched.iter().any(|action| action.ends_with("LoadBalancer")
            || action.contains("LoadBalancerAttributes") && !action.starts_with("Describe")),
        "{touched:?}"
    );
    let listeners = cloud.call("describe_listeners", json!({"LoadBalancerArn": arn})).await;
    assert_eq!(listeners["Listeners"].as_array().map(Vec::len), Some(1), "theirs is there, and ours are not");
    assert_eq!(cloud.groups().await, ["theirs-22"]);

    cloud.call("delete_load_balancer", json!({"LoadBalancerArn": arn})).await;
    let refused = provider.observe(&lb(0)).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("does not exist")));
    provider.delete(&lb(0)).await.expect("there is nothing");
}

async fn a_foreign_object_with_a_name_like_ours_is_not_ours(cloud: &Cloud) {
    let provider = cloud.provider().await;
    converge(&*provider, 0, [(tcp(20000), listener("a", [1]))]).await;
    let ours = cloud.groups().await[0].clone();
    let theirs = ours.replace("-20000-", "-20001-");
    cloud.foreign_group(&theirs, "TCP").await;
    is_as_wanted(&*provider, [(tcp(20000), listener("a", [1]))]).await;
    let both = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [1]))];
    let applied = converge(&*provider, 0, both).await;
    assert_eq!(applied.failed.keys().collect::<Vec<_>>(), [&tcp(20001)], "{applied:?}");
    provider.delete(&lb(0)).await.expect("ours is deleted");
    assert_eq!(cloud.groups().await, [theirs]);
}
