//! The claims of one class, the elder first, each with what is under way for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::assign::ClaimId;
use crate::claim::ClaimObject;
use crate::render::Verdict;

/// The first wait after a failed write. It doubles with each further one.
const HOLD_MIN: Duration = Duration::from_millis(500);
/// The longest.
const HOLD_MAX: Duration = Duration::from_secs(30);

/// A claim, and what is under way for it.
pub(super) struct Entry {
    pub(super) claim: Arc<ClaimObject>,
    /// The verdict that its status says, if it is known to say so
    pub(super) rendered: Option<Verdict>,
    /// Whether a write to it is under way: it is left alone until that is done
    pub(super) writing: bool,
    /// Whether a write to its Service is under way
    pub(super) writing_service: bool,
    /// Why its Service could not be written
    pub(super) service_trouble: Option<String>,
    hold: Option<Hold>,
}

/// After a failed write: until when the claim is left alone.
struct Hold {
    until: Instant,
    times: u32,
}

impl Entry {
    fn new(claim: Arc<ClaimObject>) -> Self {
        Self { claim, rendered: None, writing: false, writing_service: false, service_trouble: None, hold: None }
    }

    /// Whether something may be written to the claim now.
    pub(super) fn is_free(&self) -> bool {
        !self.writing && self.held_until().is_none()
    }

    /// Until when it is left alone.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.hold.as_ref().map(|hold| hold.until).filter(|until| *until > Instant::now())
    }

    /// Leaves it alone for a while, longer each time. Returns until when.
    pub(super) fn hold(&mut self) -> Instant {
        let times = self.hold.as_ref().map_or(0, |hold| hold.times);
        let until = Instant::now() + HOLD_MIN.saturating_mul(1 << times.min(16)).min(HOLD_MAX);
        self.hold = Some(Hold { until, times: times + 1 });
        until
    }

    /// A write went well.
    pub(super) fn release(&mut self) {
        self.hold = None;
    }
}

/// The claims of one class.
#[derive(Default)]
pub(super) struct Group(BTreeMap<(i64, ClaimId), Entry>);

fn seniority(claim: &ClaimObject) -> (i64, ClaimId) {
    (claim.request.created, claim.meta.key.clone())
}

impl Group {
    /// All of them, the elder first.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.values()
    }

    /// All of them, the elder first.
    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0.values_mut()
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
            entry.release();
            entry.service_trouble = None;
        }
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
