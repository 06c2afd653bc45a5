//! The calls to an updater, and what its answers mean.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::credentials::{Anonymous, OfSecret};
use super::endpoint::{canonical_address, canonical_authority, canonical_host, literal};
use super::record::backend_name;
use super::settings::{Context, Settings, Timeouts};
use crate::budget::{Turn, Urgency};
use crate::http::{self, Call, Credentials, Effect, Failure, Http, Reply};
use crate::model::{FrontPort, LbName};
use crate::text::brief;
use crate::{Details, Error};

/// A call that takes longer than this counts as lost. The updater writes one small file for it;
/// what holds it up for longer would hold up all other changes of the class.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a lasting throttling is said to take at least.
const SECOND: Duration = Duration::from_secs(1);

/// An updater, as one class calls it.
pub(super) struct Updater {
    http: Http,
    /// The part of the URL after the last slash
    path: String,
    timeouts: Timeouts,
}

/// The backend of one front port.
#[derive(Debug, Clone, Copy)]
pub(super) struct BackendId<'a> {
    pub(super) load_balancer: &'a LbName,
    pub(super) port: FrontPort,
    /// A call about it that has not begun by then is not made
    pub(super) begin_by: Instant,
}

/// Why a call has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CallError {
    /// It is about this backend alone: others may succeed.
    OfBackend(Error),
    /// It would be the same for every backend. The call was not carried out.
    OfUpdater(Error),
    /// There was no answer of the updater: the call may have been carried out, or a proxy may do
    /// so later.
    Lost(Error),
    /// The call was not made, since there was no time left for it.
    Late,
}

/// The answer of the updater, as the cause of an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Answer(String);

/// The body of a POST.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stream {
    backend_name: String,
    lb_port: u16,
    lb_protocol: &'static str,
    upstream_servers: Vec<Server>,
    #[serde(flatten)]
    timeouts: Timeouts,
}

/// A server of a backend.
#[derive(Serialize)]
struct Server {
    host: String,
    port: u16,
}

/// The body of a DELETE.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Name {
    backend_name: String,
}

/// The body of an error.
#[derive(Default, Deserialize)]
struct Body {
    err: Option<String>,
}

impl Updater {
    /// A client that has made no call yet.
    ///
    /// # Errors
    /// [`Error::Refused`] if the class has a certificate that is none, or a host that is not
    /// admitted.
    pub(super) fn new(settings: &Settings, context: &Context) -> Result<Self, Error> {
        let address = canonical_address(&settings.address.to_string());
        let hosts = [("url", canonical_host(&settings.url)), ("address", Some(address))];
        for (field, host) in hosts {
            if let Some(ip) = host.as_deref().and_then(literal).filter(|ip| !(context.admits)(*ip)) {
                return Err(Error::Refused(
                    format!(
                        "provider.httpUpdater.{field} of the class: {ip} is an address of the controller's own machine \
                         or link, where no updater may be: create a class with another one"
                    )
                    .into(),
                ));
            }
        }
        let credentials: Arc<dyn Credentials> = match &settings.secret_name {
            Some(name) => {
                let authority = canonical_authority(&settings.url).unwrap_or_default();
                Arc::new(OfSecret::new(context.secrets.clone(), name.clone(), authority))
            }
            None => Arc::new(Anonymous),
        };
        let (base, path) = settings.url.rsplit_once('/').unwrap_or((&settings.url, ""));
        let http = Http::new(http::Settings {
            base: base.to_owned(),
            admits: Some(context.admits),
            authorities: settings.ca_bundle.clone().into_bytes(),
            reads: context.rate,
            writes: context.rate,
            gate: context.gate.clone(),
            credentials,
            is_throttled: |_| false,
        });
        let http = http.map_err(|failure| {
            let message = "the client of the updater cannot be set up: see provider.httpUpdater.caBundle of the class";
            Error::Refused(Details::new(message).caused_by(failure))
        })?;
        Ok(Self { http, path: path.to_owned(), timeouts: settings.timeouts })
    }

    /// Creates or replaces the backend of a front port. There must be servers: without any, NGINX
    /// would refuse its whole configuration.
    pub(super) async fn post(&self, id: BackendId<'_>, servers: &BTreeSet<SocketAddr>) -> Result<(), CallError> {
        let stream = Stream {
            backend_name: backend_name(id.load_balancer, id.port),
            lb_port: id.port.port.get(),
            lb_protocol: id.port.transport.lower_case(),
            upstream_servers: servers.iter().map(server).collect(),
            timeouts: self.timeouts,
        };
        self.send(Method::POST, id, Urgency::Open, &stream).await
    }

    /// Deletes the backend of a front port. Succeeds if there is none.
    pub(super) async fn delete(&self, id: BackendId<'_>) -> Result<(), CallError> {
        let body = Name { backend_name: backend_name(id.load_balancer, id.port) };
        self.send(Method::DELETE, id, Urgency::Close, &body).await
    }

