//! What is to be done for one class: decided in one go, from data alone.

mod records;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sharedlb_crds::{Capacity, ConditionType, LoadBalancerStatus, Reason, SharedLBClassSpec, SharedLBClassStatus};
use sharedlb_providers::Address;

use self::records::{Records, is_closed};
use crate::assign::{Assignment, Claim, ClaimId, LoadBalancerState, Policy, Released, assign, same};
use crate::claim::{ClaimObject, parse_address};
use crate::class::ClassObject;
use crate::desired::Planned;
use crate::outcome::Outcome;
use crate::render::{class_condition, parse_front_port, released_key, whole_seconds};

/// All that a decision is made of.
pub(super) struct Facts<'a> {
    pub(super) class: &'a ClassObject,
    pub(super) spec: &'a SharedLBClassSpec,
    pub(super) policy: Policy,
    /// Why nothing new is given, whatever is asked for
    pub(super) frozen: Option<(Option<Reason>, String)>,
    /// The claims of the class, the elder first
    pub(super) claims: Vec<&'a Arc<ClaimObject>>,
    pub(super) outcomes: &'a BTreeMap<u32, Outcome>,
    pub(super) now: Timestamp,
}

/// What is to be done.
pub(super) struct Decision {
    /// What each claim gets, in the order of [`Facts::claims`]; `None` for those
    /// that are being deleted, and those whose status can't be read
    pub(super) assignments: Vec<Option<Assignment>>,
    /// What each load balancer shall be: `None` means gone
    pub(super) plans: BTreeMap<u32, Option<Vec<Planned>>>,
    /// Claims whose status can't be read: their listeners stay as they are
    pub(super) untouched: BTreeSet<ClaimId>,
    /// Slots that are given back and not recorded yet: this must be in the class'
    /// status before any claim's slots or finalizer go
    pub(super) releases: usize,
    /// The class' status
    pub(super) status: SharedLBClassStatus,
    /// When something is due although nothing happens
    pub(super) due: Option<Timestamp>,
    /// Listeners that the slots of each load balancer take up
    listeners: BTreeMap<u32, u32>,
}

/// Decides for one class. Pure.
pub(super) fn decide(facts: &Facts<'_>) -> Decision {
    let before = facts.class.status.clone().unwrap_or_default();
    let mut records = Records::new(&before, facts);
    facts.claims.iter().filter(|claim| claim.meta.deleting).for_each(|claim| records.release_all(claim));
    let untouched = facts.claims.iter().filter(|claim| claim.illegible && !claim.meta.deleting);
    let untouched: BTreeSet<ClaimId> = untouched.map(|claim| claim.meta.key.clone()).collect();
    records.release_orphans(facts, &untouched);

    let takes_part = |claim: &ClaimObject| !claim.meta.deleting && !claim.illegible;
    let live: Vec<&Claim> = facts.claims.iter().filter(|claim| takes_part(claim)).map(|claim| &claim.request).collect();
    let mut given = assign(&live, &states(&before, &records, facts), &facts.policy).into_iter();
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
        status: SharedLBClassStatus::default(),
        due,
        listeners: BTreeMap::new(),
        assignments,
    };
    let empty_since = plan(&mut decision, &before, &records, facts);
    decision.status = class_status(&decision, before, records, empty_since, facts);
    decision
}

/// The load balancers as `assign` sees them. What their LB loops have not told
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
            let claim = ClaimId { namespace: namespace.into(), name: name.into() };
            Some(Released { key, claim, open: !is_closed(facts, index, key) })
        });
        LoadBalancerState {
            addresses: match outcome {
                Some(outcome) => outcome.addresses.to_vec(),
                None => listed.and_then(|lb| lb.address.as_deref()).map(parse_address).into_iter().collect(),
            },
            capacity: outcome.and_then(|outcome| outcome.capacity.listeners),
            foreign: match outcome {
                Some(outcome) => outcome.foreign.clone(),
                None => {
                    listed.iter().flat_map(|lb| &lb.foreign_ports).filter_map(|port| parse_front_port(port)).collect()
                }
            },
            released: released.collect(),
            unobserved: false,
        }
    };
    indices.into_iter().map(|index| (index, state(index))).collect()
}

