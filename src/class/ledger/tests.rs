//! Random histories of a class: a newcomer that is given its ports without a decision
//! gets what a decision would give it, and no port is given twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use sharedlb_crds::{CLAIM_FINALIZER, CLASS_FINALIZER};
use sharedlb_providers::memory::{Cloud, Memory};
use sharedlb_providers::{Address, AffinitySupport, Capacity, FrontPort, Owner, Transport};
use tokio::time::Instant;

use crate::api::claim::ClaimObject;
use crate::api::class::ClassObject;
use crate::backends::Backends;
use crate::class::decide::AbandonedSlot;
use crate::class::effect::{ClaimChange, ClaimWrite, ClassChange, ClassWrite, Effect};
use crate::class::state::{Class, ClassAnswer, ClassSettings, Context};
use crate::load_balancer::desired::Planned;
use crate::load_balancer::outcome::{ListenerOutcome, MaybeOpen, Outcome};

/// More steps than a history of claims needs to settle.
const STEPS: usize = 40;

/// A port of a claim: its protocol, and the number that it asks for.
type Port = (&'static str, Option<u16>);

/// What happens.
#[derive(Debug, Clone)]
enum Act {
    /// A claim is created, or edited to ask for these ports.
    Ask(usize, Vec<Port>),
    /// A claim is edited to have session affinity, or none.
    Affinity(usize, bool),
    /// A claim is edited to have source ranges, or none.
    SourceRanges(usize, bool),
    /// A claim gets another label.
    Label(usize),
    /// A claim is deleted: it goes when our finalizer does.
    Delete(usize),
    /// A claim goes although our finalizer is on it.
    Remove(usize),
    /// The class reconciles.
    Reconcile,
    /// One of the writes in flight is answered.
    Answer(usize, bool),
    /// The class is edited: the last dynamic port, and its load balancers at most.
    Edit(u16, u32),
    /// A load balancer reports, with a foreign listener, or with no room for more.
    Report(u32, Option<u16>, bool),
}

struct World {
    class: Class,
    claims: BTreeMap<String, Value>,
    in_flight: Vec<ClaimWrite>,
    class_writes: Vec<ClassWrite>,
    class_object: Value,
    version: u64,
    backends: Backends,
    /// How often newcomers were given ports without a decision
    admitted: usize,
    cloud: Cloud,
}

fn name(number: usize) -> String {
    format!("claim-{number}")
}

fn parse(claim: &Value) -> Arc<ClaimObject> {
    Arc::new(ClaimObject::parse(&serde_json::from_value(claim.clone()).unwrap()))
}

impl World {
    /// A class whose listeners can have these options.
    fn new(source_ranges: bool, affinity: AffinitySupport) -> Self {
        let class_object = json!({
            "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLBClass",
            "metadata": {
                "name": "default", "uid": "uid-of-class", "resourceVersion": "1", "generation": 1,
                "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": [CLASS_FINALIZER],
            },
            "spec": {
                "provider": {"service": {}}, "ports": {"dynamic": [{"min": 20000, "max": 20007}]},
                "loadBalancers": {"min": 1, "max": 3, "listenersPerLoadBalancer": 4}, "portsPerNamespace": 9,
            },
        });
        let mut world = Self {
            class: Class::new(Some("default".into())),
            claims: BTreeMap::new(),
            in_flight: Vec::new(),
            class_writes: Vec::new(),
            class_object,
            version: 1,
            backends: Backends::default(),
            admitted: 0,
            cloud: Cloud::default(),
        };
        world.cloud.offer(source_ranges, affinity);
        world.show_class();
        world
    }

    fn next_version(&mut self) -> Value {
        self.version += 1;
        json!(self.version.to_string())
    }

    fn show_class(&mut self) {
        let object = ClassObject::parse(&serde_json::from_value(self.class_object.clone()).unwrap());
        let spec = object.spec.clone().unwrap();
        match &mut self.class.settings {
            Some(settings) => settings.spec = spec,
            None => self.class.settings = Some(ClassSettings::of_new(spec, Arc::new(Memory::new(self.cloud.clone())))),
        }
        self.class.replace_object(Some(Arc::new(object)));
    }

    /// Shows the class a claim as it is now, or that it is gone, as the class loop does.
    fn show(&mut self, name: &str, now: Option<Value>) {
        let before = self.claims.get(name).map(parse);
        let now = now.map(|mut claim| {
            claim["metadata"]["resourceVersion"] = self.next_version();
            claim
        });
        let new = now.as_ref().map(parse);
        let mut state = None;
        if let Some(before) = before {
            let stays = new.as_ref().is_some_and(|new| new.meta.uid == before.meta.uid && !new.is_released());
            if !stays && !before.is_released() {
                self.class.abandoned.extend(AbandonedSlot::of(&before));
            }
            state = self.class.remove_claim(&before);
        }
        if let Some(new) = new {
            let state = state.filter(|state| state.claim.meta.uid == new.meta.uid);
            self.class.insert_claim(state, new);
        }
        match now {
            Some(claim) => _ = self.claims.insert(name.to_owned(), claim),
            None => _ = self.claims.remove(name),
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Ask(number, ports) => self.ask(*number, ports),
            Act::Affinity(number, has) => self.edit(*number, |claim| {
                claim["spec"]["sessionAffinity"] = json!(if *has { "ClientIP" } else { "None" });
            }),
            Act::SourceRanges(number, has) => self.edit(*number, |claim| {
                claim["spec"]["loadBalancerSourceRanges"] = if *has { json!(["10.0.0.0/8"]) } else { json!([]) };
            }),
            Act::Label(number) => self.edit(*number, |claim| claim["metadata"]["labels"] = json!({"a": "b"})),
            Act::Delete(number) => self.edit(*number, |claim| {
                claim["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
            }),
            Act::Remove(number) => self.show(&name(*number), None),
            Act::Reconcile => self.reconcile(),
            Act::Answer(nth, succeeds) => self.answer(*nth, *succeeds),
            Act::Edit(last, max) => {
                self.class_object["spec"]["ports"]["dynamic"][0]["max"] = json!(last);
                self.class_object["spec"]["loadBalancers"]["max"] = json!(max);
                self.class_object["metadata"]["resourceVersion"] = self.next_version();
                self.show_class();
            }
            Act::Report(index, foreign, no_room) => self.report(*index, *foreign, *no_room),
        }
    }

    fn ask(&mut self, number: usize, ports: &[Port]) {
        let name = name(number);
        let ports: Vec<Value> = ports
            .iter()
            .enumerate()
            .map(|(nth, (protocol, number))| {
                json!({"name": format!("p{nth}"), "protocol": protocol, "port": number, "targetPort": 80 + nth})
            })
            .collect();
        let version = self.version;
        let new = || {
            // Claims of one second are told apart by their names.
            let created = format!("2026-01-01T00:00:{:02}Z", version % 3);
            json!({
                "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLB",
                "metadata": {
                    "namespace": format!("team-{}", number % 2), "name": name, "uid": format!("{name}-{version}"),
                    "generation": 0, "creationTimestamp": created,
                },
                "spec": {"className": "default", "selector": {"app": "a"}},
            })
        };
        let mut claim = self.claims.get(&name).cloned().unwrap_or_else(new);
        claim["spec"]["ports"] = json!(ports);
        claim["metadata"]["generation"] = json!(claim["metadata"]["generation"].as_i64().unwrap() + 1);
        self.show(&name, Some(claim));
    }

    fn edit(&mut self, number: usize, edit: impl FnOnce(&mut Value)) {
        let name = name(number);
        let Some(mut claim) = self.claims.get(&name).cloned() else { return };
        edit(&mut claim);
        let is_protected = claim["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty());
        let is_gone = claim["metadata"]["deletionTimestamp"].is_string() && !is_protected;
        self.show(&name, Some(claim).filter(|_| !is_gone));
    }

    /// Makes steps until the class has to wait. Where it admits newcomers, it compares
    /// what they get with a decision (`decides_alike`).
    fn reconcile(&mut self) {
        let namespaces = BTreeMap::new();
        loop {
            let context = Context::fixture(&namespaces, &self.backends);
            let gave = self.class.gives;
            let effects = self.class.step(&context);
            self.admitted += usize::from(self.class.is_idle() && self.class.gives > gave);
            for effect in effects {
                match effect {
                    Effect::Claim(write) => self.in_flight.push(write),
                    Effect::Class(write) => self.class_writes.push(write),
                    Effect::Companion(claim, _) => {
                        let state = self.class.claims.get_mut(&claim).unwrap();
                        state.service_writes.succeeded();
                        state.service_is_fine = true;
                    }
                    _ => {}
                }
            }
            if !self.class.has_work() {
                return;
            }
        }
    }

    fn answer(&mut self, nth: usize, succeeds: bool) {
        if let Some(write) = self.class_writes.pop() {
            self.answer_class(write);
        } else if !self.in_flight.is_empty() {
            let write = self.in_flight.remove(nth % self.in_flight.len());
            self.answer_claim(write, succeeds);
        }
    }

    fn answer_claim(&mut self, ClaimWrite { claim, what, awaited_by }: ClaimWrite, succeeds: bool) {
        let name = claim.meta.key.name.to_string();
        let now = self.claims.get(&name).cloned().filter(|now| now["metadata"]["uid"] == *claim.meta.uid);
        if let Some(mut object) = now {
            let known = parse(&object);
            let is_as_sent = known.meta.version == claim.meta.version;
            let state = self.class.claims.get_mut(&known).unwrap();
            if succeeds && is_as_sent {
                state.writes.succeeded();
                let protected = match what {
                    ClaimChange::Status { status, .. } => {
                        object["status"] = serde_json::to_value(&*status).unwrap();
                        known.has_finalizer
                    }
                    ClaimChange::Protect => true,
                    ClaimChange::Release => false,
                };
                object["metadata"]["finalizers"] = if protected { json!([CLAIM_FINALIZER]) } else { json!([]) };
                let is_gone = known.meta.deleting && !protected;
                self.show(&name, Some(object).filter(|_| !is_gone));
            } else {
                state.writes.conflicted(Instant::now());
            }
        }
        if awaited_by.is_some() {
            self.class.give_answered();
        }
    }

    fn answer_class(&mut self, ClassWrite { class, what }: ClassWrite) {
        let is_as_sent = self.class_object["metadata"]["resourceVersion"] == json!(class.meta.version.to_string());
        let answer = if is_as_sent { ClassAnswer::Written } else { ClassAnswer::Conflict };
        self.class.class_write_answered(&class, answer, Instant::now());
        if let (ClassChange::Status(status), true) = (what, is_as_sent) {
            self.class_object["status"] = serde_json::to_value(&*status).unwrap();
            self.class_object["metadata"]["resourceVersion"] = self.next_version();
            self.show_class();
        }
    }

    /// The load balancer has come to its plan.
    fn report(&mut self, index: u32, foreign: Option<u16>, no_room: bool) {
        let Some(plan) = self.class.load_balancers.get(&index).map(|plans| plans.current.clone()) else { return };
        let planned = plan.slots.iter().flatten().flat_map(|planned| {
            planned.slots.iter().map(|slot| {
                let claim = &planned.target.claim;
                let owner =
                    Owner { namespace: claim.namespace.clone(), claim: claim.name.clone(), port: slot.name.clone() };
                let options = planned.options.as_deref().cloned().unwrap_or_default();
                (slot.key, ListenerOutcome { open: true, options, backends: true, ..ListenerOutcome::closed(&owner) })
            })
        });
        let port = |port| FrontPort { port, transport: Transport::Tcp };
        let outcome = Outcome {
            listeners: Arc::new(planned.collect()),
            plan: plan.clone(),
            since: MaybeOpen::default(),
            exists: Some(true),
            addresses: [Address::Ip("10.0.0.1".parse().unwrap())].into(),
            no_address: None,
            capacity: Capacity { listeners: no_room.then_some(1), targets: None },
            foreign: foreign.and_then(std::num::NonZeroU16::new).map(port).into_iter().collect(),
            failure: None,
            recreated: 0,
        };
        self.class.take_outcome("uid-of-class", index, outcome);
    }

    /// The front ports that claims hold, with how many hold each.
    fn held(&self) -> BTreeMap<(u32, FrontPort), BTreeSet<String>> {
        let mut held: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (name, claim) in &self.claims {
            let request = parse(claim).request.clone();
            if let Some(slots) = request.held {
                for port in slots.slots.iter().flat_map(|slot| slot.key.front_ports()) {
                    held.entry((slots.index, port)).or_default().insert(name.clone());
                }
            }
        }
        held
    }

    /// The claims of the first load balancer whose listeners shall have options.
    fn planned_with_options(&self) -> BTreeSet<String> {
        let plan = &self.class.load_balancers[&0].current;
        let has_options = |planned: &&Planned| planned.options.as_ref().is_some_and(|options| !options.is_default());
        let planned = plan.slots.iter().flatten().filter(has_options);
        planned.map(|planned| planned.target.claim.name.to_string()).collect()
    }

    fn settle(&mut self) {
        for _ in 0..STEPS {
            self.reconcile();
            while !self.in_flight.is_empty() || !self.class_writes.is_empty() {
                self.answer(0, true);
            }
            self.report(0, None, false);
        }
    }
}

fn ports() -> impl Strategy<Value = Vec<Port>> {
    let number = prop_oneof![4 => Just(None), 1 => (20000_u16..20004).prop_map(Some)];
    let protocol = prop_oneof![4 => Just("TCP"), 1 => Just("UDP"), 1 => Just("TCP_UDP")];
    proptest::collection::vec((protocol, number), 0..3)
}

fn act() -> impl Strategy<Value = Act> {
    let claim = || 0_usize..8;
    prop_oneof![
        8 => (claim(), ports()).prop_map(|(claim, ports)| Act::Ask(claim, ports)),
        2 => (claim(), any::<bool>()).prop_map(|(claim, has)| Act::Affinity(claim, has)),
        2 => (claim(), any::<bool>()).prop_map(|(claim, has)| Act::SourceRanges(claim, has)),
        1 => claim().prop_map(Act::Label),
        1 => claim().prop_map(Act::Delete),
        1 => claim().prop_map(Act::Remove),
        12 => Just(Act::Reconcile),
        16 => (0_usize..4, proptest::bool::weighted(0.9)).prop_map(|(nth, succeeds)| Act::Answer(nth, succeeds)),
        1 => (20003_u16..20009, 1_u32..4).prop_map(|(last, max)| Act::Edit(last, max)),
        2 => (0_u32..3, proptest::option::of(20000_u16..20008), proptest::bool::weighted(0.1))
            .prop_map(|(index, foreign, no_room)| Act::Report(index, foreign, no_room)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_newcomer_gets_what_a_decision_would_give_it(
        acts in proptest::collection::vec(act(), 1..60), source_ranges in any::<bool>(), affinity in any::<bool>(),
    ) {
        let affinity = if affinity { AffinitySupport::Timeout } else { AffinitySupport::None };
        let mut world = World::new(source_ranges, affinity);
        for act in &acts {
            world.act(act);
            for (slot, claims) in world.held() {
                prop_assert!(claims.len() == 1, "{:?} is held by {:?}", slot, claims);
            }
        }
    }
}

#[test]
fn a_claim_that_comes_after_all_others_have_their_ports_takes_no_decision() {
    let mut world = World::new(true, AffinitySupport::Timeout);
    world.ask(0, &[("TCP", None)]);
    world.settle();
    assert_eq!(world.admitted, 0, "the first one begins a load balancer");
    for newcomer in 1..4 {
        world.ask(newcomer, &[("TCP", None)]);
        world.reconcile();
        assert_eq!(world.admitted, newcomer);
        world.settle();
    }
    let all: BTreeSet<_> = world.held().into_keys().collect();
    assert_eq!(all.len(), 4);
}

#[test]
fn an_edit_of_options_takes_a_decision_and_reaches_the_plan() {
    for edit in [Act::Affinity, Act::SourceRanges] {
        let mut world = World::new(true, AffinitySupport::Timeout);
        for claim in [0, 1] {
            world.ask(claim, &[("TCP", None)]);
            world.settle();
        }
        let admitted = world.admitted;
        world.act(&edit(0, true));
        world.ask(2, &[("TCP", None)]);
        world.reconcile();
        assert_eq!(world.admitted, admitted);
        world.settle();
        assert_eq!(world.planned_with_options(), [name(0)].into());
        world.act(&edit(1, true));
        world.settle();
        assert_eq!(world.planned_with_options(), [name(0), name(1)].into(), "nothing else has changed");
    }
}
