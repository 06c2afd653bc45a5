//! Where the model calls the controller's own code: a class decided with
//! `decide` and `assign`, statuses rendered, and an LB loop run. Each is a
//! function of what it is given, so that each case is computed once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use sharedlb_crds::{
    CLAIM_FINALIZER, ConditionType, LoadBalancerStatus, Reason, ReleasedPort, SharedLBClassStatus, SharedLBStatus,
};
use sharedlb_providers::memory::Memory;
use sharedlb_providers::{ListenerKey, Provider as _};

use super::state::{Claim, Decision, Heard, InFlightPlans, Lbs, Listed, Record, Slot, Status, Truth};
use crate::allocation::{Assignment, Held};
use crate::api::claim::{ClaimObject, api_protocol, protocol};
use crate::api::class::policy;
use crate::class::decide::{self, Facts, decide};
use crate::class::handed;
use crate::class::render::{self, Programmed, Verdict, find, released_key};
use crate::class::verdicts::changes_slots;
use crate::load_balancer::desired::Planned;
use crate::load_balancer::faulty_provider::Answers;
use crate::load_balancer::model::{
    CLAIMS, Memories, Numbered, Slots, There, Told, claim_json, claim_of, key, plan_of, port_of, run,
};
use crate::load_balancer::outcome::{MaybeOpen, Outcome};

/// How long ports rest, and empty load balancers stay, in seconds.
const DELAY: i64 = 60;
const REASONS: [Reason; 11] = [
    Reason::PortTaken,
    Reason::PoolExhausted,
    Reason::ProviderRefused,
    Reason::PortInUse,
    Reason::Unreachable,
    Reason::Pending,
    Reason::NoBackends,
    Reason::Allocated,
    Reason::Programmed,
    Reason::Ready,
    Reason::Accepted,
];

/// The claims, the class' status and the outcomes that a class loop knows.
pub(super) type Known = ([Option<Claim>; 3], Lbs, [Option<Heard>; 2]);
type LbRun = (u8, Memories, Numbered, There, Answers);

/// The code under test, and what it was seen to do.
pub(super) struct Real {
    spec: Value,
    decisions: Seen<Known, Arc<Decision>>,
    runs: Seen<LbRun, (Memories, There)>,
}

/// Results by what they depend on.
struct Seen<K, V>(Mutex<HashMap<K, V>>);

impl<K: Hash + Eq + Clone, V: Clone> Seen<K, V> {
    fn or(&self, key: K, compute: impl FnOnce(&K) -> V) -> V {
        let known = self.0.lock().unwrap().get(&key).cloned();
        known.unwrap_or_else(|| {
            let value = compute(&key);
            self.0.lock().unwrap().insert(key, value.clone());
            value
        })
    }
}

impl Real {
    /// A class with so many load balancers, each with these ports and so many listeners.
    pub(super) fn new(count: RangeInclusive<u8>, ports: u8, listeners: u8) -> Self {
        let (first, last) = (key(0).port.get(), key(usize::from(ports) - 1).port.get());
        let spec = json!({
            "ports": {"dynamic": [{"min": first, "max": last}]},
            "loadBalancers": {
                "min": count.start(), "max": count.end(), "listenersPerLoadBalancer": listeners, "emptyDelaySeconds": DELAY,
            },
            "reclaimDelaySeconds": DELAY,
        });
        Self { spec, decisions: Seen(Mutex::default()), runs: Seen(Mutex::default()) }
    }

    /// Decides for the class.
    pub(super) fn decide(&self, mut known: Known) -> Arc<Decision> {
        known.0.iter_mut().flatten().for_each(|claim| claim.version = 0);
        self.decisions.or(known, |known| Arc::new(self.decide_anew(known)))
    }

    /// Runs an LB loop once.
    pub(super) fn run(
        &self,
        lb: u8,
        before: &Memories,
        plan: &Numbered,
        there: &There,
        answers: Answers,
    ) -> (Memories, There) {
        let given = (lb, before.clone(), *plan, *there, answers);
        self.runs.or(given, |(lb, before, plan, there, answers)| run((*lb).into(), before, plan, there, *answers))
    }

