//! What goes wrong with calls of the program under test, and the log of them.

use std::fmt;
use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::Value;

use super::refusal::Refusal;

/// Something that goes wrong with calls of some methods.
#[derive(Clone, Debug)]
pub struct GcpFault {
    pub(super) name: String,
    methods: Vec<String>,
    pub(super) kind: GcpFaultKind,
    skip: usize,
    count: Option<usize>,
    condition: Option<Condition>,
    hits: usize,
}

#[derive(Clone)]
struct Condition(Arc<dyn Fn() -> bool + Send + Sync>);

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a condition")
    }
}

/// What happens to a call that a fault hits.
#[derive(Clone, Debug)]
pub enum GcpFaultKind {
    /// It is answered with an error, and not carried out.
    Refused {
        /// The HTTP status of the answer.
        status: u16,
        /// `errors[].reason` of the answer: `backendError`.
        reason: String,
    },
    /// It is answered with 403 `rateLimitExceeded`, and not carried out.
    RateLimited,
    /// The connection is closed, and the call is not carried out.
    Unreached,
    /// The call is carried out, and the connection is closed.
    Lost,
    /// It begins an operation that fails.
    OperationFails {
        /// `errors[].code` of the operation: `QUOTA_EXCEEDED`.
        code: String,
        /// `httpErrorStatusCode` of the operation.
        status: u16,
    },
    /// It begins an operation that does not end before the fault is released.
    OperationHeld,
}

impl GcpFault {
    /// A fault by this name that hits the next call of one of the methods, by their names in
    /// the API: `firewalls.patch`. A `*` at the beginning or the end stands for any text.
    pub fn new(name: &str, kind: GcpFaultKind, methods: &[&str]) -> Self {
        let methods = methods.iter().map(|&method| method.to_owned()).collect();
        Self { name: name.to_owned(), methods, kind, skip: 0, count: Some(1), condition: None, hits: 0 }
    }

    /// The same after so many calls that it lets pass.
    #[must_use]
    pub fn after(self, skip: usize) -> Self {
        Self { skip, ..self }
    }

    /// The same for so many calls; with `None` for all until it is released.
    #[must_use]
    pub fn times(self, count: Option<usize>) -> Self {
        Self { count, ..self }
    }

    /// The same for calls alone at which this holds. It is asked once for each call of the
    /// methods.
    #[must_use]
    pub fn when(self, condition: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { condition: Some(Condition(Arc::new(condition))), ..self }
    }

    fn is_about(&self, method: &str) -> bool {
        self.methods.iter().any(|pattern| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
            (Some(end), _) => method.ends_with(end),
            (None, Some(start)) => method.starts_with(start),
            (None, None) => method == pattern,
        })
    }

    /// The error that the call is answered with, if it is not carried out for one.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match &self.kind {
            GcpFaultKind::RateLimited => Some(Refusal::rate_limited()),
            GcpFaultKind::Refused { status, reason } => {
                let status = StatusCode::from_u16(*status).ok()?;
                Some(Refusal::new(status, reason, "The call was made to fail by the test."))
            }
            _ => None,
        }
    }
}

/// The faults of a project.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<GcpFault>);

impl Faults {
    pub(super) fn add(&mut self, fault: GcpFault) {
        self.0.push(fault);
    }

    pub(super) fn release(&mut self, name: &str) {
        self.0.retain(|fault| fault.name != name);
    }

    pub(super) fn hits(&self, name: &str) -> usize {
        self.0.iter().filter(|fault| fault.name == name).map(|fault| fault.hits).sum()
    }

    /// The fault that hits a call of this method, which counts as a call.
    pub(super) fn strike(&mut self, method: &str) -> Option<GcpFault> {
        for fault in self.0.iter_mut().filter(|fault| fault.is_about(method)) {
            if fault.condition.as_ref().is_some_and(|condition| !(condition.0)()) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            if fault.count == Some(0) {
                continue;
            }
            fault.count = fault.count.map(|count| count - 1);
            fault.hits += 1;
            return Some(fault.clone());
        }
        None
    }
}

/// One call of the program under test.
#[derive(Clone, Debug)]
pub struct GcpCall {
    /// The method by its name in the API: `firewalls.patch`.
    pub method: String,
    /// The path behind the project: `global/firewalls/f`.
    pub path: String,
    /// Its body; null without one.
    pub body: Value,
    /// The HTTP status of the answer. `None`: the connection was closed.
    pub status: Option<u16>,
}

impl GcpCall {
    /// Whether it only reads.
    pub fn reads(&self) -> bool {
        let name = self.method.rsplit('.').next().unwrap_or_default();
        matches!(name, "get" | "list" | "wait" | "listNetworkEndpoints" | "getHealth")
    }
}
