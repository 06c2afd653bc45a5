//! An API server and a class loop, as far as a source meets them, for one object
//! and its claim.

use crate::kubernetes::events::Notice;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::Resource as _;
use serde_json::{Map, Value, json};
use sharedlb_crds::{CLAIM_FINALIZER, Reason};

use super::{Facts, OwnedClaim, Problem, Source, Step};

/// More writes than anything takes.
const STEPS_MAX: usize = 60;

/// The object and its claim as the API has them.
pub(super) struct World<S> {
    source: Arc<S>,
    pub(super) object: Option<Value>,
    pub(super) claim: Option<Value>,
    /// Why the API server does not take the claim, if it does not
    pub(super) rejects: Option<Problem>,
    problem: Option<Problem>,
    last_reported: Option<Notice>,
    /// The reasons of all Events of the object
    pub(super) events: Vec<String>,
    /// What was done, in words
    pub(super) done: Vec<String>,
    version: u64,
    now: Timestamp,
    /// Whether the load balancer takes its time, so that claims do not get ready
    pub(super) is_slow: bool,
}

impl<S> Clone for World<S> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            object: self.object.clone(),
            claim: self.claim.clone(),
            rejects: self.rejects.clone(),
            problem: self.problem.clone(),
            last_reported: self.last_reported.clone(),
            events: self.events.clone(),
            done: self.done.clone(),
            version: self.version,
            now: self.now,
            is_slow: self.is_slow,
        }
    }
}

impl<S: Source> World<S> {
    pub(super) fn new(source: Arc<S>, object: Value) -> Self {
        let mut world = Self {
            source,
            object: None,
            claim: None,
            rejects: None,
            problem: None,
            last_reported: None,
            events: Vec::new(),
            done: Vec::new(),
            version: 1,
            now: "2026-01-03T00:00:00.5Z".parse().unwrap(),
            is_slow: false,
        };
        world.object = Some(world.created(object));
        world
    }

    /// What else is decided on has changed.
    pub(super) fn with_source(mut self, source: Arc<S>) -> Self {
        self.source = source;
        self
    }

    /// The process is killed, and starts again: it knows what the API says.
    pub(super) fn restarted(mut self) -> Self {
        (self.problem, self.last_reported) = (None, None);
        self
    }

    fn created(&mut self, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["namespace"] = json!("team");
        object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        object["metadata"]["generation"] = json!(1);
        self.stamped(object)
    }

    fn stamped(&mut self, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        object
    }

    /// A user asks for the deletion of the object or of the claim.
    pub(super) fn delete(&mut self, what: fn(&mut Self) -> &mut Option<Value>) {
        let Some(mut object) = what(self).take() else { return };
        object["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
        *what(self) = Some(self.stamped(object));
        self.let_go();
    }

    /// What is being deleted and kept by nothing is gone.
    fn let_go(&mut self) {
        for object in [&mut self.object, &mut self.claim] {
            let kept = |object: &Value| {
                object["metadata"]["deletionTimestamp"].is_null()
                    || object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty())
            };
            *object = object.take().filter(kept);
        }
    }

    /// Another client changes the object by a merge patch.
    pub(super) fn edit(&mut self, patch: &Value) {
        let Some(mut object) = self.object.take() else { return };
        let changed =
            patch["data"].as_object().into_iter().flatten().filter(|(key, value)| object["data"][key] != **value);
        let changed: Map<String, Value> = changed.map(|(key, value)| (key.clone(), value.clone())).collect();
        merge(&mut object, patch);
        self.object = Some(self.stamped(object));
        self.take_over(&json!({ "data": changed }), false);
        self.let_go();
    }

    /// The API server records which keys of `data` were last written by us.
    fn take_over(&mut self, patch: &Value, by_us: bool) {
        let Some(object) = &mut self.object else { return };
        let Some(keys) = patch["data"].as_object() else { return };
        let mut ours = object["metadata"]["managedFields"][0]["fieldsV1"]["f:data"].clone();
        for (key, value) in keys {
            let kept = if by_us && !value.is_null() { json!({}) } else { Value::Null };
            merge(&mut ours, &json!({ format!("f:{key}"): kept }));
        }
        object["metadata"]["managedFields"] =
            json!([{"manager": "sharedlb", "operation": "Update", "fieldsV1": {"f:data": ours}}]);
    }

