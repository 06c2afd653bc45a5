//! What things cost in calls, and what is told while calls are rationed.

use std::time::Duration;

use serde_json::json;
use sharedlb_providers::aws::Aws;
use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::{ChangeSet, Error, Provider as _, diff};
use sharedlb_testbed::AwsFault;

use crate::peer::Cloud;
use crate::steps::{alter, converge, is_as_wanted, lb, listener, observe, tcp, wanted};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    a_port_costs_three_writes_and_no_reads,
    targets_come_and_go_200_in_a_call,
    a_start_reads_and_changes_nothing,
    lists_of_many_pages_are_read_whole,
    late_work_is_postponed_and_begun_work_is_finished,
    throttling_is_reported_with_the_time_of_the_retry,
    a_listener_that_always_fails_costs_no_observations,
    only_readiness_is_read_while_a_load_balancer_is_provisioned,
];

async fn a_port_costs_three_writes_and_no_reads(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let first = vec![(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, first.clone()).await;
    cloud.actions().await;

    let both = [first.clone(), vec![(tcp(20001), listener("b", [2, 3]))]].concat();
    alter(&*provider, &first, &both).await;
    assert_eq!(cloud.actions().await, ["CreateTargetGroup", "RegisterTargets", "CreateListener"]);
    let empty = [first.clone(), vec![(tcp(20001), listener("b", []))]].concat();
    alter(&*provider, &both, &empty).await;
    assert_eq!(cloud.actions().await, ["DeregisterTargets"], "a listener without backends stays");
    let other = [first.clone(), vec![(tcp(20001), listener("b", [4]))]].concat();
    alter(&*provider, &empty, &other).await;
    assert_eq!(cloud.actions().await, ["RegisterTargets"]);
    let third = [first.clone(), vec![(tcp(20001), listener("b", [5, 6]))]].concat();
    alter(&*provider, &other, &third).await;
    assert_eq!(cloud.actions().await, ["RegisterTargets", "DeregisterTargets"]);
    let given = [first.clone(), vec![(tcp(20001), listener("c", [5, 6]))]].concat();
    alter(&*provider, &third, &given).await;
    assert_eq!(cloud.actions().await, ["AddTags"], "one call for the listener and its target group");
    alter(&*provider, &given, &first).await;
    assert_eq!(cloud.actions().await, ["DeleteListener", "DeleteTargetGroup"]);

    let without = [first.clone(), vec![(tcp(20002), listener("d", []))]].concat();
    alter(&*provider, &first, &without).await;
    assert_eq!(cloud.actions().await, ["CreateTargetGroup", "CreateListener"], "no backends, nothing to register");
    is_as_wanted(&*cloud.provider().await, without).await;
}

async fn targets_come_and_go_200_in_a_call(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let one = vec![(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, one.clone()).await;
    cloud.actions().await;
    let many = vec![(tcp(20000), listener("a", 1..=250))];
    alter(&*provider, &one, &many).await;
    assert_eq!(cloud.actions().await, ["RegisterTargets"; 2]);
    alter(&*provider, &many, &one).await;
    assert_eq!(cloud.actions().await, ["DeregisterTargets"; 2]);
    is_as_wanted(&*provider, one).await;
}

async fn a_start_reads_and_changes_nothing(cloud: &Cloud) {
    let all: Vec<_> = (20000..20050).map(|port| (tcp(port), listener("a", [1, 2]))).collect();
    converge(&*cloud.provider().await, 0, all.clone()).await;
    cloud.actions().await;
    let provider = cloud.provider().await;
    is_as_wanted(&*provider, all).await;
    let actions = cloud.actions().await;
    assert!(actions.iter().all(|action| action.starts_with("Describe")), "{actions:?}");
    // 50 for targets, 6 for tags, and one each for the rest.
    assert_eq!(actions.len(), 61, "{actions:?}");
}

async fn lists_of_many_pages_are_read_whole(cloud: &Cloud) {
    let all: Vec<_> = (20000..20009).map(|port| (tcp(port), listener("a", [1]))).collect();
    converge(&*cloud.provider().await, 0, all.clone()).await;
    cloud.0.set(json!({"page": 2})).await.expect("pages are small");
    is_as_wanted(&*cloud.provider().await, all).await;
}

async fn late_work_is_postponed_and_begun_work_is_finished(cloud: &Cloud) {
    // Half of the documented rates: 10 writes at once, and then 1.5 a second.
    let provider = Aws::new(cloud.settings(), &cloud.clients(0.5));
    let desired = wanted(&provider, (20000..20020).map(|port| (tcp(port), listener("a", [1]))));
    let changes = diff(&wanted(&provider, []), &desired);
    let applied = provider.apply(&lb(0), ChangeSet::new(&desired, &changes)).await.expect("some are opened");
    assert!(applied.failed.is_empty() && !applied.postponed.is_empty(), "{applied:?}");
    let open = cloud.listeners(&lb(0)).await.len();
    assert!(open > 0, "what was begun is whole");
    assert_eq!(open + applied.postponed.len(), 20);
    assert_eq!(cloud.groups().await.len(), open, "nothing is half done");
}

async fn throttling_is_reported_with_the_time_of_the_retry(cloud: &Cloud) {
    let provider = cloud.provider().await;
    converge(&*provider, 0, []).await;
    cloud.fault(AwsFault::error("busy", &["Create*"], "Throttling", "Rate exceeded").times(None)).await;
    let applied = alter(&*provider, &[], &[(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [1]))]).await;
    assert!(applied.postponed.is_empty(), "who waits for it should know why: {applied:?}");
    for error in applied.failed.values() {
        let Error::Throttled { retry_after, .. } = error else { panic!("{error:?}") };
        assert!((1..60).contains(&retry_after.as_secs()), "{error}");
    }
    assert_eq!(applied.failed.len(), 2);
    assert!(cloud.actions().await.iter().filter(|a| *a == "CreateTargetGroup").count() <= 6, "it holds back");
    cloud.0.release("busy").await.expect("AWS is fine again");
    let all = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [1]))];
    converge(&*provider, 0, all.clone()).await;
    is_as_wanted(&*provider, all).await;
}

