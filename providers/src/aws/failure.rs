//! Why a call failed, and what that means for whoever waits for it.

use std::time::Duration;

use aws_sdk_elasticloadbalancingv2::config::http::HttpResponse;
use aws_sdk_elasticloadbalancingv2::error::{ProvideErrorMetadata, SdkError};

use super::budget::Late;
use crate::Error;

/// A call that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// Its name in AWS' API
    pub(super) action: &'static str,
    pub(super) kind: Kind,
    /// What AWS said, or what went wrong on the way
    message: String,
}

/// What kind of failure it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// AWS answered with the code of an error.
    Code(String),
    /// AWS is busy: nothing is asked of it for so long.
    Throttled(Duration),
    /// AWS can't be reached, or failed itself. Whether the call was carried out
    /// is not known.
    Unreachable,
    /// There are no credentials, or they are not valid.
    NoCredentials,
    /// The call was not made, since others were ahead of it for too long.
    Late,
}

impl Failure {
    /// What went wrong with a call.
    pub(super) fn of<E>(action: &'static str, error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let said =
            error.as_service_error().and_then(|said| Some((said.code()?, said.message().unwrap_or("no reason"))));
        let status = error.raw_response().map(|response| response.status().as_u16());
        let (kind, message) = match said {
            Some((code, message)) => (Self::kind_of(code, status), brief(message)),
            None => {
                let message = chain(error);
                let credentials = message.to_ascii_lowercase().contains("credential");
                (if credentials { Kind::NoCredentials } else { Kind::Unreachable }, message)
            }
        };
        Self { action, kind, message }
    }

    /// One whose turn did not come.
    pub(super) fn late(action: &'static str, late: Late) -> Self {
        let kind = late.paused.map_or(Kind::Late, Kind::Throttled);
        Self { action, kind, message: "AWS has throttled the calls before it".into() }
    }

    /// One that makes no sense to send.
    pub(super) fn invalid(action: &'static str, message: String) -> Self {
        Self { action, kind: Kind::Code("ValidationError".into()), message }
    }

    /// A listing that has ever more pages.
    pub(super) fn endless(action: &'static str) -> Self {
        Self { action, kind: Kind::Unreachable, message: "its pages have no end".into() }
    }

    /// The codes are those of the API reference: its common errors, and those of
    /// each action.
    fn kind_of(code: &str, status: Option<u16>) -> Kind {
        match code {
            "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException" => Kind::Throttled(Duration::ZERO),
            "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "MissingAuthenticationToken"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "RequestExpired" => Kind::NoCredentials,
            "InternalFailure" | "InternalError" | "ServiceUnavailable" | "PriorRequestNotComplete" => Kind::Unreachable,
            _ if status.is_some_and(|status| status >= 500) => Kind::Unreachable,
            code => Kind::Code(brief(code)),
        }
    }

    /// Whether AWS answered with this code.
    pub(super) fn is(&self, code: &str) -> bool {
        matches!(&self.kind, Kind::Code(said) if said == code)
    }

    /// Whether the controller may not do this.
    pub(super) fn is_not_permitted(&self) -> bool {
        ["AccessDenied", "AccessDeniedException", "UnauthorizedOperation"].iter().any(|code| self.is(code))
    }

    /// Whether what the call is about does not exist.
    pub(super) fn is_not_found(&self) -> bool {
        ["LoadBalancerNotFound", "ListenerNotFound", "TargetGroupNotFound"].iter().any(|code| self.is(code))
    }

    /// Whether a limit of the load balancer was met.
    pub(super) fn is_no_room(&self) -> bool {
        let codes = ["TooManyListeners", "TooManyTargets", "TooManyUniqueTargetGroupsPerLoadBalancer"];
        codes.iter().any(|code| self.is(code))
    }

    /// Whether after it nobody knows for sure what there is: the call may have been
    /// made, or somebody else has made others.
    pub(super) fn leaves_doubt(&self) -> bool {
        let by_others = ["DuplicateListener", "TargetGroupAssociationLimit"].iter().any(|code| self.is(code));
        self.kind == Kind::Unreachable || by_others || self.is_not_found() || self.is_no_room()
    }

    /// Whether a limit of the account was met.
    pub(super) fn is_no_quota(&self) -> bool {
        self.is("TooManyTargetGroups") || self.is("TooManyLoadBalancers")
    }

