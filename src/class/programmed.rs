//! What the outcome of a load balancer means for a claim. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use sharedlb_providers::{Address, FrontPort, IpFamily, ListenerKey, ListenerOptions};

use super::render::{IdleFamily, Programmed, Served, of_port};
use crate::allocation::{Held, HeldSlot};
use crate::api::claim::{ClaimObject, claim_key};
use crate::load_balancer::outcome::{Failure, ListenerOutcome, Outcome};

/// The state of these slots on the load balancer, whose listeners should have these options
/// (`None`: not known, since the spec can't be parsed). `why_none` returns why a port has no
/// backends, and `why_none_of` why it has none of an IP family.
pub(super) fn programmed(
    claim: &ClaimObject,
    held: &Held,
    options: Option<&ListenerOptions>,
    outcome: Option<&Outcome>,
    why_none: impl Fn(&HeldSlot, &ListenerOutcome) -> Option<Failure>,
    why_none_of: impl Fn(&HeldSlot, IpFamily) -> Option<String>,
) -> Programmed {
    let Some(outcome) = outcome.filter(|outcome| outcome.exists.is_some() || outcome.failure.is_some()) else {
        return Programmed::Unknown;
    };
    let mut served = Served { no_address: outcome.no_address.clone(), ..Served::default() };
    let mut pending = false;
    for slot in held.slots.iter() {
        let listeners = serving(outcome, claim, slot.key);
        if listeners.is_empty() {
            if let Some(failure) = no_backends_to_take_over(outcome, claim, slot, &why_none) {
                return Programmed::Failed(failure);
            }
            pending = true;
        }
        let mut failures = listeners.iter().flat_map(|listener| listener.failure.iter().chain(&listener.unserved));
        if let Some(failure) = failures.next() {
            return Programmed::Failed(failure.clone());
        }
        pending |= listeners.iter().any(|listener| options.is_some_and(|options| listener.options != *options));
        let most_left_out = listeners.iter().filter_map(|listener| listener.left_out).min_by_key(|out| out.served);
        served.left_out.extend(most_left_out.map(|left_out| (slot.name.clone(), left_out)));
        if let Some(idle) = listeners.iter().find(|listener| !listener.backends) {
            served.without_backends.push((slot.name.clone(), why_none(slot, idle)));
            continue;
        }
        let families: BTreeSet<IpFamily> =
            listeners.iter().flat_map(|listener| &listener.idle_families).copied().collect();
        served.idle_families.extend(families.into_iter().filter_map(|family| {
            Some(IdleFamily { port: slot.name.clone(), family, why: why_none_of(slot, family)? })
        }));
    }
    match (pending, &outcome.failure) {
        (true, Some(failure)) => Programmed::Failed(failure.clone()),
        (true, None) => Programmed::Pending,
        (false, _) => Programmed::Served(served),
    }
}

/// The addresses at which clients reach a claim that holds slots of this load balancer: not
/// those of an IP family of which its source ranges admit no client.
pub(super) fn addresses(claim: &ClaimObject, held: &Held, outcome: &Outcome) -> Arc<[Address]> {
    // A claim whose spec can't be parsed keeps the options of its listeners.
    let of_listeners = || held.slots.iter().find_map(|slot| Some(&outcome.listeners.get(&slot.key)?.options));
    let options = claim.request.options.as_deref().or_else(of_listeners);
    let is_served = |address: &&Address| match address {
        Address::Ip(ip) => options.is_none_or(|options| options.admits(IpFamily::of(*ip))),
        Address::Hostname(_) => true,
    };
    if outcome.addresses.iter().all(|address| is_served(&address)) {
        return outcome.addresses.clone();
    }
    outcome.addresses.iter().filter(is_served).cloned().collect()
}

/// The ports of a claim that clients can reach.
pub(super) fn open(claim: &ClaimObject, outcome: &Outcome) -> BTreeSet<FrontPort> {
    if outcome.addresses.is_empty() {
        return BTreeSet::new();
    }
    let is_own = |listener: &ListenerOutcome| claim_key(&listener.owner) == claim.meta.key;
    let is_reached = |listener: &ListenerOutcome| listener.open && listener.unserved.is_none() && is_own(listener);
    let own = outcome.listeners.iter().filter(|(_, listener)| is_reached(listener));
    own.flat_map(|(key, _)| key.front_ports()).collect()
}

/// The listeners of a claim that serve a slot: its own, or until that takes over,
/// those that it succeeds, provided that they serve all of it. Which port of the
/// claim they were opened for does not matter, since ports are renamed.
fn serving<'a>(outcome: &'a Outcome, claim: &ClaimObject, key: ListenerKey) -> Vec<&'a ListenerOutcome> {
    let of_number = of_number(outcome, claim, key);
    if let Some((_, own)) = of_number.iter().find(|(other, _)| *other == key) {
        return vec![own];
    }
    let is_served = |port| of_number.iter().any(|(other, listener)| listener.open && other.has(port));
    if !key.front_ports().all(is_served) {
        return Vec::new();
    }
    of_number.into_iter().filter(|(other, _)| other.overlaps(key)).map(|(_, listener)| listener).collect()
}

/// The listeners of a claim that have the number of this one, itself or others.
fn of_number<'a>(
    outcome: &'a Outcome,
    claim: &ClaimObject,
    key: ListenerKey,
) -> Vec<(ListenerKey, &'a ListenerOutcome)> {
    let all = ListenerKey::of_number(key.port).into_iter();
    let found = all.filter_map(|key| Some((key, outcome.listeners.get(&key)?)));
    found.filter(|(_, listener)| claim_key(&listener.owner) == claim.meta.key).collect()
}

/// Why a slot is not served although another listener of the claim with its number is
/// open: the slot's listener would replace that one, and has no backends.
fn no_backends_to_take_over(
    outcome: &Outcome,
    claim: &ClaimObject,
    slot: &HeldSlot,
    why_none: impl Fn(&HeldSlot, &ListenerOutcome) -> Option<Failure>,
) -> Option<Failure> {
    let of_number = of_number(outcome, claim, slot.key);
    let (stays, listener) = of_number.iter().find(|(_, listener)| listener.open && listener.backends)?;
    let Failure { reason, message } = why_none(slot, listener)?;
    let message = format!("{}; until then, {stays} stays open", of_port(&slot.name, &message));
    Some(Failure { reason, message: message.into() })
}
