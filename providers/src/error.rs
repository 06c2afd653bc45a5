//! Errors of providers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why a load balancer or a listener is not as desired: one variant for each thing that the
/// caller does next.
///
/// `{}` prints the message, and `{:#}` the causes too, as for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is in progress (a load balancer is being provisioned): observe again soon.
    #[error(transparent)]
    NotReady(Details),
    /// The load balancer refuses it, and will until something changes: report it to the user.
    #[error(transparent)]
    Refused(Details),
    /// The port has a foreign listener: report it to the user. A slot that was assigned and
    /// never opened may move to another port.
    #[error(transparent)]
    PortInUse(Details),
    /// There is less room (listeners, targets) than was observed: report it to the user, and
    /// observe the current limits. A slot that never opened may move to another load
    /// balancer.
    #[error(transparent)]
    NoRoom(Details),
    /// A limit that all load balancers share is used up (the node ports of the cluster, a
    /// quota of a namespace or an account): report it to the user, and try again when
    /// something was closed. Another load balancer does not help.
    #[error(transparent)]
    Exhausted(Details),
    /// Too many calls: wait at least `retry_after`.
    #[error("throttled, to be tried again in {} s: {details}", retry_after.as_secs())]
    Throttled {
        /// How long the load balancer asks clients to wait.
        retry_after: Duration,
        /// Its message
        details: Details,
    },
    /// Another writer changed it at the same time: observe, and try again at once.
    #[error(transparent)]
    Conflict(Details),
    /// Unreachable or failing: try again with backoff.
    #[error(transparent)]
    Transient(Details),
}

impl Error {
    /// Whether the load balancer refuses the request as a whole: it may accept a part of it.
    /// After other errors, that is unknown.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::NoRoom(_) | Self::Exhausted(_))
    }

    /// The same error with this before its message.
    #[must_use]
    pub fn within(mut self, context: impl fmt::Display) -> Self {
        let details = self.details_mut();
        details.message = format!("{context}: {}", details.message);
        self
    }

    fn details_mut(&mut self) -> &mut Details {
        match self {
            Self::NotReady(details)
            | Self::Refused(details)
            | Self::PortInUse(details)
            | Self::NoRoom(details)
            | Self::Exhausted(details)
            | Self::Throttled { details, .. }
            | Self::Conflict(details)
            | Self::Transient(details) => details,
        }
    }
}

/// The message of an error, and its cause.
#[derive(Debug, Clone)]
pub struct Details {
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Details {
    /// A message without a cause: what is wrong, and what to do about it.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// The same, caused by this error, whose text is not in the message: `{:#}` appends it.
    #[must_use]
    pub fn caused_by(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { source: Some(Arc::new(source)), ..self }
    }
}

impl<T: Into<String>> From<T> for Details {
    fn from(message: T) -> Self {
        Self::new(message)
    }
}

impl fmt::Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return f.write_str(&self.message);
        }
        let source = self.source.as_deref().map(|source| source as &dyn std::error::Error);
        let causes = std::iter::successors(source, |cause| cause.source());
        // Some libraries have the text of the cause in the error's own message too.
        let text = causes.fold(self.message.clone(), |text, cause| {
            let cause = cause.to_string();
            if text.contains(&cause) { text } else { format!("{text}: {cause}") }
        });
        f.write_str(&text)
    }
}

impl std::error::Error for Details {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Two are equal if their texts are.
impl PartialEq for Details {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:#}") == format!("{other:#}")
    }
}

impl Eq for Details {}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::io;

    use super::*;

    #[test]
    fn an_error_keeps_its_cause_and_shows_it_behind_its_own_words() {
        let cause = io::Error::from(io::ErrorKind::ConnectionRefused);
        let details = Details::new("no answer").caused_by(cause);
        let error = Error::Transient(details).within("load balancer 0");
        assert_eq!(error.to_string(), "load balancer 0: no answer");
        assert_eq!(format!("{error:#}"), "load balancer 0: no answer: connection refused");
        let source = error.source().expect("it has a cause").downcast_ref::<io::Error>();
        assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::ConnectionRefused));
    }
}
