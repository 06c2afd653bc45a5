//! Classes: which slots claims get, and which listeners load balancers should have.
//!
//! A `Class` is the state of one class, and `Class::step` returns what to do next. It is
//! pure: the class loop routes each event to its class, calls `step`, and carries out the
//! effects (`executor`). Nothing is awaited in between, so that a slow answer delays no
//! other class, and a slow cloud delays no port. The class loop is the only writer of the
//! status of claims and classes, and sends requests only to the Kubernetes API.

mod answers;
mod background;
mod claims;
pub(crate) mod companion;
mod count;
mod decide;
mod dropped_fields;
mod effect;
mod executor;
#[cfg(test)]
mod hostile;
mod in_flight_plans;
mod ledger;
#[cfg(test)]
mod model;
mod newcomers;
mod programmed;
mod refused;
pub(crate) mod render;
mod state;
mod step;
mod suspension;
#[cfg(test)]
mod tests;
pub(crate) mod transitions;
mod unserved;
mod verdicts;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::runtime::watcher::Event;
use sharedlb_crds::{AllowedNamespacesFrom, Reason, SharedLBClass, SharedLBClassSpec};
use sharedlb_providers::Provider;
use tokio::time::Instant;
use tracing::{info, warn};

use self::claims::ClaimState;
use self::decide::AbandonedSlot;
#[cfg(test)]
pub(crate) use self::decide::once::decide_once;
use self::dropped_fields::DroppedFields;
use self::effect::Answer;
use self::executor::{FollowUps, Running};
use self::state::{Class, ClassSettings, Context, Now, OutcomeChange};
use self::writes::Writer;
use crate::allocation::holds_all;
use crate::api::address_conflicts;
use crate::api::claim::ClaimObject;
use crate::api::class::{ClassObject, adopts, default_class};
use crate::backends::{Backends, ServiceObject};
use crate::kubernetes::cache::{Cache, Changed};
use crate::kubernetes::events::{Events, Notice};
use crate::leader::Fence;
use crate::load_balancer::outcome::{AffectedClaims, Outcome};
use crate::process::metrics::Metrics;
use crate::process::queue::{Receiver, Sender, queue};
use crate::process::readiness::Part;
use crate::process::tasks::Tasks;
use crate::watches::{ClusterEvent, NamespaceObject};

/// Creates the provider of a class, whose load balancers have these addresses by index.
pub(crate) type MakeProvider =
    Box<dyn Fn(&ClassObject, &SharedLBClassSpec, &[Vec<IpAddr>]) -> Box<dyn Provider> + Send + Sync>;

/// The dependencies and options of the class loop.
pub(crate) struct ClassLoopSettings {
    pub client: Client,
    /// The id of this cluster, in the names and tags of everything that is created
    pub cluster_id: String,
    /// How often a load balancer is observed although no change is known
    pub resync: Duration,
    /// How long a load balancer may have no address before that is reported as a failure;
    /// `None`: without limit
    pub address_within: Option<Duration>,
    /// Creates the provider of a class
    pub make_provider: MakeProvider,
    /// Services and EndpointSlices
    pub backends: Arc<Backends>,
    pub events: Events,
    /// The sources that publish Events about their claims on the objects that the claims
    /// are kept for
    pub reporting_sources: Vec<&'static str>,
    /// Counts reconciles and writes
    pub metrics: Arc<Metrics>,
    /// Reports what the loop still waits for
    pub readiness: Part,
    /// The register of tasks, for the LB loops
    pub tasks: Arc<Tasks>,
    /// The fence that changes of load balancers must pass
    pub fence: Fence,
}

/// The name of a class; `None`: there is no default class.
type Key = Option<Arc<str>>;

/// An event for the class loop.
enum Input {
    Cluster(Box<ClusterEvent>),
    /// Of the class with this name and uid, and its load balancer with this index
    Outcome(Arc<str>, Arc<str>, u32, Box<Outcome>),
    Answer(Answer),
}

