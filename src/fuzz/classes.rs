//! Classes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::api::DynamicObject;
use proptest::prelude::*;
use serde_json::{Value, json};
use sharedlb_crds::SharedLBClassStatus;
use sharedlb_providers::Provider as _;
use sharedlb_providers::memory::{Cloud, Memory};

use super::mutate::near;
use super::{claim_json, config, is_fit};
use crate::allocation::Assignment;
use crate::api::addresses;
use crate::api::claim::ClaimObject;
use crate::api::class::{ClassObject, policy, unsupported};
use crate::class::decide_once;

/// A class in use.
pub(crate) fn class_json() -> Value {
    json!({
        "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLBClass",
        "metadata": {
            "name": "default", "uid": "uid-of-class", "resourceVersion": "1", "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["sharedlb.dev/in-use"],
            "annotations": {"sharedlb.dev/is-default-class": "true"},
        },
        "spec": {
            "provider": {"service": {"namespace": "sharedlb-system", "annotations": {"a": "b"}}},
            "ports": {"dynamic": [{"min": 20000, "max": 20099}], "requestable": [{"min": 1, "max": 65535}]},
            "loadBalancers": {"min": 1, "max": 3, "listenersPerLoadBalancer": 50, "emptyDelaySeconds": 3600},
            "addresses": [{"min": "10.0.0.1", "max": "10.0.0.9"}], "targets": "Pod", "endpoints": "Pods",
            "allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["d"]},
            ]}},
            "portsPerNamespace": 100, "reclaimDelaySeconds": 300,
        },
        "status": {
            "provider": "service", "summary": "…", "observedGeneration": 1, "conditions": [],
            "loadBalancers": [{
                "index": 0, "address": "10.0.0.1", "listeners": 4, "capacity": {"listeners": 50, "targets": 500},
                "foreignPorts": ["22/TCP", "53/UDP"], "emptySince": "2026-01-01T00:00:00Z",
                "released": [{"port": 20050, "protocol": "TCP_UDP", "claim": "team/old", "time": "2026-01-31T23:59:00Z"}],
                "conditions": [{
                    "type": "Ready", "status": "True", "reason": "Ready", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
            }],
        },
    })
}

fn parse(object: &Value) -> Option<ClassObject> {
    serde_json::from_value::<DynamicObject>(object.clone()).ok().map(|object| ClassObject::parse(&object))
}

/// What is decided for the claims of a class, of which nothing has been heard yet.
/// A class whose spec can't be read is one that could be read before.
pub(super) fn decided(class: &Value, claims: &[Arc<ClaimObject>]) -> (Vec<Option<Assignment>>, SharedLBClassStatus) {
    let class = parse(class).unwrap();
    let last_known = parse(&class_json()).unwrap().spec.unwrap();
    let spec = class.spec.clone().unwrap_or(last_known);
    let can = Memory::new(Cloud::default()).capabilities();
    let namespaces: BTreeMap<Arc<str>, BTreeMap<String, String>> =
        BTreeMap::from([("team".into(), BTreeMap::from([("a".to_owned(), "b".to_owned())]))]);
    let kept = BTreeMap::new();
    let mut policy = policy(&spec, &can, addresses::assign(&spec, &kept), namespaces.iter());
    let refused = unsupported(&spec, &can).or_else(|| addresses::refusal(&spec, &kept));
    if class.spec.is_err() || class.status.is_err() || refused.is_some() {
        policy.namespaces = Some(BTreeSet::new());
    }
    decide_once(&class, &spec, policy, claims)
}

fn claims() -> Vec<Arc<ClaimObject>> {
    let made = [("older", 20002), ("younger", 20004)]
        .map(|(name, port)| Arc::new(ClaimObject::parse(&serde_json::from_value(claim_json(name, port)).unwrap())));
    made.into()
}

fn all_held(decided: &[Option<Assignment>], claims: &[Arc<ClaimObject>]) -> bool {
    let granted = decided.iter().map(|got| got.as_ref().and_then(|got| got.granted.as_ref()));
    granted.zip(claims).all(|(granted, claim)| granted == claim.request.held.as_ref())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_class_spec_takes_a_port_from_a_claim(object in near(class_json(), "/spec")) {
        let (claims, class) = (claims(), parse(&object).unwrap());
        prop_assert!(class.spec.as_ref().err().is_none_or(|error| is_fit([error.clone()])));
        let (decided, status) = decided(&object, &claims);
        prop_assert!(all_held(&decided, &claims), "{:?}", decided);
        let released: Vec<_> = status.load_balancers.iter().flat_map(|lb| &lb.released).collect();
        // What the class says of the cool-down may end it.
        prop_assert!(released.len() <= 1);
    }

    #[test]
    fn no_class_status_takes_a_port_from_a_claim(object in near(class_json(), "/status")) {
        let claims = claims();
        let (decided, status) = decided(&object, &claims);
        prop_assert!(all_held(&decided, &claims), "{:?}", decided);
        let mut written = object.clone();
        written["status"] = serde_json::to_value(&status).unwrap();
        let again = parse(&written).unwrap();
        prop_assert!(again.status.is_ok(), "{:?}", again.status);
        let messages = status.conditions.iter().map(|condition| condition.message.clone());
        prop_assert!(is_fit(messages));
    }

    #[test]
    fn malformed_metadata_does_no_harm(object in near(class_json(), "/metadata")) {
        if parse(&object).is_some() {
            let claims = claims();
            prop_assert!(all_held(&decided(&object, &claims).0, &claims));
        }
    }
}
