//! Where the model calls the controller's own code: the steps of a class, and an LB
//! loop run. Each is a function of what it is given, so that each case is computed
//! once.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::ops::RangeInclusive;
use std::sync::{Arc, LazyLock, Mutex};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use sharedlb_crds::{
    CLAIM_FINALIZER, ConditionType, LoadBalancerStatus, Reason, ReleasedPort, SharedLBClassStatus, SharedLBStatus,
};
use sharedlb_providers::memory::Memory;
use sharedlb_providers::{ListenerKey, Provider};
use tokio::time::Instant;

use super::state::{
    Claim, Heard, InFlightPlans, Known, Lbs, Listed, Plans, Record, Slot, Status, Stepped, Truth, What,
};
use crate::api::claim::{ClaimObject, api_protocol, protocol};
use crate::api::class::ClassObject;
use crate::class::dropped_fields::DroppedFields;
use crate::class::effect::{ClaimChange, ClaimWrite, ClassChange, Effect};
use crate::class::in_flight_plans;
use crate::class::render::released_key;
use crate::class::state::{Class, ClassAnswer, ClassSettings, Context, LoadBalancerPlans, Now, Stage};
use crate::kubernetes::writes::Writes;
use crate::kubernetes::{ObjectKey, conditions};
use crate::load_balancer::desired::{Plan, Planned};
use crate::load_balancer::faulty_provider::Answers;
use crate::load_balancer::model::{
    BACKENDS, CLAIMS, Memories, Numbered, PlannedPort, Reported, Slots, There, claim_json, claim_of, clients_of, key,
    plan_of, port_of, run,
};
use crate::load_balancer::outcome::{MaybeOpen, Outcome};
use crate::watches::NamespaceObject;

/// How long ports cool down, and empty load balancers stay, in seconds.
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

type LbRun = (u8, Memories, Numbered, There, Answers);
type ClassStep = (Known, Option<Arc<Known>>);

