//! Objects of others, and of other clusters.

use http::Method;
use serde_json::{Value, json};
use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::gcp::{Firewall, Managed, Scheme, Settings};
use sharedlb_providers::{Address, ChangeSet, Error, LbName, LoadBalancer, Provider, diff};

use crate::cloud::Cloud;
use crate::steps::{converge, is_as_wanted, lb, listener, observe, tcp, wanted};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    a_foreign_object_of_the_same_name_is_refused_and_left_alone,
    objects_of_others_stay_while_a_load_balancer_comes_and_goes,
    two_clusters_in_one_project_know_nothing_of_each_other,
    an_address_that_the_class_names_stays,
    an_address_of_the_class_that_another_load_balancer_uses_is_named,
    firewall_rules_are_left_to_the_admin_where_the_class_says_so,
    rules_of_the_controller_go_when_the_class_leaves_them_to_the_admin,
    an_internal_load_balancer_has_an_address_of_the_subnetwork,
];

const REGION: &str = "regions/europe-west9";

fn address(name: &str) -> Value {
    json!({"name": name, "description": "another team's"})
}

async fn a_foreign_object_of_the_same_name_is_refused_and_left_alone(cloud: &Cloud) {
    let name = lb(0);
    let health_check =
        json!({"name": name.as_str(), "type": "TCP", "tcpHealthCheck": {"port": 80}, "description": "theirs"});
    cloud.by_hand(&Method::POST, &format!("{REGION}/healthChecks"), health_check);
    let before = cloud.objects();
    let provider = cloud.provider().await;
    let refused = provider.observe(&name).await;
    assert!(matches!(&refused, Err(Error::Refused(why)) if why.to_string().contains("not ours")), "{refused:?}");
    let desired = wanted(&*provider, [(tcp(20000), listener("a", [1]))]);
    let changes = diff(&LoadBalancer::default(), &desired);
    let refused = provider.apply(&name, ChangeSet::new(&desired, &changes)).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    provider.delete(&name).await.expect("there is nothing of ours");
    assert_eq!(cloud.objects(), before);
}

async fn objects_of_others_stay_while_a_load_balancer_comes_and_goes(cloud: &Cloud) {
    cloud.by_hand(&Method::POST, &format!("{REGION}/addresses"), address("theirs"));
    let rule = json!({
        "name": "theirs", "network": "global/networks/net", "allowed": [{"IPProtocol": "tcp"}],
        "sourceRanges": ["10.0.0.0/8"],
    });
    cloud.by_hand(&Method::POST, "global/firewalls", rule);
    let before = cloud.objects();
    let provider = cloud.provider().await;
    converge(&*provider, 0, [(tcp(20000), listener("a", [1]))]).await;
    assert!(before.iter().all(|(path, object)| cloud.objects().get(path) == Some(object)));
    delete(&*provider, &lb(0)).await;
    assert_eq!(cloud.objects(), before);
}

