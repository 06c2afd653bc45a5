//! What answers of Compute Engine mean for the caller.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;

use super::objects::{OperationError, Said};
use crate::http::{Failure, Reply};
use crate::text::brief;
use crate::{Details, Error};

/// How long a lasting throttling is said to take at least.
const SECOND: Duration = Duration::from_secs(1);

/// The call that an answer is about.
#[derive(Debug, Clone)]
pub(super) struct Context {
    /// The permission that it needs, such as `compute.forwardingRules.create`
    pub(super) permission: String,
    /// The project of the object
    pub(super) project: String,
    /// The object, for a message
    pub(super) object: String,
    /// The path of the object, as in answers of Compute Engine
    pub(super) path: String,
}

/// The answer of Compute Engine, as the cause of an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Answer(String);

/// What the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The object, or one that it refers to, does not exist.
    NotFound,
    /// The object exists.
    Exists,
    /// Another client has changed the object.
    Changed,
    /// The object, or one that it refers to, is not ready yet, or still in use.
    NotReady,
    /// A quota is used up.
    Quota,
    /// A field has too many values.
    TooLarge,
    /// There are too many calls.
    Throttled,
    /// A permission is missing.
    Forbidden,
    /// The credentials are not valid.
    NoCredentials,
    /// Compute Engine itself failed.
    Unavailable,
    /// Any other refusal
    Refused,
}

/// The body of an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    error: BodyError,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BodyError {
    message: String,
    errors: Vec<Reason>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reason {
    reason: String,
}

impl Kind {
    /// By the reason in the answer of a call, in lower camel case, or the code in an operation, in
    /// upper case.
    fn of(reason: &str, status: Option<StatusCode>) -> Self {
        match reason {
            "notFound" | "RESOURCE_NOT_FOUND" => Self::NotFound,
            "alreadyExists" | "RESOURCE_ALREADY_EXISTS" => Self::Exists,
            "conditionNotMet" | "CONDITION_NOT_MET" => Self::Changed,
            "resourceNotReady"
            | "RESOURCE_NOT_READY"
            | "resourceInUseByAnotherResource"
            | "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE" => Self::NotReady,
            "quotaExceeded" | "QUOTA_EXCEEDED" => Self::Quota,
            "fieldSizeTooLarge" | "FIELD_SIZE_TOO_LARGE" => Self::TooLarge,
            "rateLimitExceeded" | "userRateLimitExceeded" | "RATE_LIMIT_EXCEEDED" => Self::Throttled,
            "forbidden" | "PERMISSIONS_ERROR" => Self::Forbidden,
            "backendError" | "internalError" | "INTERNAL_ERROR" => Self::Unavailable,
            _ => match status {
                Some(StatusCode::UNAUTHORIZED) => Self::NoCredentials,
                Some(StatusCode::FORBIDDEN) => Self::Forbidden,
                Some(StatusCode::NOT_FOUND) => Self::NotFound,
                Some(StatusCode::CONFLICT) => Self::Exists,
                Some(StatusCode::PRECONDITION_FAILED) => Self::Changed,
                Some(StatusCode::PAYLOAD_TOO_LARGE) => Self::TooLarge,
                Some(status) if status.is_server_error() => Self::Unavailable,
                _ => Self::Refused,
            },
        }
    }
}

/// Whether an answer says that there were too many calls. (Compute Engine documentation, "Rate
/// quotas": status 403 with the reason `rateLimitExceeded`.)
pub(super) fn is_throttled(reply: &Reply) -> bool {
    reply.status == StatusCode::FORBIDDEN && kind(reply) == Kind::Throttled
}

/// Whether the object of a call does not exist.
pub(super) fn is_not_found(reply: &Reply) -> bool {
    !reply.status.is_success() && kind(reply) == Kind::NotFound
}

/// Whether the object that a call would create exists.
pub(super) fn exists(reply: &Reply) -> bool {
    !reply.status.is_success() && kind(reply) == Kind::Exists
}

