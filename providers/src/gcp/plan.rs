//! The next calls on the way from the objects that were found to the desired ones. Pure.
//!
//! It is the only comparison of objects: nothing left to do means that a load balancer is as its
//! class has it, and what is left to do, in words, is how an observation reports a difference.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use super::found::Found;
use super::objects::{Endpoint, Endpoints, Names, Object, Rule, Zone};
use super::wanted::Wanted;

/// The most instances in one call. (API reference of networkEndpointGroups.attachNetworkEndpoints.)
const ENDPOINTS_AT_ONCE: usize = 500;

/// A call that changes an object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) object: Object,
    pub(super) action: Action,
}

/// What a call does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Creates the object
    Insert(Value),
    /// Changes fields of the object
    Patch(Value),
    /// Calls a method of the object
    Call(Method, Value),
    /// Deletes the object
    Delete,
}

/// A method of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    AttachNetworkEndpoints,
    DetachNetworkEndpoints,
    SetLabels,
}

impl Method {
    /// As in the path of the call.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::AttachNetworkEndpoints => "attachNetworkEndpoints",
            Self::DetachNetworkEndpoints => "detachNetworkEndpoints",
            Self::SetLabels => "setLabels",
        }
    }
}

impl Action {
    /// The permission that it needs, after the kind of the object.
    pub(super) fn permission(&self) -> &'static str {
        match self {
            Self::Insert(_) => "create",
            Self::Patch(_) => "update",
            Self::Call(Method::AttachNetworkEndpoints, _) => "attachNetworkEndpoints",
            Self::Call(Method::DetachNetworkEndpoints, _) => "detachNetworkEndpoints",
            Self::Call(Method::SetLabels, _) => "setLabels",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, action } = self;
        match action {
            Action::Insert(_) => write!(f, "the {object} is missing"),
            Action::Patch(_) => write!(f, "the {object} is not as the class has it"),
            Action::Call(Method::SetLabels, _) => write!(f, "the {object} lacks labels"),
            Action::Call(..) => write!(f, "the {object} has other nodes"),
            Action::Delete => write!(f, "the {object} is not as the class has it, or not needed"),
        }
    }
}

/// The calls that can be made now, one for each object; none: everything is as desired.
pub(super) fn next(wanted: &Wanted, found: &Found) -> Vec<Step> {
    let mut steps = Vec::new();
    match (&wanted.address, &found.address) {
        (Some(wanted), None) => steps.push(insert(Object::Address, wanted)),
        (Some(_), Some(found)) => {
            steps.extend(labels(Object::Address, &wanted.labels, &found.labels, found.label_fingerprint.as_deref()));
        }
        // An existing address stays as it is.
        (None, _) => {}
    }
    steps.extend(match &found.health_check {
        None => Some(insert(Object::HealthCheck, &wanted.health_check)),
        Some(found) => patch(Object::HealthCheck, &wanted.health_check, found),
    });
    steps.extend(groups(wanted, found));
    steps.extend(backend_service(wanted, found));
    steps.extend(forwarding_rule(wanted, found));
    steps.extend(firewalls(wanted, found));
    steps
}

/// The calls that can be made now to delete everything; none: there is nothing left.
pub(super) fn teardown(names: Names<'_>, found: &Found) -> Vec<Step> {
    let delete = |object| Step { object, action: Action::Delete };
    let is_given = |object: &Object| *object == Object::Address && names.address.is_some();
    let is_denied = |object: &Object| object.is_firewall() && found.firewalls_denied.is_some();
    // What others use goes after them.
    let is_free = |object: &Object| match object {
        Object::ForwardingRule => true,
        // While packets arrive, the firewall denies what is no open port.
        Object::BackendService | Object::Address | Object::Firewall(_) => found.forwarding_rule.is_none(),
        Object::HealthCheck | Object::Group(_) => found.backend_service.is_none(),
    };
    let ours = found.objects().into_iter().filter(|object| !is_given(object) && !is_denied(object));
    ours.filter(is_free).map(delete).collect()
}

fn groups(wanted: &Wanted, found: &Found) -> Vec<Step> {
    let mut steps = Vec::new();
    for (zone, group) in &wanted.groups {
        let Some(there) = found.groups.get(zone) else {
            steps.push(insert(Object::Group(zone.clone()), group));
            continue;
        };
        let instances = &wanted.nodes[zone];
        // A node that comes takes over before another one goes.
        let missing = instances.difference(&there.instances);
        let surplus = there.instances.difference(instances);
        let attach = endpoints(zone, Method::AttachNetworkEndpoints, missing);
        steps.extend(attach.or_else(|| endpoints(zone, Method::DetachNetworkEndpoints, surplus)));
    }
    let unused = found.groups.keys().filter(|zone| !wanted.groups.contains_key(*zone) && !found.uses_group(zone));
    steps.extend(unused.map(|zone| Step { object: Object::Group(zone.clone()), action: Action::Delete }));
    steps
}

