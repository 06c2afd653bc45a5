//! Calls to the API server: each has a timeout, and each error tells the user what to do.

use std::time::Duration;

use kube::core::Status;
use sharedlb_kubernetes::error::Cause;
use sharedlb_kubernetes::requests::WRITE_TIMEOUT;

use crate::{Details, Error};

/// The object of a call, for the message of its error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct What<'a> {
    /// As in a role: `get`, `patch`, `delete`
    pub(crate) verb: &'a str,
    /// As in a role: `services`
    pub(crate) resource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// Makes a call with a timeout.
pub(crate) async fn call<T>(what: What<'_>, reply: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    call_within(WRITE_TIMEOUT, what, reply).await
}

async fn call_within<T>(
    limit: Duration,
    what: What<'_>,
    reply: impl Future<Output = kube::Result<T>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, reply).await {
        Ok(reply) => reply.map_err(|error| what.failed(error)),
        Err(_) => Err(Error::Transient(format!("{what} took longer than {limit:?}").into())),
    }
}

impl std::fmt::Display for What<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { verb, resource, namespace, name } = self;
        write!(f, "{verb} of {resource} {namespace}/{name}")
    }
}

impl What<'_> {
    /// Converts the error of a call.
    pub(super) fn failed(&self, error: kube::Error) -> Error {
        match error {
            kube::Error::Api(status) => self.refused(*status),
            other => Error::Transient(Details::new(format!("{self} failed")).caused_by(other)),
        }
    }

    /// Converts an answer of the API server.
    pub(super) fn refused(&self, status: Status) -> Error {
        let Self { verb, resource, namespace, .. } = self;
        let (error, message): (fn(Details) -> Error, String) = match Cause::of(&status) {
            Cause::Rights => (
                Error::Refused,
                format!(
                    "not permitted to {verb} {resource} in namespace {namespace} (the role in deploy/ permits all that \
                     is needed)"
                ),
            ),
            Cause::Quota => (
                Error::Exhausted,
                format!("a quota of namespace {namespace} is used up (ask the admin to raise it, or delete a claim)"),
            ),
            Cause::NodePorts => (
                Error::Exhausted,
                "the cluster has no free node port (ask the admin to raise the API server's \
                 --service-node-port-range, or to set allocateLoadBalancerNodePorts: false in the class if its load \
                 balancers need none)"
                    .to_owned(),
            ),
            Cause::ServiceAddresses => (
                Error::Exhausted,
                "the cluster has no free Service IP (ask the admin to raise the API server's \
                 --service-cluster-ip-range, or to add a ServiceCIDR)"
                    .to_owned(),
            ),
            Cause::Namespace => {
                return Error::Refused(
                    format!("namespace {namespace}, where the Services of the class go, does not exist: create it")
                        .into(),
                );
            }
            Cause::Throttled(retry_after) => return Error::Throttled { retry_after, details: status.message.into() },
            Cause::Refused => (Error::Refused, format!("{self} was refused")),
            Cause::Conflict => (Error::Conflict, format!("{self}: another client has changed it")),
            _ => (Error::Transient, format!("{self} failed with {}", status.code)),
        };
        error(Details::new(message).caused_by(Answer(status)))
    }
}

/// The answer of the API server. (The `Display` of a [`Status`] ends with its reason, which
/// means the same as the code.)
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
struct Answer(Status);

#[cfg(test)]
mod tests {
    use kube::core::response::StatusDetails;

    use super::*;

    fn answered(code: u16, about: &str) -> Error {
        said(code, about, "its words")
    }

    fn said(code: u16, about: &str, message: &str) -> Error {
        let what = What { verb: "patch", resource: "services", namespace: "lbs", name: "slb-0" };
        let details = StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: about.into(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
        };
        what.refused(Status::failure(message, "").with_code(code).with_details(details))
    }

    #[test]
    fn an_error_says_what_the_caller_should_do() {
        assert!(matches!(answered(403, ""), Error::Refused(m) if format!("{m:#}").contains("its words")));
        assert!(
            matches!(answered(404, "namespaces"), Error::Refused(m) if format!("{m:#}").contains("lbs") && format!("{m:#}").contains("create it"))
        );
        assert!(matches!(answered(422, ""), Error::Refused(m) if format!("{m:#}").contains("its words")));
        assert!(
            matches!(answered(429, ""), Error::Throttled { retry_after, .. } if retry_after == Duration::from_secs(1))
        );
        assert!(matches!(answered(409, "services"), Error::Conflict(_)));
        for code in [404, 500, 503] {
            assert!(matches!(answered(code, "services"), Error::Transient(_)), "{code}");
        }
    }

    #[test]
    fn only_missing_rights_mention_the_role() {
        let hints = |error: &Error| format!("{error:#}").contains("the role in deploy/");
        let rights = "services \"slb-0\" is forbidden: User \"system:serviceaccount:a:b\" cannot patch resource \
                      \"services\" in API group \"\" in the namespace \"lbs\"";
        let error = said(403, "services", rights);
        assert!(
            matches!(&error, Error::Refused(m) if format!("{m:#}").contains("patch services in namespace lbs"))
                && hints(&error)
        );
        let others = [
            "services \"slb-0\" is forbidden: exceeded quota: q, requested: services.nodeports=1, used: \
             services.nodeports=2, limited: services.nodeports=2",
            "admission webhook \"v.example.com\" denied the request: no",
            "services \"slb-0\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
            "services \"slb-0\" is forbidden: unable to create new content in namespace lbs because it is being \
             terminated",
        ];
        for message in others {
            let error = said(403, "services", message);
            assert!(!hints(&error) && format!("{error:#}").contains(message), "{error:#}");
        }
    }

    #[test]
    fn an_exhausted_shared_limit_names_who_can_raise_it() {
        let used_up = [
            (403, "services \"slb-0\" is forbidden: exceeded quota: q, requested: services.loadbalancers=1", "quota"),
            (
                500,
                "Internal error occurred: failed to allocate a nodePort: range is full",
                "allocateLoadBalancerNodePorts: false",
            ),
            (500, "Internal error occurred: failed to allocate a serviceIP: range is full", "ServiceCIDR"),
        ];
        for (code, message, way_out) in used_up {
            let error = said(code, "services", message);
            assert!(matches!(&error, Error::Exhausted(told) if format!("{told:#}").contains(way_out)), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_call_that_never_returns_is_given_up() {
        let what = What { verb: "get", resource: "services", namespace: "lbs", name: "slb-0" };
        let error = call_within::<()>(Duration::from_millis(5), what, std::future::pending()).await.unwrap_err();
        assert_eq!(error, Error::Transient("get of services lbs/slb-0 took longer than 5ms".into()));
    }
}
