//! The claims of one class, each with its writes in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use crate::allocation::Assignment;
use crate::api::claim::ClaimObject;
use crate::class::render::Verdict;
use crate::kubernetes::ObjectKey;
use crate::kubernetes::writes::Writes;

/// A claim, and its writes in flight.
pub(super) struct ClaimState {
    pub(super) claim: Arc<ClaimObject>,
    /// The verdict in its status, if the status is known to be up to date
    pub(super) rendered: Option<Verdict>,
    /// Writes to the claim itself: one at a time
    pub(super) writes: Writes,
    /// Writes to its companion Service: one at a time
    pub(super) service_writes: Writes,
    /// Whether its companion Service is known to be up to date
    pub(super) service_is_fine: bool,
    /// Why its companion Service could not be written
    pub(super) companion_error: Option<String>,
}

impl ClaimState {
    fn new(claim: Arc<ClaimObject>) -> Self {
        Self {
            claim,
            rendered: None,
            writes: Writes::default(),
            service_writes: Writes::default(),
            service_is_fine: false,
            companion_error: None,
        }
    }

    /// Whether a claim with this assignment needs no write.
    pub(super) fn is_settled(&self, got: Option<&Assignment>) -> bool {
        let stands = |got: &Assignment| {
            let rendered = self.rendered.as_ref().is_some_and(|rendered| rendered.stands(got));
            rendered && got.dropped.is_empty() && got.lost.is_empty()
        };
        let ClaimObject { meta, has_finalizer, .. } = &*self.claim;
        !meta.deleting && *has_finalizer && self.service_is_fine && got.is_some_and(stands)
    }

    /// The next time at which a write that failed may be repeated.
    pub(super) fn held_until(&self, now: Instant) -> Option<Instant> {
        self.writes.held_until(now).into_iter().chain(self.service_writes.held_until(now)).min()
    }
}

/// The claims of one class.
#[derive(Default)]
pub(super) struct Claims {
    /// Boxed, since half of the room in the map is free where claims come one after another
    states: BTreeMap<(i64, ObjectKey), Box<ClaimState>>,
    /// Those of which not even the slots can be parsed
    unparsable: BTreeSet<(i64, ObjectKey)>,
}

fn seniority(claim: &ClaimObject) -> (i64, ObjectKey) {
    (claim.request.created, claim.meta.key.clone())
}

impl Claims {
    /// All of them, the older first.
    pub(super) fn all(&self) -> impl Iterator<Item = &ClaimState> + Clone {
        self.states.values().map(|state| &**state)
    }

    /// All of them, the older first.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut ClaimState> {
        self.states.values_mut().map(|state| &mut **state)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The state of this claim.
    pub(super) fn get(&self, claim: &ClaimObject) -> Option<&ClaimState> {
        self.states.get(&seniority(claim)).map(|state| &**state)
    }

    /// The state of this claim.
    pub(super) fn get_mut(&mut self, claim: &ClaimObject) -> Option<&mut ClaimState> {
        self.states.get_mut(&seniority(claim)).map(|state| &mut **state)
    }

    /// Removes a claim.
    pub(super) fn remove(&mut self, claim: &ClaimObject) -> Option<ClaimState> {
        self.take(&seniority(claim))
    }

    fn take(&mut self, key: &(i64, ObjectKey)) -> Option<ClaimState> {
        self.unparsable.remove(key);
        self.states.remove(key).map(|state| *state)
    }

    /// The oldest one of which not even the slots can be parsed.
    pub(super) fn first_unparsable(&self) -> Option<&ObjectKey> {
        self.unparsable.first().map(|(_, key)| key)
    }

    /// Inserts the current version of a claim, with its writes in flight.
    pub(super) fn insert(&mut self, state: Option<ClaimState>, claim: Arc<ClaimObject>) {
        let mut state = state.unwrap_or_else(|| ClaimState::new(claim.clone()));
        if state.claim.meta.generation != claim.meta.generation {
            // After an edit, a write that failed may succeed.
            state.writes.try_again();
            state.service_writes.try_again();
            state.companion_error = None;
            state.service_is_fine = false;
        }
        // The companion Service has a port for each slot.
        state.service_is_fine &= state.claim.request.held == claim.request.held;
        state.rendered = None;
        state.claim = claim;
        self.put(state);
    }

    /// Inserts a claim with its state.
    pub(super) fn put(&mut self, state: ClaimState) {
        let key = seniority(&state.claim);
        if state.claim.unparsable {
            self.unparsable.insert(key.clone());
        }
        self.states.insert(key, Box::new(state));
    }

    /// Removes the claims that name no class.
    pub(super) fn take_unnamed(&mut self) -> Vec<ClaimState> {
        let unnamed: Vec<_> = self
            .states
            .iter()
            .filter(|(_, state)| state.claim.named_class().is_none())
            .map(|(key, _)| key.clone())
            .collect();
        unnamed.iter().filter_map(|key| self.take(key)).collect()
    }
}

/// Whether an assignment differs from the slots in the claim's status.
pub(super) fn changes_slots(claim: &ClaimObject, got: &Assignment) -> bool {
    match (&claim.request.held, &got.granted) {
        (Some(held), Some(granted)) => held != granted && !held.has_slots_of(granted),
        (held, granted) => held.is_some() != granted.is_some(),
    }
}
