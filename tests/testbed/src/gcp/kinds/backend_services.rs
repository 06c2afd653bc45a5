//! Backend services of passthrough load balancers, in the region.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::gcp::path::{Kind, ObjectPath};
use crate::gcp::refusal::Refusal;
use crate::gcp::state::{Fields, State, default, elements, is_set, refuse_field, required, text};

/// <https://cloud.google.com/load-balancing/docs/quotas#backends>: groups in one backend service.
const MOST_BACKENDS: usize = 50;

pub(super) fn complete(state: &State, path: &ObjectPath, mut body: Fields) -> Result<Fields, Refusal> {
    default(&mut body, "loadBalancingScheme", json!("EXTERNAL"));
    let scheme = required(&body, "loadBalancingScheme")?;
    if !matches!(scheme, "EXTERNAL" | "INTERNAL") {
        return Err(Refusal::not_implemented(&format!("the scheme {scheme}")));
    }
    default(&mut body, "protocol", json!("TCP"));
    let protocol = required(&body, "protocol")?;
    if !matches!(protocol, "TCP" | "UDP" | "UNSPECIFIED") {
        let why = "A passthrough load balancer has TCP, UDP or UNSPECIFIED.";
        return Err(Refusal::invalid("resource.protocol", protocol, why));
    }
    // Fields `port` and `portName`: to be omitted for passthrough load balancers.
    for field in ["port", "portName"] {
        refuse_field(&body, field, "It must not be specified for a passthrough load balancer.")?;
    }
    default(&mut body, "sessionAffinity", json!("NONE"));
    let affinity = required(&body, "sessionAffinity")?;
    if matches!(affinity, "GENERATED_COOKIE" | "HEADER_FIELD" | "HTTP_COOKIE" | "STRONG_COOKIE_AFFINITY") {
        let why = "It is not allowed for a passthrough load balancer.";
        return Err(Refusal::invalid("resource.sessionAffinity", affinity, why));
    }
    body.insert("healthChecks".into(), health_check(state, path, &body)?);
    body.insert("backends".into(), backends(state, path, &body)?);
    Ok(body)
}

/// Field `healthChecks`: at most one, and one if there are backends. It is in the same region.
fn health_check(state: &State, path: &ObjectPath, body: &Fields) -> Result<Value, Refusal> {
    let given = elements(body, "healthChecks");
    if given.len() > 1 {
        return Err(Refusal::too_large("resource.healthChecks", 1, given.len()));
    }
    let Some(url) = given.first().and_then(Value::as_str) else {
        return Err(Refusal::required("resource.healthChecks"));
    };
    let check = state.usable("resource.healthChecks[0]", url)?;
    if Kind::of_collection(check.collection()) != Some(Kind::HealthCheck) || check.scope() != path.scope() {
        return Err(Refusal::invalid("resource.healthChecks[0]", url, "It is no health check of the region."));
    }
    Ok(json!([state.link(&check)]))
}

fn backends(state: &State, path: &ObjectPath, body: &Fields) -> Result<Value, Refusal> {
    let given = elements(body, "backends");
    if given.len() > MOST_BACKENDS {
        return Err(Refusal::too_large("resource.backends", MOST_BACKENDS, given.len()));
    }
    let region = path.scope().trim_start_matches("regions/");
    let mut groups = BTreeSet::new();
    let mut backends = Vec::new();
    for (index, backend) in given.iter().enumerate() {
        let at = format!("resource.backends[{index}]");
        let mut backend = backend.as_object().cloned().unwrap_or_default();
        let Some(url) = text(&backend, "group") else { return Err(Refusal::required(&format!("{at}.group"))) };
        let group = state.usable(&format!("{at}.group"), url)?;
        let is_group = Kind::of_collection(group.collection()) == Some(Kind::EndpointGroup);
        if !is_group || !group.scope().starts_with(&format!("zones/{region}-")) {
            return Err(Refusal::invalid(&format!("{at}.group"), url, "It is no group in a zone of the region."));
        }
        if !groups.insert(group.clone()) {
            return Err(Refusal::invalid(
                &format!("{at}.group"),
                url,
                "Duplicate network endpoint groups in backends.",
            ));
        }
        // Field `balancingMode`: passthrough load balancers have CONNECTION.
        default(&mut backend, "balancingMode", json!("CONNECTION"));
        let mode = text(&backend, "balancingMode").unwrap_or_default();
        if mode != "CONNECTION" {
            return Err(Refusal::invalid(&format!("{at}.balancingMode"), mode, "It must be CONNECTION."));
        }
        for field in ["maxConnections", "maxConnectionsPerEndpoint", "maxRate", "maxUtilization", "capacityScaler"] {
            if is_set(&backend, field) {
                let why = "It must not be specified for a passthrough load balancer.";
                return Err(Refusal::invalid(&format!("{at}.{field}"), "", why));
            }
        }
        backend.insert("group".into(), json!(state.link(&group)));
        backends.push(Value::Object(backend));
    }
    Ok(json!(backends))
}

/// Field `fingerprint`: "An up-to-date fingerprint must be provided in order to update the
/// BackendService, otherwise the request will fail with error 412 conditionNotMet."
pub(super) fn check_change(before: &Fields, body: &Fields) -> Result<(), Refusal> {
    if text(body, "fingerprint") != text(before, "fingerprint") {
        return Err(Refusal::condition_not_met("Invalid fingerprint."));
    }
    if text(body, "loadBalancingScheme").is_some_and(|scheme| Some(scheme) != text(before, "loadBalancingScheme")) {
        let scheme = text(body, "loadBalancingScheme").unwrap_or_default();
        return Err(Refusal::invalid("resource.loadBalancingScheme", scheme, "The scheme cannot be changed."));
    }
    Ok(())
}
