//! What Compute Engine refuses although its form is right.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::setting::{
    Google, REGION, address, backend_service, firewall, forwarding_rule, group, health_check, in_region,
};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    forwarding_rules_fit_their_ports_and_backend_services,
    forwarding_rules_do_not_overlap,
    a_forwarding_rule_keeps_all_but_its_tier,
    a_backend_service_changes_with_its_present_fingerprint_only,
    labels_change_with_their_present_fingerprint_only,
    a_firewall_rule_keeps_what_a_patch_does_not_have,
    a_firewall_rule_has_limits,
    health_checks_and_groups_fit_their_types,
    quotas_are_shown_and_kept,
];

async fn forwarding_rules_fit_their_ports_and_backend_services(google: &Google) -> anyhow::Result<()> {
    google.create_chain("lb").await?;
    google.change("addresses", "insert", in_region(address("other"))).await?;
    let with = |fields: Value| {
        let mut rule = forwarding_rule("other", "203.0.113.2");
        for (field, value) in fields.as_object().into_iter().flatten() {
            rule[field] = value.clone();
        }
        rule["backendService"] = json!(format!("regions/{REGION}/backendServices/lb"));
        in_region(rule)
    };
    for fields in [
        json!({"allPorts": false}),
        json!({"allPorts": false, "ports": ["80"]}),
        json!({"ports": ["80"]}),
        json!({"IPProtocol": "TCP", "allPorts": false}),
        json!({"networkTier": "STANDARD"}),
        json!({"IPAddress": "203.0.113.9"}),
        json!({"allowGlobalAccess": true}),
        json!({"subnetwork": format!("regions/{REGION}/subnetworks/nodes")}),
        json!({"labels": {"team": "network"}}),
    ] {
        google.refused("forwardingRules", "insert", with(fields), 400, "invalid").await?;
    }
    let six = json!({"IPProtocol": "TCP", "allPorts": null, "ports": ["1", "2", "3", "4", "5", "6"]});
    google.refused("forwardingRules", "insert", with(six), 413, "fieldSizeTooLarge").await?;
    google.change("forwardingRules", "insert", with(json!({"IPAddress": null}))).await?;

    let mut of_tcp = backend_service("lb");
    of_tcp["name"] = json!("tcp");
    of_tcp["protocol"] = json!("TCP");
    google.change("regionBackendServices", "insert", in_region(of_tcp)).await?;
    let mut rule = forwarding_rule("tcp", "203.0.113.2");
    let message = google.refused("forwardingRules", "insert", in_region(rule.clone()), 400, "invalid").await?;
    ensure!(message.contains("resource.backendService"), "{message}");
    rule["IPProtocol"] = json!("TCP");
    google.change("forwardingRules", "insert", in_region(rule)).await?;
    Ok(())
}

async fn forwarding_rules_do_not_overlap(google: &Google) -> anyhow::Result<()> {
    google.create_chain("lb").await?;
    let rule = |name: &str, fields: Value| {
        let mut rule = forwarding_rule("lb", "203.0.113.1");
        rule["name"] = json!(name);
        for (field, value) in fields.as_object().into_iter().flatten() {
            rule[field] = value.clone();
        }
        in_region(rule)
    };
    let message = google.refused("forwardingRules", "insert", rule("all", json!({})), 400, "invalid").await?;
    ensure!(message.contains("Specified IP address is in-use and would result in a conflict."), "{message}");
    let tcp = |range: &str| json!({"IPProtocol": "TCP", "allPorts": null, "portRange": range});
    google.change("forwardingRules", "insert", rule("first", tcp("80-90"))).await?;
    let overlapping = rule("second", tcp("90-100"));
    let message = google.refused("forwardingRules", "insert", overlapping, 400, "invalid").await?;
    ensure!(message.contains("Forwarding rule's port range is conflicting with forwarding rule"), "{message}");
    google.change("forwardingRules", "insert", rule("third", tcp("91-100"))).await?;
    Ok(())
}

