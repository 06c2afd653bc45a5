//! Calls and operations that go wrong.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use serde_json::json;
use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::{Applied, ChangeSet, Error, Listener, ListenerKey, Provider, diff};
use sharedlb_testbed::{GcpFault, GcpFaultKind, eventually};

use crate::cloud::Cloud;
use crate::foreign::delete;
use crate::steps::{converge, is_as_wanted, lb, listener, observe, tcp, wanted};
use crate::{LIMIT, Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    a_lost_answer_duplicates_nothing_and_leaves_nothing_behind,
    a_delete_that_is_cut_off_is_finished_by_the_next,
    calls_that_are_refused_as_too_many_are_made_again,
    operations_that_take_long_are_gone_on_with,
    a_process_that_finds_operations_of_another_one_goes_on,
    an_operation_that_fails_is_reported_and_tried_again,
    a_conflict_is_resolved_by_the_present_state,
    each_missing_permission_is_named,
    a_missing_permission_for_firewall_rules_is_reported_with_commands,
    a_quota_that_is_used_up_is_named,
    a_load_balancer_that_is_slow_to_go_is_not_ready,
    a_port_that_its_service_refuses_is_not_allowed,
    packets_arrive_only_once_the_firewall_denies_what_is_not_open,
    while_the_api_server_is_away_nodes_come_and_go,
    a_service_that_cannot_be_deleted_keeps_only_the_address,
];

/// What the LB loop does once, with its errors.
pub(crate) async fn attempt(provider: &dyn Provider, listeners: &[(ListenerKey, Listener)]) -> Result<Applied, Error> {
    let desired = wanted(provider, listeners.to_vec());
    let seen = provider.observe(&lb(0)).await?.unwrap_or_default();
    let changes = seen.changes_to(&desired, &BTreeSet::new());
    provider.apply(&lb(0), ChangeSet::new(&desired, &changes)).await
}

/// What the LB loop does until nothing is left to do.
async fn until_done(provider: &dyn Provider, listeners: &[(ListenerKey, Listener)]) {
    eventually("the load balancer to be as desired", LIMIT, async || {
        let applied = attempt(provider, listeners).await?;
        let is_done = applied.failed.is_empty() && applied.postponed.is_empty() && applied.unconfigured.is_none();
        Ok(is_done.then_some(()))
    })
    .await
    .expect("it is done");
}

async fn a_lost_answer_duplicates_nothing_and_leaves_nothing_behind(cloud: &Cloud) {
    let before = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [2]))];
    let after = [(tcp(20000), listener("a", [1])), (tcp(20002), listener("c", [3]))];
    let wanted_objects = {
        let provider = cloud.provider().await;
        converge(&*provider, 0, after.clone()).await;
        let objects = cloud.settings_of_objects();
        delete(&*provider, &lb(0)).await;
        objects
    };
    for method in [
        "addresses.insert",
        "addresses.setLabels",
        "regionHealthChecks.insert",
        "networkEndpointGroups.insert",
        "networkEndpointGroups.attachNetworkEndpoints",
        "regionBackendServices.insert",
        "forwardingRules.insert",
        "firewalls.insert",
        "firewalls.patch",
        "*.wait",
    ] {
        let provider = cloud.provider().await;
        cloud.fault("lost", GcpFaultKind::Lost, &[method]);
        until_done(&*provider, &before).await;
        until_done(&*provider, &after).await;
        assert_eq!(cloud.project.hits("lost"), 1, "{method}");
        cloud.project.release("lost");
        assert_eq!(cloud.settings_of_objects(), wanted_objects, "{method}");
        is_as_wanted(&*cloud.provider().await, after.clone()).await;
        for method in ["forwardingRules.delete", "*.delete"] {
            cloud.fault("lost", GcpFaultKind::Lost, &[method]);
        }
        eventually("the load balancer to be deleted", LIMIT, async || {
            provider.delete(&lb(0)).await?;
            Ok(Some(()))
        })
        .await
        .expect("it is deleted");
        cloud.project.release("lost");
        assert!(cloud.objects().is_empty(), "{method}");
    }
}

