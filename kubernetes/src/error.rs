//! Classifies errors of the API server, by code and, if that is not enough, by message.

use std::time::Duration;

use kube::core::Status;

/// The wait after a 429 without Retry-After.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The cause of an error of the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// RBAC: a right is missing
    Rights,
    /// A `ResourceQuota` is used up
    Quota,
    /// No node port is free: `--service-node-port-range`
    NodePorts,
    /// No Service IP is free: `--service-cluster-ip-range`, or the `ServiceCIDR`s
    ServiceAddresses,
    /// The namespace does not exist.
    Namespace,
    /// Another object that does not exist
    Gone,
    /// The object has changed since it was read, or exists already.
    Conflict,
    /// Admission or validation: the message says it
    Refused,
    /// Too many requests: the next one may follow after this time.
    Throttled(Duration),
    /// Anything else: a retry may succeed
    Other,
}

impl Cause {
    /// The cause of this status.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        let message = &status.message;
        let full = message.contains("range is full");
        let about = status.details.as_ref().map_or("", |details| details.kind.as_str());
        match status.code {
            403 if message.contains("is forbidden: User ") && message.contains(" cannot ") => Self::Rights,
            403 if message.contains("is forbidden: exceeded quota") => Self::Quota,
            _ if full && message.contains("failed to allocate a nodePort") => Self::NodePorts,
            _ if full && message.contains("failed to allocate") => Self::ServiceAddresses,
            404 if about == "namespaces" => Self::Namespace,
            404 => Self::Gone,
            409 => Self::Conflict,
            400 | 403 | 413 | 422 => Self::Refused,
            429 => Self::Throttled(retry_after(status)),
            _ => Self::Other,
        }
    }
}

fn retry_after(status: &Status) -> Duration {
    let wait = status.details.as_ref().map(|details| Duration::from_secs(details.retry_after_seconds.into()));
    wait.filter(|wait| !wait.is_zero()).unwrap_or(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use kube::core::response::StatusDetails;

    use super::*;

    fn cause(code: u16, about: &str, message: &str, retry_after_seconds: u32) -> Cause {
        let details = StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: about.into(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds,
        };
        Cause::of(&Status::failure(message, "").with_code(code).with_details(details))
    }

    #[test]
    fn a_code_says_what_to_do() {
        assert_eq!(cause(404, "namespaces", "", 0), Cause::Namespace);
        assert_eq!(cause(404, "services", "", 0), Cause::Gone);
        assert_eq!(cause(409, "services", "", 0), Cause::Conflict);
        assert_eq!(cause(429, "", "", 0), Cause::Throttled(RETRY_AFTER));
        assert_eq!(cause(429, "", "", 7), Cause::Throttled(Duration::from_secs(7)));
        for code in [400, 403, 413, 422] {
            assert_eq!(cause(code, "services", "", 0), Cause::Refused, "{code}");
        }
        assert_eq!(cause(503, "services", "", 0), Cause::Other);
    }

    #[test]
    fn words_tell_apart_what_one_code_is_used_for() {
        let rights = "services \"a\" is forbidden: User \"b\" cannot patch resource \"services\" in API group \"\"";
        assert_eq!(cause(403, "services", rights, 0), Cause::Rights);
        let quota = "services \"a\" is forbidden: exceeded quota: q, requested: services.nodeports=1";
        assert_eq!(cause(403, "services", quota, 0), Cause::Quota);
        let full = |what| format!("Internal error occurred: failed to allocate a {what}: range is full");
        assert_eq!(cause(500, "services", &full("nodePort"), 0), Cause::NodePorts);
        assert_eq!(cause(500, "services", &full("serviceIP"), 0), Cause::ServiceAddresses);
    }
}
