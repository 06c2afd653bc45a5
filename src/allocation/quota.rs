//! How many ports each namespace takes up: those that its claims hold, and those
//! that they gave back and that still rest.

use crate::kubernetes::ObjectKey;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sharedlb_providers::ListenerKey;

use super::{Claim, HeldSlot, Refusal, Released};

/// The ports of every namespace.
///
/// A port that rests is nobody's, and yet nobody else gets it. If it did not
/// count, whoever creates and deletes claims over and over could take up every
/// port of a class. If it counted like one that is held, a namespace that has
/// all its ports could not have one of them changed. So a namespace may have as
/// many resting besides as it may hold: twice its quota in all.
#[derive(Default)]
pub(super) struct Quotas {
    held: HashMap<Arc<str>, u32>,
    resting: HashMap<Arc<str>, u32>,
    resting_of_claim: BTreeMap<ObjectKey, BTreeSet<(u32, ListenerKey)>>,
}

/// What a claim would take up, before its ports are known.
pub(super) struct Ask {
    held: u32,
    resting: u32,
    asked: u32,
    quota: u32,
    /// What rests for this claim on the load balancer in question
    own: BTreeSet<ListenerKey>,
}

impl Quotas {
    /// A namespace holds so many ports more.
    pub(super) fn hold(&mut self, namespace: &Arc<str>, ports: u32) {
        let held = self.held.entry(namespace.clone()).or_default();
        *held = held.saturating_add(ports);
    }

    /// A namespace holds so many ports less.
    pub(super) fn let_go(&mut self, namespace: &Arc<str>, ports: u32) {
        let held = self.held.entry(namespace.clone()).or_default();
        *held = held.saturating_sub(ports);
    }

    /// A port rests. Told twice of one, it counts once.
    pub(super) fn rest(&mut self, index: u32, released: &Released) {
        if self.resting_of_claim.entry(released.claim.clone()).or_default().insert((index, released.key)) {
            *self.resting.entry(released.claim.namespace.clone()).or_default() += 1;
        }
    }

    /// Whether the claim's namespace may hold so many ports more, some of which
    /// may be such as rest for the claim.
    pub(super) fn ask(&self, index: u32, claim: &Claim, asked: u32, quota: u32) -> Result<Ask, Refusal> {
        let count = |counts: &HashMap<Arc<str>, u32>| counts.get(&claim.id.namespace).copied().unwrap_or(0);
        let own = self.resting_of_claim.get(&claim.id).into_iter().flatten();
        let ask = Ask {
            held: count(&self.held),
            resting: count(&self.resting),
            asked,
            quota,
            own: own.filter(|(on, _)| *on == index).map(|&(_, key)| key).collect(),
        };
        if ask.held.saturating_add(asked) > quota {
            return Err(Refusal::QuotaExceeded { held: ask.held, asked, quota });
        }
        Ok(ask)
    }

    /// The claim was given these slots.
    pub(super) fn give(&mut self, index: u32, claim: &Claim, slots: &[HeldSlot]) {
        self.hold(&claim.id.namespace, u32::try_from(slots.len()).unwrap_or(u32::MAX));
        let Some(own) = self.resting_of_claim.get_mut(&claim.id) else { return };
        let taken_back = slots.iter().filter(|slot| own.remove(&(index, slot.key))).count();
        if let Some(resting) = self.resting.get_mut(&claim.id.namespace) {
            *resting = resting.saturating_sub(u32::try_from(taken_back).unwrap_or(u32::MAX));
        }
    }
}

impl Ask {
    /// Whether there is room for these slots beside all that rests.
    pub(super) fn admits(&self, slots: &[HeldSlot]) -> Result<(), Refusal> {
        let taken_back = slots.iter().filter(|slot| self.own.contains(&slot.key)).count();
        let resting = self.resting.saturating_sub(u32::try_from(taken_back).unwrap_or(u32::MAX));
        let Self { held, asked, quota, .. } = *self;
        if held.saturating_add(asked).saturating_add(resting) > quota.saturating_mul(2) {
            return Err(Refusal::TooManyResting { held, resting, quota });
        }
        Ok(())
    }
}
