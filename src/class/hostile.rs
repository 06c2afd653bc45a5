//! Steps of a class with malformed objects: no step panics, the class settles, no slot
//! of another claim moves, and every message is one line of bounded length.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::api::DynamicObject;
use proptest::prelude::*;
use serde_json::{Value, json};
use sharedlb_crds::{CLAIM_FINALIZER, CLASS_FINALIZER};
use sharedlb_providers::FrontPort;
use sharedlb_providers::memory::Memory;
use tokio::time::Instant;

use super::effect::{ClaimChange, ClaimWrite, ClassChange, ClassWrite, Effect};
use super::state::{Class, ClassAnswer, ClassSettings, Context, Now};
use crate::api::claim::ClaimObject;
use crate::api::class::ClassObject;
use crate::backends::Backends;
use crate::fuzz::mutate::near;
use crate::fuzz::{claim_json, class_json, config, is_fit};

/// More reconciles than any object needs until nothing is left to be written.
const ROUNDS: usize = 12;

/// A class and its claims in an API server that takes every write.
struct World {
    class: Class,
    objects: BTreeMap<String, Value>,
    class_object: Value,
    version: u64,
    backends: Backends,
}

fn parse<T>(object: &Value, parse: impl Fn(&DynamicObject) -> T) -> Option<T> {
    serde_json::from_value(object.clone()).ok().map(|object| parse(&object))
}

impl World {
    /// `None`: one of the objects is none that an API server has.
    fn new(class_object: Value, claims: impl IntoIterator<Item = Value>) -> Option<Self> {
        let mut class = Class::new(Some("default".into()));
        let object = parse(&class_object, ClassObject::parse)?;
        if let Ok(spec) = &object.spec {
            class.settings = Some(ClassSettings::of_new(spec.clone(), Arc::new(Memory::default())));
        }
        class.object = Some(Arc::new(object));
        let mut objects = BTreeMap::new();
        for claim in claims {
            class.insert_claim(None, Arc::new(parse(&claim, ClaimObject::parse)?));
            objects.insert(claim["metadata"]["name"].as_str()?.to_owned(), claim);
        }
        Some(Self { class, objects, class_object, version: 1000, backends: Backends::default() })
    }

    /// Reconciles until nothing is written any more.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..ROUNDS {
            if !self.reconcile()? {
                let waits = self.class.gives > 0 || self.class.class_write.is_some() || !self.class.is_idle();
                prop_assert!(!waits, "it waits for ever");
                let free = self.class.claims.all().all(|state| state.writes.are_free(Now::fixture().instant));
                prop_assert!(free, "a claim is never written again");
                return Ok(());
            }
        }
        Err(TestCaseError::fail(format!("it writes without end: {:#?} {:#?}", self.class_object, self.objects)))
    }

    /// Returns whether anything was written.
    fn reconcile(&mut self) -> Result<bool, TestCaseError> {
        let namespaces = BTreeMap::new();
        let mut effects = Vec::new();
        loop {
            let context = Context::fixture(&namespaces, &self.backends);
            effects.extend(self.class.step(&context));
            if !self.class.has_work() {
                break;
            }
        }
        let mut written = false;
        for effect in effects {
            match effect {
                Effect::Claim(write) => self.write_claim(write)?,
                Effect::Class(write) => self.write_class(write)?,
                _ => continue,
            }
            written = true;
        }
        Ok(written)
    }

    fn write_claim(&mut self, write: ClaimWrite) -> Result<(), TestCaseError> {
        let ClaimWrite { claim, what, awaited_by } = write;
        let name = claim.meta.key.name.to_string();
        let Some(object) = self.objects.get_mut(&name) else {
            return Err(TestCaseError::fail(format!("a claim is written that does not exist: {name}")));
        };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        match what {
            ClaimChange::Status { status, .. } => {
                let messages = status.conditions.iter().map(|condition| condition.message.clone());
                prop_assert!(is_fit(messages), "{:?}", status);
                object["status"] = serde_json::to_value(&*status).unwrap();
            }
            ClaimChange::Protect => finalizers(object, CLAIM_FINALIZER, true),
            ClaimChange::Release => finalizers(object, CLAIM_FINALIZER, false),
        }
        let mut state = self.class.remove_claim(&claim);
        state.iter_mut().for_each(|state| state.writes.succeeded());
        let gone = claim.meta.deleting && object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        let new = parse(object, ClaimObject::parse).filter(|_| !gone);
        new.into_iter().for_each(|new| self.class.insert_claim(state.take(), Arc::new(new)));
        awaited_by.iter().for_each(|_| _ = self.class.give_answered());
        Ok(())
    }

    fn write_class(&mut self, ClassWrite { class, what }: ClassWrite) -> Result<(), TestCaseError> {
        self.version += 1;
        self.class_object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        match what {
            ClassChange::Status(status) => {
                let messages = status.conditions.iter().map(|condition| condition.message.clone());
                prop_assert!(is_fit(messages), "{:?}", status);
                self.class_object["status"] = serde_json::to_value(&*status).unwrap();
            }
            ClassChange::Protect => finalizers(&mut self.class_object, CLASS_FINALIZER, true),
            ClassChange::Release => finalizers(&mut self.class_object, CLASS_FINALIZER, false),
        }
        self.class.class_write_answered(&class, ClassAnswer::Written, Instant::now());
        self.class.replace_object(parse(&self.class_object, ClassObject::parse).map(Arc::new));
        Ok(())
    }

    /// The front ports that the claim of this name holds, by load balancer.
    fn held(&self, name: &str) -> BTreeSet<(u32, FrontPort)> {
        let claim = self.class.claims.all().find(|state| &*state.claim.meta.key.name == name);
        let held = claim.and_then(|state| state.claim.request.held.clone());
        held.iter()
            .flat_map(|held| {
                let ports = held.slots.iter().flat_map(|slot| slot.key.front_ports());
                ports.map(|port| (held.index, port))
            })
            .collect()
    }

    /// Whether the well-formed claims hold the slots that they held before.
    fn neighbours_keep(&self, before: &[BTreeSet<(u32, FrontPort)>]) -> bool {
        NEIGHBOURS.iter().zip(before).all(|((name, _), before)| self.held(name) == *before)
    }
}