    fn decide_anew(&self, (claims, lbs, heard): &Known) -> Decision {
        let mut objects: Vec<(usize, Arc<ClaimObject>)> =
            (0..3).filter_map(|n| Some((n, Arc::new(object(n, claims[n].as_ref()?))))).collect();
        // As a group has them: the older first.
        objects.sort_by_key(|(_, claim)| (claim.request.created, claim.meta.key.clone()));
        let class = crate::fixtures::class(self.spec.clone(), &class_status(lbs), false);
        let spec = class.spec.clone().unwrap();
        let outcomes: BTreeMap<u32, Outcome> =
            (0..).zip(heard).filter_map(|(n, heard)| Some((n, outcome(n, heard.as_ref()?)))).collect();
        let decision = decide(&Facts {
            class: &class,
            policy: policy(&spec, &Memory::default().capabilities(), std::iter::empty()),
            spec: &spec,
            suspended: None,
            claims: objects.iter().map(|(_, claim)| claim).collect(),
            counted: None,
            targets_closing: 0,
            outcomes: &outcomes,
            left: &[],
            now: now(),
        });
        let (mut give, mut tell) = ([None; 3], [None; 3]);
        for ((n, object), got) in objects.iter().zip(&decision.assignments) {
            let (Some(got), Some(known)) = (got, &claims[*n]) else { continue };
            let status =
                of_status(object, &render::status(object, Some("default"), &verdict(object, got, &outcomes), now()));
            if changes_slots(object, got) {
                give[*n] = Some(status);
            } else {
                tell[*n] = Some(status).filter(|status| *status != known.status);
            }
        }
        Decision {
            class_first: decision.class_first(),
            lbs: of_class(&decision.status),
            plans: plans(&decision),
            give,
            tell,
        }
    }
}

/// The outcome as the class loop keeps it.
fn outcome(index: u32, Heard { told, since: (planned, exists) }: &Heard) -> Outcome {
    let planned = (0..3).filter(|port| planned[*port]).map(key).collect();
    told.outcome(index, MaybeOpen { planned, exists: *exists })
}

impl InFlightPlans {
    /// What `class_loop::handed` makes of being handed `new` instead of `old`.
    pub(super) fn replace(&mut self, old: &Numbered, new: &Numbered) {
        let mut real = self.real();
        real.replace(&plan_of(0, old), &plan_of(0, new));
        *self = Self::of(&real);
    }

    /// An outcome as the class loop takes it in, or keeps it, when `current` was handed last.
    pub(super) fn heard(&mut self, told: &Told, current: &Numbered) -> Heard {
        let mut real = self.real();
        let since = real.since(&plan_of(0, &told.plan), &plan_of(0, current));
        *self = Self::of(&real);
        let planned = [0, 1, 2].map(|port| since.planned.contains(&key(port)));
        Heard { told: told.clone(), since: (planned, since.exists) }
    }

    fn real(&self) -> handed::InFlightPlans {
        let dropped = self.dropped.iter().enumerate().filter_map(|(port, number)| Some((key(port), (*number)?.into())));
        handed::InFlightPlans { dropped: dropped.collect(), existing: self.existing.into() }
    }

    fn of(real: &handed::InFlightPlans) -> Self {
        let mut dropped = [None; 3];
        real.dropped.iter().for_each(|(key, number)| dropped[port_of(*key)] = u8::try_from(*number).ok());
        Self { dropped, existing: u8::try_from(real.existing).unwrap() }
    }
}

