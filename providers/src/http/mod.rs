//! One HTTP client for the APIs of load balancers.
//!
//! [`Http::send`] is the only way to make a call. Each attempt takes a token of the budget; one
//! that changes something passes the gate right before it is sent. A call is repeated only if it
//! was certainly not carried out, or if it has the same effect twice.

mod call;
mod resolver;
mod secrets;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Response, StatusCode};
use tracing::debug;

pub(crate) use self::call::{Call, Effect, Failure, Reply};
use self::resolver::Resolver;
pub(crate) use self::secrets::{Credentials, Unavailable};
pub use self::secrets::{SecretData, Secrets};
use crate::Gate;
use crate::budget::{Bucket, Rate, Turn};

/// A connection that is not established within this time is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest pause within a call. If an answer asks for a longer one, the caller gets the
/// failure.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The largest answer, in bytes: that of an API that lists a few hundred objects has some hundred
/// kilobytes.
const ANSWER_MAX: usize = 8 << 20;

/// The settings of a client.
pub(crate) struct Settings {
    /// The URL before the path of every call
    pub(crate) base: String,
    /// Whether a host may have an address to which its name leads; `None`: any
    pub(crate) admits: Option<fn(IpAddr) -> bool>,
    /// Certificates of authorities that are trusted besides those of the system, in PEM
    pub(crate) authorities: Vec<u8>,
    /// The rate of calls that read
    pub(crate) reads: Rate,
    /// The rate of calls that change something
    pub(crate) writes: Rate,
    /// The gate of calls that change something; `None`: all pass
    pub(crate) gate: Option<Gate>,
    /// The credentials of every call
    pub(crate) credentials: Arc<dyn Credentials>,
    /// Whether an answer says that there were too many calls, so that this one was not carried
    /// out
    pub(crate) is_throttled: fn(&Reply) -> bool,
}

/// A client of one API. Proxies are those of the environment (`HTTPS_PROXY`, `NO_PROXY`).
pub(crate) struct Http {
    client: Client,
    base: String,
    reads: Bucket,
    writes: Bucket,
    gate: Option<Gate>,
    credentials: Arc<dyn Credentials>,
    is_throttled: fn(&Reply) -> bool,
}

impl Http {
    /// A client that has made no call yet.
    ///
    /// # Errors
    /// When the certificates are not valid.
    pub(crate) fn new(settings: Settings) -> Result<Self, Failure> {
        let Settings { base, admits, authorities, reads, writes, gate, credentials, is_throttled } = settings;
        let authorities = Certificate::from_pem_bundle(&authorities).map_err(|error| Failure::invalid(&error))?;
        let builder = match admits {
            Some(admits) => Client::builder().dns_resolver(Resolver { admits }),
            None => Client::builder(),
        };
        let client = builder
            .connect_timeout(CONNECT_TIMEOUT)
            // An API that is asked with credentials does not send them elsewhere.
            .redirect(Policy::none())
            .tls_certs_merge(authorities)
            .build()
            .map_err(|error| Failure::invalid(&error))?;
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self {
            client,
            base,
            reads: Bucket::new(reads),
            writes: Bucket::new(writes),
            gate,
            credentials,
            is_throttled,
        })
    }

    /// Makes a call within the budget. Once a turn has begun, its further calls precede others.
    ///
    /// # Errors
    /// When there is no complete answer, or too many calls were made. Any other answer is a
    /// [`Reply`], whatever its status is.
    pub(crate) async fn send(&self, call: &Call, turn: &mut Turn) -> Result<Reply, Failure> {
        let bucket = if call.effect.changes() { &self.writes } else { &self.reads };
        let mut renewed = false;
        let mut attempt = 0;
        loop {
            attempt += 1;
            bucket.take(turn).await.map_err(Failure::late)?;
            turn.begun();
            let credentials = self.credentials.headers().await.map_err(Failure::NoCredentials)?;
            let answer = self.attempt(call, credentials).await;
            let last = attempt >= call.attempts;
            let reply = match answer {
                Ok(reply) => reply,
                Err(failure) if !last && failure.may_be_repeated(call.effect) => continue,
                Err(failure) => return Err(failure),
            };
            // With other credentials it is another call.
            if reply.status == StatusCode::UNAUTHORIZED && !renewed {
                self.credentials.renew().await;
                renewed = true;
                continue;
            }
            let Some(asked) = self.pause(call, &reply) else {
                bucket.fine();
                return Ok(reply);
            };
            let pause = bucket.throttled(asked);
            if last || pause > PAUSE_MAX {
                return Err(Failure::Throttled(pause));
            }
        }
    }

    /// How long an answer asks to wait before the call is repeated; `None`: it is the answer.
    fn pause(&self, call: &Call, reply: &Reply) -> Option<Duration> {
        let throttled = reply.status == StatusCode::TOO_MANY_REQUESTS || (self.is_throttled)(reply);
        if throttled {
            return Some(reply.retry_after.unwrap_or_default());
        }
        // The call may have been carried out in part.
        let unavailable = reply.status == StatusCode::SERVICE_UNAVAILABLE && call.effect.is_repeatable();
        reply.retry_after.filter(|_| unavailable)
    }

    async fn attempt(&self, call: &Call, credentials: HeaderMap) -> Result<Reply, Failure> {
        let url = format!("{}/{}", self.base, call.path);
        let mut request = self.client.request(call.method.clone(), url).timeout(call.timeout).headers(credentials);
        if let Some(body) = &call.body {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(body.clone());
        }
        // After all waits.
        let _passed = match &self.gate {
            Some(gate) if call.effect.changes() => Some(gate().await),
            _ => None,
        };
        let reply = match request.send().await {
            Ok(response) => read(response).await,
            Err(error) => Err(Failure::lost(&error)),
        };
        match &reply {
            Ok(reply) => debug!(?call, status = reply.status.as_u16(), "answered"),
            Err(failure) => debug!(?call, %failure, "no answer"),
        }
        reply
    }
}

async fn read(mut response: Response) -> Result<Reply, Failure> {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| pause(value, SystemTime::now()));
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Failure::lost(&error))? {
        if body.len() + chunk.len() > ANSWER_MAX {
            return Err(Failure::TooLarge { limit: ANSWER_MAX });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status, retry_after, body })
}

/// How long from `now` on a value of `Retry-After` asks to wait, which is a number of seconds or a
/// date (RFC 9110, section 10.2.3). A date that has passed asks for no wait.
fn pause(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}
