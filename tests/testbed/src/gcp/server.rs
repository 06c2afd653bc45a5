//! HTTP: from a request to the answer of a method.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State as Extract};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, StatusCode, header};
use axum::response::Response;
use futures::stream;
use parking_lot::Mutex;
use serde_json::Value;

use super::calls::{Call, carry_out};
use super::discovery::Discovery;
use super::faults::{Faults, GcpCall, GcpFault, GcpFaultKind};
use super::operations::{Ending, OperationError};
use super::permissions;
use super::refusal::Refusal;
use super::state::State;
use super::tokens::{GoogleUser, TokenAnswer, Tokens};

/// More than any body has.
const MAX_BODY: usize = 16 << 20;
/// Method `regionOperations.wait`: "waits for no more than the 2 minutes".
const LONGEST_WAIT: Duration = Duration::from_secs(120);
const POLL_EVERY: Duration = Duration::from_millis(5);

/// A project, and what calls of it go through.
pub(super) struct Shared {
    pub(super) discovery: Arc<Discovery>,
    pub(super) inner: Mutex<Inner>,
}

/// What calls change, and what tests set.
pub(super) struct Inner {
    pub(super) state: State,
    pub(super) faults: Faults,
    pub(super) log: Vec<GcpCall>,
    pub(super) tokens: Tokens,
    /// The permissions of the program under test; `None`: all but those that are withdrawn
    pub(super) granted: Option<BTreeSet<String>>,
    pub(super) withdrawn: BTreeSet<String>,
}

/// A request to the API.
pub(super) struct ApiRequest<'a> {
    pub(super) verb: &'a Verb,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) body: &'a [u8],
}

/// What becomes of a request.
pub(super) enum Outcome {
    Answered(Result<Value, Refusal>),
    /// The connection is closed without an answer.
    Closed,
}

impl Inner {
    pub(super) fn new(state: State) -> Self {
        Self {
            state,
            faults: Faults::default(),
            log: Vec::new(),
            tokens: Tokens::new(),
            granted: None,
            withdrawn: BTreeSet::new(),
        }
    }

    /// Whether the program under test has a permission.
    fn may(&self, permission: &str) -> bool {
        let is_granted = self.granted.as_ref().is_none_or(|granted| granted.contains(permission));
        is_granted && !self.withdrawn.contains(permission)
    }
}

/// Answers one request.
pub(super) async fn serve(Extract(shared): Extract<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else { return closed() };
    let path = head.uri.path();
    if path == "/token" {
        return token_response(shared.inner.lock().tokens.exchange(&body));
    }
    if path == "/" || path.starts_with("/computeMetadata/") {
        return token_response(shared.inner.lock().tokens.metadata(path, &head.headers));
    }
    let request =
        ApiRequest { verb: &head.method, path, query: head.uri.query().unwrap_or_default(), body: body.as_ref() };
    match shared.answer(&head.headers, &request).await {
        Outcome::Answered(Ok(value)) => response(StatusCode::OK, value.to_string()),
        Outcome::Answered(Err(refusal)) => response(refusal.status, refusal.body().to_string()),
        Outcome::Closed => closed(),
    }
}

impl Shared {
    async fn answer(&self, headers: &HeaderMap, request: &ApiRequest<'_>) -> Outcome {
        let Some(user) = self.inner.lock().tokens.user(headers) else {
            return Outcome::Answered(Err(Refusal::unauthenticated()));
        };
        let began = Instant::now();
        let mut outcome = self.call(user, request);
        let waits = request.path.ends_with("/wait");
        while waits && is_unfinished(&outcome) && began.elapsed() < LONGEST_WAIT {
            tokio::time::sleep(POLL_EVERY).await;
            // The same call, and not another one in the log.
            outcome = self.call(GoogleUser::Observer, request);
        }
        outcome
    }

    /// Carries out a call of a user.
    pub(super) fn call(&self, user: GoogleUser, request: &ApiRequest<'_>) -> Outcome {
        let below = request.path.trim_start_matches("/compute/v1/");
        let Some((method, parameters)) = self.discovery.find(request.verb, below) else {
            return Outcome::Answered(Err(Refusal::unknown_path(request.path)));
        };
        let path = below.splitn(3, '/').nth(2).unwrap_or_default();
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let fault = match user {
            GoogleUser::Controller => inner.faults.strike(&method.id()),
            GoogleUser::Observer => None,
        };
        let mut carried_out = || {
            if let Some(refusal) = fault.as_ref().and_then(GcpFault::refusal) {
                return Err(refusal);
            }
            let mut all = parameters.clone();
            all.extend(form_urlencoded::parse(request.query.as_bytes()).into_owned());
            self.discovery.check_parameters(method, &all)?;
            let body = self.discovery.check_body(method, request.body)?;
            if let Some(project) = parameters.get("project")
                && project != inner.state.project_of(path)
            {
                return Err(Refusal::not_found(&format!("projects/{project}")));
            }
            let ending = fault.as_ref().map(ending).unwrap_or_default();
            let call = Call { method, parameters: all, path: path.to_owned(), body, ending };
            inner.state.settle();
            if user == GoogleUser::Controller {
                permissions::check(&inner.state, |permission| inner.may(permission), &call)?;
            }
            carry_out(&mut inner.state, &call)
        };
        let kind = fault.as_ref().map(|fault| &fault.kind);
        let outcome = match kind {
            Some(GcpFaultKind::Unreached) => Outcome::Closed,
            Some(GcpFaultKind::Lost) => {
                _ = carried_out();
                Outcome::Closed
            }
            _ => Outcome::Answered(carried_out()),
        };
        if user == GoogleUser::Controller {
            let status = match &outcome {
                Outcome::Answered(Ok(_)) => Some(StatusCode::OK),
                Outcome::Answered(Err(refusal)) => Some(refusal.status),
                Outcome::Closed => None,
            };
            inner.log.push(GcpCall {
                method: method.id(),
                path: path.to_owned(),
                body: serde_json::from_slice(request.body).unwrap_or_default(),
                status: status.map(|status| status.as_u16()),
            });
        }
        outcome
    }
}

/// What a fault makes of the operation that a call begins.
fn ending(fault: &GcpFault) -> Ending {
    match &fault.kind {
        GcpFaultKind::OperationFails { code, status } => {
            let message = format!("{code}: the operation was made to fail by the test.");
            Ending { error: Some(OperationError { code: code.clone(), message, status: *status }), held_by: None }
        }
        GcpFaultKind::OperationHeld => Ending { error: None, held_by: Some(fault.name.clone()) },
        _ => Ending::default(),
    }
}

fn is_unfinished(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answered(Ok(operation)) if operation["status"] != "DONE")
}

fn token_response(answer: TokenAnswer) -> Response {
    let mut response = response(answer.status, answer.body);
    // By it, libraries know the metadata server.
    response.headers_mut().insert(HeaderName::from_static("metadata-flavor"), HeaderValue::from_static("Google"));
    response
}

fn response(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=UTF-8"));
    response
}

/// An answer that never comes: the connection breaks.
fn closed() -> Response {
    let breaks = stream::once(async { Err::<Bytes, _>(std::io::Error::other("the connection is closed")) });
    Response::new(Body::from_stream(breaks))
}
