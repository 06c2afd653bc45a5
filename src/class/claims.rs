//! The claims of one class, each with its writes in flight.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::api::claim::ClaimObject;
use crate::class::render::Verdict;
use crate::kubernetes::ObjectKey;
use crate::kubernetes::writes::Writes;

/// A claim, and its writes in flight.
pub(super) struct ClaimState {
    pub(super) claim: Arc<ClaimObject>,
    /// The verdict that its status has, if the status is known to be up to date
    pub(super) rendered: Option<Verdict>,
    /// Writes to the claim itself: one at a time
    pub(super) writes: Writes,
    /// Writes to its Service: one at a time
    pub(super) service_writes: Writes,
    /// Whether its companion Service is known to be up to date
    pub(super) service_is_fine: bool,
    /// Why its companion Service could not be written
    pub(super) service_trouble: Option<String>,
}

impl ClaimState {
    fn new(claim: Arc<ClaimObject>) -> Self {
        Self {
            claim,
            rendered: None,
            writes: Writes::default(),
            service_writes: Writes::default(),
            service_is_fine: false,
            service_trouble: None,
        }
    }

    /// The next time at which something that is held up may be written.
    pub(super) fn held_until(&self, now: Instant) -> Option<Instant> {
        self.writes.held_until(now).into_iter().chain(self.service_writes.held_until(now)).min()
    }
}

/// The claims of one class.
#[derive(Default)]
pub(super) struct Claims(BTreeMap<(i64, ObjectKey), ClaimState>);

fn seniority(claim: &ClaimObject) -> (i64, ObjectKey) {
    (claim.request.created, claim.meta.key.clone())
}

impl Claims {
    /// All of them, the older first.
    pub(super) fn all(&self) -> impl Iterator<Item = &ClaimState> + Clone {
        self.0.values()
    }

    /// All of them, the older first.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut ClaimState> {
        self.0.values_mut()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The state of this claim.
    pub(super) fn get(&self, claim: &ClaimObject) -> Option<&ClaimState> {
        self.0.get(&seniority(claim))
    }

    /// The state of this claim.
    pub(super) fn get_mut(&mut self, claim: &ClaimObject) -> Option<&mut ClaimState> {
        self.0.get_mut(&seniority(claim))
    }

    /// Takes a claim out.
    pub(super) fn remove(&mut self, claim: &ClaimObject) -> Option<ClaimState> {
        self.0.remove(&seniority(claim))
    }

    /// Puts a claim in as it is now, with its writes in flight.
    pub(super) fn insert(&mut self, state: Option<ClaimState>, claim: Arc<ClaimObject>) {
        let mut state = state.unwrap_or_else(|| ClaimState::new(claim.clone()));
        if state.claim.meta.generation != claim.meta.generation {
            // It was edited: what failed before may work now.
            state.writes.try_again();
            state.service_writes.try_again();
            state.service_trouble = None;
            state.service_is_fine = false;
        }
        // The Service has a port for each slot.
        state.service_is_fine &= state.claim.request.held == claim.request.held;
        state.rendered = None;
        state.claim = claim;
        self.put(state);
    }

    /// Puts a claim in with its state.
    pub(super) fn put(&mut self, state: ClaimState) {
        self.0.insert(seniority(&state.claim), state);
    }

    /// Takes out the claims that name no class.
    pub(super) fn take_unnamed(&mut self) -> Vec<ClaimState> {
        let unnamed: Vec<_> = self
            .0
            .iter()
            .filter(|(_, state)| state.claim.named_class().is_none())
            .map(|(key, _)| key.clone())
            .collect();
        unnamed.iter().filter_map(|key| self.0.remove(key)).collect()
    }
}