async fn a_forwarding_rule_keeps_all_but_its_tier(google: &Google) -> anyhow::Result<()> {
    google.create_chain("lb").await?;
    let patch = |body: Value| json!({"region": REGION, "forwardingRule": "lb", "body": body});
    let other = json!({"description": "another"});
    google.refused("forwardingRules", "patch", patch(other), 400, "invalid").await?;
    let stale = json!({"networkTier": "STANDARD", "fingerprint": "c3RhbGU="});
    google.refused("forwardingRules", "patch", patch(stale), 412, "conditionNotMet").await?;
    google.change("forwardingRules", "patch", patch(json!({"networkTier": "STANDARD"}))).await?;
    Ok(())
}

async fn a_backend_service_changes_with_its_present_fingerprint_only(google: &Google) -> anyhow::Result<()> {
    google.create_chain("lb").await?;
    let get = json!({"region": REGION, "backendService": "lb"});
    let before = google.call("regionBackendServices", "get", get.clone()).await?;
    let patch = |fingerprint: &Value| {
        let body = json!({"sessionAffinity": "CLIENT_IP", "fingerprint": fingerprint});
        json!({"region": REGION, "backendService": "lb", "body": body})
    };
    google.refused("regionBackendServices", "patch", patch(&Value::Null), 412, "conditionNotMet").await?;
    google.change("regionBackendServices", "patch", patch(&before["fingerprint"])).await?;
    let stale = patch(&before["fingerprint"]);
    google.refused("regionBackendServices", "patch", stale, 412, "conditionNotMet").await?;
    let after = google.call("regionBackendServices", "get", get).await?;
    ensure!(after["sessionAffinity"] == "CLIENT_IP" && after["backends"] == before["backends"], "{after}");
    Ok(())
}

async fn labels_change_with_their_present_fingerprint_only(google: &Google) -> anyhow::Result<()> {
    google.change("addresses", "insert", in_region(address("lb"))).await?;
    let before = google.call("addresses", "get", json!({"region": REGION, "address": "lb"})).await?;
    let set = |fingerprint: &Value, labels: Value| {
        let body = json!({"labels": labels, "labelFingerprint": fingerprint});
        json!({"region": REGION, "resource": "lb", "body": body})
    };
    let labels = json!({"team": "network"});
    let none = set(&Value::Null, labels.clone());
    google.refused("addresses", "setLabels", none, 412, "conditionNotMet").await?;
    google.change("addresses", "setLabels", set(&before["labelFingerprint"], labels.clone())).await?;
    let stale = set(&before["labelFingerprint"], json!({}));
    let message = google.refused("addresses", "setLabels", stale, 412, "conditionNotMet").await?;
    ensure!(message == "Labels fingerprint either invalid or resource labels have changed", "{message}");
    let after = google.call("addresses", "get", json!({"region": REGION, "address": "lb"})).await?;
    ensure!(after["labels"] == labels, "{after}");
    let bad = set(&after["labelFingerprint"], json!({"Team": "network"}));
    google.refused("addresses", "setLabels", bad, 400, "invalid").await?;
    Ok(())
}

async fn a_firewall_rule_keeps_what_a_patch_does_not_have(google: &Google) -> anyhow::Result<()> {
    google.change("firewalls", "insert", json!({"body": firewall("lb", "203.0.113.1")})).await?;
    let before = google.call("firewalls", "get", json!({"firewall": "lb"})).await?;
    let allowed = json!([{"IPProtocol": "udp", "ports": ["53"]}]);
    let patch = |body: Value| json!({"firewall": "lb", "body": body});
    // `name` is required by the document.
    google.refused("firewalls", "patch", patch(json!({"allowed": allowed})), 400, "required").await?;
    google.change("firewalls", "patch", patch(json!({"name": "lb", "allowed": allowed}))).await?;
    let after = google.call("firewalls", "get", json!({"firewall": "lb"})).await?;
    let mut wanted = before.clone();
    wanted["allowed"] = allowed;
    ensure!(after == wanted, "{after}");
    let egress = json!({"name": "lb", "direction": "EGRESS", "sourceRanges": null});
    google.refused("firewalls", "patch", patch(egress), 400, "invalid").await?;
    Ok(())
}

