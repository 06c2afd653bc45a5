//! What became of a plan: the only thing that an LB loop tells the class loop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sharedlb_crds::Reason;
use sharedlb_providers::{Address, Capacity, Error, FrontPort, ListenerKey, Owner};

use crate::desired::Plan;

/// One load balancer as its LB loop last saw it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The plan that was worked on
    pub plan: Arc<Plan>,
    /// Whether the load balancer exists; `None`: it could not be asked
    pub exists: Option<bool>,
    /// Where it is reached; empty until that is known
    pub addresses: Arc<[Address]>,
    /// What fits on it
    pub capacity: Capacity,
    /// Ports that strangers hold on it
    pub foreign: BTreeSet<FrontPort>,
    /// Our listeners: those that are open, and those that could not be opened
    pub listeners: BTreeMap<ListenerKey, ListenerOutcome>,
    /// What keeps the load balancer as a whole from being as planned
    pub trouble: Option<Trouble>,
}

/// One listener as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerOutcome {
    /// Whom it is for
    pub owner: Owner,
    /// Whether it is open
    pub open: bool,
    /// Whether it has a backend
    pub backends: bool,
    /// Why it is not as planned
    pub trouble: Option<Trouble>,
}

/// Why something is not as planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// In a word
    pub reason: Reason,
    /// In words for the user
    pub message: Arc<str>,
}

impl Outcome {
    /// Whether the two say the same, whatever plans they are about.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.exists == other.exists
            && self.addresses == other.addresses
            && self.capacity == other.capacity
            && self.foreign == other.foreign
            && self.listeners == other.listeners
            && self.trouble == other.trouble
    }

    /// Whether a slot that is no longer planned is surely closed.
    #[must_use]
    pub fn is_closed(&self, key: ListenerKey) -> bool {
        self.exists == Some(false)
            || (self.exists.is_some()
                && !self.plan.has(key)
                && !self.listeners.get(&key).is_some_and(|found| found.open))
    }
}

impl From<&Error> for Trouble {
    fn from(error: &Error) -> Self {
        let reason = match error {
            Error::NotReady(_) | Error::Conflict(_) => Reason::Pending,
            Error::Refused(_) => Reason::ProviderRefused,
            Error::PortInUse(_) => Reason::PortInUse,
            Error::Throttled { .. } => Reason::Throttled,
            Error::Transient(_) => Reason::Unreachable,
        };
        Self { reason, message: error.to_string().into() }
    }
}