    async fn send(
        &self,
        method: Method,
        id: BackendId<'_>,
        urgency: Urgency,
        body: &impl Serialize,
    ) -> Result<(), CallError> {
        // Both have the effect of once if they are carried out twice. The LB loop repeats them,
        // so that others are not held up.
        let call = Call::new(method, self.path.clone(), Effect::Repeatable).json(body).once_within(TIMEOUT);
        let mut turn = Turn { of: id.load_balancer.clone(), urgency, begin_by: Some(id.begin_by), place: None };
        let reply = self.http.send(&call, &mut turn).await;
        let reply = reply.map_err(|failure| match failure {
            Failure::Late => CallError::Late,
            Failure::Lost(_) | Failure::TooLarge { .. } => CallError::Lost(unanswered(failure)),
            failure => CallError::OfUpdater(unanswered(failure)),
        })?;
        judge(&reply, &backend_name(id.load_balancer, id.port))
    }
}

/// A server as NGINX takes it: IPv6 addresses in brackets.
fn server(address: &SocketAddr) -> Server {
    let host = if address.is_ipv6() { format!("[{}]", address.ip()) } else { address.ip().to_string() };
    Server { host, port: address.port() }
}

/// What an answer means. The updater answers 200 with an object, whatever NGINX makes of the
/// configuration.
fn judge(reply: &Reply, backend: &str) -> Result<(), CallError> {
    let status = reply.status;
    let because = |error: fn(Details) -> Error, message: String| {
        let said = reply.json::<Body>().ok().and_then(|body| body.err);
        error(Details::new(message).caused_by(Answer(brief(&said.unwrap_or_else(|| status.to_string())))))
    };
    if status.is_success() {
        return reply.json::<Map<String, Value>>().map(drop).map_err(|failure| {
            let message = "the URL of the class is not that of an updater, which answers with a JSON object";
            CallError::OfUpdater(Error::Refused(Details::new(message).caused_by(failure)))
        });
    }
    let of_updater = |error, message: &str| CallError::OfUpdater(because(error, message.to_owned()));
    Err(match status {
        StatusCode::UNAUTHORIZED => of_updater(
            Error::Refused,
            "the updater refuses the credentials: renew those in the Secret that the class names \
             (provider.httpUpdater.credentials)",
        ),
        StatusCode::FORBIDDEN => of_updater(
            Error::Refused,
            "the updater does not permit POST and DELETE with these credentials: grant both to them",
        ),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => of_updater(
            Error::Refused,
            "there is no updater at the URL of the class: it must end with the updater's path, such as /api/v1/lb",
        ),
        status if status.is_redirection() => of_updater(
            Error::Refused,
            "the updater redirects to another URL: set that in a new class (with credentials, redirections are not followed)",
        ),
        StatusCode::INTERNAL_SERVER_ERROR => CallError::OfBackend(because(
            Error::Refused,
            format!("the updater cannot change backend {backend}: see its log, and whether it can write its folder"),
        )),
        // By a proxy, which may have passed it on.
        status if status.is_server_error() => {
            CallError::Lost(because(Error::Transient, "the updater is not available".to_owned()))
        }
        _ => CallError::OfBackend(because(Error::Refused, format!("the updater refuses backend {backend}"))),
    })
}

/// The error of a call without a complete answer.
fn unanswered(failure: Failure) -> Error {
    match failure {
        Failure::Throttled(retry_after) => Error::Throttled {
            // In whole seconds, and at least one.
            retry_after: Duration::from_secs(retry_after.as_secs()) + SECOND,
            details: "the updater, or a proxy before it, limits calls".into(),
        },
        Failure::NoCredentials(unavailable) if !unavailable.transient => {
            let message = "there are no credentials for the updater (provider.httpUpdater.credentials of the class)";
            Error::Refused(Details::new(message).caused_by(unavailable))
        }
        failure => Error::Transient(Details::new("the updater gave no valid answer").caused_by(failure)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, body: &str) -> Result<(), CallError> {
        judge(&Reply::new(status, body), "slb-default-0-44d0a5b833-20000-tcp")
    }

    #[test]
    fn an_answer_without_an_object_is_no_success() {
        assert_eq!(answered(200, "{}"), Ok(()));
        for body in ["", "<html>", "[]"] {
            let error = answered(200, body);
            assert!(matches!(error, Err(CallError::OfUpdater(Error::Refused(_)))), "{body:?}: {error:?}");
        }
    }

    #[test]
    fn what_the_updater_refuses_of_one_backend_is_told_from_what_it_refuses_of_all() {
        let said = r#"{"err":"failed to update stream: failed to open conf file"}"#;
        let Err(CallError::OfBackend(Error::Refused(why))) = answered(500, said) else { panic!("it is of one") };
        let why = format!("{why:#}");
        assert!(
            why.contains("slb-default-0-44d0a5b833-20000-tcp") && why.ends_with("failed to open conf file"),
            "{why}"
        );
        assert!(matches!(answered(400, "{}"), Err(CallError::OfBackend(Error::Refused(_)))));
        for status in [301, 401, 403, 404, 405] {
            let error = answered(status, "");
            assert!(matches!(error, Err(CallError::OfUpdater(Error::Refused(_)))), "{status}: {error:?}");
        }
        for status in [502, 503, 504] {
            let error = answered(status, "<html>");
            assert!(matches!(error, Err(CallError::Lost(Error::Transient(_)))), "{status}: {error:?}");
        }
    }

    #[test]
    fn an_ipv6_address_is_in_brackets_in_the_configuration() {
        assert_eq!(server(&"[fd00::1]:80".parse().unwrap()).host, "[fd00::1]");
        assert_eq!(server(&"10.0.0.1:80".parse().unwrap()).host, "10.0.0.1");
    }
}