/// As `ClassLoop::verdict` has it.
fn verdict(claim: &ClaimObject, got: &Assignment, outcomes: &BTreeMap<u32, Outcome>) -> Verdict {
    let outcome = got.granted.as_ref().and_then(|held| outcomes.get(&held.index));
    let heard = outcome.filter(|outcome| outcome.exists.is_some());
    let programmed = |held: &Held| render::programmed(claim, held, outcome, |_, _| None, |_, _| None);
    Verdict {
        refused: got.refused.first().map(|(_, refusal)| (refusal.reason(), String::new())),
        programmed: got.granted.as_ref().map_or(Programmed::Pending, programmed),
        addresses: match &got.granted {
            Some(_) => heard.map(|outcome| outcome.addresses.clone()),
            None => Some(Arc::default()),
        },
        held: got.granted.clone(),
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn since(over: bool) -> Time {
    Time(if over { now() - SignedDuration::from_secs(DELAY) } else { now() })
}

fn is_over(time: Option<&Time>) -> bool {
    time.is_none_or(|time| time.0 < now())
}

fn number(slot: Slot) -> u16 {
    key(slot.port.into()).port.get()
}

/// The claim as the controller would parse it.
fn object(n: usize, claim: &Claim) -> ClaimObject {
    let mut object = claim_json(u8::try_from(n).unwrap());
    object["metadata"]["uid"] = json!(format!("{}-{}", CLAIMS[n], claim.born));
    object["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T00:00:{:02}Z", claim.born));
    object["metadata"]["generation"] = json!(2);
    if let Some(port) = claim.asks {
        object["spec"]["ports"][0]["port"] = json!(key(port.into()).port);
    }
    if claim.deleting {
        object["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
    }
    if claim.finalizer {
        object["metadata"]["finalizers"] = json!([CLAIM_FINALIZER]);
    }
    if claim.status != Status::default() {
        object["status"] = status_json(&claim.status);
    }
    ClaimObject::parse(&serde_json::from_value(object).unwrap())
}

fn status_json(status: &Status) -> Value {
    let generation = if status.current { 2 } else { 1 };
    let conditions = KINDS.iter().zip(status.said).filter_map(|(kind, said)| {
        let (truth, reason) = said?;
        Some(json!({
            "type": kind.as_str(), "status": format!("{truth:?}"), "reason": reason.as_str(), "message": "",
            "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z",
        }))
    });
    let mut json = json!({"observedGeneration": generation, "conditions": conditions.collect::<Vec<_>>()});
    if let Some(slot) = status.held {
        json["className"] = json!("default");
        json["loadBalancerIndex"] = json!(slot.lb);
        json["ports"] = json!([{"name": "x", "protocol": "TCP", "port": number(slot)}]);
        if status.opened {
            let ports = json!([{"port": number(slot), "protocol": "TCP"}]);
            json["loadBalancer"] = json!({"ingress": [{"hostname": "lb", "ports": ports}]});
        }
    }
    if status.address {
        json["address"] = json!("lb");
    }
    json
}

const KINDS: [ConditionType; 3] = [ConditionType::Allocated, ConditionType::Programmed, ConditionType::Ready];

fn of_status(claim: &ClaimObject, status: &SharedLBStatus) -> Status {
    let slot = |index: u32| {
        let port = status.ports.first()?;
        let port = port_of(ListenerKey { port: port.port, protocol: protocol(port.protocol) });
        Some(Slot { lb: u8::try_from(index).unwrap(), port: u8::try_from(port).unwrap() })
    };
    let said = KINDS.map(|kind| {
        let condition = find(&status.conditions, kind)?;
        let truth = match condition.status.as_str() {
            "True" => Truth::True,
            "False" => Truth::False,
            _ => Truth::Unknown,
        };
        Some((truth, *REASONS.iter().find(|reason| reason.as_str() == condition.reason).unwrap()))
    });
    Status {
        held: status.load_balancer_index.and_then(slot),
        opened: status.load_balancer.is_some(),
        address: status.address.is_some(),
        current: status.observed_generation == Some(claim.meta.generation),
        said,
    }
}

fn class_status(lbs: &Lbs) -> SharedLBClassStatus {
    let listed = |(index, listed): (u32, &Option<Listed>)| {
        let listed = listed.as_ref()?;
        let released = listed.released.iter().enumerate().filter_map(|(port, record)| {
            let Record { claim, rested } = (*record)?;
            Some(ReleasedPort {
                port: key(port).port,
                protocol: api_protocol(key(port).protocol),
                claim: format!("team/{}", CLAIMS[usize::from(claim)]),
                time: Some(since(rested)),
            })
        });
        Some(LoadBalancerStatus {
            index,
            released: released.collect(),
            empty_since: listed.empty.map(since),
            ..LoadBalancerStatus::default()
        })
    };
    let load_balancers = (0..).zip(lbs).filter_map(listed).collect();
    SharedLBClassStatus { load_balancers, ..SharedLBClassStatus::default() }
}

fn of_class(status: &SharedLBClassStatus) -> Lbs {
    let mut lbs = [None; 2];
    for lb in &status.load_balancers {
        let mut listed = Listed { released: [None; 3], empty: lb.empty_since.as_ref().map(|time| is_over(Some(time))) };
        for released in &lb.released {
            let claim = claim_of(released.claim.trim_start_matches("team/"));
            let record = Record { claim, rested: is_over(released.time.as_ref()) };
            let former = listed.released[port_of(released_key(released))].replace(record);
            assert_eq!(former, None, "two records of one port");
        }
        lbs[usize::try_from(lb.index).unwrap()] = Some(listed);
    }
    lbs
}

fn plans(decision: &decide::Decision) -> [Option<Slots>; 2] {
    assert_eq!(decision.untouched, BTreeSet::new(), "every status can be read");
    let mut plans = [None, None];
    for (&index, planned) in &decision.plans {
        let slots = planned.as_ref().map(|planned| {
            let mut slots = [None; 3];
            for Planned { target, slots: held } in planned {
                for slot in held.iter() {
                    let former = slots[port_of(slot.key)].replace(claim_of(&target.claim.name));
                    assert_eq!(former, None, "two claims are planned on one port");
                }
            }
            slots
        });
        plans[usize::try_from(index).unwrap()] = Some(slots);
    }
    plans
}
