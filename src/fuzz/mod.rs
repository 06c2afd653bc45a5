//! Every field that is read may have been written by another client: nothing
//! panics, no slot is lost, and what is told is short and on one line.

mod claims;
mod classes;
mod endpoints;
#[path = "../../tests/fuzz/mutate.rs"]
pub(crate) mod mutate;
mod sources;

pub(crate) use classes::class_json;
use proptest::prelude::ProptestConfig;
use serde_json::{Value, json};

use crate::kubernetes::text::MESSAGE_MAX;

/// How often each property is tried. `PROPTEST_CASES` makes it more.
pub(crate) fn config() -> ProptestConfig {
    let tries = std::env::var("PROPTEST_CASES").ok().and_then(|tries| tries.parse().ok()).unwrap_or(64);
    ProptestConfig { cases: tries, failure_persistence: None, ..ProptestConfig::default() }
}

/// A claim `team/<name>` in use: two ports, both open.
pub(crate) fn claim_json(name: &str, first: u16) -> Value {
    let second = first + 1;
    json!({
        "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLB",
        "metadata": {
            "namespace": "team", "name": name, "uid": format!("uid-of-{name}"), "resourceVersion": "7", "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["sharedlb.dev/release-ports"],
            "labels": {"app": "redis"}, "annotations": {"note": "mine"},
        },
        "spec": {
            "className": "default", "selector": {"app": "redis"}, "address": "10.0.0.1",
            "loadBalancerSourceRanges": ["10.0.0.0/8", "fd00::/8"], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
            "ports": [
                {"name": "a", "protocol": "TCP", "port": first, "targetPort": 6379},
                {"name": "b", "protocol": "TCP_UDP", "targetPort": "dns"},
            ],
        },
        "status": {
            "className": "default", "loadBalancerIndex": 0, "address": "10.0.0.1", "summary": "…", "observedGeneration": 3,
            "ports": [{"name": "a", "protocol": "TCP", "port": first}, {"name": "b", "protocol": "TCP_UDP", "port": second}],
            "loadBalancer": {"ingress": [{"ip": "10.0.0.1", "ports": [
                {"port": first, "protocol": "TCP"}, {"port": second, "protocol": "TCP"}, {"port": second, "protocol": "UDP"},
            ]}]},
            "conditions": [{
                "type": "Allocated", "status": "True", "reason": "Allocated", "message": "", "observedGeneration": 3,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        },
    })
}

/// Whether all that this says to a user is short and on one line.
pub(crate) fn is_fit(messages: impl IntoIterator<Item = String>) -> bool {
    messages.into_iter().all(|text| text.len() <= MESSAGE_MAX && !text.chars().any(char::is_control))
}
