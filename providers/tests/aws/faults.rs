//! What goes wrong with calls, and what is made of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;
use serde_json::json;
use sharedlb_providers::aws::{Aws, Clients, Rates, Settings};
use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::{ChangeSet, Error, FrontPort, ListenerKey, Protocol, Provider, Transport, diff};
use sharedlb_testbed::{AwsFault, FaultKind};
use tokio::sync::Notify;

use crate::peer::Cloud;
use crate::steps::{alter, converge, is_as_wanted, lb, listener, observe, tcp, wanted};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    a_lost_answer_duplicates_nothing_and_leaves_nothing_behind,
    a_gate_that_closes_in_the_middle_lets_no_further_change_pass,
    a_missing_permission_is_named,
    missing_credentials_are_reported_with_what_to_do,
    a_foreign_listener_that_came_first_is_in_use,
    foreign_listeners_leave_less_room,
    foreign_targets_leave_less_room,
    a_full_load_balancer_reports_its_number_of_listeners,
    pods_of_a_full_load_balancer_are_replaced,
    a_target_group_in_use_for_a_moment_goes_later,
    a_delete_that_is_cut_off_is_finished_by_the_next,
    deletion_protection_says_what_to_do,
    a_load_balancer_with_foreign_listeners_is_not_deleted,
    the_load_balancer_of_another_cluster_is_left_alone,
    a_missing_security_group_blocks_no_listener,
    what_is_made_carries_the_tag_that_the_policy_wants,
    backends_that_can_be_no_targets_fail_alone,
];

async fn a_lost_answer_duplicates_nothing_and_leaves_nothing_behind(cloud: &Cloud) {
    let udp = ListenerKey { port: tcp(20003).port, protocol: Protocol::Udp };
    let before =
        [(tcp(20000), listener("a", [1, 2])), (tcp(20001), listener("b", [3])), (tcp(20003), listener("d", [6]))];
    let after = [(tcp(20000), listener("a", [2, 4])), (tcp(20002), listener("c", [5])), (udp, listener("d", [6]))];
    let actions = [
        "CreateLoadBalancer",
        "CreateTargetGroup",
        "RegisterTargets",
        "CreateListener",
        "DeregisterTargets",
        "DeleteListener",
        "DeleteTargetGroup",
        "ModifyListener",
    ];
    for action in actions {
        let provider = cloud.provider().await;
        cloud.fault(AwsFault::new("lost", FaultKind::Lost, &[action])).await;
        for desired in [before.to_vec(), after.to_vec()] {
            let desired = wanted(&*provider, desired);
            for _ in 0..3 {
                let seen = provider.observe(&lb(0)).await.expect("it can be observed").unwrap_or_default();
                let changes = diff(&seen.load_balancer, &desired);
                let _ = provider.apply(&lb(0), ChangeSet::new(&desired, &changes)).await;
            }
        }
        assert_eq!(cloud.0.hits("lost").await.expect("the fault is known"), 1, "{action} was lost");
        is_as_wanted(&*cloud.provider().await, after.clone()).await;
        assert_eq!(cloud.listeners(&lb(0)).await.keys().collect::<Vec<_>>(), [&20000, &20002, &20003], "{action}");
        assert_eq!(cloud.groups().await.len(), 3, "{action}");
        provider.delete(&lb(0)).await.expect("it is deleted");
        assert_eq!(cloud.groups().await.len(), 0, "{action}");
        cloud.0.release("lost").await.expect("the fault is released");
    }
}

async fn a_gate_that_closes_in_the_middle_lets_no_further_change_pass(cloud: &Cloud) {
    converge(&*cloud.provider().await, 0, []).await;
    cloud.actions().await;
    let (passed, closed) = (AtomicUsize::new(0), Arc::new(Notify::new()));
    let tell = closed.clone();
    let gate = move || -> BoxFuture<'static, Box<dyn Send>> {
        if passed.fetch_add(1, Ordering::SeqCst) < 2 {
            return Box::pin(async { Box::new(()) as Box<dyn Send> });
        }
        tell.notify_one();
        Box::pin(std::future::pending())
    };
    let clients = Clients::new(Some(cloud.config()), Rates::DOCUMENTED.times(1000.0), Some(Arc::new(gate)));
    let provider = Aws::new(cloud.settings(), &clients);
    let wanted = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [2]))];
    tokio::select! {
        _ = converge(&provider, 0, wanted) => panic!("it went on behind a closed gate"),
        () = closed.notified() => {}
    }
    let actions = cloud.actions().await;
    let changes: Vec<_> = actions.iter().filter(|action| !action.starts_with("Describe")).collect();
    assert!(changes.len() <= 2, "{changes:?}");
}

