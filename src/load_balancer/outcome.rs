//! The outcome of a plan: the only thing that an LB loop reports to the class loop.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use sharedlb_crds::Reason;
use sharedlb_providers::{
    Address, Capacity, Error, FrontPort, IpFamily, ListenerKey, ListenerOptions, Owner, Unserved,
};

use crate::api::claim::claim_key;
use crate::kubernetes::ObjectKey;
use crate::kubernetes::text;
use crate::load_balancer::desired::Plan;
use crate::load_balancer::share::LeftOut;

/// The state of one load balancer after the last reconcile of its LB loop.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// The last plan whose result is known
    pub plan: Arc<Plan>,
    /// What the LB loop was handed since, and so may be carrying out
    pub since: MaybeOpen,
    /// Whether the load balancer exists; `None`: it could not be observed
    pub exists: Option<bool>,
    /// Its addresses; empty until they are known
    pub addresses: Arc<[Address]>,
    /// Why it has no address, if that is overdue
    pub no_address: Option<Failure>,
    pub capacity: Capacity,
    pub foreign: BTreeSet<FrontPort>,
    /// Our listeners: those that are open, and those that could not be opened. Copies of the
    /// outcome share them
    pub listeners: Arc<BTreeMap<ListenerKey, ListenerOutcome>>,
    /// Why the load balancer as a whole is not as planned
    pub failure: Option<Failure>,
    /// How often it was found gone since its LB loop started
    pub recreated: u32,
}

/// What an LB loop was handed since the plan that its last outcome is about.
#[derive(Debug, Clone, Default)]
pub(crate) struct MaybeOpen {
    /// Slots that were planned since, and so may be open by now
    pub planned: HashSet<ListenerKey>,
    /// Whether the load balancer was planned to exist since
    pub exists: bool,
}

/// One listener as last observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListenerOutcome {
    /// The claim and port that it is for
    pub owner: Owner,
    pub open: bool,
    pub options: ListenerOptions,
    /// Whether each of its transports has a backend with a ready pod
    pub backends: bool,
    /// The IP families of the load balancer in which it has no such backend,
    /// although it has some of another family
    pub idle_families: BTreeSet<IpFamily>,
    /// The backends that get no traffic, if there are more than the load balancer takes
    pub left_out: Option<LeftOut>,
    /// Why it is not as planned
    pub failure: Option<Failure>,
    /// Why it gets no traffic although it is open
    pub unserved: Option<Failure>,
}

impl ListenerOutcome {
    /// A listener for this port of a claim that is not open.
    pub(crate) fn closed(owner: &Owner) -> Self {
        Self {
            owner: owner.clone(),
            open: false,
            options: ListenerOptions::default(),
            backends: false,
            idle_families: BTreeSet::new(),
            left_out: None,
            failure: None,
            unserved: None,
        }
    }
}

/// The claims whose verdict may change with an outcome.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AffectedClaims {
    /// Every claim of the load balancer
    All,
    /// These, if any
    These(BTreeSet<ObjectKey>),
}

impl AffectedClaims {
    /// Whether no claim is affected.
    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Self::These(claims) if claims.is_empty())
    }
}

/// Why a listener or load balancer is not as planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The reason of the condition
    pub reason: Reason,
    /// For the user
    pub message: Arc<str>,
}

impl Outcome {
    /// The claims for which it differs from `before`, whatever plans the two are about.
    pub(crate) fn affected_since(&self, before: &Self) -> AffectedClaims {
        let same = self.exists == before.exists
            && self.addresses == before.addresses
            && self.no_address == before.no_address
            && self.capacity == before.capacity
            && self.foreign == before.foreign
            && self.failure == before.failure
            && self.recreated == before.recreated;
        if !same {
            return AffectedClaims::All;
        }
        let changed = |these: &BTreeMap<ListenerKey, ListenerOutcome>, those: &BTreeMap<_, _>| {
            let changed = these.iter().filter(|&(key, listener)| those.get(key) != Some(listener));
            changed.map(|(_, listener)| claim_key(&listener.owner)).collect::<BTreeSet<_>>()
        };
        let (then, now) = (changed(&before.listeners, &self.listeners), changed(&self.listeners, &before.listeners));
        AffectedClaims::These(then.into_iter().chain(now).collect())
    }

    /// Whether a listener is open that no claim is known to hold.
    pub(crate) fn has_orphans(&self) -> bool {
        self.listeners.iter().any(|(key, listener)| self.is_orphan(*key, listener))
    }

    /// Whether this listener is open, and not planned. An incomplete one has no owner, and is
    /// being repaired or closed.
    pub(crate) fn is_orphan(&self, key: ListenerKey, listener: &ListenerOutcome) -> bool {
        listener.open && !listener.owner.is_unknown() && !self.plan.has(key)
    }

