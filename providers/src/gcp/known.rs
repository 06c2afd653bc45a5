//! What is known of a load balancer at Google Cloud between the calls of the provider.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;

use super::found::Found;
use super::objects::Object;
use super::plan::Step;
use crate::Error;

/// How long the objects count as known for one observation, which then takes no calls: that after
/// an apply which has to go on, or after a change of nodes.
const TRUSTED_FOR: Duration = Duration::from_secs(5);

/// What is known of a load balancer.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Its objects; `None`: they were not read yet
    pub(super) state: Option<State>,
    /// Why they could not be read when they were to be
    pub(super) unread: Option<Error>,
    /// Until when the next observation need not read them again
    trusted_until: Option<Instant>,
}

/// The objects of a load balancer, and what happens to them.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    pub(super) found: Found,
    /// The operations that go on, by their object
    pub(super) pending: BTreeMap<Object, Pending>,
    /// Why the rule that allows ports could not be changed
    pub(super) ports_error: Option<Error>,
    /// Whether a call failed after which the objects may be others
    pub(super) doubtful: bool,
}

/// An operation that goes on.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    /// Its path
    pub(super) operation: String,
    /// What it does
    pub(super) step: Step,
}

impl Known {
    /// Takes in what was read, or why it could not be. What was said about permissions to write
    /// and about instances that cannot be attached stays until a call shows otherwise.
    pub(super) fn reread(&mut self, read: Result<Found, Error>) {
        match read {
            Ok(found) => {
                let before = self.state.take().unwrap_or_default();
                let firewalls_denied = found.firewalls_denied.or(before.found.firewalls_denied);
                let found = Found { firewalls_denied, attaching: before.found.attaching, ..found };
                self.state = Some(State { found, doubtful: false, ..before });
                self.unread = None;
            }
            Err(error) => self.unread = Some(error),
        }
    }

    /// Its address, if it accepts traffic, as far as is known.
    pub(super) fn serving(&self) -> Option<Ipv4Addr> {
        self.state.as_ref()?.found.serving()
    }

    /// Has the next observation take the objects as they are.
    pub(super) fn trust(&mut self) {
        self.trusted_until = Some(Instant::now() + TRUSTED_FOR);
    }

    /// Whether changes can be made without reading the objects again.
    pub(super) fn is_certain(&self) -> bool {
        self.state.as_ref().is_some_and(|state| !state.doubtful)
    }

    /// Whether this observation need not read them again. While an operation goes on, the next
    /// apply does, once it is complete.
    pub(super) fn take_trust(&mut self) -> bool {
        let until = self.trusted_until.take();
        self.is_certain() && (self.has_pending() || until.is_some_and(|until| Instant::now() < until))
    }

    /// Whether operations go on.
    pub(super) fn has_pending(&self) -> bool {
        self.state.as_ref().is_some_and(|state| !state.pending.is_empty())
    }
}
