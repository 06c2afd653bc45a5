//! The record of released slots: a release is recorded before its slot goes, and stays until
//! the port is closed and its cool-down is over.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sharedlb_crds::{ReleasedPort, SharedLBClassStatus};
use sharedlb_providers::ListenerKey;

use super::Facts;
use crate::allocation::{Assignment, Held};
use crate::api::claim::claim_key;
use crate::api::claim::{ClaimObject, api_protocol};
use crate::class::render::released_key;
use crate::kubernetes::ObjectKey;
use crate::kubernetes::conditions::whole_seconds;

/// The most ports of one class that cool down. Beyond it, the cool-down of some closed ports
/// ends, so that tenants can't make the class' status outgrow etcd's limit (1.5 MiB for a
/// request; an entry is about 120 bytes).
pub(super) const COOLING_MAX: usize = 2000;

/// A slot of a claim that was deleted, or lost our finalizer while being deleted.
pub(in crate::class) struct AbandonedSlot {
    index: u32,
    key: ListenerKey,
    claim: ObjectKey,
}

impl AbandonedSlot {
    /// The slots of this claim.
    pub(in crate::class) fn of(claim: &ClaimObject) -> impl Iterator<Item = Self> {
        let held = claim.request.held.iter();
        let slots = held.flat_map(|held| held.slots.iter().map(|slot| (held.index, slot.key)));
        slots.map(|(index, key)| Self { index, key, claim: claim.meta.key.clone() })
    }
}

/// The record of released slots, by load balancer.
pub(super) struct Records {
    pub(super) released: BTreeMap<u32, Vec<ReleasedPort>>,
    /// How many were added in this decision
    pub(super) new: usize,
    /// Those that name a claim which gives its slot back now
    current: HashSet<(u32, ListenerKey)>,
    now: Timestamp,
}

impl Records {
    pub(super) fn new(before: &SharedLBClassStatus, facts: &Facts<'_>) -> Self {
        let released = before.load_balancers.iter().map(|lb| (lb.index, lb.released.clone())).collect();
        Self { released, new: 0, current: HashSet::new(), now: facts.now }
    }

    pub(super) fn release_all(&mut self, claim: &ClaimObject) {
        if let Some(held) = claim.request.held.as_ref().filter(|_| claim.has_finalizer) {
            held.slots.iter().for_each(|slot| self.release(held.index, slot.key, &claim.meta.key));
        }
    }

    /// Records that a claim releases a slot. An earlier release of it by another claim ends:
    /// otherwise that claim could get the slot at once.
    pub(super) fn release(&mut self, index: u32, key: ListenerKey, claim: &ObjectKey) {
        let is_first = self.current.insert((index, key));
        let entries = self.released.entry(index).or_default();
        let claim = claim.to_string();
        let known = entries.iter().position(|entry| released_key(entry) == key);
        if known.is_some_and(|known| !is_first || entries[known].claim == claim) {
            return;
        }
        known.map(|known| entries.remove(known));
        let (protocol, time) = (api_protocol(key.protocol), Some(Time(rounded_up(self.now))));
        entries.push(ReleasedPort { port: key.port, protocol, claim, time });
        self.new += 1;
    }

    /// Records a listener of ours that is neither held nor recorded: its claim was deleted
    /// without our finalizer while no controller ran, or the class' status was wiped.
    pub(super) fn release_orphans(&mut self, facts: &Facts<'_>, untouched: &BTreeSet<ObjectKey>) {
        let mut held: Option<HashSet<(u32, ListenerKey)>> = None;
        for (&index, outcome) in facts.outcomes {
            for (&key, listener) in &*outcome.listeners {
                if !outcome.is_orphan(key, listener) || self.is_released(index, key) {
                    continue;
                }
                let held = held.get_or_insert_with(|| {
                    let all = facts.claims.iter().filter_map(|claim| claim.request.held.as_ref());
                    all.flat_map(|held| held.slots.iter().map(|slot| (held.index, slot.key))).collect()
                });
                let claim = claim_key(&listener.owner);
                if !held.contains(&(index, key)) && !untouched.contains(&claim) {
                    self.release(index, key, &claim);
                }
            }
        }
    }

    /// Records the slots of claims that are gone, unless they are recorded already: if our
    /// finalizer was removed by hand, their listeners may be open without any other record.
    pub(super) fn release_abandoned(&mut self, facts: &Facts<'_>) {
        for AbandonedSlot { index, key, claim } in facts.abandoned {
            let holds = |other: &&Arc<ClaimObject>| {
                let held = other.request.held.as_ref().filter(|held| held.index == *index && !other.is_released());
                held.is_some_and(|held| held.slots.iter().any(|slot| slot.key == *key))
            };
            if !self.is_released(*index, *key) && !facts.claims.iter().any(holds) {
                self.release(*index, *key, claim);
            }
        }
    }

