//! Classes: the default one, and those that are not ready.

use kube::ResourceExt as _;
use sharedlb_crds::{ConditionType, SharedLBClass};
use sharedlb_kubernetes::conditions;

use super::Finding;
use crate::occupancy::{default_class, is_default};
use crate::snapshot::Snapshot;

pub(super) fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings: Vec<Finding> = snapshot.classes.items.iter().filter_map(not_ready).collect();
    if snapshot.classes.is_complete {
        findings.extend(default_classes(snapshot));
    }
    findings
}

/// The condition that is False, with its own words.
fn not_ready(class: &SharedLBClass) -> Option<Finding> {
    let status = class.status.clone().unwrap_or_default();
    let in_order = [ConditionType::Accepted, ConditionType::Ready];
    let found = in_order.iter().filter_map(|kind| conditions::find(&status.conditions, kind));
    let failing = found.into_iter().find(|condition| condition.status == "False")?;
    Some(Finding::problem(
        about(class),
        format!("{} is False ({}): {}", failing.type_, failing.reason, failing.message),
        "as the message says; README.md has what helps against each reason",
    ))
}

fn default_classes(snapshot: &Snapshot) -> Option<Finding> {
    let defaults: Vec<String> =
        snapshot.classes.items.iter().filter(|class| is_default(class)).map(|class| class.name_any()).collect();
    match &defaults[..] {
        [] => Some(Finding::warning(
            "SharedLBClass",
            "none is the default, so claims without className are refused",
            "annotate one with sharedlb.dev/is-default-class: \"true\"",
        )),
        [_] => None,
        _ => Some(Finding::warning(
            "SharedLBClass",
            format!(
                "several are the default: {}; claims without className get the newest one{}",
                defaults.join(", "),
                default_class(snapshot).map(|class| format!(", {}", class.name_any())).unwrap_or_default(),
            ),
            "remove the annotation sharedlb.dev/is-default-class from the others",
        )),
    }
}

pub(super) fn about(class: &SharedLBClass) -> String {
    format!("SharedLBClass {}", class.name_any())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::{class, condition, object, snapshot};

    fn found(classes: Vec<SharedLBClass>) -> Vec<String> {
        findings(&snapshot([], classes)).into_iter().map(|finding| finding.message).collect()
    }

    fn default(name: &str, created: &str) -> SharedLBClass {
        let mut class = class(name, 0, &[]);
        class.annotations_mut().insert("sharedlb.dev/is-default-class".to_owned(), "true".to_owned());
        class.metadata.creation_timestamp = Some(object(json!(created)));
        class
    }

    #[test]
    fn one_default_class_is_well() {
        assert_eq!(found(vec![default("a", "2026-01-01T00:00:00Z"), class("b", 0, &[])]), [""; 0]);
    }

    #[test]
    fn no_default_class_and_several_are_found() {
        assert_eq!(found(vec![class("a", 0, &[])]), ["none is the default, so claims without className are refused"]);
        let several = vec![default("a", "2026-01-02T00:00:00Z"), default("b", "2026-01-01T00:00:00Z")];
        let message = "several are the default: a, b; claims without className get the newest one, a";
        assert_eq!(found(several), [message]);
    }

    #[test]
    fn a_class_that_is_not_accepted_is_found_with_its_message() {
        let mut refused = default("a", "2026-01-01T00:00:00Z");
        let status = refused.status.as_mut().expect("it has a status");
        status.conditions = vec![object(condition("Accepted", "False", "Unsupported", "the message"))];
        assert_eq!(found(vec![refused]), ["Accepted is False (Unsupported): the message"]);
    }
}
