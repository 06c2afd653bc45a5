//! Calls of the API server: each has a limit, and each of its refusals says what
//! the caller should do.

use std::time::Duration;

use kube::core::Status;

use crate::Error;

/// How long a call may take. It is well below the time after which another
/// replica may be the leader (15 s), so that no write of ours comes after its.
const LIMIT: Duration = Duration::from_secs(8);

/// How long to wait after a 429 that does not say.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a call is about, for the message of its error.
#[derive(Debug, Clone, Copy)]
pub(super) struct What<'a> {
    /// As in a role: `get`, `patch`, `delete`
    pub(super) verb: &'a str,
    /// As in a role: `services`
    pub(super) resource: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

/// Makes a call within its limit.
pub(super) async fn call<T>(what: What<'_>, reply: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    call_within(LIMIT, what, reply).await
}

async fn call_within<T>(
    limit: Duration,
    what: What<'_>,
    reply: impl Future<Output = kube::Result<T>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, reply).await {
        Ok(reply) => reply.map_err(|error| what.failed(error)),
        Err(_) => Err(Error::Transient(format!("{what} took longer than {limit:?}"))),
    }
}

impl std::fmt::Display for What<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { verb, resource, namespace, name } = self;
        write!(f, "{verb} of {resource} {namespace}/{name}")
    }
}

impl What<'_> {
    /// What a failed call means to the caller.
    pub(super) fn failed(&self, error: kube::Error) -> Error {
        match error {
            kube::Error::Api(status) => self.refused(&status),
            other => Error::Transient(format!("{self} failed: {}", with_causes(&other))),
        }
    }

    /// What the API server's answer means to the caller.
    pub(super) fn refused(&self, status: &Status) -> Error {
        let Self { verb, resource, namespace, .. } = self;
        let message = &status.message;
        let about = status.details.as_ref().map_or("", |details| details.kind.as_str());
        match status.code {
            403 => Error::Refused(format!(
                "not permitted to {verb} {resource} in namespace {namespace} (the role in deploy/ permits all that \
                 is needed): {message}"
            )),
            404 if about == "namespaces" => Error::Refused(format!(
                "namespace {namespace}, where the Services of the class go, does not exist: create it"
            )),
            400 | 413 | 422 => Error::Refused(format!("{self} was refused: {message}")),
            429 => Error::Throttled {
                retry_after: status
                    .details
                    .as_ref()
                    .map(|details| Duration::from_secs(details.retry_after_seconds.into()))
                    .filter(|wait| !wait.is_zero())
                    .unwrap_or(RETRY_AFTER),
                message: message.clone(),
            },
            409 => Error::Conflict(format!("{self} met another writer: {message}")),
            code => Error::Transient(format!("{self} failed with {code}: {message}")),
        }
    }
}

/// An error with what caused it: "client error" alone says little.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

#[cfg(test)]
mod tests {
    use kube::core::response::StatusDetails;

    use super::*;

    fn answered(code: u16, about: &str) -> Error {
        let what = What { verb: "patch", resource: "services", namespace: "lbs", name: "slb-0" };
        let details = StatusDetails {
            name: String::new(),
            group: String::new(),
            kind: about.into(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
        };
        what.refused(&Status::failure("its words", "").with_code(code).with_details(details))
    }

    #[test]
    fn an_error_says_what_the_caller_should_do() {
        assert!(matches!(answered(403, ""), Error::Refused(m) if m.contains("patch services in namespace lbs")));
        assert!(
            matches!(answered(404, "namespaces"), Error::Refused(m) if m.contains("lbs") && m.contains("create it"))
        );
        assert!(matches!(answered(422, ""), Error::Refused(m) if m.contains("its words")));
        assert!(matches!(answered(429, ""), Error::Throttled { retry_after: RETRY_AFTER, .. }));
        assert!(matches!(answered(409, "services"), Error::Conflict(_)));
        for code in [404, 500, 503] {
            assert!(matches!(answered(code, "services"), Error::Transient(_)), "{code}");
        }
    }

    #[tokio::test]
    async fn a_call_that_never_returns_is_given_up() {
        let what = What { verb: "get", resource: "services", namespace: "lbs", name: "slb-0" };
        let error = call_within::<()>(Duration::from_millis(5), what, std::future::pending()).await.unwrap_err();
        assert_eq!(error, Error::Transient("get of services lbs/slb-0 took longer than 5ms".into()));
    }
}
