//! Objects as the controller writes them, for tests.

use serde_json::{Value, json};
use sharedlb_crds::{SharedLB, SharedLBClass};

use crate::snapshot::{Seen, Snapshot};

/// Reads an object from JSON.
pub(crate) fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("it is an object of this kind")
}

/// A claim that is ready, with this port of TCP on this load balancer.
pub(crate) fn claim(namespace: &str, name: &str, class: &str, index: u32, port: u16) -> SharedLB {
    object(json!({
        "metadata": {"namespace": namespace, "name": name, "generation": 1},
        "spec": {"className": class, "selector": {"app": name}, "ports": [{"targetPort": 80}]},
        "status": {
            "className": class, "loadBalancerIndex": index, "address": "10.99.0.1",
            "ports": [{"name": "", "protocol": "TCP", "port": port, "opened": true}],
            "summary": format!("{port}/TCP→80"), "observedGeneration": 1,
            "conditions": [condition("Allocated", "True", "Allocated", ""), condition("Programmed", "True", "Programmed", ""),
                condition("Ready", "True", "Ready", "every port is served, and has a backend")],
        },
    }))
}

/// A condition of generation 1.
pub(crate) fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

/// A class with one load balancer, on which 5432/TCP was released by team-b/postgres at the
/// beginning of 2026.
pub(crate) fn class(name: &str, index: u32, foreign_ports: &[&str]) -> SharedLBClass {
    object(json!({
        "metadata": {"name": name, "generation": 1},
        "spec": {
            "provider": {"service": {}},
            "ports": {"dynamic": [{"min": 20000, "max": 20009}], "requestable": [{"min": 1, "max": 10000}]},
        },
        "status": {
            "provider": "service", "summary": "1 of 10, 1 of 50 listeners", "observedGeneration": 1,
            "loadBalancers": [{
                "index": index, "address": "10.99.0.1", "listeners": 1, "capacity": {"listeners": 50},
                "foreignPorts": foreign_ports,
                "released": [
                    {"port": 5432, "protocol": "TCP", "claim": "team-b/postgres", "time": "2026-01-01T00:00:00Z"},
                ],
                "conditions": [condition("Ready", "True", "Ready", "")],
            }],
            "conditions": [condition("Accepted", "True", "Accepted", ""), condition("Ready", "True", "Ready", "")],
        },
    }))
}

/// What an administrator sees, a minute after the beginning of 2026.
pub(crate) fn snapshot(
    claims: impl IntoIterator<Item = SharedLB>,
    classes: impl IntoIterator<Item = SharedLBClass>,
) -> Snapshot {
    Snapshot {
        now: "2026-01-01T00:01:00Z".parse().expect("it is a time"),
        system_namespace: "sharedlb-system".to_owned(),
        claims: Seen::all(claims),
        classes: Seen::all(classes),
        ..Snapshot::default()
    }
}
