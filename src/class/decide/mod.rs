//! The decision for one class, from data alone.

#[cfg(test)]
pub(super) mod once;
mod records;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use sharedlb_crds::{LoadBalancerStatus, SharedLBClassSpec, SharedLBClassStatus};
use sharedlb_providers::{Address, Capacity};

pub(super) use self::records::AbandonedSlot;
use self::records::{Records, is_closed};
use self::status::class_status;
pub(super) use self::status::unreadable_status;
use super::count::CountedRequest;
use crate::allocation::{
    Assignment, ClaimRequest, Held, HeldSlot, LoadBalancerState, Occupancy, Policy, Released, Room, Usage, assign, same,
};
use crate::api::claim::ClaimObject;
use crate::api::class::{ClassObject, adopts};
use crate::class::render::{Unallocated, released_key};
use crate::kubernetes::ObjectKey;
use crate::kubernetes::conditions::whole_seconds;
use crate::load_balancer::desired::Planned;
use crate::load_balancer::outcome::Outcome;

/// The input of a decision.
pub(super) struct Facts<'a> {
    pub(super) class: &'a ClassObject,
    pub(super) spec: &'a SharedLBClassSpec,
    pub(super) policy: Arc<Policy>,
    /// Why the class gives no new ports
    pub(super) suspended: Option<Unallocated>,
    /// The load balancers that have LB loops, if no others may be created
    pub(super) confined_to: Option<BTreeSet<u32>>,
    /// The claims of the class, the older first
    pub(super) claims: Vec<&'a Arc<ClaimObject>>,
    /// Their requests with the current targets of their ports; `None`: the provider has no
    /// limit of targets
    pub(super) counted: Option<Vec<CountedRequest>>,
    /// Targets that a listener which is being closed may have
    pub(super) targets_closing: u32,
    pub(super) outcomes: &'a BTreeMap<u32, Outcome>,
    /// The slots of claims that are gone since the last decision
    pub(super) abandoned: &'a [AbandonedSlot],
    pub(super) now: Timestamp,
}

impl Facts<'_> {
    /// The request of the nth claim.
    fn request(&self, n: usize) -> &ClaimRequest {
        self.counted.as_ref().map_or(&self.claims[n].request, |counted| &counted[n].request)
    }

    /// Whether it is known whether what the nth claim asks for fits where it is.
    fn is_known(&self, n: usize) -> bool {
        self.counted.as_ref().is_none_or(|counted| counted[n].known)
    }
}

/// A decision.
pub(super) struct Decision {
    /// The assignment of each claim, in the order of [`Facts::claims`]; `None` for those that
    /// are being deleted, and those whose status can't be parsed
    pub(super) assignments: Vec<Option<Assignment>>,
    /// The slots of each load balancer; `None`: it is deleted
    pub(super) plans: BTreeMap<u32, Option<Vec<Planned>>>,
    /// Claims whose status can't be parsed: their listeners stay as they are
    pub(super) untouched: BTreeSet<ObjectKey>,
    /// Released slots that are not recorded yet: they must be in the class' status before any
    /// claim's slots or finalizer are removed
    pub(super) releases: usize,
    /// Whether slots are assigned on a load balancer that the class' status does not list yet.
    /// It must be listed before the status of any claim names it: otherwise such a slot would
    /// be taken for invalid once the class is narrowed.
    pub(super) begins: bool,
    pub(super) status: SharedLBClassStatus,
    /// When the next decision is due even without an event
    pub(super) due: Option<Timestamp>,
    /// How much of the class is used
    pub(super) usage: Usage,
    /// The usage of each load balancer
    used: BTreeMap<u32, Room>,
}

impl Decision {
    /// Whether the class' status must be written before any claim's.
    pub(super) fn class_first(&self) -> bool {
        self.releases > 0 || self.begins
    }
}