    /// Another client changes the claim by a merge patch.
    pub(super) fn edit_claim(&mut self, patch: &Value) {
        let Some(mut claim) = self.claim.take() else { return };
        let before = claim["spec"].clone();
        merge(&mut claim, patch);
        if claim["spec"] != before {
            claim["metadata"]["generation"] = json!(claim["metadata"]["generation"].as_i64().unwrap() + 1);
        }
        self.claim = Some(self.stamped(claim));
        self.let_go();
    }

    /// What the source would do next.
    fn next(&self) -> Option<Step> {
        let object = self.object.as_ref().and_then(|object| {
            self.source.parse(&serde_json::from_value(object.clone()).expect("an object of the source's kind"))
        });
        let claim = self
            .claim
            .as_ref()
            .and_then(|claim| OwnedClaim::parse::<S>(&serde_json::from_value(claim.clone()).expect("a claim")));
        self.source.next(&Facts {
            object: object.as_ref(),
            claim: claim.as_ref(),
            problem: self.problem.as_ref(),
            last_reported: self.last_reported.as_ref(),
            now: self.now,
        })
    }

    /// The next write of the source, or else of the class loop. Returns whether
    /// there was one.
    pub(super) fn step(&mut self) -> bool {
        match self.next() {
            Some(Step::Wait(until)) => {
                if !self.class_loop() {
                    self.done.push("wait".to_owned());
                    self.now = until;
                }
                true
            }
            Some(step) => self.carry_out(step),
            None => self.class_loop(),
        }
    }

    /// The next write of the source alone. Returns whether there was one.
    pub(super) fn source_step(&mut self) -> bool {
        self.next().is_some_and(|step| self.carry_out(step))
    }

    fn carry_out(&mut self, step: Step) -> bool {
        match step {
            Step::Create(claim) => match (&self.rejects, &self.claim) {
                (Some(problem), _) => return self.reject(problem.clone()),
                (None, Some(_)) => {
                    return self.reject(Problem { reason: Reason::NameTaken, message: "taken".to_owned() });
                }
                (None, None) => {
                    self.done.push("create".to_owned());
                    self.claim = Some(self.created(serde_json::to_value(claim).unwrap()));
                }
            },
            Step::Correct(patch) => {
                if let Some(problem) = &self.rejects {
                    return self.reject(problem.clone());
                }
                self.done.push("correct".to_owned());
                self.edit_claim(&patch);
            }
            Step::Delete(events) => {
                self.done.push("delete".to_owned());
                self.delete(|world| &mut world.claim);
                self.events.extend(events.map(|events| events.reason));
            }
            Step::Change(change) => {
                self.done.push(change.what.to_owned());
                self.edit(&change.patch);
                self.take_over(&change.patch, true);
                self.events.extend(change.notices.into_iter().map(|events| events.reason));
            }
            Step::Report(notice) => {
                self.events.push(notice.reason.clone());
                self.last_reported = Some(notice);
            }
            Step::Wait(until) => self.now = until,
        }
        true
    }

    /// Returns whether that changes the problem: a write that is refused again and again is
    /// an end too.
    fn reject(&mut self, problem: Problem) -> bool {
        let before = self.problem.replace(problem);
        before != self.problem
    }

