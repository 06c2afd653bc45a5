//! The claims of one class, the older first, each with what is under way for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::api::claim::ClaimObject;
use crate::class::render::Verdict;
use crate::kubernetes::ObjectKey;
use crate::kubernetes::writes::Writes;

/// A claim, and what is under way for it.
pub(super) struct Entry {
    pub(super) claim: Arc<ClaimObject>,
    /// The verdict that its status says, if it is known to say so
    pub(super) rendered: Option<Verdict>,
    /// Writes to the claim itself: one at a time
    pub(super) writes: Writes,
    /// Writes to its Service: one at a time
    pub(super) service_writes: Writes,
    /// Whether its Service is known to be as it should be
    pub(super) service_is_fine: bool,
    /// Why its Service could not be written
    pub(super) service_trouble: Option<String>,
}

impl Entry {
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
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.writes.held_until().into_iter().chain(self.service_writes.held_until()).min()
    }
}

/// The claims of one class.
#[derive(Default)]
pub(super) struct Group(BTreeMap<(i64, ObjectKey), Entry>);

fn seniority(claim: &ClaimObject) -> (i64, ObjectKey) {
    (claim.request.created, claim.meta.key.clone())
}

impl Group {
    /// All of them, the older first.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> + Clone {
        self.0.values()
    }

    /// All of them, the older first.
    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0.values_mut()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The entry of this claim.
    pub(super) fn get_mut(&mut self, claim: &ClaimObject) -> Option<&mut Entry> {
        self.0.get_mut(&seniority(claim))
    }

    /// Takes a claim out.
    pub(super) fn remove(&mut self, claim: &ClaimObject) -> Option<Entry> {
        self.0.remove(&seniority(claim))
    }

    /// Puts a claim in as it is now, with what is under way for it.
    pub(super) fn insert(&mut self, entry: Option<Entry>, claim: Arc<ClaimObject>) {
        let mut entry = entry.unwrap_or_else(|| Entry::new(claim.clone()));
        if entry.claim.meta.generation != claim.meta.generation {
            // It was edited: what failed before may work now.
            entry.writes.try_again();
            entry.service_writes.try_again();
            entry.service_trouble = None;
            entry.service_is_fine = false;
        }
        // The Service has a port for each slot.
        entry.service_is_fine &= entry.claim.request.held == claim.request.held;
        entry.rendered = None;
        entry.claim = claim;
        self.put(entry);
    }

    /// Puts an entry in.
    pub(super) fn put(&mut self, entry: Entry) {
        self.0.insert(seniority(&entry.claim), entry);
    }

    /// Takes out the claims that name no class.
    pub(super) fn take_unnamed(&mut self) -> Vec<Entry> {
        let unnamed: Vec<_> = self
            .0
            .iter()
            .filter(|(_, entry)| entry.claim.named_class().is_none())
            .map(|(key, _)| key.clone())
            .collect();
        unnamed.iter().filter_map(|key| self.0.remove(key)).collect()
    }
}
