//! Calls that go wrong, need credentials and permissions, and are counted.

use anyhow::{Context, ensure};
use http::Method;
use serde_json::{Value, json};
use sharedlb_testbed::{GcpCall, GcpFault, GcpFaultKind, GoogleUser, http_get};

use crate::setting::{Google, REGION, ZONE, address, attached, backend_service, firewall, forwarding_rule, in_region};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    calls_beyond_the_rate_are_refused,
    a_call_whose_answer_is_lost_is_carried_out,
    a_call_that_does_not_arrive_is_not_carried_out,
    an_expired_token_is_refused,
    a_service_account_key_gets_a_token,
    the_metadata_server_gives_tokens_to_those_who_ask_rightly,
    a_missing_permission_is_named,
    calls_are_counted_by_method,
    other_clients_meet_no_faults,
];

async fn calls_beyond_the_rate_are_refused(google: &Google) -> anyhow::Result<()> {
    google.project.fault(GcpFault::new("rate", GcpFaultKind::RateLimited, &["addresses.*"]));
    google.refused("addresses", "insert", in_region(address("lb")), 403, "rateLimitExceeded").await?;
    google.change("addresses", "insert", in_region(address("lb"))).await?;
    let broken = GcpFaultKind::Refused { status: 503, reason: "backendError".to_owned() };
    google.project.fault(GcpFault::new("broken", broken, &["firewalls.list"]).after(1).times(Some(1)));
    google.call("firewalls", "list", json!({})).await?;
    google.refused("firewalls", "list", json!({}), 503, "backendError").await?;
    google.call("firewalls", "list", json!({})).await?;
    ensure!(google.project.hits("broken") == 1);
    Ok(())
}

async fn a_call_whose_answer_is_lost_is_carried_out(google: &Google) -> anyhow::Result<()> {
    google.project.fault(GcpFault::new("lost", GcpFaultKind::Lost, &["addresses.insert"]));
    // Google's client would send it again.
    let path = format!("/compute/v1/projects/test-project/regions/{REGION}/addresses");
    let token = format!("Bearer {}", google.project.token(GoogleUser::Controller));
    let lost = google.send("POST", &path, ("authorization", &token), &address("lb").to_string()).await;
    ensure!(lost.is_err(), "{lost:?}");
    ensure!(google.project.objects("addresses").len() == 1);
    Ok(())
}

async fn a_call_that_does_not_arrive_is_not_carried_out(google: &Google) -> anyhow::Result<()> {
    google.project.fault(GcpFault::new("dead", GcpFaultKind::Unreached, &["*"]).after(1).times(None));
    google.call("addresses", "list", json!({"region": REGION})).await?;
    let unreached = google.call("addresses", "insert", in_region(address("lb"))).await;
    ensure!(unreached.as_ref().is_err_and(|error| error.status == 0), "{unreached:?}");
    ensure!(google.project.objects("addresses").is_empty());
    google.project.release("dead");
    google.change("addresses", "insert", in_region(address("lb"))).await?;
    Ok(())
}

async fn an_expired_token_is_refused(google: &Google) -> anyhow::Result<()> {
    let list = || google.client.call_with_key(&google.project, &google.key, "firewalls", "list", json!({}));
    list().await?;
    google.project.expire_tokens();
    // Google's client gets a new token by itself after 401.
    google.project.refuse_tokens(true);
    let refused = list().await;
    ensure!(refused.as_ref().is_err_and(|error| error.reason == "RefreshError"), "{refused:?}");
    google.project.refuse_tokens(false);
    list().await?;

    let token = format!("Bearer {}", google.project.token(GoogleUser::Controller));
    let path = "/compute/v1/projects/test-project/global/firewalls";
    let (status, _) = google.send("GET", path, ("authorization", &token), "").await?;
    ensure!(status == 200);
    google.project.expire_tokens();
    let (status, error) = google.send("GET", path, ("authorization", &token), "").await?;
    ensure!(status == 401 && error["error"]["errors"][0]["reason"] == "authError", "{error}");
    Ok(())
}

async fn a_service_account_key_gets_a_token(google: &Google) -> anyhow::Result<()> {
    google.client.call_with_key(&google.project, &google.key, "firewalls", "list", json!({})).await?;
    ensure!(google.project.calls().len() == 1 && google.project.tokens().len() == 1);
    let mut other = (*google.key).clone();
    other["client_email"] = json!("another@example.com");
    let refused = google.client.call_with_key(&google.project, &other, "firewalls", "list", json!({})).await;
    ensure!(refused.as_ref().is_err_and(|error| error.reason == "RefreshError"), "{refused:?}");
    Ok(())
}

async fn the_metadata_server_gives_tokens_to_those_who_ask_rightly(google: &Google) -> anyhow::Result<()> {
    let path = "/computeMetadata/v1/instance/service-accounts/default/token";
    let without_header = http_get(google.project.address(), path).await?;
    ensure!(without_header.status() == 403 && google.project.tokens().is_empty());
    let (status, answer) = google.send("GET", path, ("metadata-flavor", "Google"), "").await?;
    ensure!(status == 200 && answer["token_type"] == "Bearer", "{answer}");
    let token = format!("Bearer {}", answer["access_token"].as_str().unwrap_or_default());
    let path = "/compute/v1/projects/test-project/global/firewalls";
    let (status, error) = google.send("GET", path, ("authorization", &token), "").await?;
    ensure!(status == 200, "{error}");
    Ok(())
}