/// The sender of watch events for the class loop.
#[derive(Clone)]
pub(crate) struct Inbox(Sender<Input>);

impl Inbox {
    /// Sends an event. Does nothing once the loop has ended.
    pub(crate) fn send(&self, event: ClusterEvent) {
        self.0.send(Input::Cluster(Box::new(event)));
    }
}

/// The class loop: it routes events to classes, and carries out the effects of their
/// steps.
pub(crate) struct ClassLoop {
    settings: ClassLoopSettings,
    writer: Writer,
    inputs: Receiver<Input>,
    sender: Sender<Input>,
    claims: Cache<ClaimObject>,
    class_objects: Cache<ClassObject>,
    namespaces: Cache<NamespaceObject>,
    /// Whether a class gives its load balancers addresses, so that the addresses that the
    /// cluster itself uses must be known
    addresses_given: bool,
    default_class: Key,
    dropped: DroppedFields,
    /// The classes that exist, and those that claims name
    classes: BTreeMap<Key, Class>,
    running: BTreeMap<Arc<str>, Running>,
    /// How many writes that no port waits for are sent at once, for all classes
    follow_ups: FollowUps,
    /// Classes to be reconciled now
    dirty: BTreeSet<Key>,
    /// When classes are to be reconciled even if nothing happens
    due: BTreeMap<Key, Instant>,
}

impl ClassLoop {
    /// A loop with empty caches, and the sender of its events.
    pub(crate) fn new(settings: ClassLoopSettings) -> (Self, Inbox) {
        let (sender, inputs) = queue(settings.metrics.of_loop("SharedLBClass"));
        let writer = Writer::new(settings.client.clone(), settings.metrics.clone());
        let class_loop = Self {
            settings,
            writer,
            inputs,
            sender: sender.clone(),
            claims: Cache::default(),
            class_objects: Cache::default(),
            namespaces: Cache::default(),
            addresses_given: false,
            default_class: None,
            dropped: DroppedFields::default(),
            classes: BTreeMap::new(),
            running: BTreeMap::new(),
            follow_ups: FollowUps::of_all_classes(),
            dirty: BTreeSet::new(),
            due: BTreeMap::new(),
        };
        (class_loop, Inbox(sender))
    }

    /// Reconciles classes on every event, for ever. Nothing is decided before every cache
    /// has filled.
    pub(crate) async fn run(mut self) {
        while let Some(inputs) = self.inputs.happened(self.due.values().min().copied()).await {
            inputs.into_iter().for_each(|input| self.take_in(input));
            let missing = self.missing();
            if !missing.is_empty() {
                self.settings.readiness.waiting_for(&missing);
                continue;
            }
            self.reconcile_all();
            self.settings.readiness.ready();
        }
    }

    /// Reconciles the classes with new events, and those that are due.
    fn reconcile_all(&mut self) {
        let now = Instant::now();
        let due: Vec<Key> = self.due.iter().filter(|(_, due)| **due <= now).map(|(key, _)| key.clone()).collect();
        self.dirty.extend(due);
        while let Some(key) = self.dirty.pop_first() {
            self.due.remove(&key);
            self.reconcile(&key);
        }
    }

    /// Calls `step` for this class until it has to wait.
    fn reconcile(&mut self, key: &Key) {
        let (began, mut has_worked) = (Instant::now(), false);
        self.ensure_provider(key);
        loop {
            let Some(class) = self.classes.get_mut(key) else { return };
            if class.is_forgettable() {
                // Claims may name any number of classes that do not exist.
                self.classes.remove(key);
                self.running.remove(&key.clone().unwrap_or_default());
                return;
            }
            let now = Now { instant: Instant::now(), time: Timestamp::now() };
            let context = Context {
                now,
                namespaces: self.namespaces.objects(),
                backends: &self.settings.backends,
                dropped: self.dropped,
            };
            let was_idle = class.is_idle();
            let effects = class.step(&context);
            if was_idle && !class.is_idle() {
                class.debounce(now.instant.elapsed(), Instant::now());
            }
            has_worked |= !effects.is_empty();
            let goes_on = class.has_work();
            self.carry_out(key, effects);
            if !goes_on {
                break;
            }
        }
        // Metrics have only classes that exist: claims may name any number of others.
        let existing = self.classes.get(key).and_then(|class| class.object.as_ref());
        if let Some(object) = existing.filter(|_| has_worked) {
            self.settings.metrics.class_run(&object.meta.key.name, began.elapsed());
        }
    }

