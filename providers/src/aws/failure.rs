//! Failures of calls, and what they mean for the caller.

use std::time::Duration;

use aws_sdk_elasticloadbalancingv2::config::http::HttpResponse;
use aws_sdk_elasticloadbalancingv2::error::{ProvideErrorMetadata, SdkError};

use crate::budget::Late;
use crate::text::{brief, chain};
use crate::{Details, Error};

/// A call that failed. It has as much of AWS' answer as fits into a status: the SDK's own
/// error may have any text of any length, and is not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{said}")]
pub(super) struct Failure {
    /// Its name in AWS' API
    pub(super) action: &'static str,
    pub(super) kind: Kind,
    /// The answer of AWS with the code of its error, or the error of the transport
    said: String,
}

/// The kind of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// AWS answered with an error.
    Code(Code),
    /// AWS throttles: no call is made for this long.
    Throttled(Duration),
    /// AWS can't be reached, or failed itself. It is not known whether the call was carried
    /// out.
    Unreachable,
    /// There are no credentials, or they are not valid.
    NoCredentials,
    /// The call was not made, since others preceded it for too long.
    Late,
}

impl Kind {
    /// The codes are those of the API reference: its common errors, and those of
    /// each action.
    fn of(code: &str, status: Option<u16>) -> Self {
        match code {
            "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException" => Self::Throttled(Duration::ZERO),
            "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "MissingAuthenticationToken"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "RequestExpired" => Self::NoCredentials,
            "InternalFailure" | "InternalError" | "ServiceUnavailable" | "PriorRequestNotComplete" => Self::Unreachable,
            _ if status.is_some_and(|status| status >= 500) => Self::Unreachable,
            code => Self::Code(Code::of(code)),
        }
    }
}

/// The errors of AWS that are handled. (API reference: the common errors, and those of each
/// action.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// `AccessDenied`, `AccessDeniedException`, `UnauthorizedOperation`
    NotPermitted,
    DuplicateListener,
    InvalidTarget,
    ListenerNotFound,
    LoadBalancerNotFound,
    OperationNotPermitted,
    ResourceInUse,
    TargetGroupAssociationLimit,
    TargetGroupNotFound,
    TooManyListeners,
    TooManyLoadBalancers,
    TooManyTargetGroups,
    TooManyTargets,
    TooManyUniqueTargetGroupsPerLoadBalancer,
    /// Any other
    Other,
}

impl Code {
    fn of(code: &str) -> Self {
        match code {
            "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => Self::NotPermitted,
            "DuplicateListener" => Self::DuplicateListener,
            "InvalidTarget" => Self::InvalidTarget,
            "ListenerNotFound" => Self::ListenerNotFound,
            "LoadBalancerNotFound" => Self::LoadBalancerNotFound,
            "OperationNotPermitted" => Self::OperationNotPermitted,
            "ResourceInUse" => Self::ResourceInUse,
            "TargetGroupAssociationLimit" => Self::TargetGroupAssociationLimit,
            "TargetGroupNotFound" => Self::TargetGroupNotFound,
            "TooManyListeners" => Self::TooManyListeners,
            "TooManyLoadBalancers" => Self::TooManyLoadBalancers,
            "TooManyTargetGroups" => Self::TooManyTargetGroups,
            "TooManyTargets" => Self::TooManyTargets,
            "TooManyUniqueTargetGroupsPerLoadBalancer" => Self::TooManyUniqueTargetGroupsPerLoadBalancer,
            _ => Self::Other,
        }
    }
}

impl Failure {
    /// The failure of a call.
    pub(super) fn of<E>(action: &'static str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let said =
            error.as_service_error().and_then(|said| Some((said.code()?, said.message().unwrap_or("no reason"))));
        let status = error.raw_response().map(|response| response.status().as_u16());
        let (kind, said) = match said {
            Some((code, message)) => (Kind::of(code, status), brief(&format!("{code}: {message}"))),
            None => {
                let said = chain(error);
                let credentials = said.to_ascii_lowercase().contains("credential");
                (if credentials { Kind::NoCredentials } else { Kind::Unreachable }, said)
            }
        };
        Self { action, kind, said }
    }

    /// The failure of a call that got no token in time.
    pub(super) fn late(action: &'static str, late: Late) -> Self {
        let kind = late.paused.map_or(Kind::Late, Kind::Throttled);
        Self { action, kind, said: "AWS has throttled the calls before it".into() }
    }

    /// The failure of a call whose request cannot be built.
    pub(super) fn invalid(action: &'static str, why: String) -> Self {
        Self { action, kind: Kind::Code(Code::Other), said: why }
    }

    /// The failure of a list that does not end.
    pub(super) fn endless(action: &'static str) -> Self {
        Self { action, kind: Kind::Unreachable, said: "its pages have no end".into() }
    }

    /// Whether AWS answered with this error.
    pub(super) fn is(&self, code: Code) -> bool {
        self.kind == Kind::Code(code)
    }

    /// Whether a permission is missing.
    pub(super) fn is_not_permitted(&self) -> bool {
        self.is(Code::NotPermitted)
    }

    /// Whether the object of the call does not exist.
    pub(super) fn is_not_found(&self) -> bool {
        [Code::LoadBalancerNotFound, Code::ListenerNotFound, Code::TargetGroupNotFound]
            .iter()
            .any(|code| self.is(*code))
    }