/// Claims that hold slots and are as they should be.
const NEIGHBOURS: [(&str, u16); 2] = [("older", 20002), ("younger", 20004)];

fn neighbours() -> impl Iterator<Item = Value> {
    NEIGHBOURS.into_iter().map(|(name, port)| claim_json(name, port))
}

fn finalizers(object: &mut Value, ours: &str, wanted: bool) {
    let all = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let mut all: Vec<Value> = all.into_iter().filter(|finalizer| *finalizer != ours).collect();
    all.extend(wanted.then(|| json!(ours)));
    object["metadata"]["finalizers"] = json!(all);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_a_claim_is_like_the_class_settles_and_its_neighbours_keep_their_slots(
        claim in prop_oneof![
            near(claim_json("redis", 20000), "/spec"),
            near(claim_json("redis", 20000), "/metadata"),
            near(claim_json("redis", 20000), "/status/conditions"),
        ],
        deleted in any::<bool>(),
    ) {
        let mut claim = claim;
        if deleted && claim["metadata"].is_object() {
            claim["metadata"]["deletionTimestamp"] = json!("2026-02-01T00:00:00Z");
        }
        let named = claim["metadata"]["name"] == "redis";
        if let Some(mut world) = World::new(class_json(), neighbours().chain([claim])).filter(|_| named) {
            let before = NEIGHBOURS.map(|(name, _)| world.held(name));
            world.settle()?;
            prop_assert!(world.neighbours_keep(&before));
            let others: BTreeSet<_> = before.iter().flatten().collect();
            prop_assert!(world.held("redis").iter().all(|slot| !others.contains(slot)));
        }
    }

    #[test]
    fn whatever_the_class_is_like_it_settles_and_its_claims_keep_their_slots(
        class in prop_oneof![
            near(class_json(), "/spec"),
            near(class_json(), "/status"),
            near(class_json(), "/metadata"),
        ],
        deleted in any::<bool>(),
    ) {
        let mut class = class;
        if deleted && class["metadata"].is_object() {
            class["metadata"]["deletionTimestamp"] = json!("2026-02-01T00:00:00Z");
        }
        if let Some(mut world) = World::new(class, neighbours()) {
            let before = NEIGHBOURS.map(|(name, _)| world.held(name));
            world.settle()?;
            prop_assert!(world.neighbours_keep(&before));
        }
    }
}
