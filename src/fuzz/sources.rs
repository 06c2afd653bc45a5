//! Objects that ask for ports by way of a source.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use proptest::prelude::*;
use serde_json::{Value, json};
use sharedlb_crds::Reason;

use super::mutate::near;
use super::{claim_json, config, is_fit};
use crate::api::claim::ClaimObject;
use crate::backends::{Backends, ServiceObject};
use crate::kubernetes::events::Notice;
use crate::sources::config_map::ConfigMaps;
use crate::sources::service::Services;
use crate::sources::{Facts, OwnedClaim, Problem, Source, Step};

fn service_json() -> Value {
    json!({
        "metadata": {
            "namespace": "team", "name": "web", "uid": "u", "resourceVersion": "1",
            "finalizers": ["service.kubernetes.io/load-balancer-cleanup"],
            "annotations": {
                "sharedlb.dev/claim": "service-web", "sharedlb.dev/class": "default", "sharedlb.dev/address": "10.0.0.1",
                "sharedlb.dev/assign-ports": "true",
            },
        },
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": "sharedlb.dev/default", "externalTrafficPolicy": "Local",
            "loadBalancerSourceRanges": ["10.0.0.0/8", "fd00::/8"], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
            "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1", "ipMode": "Proxy"}]}, "conditions": [{
            "type": "sharedlb.dev/Ready", "status": "True", "reason": "Ready", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]},
    })
}

fn map_json() -> Value {
    json!({
        "metadata": {
            "namespace": "team", "name": "web", "uid": "u", "resourceVersion": "1", "labels": {"app": "loadbalancer"},
            "managedFields": [{
                "manager": "sharedlb", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:data": {"f:bind-ip": {}, "f:bind-port": {}}},
            }],
        },
        "data": {
            "namespace": "team", "target-service-name": "web", "class": "default", "bind-port": "20000",
            "target-port": "http", "bind-ip": "10.0.0.1",
        },
    })
}

/// The claim of such an object, as its source would have made it.
fn owned(kind: &str, name: &str) -> Value {
    let mut claim = claim_json(name, 20000);
    claim["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": kind, "name": "web", "uid": "u", "controller": true}]);
    claim["metadata"]["labels"] = json!({"sharedlb.dev/source": kind.to_lowercase()});
    claim["spec"] = json!({
        "className": "default", "serviceName": "web", "ports": [{"name": "http", "targetPort": 80}],
    });
    claim
}

fn config_maps() -> ConfigMaps {
    let backends = Backends::default();
    backends.apply_service_event(Event::Init);
    let service: Service = serde_json::from_value(service_json()).unwrap();
    backends.apply_service_event(Event::InitApply(ServiceObject::parse(&service)));
    backends.apply_service_event(Event::InitDone);
    ConfigMaps { backends: Arc::new(backends) }
}

/// The next step, if both are objects at all. Everything in it is fit to be
/// written and told, and it is about nobody else's.
fn step<S: Source>(source: &S, object: &Value, claim: Option<&Value>, problem: Option<&Problem>) -> Result<(), String> {
    let Ok(object) = serde_json::from_value::<S::Kind>(object.clone()) else { return Ok(()) };
    let object = source.parse(&object);
    let claim = claim.and_then(|claim| serde_json::from_value::<DynamicObject>(claim.clone()).ok());
    let owned = claim.as_ref().and_then(OwnedClaim::parse::<S>);
    let told = Notice::warning("Told".to_owned(), "before".to_owned());
    let facts = Facts {
        object: object.as_ref(),
        claim: owned.as_ref(),
        problem,
        last_reported: Some(&told),
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    let fit =
        |text: &str| if is_fit([text.to_owned()]) { Ok(()) } else { Err(format!("{text:?} is not fit to be told")) };
    match source.next(&facts) {
        Some(Step::Create(claim)) => {
            let made: DynamicObject = serde_json::from_value(serde_json::to_value(&*claim).unwrap()).unwrap();
            let again = ClaimObject::parse(&made);
            let at_home = object.as_ref().is_some_and(|object| {
                use crate::kubernetes::cache::Cached as _;
                again.meta.key.namespace == object.meta().key.namespace
            });
            if !at_home { Err(format!("a claim in another namespace: {claim:?}")) } else { Ok(()) }
        }
        Some(Step::Change(change)) => {
            let conditions = change.patch["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ours =
                conditions.iter().filter(|c| c["type"].as_str().is_some_and(|kind| kind.starts_with("sharedlb.dev/")));
            ours.map(|condition| condition["message"].as_str().unwrap_or_default()).try_for_each(fit)?;
            let data = change.patch["data"].as_object().cloned().unwrap_or_default();
            match data.keys().find(|key| !["bind-ip", "bind-port"].contains(&key.as_str())) {
                Some(key) => Err(format!("{key} is the user's")),
                None => Ok(()),
            }
        }
        Some(Step::Report(notice)) => fit(&crate::kubernetes::text::message(&notice.note)),
        Some(Step::Correct(_)) | Some(Step::Delete(_)) if owned.is_none() => Err("it is not the source's".to_owned()),
        _ => Ok(()),
    }
}

fn problems() -> impl Strategy<Value = Option<Problem>> {
    prop::option::of("\\PC{0,40}|(.|\n){0,3000}".prop_map(|message| Problem { reason: Reason::Rejected, message }))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_a_service_is_the_next_step_is_a_fit_one(
        object in near(service_json(), ""), claim in prop::option::of(near(owned("Service", "service-web"), "")), problem in problems(),
    ) {
        prop_assert_eq!(step(&Services { unclassed: true }, &object, claim.as_ref(), problem.as_ref()), Ok(()));
    }

    #[test]
    fn whatever_a_config_map_is_the_next_step_is_a_fit_one(
        object in near(map_json(), ""), claim in prop::option::of(near(owned("ConfigMap", "configmap-web"), "")), problem in problems(),
    ) {
        prop_assert_eq!(step(&config_maps(), &object, claim.as_ref(), problem.as_ref()), Ok(()));
    }
}