/// Plans every load balancer: the slots that are confirmed in the API, under our
/// finalizer. Returns since when each that holds nothing has held nothing.
fn plan(
    decision: &mut Decision,
    before: &SharedLBClassStatus,
    records: &Records,
    facts: &Facts<'_>,
) -> BTreeMap<u32, Timestamp> {
    let mut planned: BTreeMap<u32, Vec<Planned>> = BTreeMap::new();
    let mut held: BTreeMap<u32, u32> = BTreeMap::new();
    // One that a claim's status still names under our finalizer is not empty yet.
    let mut named: BTreeSet<u32> = BTreeSet::new();
    for (claim, got) in facts.claims.iter().zip(&decision.assignments) {
        named.extend(claim.request.held.as_ref().filter(|_| claim.has_finalizer).map(|held| held.index));
        let Some(granted) = got.as_ref().and_then(|got| got.granted.as_ref()) else { continue };
        *held.entry(granted.index).or_default() +=
            granted.slots.iter().map(|slot| facts.policy.listeners_for(slot.key.protocol)).sum::<u32>();
        let Some(confirmed) = claim.request.held.as_ref().filter(|confirmed| confirmed.index == granted.index) else {
            continue;
        };
        if claim.has_finalizer {
            let slots = if same(&confirmed.slots, &granted.slots) {
                granted.slots.clone()
            } else {
                granted
                    .slots
                    .iter()
                    .filter(|slot| confirmed.slots.iter().any(|c| c.name == slot.name && c.key == slot.key))
                    .cloned()
                    .collect()
            };
            planned.entry(granted.index).or_default().push(Planned { target: claim.target.clone(), slots });
        }
    }
    let limits = &facts.spec.load_balancers;
    let always = if facts.class.meta.deleting { 0 } else { limits.min.min(facts.policy.max) };
    let known = before.load_balancers.iter().map(|lb| lb.index).chain(facts.outcomes.keys().copied());
    // One that was never listed may exist all the same, if something of it is given back.
    let recorded = records.released.iter().filter(|(_, entries)| !entries.is_empty()).map(|(&index, _)| index);
    let indices: BTreeSet<u32> = known.chain(0..always).chain(held.keys().copied()).chain(recorded).collect();
    let delay = if facts.class.meta.deleting { 0 } else { limits.empty_delay_seconds };
    let mut empty_since = BTreeMap::new();
    for index in indices {
        let listed = before.load_balancers.iter().find(|lb| lb.index == index);
        let empty = !held.contains_key(&index) && !named.contains(&index);
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
    decision.listeners = held;
    empty_since
}

fn class_status(
    decision: &Decision,
    before: SharedLBClassStatus,
    mut records: Records,
    empty_since: BTreeMap<u32, Timestamp>,
    facts: &Facts<'_>,
) -> SharedLBClassStatus {
    let generation = facts.class.meta.generation;
    let mut trouble = facts.frozen.clone().map(|(reason, message)| (reason.unwrap_or(Reason::Pending), message));
    let load_balancers: Vec<LoadBalancerStatus> = decision
        .plans
        .keys()
        .map(|&index| {
            let listed = before.load_balancers.iter().find(|lb| lb.index == index).cloned().unwrap_or_default();
            let outcome =
                facts.outcomes.get(&index).filter(|outcome| outcome.exists.is_some() || outcome.trouble.is_some());
            let own = outcome.and_then(|outcome| outcome.trouble.clone());
            let own = own.map(|trouble| (trouble.reason, trouble.message.to_string())).or_else(|| {
                let nowhere = outcome.is_some_and(|outcome| outcome.addresses.is_empty());
                nowhere.then(|| (Reason::Pending, "the load balancer has no address yet".to_owned()))
            });
            let conditions = match outcome {
                Some(_) => vec![class_condition(
                    ConditionType::Ready,
                    own.clone(),
                    Reason::Ready,
                    &listed.conditions,
                    generation,
                    facts.now,
                )],
                None => listed.conditions,
            };
            if let (None, Some((reason, message))) = (&trouble, own) {
                trouble = Some((reason, format!("load balancer {index}: {message}")));
            }
            let limit =
                outcome.and_then(|outcome| outcome.capacity.listeners).unwrap_or(u32::MAX).min(facts.policy.listeners);
            LoadBalancerStatus {
                index,
                address: outcome.map_or(listed.address, |outcome| outcome.addresses.first().map(Address::to_string)),
                listeners: decision.listeners.get(&index).copied().unwrap_or(0),
                capacity: Some(Capacity { listeners: limit, targets: None }),
                foreign_ports: outcome
                    .map_or(listed.foreign_ports, |outcome| outcome.foreign.iter().map(ToString::to_string).collect()),
                released: records.released.remove(&index).unwrap_or_default(),
                empty_since: empty_since.get(&index).map(|&time| Time(time)),
                conditions,
            }
        })
        .collect();
    let unsupported = facts.frozen.clone().filter(|(reason, _)| *reason == Some(Reason::Unsupported));
    let accepted = unsupported.map(|(_, message)| (Reason::Unsupported, message));
    let listeners: u32 = load_balancers.iter().map(|lb| lb.listeners).sum();
    let room: u32 = load_balancers.iter().filter_map(|lb| Some(lb.capacity.as_ref()?.listeners)).sum();
    // Until every LB loop has been heard, what the status said of them stands.
    let heard = load_balancers.iter().all(|lb| facts.outcomes.contains_key(&lb.index));
    let ready = match crate::render::find(&before.conditions, ConditionType::Ready) {
        Some(stands) if !heard && trouble.is_none() => stands.clone(),
        _ => class_condition(ConditionType::Ready, trouble, Reason::Ready, &before.conditions, generation, facts.now),
    };
    SharedLBClassStatus {
        provider: Some(facts.spec.provider.kind().to_owned()),
        summary: Some(format!("{} of {}, {listeners} of {room} listeners", load_balancers.len(), facts.policy.max)),
        load_balancers,
        observed_generation: Some(generation),
        conditions: vec![
            class_condition(
                ConditionType::Accepted,
                accepted,
                Reason::Accepted,
                &before.conditions,
                generation,
                facts.now,
            ),
            ready,
        ],
    }
}

/// The status of a class whose spec can't be read: all else stays as it was.
pub(super) fn unreadable_status(
    before: &SharedLBClassStatus,
    message: &str,
    generation: i64,
    now: Timestamp,
) -> SharedLBClassStatus {
    let condition = |kind, fine| {
        let trouble = Some((Reason::Unsupported, message.to_owned()));
        class_condition(kind, trouble, fine, &before.conditions, generation, now)
    };
    SharedLBClassStatus {
        observed_generation: Some(generation),
        conditions: vec![
            condition(ConditionType::Accepted, Reason::Accepted),
            condition(ConditionType::Ready, Reason::Ready),
        ],
        ..before.clone()
    }
}