    /// Gives ports: those that are asked for, and others by their names. In a second
    /// write they are served.
    fn class_loop(&mut self) -> bool {
        let Some(mut claim) = self.claim.clone() else { return false };
        if claim["metadata"]["ownerReferences"].is_null() {
            return false;
        }
        if !claim["metadata"]["deletionTimestamp"].is_null() {
            let finalizers = claim["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            let others: Vec<Value> =
                finalizers.iter().filter(|finalizer| **finalizer != json!(CLAIM_FINALIZER)).cloned().collect();
            if others == finalizers {
                return false;
            }
            self.done.push(if others.is_empty() { "gone" } else { "released" }.to_owned());
            claim["metadata"]["finalizers"] = json!(others);
            self.claim = Some(self.stamped(claim));
            self.let_go();
            return true;
        }
        let is_given = claim["status"]["observedGeneration"] == claim["metadata"]["generation"];
        let waits = claim["status"]["conditions"][2]["reason"] == Reason::Pending.as_str();
        if is_given && (self.is_slow || !waits) {
            return false;
        }
        let given = |port: &Value| {
            let name = port["name"].as_str().unwrap_or_default();
            let number = 20000 + name.bytes().map(u64::from).sum::<u64>();
            let number = port["port"].as_u64().unwrap_or(number);
            json!({"name": name, "protocol": port["protocol"], "port": number})
        };
        let ports: Vec<Value> = claim["spec"]["ports"].as_array().unwrap().iter().map(given).collect();
        let opened = |port: &Value| {
            let transports = port["protocol"].as_str().unwrap().split('_').map(str::to_owned).collect::<Vec<_>>();
            transports.into_iter().map(|one| json!({"port": port["port"], "protocol": one})).collect::<Vec<_>>()
        };
        let condition = |kind: &str| {
            json!({"type": kind, "status": "True", "reason": kind, "message": format!("class {}", claim["spec"]["className"]),
                "lastTransitionTime": "2026-01-01T00:00:00.25Z", "observedGeneration": claim["metadata"]["generation"]})
        };
        let served = claim["status"]["loadBalancer"].clone();
        claim["status"] = json!({
            "className": claim["spec"]["className"], "loadBalancerIndex": 0, "address": "10.0.0.1",
            "loadBalancer": {"ingress": [{"ip": "10.0.0.1", "ports": ports.iter().flat_map(opened).collect::<Vec<_>>()}]},
            "ports": ports, "observedGeneration": claim["metadata"]["generation"],
            "conditions": [condition("Allocated"), condition("Programmed"), condition("Ready")],
        });
        if !is_given {
            claim["status"]["loadBalancer"] = served;
            for condition in [1, 2] {
                claim["status"]["conditions"][condition]["status"] = json!("False");
                claim["status"]["conditions"][condition]["reason"] = json!(Reason::Pending.as_str());
                claim["status"]["conditions"][condition]["lastTransitionTime"] = json!(self.now.to_string());
            }
        }
        claim["metadata"]["finalizers"] = json!([CLAIM_FINALIZER]);
        self.claim = Some(self.stamped(claim));
        true
    }

    /// Goes on until nothing more happens.
    pub(super) fn settled(mut self) -> Self {
        for _ in 0..STEPS_MAX {
            if !self.step() {
                return self;
            }
        }
        panic!("it never ends: {:?}", self.done);
    }

    /// The world before each of the steps to the end, and at the end.
    pub(super) fn on_the_way(mut self) -> Vec<Self> {
        let mut worlds = vec![self.clone()];
        while self.step() {
            assert!(worlds.len() < STEPS_MAX, "it never ends: {:?}", self.done);
            worlds.push(self.clone());
        }
        worlds
    }

    /// What a user sees in the end: all but what differs each time.
    pub(super) fn seen(&self) -> Value {
        let object = self.object.as_ref().map(|object| {
            let mut seen = object.clone();
            for gone in ["uid", "resourceVersion", "generation", "namespace", "managedFields"] {
                seen["metadata"].as_object_mut().unwrap().remove(gone);
            }
            without_times(&mut seen);
            without_nothing(&mut seen);
            seen
        });
        let claim =
            self.claim.as_ref().map(|claim| json!({"spec": claim["spec"], "labels": claim["metadata"]["labels"]}));
        json!({"object": object, "claim": claim})
    }
}

fn without_times(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("lastTransitionTime");
            fields.values_mut().for_each(without_times);
        }
        Value::Array(items) => items.iter_mut().for_each(without_times),
        _ => {}
    }
}

/// Empty lists and objects mean the same as none.
fn without_nothing(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.values_mut().for_each(without_nothing);
        fields.retain(|_, value| *value != json!({}) && *value != json!([]) && !value.is_null());
    }
}

/// RFC 7386.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let Some(fields) = into.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key).or_insert(Value::Null), value);
        }
    }
}

#[test]
fn a_claim_is_of_one_source_alone() {
    let meta = |name: &str| {
        let metadata = kube::core::ObjectMeta {
            namespace: Some("team".to_owned()),
            name: Some(name.to_owned()),
            uid: Some("u".to_owned()),
            ..Default::default()
        };
        crate::kubernetes::ObjectMeta::of(&Service { metadata, ..Default::default() })
    };
    let made = super::owned::claim::<super::service::Services>(&meta("web"), Default::default());
    let parse = |claim: &sharedlb_crds::SharedLB| {
        let object = serde_json::from_value(serde_json::to_value(claim).unwrap()).unwrap();
        OwnedClaim::parse::<super::service::Services>(&object)
    };
    assert_eq!(parse(&made).unwrap().source.name.as_ref(), "web");
    let mut renamed = made.clone();
    renamed.meta_mut().name = Some("web".to_owned());
    assert!(parse(&renamed).is_none(), "a user's claim that a Service owns");
    let mut orphan = made;
    orphan.meta_mut().owner_references = None;
    assert!(parse(&orphan).is_none());
}