async fn only_readiness_is_read_while_a_load_balancer_is_provisioned(cloud: &Cloud) {
    cloud.0.set(json!({"provisioning_seconds": 3600})).await.expect("it takes its time");
    let provider = cloud.provider().await;
    let one = [(tcp(20000), listener("a", [1]))];
    let applied = converge(&*provider, 0, one.clone()).await;
    assert!(applied.failed.is_empty(), "it takes listeners already: {applied:?}");
    assert_eq!(applied.addresses.len(), 1, "its name is known at once");
    for _ in 0..3 {
        cloud.actions().await;
        let seen = observe(&*provider, 0).await;
        assert!(seen.not_ready.is_some_and(|why| why.contains("provisioning the load balancer")));
        assert_eq!(seen.load_balancer, wanted(&*provider, one.clone()));
        assert_eq!(cloud.actions().await, ["DescribeLoadBalancers"]);
    }
    cloud.0.set(json!({"clock": 1e6})).await.expect("time goes by");
    tokio::time::timeout(Duration::from_secs(10), async {
        while observe(&*provider, 0).await.not_ready.is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it serves at last");
}

async fn a_listener_that_always_fails_costs_no_observations(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let one = [(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, one.clone()).await;
    cloud.refuse(tcp(20001)).await;
    let two = [one[0].clone(), (tcp(20001), listener("b", [1]))];
    alter(&*provider, &one, &two).await;
    cloud.actions().await;
    for _ in 0..3 {
        // As the LB loop does: it looks after each failure.
        assert_eq!(observe(&*provider, 0).await.load_balancer.listeners.len(), 1);
        alter(&*provider, &one, &two).await;
        assert_eq!(cloud.actions().await, ["CreateListener"]);
    }
    observe(&*provider, 0).await;
    assert_eq!(cloud.actions().await, [""; 0]);
    observe(&*provider, 0).await;
    assert_ne!(cloud.actions().await, [""; 0], "a look for its own sake is one");
}