async fn a_missing_permission_is_named(cloud: &Cloud) {
    let provider = cloud.provider().await;
    converge(&*provider, 0, []).await;
    for action in ["CreateTargetGroup", "RegisterTargets", "CreateListener"] {
        cloud.fault(AwsFault::error("denied", &[action], "AccessDenied", "not authorized").times(None)).await;
        let applied = converge(&*provider, 0, [(tcp(20000), listener("a", [1]))]).await;
        let named = format!("elasticloadbalancing:{action}");
        assert!(
            matches!(&applied.failed[&tcp(20000)], Error::Refused(why) if format!("{why:#}").contains(&named)),
            "{applied:?}"
        );
        cloud.0.release("denied").await.expect("it is permitted");
    }
    let applied = converge(&*provider, 0, [(tcp(20000), listener("a", [1]))]).await;
    assert!(applied.failed.is_empty());
}

async fn missing_credentials_are_reported_with_what_to_do(cloud: &Cloud) {
    let nobody = aws_config::SdkConfig::builder()
        .behavior_version(aws_config::BehaviorVersion::latest())
        .endpoint_url(cloud.0.url())
        .build();
    let provider = Aws::new(cloud.settings(), &Clients::new(Some(nobody), Rates::DOCUMENTED, None));
    let refused = provider.observe(&lb(0)).await;
    assert!(matches!(&refused, Err(Error::Refused(why)) if format!("{why:#}").contains("IRSA")), "{refused:?}");
}

async fn a_foreign_listener_that_came_first_is_in_use(cloud: &Cloud) {
    let provider = cloud.provider().await;
    converge(&*provider, 0, []).await;
    let theirs = FrontPort { port: tcp(20000).port, transport: Transport::Tcp };
    cloud.open_foreign(&lb(0), theirs).await;
    let wanted = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [1]))];
    let applied = alter(&*provider, &[], &wanted).await;
    assert!(matches!(applied.failed[&tcp(20000)], Error::PortInUse(_)), "{applied:?}");
    assert_eq!(applied.failed.len(), 1);
    assert!(cloud.has_foreign(&lb(0), theirs).await);

    // Once that is known, nothing is tried in vain.
    observe(&*provider, 0).await;
    cloud.actions().await;
    let applied = alter(&*provider, &wanted[1..], &wanted).await;
    assert!(matches!(applied.failed[&tcp(20000)], Error::PortInUse(_)), "{applied:?}");
    assert_eq!(cloud.actions().await, [""; 0]);
}