    /// Whether a slot that is no longer planned is certainly closed: also the part that may be left
    /// of a listener of both transports.
    pub(crate) fn is_closed(&self, key: ListenerKey) -> bool {
        let overlapping = ListenerKey::of_number(key.port).into_iter().filter(|other| other.overlaps(key));
        let mut left = overlapping.filter(|other| !self.plan.has(*other));
        self.exists.is_some()
            && !self.plan.has(key)
            && !self.since.planned.contains(&key)
            && !left.any(|other| self.listeners.get(&other).is_some_and(|found| found.open))
    }

    /// The listeners for which there was no room.
    pub(crate) fn no_room(&self) -> BTreeSet<ListenerKey> {
        let no_room = |listener: &ListenerOutcome| {
            !listener.open && listener.failure.as_ref().is_some_and(|failure| failure.reason == Reason::NoRoom)
        };
        self.listeners.iter().filter(|(_, listener)| no_room(listener)).map(|(key, _)| *key).collect()
    }

    /// Whether no port of the load balancer is reachable, and that does not pass by itself: it
    /// has had no address for too long, or cannot be created.
    pub(crate) fn is_unusable(&self) -> bool {
        let refused = |failure: &Failure| matches!(failure.reason, Reason::ProviderRefused | Reason::NoRoom);
        match self.exists {
            Some(true) => self.no_address.is_some(),
            Some(false) => self.failure.as_ref().is_some_and(refused),
            None => false,
        }
    }

    /// Whether the load balancer is certainly gone for good.
    pub(crate) fn is_gone(&self) -> bool {
        self.exists == Some(false) && self.plan.slots.is_none() && !self.since.exists
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let reason = match error {
            Error::NotReady(_) | Error::Conflict(_) => Reason::Pending,
            Error::Refused(_) | Error::Exhausted(_) => Reason::ProviderRefused,
            Error::PortInUse(_) => Reason::PortInUse,
            Error::NoRoom(_) => Reason::NoRoom,
            Error::Throttled { .. } => Reason::Throttled,
            // Other variants of a later version are tried again.
            _ => Reason::Unreachable,
        };
        Self { reason, message: text::message(&format!("{error:#}")).into() }
    }
}

impl From<&Unserved> for Failure {
    fn from(unserved: &Unserved) -> Self {
        let (reason, message) = match unserved {
            Unserved::Pending(message) => (Reason::Pending, message),
            Unserved::Refused(message) => (Reason::ProviderRefused, message),
        };
        Self { reason, message: text::message(message).into() }
    }
}

#[cfg(test)]
mod tests {
    use sharedlb_providers::Protocol;
    use sharedlb_providers::memory::{Cloud, Memory};

    use super::*;

    fn listener(port: u16, claim: &str, backends: bool) -> (ListenerKey, ListenerOutcome) {
        let owner = Owner { namespace: "team".into(), claim: claim.into(), port: "x".into() };
        let key = ListenerKey { port: port.try_into().unwrap(), protocol: Protocol::Tcp };
        (key, ListenerOutcome { open: true, backends, ..ListenerOutcome::closed(&owner) })
    }

    fn outcome(address: &str, listeners: &[(ListenerKey, ListenerOutcome)]) -> Outcome {
        Outcome {
            plan: Arc::new(Plan::new(Arc::new(Memory::new(Cloud::default())), 0, None)),
            since: MaybeOpen::default(),
            exists: Some(true),
            addresses: [Address::Hostname(address.to_owned())].into(),
            no_address: None,
            capacity: Capacity::default(),
            foreign: BTreeSet::new(),
            listeners: Arc::new(listeners.iter().cloned().collect()),
            failure: None,
            recreated: 0,
        }
    }

    #[test]
    fn claims_are_affected_whose_listener_was_added_changed_removed_or_was_another_claims() {
        let before = [
            listener(1, "same", true),
            listener(2, "changed", true),
            listener(3, "gone", true),
            listener(4, "from", true),
        ];
        let after = [
            listener(1, "same", true),
            listener(2, "changed", false),
            listener(4, "to", true),
            listener(5, "new", true),
        ];
        let (before, after) = (outcome("a", &before), outcome("a", &after));
        let claims = ["changed", "from", "gone", "new", "to"];
        let expected = claims.map(|name| ObjectKey { namespace: "team".into(), name: name.into() });
        assert_eq!(after.affected_since(&before), AffectedClaims::These(expected.into()));
        assert!(after.affected_since(&after).is_none());
    }

    #[test]
    fn a_change_of_the_load_balancer_as_a_whole_affects_all_claims() {
        let (before, after) = (outcome("a", &[]), outcome("b", &[]));
        assert_eq!(after.affected_since(&before), AffectedClaims::All);
    }
}
