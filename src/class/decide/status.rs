//! The status of a class.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sharedlb_crds::{Capacity, ConditionType, LoadBalancerStatus, Reason, SharedLBClassStatus};
use sharedlb_providers::{Address, Capacity as ProviderCapacity};

use super::records::Records;
use super::{Decision, Facts};
use crate::allocation::Policy;
use crate::api::addresses::gives_addresses;
use crate::class::render::class_condition;
use crate::kubernetes::conditions;
use crate::load_balancer::outcome::Outcome;

/// The status of a class after this decision.
pub(super) fn class_status(
    decision: &Decision,
    before: SharedLBClassStatus,
    mut records: Records,
    empty_since: BTreeMap<u32, Timestamp>,
    facts: &Facts<'_>,
) -> SharedLBClassStatus {
    let generation = facts.class.meta.generation;
    let mut failure = facts.suspended.clone().map(|why| (why.reason.unwrap_or(Reason::Pending), why.message));
    let load_balancers: Vec<LoadBalancerStatus> = decision
        .plans
        .keys()
        .map(|&index| {
            let listed = before.load_balancers.iter().find(|lb| lb.index == index).cloned().unwrap_or_default();
            let outcome =
                facts.outcomes.get(&index).filter(|outcome| outcome.exists.is_some() || outcome.failure.is_some());
            let own = outcome.and_then(|outcome| outcome.failure.clone());
            let no_address = outcome.and_then(|outcome| outcome.no_address.clone());
            let own = own.or(no_address).map(|failure| (failure.reason, failure.message.to_string())).or_else(|| {
                let nowhere = outcome.is_some_and(|outcome| outcome.addresses.is_empty());
                nowhere.then(|| (Reason::Pending, "the load balancer has no address yet".to_owned()))
            });
            // One that could not be asked yet is as it was.
            let heard = outcome.filter(|outcome| outcome.exists.is_some());
            let addresses = match heard {
                Some(outcome) => addresses(index, outcome, facts),
                None => listed.all_addresses().map(str::to_owned).collect(),
            };
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
            if let (None, Some((reason, message))) = (&failure, own) {
                let names_it = message.starts_with(&format!("load balancer {index} "));
                failure = Some((reason, if names_it { message } else { format!("load balancer {index}: {message}") }));
            }
            let used = decision.used.get(&index).copied().unwrap_or_default();
            LoadBalancerStatus {
                index,
                address: addresses.first().cloned(),
                addresses,
                cordoned: facts.policy.cordoned.contains(&index),
                listeners: used.listeners,
                targets: facts.policy.targets.map(|_| used.targets),
                capacity: Some(capacity(heard, listed.capacity, &facts.policy)),
                foreign_ports: heard
                    .map_or(listed.foreign_ports, |outcome| outcome.foreign.iter().map(ToString::to_string).collect()),
                released: records.released.remove(&index).unwrap_or_default(),
                empty_since: empty_since.get(&index).map(|&time| Time(time)),
                conditions,
            }
        })
        .collect();
    let unsupported = facts.suspended.clone().filter(|why| why.reason == Some(Reason::Unsupported));
    let accepted = unsupported.map(|why| (Reason::Unsupported, why.message));
    // Until every LB loop has reported an outcome, the condition stays as it is.
    let heard = load_balancers.iter().all(|lb| facts.outcomes.contains_key(&lb.index));
    let ready = match conditions::find(&before.conditions, ConditionType::Ready) {
        Some(stands) if !heard && failure.is_none() => stands.clone(),
        _ => class_condition(ConditionType::Ready, failure, Reason::Ready, &before.conditions, generation, facts.now),
    };
    SharedLBClassStatus {
        provider: Some(facts.spec.provider.kind().to_owned()),
        summary: Some(summary(&load_balancers, facts.policy.max)),
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

/// The addresses of a load balancer. Those that the provider gives it are recorded as they
/// were given, whatever another client makes of them: after a restart, the load balancer keeps
/// them by this record.
fn addresses(index: u32, outcome: &Outcome, facts: &Facts<'_>) -> Vec<String> {
    let given = usize::try_from(index).ok().and_then(|index| facts.policy.addresses.get(index));
    match given.filter(|_| gives_addresses(facts.spec) && outcome.exists == Some(true)) {
        Some(given) => given.iter().map(ToString::to_string).collect(),
        None => outcome.addresses.iter().map(Address::to_string).collect(),
    }
}

/// The capacity of a load balancer: the last reported one, or that of the class and its
/// provider.
fn capacity(heard: Option<&Outcome>, listed: Option<Capacity>, policy: &Policy) -> Capacity {
    let reported = match (heard, listed) {
        (Some(outcome), _) => outcome.capacity,
        (None, Some(listed)) => ProviderCapacity { listeners: Some(listed.listeners), targets: listed.targets },
        (None, None) => ProviderCapacity::default(),
    };
    Capacity {
        listeners: reported.listeners.unwrap_or(u32::MAX).min(policy.listeners),
        targets: policy.targets.map(|default| reported.targets.unwrap_or(default)),
    }
}

/// "2 of 10, 37 of 100 listeners, 490 of 1000 targets"
fn summary(load_balancers: &[LoadBalancerStatus], max: u32) -> String {
    let capacities = || load_balancers.iter().filter_map(|lb| lb.capacity.as_ref());
    let listeners: u32 = load_balancers.iter().map(|lb| lb.listeners).sum();
    let room: u32 = capacities().map(|capacity| capacity.listeners).sum();
    let mut summary = format!("{} of {max}, {listeners} of {room} listeners", load_balancers.len());
    if capacities().any(|capacity| capacity.targets.is_some()) {
        let targets: u32 = load_balancers.iter().filter_map(|lb| lb.targets).sum();
        // Capacities come from the provider, and may be huge: hence 64 bits.
        let room: u64 = capacities().filter_map(|capacity| capacity.targets).map(u64::from).sum();
        _ = write!(summary, ", {targets} of {room} targets");
    }
    summary
}

/// The status of a class whose spec can't be parsed: everything but the conditions stays.
pub(in crate::class) fn unreadable_status(
    before: &SharedLBClassStatus,
    message: &str,
    generation: i64,
    now: Timestamp,
) -> SharedLBClassStatus {
    let condition = |kind, fine| {
        let failure = Some((Reason::Unsupported, message.to_owned()));
        class_condition(kind, failure, fine, &before.conditions, generation, now)
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