async fn foreign_listeners_leave_less_room(cloud: &Cloud) {
    cloud.0.set(json!({"quotas": {"listeners-per-network-load-balancer": 3}})).await.expect("the quota is small");
    let provider = cloud.provider().await;
    let one = [(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, one.clone()).await;
    assert_eq!(observe(&*provider, 0).await.capacity.listeners, Some(3), "by DescribeAccountLimits");
    for port in [1, 2] {
        cloud.open_foreign(&lb(0), FrontPort { port: tcp(port).port, transport: Transport::Tcp }).await;
    }
    let two = [one[0].clone(), (tcp(20001), listener("b", [1]))];
    let applied = alter(&*provider, &one, &two).await;
    assert!(matches!(&applied.failed[&tcp(20001)], Error::NoRoom(_)), "{applied:?}");
    let seen = observe(&*provider, 0).await;
    assert_eq!((seen.capacity.listeners, seen.foreign.len()), (Some(3), 2));
}

async fn foreign_targets_leave_less_room(cloud: &Cloud) {
    let provider = cloud.provider().await;
    converge(&*provider, 0, [(tcp(20000), listener("a", [1]))]).await;
    assert_eq!(observe(&*provider, 0).await.capacity.targets, Some(1500), "500 in each of three zones");
    cloud.open_foreign(&lb(0), FrontPort { port: tcp(1).port, transport: Transport::Tcp }).await;
    let groups = cloud.call("describe_target_groups", json!({"Names": ["theirs-1"]})).await;
    let targets: Vec<_> = (1..=20).map(|host| json!({"Id": format!("10.244.1.{host}"), "Port": 1})).collect();
    let arn = &groups["TargetGroups"][0]["TargetGroupArn"];
    cloud.call("register_targets", json!({"TargetGroupArn": arn, "Targets": targets})).await;
    assert_eq!(observe(&*provider, 0).await.capacity.targets, Some(1480));

    let cross_zone = Settings { cross_zone: true, ..cloud.settings() };
    let provider = cloud.provider_with(cross_zone);
    converge(&provider, 0, [(tcp(20000), listener("a", [1]))]).await;
    assert_eq!(observe(&provider, 0).await.capacity.targets, Some(480), "500 in all");
}

async fn a_full_load_balancer_reports_its_number_of_listeners(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let one = vec![(tcp(20000), listener("a", 1..=8))];
    converge(&*provider, 0, one.clone()).await;
    let quota =
        json!({"targets-per-availability-zone-per-network-load-balancer": 9, "targets-per-network-load-balancer": 9});
    cloud.0.set(json!({"quotas": quota})).await.expect("the quota is small");
    let two = [one.clone(), vec![(tcp(20001), listener("b", 1..=4))]].concat();
    let applied = alter(&*provider, &one, &two).await;
    assert!(
        matches!(&applied.failed[&tcp(20001)], Error::NoRoom(why) if format!("{why:#}").contains("TooManyTargets")),
        "{applied:?}"
    );
    assert_eq!(observe(&*provider, 0).await.capacity.targets, Some(8), "what there is now is all that fits");
    is_as_wanted(&*provider, one).await;
}

async fn pods_of_a_full_load_balancer_are_replaced(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let before = [(tcp(20000), listener("a", 1..=8))];
    converge(&*provider, 0, before.clone()).await;
    cloud.0.set(json!({"quotas": {"targets-per-network-load-balancer": 8}})).await.expect("the quota is small");
    let after = [(tcp(20000), listener("a", 3..=10))];
    let applied = alter(&*provider, &before, &after).await;
    assert!(matches!(&applied.failed[&tcp(20000)], Error::NoRoom(_)), "{applied:?}");
    is_as_wanted(&*provider, [(tcp(20000), listener("a", 3..=8))]).await;
    converge(&*provider, 0, after.clone()).await;
    is_as_wanted(&*cloud.provider().await, after).await;
}

async fn a_target_group_in_use_for_a_moment_goes_later(cloud: &Cloud) {
    cloud.0.set(json!({"in_use_seconds": 3600})).await.expect("they stay in use");
    let provider = cloud.provider().await;
    let both = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [1]))];
    converge(&*provider, 0, both.clone()).await;
    let applied = alter(&*provider, &both, &both[..1]).await;
    assert!(applied.failed.is_empty() && applied.unconfigured.is_none(), "the port is closed: {applied:?}");
    assert_eq!(cloud.groups().await.len(), 2);
    let still = provider.delete(&lb(0)).await;
    assert!(matches!(&still, Err(Error::NotReady(why)) if format!("{why:#}").contains("in use")), "{still:?}");
    assert_eq!(provider.observe(&lb(0)).await, Ok(None));

    cloud.0.set(json!({"clock": 1e6})).await.expect("time goes by");
    tokio::time::timeout(std::time::Duration::from_secs(10), async { while provider.delete(&lb(0)).await.is_err() {} })
        .await
        .expect("they go at last");
    assert_eq!(cloud.groups().await.len(), 0);
}

async fn a_delete_that_is_cut_off_is_finished_by_the_next(cloud: &Cloud) {
    let two = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [2]))];
    for calls in 0.. {
        converge(&*cloud.provider().await, 0, two.clone()).await;
        let died = cloud.provider_dying_after(calls).await.delete(&lb(0)).await.is_err();
        cloud.provider().await.delete(&lb(0)).await.expect("the next one goes on");
        assert_eq!(cloud.provider().await.observe(&lb(0)).await, Ok(None), "cut off after {calls} calls");
        assert_eq!(cloud.groups().await.len(), 0, "cut off after {calls} calls");
        if !died {
            assert!(calls >= 3, "the load balancer and two target groups");
            break;
        }
    }
}

async fn deletion_protection_says_what_to_do(cloud: &Cloud) {
    let attributes = [("deletion_protection.enabled".to_owned(), "true".to_owned())].into();
    let provider = cloud.provider_with(Settings { attributes, ..cloud.settings() });
    let one = [(tcp(20000), listener("a", [1]))];
    converge(&provider, 0, one.clone()).await;
    let refused = provider.delete(&lb(0)).await;
    assert!(
        matches!(&refused, Err(Error::Refused(why)) if format!("{why:#}").contains("deletion_protection.enabled")),
        "{refused:?}"
    );
    assert_eq!(cloud.listeners(&lb(0)).await.len(), 1, "nothing was touched");

    let attributes = [("deletion_protection.enabled".to_owned(), "false".to_owned())].into();
    let provider = cloud.provider_with(Settings { attributes, ..cloud.settings() });
    converge(&provider, 0, one).await;
    provider.delete(&lb(0)).await.expect("it is not protected any more");
    assert_eq!(provider.observe(&lb(0)).await, Ok(None));
}