/// Decides for one class. Also returns the occupancy after the decision. Pure.
pub(super) fn decide(facts: &Facts<'_>) -> (Decision, Occupancy) {
    let before = facts.class.status.clone().unwrap_or_default();
    let mut records = Records::new(&before, facts);
    facts.claims.iter().filter(|claim| claim.meta.deleting).for_each(|claim| records.release_all(claim));
    let untouched = facts.claims.iter().filter(|claim| claim.unparsable && !claim.meta.deleting);
    let untouched: BTreeSet<ObjectKey> = untouched.map(|claim| claim.meta.key.clone()).collect();
    records.release_orphans(facts, &untouched);
    records.release_abandoned(facts);

    let takes_part = |claim: &ClaimObject| !claim.meta.deleting && !claim.unparsable;
    let live = facts.claims.iter().enumerate().filter(|(_, claim)| takes_part(claim));
    let live: Vec<&ClaimRequest> = live.map(|(n, _)| facts.request(n)).collect();
    let states = Arc::new(states(&before, &records, facts));
    let (given, occupancy) = assign(&live, &states, &facts.policy);
    let mut given = given.into_iter();
    let assignments: Vec<Option<Assignment>> =
        facts.claims.iter().map(|claim| if takes_part(claim) { given.next() } else { None }).collect();
    for (claim, got) in facts.claims.iter().zip(&assignments) {
        let Some(got) = got else { continue };
        let index = claim.request.held.as_ref().map(|held| held.index);
        got.dropped.iter().for_each(|&key| records.release(index.unwrap_or(0), key, &claim.meta.key));
        got.granted.iter().for_each(|granted| records.take_back(granted, claim));
    }
    let due = records.expire(facts, &assignments);

    let mut decision = Decision {
        plans: BTreeMap::new(),
        untouched,
        releases: records.new,
        begins: false,
        status: SharedLBClassStatus::default(),
        due,
        usage: occupancy.usage(),
        used: BTreeMap::new(),
        assignments,
    };
    let empty_since = plan(&mut decision, &before, &records, facts);
    decision.begins = decision.used.keys().any(|&index| is_begun(facts, index));
    decision.status = class_status(&decision, before, records, empty_since, facts);
    (decision, occupancy)
}

/// Whether this is on a load balancer that the class' status does not list yet.
pub(super) fn begins(facts: &Facts<'_>, got: &Assignment) -> bool {
    got.granted.as_ref().is_some_and(|granted| is_begun(facts, granted.index))
}

/// Whether an assignment is the first one on its load balancer.
fn is_begun(facts: &Facts<'_>, index: u32) -> bool {
    let listed = facts.class.status.iter().flat_map(|status| &status.load_balancers);
    index >= facts.spec.load_balancers.min && !listed.into_iter().any(|lb| lb.index == index)
}

/// The load balancers as `assign` sees them if nothing is given back that is not
/// recorded.
pub(super) fn states_as_recorded(facts: &Facts<'_>) -> BTreeMap<u32, LoadBalancerState> {
    let before = facts.class.status.clone().unwrap_or_default();
    states(&before, &Records::new(&before, facts), facts)
}

/// The load balancers as `assign` sees them. What their LB loops have not reported
/// yet is taken from the class' status.
fn states(before: &SharedLBClassStatus, records: &Records, facts: &Facts<'_>) -> BTreeMap<u32, LoadBalancerState> {
    let listed = before.load_balancers.iter().map(|lb| lb.index);
    let always = 0..facts.spec.load_balancers.min.min(facts.policy.max);
    let indices: BTreeSet<u32> =
        listed.chain(always).chain(facts.outcomes.keys().copied()).chain(records.released.keys().copied()).collect();
    let state = |index: u32| {
        let outcome = facts.outcomes.get(&index).filter(|outcome| outcome.exists.is_some());
        let listed = before.load_balancers.iter().find(|lb| lb.index == index);
        let released = records.released.get(&index).into_iter().flatten().filter_map(|entry| {
            let (namespace, name) = entry.claim.split_once('/')?;
            let key = released_key(entry);
            let claim = ObjectKey { namespace: namespace.into(), name: name.into() };
            Some(Released { key, claim, open: !is_closed(facts, index, key), targets: facts.targets_closing })
        });
        LoadBalancerState {
            addresses: match outcome {
                Some(outcome) => outcome.addresses.to_vec(),
                None => listed.into_iter().flat_map(LoadBalancerStatus::all_addresses).map(Address::parse).collect(),
            },
            capacity: match outcome {
                Some(outcome) => outcome.capacity,
                None => Capacity { listeners: None, targets: targets_listed(listed) },
            },
            foreign: match outcome {
                Some(outcome) => outcome.foreign.clone(),
                None => listed.iter().flat_map(|lb| &lb.foreign_ports).filter_map(|port| port.parse().ok()).collect(),
            },
            no_room: outcome.map(Outcome::no_room).unwrap_or_default(),
            released: released.collect(),
            unusable: facts.outcomes.get(&index).is_some_and(Outcome::is_unusable),
            // Its foreign ports are not known before it was observed.
            unobserved: outcome.is_none() && adopts(facts.spec),
        }
    };
    indices.into_iter().map(|index| (index, state(index))).collect()
}

fn targets_listed(listed: Option<&LoadBalancerStatus>) -> Option<u32> {
    listed?.capacity.as_ref()?.targets
}