/// Whether a call needs a permission that is missing.
pub(super) fn is_forbidden(reply: &Reply) -> bool {
    reply.status == StatusCode::FORBIDDEN && kind(reply) == Kind::Forbidden
}

/// The error of a call that was refused.
pub(super) fn refused(context: &Context, reply: &Reply) -> Error {
    let body = body(reply);
    let message = if body.message.is_empty() { reply.status.to_string() } else { body.message };
    error(context, kind(reply), &message)
}

/// The error of an operation that failed.
pub(super) fn failed(context: &Context, said: &OperationError) -> Error {
    let unknown = Said::default();
    let Said { code, message } = said.errors.first().unwrap_or(&unknown);
    error(context, Kind::of(code, None), &format!("{code}: {message}"))
}

/// The error of a call without a complete answer.
pub(super) fn unanswered(context: &Context, failure: Failure) -> Error {
    let Context { permission, project, .. } = context;
    match failure {
        Failure::Late => Error::NotReady("it waits for its turn: calls to Google Cloud are limited".into()),
        Failure::Throttled(retry_after) => throttled(context, retry_after),
        Failure::NoCredentials(unavailable) if !unavailable.transient => no_credentials(unavailable),
        Failure::Invalid(_) => {
            Error::Refused(Details::new("the client of Google Cloud cannot be set up").caused_by(failure))
        }
        failure => {
            let message = format!("the call that needs {permission} in project {project} got no valid answer");
            Error::Transient(Details::new(message).caused_by(failure))
        }
    }
}

fn kind(reply: &Reply) -> Kind {
    let body = body(reply);
    let reason = body.errors.first().map(|first| first.reason.as_str()).unwrap_or_default();
    Kind::of(reason, Some(reply.status))
}

fn body(reply: &Reply) -> BodyError {
    reply.json::<Body>().map(|body| body.error).unwrap_or_default()
}

fn error(context: &Context, kind: Kind, said: &str) -> Error {
    let Context { project, object, path, .. } = context;
    let answer = Answer(brief(said));
    let (error, message): (fn(Details) -> Error, String) = match kind {
        Kind::Throttled => return throttled(context, SECOND),
        Kind::NoCredentials => return no_credentials(answer),
        // It was deleted after it was read. What it refers to may be missing for ever.
        Kind::NotFound if !said.contains(&format!("'{path}'")) => {
            (Error::Refused, format!("what the {object} needs does not exist"))
        }
        Kind::NotFound | Kind::Exists | Kind::Changed => {
            (Error::Conflict, format!("another client has changed the {object} meanwhile"))
        }
        Kind::NotReady => (Error::NotReady, format!("Google Cloud still works on the {object}, or on what uses it")),
        Kind::Quota => (
            Error::Exhausted,
            format!(
                "a quota of project {project} for the {object} is used up: delete what is not needed, or have the quota raised"
            ),
        ),
        Kind::TooLarge => (Error::NoRoom, format!("the {object} takes no more")),
        Kind::Forbidden => (Error::Refused, forbidden(context, said)),
        Kind::Unavailable => (Error::Transient, format!("Google Cloud failed to change the {object}")),
        Kind::Refused => (Error::Refused, format!("Google Cloud refuses the {object}")),
    };
    error(Details::new(message).caused_by(answer))
}

/// The message about a missing permission: the one that the answer names, which may be about an
/// object that the call refers to.
fn forbidden(context: &Context, said: &str) -> String {
    let quoted = |after: &str| said.split_once(after)?.1.split('\'').next();
    let permission = quoted("Required '").unwrap_or(&context.permission);
    let project = quoted("for 'projects/").and_then(|path| path.split('/').next()).unwrap_or(&context.project);
    format!(
        "the controller needs the permission {permission} in project {project}: grant it to the service account of the \
         controller"
    )
}

fn throttled(Context { project, .. }: &Context, retry_after: Duration) -> Error {
    let message = format!("Google Cloud throttles calls in project {project}; those of other clients count too");
    // In whole seconds, and at least one.
    let retry_after = Duration::from_secs(retry_after.as_secs()) + SECOND;
    Error::Throttled { retry_after, details: message.into() }
}

