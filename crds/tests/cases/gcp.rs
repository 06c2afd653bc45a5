//! The cases of a SharedLBClass with the provider `gcp`.

use serde_json::{Value, json};

use super::{Case, accepts, object, refuses, schema_refuses, set, unset};

/// The smallest good class.
fn class() -> Value {
    object(
        "SharedLBClass",
        "edge",
        json!({ "provider": { "gcp": { "project": "edge-1234", "region": "europe-west3" } } }),
    )
}

/// The smallest good class but for one field of its provider.
fn with(field: &str, value: Value) -> Value {
    set(class(), &format!("/spec/provider/gcp/{field}"), value)
}

/// An internal one but for one field of its provider.
fn internal(field: &str, value: Value) -> Value {
    set(with("scheme", json!("Internal")), &format!("/spec/provider/gcp/{field}"), value)
}

/// A class whose firewall rules allow these ports, whether they have listeners or not.
fn range(min: u16, max: u16) -> Value {
    let class = with("firewall", json!({ "manage": "Range" }));
    set(class, "/spec/ports", json!({ "dynamic": [{ "min": min, "max": max }] }))
}

pub(super) fn cases() -> Vec<Case> {
    [whole(), identity(), firewall(), changes()].into_iter().flatten().collect()
}

fn whole() -> Vec<Case> {
    let all = json!({
        "project": "example.com:edge-1234",
        "region": "us-central1",
        "network": "projects/host-1234/global/networks/vpc",
        "subnetwork": "projects/host-1234/regions/us-central1/subnetworks/nodes",
        "scheme": "External",
        "networkTier": "Standard",
        "addressNames": ["edge-0", "edge-1"],
        "labels": { "team": "edge" },
        "sessionAffinity": "CLIENT_IP",
        "entryNodes": 50,
        "firewall": {
            "manage": "Ports", "sourceRanges": ["192.0.2.0/24"], "targetTags": ["nodes"], "priority": 500, "denyRest": false,
        },
        "healthCheck": { "port": 9879, "path": "/ready", "intervalSeconds": 5, "unhealthyThreshold": 2 },
        "credentials": { "secretName": "google" },
    });
    vec![
        accepts("a class of Google Cloud with a project and a region", class()),
        accepts("one with everything", set(class(), "/spec/provider/gcp", all)),
        accepts("an internal one that all regions reach", internal("globalAccess", json!(true))),
        schema_refuses(
            "a class of Google Cloud without a region",
            unset(class(), "/spec/provider/gcp/region"),
            "region: Required value",
        ),
        refuses(
            "addresses of a class of Google Cloud",
            set(class(), "/spec/addresses", json!([{ "min": "203.0.113.10", "max": "203.0.113.10" }])),
            "Google Cloud gives its load balancers their addresses",
        ),
        refuses("a network tier of an internal one", internal("networkTier", json!("Premium")), "a networkTier is for"),
        refuses("global access of an external one", with("globalAccess", json!(true)), "globalAccess is for"),
        schema_refuses("an affinity that there is not", with("sessionAffinity", json!("COOKIE")), "supported values"),
        schema_refuses("no entry node", with("entryNodes", json!(0)), "should be greater than or equal to 1"),
    ]
}

fn identity() -> Vec<Case> {
    vec![
        refuses("the number of a project", with("project", json!("123456789012")), "must be the id of a project"),
        refuses("a zone for a region", with("region", json!("europe-west3-a")), "must be the name of a region"),
        refuses(
            "the URL of a network",
            with("network", json!("https://example.com/vpc")),
            "must be the name of a network",
        ),
        refuses(
            "a subnetwork of no region",
            with("subnetwork", json!("projects/p/subnetworks/s")),
            "must be the name of a subnetwork",
        ),
        refuses("an address that is no name", with("addressNames", json!(["203.0.113.10"])), "the name of an address"),
        refuses("a label in upper case", with("labels", json!({ "Team": "edge" })), "keys and values of labels"),
        refuses(
            "a health check of a relative path",
            with("healthCheck", json!({ "path": "healthz" })),
            "must begin with a slash",
        ),
    ]
}

fn firewall() -> Vec<Case> {
    let firewall = |value| with("firewall", value);
    vec![
        refuses(
            "a source range with host bits",
            firewall(json!({ "sourceRanges": ["10.0.0.1/8"] })),
            "must be IPv4 ranges",
        ),
        refuses("a source range of IPv6", firewall(json!({ "sourceRanges": ["fd00::/8"] })), "must be IPv4 ranges"),
        refuses(
            "tags and service accounts",
            firewall(
                json!({ "targetTags": ["nodes"], "targetServiceAccounts": ["nodes@edge-1234.iam.gserviceaccount.com"] }),
            ),
            "leave one of them out",
        ),
        accepts("a fixed range of ports", range(20_000, 20_999)),
        refuses("a fixed range with node ports", range(20_000, 30_000), "it must not have node ports"),
        refuses("a fixed range with ports of nodes", range(1, 1023), "it must not have their own ports"),
        refuses(
            "a fixed range with the port of the kubelet",
            range(10_000, 10_999),
            "it must not have their own ports",
        ),
    ]
}

fn changes() -> Vec<Case> {
    const FIXED: &str = "cannot be changed: make a new class, and move the claims to it";
    const SET: &str = "cannot be set, changed or removed: make a new class, and move the claims to it";
    let mut cases: Vec<Case> = [
        ("project", json!("other-1234")),
        ("region", json!("europe-west4")),
        ("network", json!("vpc")),
        ("subnetwork", json!("nodes")),
        ("scheme", json!("Internal")),
    ]
    .into_iter()
    .map(|(field, value)| refuses(&format!("a {field} that is changed"), with(field, value), FIXED).after(class()))
    .collect();
    for (field, value) in [("networkTier", json!("Standard")), ("addressNames", json!(["edge-0"]))] {
        cases.push(refuses(&format!("{field} that is set later"), with(field, value.clone()), SET).after(class()));
        cases.push(refuses(&format!("{field} that is removed"), class(), SET).after(with(field, value)));
    }
    for (field, value) in [
        ("firewall", json!({ "manage": "None" })),
        ("entryNodes", json!(10)),
        ("labels", json!({ "team": "edge" })),
        ("credentials", json!({ "secretName": "google" })),
    ] {
        cases.push(accepts(&format!("a change of {field}"), with(field, value)).after(class()));
    }
    cases
}
