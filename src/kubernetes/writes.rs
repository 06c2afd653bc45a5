//! What all writes to the Kubernetes API have in common: one at a time for each
//! object, a wait after a failure, a limit of time, and a count.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::kubernetes::text;
use crate::process::metrics::Metrics;

/// The first wait after a failed write. It doubles with each further one.
const HOLD_MIN: Duration = Duration::from_millis(250);
/// The longest.
const HOLD_MAX: Duration = Duration::from_secs(30);
/// A write that takes longer has failed, as far as we know. It is less than the
/// renew deadline of a leader (10 s), and that ends the process.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(8);

/// Why a write failed, by what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// What it was decided on has changed: decide again.
    #[error("it has changed in the meantime")]
    Conflict,
    /// The object is gone.
    #[error("it is gone")]
    Gone,
    /// The API server will not have it.
    #[error("{0}")]
    Refused(String),
    /// Try again later.
    #[error("{0}")]
    Unreachable(String),
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match error {
            // The API server repeats what it refuses, however long that is.
            kube::Error::Api(status) => match status.code {
                404 => Self::Gone,
                409 => Self::Conflict,
                400 | 403 | 413 | 422 => Self::Refused(text::message(&status.message)),
                _ => Self::Unreachable(text::message(&status.message)),
            },
            error => Self::Unreachable(text::message(&error.to_string())),
        }
    }
}

/// Carries out a write within its time, and counts it.
pub(crate) async fn counted<T>(
    metrics: &Metrics,
    kind: &'static str,
    operation: &'static str,
    write: impl Future<Output = Result<T, WriteError>>,
) -> Result<T, WriteError> {
    let late = || WriteError::Unreachable(format!("no answer within {} s", TIMEOUT.as_secs()));
    let result = tokio::time::timeout(TIMEOUT, write).await.unwrap_or_else(|_| Err(late()));
    let label = match &result {
        Ok(_) => "ok",
        Err(WriteError::Conflict) => "conflict",
        Err(WriteError::Gone) => "gone",
        Err(WriteError::Refused(_)) => "refused",
        Err(WriteError::Unreachable(_)) => "unreachable",
    };
    metrics.api_write(kind, operation, label);
    result
}

/// Whether an object may be written now.
#[derive(Default)]
pub(crate) struct Writes {
    under_way: bool,
    /// After a failure: until when it is left alone
    until: Option<Instant>,
    failures: u32,
}

impl Writes {
    /// Whether something may be written now.
    pub(crate) fn are_free(&self) -> bool {
        !self.under_way && self.held_until().is_none()
    }

    /// Whether a write has begun and not ended.
    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Until when the object is left alone.
    pub(crate) fn held_until(&self) -> Option<Instant> {
        self.until.filter(|until| *until > Instant::now())
    }

    /// A write begins.
    pub(crate) fn begin(&mut self) {
        self.under_way = true;
    }

    /// A write has ended well.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A write has failed: the object is left alone for a while, after a conflict
    /// for a short one, since the watch is about to tell what changed.
    pub(crate) fn failed(&mut self, conflict: bool) {
        let doubled = HOLD_MIN.saturating_mul(1 << self.failures.min(16)).min(HOLD_MAX);
        let wait = if conflict { HOLD_MIN } else { doubled };
        self.until = Some(Instant::now() + wait);
        self.failures += u32::from(!conflict);
        self.under_way = false;
    }

    /// What stood in the way may be gone.
    pub(crate) fn try_again(&mut self) {
        (self.until, self.failures) = (None, 0);
    }
}
