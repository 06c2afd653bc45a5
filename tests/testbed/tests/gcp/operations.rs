//! Operations that take time or fail, and calls that are repeated.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use sharedlb_testbed::{GcpFault, GcpFaultKind};

use crate::setting::{Google, REGION, address, attached, firewall, forwarding_rule, in_region};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    an_object_is_of_use_when_its_operation_is_done,
    a_change_is_seen_when_its_operation_is_done,
    an_operation_takes_the_time_that_was_set,
    a_deletion_takes_longer_where_the_test_says_so,
    an_operation_that_fails_does_nothing,
    a_repeated_request_begins_no_second_operation,
];

fn held() -> GcpFault {
    GcpFault::new("held", GcpFaultKind::OperationHeld, &["*"])
}

async fn an_object_is_of_use_when_its_operation_is_done(google: &Google) -> anyhow::Result<()> {
    google.create_chain("lb").await?;
    google.project.fault(held());
    let begun = google.call("addresses", "insert", in_region(address("other"))).await?;
    ensure!(begun["status"] == "PENDING" && begun["operationType"] == "insert", "{begun}");
    let get = json!({"region": REGION, "address": "other"});
    let found = google.call("addresses", "get", get.clone()).await?;
    ensure!(found["status"] == "RESERVING" && found["address"] == "203.0.113.2", "{found}");
    google.refused("addresses", "insert", in_region(address("other")), 409, "alreadyExists").await?;
    google.refused("addresses", "delete", get.clone(), 400, "resourceNotReady").await?;
    let mut rule = forwarding_rule("lb", "203.0.113.2");
    rule["name"] = json!("other");
    google.refused("forwardingRules", "insert", in_region(rule.clone()), 400, "resourceNotReady").await?;

    google.project.release("held");
    let done = google.wait(&begun).await?;
    ensure!(done["name"] == begun["name"] && done["progress"] == 100, "{done}");
    let found = google.call("addresses", "get", get).await?;
    ensure!(found["status"] == "RESERVED", "{found}");
    google.change("forwardingRules", "insert", in_region(rule)).await?;
    Ok(())
}

async fn a_change_is_seen_when_its_operation_is_done(google: &Google) -> anyhow::Result<()> {
    google.change("firewalls", "insert", json!({"body": firewall("lb", "203.0.113.1")})).await?;
    google.project.fault(held());
    let patch = json!({"firewall": "lb", "body": {"name": "lb", "priority": 1}});
    let begun = google.call("firewalls", "patch", patch.clone()).await?;
    let found = google.call("firewalls", "get", json!({"firewall": "lb"})).await?;
    ensure!(found["priority"] == 900, "{found}");
    google.refused("firewalls", "patch", patch, 400, "resourceNotReady").await?;
    google.project.release("held");
    google.wait(&begun).await?;
    let found = google.call("firewalls", "get", json!({"firewall": "lb"})).await?;
    ensure!(found["priority"] == 1, "{found}");
    Ok(())
}

async fn an_operation_takes_the_time_that_was_set(google: &Google) -> anyhow::Result<()> {
    google.project.operations_take(Duration::from_secs(3600), Duration::ZERO);
    let begun = google.call("addresses", "insert", in_region(address("lb"))).await?;
    let get = json!({"region": REGION, "operation": begun["name"]});
    let later = google.call("regionOperations", "get", get).await?;
    ensure!(later["status"] == "PENDING" && google.project.has_running_operations(), "{later}");
    Ok(())
}

async fn a_deletion_takes_longer_where_the_test_says_so(google: &Google) -> anyhow::Result<()> {
    google.project.operations_take(Duration::ZERO, Duration::from_secs(3600));
    google.create_chain("lb").await?;
    let rule = json!({"region": REGION, "forwardingRule": "lb"});
    google.call("forwardingRules", "delete", rule.clone()).await?;
    google.call("forwardingRules", "get", rule.clone()).await?;
    google.refused("forwardingRules", "delete", rule, 400, "resourceNotReady").await?;
    let service = json!({"region": REGION, "backendService": "lb"});
    google.refused("regionBackendServices", "delete", service, 400, "resourceInUseByAnotherResource").await?;
    Ok(())
}

async fn an_operation_that_fails_does_nothing(google: &Google) -> anyhow::Result<()> {
    google.create_chain("lb").await?;
    let fails = GcpFaultKind::OperationFails { code: "QUOTA_EXCEEDED".to_owned(), status: 403 };
    let methods = ["addresses.insert", "firewalls.patch", "*.detachNetworkEndpoints"];
    google.project.fault(GcpFault::new("fails", fails, &methods).times(None));
    let begun = google.call("addresses", "insert", in_region(address("other"))).await?;
    let done = google.wait(&begun).await?;
    ensure!(done["error"]["errors"][0]["code"] == "QUOTA_EXCEEDED" && done["httpErrorStatusCode"] == 403, "{done}");
    google.refused("addresses", "get", json!({"region": REGION, "address": "other"}), 404, "notFound").await?;

    let patch = json!({"firewall": "lb", "body": {"name": "lb", "priority": 1}});
    let begun = google.call("firewalls", "patch", patch).await?;
    ensure!(google.wait(&begun).await?.get("error").is_some());
    let found = google.call("firewalls", "get", json!({"firewall": "lb"})).await?;
    ensure!(found["priority"] == 900, "{found}");

    let begun = google.call("networkEndpointGroups", "detachNetworkEndpoints", attached("lb")).await?;
    ensure!(google.wait(&begun).await?.get("error").is_some());
    let group = format!("zones/{}/networkEndpointGroups/lb", crate::setting::ZONE);
    ensure!(google.project.instances(&group).into_iter().eq(["node-1"]));
    Ok(())
}

async fn a_repeated_request_begins_no_second_operation(google: &Google) -> anyhow::Result<()> {
    let with = |id: &str| json!({"region": REGION, "body": address("lb"), "requestId": id});
    let id = "0191b8a0-0000-4000-8000-000000000001";
    let first = google.call("addresses", "insert", with(id)).await?;
    let second = google.call("addresses", "insert", with(id)).await?;
    ensure!(first["name"] == second["name"] && second["clientOperationId"] == id, "{second}");
    google.wait(&second).await?;
    let other = with("0191b8a0-0000-4000-8000-000000000002");
    google.refused("addresses", "insert", other, 409, "alreadyExists").await?;
    for bad in ["00000000-0000-0000-0000-000000000000", "1"] {
        google.refused("addresses", "insert", with(bad), 400, "invalid").await?;
    }
    Ok(())
}