/// Plans every load balancer: the slots that are confirmed in the API, under our
/// finalizer. What may have to move on, since its targets are not known yet, is not
/// opened before; what would serve clients that its claim excludes is not open. Returns since
/// when each that holds nothing has held nothing.
fn plan(
    decision: &mut Decision,
    before: &SharedLBClassStatus,
    records: &Records,
    facts: &Facts<'_>,
) -> BTreeMap<u32, Timestamp> {
    let mut planned: BTreeMap<u32, Vec<Planned>> = BTreeMap::new();
    let mut used: BTreeMap<u32, Room> = BTreeMap::new();
    // One that a claim's status still names under our finalizer is not empty yet.
    let mut named: BTreeSet<u32> = BTreeSet::new();
    for (n, (claim, got)) in facts.claims.iter().zip(&decision.assignments).enumerate() {
        named.extend(claim.request.held.as_ref().filter(|_| claim.has_finalizer).map(|held| held.index));
        let Some(granted) = got.as_ref().and_then(|got| got.granted.as_ref()) else { continue };
        let used = used.entry(granted.index).or_default();
        *used = *used + room_of(granted, facts.request(n), &facts.policy);
        let Some(confirmed) = claim.request.held.as_ref().filter(|confirmed| confirmed.index == granted.index) else {
            continue;
        };
        if claim.has_finalizer && !claim.request.must_stay_closed(&facts.policy.lacking) {
            let known = facts.is_known(n);
            let slots = if known && same(&confirmed.slots, &granted.slots) {
                granted.slots.clone()
            } else {
                // What an older claim holds is not this one's, whatever succeeds it.
                let is_lost = |key| got.as_ref().is_some_and(|got| got.lost.contains(&key));
                let stays = |slot: &HeldSlot| (known || slot.opened) && !is_lost(slot.key);
                confirmed_slots(confirmed, granted).filter(stays).collect()
            };
            planned.entry(granted.index).or_default().push(Planned::of(claim, slots));
        }
    }
    let limits = &facts.spec.load_balancers;
    let always = if facts.class.meta.deleting { 0 } else { limits.min.min(facts.policy.max) };
    let known = before.load_balancers.iter().map(|lb| lb.index).chain(facts.outcomes.keys().copied());
    // One that was never listed may exist all the same, if something of it is given back.
    let recorded = records.released.iter().filter(|(_, entries)| !entries.is_empty()).map(|(&index, _)| index);
    let may_exist = |index: &u32| facts.confined_to.as_ref().is_none_or(|running| running.contains(index));
    let standing = (0..always).filter(may_exist);
    let indices: BTreeSet<u32> = known.chain(standing).chain(used.keys().copied()).chain(recorded).collect();
    let delay = if facts.class.meta.deleting { 0 } else { limits.empty_delay_seconds };
    let mut empty_since = BTreeMap::new();
    for index in indices {
        let listed = before.load_balancers.iter().find(|lb| lb.index == index);
        let empty = !used.contains_key(&index) && !named.contains(&index);
        let gone = facts.outcomes.get(&index).is_some_and(Outcome::is_gone);
        if empty && index >= always {
            let since =
                listed.and_then(|lb| lb.empty_since.as_ref()).map_or_else(|| whole_seconds(facts.now), |time| time.0);
            let until = since.saturating_add(SignedDuration::from_secs(delay.into())).unwrap_or(Timestamp::MAX);
            if until <= facts.now {
                if !gone {
                    decision.plans.insert(index, None);
                    empty_since.insert(index, since);
                }
                continue;
            }
            empty_since.insert(index, since);
            decision.due = Some(decision.due.map_or(until, |due| due.min(until)));
        }
        decision.plans.insert(index, Some(planned.remove(&index).unwrap_or_default()));
    }
    decision.used = used;
    empty_since
}

/// The slots that the API has, as far as they stay, under the names that the spec
/// has for them now: a name is only a name. One that has a successor which the API
/// does not have yet stays until it has, so that nothing closes in between.
fn confirmed_slots<'a>(confirmed: &'a Held, granted: &'a Held) -> impl Iterator<Item = HeldSlot> + 'a {
    let is_new = |new: &HeldSlot| confirmed.slots.iter().all(|slot| slot.key != new.key);
    confirmed.slots.iter().filter_map(move |old| {
        let same = granted.slots.iter().find(|slot| slot.key == old.key);
        let successor = || granted.slots.iter().find(|new| new.key.overlaps(old.key) && is_new(new));
        Some(HeldSlot { key: old.key, ..same.or_else(successor)?.clone() })
    })
}

/// What the slots of a claim take up.
fn room_of(granted: &Held, request: &ClaimRequest, policy: &Policy) -> Room {
    let targets = |name: &Arc<str>| {
        let port = request.ports.iter().filter(|_| policy.targets.is_some()).find(|port| same(&port.name, name));
        port.map_or(0, |port| port.targets)
    };
    granted.slots.iter().map(|slot| policy.room_for(slot.key.protocol, targets(&slot.name))).sum()
}
