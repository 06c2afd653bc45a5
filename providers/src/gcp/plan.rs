//! The next calls on the way from the objects that were found to the desired ones. Pure.
//!
//! It is the only comparison of objects: nothing left to do means that a load balancer is as its
//! class has it, and what is left to do, in words, is how an observation reports a difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use super::attaching::INSTANCES_AT_ONCE;
use super::found::Found;
use super::objects::{Names, Object, Rule, Zone, is_in, same_object};
use super::wanted::Wanted;

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
    /// Puts these instances into the group
    Attach(Vec<String>),
    /// Takes these instances out of the group
    Detach(Vec<String>),
    /// Sets the labels of the object
    SetLabels(Value),
    /// Deletes the object
    Delete,
}

impl Action {
    /// The permission that it needs, after the kind of the object.
    pub(super) fn permission(&self) -> &'static str {
        match self {
            Self::Insert(_) => "create",
            Self::Patch(_) => "update",
            Self::Attach(_) => "attachNetworkEndpoints",
            Self::Detach(_) => "detachNetworkEndpoints",
            Self::SetLabels(_) => "setLabels",
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
            Action::SetLabels(_) => write!(f, "the {object} lacks labels"),
            Action::Attach(_) | Action::Detach(_) => write!(f, "the {object} has other nodes"),
            Action::Delete => write!(f, "the {object} is not as the class has it, or not needed"),
        }
    }
}

/// The calls that can be made now, one for each object; none: everything is as desired, or cannot
/// be had. What has failed is not waited for. Foreign objects stay as they are.
pub(super) fn next(wanted: &Wanted, found: &Found, failed: &BTreeSet<Object>) -> Vec<Step> {
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
    steps.extend(backend_service(wanted, found, failed));
    steps.extend(forwarding_rule(wanted, found));
    if found.firewalls_denied.is_none() {
        steps.extend(firewalls(wanted, found));
    }
    steps.retain(|step| !found.foreign.contains(&step.object) && !failed.contains(&step.object));
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
        let attach = found.attaching.next(zone, instances.difference(&there.instances));
        let surplus = there.instances.difference(instances).take(INSTANCES_AT_ONCE).cloned();
        // A node that comes takes over before another one goes.
        let action = match (attach.is_empty(), surplus.collect::<Vec<_>>()) {
            (false, _) => Action::Attach(attach),
            (true, surplus) if !surplus.is_empty() => Action::Detach(surplus),
            _ => continue,
        };
        steps.push(Step { object: Object::Group(zone.clone()), action });
    }
    let unused = found.groups.keys().filter(|zone| !wanted.groups.contains_key(*zone) && !found.uses_group(zone));
    steps.extend(unused.map(|zone| Step { object: Object::Group(zone.clone()), action: Action::Delete }));
    steps
}

fn backend_service(wanted: &Wanted, found: &Found, failed: &BTreeSet<Object>) -> Option<Step> {
    let object = Object::BackendService;
    let is_settled = |zone: &Zone| found.groups.contains_key(zone) || failed.contains(&Object::Group(zone.clone()));
    if found.health_check.is_none() || !wanted.groups.keys().all(is_settled) {
        return None;
    }
    // It refers to groups, so those that could not be created are none of them.
    let mut service = wanted.backend_service.clone();
    service.backends.retain(|backend| found.groups.keys().any(|zone| is_in(zone, &backend.group)));
    let Some(there) = &found.backend_service else { return Some(insert(object, &service)) };
    let step = patch(object, &service, there)?;
    let Action::Patch(mut body) = step.action else { return Some(step) };
    // Another change meanwhile is a conflict.
    body["fingerprint"] = json!(there.fingerprint);
    Some(Step { action: Action::Patch(body), ..step })
}

fn forwarding_rule(wanted: &Wanted, found: &Found) -> Option<Step> {
    let (rule, _) = wanted.forwarding_rule.as_ref().zip(found.backend_service.as_ref())?;
    let object = Object::ForwardingRule;
    let Some(there) = &found.forwarding_rule else {
        // Before packets arrive, the firewall denies what is no open port.
        let denies = found.firewalls_denied.is_some() || firewall(Rule::Deny, wanted, found).is_none();
        return denies.then(|| insert(object, rule));
    };
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

/// The calls that bring the firewall rules to their desired state, also if they are not permitted.
pub(super) fn firewalls(wanted: &Wanted, found: &Found) -> Vec<Step> {
    Rule::ALL.into_iter().filter_map(|rule| firewall(rule, wanted, found)).collect()
}

fn firewall(rule: Rule, wanted: &Wanted, found: &Found) -> Option<Step> {
    // Without an address, the desired rules are not known.
    wanted.forwarding_rule.as_ref()?;
    let object = Object::Firewall(rule);
    match (wanted.firewalls.get(&rule), found.firewalls.get(&rule)) {
        (Some(wanted), None) => Some(insert(object, wanted)),
        (Some(wanted), Some(found)) => patch(object, wanted, found),
        (None, Some(_)) => Some(Step { object, action: Action::Delete }),
        (None, None) => None,
    }
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
    Some(Step { object, action: Action::SetLabels(body) })
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
        (Some(Value::String(found)), Value::String(wanted)) => same_object(found, wanted),
        (Some(found), wanted) => found == wanted,
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
