//! Objects for the unit tests, as the API would have them.

use std::sync::Arc;

use serde_json::{Value, json};
use sharedlb_crds::{CLAIM_FINALIZER, CLASS_FINALIZER, SharedLBClassStatus, SharedLBStatus};
use sharedlb_providers::Address;

use crate::allocation::Held;
use crate::api::claim::ClaimObject;
use crate::api::class::ClassObject;
use crate::class::render::{Programmed, Served, Verdict};

/// A claim, to be built up step by step.
#[derive(Clone)]
pub(crate) struct ClaimFixture(Value);

/// A claim `team/<name>` of class `default` that asks for one TCP port `x`.
pub(crate) fn claim(name: &str) -> ClaimFixture {
    ClaimFixture(json!({
        "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLB",
        "metadata": {
            "namespace": "team", "name": name, "uid": format!("uid-of-{name}"), "resourceVersion": "1",
            "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"className": "default", "selector": {"app": name}, "ports": [{"name": "x", "targetPort": 6379}]},
    }))
}

impl ClaimFixture {
    /// At this resourceVersion.
    pub(crate) fn version(mut self, version: u64) -> Self {
        self.0["metadata"]["resourceVersion"] = json!(version.to_string());
        self
    }

    /// Names no class.
    pub(crate) fn unnamed(mut self) -> Self {
        self.0["spec"].as_object_mut().expect("it has a spec").remove("className");
        self
    }

    /// Asks for this number.
    pub(crate) fn asks(mut self, port: u16) -> Self {
        self.0["spec"]["ports"][0]["port"] = json!(port);
        self
    }

    /// Asks for these ports.
    pub(crate) fn ports(mut self, ports: Value) -> Self {
        self.0["spec"]["ports"] = ports;
        self
    }

    /// Names this Service instead of selecting pods.
    pub(crate) fn by_service(mut self, name: &str) -> Self {
        self.0["spec"].as_object_mut().expect("it has a spec").remove("selector");
        self.0["spec"]["serviceName"] = json!(name);
        self
    }

    /// With this field of the spec.
    pub(crate) fn spec(mut self, field: &str, value: Value) -> Self {
        self.0["spec"][field] = value;
        self
    }

    /// Under our finalizer.
    pub(crate) fn protected(mut self) -> Self {
        self.0["metadata"]["finalizers"] = json!([CLAIM_FINALIZER]);
        self
    }

    /// Without our finalizer, and with a foreign one.
    pub(crate) fn let_go(mut self) -> Self {
        self.0["metadata"]["finalizers"] = json!(["example.com/mine"]);
        self
    }

    /// Being deleted.
    pub(crate) fn deleting(mut self) -> Self {
        self.0["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
        self
    }

    /// Holds this port, which has been served, under our finalizer.
    pub(crate) fn holds(self, index: u32, port: u16) -> Self {
        self.protected().status(json!({
            "className": "default", "loadBalancerIndex": index,
            "ports": [{"name": "x", "protocol": "TCP", "port": port}],
            "loadBalancer": {"ingress": [{"ip": "10.0.0.1", "ports": [{"port": port, "protocol": "TCP"}]}]},
        }))
    }

    /// With this status.
    pub(crate) fn status(mut self, status: Value) -> Self {
        self.0["status"] = status;
        self
    }

    /// With the status that was rendered.
    pub(crate) fn rendered(self, status: &SharedLBStatus) -> Self {
        self.status(serde_json::to_value(status).unwrap())
    }

    /// The claim as the controller sees it.
    pub(crate) fn build(&self) -> Arc<ClaimObject> {
        Arc::new(ClaimObject::parse(&serde_json::from_value(self.0.clone()).unwrap()))
    }
}

/// The verdict on a claim all of whose slots are served, at the address `10.0.0.1`.
pub(crate) fn served(claim: &ClaimObject) -> Verdict {
    served_slots(claim.request.held.clone())
}

/// The verdict on a claim that holds these slots, all of them served at the address
/// `10.0.0.1`.
pub(crate) fn served_slots(held: Option<Held>) -> Verdict {
    let slots = held.iter().flat_map(|held| held.slots.iter());
    Verdict {
        open: slots.flat_map(|slot| slot.key.front_ports()).collect(),
        held,
        refused: None,
        programmed: Programmed::Served(Served::default()),
        addresses: Some([Address::parse("10.0.0.1")].into()),
    }
}

/// The class `default` with this spec besides its provider, and this status.
pub(crate) fn class(spec: Value, status: &SharedLBClassStatus, deleting: bool) -> ClassObject {
    let mut object = json!({
        "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLBClass",
        "metadata": {
            "name": "default", "uid": "uid-of-class", "resourceVersion": "1", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": [CLASS_FINALIZER],
        },
        "spec": {"provider": {"service": {}}},
        "status": status,
    });
    if deleting {
        object["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
    }
    for (field, value) in spec.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    ClassObject::parse(&serde_json::from_value(object).unwrap())
}
