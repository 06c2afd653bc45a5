//! Errors in the words of Compute Engine: status, `reason` and message of
//! <https://cloud.google.com/compute/docs/troubleshooting/troubleshooting-api-errors>, and, where
//! that does not have a message, what users of the API have reported.

use axum::http::StatusCode;
use serde_json::{Value, json};

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) domain: &'static str,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, reason: &str, message: impl Into<String>) -> Self {
        Self { status, domain: "global", reason: reason.to_owned(), message: message.into() }
    }

    /// The path leads to nothing that the discovery document has.
    pub(super) fn unknown_path(path: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "notFound", format!("The requested URL {path} was not found on this server."))
    }

    /// The request does not have the form that the discovery document demands.
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "badRequest", message)
    }

    /// The value of a field, by its name in the resource, is not acceptable.
    pub(super) fn invalid(field: &str, value: &str, why: &str) -> Self {
        let message = format!("Invalid value for field '{field}': '{value}'. {why}");
        Self::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    /// A field is missing.
    pub(super) fn required(field: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "required", format!("Required field '{field}' not specified"))
    }

    /// A list has more elements than its field takes.
    pub(super) fn too_large(field: &str, most: usize, actual: usize) -> Self {
        let message =
            format!("Value for field '{field}' is too large: maximum size {most} element(s); actual size {actual}.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "fieldSizeTooLarge", message)
    }

    /// `resource` has its project: `projects/p/regions/r/addresses/a`.
    pub(super) fn not_found(resource: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "notFound", format!("The resource '{resource}' was not found"))
    }

    pub(super) fn already_exists(resource: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "alreadyExists", format!("The resource '{resource}' already exists"))
    }

    /// An operation on the resource is not done.
    pub(super) fn not_ready(resource: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "resourceNotReady", format!("The resource '{resource}' is not ready"))
    }

    /// `kind` is the resource's kind in Google's messages: `backend_service`.
    pub(super) fn in_use(kind: &str, resource: &str, user: &str) -> Self {
        let message = format!("The {kind} resource '{resource}' is already being used by '{user}'");
        Self::new(StatusCode::BAD_REQUEST, "resourceInUseByAnotherResource", message)
    }

    /// A fingerprint is not that of the resource.
    pub(super) fn condition_not_met(message: &str) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "conditionNotMet", message)
    }

    pub(super) fn forbidden(permission: &str, resource: &str) -> Self {
        let message = format!("Required '{permission}' permission for '{resource}'");
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// `extent` says where the quota holds: `in region r`, or `globally`.
    pub(super) fn quota_exceeded(metric: &str, limit: f64, extent: &str) -> Self {
        let message = format!("Quota '{metric}' exceeded.  Limit: {limit:.1} {extent}.");
        Self::new(StatusCode::FORBIDDEN, "quotaExceeded", message)
    }

    /// <https://cloud.google.com/compute/api-quota>: calls beyond the rate are answered so.
    pub(super) fn rate_limited() -> Self {
        let message = "Rate Limit Exceeded";
        Self { domain: "usageLimits", ..Self::new(StatusCode::FORBIDDEN, "rateLimitExceeded", message) }
    }

    pub(super) fn unauthenticated() -> Self {
        let message = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or \
                       other valid authentication credential.";
        Self::new(StatusCode::UNAUTHORIZED, "authError", message)
    }

    /// Documented, and not a part of the stand-in.
    pub(super) fn not_implemented(what: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "notImplemented", format!("the stand-in does not have {what}"))
    }

    /// The body of the answer.
    pub(super) fn body(&self) -> Value {
        json!({"error": {
            "code": self.status.as_u16(),
            "message": self.message,
            "errors": [{"message": self.message, "domain": self.domain, "reason": self.reason}],
        }})
    }
}