async fn two_clusters_in_one_project_know_nothing_of_each_other(cloud: &Cloud) {
    let other = cloud.provider_with(Settings { cluster_id: "other".into(), ..cloud.settings() });
    let of_other = LbName::new("conformance", 0, "other", "class-uid");
    let desired = wanted(&other, [(tcp(20000), listener("b", [2]))]);
    let apply = async || {
        let seen = other.observe(&of_other).await.expect("it can be observed").unwrap_or_default();
        let changes = diff(&seen.load_balancer, &desired);
        other.apply(&of_other, ChangeSet::new(&desired, &changes)).await.expect("it is created");
    };
    apply().await;
    apply().await;
    let theirs = cloud.objects();

    let provider = cloud.provider().await;
    let ours = [(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, ours.clone()).await;
    is_as_wanted(&*cloud.provider().await, ours).await;
    delete(&*provider, &lb(0)).await;
    assert_eq!(cloud.objects(), theirs);
    let seen = other.observe(&of_other).await.expect("it can be observed").expect("it is there");
    assert_eq!(seen.load_balancer, desired);
}

async fn an_address_that_the_class_names_stays(cloud: &Cloud) {
    cloud.by_hand(&Method::POST, &format!("{REGION}/addresses"), address("given"));
    let given = cloud.only("addresses")["address"].clone();
    let settings = Settings { address_names: vec!["given".into()], ..cloud.settings() };
    let provider = cloud.provider_with(settings);
    let applied = converge(&provider, 0, [(tcp(20000), listener("a", [1]))]).await;
    let ip = given.as_str().and_then(|text| text.parse().ok()).expect("it is an address");
    assert_eq!(applied.addresses, [Address::Ip(ip)]);
    assert_eq!(cloud.only("forwardingRules")["IPAddress"], given);
    delete(&provider, &lb(0)).await;
    assert_eq!(cloud.only("addresses")["description"], "another team's");
    assert_eq!(cloud.objects().len(), 1);
}

async fn an_address_of_the_class_that_another_load_balancer_uses_is_named(cloud: &Cloud) {
    cloud.by_hand(&Method::POST, &format!("{REGION}/addresses"), address("given"));
    let given = cloud.only("addresses")["address"].clone();
    let settings = Settings { address_names: vec!["given".into()], ..cloud.settings() };
    let listeners = [(tcp(20000), listener("a", [1]))];
    converge(&cloud.provider_with(settings.clone()), 0, listeners.clone()).await;
    assert_eq!(cloud.only("forwardingRules")["IPAddress"], given);
    // That of another cluster, whose class has the same address.
    let other = cloud.provider_with(Settings { cluster_id: "other".into(), ..settings });
    let name = LbName::new("conformance", 0, "other", "class-uid");
    let desired = wanted(&other, listeners);
    let changes = diff(&LoadBalancer::default(), &desired);
    let refused = other.apply(&name, ChangeSet::new(&desired, &changes)).await;
    let Err(Error::Refused(why)) = &refused else { panic!("{refused:?}") };
    assert!(why.to_string().contains("in use by") && why.to_string().contains(lb(0).as_str()), "{why}");
}

async fn firewall_rules_are_left_to_the_admin_where_the_class_says_so(cloud: &Cloud) {
    let settings = cloud.settings();
    let firewall = Firewall { manage: Managed::None, ..settings.firewall };
    let provider = cloud.provider_with(Settings { firewall, ..settings });
    let listeners = [(tcp(20000), listener("a", [1]))];
    cloud.project.withdraw("compute.firewalls.get");
    converge(&provider, 0, listeners.clone()).await;
    assert_eq!(observe(&provider, 0).await.load_balancer, wanted(&provider, listeners));
    assert!(cloud.project.objects("firewalls").is_empty());
    let calls = cloud.project.take_calls();
    assert!(calls.iter().all(|call| call.reads() || !call.method.starts_with("firewalls.")), "{calls:?}");
    delete(&provider, &lb(0)).await;
}

async fn rules_of_the_controller_go_when_the_class_leaves_them_to_the_admin(cloud: &Cloud) {
    let listeners = [(tcp(20000), listener("a", [1]))];
    converge(&*cloud.provider().await, 0, listeners.clone()).await;
    assert_eq!(cloud.project.objects("firewalls").len(), 3);
    let settings = cloud.settings();
    let firewall = Firewall { manage: Managed::None, ..settings.firewall };
    let provider = cloud.provider_with(Settings { firewall, ..settings });
    converge(&provider, 0, listeners.clone()).await;
    assert!(cloud.project.objects("firewalls").is_empty());
    assert_eq!(observe(&provider, 0).await.load_balancer, wanted(&provider, listeners));
}

async fn an_internal_load_balancer_has_an_address_of_the_subnetwork(cloud: &Cloud) {
    let settings = Settings { scheme: Scheme::Internal, global_access: true, ..cloud.settings() };
    let provider = cloud.provider_with(settings);
    let applied = converge(&provider, 0, [(tcp(20000), listener("a", [1]))]).await;
    assert_eq!(applied.addresses, [Address::Ip([10, 128, 0, 1].into())]);
    let rule = cloud.only("forwardingRules");
    assert_eq!((&rule["loadBalancingScheme"], &rule["allowGlobalAccess"]), (&json!("INTERNAL"), &json!(true)));
    // Without an interruption.
    let provider = cloud.provider_with(Settings { scheme: Scheme::Internal, ..cloud.settings() });
    cloud.changes();
    converge(&provider, 0, [(tcp(20000), listener("a", [1]))]).await;
    assert_eq!(cloud.changes(), ["forwardingRules.patch"]);
}

/// Deletes as the LB loop does: it waits for operations that take time.
pub(crate) async fn delete(provider: &dyn Provider, name: &LbName) {
    tokio::time::timeout(crate::LIMIT, async {
        while let Err(error) = provider.delete(name).await {
            assert!(matches!(error, Error::NotReady(_)), "{error:?}");
        }
    })
    .await
    .expect("it is deleted");
}
