//! What the API takes and what it refuses, as data.
//!
//! The tests of this crate hold every case against the generated schema with
//! an evaluator in Rust, and the root's `tests/crds.rs` holds the same cases
//! against the real API server.

mod aws;
mod claim;
mod class;
mod gcp;
mod http_updater;

use serde_json::{Value, json};

/// One object, or one change of an object, and what becomes of it.
pub(crate) struct Case {
    /// What is tried, and what becomes of it: a sentence, and the test's name.
    pub(crate) name: String,
    /// The object before the change. None if it is created.
    pub(crate) before: Option<Value>,
    /// The object to be created, or after the change.
    pub(crate) object: Value,
    /// What comes of it.
    pub(crate) outcome: Outcome,
}

/// What comes of trying.
pub(crate) enum Outcome {
    /// It is taken.
    Accepted,
    /// A CEL rule refuses it, and this is a part of the rule's message.
    RefusedByRule(&'static str),
    /// The plain schema refuses it, and this is a part of the message. The
    /// evaluator in Rust does not look at it.
    #[allow(dead_code, reason = "only the tests with an API server read the message")]
    RefusedBySchema(&'static str),
}

/// Every case of both kinds.
pub(crate) fn all() -> Vec<Case> {
    [claim::cases(), class::cases(), aws::cases(), gcp::cases(), http_updater::cases()].into_iter().flatten().collect()
}

fn accepts(what: &str, object: Value) -> Case {
    Case { name: format!("accepts {what}"), before: None, object, outcome: Outcome::Accepted }
}

fn refuses(what: &str, object: Value, rule: &'static str) -> Case {
    Case { name: format!("refuses {what}"), before: None, object, outcome: Outcome::RefusedByRule(rule) }
}

fn schema_refuses(what: &str, object: Value, message: &'static str) -> Case {
    Case { name: format!("refuses {what}"), before: None, object, outcome: Outcome::RefusedBySchema(message) }
}

impl Case {
    /// Makes it a change of an object that was there before.
    fn after(self, before: Value) -> Case {
        Case { before: Some(before), ..self }
    }
}

/// The object with one value of it set, at a JSON pointer whose parent exists.
fn set(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer has a slash");
    let parent = object.pointer_mut(parent).expect("the parent exists");
    parent[key] = value;
    object
}

/// The object with one value of it removed.
fn unset(mut object: Value, pointer: &str) -> Value {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer has a slash");
    let parent = object.pointer_mut(parent).expect("the parent exists");
    parent.as_object_mut().expect("the parent has fields").remove(key).expect("there is something to remove");
    object
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "sharedlb.dev/v1alpha1",
        "kind": kind,
        "metadata": { "name": name },
        "spec": spec,
    })
}