fn no_credentials(cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    let message = "Google Cloud takes no calls without valid credentials: give the controller's ServiceAccount access by \
                   Workload Identity, or the class a Secret (provider.gcp.credentials)";
    Error::Refused(Details::new(message).caused_by(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, reason: &str) -> Error {
        answered(status, reason, "said Google")
    }

    fn answered(status: u16, reason: &str, message: &str) -> Error {
        let body =
            format!(r#"{{"error":{{"code":{status},"message":"{message}","errors":[{{"reason":"{reason}"}}]}}}}"#);
        refused(&context(), &Reply::new(status, body))
    }

    fn context() -> Context {
        Context {
            permission: "compute.forwardingRules.create".into(),
            project: "project".into(),
            object: "forwarding rule".into(),
            path: "projects/project/regions/r/forwardingRules/f".into(),
        }
    }

    #[test]
    fn failures_to_fix_are_distinguished_from_temporary_ones() {
        assert!(matches!(said(412, "conditionNotMet"), Error::Conflict(_)));
        assert!(matches!(said(409, "alreadyExists"), Error::Conflict(_)));
        assert!(matches!(said(400, "resourceInUseByAnotherResource"), Error::NotReady(_)));
        assert!(matches!(said(400, "resourceNotReady"), Error::NotReady(_)));
        assert!(matches!(said(403, "quotaExceeded"), Error::Exhausted(_)));
        assert!(matches!(said(403, "rateLimitExceeded"), Error::Throttled { .. }));
        assert!(matches!(said(413, "fieldSizeTooLarge"), Error::NoRoom(_)));
        assert!(matches!(said(400, "invalid"), Error::Refused(_)));
        assert!(matches!(said(503, "backendError"), Error::Transient(_)));
        assert!(matches!(said(502, ""), Error::Transient(_)));
        let failed = |code: &str| {
            let said = Said { code: code.into(), message: "said Google".into() };
            failed(&context(), &OperationError { errors: vec![said] })
        };
        assert!(matches!(failed("QUOTA_EXCEEDED"), Error::Exhausted(_)));
        assert!(matches!(failed("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"), Error::NotReady(_)));
        assert!(matches!(failed("IP_IN_USE_BY_ANOTHER_RESOURCE"), Error::Refused(_)));
    }

    #[test]
    fn a_missing_permission_is_named_as_a_role_names_it() {
        let Error::Refused(why) = said(403, "forbidden") else { panic!("it is a refusal") };
        let why = format!("{why:#}");
        assert!(why.contains("compute.forwardingRules.create in project project"), "{why}");
        assert!(why.ends_with(": said Google"), "{why}");
    }

    #[test]
    fn the_permission_and_project_of_the_answer_are_named_rather_than_those_of_the_call() {
        let message = "Required 'compute.subnetworks.use' permission for 'projects/host/regions/r/subnetworks/s'";
        let Error::Refused(why) = answered(403, "forbidden", message) else { panic!("it is a refusal") };
        let why = why.to_string();
        assert!(why.contains("compute.subnetworks.use in project host"), "{why}");
    }

    #[test]
    fn an_object_that_is_gone_is_a_conflict_and_one_that_it_refers_to_is_missing_until_somebody_creates_it() {
        let missing = |path: &str| answered(404, "notFound", &format!("The resource '{path}' was not found"));
        assert!(matches!(missing("projects/project/regions/r/forwardingRules/f"), Error::Conflict(_)));
        let Error::Refused(why) = missing("projects/host/global/networks/n") else { panic!("it is a refusal") };
        assert!(format!("{why:#}").contains("networks/n"), "{why:#}");
    }

    #[test]
    fn an_answer_that_is_no_json_is_judged_by_its_status() {
        assert!(matches!(refused(&context(), &Reply::new(502, "<html>")), Error::Transient(_)));
        assert!(matches!(refused(&context(), &Reply::new(401, "")), Error::Refused(_)));
    }
}
