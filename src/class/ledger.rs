//! The ledger of a class, by which newcomers get ports without another decision. Pure.
//!
//! A decision reads every claim of its class. If nothing has changed since the last one,
//! except that its assignments were written and that there are new claims, each of these gets
//! what a decision would assign, from the occupancy alone. The ledger is dropped on any other
//! change.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::claims::changes_slots;
use super::decide::Decision;
use crate::allocation::{Assignment, ClaimRequest, Held, LoadBalancerState, Occupancy, Policy};
use crate::api::claim::ClaimObject;
use crate::kubernetes::ObjectKey;

/// The occupancy of a class, and the changes since the last decision.
pub(super) struct Ledger {
    occupancy: Occupancy,
    /// Assignments that the statuses of claims do not have yet
    pending: BTreeMap<ObjectKey, Held>,
    /// New claims that hold nothing, by age
    newcomers: BTreeMap<(i64, ObjectKey), Arc<ClaimObject>>,
    /// Claims that were removed from the class to be inserted again in their current version
    removed: BTreeSet<ObjectKey>,
    /// When newcomers were first admitted
    admits_since: Option<Instant>,
}

/// For how long newcomers are admitted before there is a decision: what was given to those
/// before them is opened by it.
const ADMITS_FOR: Duration = Duration::from_millis(100);

impl Ledger {
    /// The ledger after this decision on these claims. `None`: the next claim takes
    /// another decision, since slots are given back, a load balancer is begun, claims may
    /// have to move, or targets are counted, which change with every endpoint.
    pub(super) fn after(
        decision: &Decision,
        claims: &[&Arc<ClaimObject>],
        policy: &Policy,
        occupancy: Occupancy,
    ) -> Option<Self> {
        if decision.class_first() || policy.targets.is_some() || occupancy.may_move() {
            return None;
        }
        let mut pending = BTreeMap::new();
        for (claim, got) in claims.iter().zip(&decision.assignments) {
            let Some(got) = got else { continue };
            if !got.dropped.is_empty() || !got.lost.is_empty() {
                return None;
            }
            if changes_slots(claim, got) {
                pending.insert(claim.meta.key.clone(), got.granted.clone()?);
            }
        }
        Some(Self { occupancy, pending, newcomers: BTreeMap::new(), removed: BTreeSet::new(), admits_since: None })
    }

    /// Takes in that a claim was removed from the class.
    pub(super) fn remove(&mut self, claim: &ClaimObject) {
        self.removed.insert(claim.meta.key.clone());
    }

    /// Takes in that a claim is in the class, which was `before`. Returns whether the
    /// ledger is still true.
    #[must_use]
    pub(super) fn insert(&mut self, before: Option<&ClaimObject>, claim: &Arc<ClaimObject>) -> bool {
        let key = &claim.meta.key;
        let was_removed = self.removed.remove(key);
        let age = (claim.request.created, key.clone());
        if claim.meta.deleting || claim.unparsable {
            return false;
        }
        let Some(before) = before else {
            // A claim whose spec cannot be parsed requests nothing.
            let is_new = !was_removed && claim.request.held.is_none() && !claim.request.ports.is_empty();
            return is_new && self.newcomers.insert(age, claim.clone()).is_none();
        };
        if !was_removed {
            // It comes from another class.
            return false;
        }
        if let Some(newcomer) = self.newcomers.get_mut(&age) {
            newcomer.clone_from(claim);
            return claim.request.held.is_none() && !claim.request.ports.is_empty();
        }
        if !asks_alike(&before.request, &claim.request) || before.meta.deleting || before.unparsable {
            return false;
        }
        let held = claim.request.held.as_ref();
        if self.pending.get(key).is_some_and(|given| holds_alike(Some(given), held)) {
            self.pending.remove(key);
            return true;
        }
        holds_alike(before.request.held.as_ref(), held)
    }

    /// Whether a newcomer can be admitted, where the class has these load balancers and
    /// this policy now.
    pub(super) fn admits(
        &mut self,
        load_balancers: &BTreeMap<u32, LoadBalancerState>,
        policy: &Policy,
        now: Instant,
    ) -> bool {
        let is_settled = self.pending.is_empty() && self.removed.is_empty();
        let is_recent = now <= *self.admits_since.get_or_insert(now) + ADMITS_FOR;
        is_settled && is_recent && self.occupancy.is_of(load_balancers, policy)
    }

    /// Whether there are claims of which the decision did not know.
    pub(super) fn has_newcomers(&self) -> bool {
        !self.newcomers.is_empty()
    }

    /// The assignments of the newcomers, the older first. `None`: one is refused, which takes a
    /// decision, and the ledger is of no further use.
    pub(super) fn admit(&mut self) -> Option<Vec<(Arc<ClaimObject>, Option<Assignment>)>> {
        let newcomers: Vec<Arc<ClaimObject>> = std::mem::take(&mut self.newcomers).into_values().collect();
        // Requested numbers are assigned first.
        let asks = |claim: &ClaimObject| claim.request.ports.iter().any(|port| port.number.is_some());
        let (by_number, others): (Vec<_>, Vec<_>) = newcomers.into_iter().partition(|claim| asks(claim));
        let admit = |claim: Arc<ClaimObject>| {
            let got = self.occupancy.admit(&claim.request);
            let granted = got.granted.clone().filter(|_| got.refused.is_empty())?;
            self.pending.insert(claim.meta.key.clone(), granted);
            Some((claim, Some(got)))
        };
        by_number.into_iter().chain(others).map(admit).collect()
    }
}

/// Whether a claim requests the same.
fn asks_alike(before: &ClaimRequest, now: &ClaimRequest) -> bool {
    before.created == now.created
        && before.address == now.address
        && before.ports == now.ports
        && before.options == now.options
}

/// Whether a claim holds the same slots, which lead to the same targets. Whether they
/// were ever open matters only where claims may have to move.
fn holds_alike(before: Option<&Held>, now: Option<&Held>) -> bool {
    let targets = |held: &Held| held.slots.iter().map(|slot| slot.target.clone()).collect::<Vec<_>>();
    match (before, now) {
        (Some(before), Some(now)) => before == now || (before.has_slots_of(now) && targets(before) == targets(now)),
        (before, now) => before.is_none() && now.is_none(),
    }
}
