//! A load balancer from nothing, and back to nothing.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::setting::{Google, REGION, ZONE, attached, in_region};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    a_whole_load_balancer_is_created_and_deleted,
    an_internal_load_balancer_has_an_address_of_the_subnetwork,
    what_another_object_uses_is_not_deleted,
    instances_come_and_go,
    objects_are_listed_in_pages,
];

async fn a_whole_load_balancer_is_created_and_deleted(google: &Google) -> anyhow::Result<()> {
    google.create_chain("lb").await?;
    let address = google.call("addresses", "get", json!({"region": REGION, "address": "lb"})).await?;
    ensure!(address["address"] == "203.0.113.1" && address["status"] == "IN_USE", "{address}");
    let rule =
        format!("https://www.googleapis.com/compute/v1/projects/test-project/regions/{REGION}/forwardingRules/lb");
    ensure!(address["users"] == json!([rule]), "{address}");
    let service =
        google.call("regionBackendServices", "get", json!({"region": REGION, "backendService": "lb"})).await?;
    ensure!(
        service["backends"][0]["balancingMode"] == "CONNECTION" && service["protocol"] == "UNSPECIFIED",
        "{service}"
    );
    let group = json!({"zone": ZONE, "networkEndpointGroup": "lb"});
    let group = google.call("networkEndpointGroups", "get", group).await?;
    ensure!(group["size"] == 1, "{group}");

    google.change("firewalls", "delete", json!({"firewall": "lb"})).await?;
    google.change("forwardingRules", "delete", json!({"region": REGION, "forwardingRule": "lb"})).await?;
    google.change("regionBackendServices", "delete", json!({"region": REGION, "backendService": "lb"})).await?;
    google.change("networkEndpointGroups", "delete", json!({"zone": ZONE, "networkEndpointGroup": "lb"})).await?;
    google.change("regionHealthChecks", "delete", json!({"region": REGION, "healthCheck": "lb"})).await?;
    google.change("addresses", "delete", json!({"region": REGION, "address": "lb"})).await?;
    for collection in ["addresses", "healthChecks", "backendServices", "forwardingRules", "firewalls"] {
        ensure!(google.project.objects(collection).is_empty(), "{collection}");
    }
    let gone = json!({"region": REGION, "address": "lb"});
    let message = google.refused("addresses", "get", gone, 404, "notFound").await?;
    ensure!(message == format!("The resource 'projects/test-project/regions/{REGION}/addresses/lb' was not found"));
    Ok(())
}

async fn an_internal_load_balancer_has_an_address_of_the_subnetwork(google: &Google) -> anyhow::Result<()> {
    let subnetwork = format!("regions/{REGION}/subnetworks/nodes");
    let address = json!({"name": "lb", "addressType": "INTERNAL", "subnetwork": subnetwork});
    google.change("addresses", "insert", in_region(address)).await?;
    let found = google.call("addresses", "get", json!({"region": REGION, "address": "lb"})).await?;
    ensure!(found["address"] == "10.128.0.1" && found["purpose"] == "GCE_ENDPOINT", "{found}");
    google.change("regionHealthChecks", "insert", in_region(crate::setting::health_check("lb"))).await?;
    let mut service = crate::setting::backend_service("lb");
    service["loadBalancingScheme"] = json!("INTERNAL");
    service["backends"] = json!([]);
    google.change("regionBackendServices", "insert", in_region(service)).await?;
    let mut rule = crate::setting::forwarding_rule("lb", "10.128.0.1");
    google.refused("forwardingRules", "insert", in_region(rule.clone()), 400, "invalid").await?;
    rule["loadBalancingScheme"] = json!("INTERNAL");
    google.refused("forwardingRules", "insert", in_region(rule.clone()), 400, "required").await?;
    rule["subnetwork"] = json!(subnetwork);
    rule["allowGlobalAccess"] = json!(true);
    google.change("forwardingRules", "insert", in_region(rule)).await?;
    Ok(())
}

async fn what_another_object_uses_is_not_deleted(google: &Google) -> anyhow::Result<()> {
    google.create_chain("lb").await?;
    let calls = [
        ("addresses", json!({"region": REGION, "address": "lb"}), "forwardingRules"),
        ("regionHealthChecks", json!({"region": REGION, "healthCheck": "lb"}), "backendServices"),
        ("networkEndpointGroups", json!({"zone": ZONE, "networkEndpointGroup": "lb"}), "backendServices"),
        ("regionBackendServices", json!({"region": REGION, "backendService": "lb"}), "forwardingRules"),
    ];
    for (resource, arguments, user) in calls {
        let message = google.refused(resource, "delete", arguments, 400, "resourceInUseByAnotherResource").await?;
        let used = format!("is already being used by 'projects/test-project/regions/{REGION}/{user}/lb'");
        ensure!(message.ends_with(&used), "{message}");
    }
    Ok(())
}

async fn instances_come_and_go(google: &Google) -> anyhow::Result<()> {
    google.create_chain("lb").await?;
    let mut endpoints = attached("lb");
    endpoints["body"]["networkEndpoints"] = json!([{"instance": "node-2"}]);
    google.refused("networkEndpointGroups", "attachNetworkEndpoints", endpoints.clone(), 404, "notFound").await?;
    google.project.add_instance(ZONE, "node-2", [10, 128, 0, 202].into());
    google.change("networkEndpointGroups", "attachNetworkEndpoints", endpoints.clone()).await?;
    let path = format!("zones/{ZONE}/networkEndpointGroups/lb");
    ensure!(google.project.instances(&path).into_iter().eq(["node-1", "node-2"]));
    google.project.remove_instance(ZONE, "node-1");
    ensure!(google.project.instances(&path).into_iter().eq(["node-2"]));

    let listed = json!({"zone": ZONE, "networkEndpointGroup": "lb", "body": {"healthStatus": "SKIP"}});
    let listed = google.call("networkEndpointGroups", "listNetworkEndpoints", listed).await?;
    let wanted = json!([{"networkEndpoint": {"instance": "node-2", "ipAddress": "10.128.0.202"}}]);
    ensure!(listed["items"] == wanted, "{listed}");
    google.change("networkEndpointGroups", "detachNetworkEndpoints", endpoints.clone()).await?;
    google.refused("networkEndpointGroups", "detachNetworkEndpoints", endpoints.clone(), 400, "invalid").await?;
    endpoints["body"]["networkEndpoints"][0]["port"] = json!(80);
    google.refused("networkEndpointGroups", "attachNetworkEndpoints", endpoints, 400, "invalid").await?;
    Ok(())
}

async fn objects_are_listed_in_pages(google: &Google) -> anyhow::Result<()> {
    for name in ["a", "b", "c"] {
        google.change("addresses", "insert", in_region(crate::setting::address(name))).await?;
    }
    let first = google.call("addresses", "list", json!({"region": REGION, "maxResults": 2})).await?;
    let token = first["nextPageToken"].clone();
    let second = json!({"region": REGION, "maxResults": 2, "pageToken": token});
    let second = google.call("addresses", "list", second).await?;
    let names = |page: &Value| {
        let items = page["items"].as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item["name"].clone()).collect::<Value>()
    };
    ensure!(names(&first) == json!(["a", "b"]) && names(&second) == json!(["c"]), "{first} {second}");
    ensure!(second.get("nextPageToken").is_none(), "{second}");
    let none = google.call("firewalls", "list", json!({})).await?;
    ensure!(none.get("items").is_none(), "{none}");
    Ok(())
}
