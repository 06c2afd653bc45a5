//! The number of calls to Google.

use std::collections::BTreeSet;

use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::gcp::{Firewall, Managed, Settings};
use sharedlb_providers::{Listener, ListenerKey};

use crate::cloud::Cloud;
use crate::steps::{alter, converge, lb, listener, observe, tcp};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    a_load_balancer_takes_these_calls,
    a_burst_of_200_ports_takes_at_most_two_patches,
    a_change_of_endpoints_takes_no_call,
    ports_of_a_range_take_no_call,
    a_restart_reads_each_object_once,
];

fn ports(numbers: impl IntoIterator<Item = u16>) -> Vec<(ListenerKey, Listener)> {
    numbers.into_iter().map(|number| (tcp(number), listener("a", [1]))).collect()
}

async fn a_load_balancer_takes_these_calls(cloud: &Cloud) {
    converge(&*cloud.provider().await, 0, ports([20000])).await;
    let mut changes = cloud.changes();
    changes.sort();
    let wanted = [
        "addresses.insert",
        "addresses.setLabels",
        "firewalls.insert",
        "firewalls.insert",
        "firewalls.insert",
        "forwardingRules.insert",
        "forwardingRules.setLabels",
        "networkEndpointGroups.attachNetworkEndpoints",
        "networkEndpointGroups.attachNetworkEndpoints",
        "networkEndpointGroups.insert",
        "networkEndpointGroups.insert",
        "regionBackendServices.insert",
        "regionHealthChecks.insert",
    ];
    assert_eq!(changes, wanted);
}

async fn a_burst_of_200_ports_takes_at_most_two_patches(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let before = ports([20000]);
    converge(&*provider, 0, before.clone()).await;
    cloud.changes();
    // Not adjacent, so that no range joins them.
    let after = ports((0..200).map(|number| 20000 + 2 * number));
    let applied = alter(&*provider, &before, &after).await;
    assert!(applied.failed.is_empty(), "{applied:?}");
    converge(&*provider, 0, after.clone()).await;
    let changes = cloud.changes();
    assert!(changes.len() <= 2 && changes.iter().all(|call| call == "firewalls.patch"), "{changes:?}");
    assert_eq!(observe(&*provider, 0).await.load_balancer.listeners.len(), 200);
    let allowed = cloud.project.objects("firewalls")[&format!("global/firewalls/{}-allow", lb(0))].clone();
    assert_eq!(allowed["allowed"][0]["ports"].as_array().map(Vec::len), Some(200));
}

async fn a_change_of_endpoints_takes_no_call(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let before = [(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, before.clone()).await;
    cloud.project.take_calls();
    alter(&*provider, &before, &[(tcp(20000), listener("a", [2, 3]))]).await;
    let calls = cloud.project.take_calls();
    assert!(calls.is_empty(), "{calls:?}");
}

async fn ports_of_a_range_take_no_call(cloud: &Cloud) {
    let settings = cloud.settings();
    let firewall = Firewall { manage: Managed::Range(vec![20000..=20100]), ..settings.firewall };
    let provider = cloud.provider_with(Settings { firewall, ..settings });
    let before = ports([20000]);
    converge(&provider, 0, before.clone()).await;
    cloud.project.take_calls();
    let applied = alter(&provider, &before, &ports(20000..20050)).await;
    assert!(applied.failed.is_empty() && applied.postponed.is_empty(), "{applied:?}");
    let calls = cloud.project.take_calls();
    assert!(calls.is_empty(), "{calls:?}");
}

async fn a_restart_reads_each_object_once(cloud: &Cloud) {
    let wanted = ports([20000, 20001]);
    converge(&*cloud.provider().await, 0, wanted.clone()).await;
    cloud.project.take_calls();
    converge(&*cloud.provider().await, 0, wanted).await;
    let calls = cloud.project.take_calls();
    let read: Vec<_> = calls.iter().map(|call| (call.method.as_str(), call.path.as_str())).collect();
    assert_eq!(read.iter().collect::<BTreeSet<_>>().len(), read.len(), "{read:?}");
    assert!(calls.iter().all(|call| call.reads()), "{read:?}");
    let kinds: BTreeSet<_> = read.iter().map(|(method, _)| *method).collect();
    for method in
        ["addresses.get", "forwardingRules.get", "firewalls.get", "networkEndpointGroups.listNetworkEndpoints"]
    {
        assert!(kinds.contains(method), "{method}: {kinds:?}");
    }
}