async fn a_missing_permission_is_named(google: &Google) -> anyhow::Result<()> {
    google.create_chain("lb").await?;
    let region = |name: &str| json!({"region": REGION, name: "lb"});
    let mut service = backend_service("lb");
    service["name"] = json!("other");
    let mut rule = forwarding_rule("lb", "203.0.113.1");
    rule["name"] = json!("other");
    let internal =
        json!({"name": "i", "addressType": "INTERNAL", "subnetwork": format!("regions/{REGION}/subnetworks/nodes")});
    let rules = |body: Value| json!({"firewall": "lb", "body": body});
    let group = json!({"zone": ZONE, "networkEndpointGroup": "lb"});
    let listed = json!({"zone": ZONE, "networkEndpointGroup": "lb", "body": {}});
    for (permission, resource, method, arguments) in [
        ("addresses.create", "addresses", "insert", in_region(address("other"))),
        ("addresses.get", "addresses", "get", region("address")),
        ("addresses.delete", "addresses", "delete", region("address")),
        ("addresses.setLabels", "addresses", "setLabels", json!({"region": REGION, "resource": "lb", "body": {}})),
        ("subnetworks.use", "addresses", "insert", in_region(internal)),
        ("regionHealthChecks.create", "regionHealthChecks", "insert", in_region(crate::setting::health_check("other"))),
        ("regionHealthChecks.useReadOnly", "regionBackendServices", "insert", in_region(service.clone())),
        ("networkEndpointGroups.use", "regionBackendServices", "insert", in_region(service.clone())),
        ("regionBackendServices.create", "regionBackendServices", "insert", in_region(service)),
        (
            "networkEndpointGroups.attachNetworkEndpoints",
            "networkEndpointGroups",
            "attachNetworkEndpoints",
            attached("lb"),
        ),
        ("instances.use", "networkEndpointGroups", "attachNetworkEndpoints", attached("lb")),
        ("networkEndpointGroups.get", "networkEndpointGroups", "listNetworkEndpoints", listed),
        ("networkEndpointGroups.delete", "networkEndpointGroups", "delete", group),
        ("addresses.use", "forwardingRules", "insert", in_region(rule.clone())),
        ("regionBackendServices.use", "forwardingRules", "insert", in_region(rule)),
        ("forwardingRules.delete", "forwardingRules", "delete", region("forwardingRule")),
        ("firewalls.create", "firewalls", "insert", json!({"body": firewall("other", "203.0.113.1")})),
        ("firewalls.update", "firewalls", "patch", rules(json!({"name": "lb"}))),
        ("networks.updatePolicy", "firewalls", "patch", rules(json!({"name": "lb"}))),
        ("regions.get", "regions", "get", json!({"region": REGION})),
    ] {
        let permission = format!("compute.{permission}");
        google.project.withdraw(&permission);
        let message = google.refused(resource, method, arguments, 403, "forbidden").await?;
        let named = format!("Required '{permission}' permission for 'projects/test-project");
        ensure!(message.starts_with(&named), "{message}");
        google.project.grant_all();
    }
    Ok(())
}

async fn calls_are_counted_by_method(google: &Google) -> anyhow::Result<()> {
    google.change("addresses", "insert", in_region(address("lb"))).await?;
    google.refused("addresses", "insert", in_region(address("lb")), 409, "alreadyExists").await?;
    let listed = json!({"region": REGION});
    google.client.call(&google.project, GoogleUser::Observer, "addresses", "list", listed).await?;
    let calls = google.project.take_calls();
    let seen: Vec<_> = calls.iter().map(|call| (call.method.as_str(), call.status, call.reads())).collect();
    let wanted = [
        ("addresses.insert", Some(200), false),
        ("regionOperations.wait", Some(200), true),
        ("addresses.insert", Some(409), false),
    ];
    ensure!(seen == wanted, "{calls:?}");
    let first: &GcpCall = calls.first().context("there is none")?;
    ensure!(first.path == format!("regions/{REGION}/addresses") && first.body == address("lb"), "{first:?}");
    ensure!(google.project.calls().is_empty());
    Ok(())
}

async fn other_clients_meet_no_faults(google: &Google) -> anyhow::Result<()> {
    google.project.fault(GcpFault::new("dead", GcpFaultKind::Unreached, &["*"]).times(None));
    google.project.withdraw("compute.firewalls.create");
    google.project.call(&Method::POST, "global/firewalls", firewall("theirs", "203.0.113.1"))?;
    ensure!(google.project.objects("firewalls").keys().eq(["global/firewalls/theirs"]));
    ensure!(google.project.calls().is_empty() && google.project.hits("dead") == 0);
    let twice = google.project.call(&Method::POST, "global/firewalls", firewall("theirs", "203.0.113.1"));
    ensure!(twice.is_err_and(|error| error.to_string().contains("alreadyExists")));
    google.project.call(&Method::DELETE, "global/firewalls/theirs", Value::Null)?;
    ensure!(google.project.objects("firewalls").is_empty());
    Ok(())
}
