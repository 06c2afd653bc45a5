//! Calls, answers and failures.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::secrets::Unavailable;
use crate::budget::Late;
use crate::text::{brief, chain};

/// A call that takes longer than this is given up, and its answer counts as lost.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The most attempts of one call. After the last one the caller gets the failure, so that the
/// status of the claim reports it.
const ATTEMPTS: u32 = 3;

/// The effect of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It reads.
    Read,
    /// It changes something, and has the effect of once if it is carried out twice.
    Repeatable,
    /// It changes something, and carried out twice it may have another effect.
    Once,
}

impl Effect {
    /// Whether it changes something.
    pub(super) fn changes(self) -> bool {
        self != Self::Read
    }

    /// Whether it may be carried out twice.
    pub(super) fn is_repeatable(self) -> bool {
        self != Self::Once
    }
}

/// A call. Its `Debug` form is the method and the path alone: a body may have secrets in it.
#[derive(Clone)]
pub(crate) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<Vec<u8>>,
    pub(super) effect: Effect,
    /// How long one attempt may take
    pub(super) timeout: Duration,
    /// How many attempts there may be
    pub(super) attempts: u32,
}

impl Call {
    /// A call without a body. The path is relative to the base of the client, and has the query.
    pub(crate) fn new(method: Method, path: impl Into<String>, effect: Effect) -> Self {
        Self { method, path: path.into(), body: None, effect, timeout: TIMEOUT, attempts: ATTEMPTS }
    }

    /// A call that reads.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path, Effect::Read)
    }

    /// The same with a body.
    pub(crate) fn json(self, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).ok();
        Self { body, ..self }
    }

    /// The same as a single attempt, whose answer counts as lost after this time.
    #[cfg_attr(not(feature = "http-updater"), allow(dead_code, reason = "the provider `httpUpdater` uses it"))]
    pub(crate) fn once_within(self, timeout: Duration) -> Self {
        Self { timeout, attempts: 1, ..self }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{} {path}", self.method)
    }
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    /// How long the API asks clients to wait
    pub(super) retry_after: Option<Duration>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// An answer for tests.
    #[cfg(test)]
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status: StatusCode::from_u16(status).expect("a status"), retry_after: None, body: body.into() }
    }

    /// The body of a JSON answer.
    ///
    /// # Errors
    /// When it is of another form.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let mut json = serde_json::Deserializer::from_slice(&self.body);
        serde_path_to_error::deserialize(&mut json).map_err(|error| Failure::Unreadable(brief(&error.to_string())))
    }
}

/// A call without a complete answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It was not made, since others preceded it for too long.
    #[error("it waits for its turn")]
    Late,
    /// There were too many calls. No call is made for this long.
    #[error("there were too many calls")]
    Throttled(Duration),
    /// The connection could not be established: the call was not carried out.
    #[error("{0}")]
    Unreachable(String),
    /// There was no complete answer: the call may have been carried out.
    #[error("{0}")]
    Lost(String),
    /// The answer is larger than the limit, in bytes.
    #[error("the answer has more than {limit} bytes")]
    TooLarge {
        /// The limit
        limit: usize,
    },
    /// The answer is of another form than documented.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
    /// The client cannot be set up.
    #[error("{0}")]
    Invalid(String),
    /// There are no credentials.
    #[error(transparent)]
    NoCredentials(Unavailable),
}

impl Failure {
    pub(super) fn late(late: Late) -> Self {
        late.paused.map_or(Self::Late, Self::Throttled)
    }

    pub(super) fn invalid(error: &reqwest::Error) -> Self {
        Self::Invalid(causes(error))
    }

    pub(super) fn lost(error: &reqwest::Error) -> Self {
        if error.is_connect() { Self::Unreachable(causes(error)) } else { Self::Lost(causes(error)) }
    }

    /// Whether a call with this effect may be repeated after it.
    pub(super) fn may_be_repeated(&self, effect: Effect) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Lost(_) => effect.is_repeatable(),
            _ => false,
        }
    }
}

/// The causes of an error. Its own message has the URL.
fn causes(error: &reqwest::Error) -> String {
    chain(error.source().unwrap_or(error))
}
