//! Nodes and zones that come and go.

use std::collections::BTreeSet;

use serde_json::Value;
use sharedlb_providers::Unserved;
use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::gcp::Settings;

use crate::cloud::Cloud;
use crate::steps::{converge, lb, listener, observe, tcp};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    a_node_that_comes_gets_traffic_and_one_that_goes_does_not,
    a_zone_that_comes_and_goes_changes_the_backend_service,
    an_instance_that_vanished_is_not_detached,
    a_node_without_an_instance_keeps_no_other_node_from_getting_traffic,
    a_cluster_without_a_node_in_the_region_is_reported,
    only_as_many_nodes_as_the_class_has_get_traffic,
];

const A: &str = "europe-west9-a";
const B: &str = "europe-west9-b";
const C: &str = "europe-west9-c";

fn instances(cloud: &Cloud, zone: &str) -> BTreeSet<String> {
    cloud.project.instances(&format!("zones/{zone}/networkEndpointGroups/{}", lb(0)))
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// The zones whose groups are backends.
fn zones(cloud: &Cloud) -> BTreeSet<String> {
    let service = cloud.only("backendServices");
    let backends = service["backends"].as_array().cloned().unwrap_or_default();
    let zone = |backend: &Value| {
        let group = backend["group"].as_str().expect("it has a group");
        group.split('/').rev().nth(2).expect("it has a zone").to_owned()
    };
    backends.iter().map(zone).collect()
}

async fn a_node_that_comes_gets_traffic_and_one_that_goes_does_not(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let wanted = [(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, wanted.clone()).await;
    assert_eq!(instances(cloud, A), names(&["node-1", "node-2"]));
    assert_eq!(instances(cloud, B), names(&["node-3"]));
    cloud.changes();

    cloud.add_nodes(&[(A, "node-4")]);
    converge(&*provider, 0, wanted.clone()).await;
    assert_eq!(instances(cloud, A), names(&["node-1", "node-2", "node-4"]));
    assert_eq!(cloud.changes(), ["networkEndpointGroups.attachNetworkEndpoints"]);

    // The instance stays: it is cordoned off from load balancers, for example.
    cloud.forget_nodes(&[(A, "node-1")]);
    converge(&*provider, 0, wanted).await;
    assert_eq!(instances(cloud, A), names(&["node-2", "node-4"]));
    assert_eq!(cloud.changes(), ["networkEndpointGroups.detachNetworkEndpoints"]);
}

async fn a_node_without_an_instance_keeps_no_other_node_from_getting_traffic(cloud: &Cloud) {
    cloud.add_nodes(&[(A, "ghost"), (A, "node-4"), (C, "node-5")]);
    cloud.project.remove_instance(A, "ghost");
    let provider = cloud.provider().await;
    let listeners = [(tcp(20000), listener("a", [1]))];
    let applied = converge(&*provider, 0, listeners.clone()).await;
    let error = format!("{:#}", applied.unconfigured.expect("it is reported"));
    assert!(error.contains("the node ghost in europe-west9-a") && error.contains("instances/ghost"), "{error}");
    assert_eq!(instances(cloud, A), names(&["node-1", "node-2", "node-4"]));
    assert_eq!(instances(cloud, C), names(&["node-5"]));
    assert_eq!(observe(&*provider, 0).await.load_balancer.listeners.len(), 1);
    cloud.forget_nodes(&[(A, "ghost")]);
    assert_eq!(converge(&*provider, 0, listeners).await.unconfigured, None);
}

async fn a_cluster_without_a_node_in_the_region_is_reported(cloud: &Cloud) {
    let listeners = [(tcp(20000), listener("a", [1]))];
    let provider = cloud.provider().await;
    converge(&*provider, 0, listeners.clone()).await;
    cloud.forget_nodes(&[(A, "node-1"), (A, "node-2"), (B, "node-3")]);
    let applied = converge(&*provider, 0, listeners).await;
    let error = applied.unconfigured.expect("it is reported").to_string();
    assert!(error.contains("no node of the cluster is an instance in region europe-west9"), "{error}");
    let observed = observe(&*provider, 0).await;
    assert!(matches!(observed.unserved.get(&tcp(20000)), Some(Unserved::Refused(_))), "{observed:?}");
}

async fn an_instance_that_vanished_is_not_detached(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let wanted = [(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, wanted.clone()).await;
    // Compute Engine takes it out of its groups.
    cloud.remove_nodes(&[(A, "node-1")]);
    converge(&*provider, 0, wanted.clone()).await;
    assert_eq!(instances(cloud, A), names(&["node-2"]));
    converge(&*cloud.provider().await, 0, wanted).await;
    assert_eq!(instances(cloud, A), names(&["node-2"]));
}

async fn a_zone_that_comes_and_goes_changes_the_backend_service(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let wanted = [(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, wanted.clone()).await;
    assert_eq!(zones(cloud), names(&[A, B]));
    cloud.add_nodes(&[(C, "node-4")]);
    converge(&*provider, 0, wanted.clone()).await;
    assert_eq!((zones(cloud), instances(cloud, C)), (names(&[A, B, C]), names(&["node-4"])));

    cloud.remove_nodes(&[(B, "node-3"), (C, "node-4")]);
    converge(&*provider, 0, wanted).await;
    assert_eq!(zones(cloud), names(&[A]));
    let groups = cloud.project.objects("networkEndpointGroups");
    assert_eq!(groups.len(), 1, "{:?}", groups.keys());
}

async fn only_as_many_nodes_as_the_class_has_get_traffic(cloud: &Cloud) {
    let provider = cloud.provider_with(Settings { entry_nodes: 2, ..cloud.settings() });
    converge(&provider, 0, [(tcp(20000), listener("a", [1]))]).await;
    assert_eq!((instances(cloud, A).len(), instances(cloud, B).len()), (1, 1));
}