    fn is_released(&self, index: u32, key: ListenerKey) -> bool {
        self.released.get(&index).is_some_and(|entries| entries.iter().any(|entry| released_key(entry) == key))
    }

    /// Ends the release of slots that a claim holds again, by its status.
    pub(super) fn take_back(&mut self, granted: &Held, claim: &ClaimObject) {
        if let Some(entries) = self.released.get_mut(&granted.index).filter(|entries| !entries.is_empty()) {
            let id = claim.meta.key.to_string();
            let confirmed = claim.request.held.iter().filter(|held| held.index == granted.index);
            let keys: Vec<ListenerKey> = confirmed
                .flat_map(|held| held.slots.iter())
                .filter(|slot| granted.slots.iter().any(|granted| granted.key == slot.key))
                .map(|slot| slot.key)
                .collect();
            entries.retain(|entry| entry.claim != id || !keys.contains(&released_key(entry)));
        }
    }

    /// Removes the records of closed ports whose cool-down is over. Returns when the next
    /// cool-down ends.
    pub(super) fn expire(&mut self, facts: &Facts<'_>, assignments: &[Option<Assignment>]) -> Option<Timestamp> {
        let delay = SignedDuration::from_secs(facts.spec.reclaim_delay_seconds.into());
        // A slot that is still in its claim's status has not gone yet. A released claim
        // has none, however long a foreign finalizer keeps it.
        let drops = |got: &Option<Assignment>| got.as_ref().is_some_and(|got| !got.dropped.is_empty());
        let claims = facts.claims.iter().zip(assignments);
        let going: BTreeSet<String> = claims
            .filter(|(claim, got)| (claim.meta.deleting && !claim.is_released()) || drops(got))
            .map(|(claim, _)| claim.meta.key.to_string())
            .collect();
        let cools_until = |entry: &ReleasedPort| {
            if delay.is_zero() {
                return facts.now;
            }
            entry.time.as_ref().map_or(facts.now, |time| time.0.saturating_add(delay).unwrap_or(Timestamp::MAX))
        };
        let (mut due, mut cooling) = (None, Vec::new());
        for (&index, entries) in &mut self.released {
            entries.retain(|entry| {
                let closed = is_closed(facts, index, released_key(entry)) && !going.contains(&entry.claim);
                let until = cools_until(entry);
                if closed && until > facts.now {
                    due = Some(due.map_or(until, |due: Timestamp| due.min(until)));
                    cooling.push((until, index, released_key(entry), namespace(entry)));
                }
                !closed || until > facts.now
            });
        }
        let surplus = surplus(cooling);
        for (index, entries) in self.released.iter_mut().filter(|_| !surplus.is_empty()) {
            entries.retain(|entry| !surplus.contains(&(*index, released_key(entry))));
        }
        due
    }
}

/// The API keeps times in whole seconds, and a cool-down must not be shorter than its delay.
fn rounded_up(time: Timestamp) -> Timestamp {
    let whole = whole_seconds(time);
    if whole < time { whole.saturating_add(SignedDuration::from_secs(1)).unwrap_or(whole) } else { whole }
}

fn namespace(entry: &ReleasedPort) -> String {
    entry.claim.split_once('/').map(|(namespace, _)| namespace.to_owned()).unwrap_or_default()
}

/// Those of these ports that are beyond [`COOLING_MAX`], each with the end of its cool-down and
/// the namespace that released it: the oldest of the namespaces that have the most, so that no
/// tenant ends the cool-down of another tenant's ports by its own.
fn surplus(mut cooling: Vec<(Timestamp, u32, ListenerKey, String)>) -> BTreeSet<(u32, ListenerKey)> {
    let Some(surplus) = cooling.len().checked_sub(COOLING_MAX) else { return BTreeSet::new() };
    cooling.sort_unstable_by(|a, b| b.cmp(a));
    let mut newer: BTreeMap<String, usize> = BTreeMap::new();
    let mut ranked: Vec<_> = cooling
        .into_iter()
        .map(|(until, index, key, namespace)| {
            let rank = newer.entry(namespace).or_default();
            *rank += 1;
            (std::cmp::Reverse(*rank), until, index, key)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().take(surplus).map(|(.., index, key)| (index, key)).collect()
}

pub(super) fn is_closed(facts: &Facts<'_>, index: u32, key: ListenerKey) -> bool {
    facts.outcomes.get(&index).is_some_and(|outcome| outcome.is_closed(key))
}
