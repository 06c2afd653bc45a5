//! How many ports each namespace takes up: those that its claims hold, and released ones that
//! cool down.

use crate::kubernetes::ObjectKey;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sharedlb_providers::ListenerKey;

use super::{ClaimRequest, HeldSlot, Refusal, Released};

/// The ports of every namespace.
///
/// A port that cools down is not held, and yet no other claim gets it. If it did not count, a
/// user who creates and deletes claims again and again could take up every port of a class. If
/// it counted like a held one, a namespace that uses its quota could change no port. So a
/// namespace may have as many ports that cool down as it may hold: twice its quota in total.
#[derive(Default)]
pub(super) struct Quotas {
    held: HashMap<Arc<str>, u32>,
    cooling: HashMap<Arc<str>, u32>,
    cooling_of_claim: BTreeMap<ObjectKey, BTreeSet<(u32, ListenerKey)>>,
}

/// The ports that a claim would take up, before they are chosen.
pub(super) struct Ask {
    held: u32,
    cooling: u32,
    asked: u32,
    quota: u32,
    /// Ports that cool down for this claim on the load balancer in question
    own: BTreeSet<ListenerKey>,
}

impl Quotas {
    /// Adds to the ports that a namespace holds.
    pub(super) fn hold(&mut self, namespace: &Arc<str>, ports: u32) {
        let held = self.held.entry(namespace.clone()).or_default();
        *held = held.saturating_add(ports);
    }

    /// Subtracts from the ports that a namespace holds.
    pub(super) fn let_go(&mut self, namespace: &Arc<str>, ports: u32) {
        let held = self.held.entry(namespace.clone()).or_default();
        *held = held.saturating_sub(ports);
    }

    /// The most ports that a namespace holds.
    pub(super) fn most_held(&self) -> u32 {
        self.held.values().copied().max().unwrap_or(0)
    }

    /// Counts a port that cools down; the same one is counted once.
    pub(super) fn cool_down(&mut self, index: u32, released: &Released) {
        if self.cooling_of_claim.entry(released.claim.clone()).or_default().insert((index, released.key)) {
            *self.cooling.entry(released.claim.namespace.clone()).or_default() += 1;
        }
    }

    /// Whether the claim's namespace may hold this many ports more, some of which may be ports
    /// that cool down for the claim.
    pub(super) fn ask(&self, index: u32, claim: &ClaimRequest, asked: u32, quota: u32) -> Result<Ask, Refusal> {
        let count = |counts: &HashMap<Arc<str>, u32>| counts.get(&claim.id.namespace).copied().unwrap_or(0);
        let own = self.cooling_of_claim.get(&claim.id).into_iter().flatten();
        let ask = Ask {
            held: count(&self.held),
            cooling: count(&self.cooling),
            asked,
            quota,
            own: own.filter(|(on, _)| *on == index).map(|&(_, key)| key).collect(),
        };
        if ask.held.saturating_add(asked) > quota {
            return Err(Refusal::QuotaExceeded { held: ask.held, asked, quota });
        }
        Ok(ask)
    }

    /// Counts slots that were assigned to the claim.
    pub(super) fn give(&mut self, index: u32, claim: &ClaimRequest, slots: &[HeldSlot]) {
        self.hold(&claim.id.namespace, u32::try_from(slots.len()).unwrap_or(u32::MAX));
        let Some(own) = self.cooling_of_claim.get_mut(&claim.id) else { return };
        let taken_back = slots.iter().filter(|slot| own.remove(&(index, slot.key))).count();
        if let Some(cooling) = self.cooling.get_mut(&claim.id.namespace) {
            *cooling = cooling.saturating_sub(u32::try_from(taken_back).unwrap_or(u32::MAX));
        }
    }
}

impl Ask {
    /// Whether there is room for these slots in addition to the ports that cool down.
    pub(super) fn admits(&self, slots: &[HeldSlot]) -> Result<(), Refusal> {
        let taken_back = slots.iter().filter(|slot| self.own.contains(&slot.key)).count();
        let cooling = self.cooling.saturating_sub(u32::try_from(taken_back).unwrap_or(u32::MAX));
        let Self { held, asked, quota, .. } = *self;
        if held.saturating_add(asked).saturating_add(cooling) > quota.saturating_mul(2) {
            return Err(Refusal::TooManyReleased { held, cooling, quota });
        }
        Ok(())
    }
}