async fn a_firewall_rule_has_limits(google: &Google) -> anyhow::Result<()> {
    let with = |fields: Value| {
        let mut rule = firewall("lb", "203.0.113.1");
        for (field, value) in fields.as_object().into_iter().flatten() {
            rule[field] = value.clone();
        }
        json!({"body": rule})
    };
    let tcp = |ports: Value| json!({"allowed": [{"IPProtocol": "tcp", "ports": ports}]});
    for fields in [
        json!({"priority": 65536}),
        json!({"priority": -1}),
        json!({"denied": [{"IPProtocol": "all"}]}),
        json!({"allowed": null}),
        json!({"allowed": [{"IPProtocol": "icmp", "ports": ["1"]}]}),
        json!({"allowed": [{"IPProtocol": "no-protocol"}]}),
        tcp(json!(["65536"])),
        tcp(json!(["20-10"])),
        json!({"sourceRanges": ["10.0.0.1/8"]}),
        json!({"sourceRanges": ["0.0.0.0/0", "::/0"]}),
        json!({"targetServiceAccounts": ["nodes@example.com"]}),
    ] {
        google.refused("firewalls", "insert", with(fields), 400, "invalid").await?;
    }
    let tags: Vec<String> = (0..71).map(|number| format!("tag-{number}")).collect();
    let too_many = with(json!({"targetTags": tags}));
    google.refused("firewalls", "insert", too_many, 413, "fieldSizeTooLarge").await?;
    Ok(())
}

async fn health_checks_and_groups_fit_their_types(google: &Google) -> anyhow::Result<()> {
    let with = |fields: Value| {
        let mut check = health_check("lb");
        for (field, value) in fields.as_object().into_iter().flatten() {
            check[field] = value.clone();
        }
        in_region(check)
    };
    for fields in [
        json!({"type": "TCP"}),
        json!({"timeoutSec": 9}),
        json!({"unhealthyThreshold": 11}),
        json!({"httpHealthCheck": {"port": 70000}}),
    ] {
        google.refused("regionHealthChecks", "insert", with(fields), 400, "invalid").await?;
    }
    google.refused("regionHealthChecks", "insert", with(json!({"httpHealthCheck": null})), 400, "required").await?;
    let mut with_port = group("lb");
    with_port["defaultPort"] = json!(80);
    let arguments = json!({"zone": crate::setting::ZONE, "body": with_port});
    google.refused("networkEndpointGroups", "insert", arguments, 400, "invalid").await?;
    Ok(())
}

async fn quotas_are_shown_and_kept(google: &Google) -> anyhow::Result<()> {
    google.project.set_quota("STATIC_ADDRESSES", 1);
    google.project.set_quota("FIREWALLS", 0);
    google.change("addresses", "insert", in_region(address("first"))).await?;
    let second = in_region(address("second"));
    let message = google.refused("addresses", "insert", second, 403, "quotaExceeded").await?;
    ensure!(message == format!("Quota 'STATIC_ADDRESSES' exceeded.  Limit: 1.0 in region {REGION}."), "{message}");
    let rule = json!({"body": firewall("lb", "203.0.113.1")});
    let message = google.refused("firewalls", "insert", rule, 403, "quotaExceeded").await?;
    ensure!(message == "Quota 'FIREWALLS' exceeded.  Limit: 0.0 globally.", "{message}");
    let region = google.call("regions", "get", json!({"region": REGION})).await?;
    let quota = json!({"metric": "STATIC_ADDRESSES", "limit": 1.0, "usage": 1.0});
    ensure!(region["quotas"].as_array().is_some_and(|quotas| quotas.contains(&quota)), "{region}");
    Ok(())
}