    /// Whether a limit of the load balancer is used up.
    pub(super) fn is_no_room(&self) -> bool {
        let codes = [Code::TooManyListeners, Code::TooManyTargets, Code::TooManyUniqueTargetGroupsPerLoadBalancer];
        codes.iter().any(|code| self.is(*code))
    }

    /// Whether the cached state may be wrong after it: the call may have been carried out, or
    /// another client has changed something.
    pub(super) fn leaves_doubt(&self) -> bool {
        let by_others = self.is(Code::DuplicateListener) || self.is(Code::TargetGroupAssociationLimit);
        self.kind == Kind::Unreachable || by_others || self.is_not_found() || self.is_no_room()
    }

    /// Whether a quota of the account is used up.
    pub(super) fn is_no_quota(&self) -> bool {
        self.is(Code::TooManyTargetGroups) || self.is(Code::TooManyLoadBalancers)
    }

    /// Converts it to an error of the provider, with AWS' answer as its cause.
    pub(super) fn error(self, region: &str) -> Error {
        let action = self.action;
        match self.kind {
            Kind::Late => Error::NotReady("it waits for its turn: calls to AWS are limited".into()),
            Kind::Throttled(retry_after) => {
                // In whole seconds, and at least one.
                let retry_after = Duration::from_secs(retry_after.as_secs() + 1);
                let message =
                    format!("AWS throttles {action} in {region}; calls of other clients of the account count too");
                Error::Throttled { retry_after, details: message.into() }
            }
            Kind::Unreachable => {
                let message = format!("{action} in {region} got no valid answer");
                Error::Transient(Details::new(message).caused_by(self))
            }
            Kind::NoCredentials => {
                let message = format!(
                    "AWS takes no {action} without valid credentials: give the controller's ServiceAccount a role \
                     (IRSA or pod identity), or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                );
                Error::Refused(Details::new(message).caused_by(self))
            }
            Kind::Code(code) => self.refusal(code, region),
        }
    }

    fn refusal(self, code: Code, region: &str) -> Error {
        let action = self.action;
        let (error, message): (fn(Details) -> Error, String) = match code {
            Code::NotPermitted => (
                Error::Refused,
                format!(
                    "the controller is not permitted to do elasticloadbalancing:{action}: allow it in the policy of its \
                     role"
                ),
            ),
            Code::DuplicateListener => (
                Error::PortInUse,
                "the port has a listener that is not ours: delete it, or ask for another port".to_owned(),
            ),
            _ if self.is_no_room() => (Error::NoRoom, "the load balancer is full".to_owned()),
            _ if self.is_no_quota() => (
                Error::Exhausted,
                format!("a quota of the account in {region} is used up: have it raised in Service Quotas"),
            ),
            _ if self.is_not_found() => (Error::Conflict, format!("{action}: another client has changed it meanwhile")),
            _ if action == "ModifyListener" => (
                Error::Refused,
                format!(
                    "{action} was refused, and the listener stays as it was (to have a new listener, remove the port and \
                     add it again)"
                ),
            ),
            _ => (Error::Refused, format!("{action} was refused")),
        };
        error(Details::new(message).caused_by(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(action: &'static str, code: &str, status: u16) -> Error {
        Failure { action, kind: Kind::of(code, Some(status)), said: format!("{code}: said AWS") }.error("eu-central-1")
    }

    #[test]
    fn failures_to_fix_are_distinguished_from_temporary_ones() {
        assert!(matches!(said("CreateListener", "DuplicateListener", 400), Error::PortInUse(_)));
        assert!(matches!(said("CreateListener", "TooManyListeners", 400), Error::NoRoom(_)));
        assert!(matches!(said("RegisterTargets", "TooManyTargets", 400), Error::NoRoom(_)));
        assert!(
            matches!(said("CreateTargetGroup", "TooManyTargetGroups", 400), Error::Exhausted(why) if why.to_string().contains("Service Quotas"))
        );
        assert!(matches!(said("CreateListener", "InternalFailure", 500), Error::Transient(_)));
        assert!(matches!(said("CreateListener", "SomethingNew", 503), Error::Transient(_)));
        assert!(matches!(said("CreateListener", "SomethingNew", 400), Error::Refused(_)));
        assert!(matches!(said("CreateListener", "LoadBalancerNotFound", 400), Error::Conflict(_)));
        assert!(matches!(said("CreateListener", "Throttling", 400), Error::Throttled { .. }));
        assert!(
            matches!(said("CreateListener", "ExpiredToken", 403), Error::Refused(why) if why.to_string().contains("IRSA"))
        );
    }

    #[test]
    fn a_missing_permission_is_named_as_a_policy_names_it() {
        let Error::Refused(why) = said("CreateListener", "AccessDenied", 403) else { panic!("it is a refusal") };
        let why = format!("{why:#}");
        assert!(why.contains("elasticloadbalancing:CreateListener"), "{why}");
        assert!(why.ends_with(": AccessDenied: said AWS"), "{why}");
    }

    #[test]
    fn throttling_reports_the_time_of_the_retry() {
        let failure = Failure::late("CreateListener", Late { paused: Some(Duration::from_millis(2600)) });
        let text = failure.error("eu-central-1").to_string();
        assert!(text.contains("again in 3 s") && text.contains("CreateListener"), "{text}");
    }
}