async fn a_load_balancer_with_foreign_listeners_is_not_deleted(cloud: &Cloud) {
    let provider = cloud.provider().await;
    converge(&*provider, 0, [(tcp(20000), listener("a", [1]))]).await;
    let theirs = FrontPort { port: tcp(22).port, transport: Transport::Tcp };
    cloud.open_foreign(&lb(0), theirs).await;
    let refused = provider.delete(&lb(0)).await;
    assert!(matches!(&refused, Err(Error::Refused(why)) if format!("{why:#}").contains("22/TCP")), "{refused:?}");
    assert!(cloud.has_foreign(&lb(0), theirs).await);
    assert_eq!((cloud.listeners(&lb(0)).await.len(), cloud.groups().await.len()), (1, 1), "ours is gone");
}

async fn the_load_balancer_of_another_cluster_is_left_alone(cloud: &Cloud) {
    let theirs = cloud.provider_with(Settings { cluster_id: "another".into(), ..cloud.settings() });
    let one = [(tcp(20000), listener("a", [1]))];
    converge(&theirs, 0, one.clone()).await;

    let ours = cloud.provider().await;
    let refused = ours.observe(&lb(0)).await;
    assert!(matches!(&refused, Err(Error::Refused(why)) if format!("{why:#}").contains("not ours")), "{refused:?}");
    let desired = wanted(&*ours, [(tcp(20001), listener("b", [1]))]);
    let refused = ours.apply(&lb(0), ChangeSet::new(&desired, &diff(&wanted(&*ours, []), &desired))).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    ours.delete(&lb(0)).await.expect("there is nothing of ours");
    is_as_wanted(&theirs, one).await;
}

async fn a_missing_security_group_blocks_no_listener(cloud: &Cloud) {
    let one = [(tcp(20000), listener("a", [1]))];
    converge(&*cloud.provider().await, 0, one.clone()).await;
    let security_groups = vec!["sg-00000000000000000".to_owned()];
    let provider = cloud.provider_with(Settings { security_groups, ..cloud.settings() });
    let two = [one[0].clone(), (tcp(20001), listener("b", [1]))];
    let applied = converge(&provider, 0, two.clone()).await;
    assert!(applied.failed.is_empty());
    let why = format!("{:#}", applied.unconfigured.expect("it is reported"));
    assert!(why.contains("SetSecurityGroups") && why.contains("sg-00000000000000000"), "{why}");
    assert_eq!(observe(&provider, 0).await.load_balancer.listeners, wanted(&provider, two).listeners);
}

async fn what_is_made_carries_the_tag_that_the_policy_wants(cloud: &Cloud) {
    cloud.0.set(json!({"required_tag": ["sharedlb.dev/cluster", "cluster"]})).await.expect("the policy is set");
    let settings = Settings { deregistration_delay_seconds: Some(10), ..cloud.settings() };
    let provider = cloud.provider_with(settings.clone());
    let udp = ListenerKey { port: tcp(20000).port, protocol: Protocol::Udp };
    let steps = [
        vec![(tcp(20000), listener("a", [1]))],
        vec![(tcp(20000), listener("b", [2]))],
        vec![(udp, listener("b", [2]))],
        vec![],
    ];
    for desired in steps {
        let applied = converge(&provider, 0, desired.clone()).await;
        assert!(applied.failed.is_empty() && applied.unconfigured.is_none(), "{applied:?}");
        is_as_wanted(&provider, desired).await;
    }
    provider.delete(&lb(0)).await.expect("it is permitted");
}

async fn backends_that_can_be_no_targets_fail_alone(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let mut bad = listener("a", []);
    let mut backend = listener("a", [1]).backends.first().cloned().expect("it has one");
    backend.address = "fd00::1".parse().expect("an address");
    assert_eq!(provider.as_observed(backend.clone()), None, "it is left out before it comes to this");
    bad.backends = bad.backends.iter().cloned().chain([backend]).collect();
    converge(&*provider, 0, []).await;
    let applied = alter(&*provider, &[], &[(tcp(20000), bad), (tcp(20001), listener("b", [1]))]).await;
    assert!(
        matches!(&applied.failed[&tcp(20000)], Error::Refused(why) if format!("{why:#}").contains("fd00::1")),
        "{applied:?}"
    );
    assert_eq!(cloud.listeners(&lb(0)).await.keys().collect::<Vec<_>>(), [&20001]);
}