/// The code under test, and what it was seen to do.
pub(super) struct Real {
    spec: Value,
    provider: Arc<dyn Provider>,
    claims: Seen<(usize, Claim), Arc<ClaimObject>>,
    classes: Seen<Lbs, Arc<ClassObject>>,
    steps: Seen<ClassStep, Stepped>,
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
        Self {
            spec,
            provider: Arc::new(Memory::default()),
            claims: Seen(Mutex::default()),
            classes: Seen(Mutex::default()),
            steps: Seen(Mutex::default()),
            runs: Seen(Mutex::default()),
        }
    }

    /// Makes steps of a class that knows this, until it has to wait. `recorded`: the
    /// decision that it made when it knew that has been recorded.
    pub(super) fn step(&self, known: Known, recorded: Option<Arc<Known>>) -> Stepped {
        self.steps.or((known, recorded), |(known, recorded)| self.step_anew(known, recorded.as_deref()))
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

    fn step_anew(&self, known: &Known, recorded: Option<&Known>) -> Stepped {
        // The model has statuses without their messages. One that is as it should be
        // gets those that the class gives it, since otherwise it would be written.
        let mut exact = Exact::default();
        loop {
            let (class, effects) = self.effects(known, recorded, &exact);
            let found = same_statuses(known, &effects);
            if found.iter().all(Option::is_none) {
                return Self::stepped(&class, known, effects);
            }
            exact.iter_mut().zip(found).for_each(|(exact, found)| *exact = found.or(exact.take()));
        }
    }

    fn effects(&self, known: &Known, recorded: Option<&Known>, exact: &Exact) -> (Class, Vec<Effect>) {
        let mut class = self.class(recorded.unwrap_or(known), exact);
        if let Some(recorded) = recorded {
            class.step(&context());
            assert!(matches!(class.stage, Stage::Record(..)), "it decides as it did before");
            let sent = class.class_write.clone().expect("it records");
            class.class_write_answered(&sent, ClassAnswer::Written, now().instant);
            self.catch_up(&mut class, recorded, known, exact);
        }
        let mut effects = class.step(&context());
        while class.has_work() {
            effects.extend(class.step(&context()));
        }
        (class, effects)
    }

    /// The class itself.
    fn class(&self, known: &Known, exact: &Exact) -> Class {
        let mut class = Class::new(Some("default".into()));
        let class_object = self.object(&known.lbs);
        let spec = class_object.spec.clone().unwrap();
        class.replace_object(Some(class_object));
        class.settings = Some(ClassSettings::of_new(spec, self.provider.clone()));
        for (n, claim) in known.claims.iter().enumerate() {
            if let Some(claim) = claim {
                class.insert_claim(None, self.claim(n, &claim.claim, &exact[n]));
            }
        }
        self.set_other_state(&mut class, known);
        class
    }

    fn object(&self, lbs: &Lbs) -> Arc<ClassObject> {
        let new = |lbs: &Lbs| Arc::new(crate::fixtures::class(self.spec.clone(), &class_status(lbs), false));
        self.classes.or(*lbs, new)
    }

    fn claim(&self, n: usize, claim: &Claim, status: &Option<SharedLBStatus>) -> Arc<ClaimObject> {
        let object = self.claims.or((n, *claim), |(n, claim)| Arc::new(object(*n, claim)));
        match status {
            Some(status) => {
                let mut object = ClaimObject::clone(&object);
                object.status = status.clone();
                Arc::new(object)
            }
            None => object,
        }
    }

    /// Takes in what has happened to the class since it decided on `before`.
    fn catch_up(&self, class: &mut Class, before: &Known, known: &Known, exact: &Exact) {
        class.replace_object(Some(self.object(&known.lbs)));
        for (n, (before, claim)) in before.claims.iter().zip(&known.claims).enumerate() {
            let undisturbed = claim.is_some_and(|claim| !claim.disturbed);
            if undisturbed {
                continue;
            }
            before.iter().for_each(|before| _ = class.remove_claim(&self.claim(n, &before.claim, &None)));
            let now = claim.map(|claim| self.claim(n, &claim.claim, &exact[n]));
            now.into_iter().for_each(|claim| class.insert_claim(None, claim));
        }
        self.set_other_state(class, known);
    }

    fn set_other_state(&self, class: &mut Class, known: &Known) {
        for (n, claim) in known.claims.iter().enumerate() {
            let Some(claim) = claim else { continue };
            let state = class.claims.get_mut(&self.claim(n, &claim.claim, &None)).expect("it was put in");
            state.writes = Writes::default();
            if claim.in_flight {
                state.writes.begin();
            }
            // Its Service is always there.
            state.service_is_fine = true;
        }
        class.gives = known.gives;
        class.class_write = class.object.clone().filter(|_| known.class_write);
        class.outcomes =
            (0..).zip(&known.outcomes).filter_map(|(n, heard)| Some((n, outcome(n, heard.as_ref()?)))).collect();
        class.load_balancers = (0..)
            .zip(&known.plans)
            .filter_map(|(n, plans)| {
                let Plans { current, in_flight } = plans.as_ref()?;
                Some((n, LoadBalancerPlans { current: plan_of(n, current), in_flight: in_flight.real() }))
            })
            .collect();
    }

    /// What comes of these effects. A plan with the same slots is the same.
    fn stepped(class: &Class, known: &Known, effects: Vec<Effect>) -> Stepped {
        let (mut writes, mut class_write) = ([None; 3], None);
        let records = matches!(class.stage, Stage::Record(..));
        for effect in effects {
            match effect {
                Effect::Claim(ClaimWrite { claim, what, awaited_by }) => {
                    let n = usize::from(claim_of(&claim.meta.key.name));
                    let what = match what {
                        ClaimChange::Status { status, .. } => What::Status(of_status(&claim, &status)),
                        ClaimChange::Protect => What::Protect,
                        ClaimChange::Release => What::LetGo,
                    };
                    assert!(writes[n].is_none(), "two writes to one claim");
                    writes[n] = Some((what, awaited_by.is_some()));
                }
                Effect::Class(write) => {
                    let ClassChange::Status(status) = write.what else { panic!("its finalizer is on") };
                    let lbs = of_class(&status);
                    class_write = Some(lbs).filter(|lbs| records || *lbs != known.lbs);
                }
                Effect::Companion(..) => panic!("every claim names a Service"),
                // Plans are read from the class.
                Effect::Start(_) | Effect::Plan(..) | Effect::Stop(_) => {}
                Effect::Export(_) | Effect::WakeAt(_) | Effect::Again => {}
            }
        }
        let (mut plans, mut outcomes) = ([None, None], [None, None]);
        for lb in 0..2usize {
            let index = u32::try_from(lb).unwrap();
            let Some(new) = class.load_balancers.get(&index) else { continue };
            let slots = slots_of(&new.current);
            let before = known.plans[lb].as_ref().filter(|before| before.current.slots == slots);
            plans[lb] = Some(before.cloned().unwrap_or_else(|| Plans {
                current: Numbered { number: u8::try_from(new.current.number).unwrap(), slots },
                in_flight: InFlightPlans::of(&new.in_flight),
            }));
            outcomes[lb] = known.outcomes[lb].clone().map(|heard| match (before, class.outcomes.get(&index)) {
                (None, Some(outcome)) => Heard { since: of_since(&outcome.since), ..heard },
                _ => heard,
            });
        }
        Stepped { writes, class_write, records, plans, outcomes }
    }
}

/// Whole statuses of claims.
type Exact = [Option<SharedLBStatus>; 3];

/// The statuses that are to be written and say the same as those that are there, but
/// for their messages.
fn same_statuses(known: &Known, effects: &[Effect]) -> Exact {
    let mut same = Exact::default();
    for effect in effects {
        let Effect::Claim(ClaimWrite { claim, what: ClaimChange::Status { status, .. }, .. }) = effect else {
            continue;
        };
        let n = usize::from(claim_of(&claim.meta.key.name));
        if known.claims[n].is_some_and(|known| of_status(claim, status) == known.claim.status) {
            same[n] = Some(SharedLBStatus::clone(status));
        }
    }
    same
}

