//! Operations: what a call that changes something begins, and what becomes of it.
//!
//! An object that is being created is there at once, and of use only when its operation is
//! done; a change or a deletion is seen when it is done:
//! <https://cloud.google.com/compute/docs/api/how-tos/api-requests-responses#handling_api_responses>.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::path::ObjectPath;
use super::state::{Fields, State};

/// What an operation does when it ends.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    /// The object, which is there already, is of use.
    Create,
    /// The object has these fields.
    Write(Fields),
    Delete,
    /// These instances are in the group.
    Attach(BTreeSet<String>),
    /// These instances are not in the group any more.
    Detach(BTreeSet<String>),
}

/// How an operation fails.
#[derive(Clone, Debug)]
pub(super) struct OperationError {
    /// Its code: `QUOTA_EXCEEDED`.
    pub(super) code: String,
    pub(super) message: String,
    /// The HTTP status that the call would have had.
    pub(super) status: u16,
}

/// What faults make of an operation.
#[derive(Clone, Debug, Default)]
pub(super) struct Ending {
    pub(super) error: Option<OperationError>,
    /// It does not end before this fault does.
    pub(super) held_by: Option<String>,
}

/// A call that begins an operation.
pub(super) struct Begin {
    /// The method's own name: `insert`.
    pub(super) verb: String,
    pub(super) path: ObjectPath,
    pub(super) effect: Effect,
    pub(super) ending: Ending,
    pub(super) request: Option<RequestId>,
}

/// What makes a repeated call the same call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestId {
    /// The method and the path.
    pub(super) call: String,
    /// The value of `requestId`.
    pub(super) id: String,
}

/// The operations of a project, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct Operations {
    all: Vec<Operation>,
    /// How long an operation takes.
    pub(super) time: Duration,
    /// How much longer a deletion takes.
    pub(super) deletion_time: Duration,
    /// The faults that hold operations up.
    pub(super) held: BTreeSet<String>,
}

#[derive(Debug)]
struct Operation {
    name: String,
    begin: Begin,
    begun: Timestamp,
    started: Instant,
    takes: Duration,
    ended: Option<Timestamp>,
}

impl std::fmt::Debug for Begin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.path)
    }
}

impl Operations {
    /// Begins an operation, and returns its name.
    pub(super) fn begin(&mut self, begin: Begin) -> String {
        let extra = if matches!(begin.effect, Effect::Delete) { self.deletion_time } else { Duration::ZERO };
        let begun = Timestamp::now();
        let name = format!("operation-{}-{:08x}", begun.as_millisecond(), self.all.len());
        let takes = self.time + extra;
        self.all.push(Operation { name: name.clone(), begin, begun, started: Instant::now(), takes, ended: None });
        name
    }

    /// The operation that the same call began before.
    pub(super) fn of_request(&self, request: &RequestId) -> Option<&str> {
        let found = self.all.iter().find(|operation| operation.begin.request.as_ref() == Some(request));
        found.map(|operation| operation.name.as_str())
    }

    /// Ends what is due, and returns the effects.
    pub(super) fn ended(&mut self) -> Vec<(ObjectPath, Effect)> {
        let mut effects = Vec::new();
        for operation in self.all.iter_mut().filter(|operation| operation.ended.is_none()) {
            let is_held = operation.begin.ending.held_by.as_ref().is_some_and(|fault| self.held.contains(fault));
            if is_held || operation.started.elapsed() < operation.takes {
                continue;
            }
            operation.ended = Some(Timestamp::now());
            let effect = match (&operation.begin.ending.error, &operation.begin.effect) {
                (None, effect) => effect.clone(),
                // What could not be created is not there.
                (Some(_), Effect::Create) => Effect::Delete,
                (Some(_), _) => continue,
            };
            effects.push((operation.begin.path.clone(), effect));
        }
        effects
    }

    /// Has an operation end now, whatever holds it up.
    pub(super) fn end_now(&mut self, name: &str) {
        if let Some(operation) = self.all.iter_mut().find(|operation| operation.name == name) {
            operation.takes = Duration::ZERO;
            operation.begin.ending = Ending::default();
        }
    }

    fn on<'a>(&'a self, path: &'a ObjectPath) -> impl Iterator<Item = &'a Effect> {
        let running = self.all.iter().filter(|operation| operation.ended.is_none());
        running.filter(move |operation| operation.begin.path == *path).map(|operation| &operation.begin.effect)
    }

    /// Whether an operation creates, changes or deletes an object. Instances of a group come
    /// and go side by side.
    pub(super) fn is_changing(&self, path: &ObjectPath) -> bool {
        self.on(path).any(|effect| matches!(effect, Effect::Create | Effect::Write(_) | Effect::Delete))
    }

    pub(super) fn is_creating(&self, path: &ObjectPath) -> bool {
        self.on(path).any(|effect| matches!(effect, Effect::Create))
    }

    /// Whether any operation runs.
    pub(super) fn are_running(&self) -> bool {
        self.all.iter().any(|operation| operation.ended.is_none())
    }
}

impl State {
    /// An operation as the API shows it.
    pub(super) fn operation(&self, name: &str) -> Option<Value> {
        let operation = self.operations.all.iter().find(|operation| operation.name == name)?;
        let Begin { verb, path, ending, request, .. } = &operation.begin;
        let scope = path.scope();
        let own_path = ObjectPath::within(&format!("{scope}/operations"), name);
        let is_started = operation.started.elapsed() * 2 > operation.takes && !operation.takes.is_zero();
        let (status, progress) = match operation.ended {
            Some(_) => ("DONE", 100),
            None if is_started => ("RUNNING", 50),
            None => ("PENDING", 0),
        };
        let mut shown = json!({
            "kind": "compute#operation",
            "id": operation.begun.as_microsecond().to_string(),
            "name": name,
            "operationType": verb,
            "targetLink": self.link(path),
            "status": status,
            "progress": progress,
            "user": "controller@example.iam.gserviceaccount.com",
            "insertTime": operation.begun.to_string(),
            "startTime": operation.begun.to_string(),
            "selfLink": self.link(&own_path),
        });
        if let Some(request) = request {
            shown["clientOperationId"] = json!(request.id);
        }
        if let Some((field, link)) = self.scope_field(scope) {
            shown[field] = link;
        }
        if let Some(ended) = operation.ended {
            shown["endTime"] = json!(ended.to_string());
            if let Some(error) = &ending.error {
                shown["error"] = json!({"errors": [{"code": error.code, "message": error.message}]});
                shown["httpErrorStatusCode"] = json!(error.status);
                shown["httpErrorMessage"] = json!(reason_phrase(error.status));
            }
        }
        Some(shown)
    }
}

fn reason_phrase(status: u16) -> &'static str {
    let status = StatusCode::from_u16(status).ok();
    status.and_then(|status| status.canonical_reason()).unwrap_or_default()
}