    /// The kinds that have not been listed yet.
    fn missing(&self) -> Vec<&'static str> {
        let (services, slices) = self.settings.backends.filled();
        let (nodes, service_cidrs) = self.settings.backends.cluster_addresses_filled();
        [
            ("sharedlbs", self.claims.is_filled()),
            ("sharedlbclasses", self.class_objects.is_filled()),
            ("namespaces", self.namespaces.is_filled()),
            ("services", services),
            ("endpointslices", slices),
            ("nodes", nodes || !self.addresses_given),
            ("servicecidrs", service_cidrs || !self.addresses_given),
        ]
        .into_iter()
        .filter_map(|(kind, filled)| (!filled).then_some(kind))
        .collect()
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::Cluster(event) => self.apply_event(*event),
            Input::Outcome(class, uid, index, outcome) => self.outcome_reported(class, &uid, index, *outcome),
            Input::Answer(Answer::Claim(write, result)) => self.claim_answered(write, result.map(|claim| *claim)),
            Input::Answer(Answer::Companion(claim, result)) => {
                self.companion_answered(&claim, result.map(|service| service.map(|service| *service)));
            }
            Input::Answer(Answer::Class(write, result)) => self.class_answered(&write, result.map(|class| *class)),
        }
    }

    fn apply_event(&mut self, event: ClusterEvent) {
        match event {
            ClusterEvent::Claim(event) => {
                for Changed { old, new } in self.claims.apply_event(event) {
                    self.claim_changed(old.as_deref(), new);
                }
            }
            ClusterEvent::Class(event) => {
                let is_listed = matches!(event, Event::InitDone);
                for Changed { old, new } in self.class_objects.apply_event(event) {
                    self.class_changed(old.as_deref(), new);
                }
                if is_listed {
                    self.compare_addresses();
                }
            }
            ClusterEvent::Namespace(event) => {
                let relabelled = |change: &Changed<NamespaceObject>| {
                    change.old.as_ref().map(|old| &old.labels) != change.new.as_ref().map(|new| &new.labels)
                };
                if self.namespaces.apply_event(event).iter().any(relabelled) {
                    self.touch_classes_by_namespace();
                }
            }
            ClusterEvent::Services(changes) => self.services_changed(&changes),
            ClusterEvent::Endpoints(changes) => {
                for key in changes.services {
                    if let Some(service) = self.settings.backends.service(&key) {
                        self.service_changed(&service);
                    }
                }
                if changes.counts {
                    self.count_soon();
                }
                if changes.cluster_addresses {
                    self.compare_addresses();
                }
            }
        }
    }

    /// The class of this claim.
    fn class_of(&self, claim: &ClaimObject) -> Key {
        claim.named_class().map(Into::into).or_else(|| self.default_class.clone())
    }

    fn class(&mut self, key: &Key) -> &mut Class {
        self.classes.entry(key.clone()).or_insert_with(|| Class::new(key.clone()))
    }

    fn claim_changed(&mut self, old: Option<&ClaimObject>, new: Option<Arc<ClaimObject>>) {
        let mut state = None;
        if let Some(old) = old {
            let key = self.class_of(old);
            let stays = new.as_ref().is_some_and(|new| new.meta.uid == old.meta.uid && !new.is_released());
            let leaves = !stays && !old.is_released();
            if let Some(class) = self.classes.get_mut(&key) {
                if leaves && class.settings.is_some() {
                    class.abandoned.extend(AbandonedSlot::of(old));
                }
                state = class.remove_claim(old);
            }
            self.reconcile_soon(key);
        }
        if let Some(new) = new {
            let key = self.class_of(&new);
            // Writes in flight for a former claim of the same name are not for this one.
            let state = state.filter(|state| state.claim.meta.uid == new.meta.uid);
            let is_edited = state.as_ref().is_none_or(|state| state.claim.meta.generation != new.meta.generation);
            let waits_for_a_port = is_edited && !holds_all(&new.request);
            self.class(&key).insert_claim(state, new);
            if waits_for_a_port {
                self.dirty.insert(key);
            } else {
                self.reconcile_soon(key);
            }
        }
    }

    fn class_changed(&mut self, old: Option<&ClassObject>, new: Option<Arc<ClassObject>>) {
        let Some(name) = new.as_deref().or(old).map(|either| either.meta.key.name.clone()) else { return };
        let key = Some(name);
        if let Some(old) = old.filter(|old| new.as_ref().is_none_or(|new| new.meta.uid != old.meta.uid)) {
            self.publish_left(&key, old);
            self.forget_running(old);
            self.due.remove(&key);
        }
        if !self.addresses_given && new.as_deref().is_some_and(ClassObject::gives_addresses) {
            self.addresses_given = true;
            self.settings.backends.need_cluster_addresses();
        }
        let alike = old.zip(new.as_deref()).is_some_and(|(old, new)| address_conflicts::occupy_alike(old, new));
        self.class(&key).replace_object(new);
        self.dirty.insert(key);
        if !alike {
            self.compare_addresses();
        }
        let default = default_class(self.class_objects.objects().values()).map(|class| class.meta.key.name.clone());
        if default != self.default_class {
            info!(class = default.as_deref(), "default class");
            let before = std::mem::replace(&mut self.default_class, default);
            self.regroup_unnamed(&before);
        }
    }

    /// Finds out again which classes have addresses of another class or of the cluster itself,
    /// and reconciles those for which that has changed. At the start they are compared once,
    /// when all are listed.
    fn compare_addresses(&mut self) {
        if !self.class_objects.is_filled() {
            return;
        }
        let all: Vec<Arc<ClassObject>> = self.class_objects.objects().values().cloned().collect();
        for object in &all {
            let of_cluster = |spec: &SharedLBClassSpec| self.settings.backends.cluster_address_conflict(spec);
            let conflict = object.spec.as_ref().ok().and_then(of_cluster).or_else(|| {
                let others = all.iter().map(|other| &**other);
                address_conflicts::conflict(object, others)
            });
            let key = Some(object.meta.key.name.clone());
            let class = self.class(&key);
            if class.address_conflict != conflict {
                class.address_conflict = conflict;
                self.dirty.insert(key);
            }
        }
    }

    /// Claims that name no class follow the default one.
    fn regroup_unnamed(&mut self, before: &Key) {
        let unnamed = self.classes.get_mut(before).map(Class::take_unnamed).unwrap_or_default();
        self.dirty.insert(before.clone());
        let default = self.default_class.clone();
        self.class(&default).put_claims(unnamed);
        self.dirty.insert(default);
    }

    fn touch_classes_by_namespace(&mut self) {
        let selecting = self.class_objects.objects().values().filter(|class| {
            class.spec.as_ref().is_ok_and(|spec| spec.allowed_namespaces.from == AllowedNamespacesFrom::Selector)
        });
        self.dirty.extend(selecting.map(|class| Some(class.meta.key.name.clone())));
    }

    fn outcome_reported(&mut self, name: Arc<str>, uid: &str, index: u32, outcome: Outcome) {
        let key = Some(name);
        let Some(class) = self.classes.get_mut(&key) else { return };
        let OutcomeChange { affected, was_gone } = class.take_outcome(uid, index, outcome);
        if let Some(object) = class.object.clone().filter(|_| was_gone) {
            self.publish_gone(&object, index);
        }
        let Some(affected) = affected else { return };
        if let AffectedClaims::These(claims) = affected {
            let claims: Vec<_> = claims.iter().filter_map(|id| self.claims.get(id).cloned()).collect();
            for claim in claims {
                self.state(&claim).into_iter().for_each(|state| state.rendered = None);
            }
        }
        self.reconcile_soon(key);
    }

    /// Publishes that a load balancer was deleted by hand: its ports were closed for a
    /// while, and it may have another address now.
    fn publish_gone(&self, class: &ClassObject, index: u32) {
        let note = if class.spec.as_ref().is_ok_and(adopts) {
            format!("load balancer {index}, which the class adopts, is gone: create a class for another one")
        } else {
            format!("load balancer {index} was gone: it is recreated with the same ports, and may get another address")
        };
        let notice = Notice::warning(Reason::LoadBalancerGone.as_str(), note);
        self.settings.events.publish::<SharedLBClass>(&class.meta, &notice);
    }

    /// Publishes which load balancers of a class are left that was deleted by force: nothing
    /// deletes them any more.
    fn publish_left(&self, key: &Key, class: &ClassObject) {
        let objects = self.classes.get(key).map(|known| known.objects(&self.settings.cluster_id)).unwrap_or_default();
        if objects.is_empty() || class.spec.as_ref().is_ok_and(adopts) {
            return;
        }
        let note = format!(
            "the class was deleted although it has load balancers, since its finalizer was removed by force. They are \
             left, with everything else of the same names: delete {}",
            objects.join("; ")
        );
        warn!(class = %class.meta.key.name, note, "load balancers are left");
        let notice = Notice::warning(Reason::LoadBalancersLeft.as_str(), note);
        self.settings.events.publish::<SharedLBClass>(&class.meta, &notice);
    }

    /// Has the claims that depend on these Services checked again.
    fn services_changed(&mut self, changes: &[Changed<ServiceObject>]) {
        // A Service may have a new owner: the claims of both owners are concerned.
        let services = changes.iter().flat_map(|change| change.old.iter().chain(&change.new));
        services.for_each(|service| self.service_changed(service));
    }

    /// Has the claims that depend on a Service checked again.
    fn service_changed(&mut self, service: &ServiceObject) {
        let concerned = companion::concerned(service, self.claims.objects());
        for claim in concerned {
            if let Some(state) = self.state(&claim) {
                state.rendered = None;
                state.service_is_fine = false;
                let key = self.class_of(&claim);
                self.reconcile_soon(key);
            }
        }
    }

    fn state(&mut self, claim: &ClaimObject) -> Option<&mut ClaimState> {
        let key = self.class_of(claim);
        self.classes.get_mut(&key)?.claims.get_mut(claim)
    }

    /// Reconciles a class once its debounce is over, for events by which no claim needs a
    /// port: those leave time for claims that wait for one.
    fn reconcile_soon(&mut self, key: Key) {
        let debounce = self.classes.get(&key).and_then(|class| class.debounce_until);
        match debounce.filter(|until| *until > Instant::now()) {
            Some(until) => self.reconcile_at(key, until),
            None => _ = self.dirty.insert(key),
        }
    }

    /// Reconciles classes with a limit of targets before long: the room on their load
    /// balancers may have changed.
    fn count_soon(&mut self) {
        let counts = |class: &Class| class.settings.as_ref().is_some_and(ClassSettings::counts_targets);
        let limited: Vec<Key> =
            self.classes.iter().filter(|(_, class)| counts(class)).map(|(key, _)| key.clone()).collect();
        limited.into_iter().for_each(|key| self.reconcile_at(key, Instant::now() + step::NUMBERS_EVERY));
    }

    fn reconcile_at(&mut self, key: Key, time: Instant) {
        let due = self.due.entry(key).or_insert(time);
        *due = (*due).min(time);
    }
}