fn endpoints<'a>(zone: &Zone, method: Method, instances: impl Iterator<Item = &'a String>) -> Option<Step> {
    let endpoint = |instance: &String| Endpoint { instance: instance.clone() };
    let network_endpoints: Vec<Endpoint> = instances.take(ENDPOINTS_AT_ONCE).map(endpoint).collect();
    (!network_endpoints.is_empty()).then(|| Step {
        object: Object::Group(zone.clone()),
        action: Action::Call(method, value(&Endpoints { network_endpoints })),
    })
}

fn backend_service(wanted: &Wanted, found: &Found) -> Option<Step> {
    let service = &wanted.backend_service;
    // It refers to them.
    let has_groups = wanted.groups.keys().all(|zone| found.groups.contains_key(zone));
    if found.health_check.is_none() || !has_groups {
        return None;
    }
    let Some(there) = &found.backend_service else { return Some(insert(Object::BackendService, service)) };
    let step = patch(Object::BackendService, service, there)?;
    let Action::Patch(mut body) = step.action else { return Some(step) };
    // Another change meanwhile is a conflict.
    body["fingerprint"] = json!(there.fingerprint);
    Some(Step { action: Action::Patch(body), ..step })
}

fn forwarding_rule(wanted: &Wanted, found: &Found) -> Option<Step> {
    let (rule, _) = wanted.forwarding_rule.as_ref().zip(found.backend_service.as_ref())?;
    let object = Object::ForwardingRule;
    let Some(there) = &found.forwarding_rule else { return Some(insert(object, rule)) };
    let mut without_access = value(rule);
    without_access.as_object_mut().map(|fields| fields.remove("allowGlobalAccess"));
    if !covers(Some(&value(there)), &without_access) {
        // Its other fields cannot be changed.
        return Some(Step { object, action: Action::Delete });
    }
    if rule.allow_global_access.unwrap_or_default() != there.allow_global_access.unwrap_or_default() {
        let body = json!({ "allowGlobalAccess": rule.allow_global_access });
        return Some(Step { object, action: Action::Patch(body) });
    }
    labels(object, &wanted.labels, &there.labels, there.label_fingerprint.as_deref())
}

fn firewalls(wanted: &Wanted, found: &Found) -> Vec<Step> {
    if found.firewalls_denied.is_some() || wanted.forwarding_rule.is_none() {
        return Vec::new();
    }
    let step = |rule: Rule| {
        let object = Object::Firewall(rule);
        match (wanted.firewalls.get(&rule), found.firewalls.get(&rule)) {
            (Some(wanted), None) => Some(insert(object, wanted)),
            (Some(wanted), Some(found)) => patch(object, wanted, found),
            (None, Some(_)) => Some(Step { object, action: Action::Delete }),
            (None, None) => None,
        }
    };
    Rule::ALL.into_iter().filter_map(step).collect()
}

/// The call that adds labels, if some are missing. Labels of others stay.
fn labels(
    object: Object,
    wanted: &BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
    fingerprint: Option<&str>,
) -> Option<Step> {
    if wanted.iter().all(|(key, value)| found.get(key) == Some(value)) {
        return None;
    }
    let mut all = found.clone();
    all.extend(wanted.clone());
    let body = json!({ "labels": all, "labelFingerprint": fingerprint });
    Some(Step { object, action: Action::Call(Method::SetLabels, body) })
}

fn insert(object: Object, wanted: &impl Serialize) -> Step {
    Step { object, action: Action::Insert(value(wanted)) }
}

fn patch(object: Object, wanted: &impl Serialize, found: &impl Serialize) -> Option<Step> {
    let wanted = value(wanted);
    (!covers(Some(&value(found)), &wanted)).then_some(Step { object, action: Action::Patch(wanted) })
}

/// The form of an object in a call.
fn value(object: &impl Serialize) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// Whether an object has all fields as desired. A list is a set; an object is named by its URL or
/// its path; and what is empty need not be there.
fn covers(found: Option<&Value>, wanted: &Value) -> bool {
    match (found, wanted) {
        (None | Some(Value::Null), Value::Array(items)) => items.is_empty(),
        (None | Some(Value::Null), Value::Bool(wanted)) => !wanted,
        (None, _) => wanted.is_null(),
        (Some(Value::Array(found)), Value::Array(wanted)) => {
            found.len() == wanted.len() && wanted.iter().all(|item| found.iter().any(|other| covers(Some(other), item)))
        }
        (Some(Value::Object(found)), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| covers(found.get(key), value))
        }
        (Some(Value::String(found)), Value::String(wanted)) => path(found) == path(wanted),
        (Some(found), wanted) => found == wanted,
    }
}

/// The path of the object that a URL names.
fn path(text: &str) -> &str {
    text.find("/projects/").filter(|_| text.contains("://")).map_or(text, |at| &text[at + 1..])
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