fn context() -> Context<'static> {
    static NAMESPACES: LazyLock<BTreeMap<ObjectKey, Arc<NamespaceObject>>> = LazyLock::new(BTreeMap::new);
    Context { now: now(), namespaces: &NAMESPACES, backends: &BACKENDS, dropped: DroppedFields::default() }
}

/// What each port is planned for.
fn slots_of(plan: &Plan) -> Slots {
    plan.slots.as_ref().map(|planned| {
        let mut slots = [None; 3];
        for Planned { target, options, slots: held } in planned {
            let clients = clients_of(options.as_ref().expect("every claim can be parsed"));
            for slot in held.iter() {
                let port = PlannedPort { claim: claim_of(&target.claim.name), clients };
                let former = slots[port_of(slot.key)].replace(port);
                assert_eq!(former, None, "two claims are planned on one port");
            }
        }
        slots
    })
}

fn of_since(since: &MaybeOpen) -> ([bool; 3], bool) {
    ([0, 1, 2].map(|port| since.planned.contains(&key(port))), since.exists)
}

/// The outcome as the class loop keeps it.
fn outcome(index: u32, Heard { reported, since: (planned, exists) }: &Heard) -> Outcome {
    let planned = (0..3).filter(|port| planned[*port]).map(key).collect();
    reported.outcome(index, MaybeOpen { planned, exists: *exists })
}

impl InFlightPlans {
    /// An outcome as the class loop takes it in, or keeps it, when `current` was handed last.
    pub(super) fn heard(&mut self, reported: &Reported, current: &Numbered) -> Heard {
        let mut real = self.real();
        let since = real.since(&plan_of(0, &reported.plan), &plan_of(0, current));
        *self = Self::of(&real);
        Heard { reported: reported.clone(), since: of_since(&since) }
    }

    fn real(&self) -> in_flight_plans::InFlightPlans {
        let dropped = self.dropped.iter().enumerate().filter_map(|(port, number)| Some((key(port), (*number)?.into())));
        in_flight_plans::InFlightPlans { dropped: dropped.collect(), existing: self.existing.into() }
    }

    fn of(real: &in_flight_plans::InFlightPlans) -> Self {
        let mut dropped = [None; 3];
        real.dropped.iter().for_each(|(key, number)| dropped[port_of(*key)] = u8::try_from(*number).ok());
        Self { dropped, existing: u8::try_from(real.existing).unwrap() }
    }
}

fn now() -> Now {
    static INSTANT: LazyLock<Instant> = LazyLock::new(Instant::now);
    Now { instant: *INSTANT, time: Timestamp::from_second(1_800_000_000).unwrap() }
}

fn since(over: bool) -> Time {
    Time(if over { now().time - SignedDuration::from_secs(DELAY) } else { now().time })
}

fn is_over(time: Option<&Time>) -> bool {
    time.is_none_or(|time| time.0 < now().time)
}

fn number(slot: Slot) -> u16 {
    key(slot.port.into()).port.get()
}

/// The claim as the controller would parse it.
fn object(n: usize, claim: &Claim) -> ClaimObject {
    let mut object = claim_json(u8::try_from(n).unwrap(), claim.clients);
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
        json["ports"] = json!([{"name": "x", "protocol": "TCP", "port": number(slot), "opened": status.opened}]);
        if status.opened && status.address {
            let ports = json!([{"port": number(slot), "protocol": "TCP"}]);
            json["loadBalancer"] = json!({"ingress": [{"hostname": "lb", "ports": ports}]});
        }
    }
    if status.address {
        json["address"] = json!("lb");
        json["addresses"] = json!(["lb"]);
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
        let condition = conditions::find(&status.conditions, kind)?;
        let truth = match condition.status.as_str() {
            "True" => Truth::True,
            "False" => Truth::False,
            _ => Truth::Unknown,
        };
        Some((truth, *REASONS.iter().find(|reason| reason.as_str() == condition.reason).unwrap()))
    });
    Status {
        held: status.load_balancer_index.and_then(slot),
        opened: status.ports.iter().any(|port| port.opened),
        address: status.address.is_some(),
        current: status.observed_generation == Some(claim.meta.generation),
        said,
    }
}

fn class_status(lbs: &Lbs) -> SharedLBClassStatus {
    let listed = |(index, listed): (u32, &Option<Listed>)| {
        let listed = listed.as_ref()?;
        let released = listed.released.iter().enumerate().filter_map(|(port, record)| {
            let Record { claim, cooled } = (*record)?;
            Some(ReleasedPort {
                port: key(port).port,
                protocol: api_protocol(key(port).protocol),
                claim: format!("team/{}", CLAIMS[usize::from(claim)]),
                time: Some(since(cooled)),
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
            let record = Record { claim, cooled: is_over(released.time.as_ref()) };
            let former = listed.released[port_of(released_key(released))].replace(record);
            assert_eq!(former, None, "two records of one port");
        }
        lbs[usize::try_from(lb.index).unwrap()] = Some(listed);
    }
    lbs
}
