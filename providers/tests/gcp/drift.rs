//! Objects that are deleted or changed by hand.

use http::Method;
use serde_json::{Value, json};
use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::gcp::{HealthCheck, Settings};

use crate::cloud::Cloud;
use crate::steps::{converge, is_as_wanted, lb, listener, observe, tcp, wanted};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    whatever_is_deleted_by_hand_is_created_again,
    whatever_is_changed_by_hand_is_corrected,
    a_port_without_its_firewall_rule_is_no_open_port,
    a_change_of_the_class_changes_the_objects_in_place,
    labels_of_others_stay,
];

/// Where an object of the load balancer is.
fn path(collection: &str) -> String {
    match collection {
        "networkEndpointGroups" => format!("zones/europe-west9-a/networkEndpointGroups/{}", lb(0)),
        "firewalls" => format!("global/firewalls/{}-allow", lb(0)),
        other => format!("regions/europe-west9/{other}/{}", lb(0)),
    }
}

async fn whatever_is_deleted_by_hand_is_created_again(cloud: &Cloud) {
    let listeners = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [2]))];
    converge(&*cloud.provider().await, 0, listeners.clone()).await;
    let before = cloud.settings_of_objects();
    // What uses an object goes before it.
    let chain = ["forwardingRules", "backendServices", "healthChecks", "networkEndpointGroups", "addresses"];
    let firewalls = ["allow", "deny", "health"].map(|rule| format!("global/firewalls/{}-{rule}", lb(0)));
    let deleted = (1..=chain.len()).map(|count| chain[..count].iter().map(|kind| path(kind)).collect());
    let deleted = deleted.chain(firewalls.into_iter().map(|rule| vec![rule]));
    for paths in deleted {
        for path in &paths {
            cloud.by_hand(&Method::DELETE, path, Value::Null);
        }
        let provider = cloud.provider().await;
        let observed = observe(&*provider, 0).await;
        assert_ne!(observed.load_balancer, wanted(&*provider, listeners.clone()), "without {paths:?}");
        converge(&*provider, 0, listeners.clone()).await;
        assert_eq!(cloud.settings_of_objects(), before, "after {paths:?}");
        is_as_wanted(&*cloud.provider().await, listeners.clone()).await;
    }
}

async fn whatever_is_changed_by_hand_is_corrected(cloud: &Cloud) {
    let listeners = [(tcp(20000), listener("a", [1]))];
    converge(&*cloud.provider().await, 0, listeners.clone()).await;
    let before = cloud.settings_of_objects();
    let (allow, deny) = (path("firewalls"), format!("global/firewalls/{}-deny", lb(0)));
    let detach = format!("{}/detachNetworkEndpoints", path("networkEndpointGroups"));
    let all_ports = json!([{"IPProtocol": "tcp", "ports": ["1-65535"]}]);
    for (verb, path, mut body) in [
        (Method::PATCH, &path("healthChecks"), json!({"checkIntervalSec": 100})),
        (Method::PATCH, &path("backendServices"), json!({"sessionAffinity": "CLIENT_IP"})),
        (Method::POST, &detach, json!({"networkEndpoints": [{"instance": "node-1"}]})),
        (Method::PATCH, &allow, json!({"name": format!("{}-allow", lb(0)), "allowed": all_ports})),
        (Method::PATCH, &allow, json!({"name": format!("{}-allow", lb(0)), "sourceRanges": ["10.0.0.0/8"]})),
        (Method::PATCH, &deny, json!({"name": format!("{}-deny", lb(0)), "disabled": true})),
        (Method::PATCH, &path("forwardingRules"), json!({"networkTier": "STANDARD"})),
    ] {
        if path.contains("backendServices") {
            body["fingerprint"] = cloud.only("backendServices")["fingerprint"].clone();
        }
        cloud.by_hand(&verb, path, body.clone());
        let provider = cloud.provider().await;
        let observed = observe(&*provider, 0).await;
        assert_ne!(observed.load_balancer, wanted(&*provider, listeners.clone()), "{path}: {body}");
        converge(&*provider, 0, listeners.clone()).await;
        assert_eq!(cloud.settings_of_objects(), before, "{path}: {body}");
        is_as_wanted(&*cloud.provider().await, listeners.clone()).await;
    }
}

async fn a_port_without_its_firewall_rule_is_no_open_port(cloud: &Cloud) {
    let listeners = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [2]))];
    converge(&*cloud.provider().await, 0, listeners.clone()).await;
    let allowed = json!([{"IPProtocol": "tcp", "ports": ["20001"]}]);
    let rule = json!({"name": format!("{}-allow", lb(0)), "allowed": allowed});
    cloud.by_hand(&Method::PATCH, &path("firewalls"), rule);
    let provider = cloud.provider().await;
    let observed = observe(&*provider, 0).await;
    assert_ne!(observed.load_balancer, wanted(&*provider, listeners.clone()));
    converge(&*provider, 0, listeners).await;
    let ports = cloud.project.objects("firewalls")[&path("firewalls")]["allowed"][0]["ports"].clone();
    assert_eq!(ports, json!(["20000-20001"]));
}

async fn a_change_of_the_class_changes_the_objects_in_place(cloud: &Cloud) {
    let listeners = [(tcp(20000), listener("a", [1]))];
    converge(&*cloud.provider().await, 0, listeners.clone()).await;
    cloud.changes();
    let settings = cloud.settings();
    let health_check = HealthCheck { path: "/livez".into(), ..settings.health_check.clone() };
    let mut firewall = settings.firewall.clone();
    firewall.source_ranges = vec!["192.0.2.0/24".parse().expect("it is a range")];
    let provider = cloud.provider_with(Settings { health_check, firewall, ..settings });
    converge(&provider, 0, listeners.clone()).await;
    let mut changes = cloud.changes();
    changes.sort();
    assert_eq!(changes, ["firewalls.patch", "regionHealthChecks.patch"]);
    assert_eq!(cloud.only("healthChecks")["httpHealthCheck"]["requestPath"], "/livez");
    assert_eq!(cloud.project.objects("firewalls")[&path("firewalls")]["sourceRanges"], json!(["192.0.2.0/24"]));
    is_as_wanted(&provider, listeners).await;
}

async fn labels_of_others_stay(cloud: &Cloud) {
    let listeners = [(tcp(20000), listener("a", [1]))];
    converge(&*cloud.provider().await, 0, listeners.clone()).await;
    let fingerprint = cloud.only("addresses")["labelFingerprint"].clone();
    let body = json!({"labels": {"theirs": "x"}, "labelFingerprint": fingerprint});
    cloud.by_hand(&Method::POST, &format!("{}/setLabels", path("addresses")), body);
    let provider = cloud.provider().await;
    assert_ne!(observe(&*provider, 0).await.load_balancer, wanted(&*provider, listeners.clone()));
    converge(&*provider, 0, listeners).await;
    assert_eq!(cloud.only("addresses")["labels"], json!({"theirs": "x", "team": "network"}));
}