    /// The same for the caller of a provider.
    pub(super) fn error(self, region: &str) -> Error {
        let Self { action, kind, message } = &self;
        match kind {
            Kind::Late => Error::NotReady("its turn has not come yet: calls to AWS are limited".into()),
            Kind::Throttled(retry_after) => {
                // Tenths of a second are of no interest, and none at all looks wrong.
                let retry_after = Duration::from_secs(retry_after.as_secs() + 1);
                let message = format!("AWS throttles {action} in {region}; other users of the account count too");
                Error::Throttled { retry_after, message }
            }
            Kind::Unreachable => {
                Error::Transient(format!("{action} in {region} got no answer that is of use: {message}"))
            }
            Kind::NoCredentials => Error::Refused(format!(
                "AWS takes no {action} without valid credentials ({message}): give the controller's ServiceAccount a role \
                 (IRSA or pod identity), or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )),
            Kind::Code(code) => self.refusal(code, region),
        }
    }

    fn refusal(&self, code: &str, region: &str) -> Error {
        let Self { action, message, .. } = self;
        match code {
            _ if self.is_not_permitted() => Error::Refused(format!(
                "the controller is not permitted to do elasticloadbalancing:{action}: allow it in the policy of its \
                 role ({message})"
            )),
            "DuplicateListener" => Error::PortInUse(format!(
                "the port has a listener that is not ours ({message}): delete it, or ask for another"
            )),
            _ if self.is_no_room() => Error::NoRoom(format!("the load balancer is full: {code}: {message}")),
            _ if self.is_no_quota() => Error::Exhausted(format!(
                "a quota of the account in {region} is used up ({code}: {message}): have it raised in Service Quotas"
            )),
            _ if self.is_not_found() => {
                Error::Conflict(format!("{action}: somebody else changed it meanwhile: {message}"))
            }
            _ if *action == "ModifyListener" => Error::Refused(format!(
                "{action} was refused, and the listener stays as it was: {code}: {message}: to have a new listener, \
                 remove the port and add it again"
            )),
            _ => Error::Refused(format!("{action} was refused: {code}: {message}")),
        }
    }
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    brief(&causes.join(": "))
}

/// As much of what somebody said as fits into a status beside other words, on one
/// line.
pub(super) fn brief(said: &str) -> String {
    said.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(action: &'static str, code: &str, status: u16) -> Error {
        Failure { action, kind: Failure::kind_of(code, Some(status)), message: "said AWS".into() }.error("eu-central-1")
    }

    #[test]
    fn what_the_user_can_do_is_told_apart_from_what_passes() {
        assert!(matches!(said("CreateListener", "DuplicateListener", 400), Error::PortInUse(_)));
        assert!(matches!(said("CreateListener", "TooManyListeners", 400), Error::NoRoom(_)));
        assert!(matches!(said("RegisterTargets", "TooManyTargets", 400), Error::NoRoom(_)));
        assert!(
            matches!(said("CreateTargetGroup", "TooManyTargetGroups", 400), Error::Exhausted(why) if why.contains("Service Quotas"))
        );
        assert!(matches!(said("CreateListener", "InternalFailure", 500), Error::Transient(_)));
        assert!(matches!(said("CreateListener", "SomethingNew", 503), Error::Transient(_)));
        assert!(matches!(said("CreateListener", "SomethingNew", 400), Error::Refused(_)));
        assert!(matches!(said("CreateListener", "LoadBalancerNotFound", 400), Error::Conflict(_)));
        assert!(matches!(said("CreateListener", "Throttling", 400), Error::Throttled { .. }));
        assert!(matches!(said("CreateListener", "ExpiredToken", 403), Error::Refused(why) if why.contains("IRSA")));
    }

    #[test]
    fn a_missing_permission_is_named_as_a_policy_names_it() {
        let Error::Refused(why) = said("CreateListener", "AccessDenied", 403) else { panic!("it is a refusal") };
        assert!(why.contains("elasticloadbalancing:CreateListener"), "{why}");
    }

    #[test]
    fn a_throttled_user_is_told_when_it_is_tried_again() {
        let failure = Failure::late("CreateListener", Late { paused: Some(Duration::from_millis(2600)) });
        let text = failure.error("eu-central-1").to_string();
        assert!(text.contains("again in 3 s") && text.contains("CreateListener"), "{text}");
    }
}