async fn a_delete_that_is_cut_off_is_finished_by_the_next(cloud: &Cloud) {
    let listeners = [(tcp(20000), listener("a", [1]))];
    for calls in 0.. {
        converge(&*cloud.provider().await, 0, listeners.clone()).await;
        let died = cloud.provider_dying_after(calls).await.delete(&lb(0)).await.is_err();
        delete(&*cloud.provider().await, &lb(0)).await;
        assert_eq!(cloud.provider().await.observe(&lb(0)).await, Ok(None), "cut off after {calls} calls");
        assert!(cloud.objects().is_empty(), "cut off after {calls} calls");
        if !died {
            assert!(calls >= 9, "that many objects there are");
            break;
        }
    }
}

async fn calls_that_are_refused_as_too_many_are_made_again(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let before = [(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, before.clone()).await;
    let after = [before[0].clone(), (tcp(20001), listener("b", [2]))];
    cloud.project.fault(GcpFault::new("rate", GcpFaultKind::RateLimited, &["firewalls.patch"]).times(Some(1)));
    until_done(&*provider, &after).await;
    assert_eq!(cloud.project.hits("rate"), 1);
    is_as_wanted(&*cloud.provider().await, after.clone()).await;

    // For longer than one call waits.
    cloud.project.fault(GcpFault::new("rate", GcpFaultKind::RateLimited, &["firewalls.patch"]).times(None));
    let desired = wanted(&*provider, before);
    let changes = diff(&wanted(&*provider, after), &desired);
    let applied =
        provider.apply(&lb(0), ChangeSet::new(&desired, &changes)).await.expect("the Services can be changed");
    assert!(matches!(applied.failed.get(&tcp(20001)), Some(Error::Throttled { .. })), "{applied:?}");
    assert_eq!(observe(&*provider, 0).await.load_balancer.listeners.len(), 1, "the port is closed all the same");
}

async fn operations_that_take_long_are_gone_on_with(cloud: &Cloud) {
    let listeners = [(tcp(20000), listener("a", [1]))];
    let provider = cloud.provider().await;
    cloud.project.fault(GcpFault::new("held", GcpFaultKind::OperationHeld, &["*.insert"]).times(None));
    let not_ready = attempt(&*provider, &listeners).await;
    assert!(matches!(not_ready, Err(Error::NotReady(_))), "{not_ready:?}");
    let begun = cloud.changes().len();
    let not_ready = attempt(&*provider, &listeners).await;
    assert!(matches!(not_ready, Err(Error::NotReady(_))), "{not_ready:?}");
    assert_eq!((begun > 0, cloud.changes()), (true, vec![]), "they are begun once");
    let seen = provider.observe(&lb(0)).await.expect("it can be observed").expect("it is being created");
    assert!(seen.not_ready.is_some() && seen.addresses.is_empty(), "{seen:?}");
    cloud.project.release("held");
    until_done(&*provider, &listeners).await;
    is_as_wanted(&*cloud.provider().await, listeners).await;
}

async fn a_process_that_finds_operations_of_another_one_goes_on(cloud: &Cloud) {
    let listeners = [(tcp(20000), listener("a", [1]))];
    for method in
        ["addresses.insert", "regionHealthChecks.insert", "regionBackendServices.insert", "forwardingRules.insert"]
    {
        cloud.project.fault(GcpFault::new("held", GcpFaultKind::OperationHeld, &[method]).times(None));
        _ = attempt(&*cloud.provider().await, &listeners).await;
        let next = cloud.provider().await;
        _ = attempt(&*next, &listeners).await;
        cloud.project.release("held");
        until_done(&*next, &listeners).await;
        is_as_wanted(&*cloud.provider().await, listeners.clone()).await;
        delete(&*next, &lb(0)).await;
        assert!(cloud.objects().is_empty(), "{method}");
    }
}

async fn an_operation_that_fails_is_reported_and_tried_again(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let before = [(tcp(20000), listener("a", [1]))];
    for (code, status) in [("QUOTA_EXCEEDED", 403), ("INTERNAL_ERROR", 503)] {
        let fails = GcpFaultKind::OperationFails { code: code.to_owned(), status };
        cloud.fault("fails", fails, &["forwardingRules.insert"]);
        let failed = attempt(&*provider, &before).await;
        let is_as_documented = match &failed {
            Err(Error::Exhausted(why)) => code == "QUOTA_EXCEEDED" && format!("{why:#}").contains(code),
            Err(Error::Transient(_)) => code == "INTERNAL_ERROR",
            _ => false,
        };
        assert!(is_as_documented, "{code}: {failed:?}");
        cloud.project.release("fails");
        until_done(&*provider, &before).await;
        delete(&*provider, &lb(0)).await;
    }
    until_done(&*provider, &before).await;
    let fails = GcpFaultKind::OperationFails { code: "INTERNAL_ERROR".to_owned(), status: 503 };
    cloud.fault("fails", fails, &["firewalls.patch"]);
    let after = [before[0].clone(), (tcp(20001), listener("b", [2]))];
    let applied = attempt(&*provider, &after).await.expect("the others go on");
    assert_eq!(applied.failed.keys().collect::<Vec<_>>(), [&tcp(20001)], "{applied:?}");
    let unserved = observe(&*provider, 0).await.unserved;
    assert_eq!(unserved.keys().collect::<Vec<_>>(), [&tcp(20001)], "no client reaches it before its firewall rule");
    until_done(&*provider, &after).await;
    is_as_wanted(&*cloud.provider().await, after).await;
}

async fn a_conflict_is_resolved_by_the_present_state(cloud: &Cloud) {
    let listeners = [(tcp(20000), listener("a", [1]))];
    let provider = cloud.provider().await;
    converge(&*provider, 0, listeners.clone()).await;
    cloud.add_nodes(&[("europe-west9-c", "node-4")]);
    let desired = wanted(&*provider, listeners.clone());
    let seen = observe(&*provider, 0).await;
    // Another client changes it after it was observed, and before it is written.
    let path = format!("regions/europe-west9/backendServices/{}", lb(0));
    let fingerprint = cloud.only("backendServices")["fingerprint"].clone();
    let theirs = json!({"connectionDraining": {"drainingTimeoutSec": 7}, "fingerprint": fingerprint});
    cloud.by_hand(&Method::PATCH, &path, theirs);
    let changes = seen.changes_to(&desired, &BTreeSet::new());
    let conflict = provider.apply(&lb(0), ChangeSet::new(&desired, &changes)).await;
    let conflict = conflict.map(|applied| applied.unconfigured);
    assert!(matches!(conflict, Err(Error::Conflict(_)) | Ok(Some(Error::Conflict(_)))), "{conflict:?}");
    until_done(&*provider, &listeners).await;
    let service = cloud.only("backendServices");
    assert_eq!(service["backends"].as_array().map(Vec::len), Some(3));
    assert_eq!(service["connectionDraining"]["drainingTimeoutSec"], 7, "what the class does not have stays");
}

async fn each_missing_permission_is_named(cloud: &Cloud) {
    let listeners = [(tcp(20000), listener("a", [1]))];
    for permission in [
        "addresses.create",
        "addresses.get",
        "addresses.setLabels",
        "addresses.use",
        "regionHealthChecks.create",
        "regionHealthChecks.get",
        "regionHealthChecks.useReadOnly",
        "networkEndpointGroups.create",
        "networkEndpointGroups.get",
        "networkEndpointGroups.use",
        "networkEndpointGroups.attachNetworkEndpoints",
        "networks.use",
        "subnetworks.use",
        "instances.use",
        "regionBackendServices.create",
        "regionBackendServices.get",
        "regionBackendServices.use",
        "forwardingRules.create",
        "forwardingRules.get",
        "forwardingRules.setLabels",
        "regions.get",
        "regionOperations.get",
        "zoneOperations.get",
    ] {
        let permission = format!("compute.{permission}");
        cloud.project.withdraw(&permission);
        let provider = cloud.provider().await;
        let refused = attempt(&*provider, &listeners).await;
        let why = match &refused {
            Err(Error::Refused(why)) => format!("{why:#}"),
            Ok(Applied { unconfigured: Some(Error::Refused(why)), .. }) => format!("{why:#}"),
            _ => panic!("{permission}: {refused:?}"),
        };
        assert!(
            why.contains(&format!("'{permission}'")) || why.contains(&format!("{permission} ")),
            "{permission}: {why}"
        );
        cloud.project.grant_all();
        until_done(&*provider, &listeners).await;
        delete(&*provider, &lb(0)).await;
    }
    for permission in ["forwardingRules.delete", "regionBackendServices.delete", "addresses.delete", "firewalls.delete"]
    {
        let permission = format!("compute.{permission}");
        let provider = cloud.provider().await;
        converge(&*provider, 0, listeners.clone()).await;
        cloud.project.withdraw(&permission);
        let refused = eventually("the deletion to be refused", LIMIT, async || {
            Ok(provider.delete(&lb(0)).await.err().filter(|error| !matches!(error, Error::NotReady(_))))
        });
        let refused = refused.await.expect("it is refused");
        assert!(matches!(&refused, Error::Refused(why) if format!("{why:#}").contains(&permission)), "{refused:?}");
        cloud.project.grant_all();
        delete(&*provider, &lb(0)).await;
    }
}

async fn a_missing_permission_for_firewall_rules_is_reported_with_commands(cloud: &Cloud) {
    let listeners = [(tcp(20000), listener("a", [1]))];
    for permission in ["compute.firewalls.create", "compute.networks.updatePolicy", "compute.firewalls.get"] {
        cloud.project.withdraw(permission);
        let provider = cloud.provider().await;
        let applied = attempt(&*provider, &listeners).await.expect("the load balancer is created");
        assert!(matches!(applied.failed.get(&tcp(20000)), Some(Error::Refused(_))), "{applied:?}");
        let why = applied.unconfigured.map(|error| format!("{error:#}")).expect("it is reported");
        assert!(why.contains(permission) && why.contains("gcloud compute firewall-rules create"), "{why}");
        let observed = observe(&*provider, 0).await;
        assert!(observed.load_balancer.listeners.len() == 1 && observed.unserved.len() == 1, "{observed:?}");
        cloud.project.grant_all();
        until_done(&*provider, &listeners).await;
        assert_eq!(cloud.project.objects("firewalls").len(), 3);
        delete(&*provider, &lb(0)).await;
    }
}

async fn a_quota_that_is_used_up_is_named(cloud: &Cloud) {
    let listeners = [(tcp(20000), listener("a", [1]))];
    for metric in [
        "STATIC_ADDRESSES",
        "NETWORK_ENDPOINT_GROUPS",
        "REGIONAL_EXTERNAL_NETWORK_LB_BACKEND_SERVICES",
        "EXTERNAL_NETWORK_LB_FORWARDING_RULES",
        "HEALTH_CHECKS",
        "FIREWALLS",
    ] {
        cloud.project.set_quota(metric, 0);
        let provider = cloud.provider().await;
        let refused = attempt(&*provider, &listeners).await;
        let error = match refused {
            Err(error) => error,
            Ok(applied) => applied.unconfigured.or(applied.failed.into_values().next()).expect("it is reported"),
        };
        assert!(matches!(&error, Error::Exhausted(why) if format!("{why:#}").contains(metric)), "{metric}: {error:?}");
        cloud.project.set_quota(metric, 100);
        until_done(&*provider, &listeners).await;
        delete(&*provider, &lb(0)).await;
    }
}

async fn a_load_balancer_that_is_slow_to_go_is_not_ready(cloud: &Cloud) {
    let provider = cloud.provider().await;
    converge(&*provider, 0, [(tcp(20000), listener("a", [1]))]).await;
    cloud.project.operations_take(Duration::ZERO, Duration::from_secs(3600));
    let still = provider.delete(&lb(0)).await;
    assert!(matches!(&still, Err(Error::NotReady(_))), "{still:?}");
    let changes = cloud.changes();
    // Another process finds it on the way.
    let other = cloud.provider().await;
    let still = other.delete(&lb(0)).await;
    assert!(matches!(&still, Err(Error::NotReady(_))), "{still:?}");
    assert!(changes.iter().any(|call| call == "forwardingRules.delete"), "{changes:?}");
    assert_eq!(cloud.project.objects("forwardingRules").len(), 1);
}

async fn a_port_that_its_service_refuses_is_not_allowed(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let before = [(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, before.clone()).await;
    cloud.refuse(tcp(20001)).await;
    let after = [before[0].clone(), (tcp(20001), listener("b", [2])), (tcp(20002), listener("c", [3]))];
    let applied = attempt(&*provider, &after).await.expect("the others open");
    assert_eq!(applied.failed.keys().collect::<Vec<_>>(), [&tcp(20001)], "{applied:?}");
    let rule = cloud.project.objects("firewalls")[&format!("global/firewalls/{}-allow", lb(0))].clone();
    assert_eq!(rule["allowed"][0]["ports"], json!(["20000", "20002"]));
    cloud.accept_all().await;
}

async fn packets_arrive_only_once_the_firewall_denies_what_is_not_open(cloud: &Cloud) {
    let provider = cloud.provider().await;
    let listeners = [(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, listeners.clone()).await;
    for path in [format!("regions/europe-west9/forwardingRules/{}", lb(0)), format!("global/firewalls/{}-deny", lb(0))]
    {
        cloud.by_hand(&Method::DELETE, &path, serde_json::Value::Null);
    }
    cloud.project.fault(GcpFault::new("held", GcpFaultKind::OperationHeld, &["firewalls.insert"]).times(None));
    let provider = cloud.provider().await;
    for _ in 0..2 {
        _ = attempt(&*provider, &listeners).await;
        assert!(cloud.project.objects("forwardingRules").is_empty());
    }
    cloud.project.release("held");
    until_done(&*provider, &listeners).await;
    assert_eq!(cloud.project.objects("forwardingRules").len(), 1);
}

async fn while_the_api_server_is_away_nodes_come_and_go(cloud: &Cloud) {
    let is_away = Arc::new(AtomicBool::new(false));
    let of_provider = is_away.clone();
    let provider = cloud.provider_cut_off_when(move || of_provider.load(Ordering::SeqCst));
    let before = [(tcp(20000), listener("a", [1]))];
    converge(&provider, 0, before.clone()).await;
    cloud.add_nodes(&[("europe-west9-a", "node-4")]);
    is_away.store(true, Ordering::SeqCst);
    let after = [before[0].clone(), (tcp(20001), listener("b", [2]))];
    attempt(&provider, &after).await.expect_err("the Services cannot be written");
    let group = format!("zones/europe-west9-a/networkEndpointGroups/{}", lb(0));
    assert!(cloud.project.instances(&group).contains("node-4"));
    is_away.store(false, Ordering::SeqCst);
    until_done(&provider, &after).await;
}

async fn a_service_that_cannot_be_deleted_keeps_only_the_address(cloud: &Cloud) {
    let is_away = Arc::new(AtomicBool::new(false));
    let of_provider = is_away.clone();
    let provider = cloud.provider_cut_off_when(move || of_provider.load(Ordering::SeqCst));
    converge(&provider, 0, [(tcp(20000), listener("a", [1]))]).await;
    is_away.store(true, Ordering::SeqCst);
    provider.delete(&lb(0)).await.expect_err("the Service cannot be deleted");
    let left: Vec<String> = cloud.objects().into_keys().collect();
    assert_eq!(left, [format!("regions/europe-west9/addresses/{}", lb(0))]);
    is_away.store(false, Ordering::SeqCst);
    delete(&provider, &lb(0)).await;
    assert!(cloud.objects().is_empty());
}
