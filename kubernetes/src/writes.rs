//! Writes to the Kubernetes API: one at a time for each object, with a backoff after
//! failures.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Cause;
use crate::requests::NoAnswer;
use crate::text;

/// The first wait after a failed write. It doubles with each further one.
const HOLD_MIN: Duration = Duration::from_millis(250);
/// The longest wait after a failed write.
const HOLD_MAX: Duration = Duration::from_secs(30);
/// Why a write failed, by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The object has changed since the decision: decide again.
    #[error("it has changed in the meantime")]
    Conflict,
    /// The object is gone.
    #[error("it is gone")]
    Gone,
    /// The API server rejects it.
    #[error("{0}")]
    Refused(String),
    /// Try again later.
    #[error("{0}")]
    Unreachable(String),
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match error {
            // The API server repeats rejected values, whatever their length.
            kube::Error::Api(status) => match Cause::of(&status) {
                Cause::Gone | Cause::Namespace => Self::Gone,
                Cause::Conflict => Self::Conflict,
                Cause::Rights | Cause::Quota | Cause::Refused => Self::Refused(text::message(&status.message)),
                // Other objects may release what is used up.
                Cause::NodePorts | Cause::ServiceAddresses | Cause::Throttled(_) | Cause::Other => {
                    Self::Unreachable(text::message(&status.message))
                }
            },
            kube::Error::Service(error) if error.is::<NoAnswer>() => Self::Unreachable(error.to_string()),
            error => Self::Unreachable(text::message(&error.to_string())),
        }
    }
}

impl WriteError {
    /// Whether the object is not as it was when the write was decided on.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict | Self::Gone)
    }

    /// The value of the metrics' label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Refused(_) => "refused",
            Self::Unreachable(_) => "unreachable",
        }
    }
}

/// The state of the writes to one object.
#[derive(Debug, Default)]
pub struct Writes {
    under_way: bool,
    /// After a failure: until when no write is made
    until: Option<Instant>,
    failures: u32,
}

impl Writes {
    /// Whether the object may be written now.
    #[must_use]
    pub fn are_free(&self, now: Instant) -> bool {
        !self.under_way && self.held_until(now).is_none()
    }

    /// Whether a write is in flight.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Until when no write is made after a failure.
    #[must_use]
    pub fn held_until(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// Records that a write is sent.
    pub fn begin(&mut self) {
        self.under_way = true;
    }

    /// Records the answer to a write.
    pub fn answered<T>(&mut self, result: &Result<T, WriteError>, now: Instant) {
        match result {
            Ok(_) => self.succeeded(),
            Err(error) if error.is_conflict() => self.conflicted(now),
            Err(_) => self.failed(now),
        }
    }

    /// Records that a write succeeded.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Records that the object was not as expected. The wait is short, since the watch is about
    /// to report the change.
    pub fn conflicted(&mut self, now: Instant) {
        self.until = Some(now + HOLD_MIN);
        self.under_way = false;
    }

    /// Records that a write failed.
    pub fn failed(&mut self, now: Instant) {
        let wait = HOLD_MIN.saturating_mul(1 << self.failures.min(16)).min(HOLD_MAX);
        self.until = Some(now + wait);
        self.failures += 1;
        self.under_way = false;
    }

    /// Resets the backoff: the cause of the failure may be gone.
    pub fn try_again(&mut self) {
        (self.until, self.failures) = (None, 0);
    }
}
