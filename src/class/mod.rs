//! The class loop: the only one that writes the status of claims and classes,
//! and it talks to nothing but the Kubernetes API, so that a slow cloud never
//! delays a port.
//!
//! It owns all that it decides on. Watches, LB loops and its own writes tell it
//! what happened; it takes that in, and then runs every class that it touched.

pub mod companion;
mod count;
mod decide;
mod group;
mod handed;
#[cfg(test)]
mod model;
pub mod render;
mod run;
mod runner;
mod side;
mod unserved;
mod verdicts;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use sharedlb_crds::{AllowedNamespacesFrom, Reason, SharedLBClass, SharedLBClassSpec};
use sharedlb_providers::Provider;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::info;

use self::decide::Left;
#[cfg(test)]
pub(crate) use self::decide::once::decide_once;
use self::group::{Entry, Group};
use self::runner::Runner;
use self::side::Written;
use self::writes::Writer;
use crate::api::claim::ClaimObject;
use crate::api::class::{ClassObject, adopts, default_class};
use crate::backends::{Backends, ServiceObject};
use crate::kubernetes::ObjectKey;
use crate::kubernetes::cache::{Cache, Changed};
use crate::kubernetes::events::Events;
use crate::leader::Fence;
use crate::load_balancer::outcome::{News, Outcome};
use crate::process::due::happened;
use crate::process::metrics::Metrics;
use crate::process::readiness::Part;
use crate::process::tasks::Tasks;
use crate::watches::{NamespaceObject, Told};

/// What makes the provider of a class.
pub type MakeProvider = Box<dyn Fn(&ClassObject, &SharedLBClassSpec) -> Box<dyn Provider> + Send + Sync>;

/// What the class loop is given at its start.
pub struct Settings {
    /// The Kubernetes API
    pub client: Client,
    /// What tells this cluster's objects from another's
    pub cluster_id: String,
    /// How often a load balancer is looked at although nothing is known to have
    /// changed
    pub resync: Duration,
    /// Makes the provider of a class
    pub make_provider: MakeProvider,
    /// Services and EndpointSlices
    pub backends: Arc<Backends>,
    /// Where events go
    pub events: Events,
    /// Where runs and writes are counted
    pub metrics: Arc<Metrics>,
    /// Whom it is told what is still missing
    pub readiness: Part,
    /// What the loops of load balancers run as
    pub tasks: Arc<Tasks>,
    /// What changes of load balancers must pass
    pub fence: Fence,
}

/// What happened.
enum Input {
    Told(Box<Told>),
    /// Of the class with this name and uid, the load balancer of this index
    Outcome(Arc<str>, Arc<str>, u32, Box<Outcome>),
    Written(Written),
}

/// Hands the class loop what a watch told.
#[derive(Clone)]
pub struct Inbox(mpsc::UnboundedSender<Input>);

impl Inbox {
    /// Hands it over. Does nothing once the loop has ended.
    pub fn tell(&self, told: Told) {
        _ = self.0.send(Input::Told(Box::new(told)));
    }
}

/// The class loop and all that it knows.
pub struct ClassLoop {
    settings: Settings,
    writer: Writer,
    inputs: mpsc::UnboundedReceiver<Input>,
    sender: mpsc::UnboundedSender<Input>,
    claims: Cache<ClaimObject>,
    classes: Cache<ClassObject>,
    namespaces: Cache<NamespaceObject>,
    default_class: Option<Arc<str>>,
    /// Whether the CustomResourceDefinition of claims is older than this version, so that
    /// the API server drops `status.ports[].targetPort`
    drops_target_ports: bool,
    /// The claims, by the class that they want; `None`: there is no default class
    groups: BTreeMap<Option<Arc<str>>, Group>,
    runners: BTreeMap<Arc<str>, Runner>,
    /// What claims held that went, or were let go, since their class was last run
    left: BTreeMap<Arc<str>, Vec<Left>>,
    dirty: BTreeSet<Option<Arc<str>>>,
    /// When a class is to be run although nothing happens
    due: BTreeMap<Option<Arc<str>>, Instant>,
}

impl ClassLoop {
    /// A loop that knows nothing yet, and where to tell it things.
    #[must_use]
    pub fn new(settings: Settings) -> (Self, Inbox) {
        let (sender, inputs) = mpsc::unbounded_channel();
        let writer = Writer::new(settings.client.clone(), settings.metrics.clone());
        let class_loop = Self {
            settings,
            writer,
            inputs,
            sender: sender.clone(),
            claims: Cache::default(),
            classes: Cache::default(),
            namespaces: Cache::default(),
            default_class: None,
            drops_target_ports: false,
            groups: BTreeMap::new(),
            runners: BTreeMap::new(),
            left: BTreeMap::new(),
            dirty: BTreeSet::new(),
            due: BTreeMap::new(),
        };
        (class_loop, Inbox(sender))
    }

    /// Takes in what happened, and runs every class that it touched, for ever.
    /// Nothing is decided before every cache has filled.
    pub async fn run(mut self) {
        while let Some(inputs) = happened(&mut self.inputs, self.due.values().min().copied()).await {
            inputs.into_iter().for_each(|input| self.take_in(input));
            let missing = self.missing();
            if !missing.is_empty() {
                self.settings.readiness.waiting_for(&missing);
                continue;
            }
            self.run_touched().await;
            self.settings.readiness.ready();
        }
    }

    async fn run_touched(&mut self) {
        let now = Instant::now();
        self.due.retain(|class, due| {
            let now = *due <= now;
            if now {
                self.dirty.insert(class.clone());
            }
            !now
        });
        while let Some(class) = self.dirty.pop_first() {
            let exists = class.as_ref().and_then(|name| self.classes.get(&ObjectKey::cluster_scoped(name))).cloned();
            match (class, exists) {
                (Some(name), Some(class)) => self.run_class(&name, &class).await,
                (key, _) => self.run_without_class(&key),
            }
        }
    }

    /// What has not been listed yet.
    fn missing(&self) -> Vec<&'static str> {
        let (services, slices) = self.settings.backends.filled();
        [
            ("sharedlbs", self.claims.is_filled()),
            ("sharedlbclasses", self.classes.is_filled()),
            ("namespaces", self.namespaces.is_filled()),
            ("services", services),
            ("endpointslices", slices),
        ]
        .into_iter()
        .filter_map(|(kind, filled)| (!filled).then_some(kind))
        .collect()
    }

    fn take_in(&mut self, input: Input) {
        match input {
            Input::Told(told) => self.apply_event(*told),
            Input::Outcome(class, uid, index, outcome) => {
                self.tell_gone(&class, &uid, index, &outcome);
                let runner = self.runners.get_mut(&class);
                if let Some(news) = runner.and_then(|runner| runner.take_outcome(&uid, index, *outcome)) {
                    self.told_by_load_balancer(class, index, &news);
                }
            }
            Input::Written(written) => self.side_written(written),
        }
    }

    fn apply_event(&mut self, told: Told) {
        match told {
            Told::Claim(event) => {
                for Changed { old, new } in self.claims.apply_event(event) {
                    self.claim_changed(old.as_deref(), new);
                }
            }
            Told::Class(event) => {
                for Changed { old, new } in self.classes.apply_event(event) {
                    self.class_changed(old.as_deref(), new.as_deref());
                }
            }
            Told::Namespace(event) => {
                let relabelled = |change: &Changed<NamespaceObject>| {
                    change.old.as_ref().map(|old| &old.labels) != change.new.as_ref().map(|new| &new.labels)
                };
                if self.namespaces.apply_event(event).iter().any(relabelled) {
                    self.touch_classes_by_namespace();
                }
            }
            Told::Services(changes) => {
                // Whose it was matters as much as whose it is.
                let services = changes.iter().flat_map(|change| change.old.iter().chain(&change.new));
                services.for_each(|service| self.service_changed(service));
            }
            Told::Endpoints(news) => {
                for key in news.services {
                    if let Some(service) = self.settings.backends.service(&key) {
                        self.service_changed(&service);
                    }
                }
                if news.counts {
                    self.count_soon();
                }
            }
        }
    }

    /// The class that this claim wants.
    fn class_of(&self, claim: &ClaimObject) -> Option<Arc<str>> {
        claim.named_class().map(Into::into).or_else(|| self.default_class.clone())
    }

    fn claim_changed(&mut self, old: Option<&ClaimObject>, new: Option<Arc<ClaimObject>>) {
        let mut entry = None;
        if let Some(old) = old {
            let class = self.class_of(old);
            let stays = new.as_ref().is_some_and(|new| new.meta.uid == old.meta.uid && !new.is_let_go());
            let leaves = !stays && !old.is_let_go();
            if let Some(name) = class.as_ref().filter(|name| leaves && self.runners.contains_key(*name)) {
                self.left.entry(name.clone()).or_default().extend(Left::of(old));
            }
            entry = self.groups.get_mut(&class).and_then(|group| group.remove(old));
            self.run_soon(class);
        }
        if let Some(new) = new {
            let class = self.class_of(&new);
            // What is under way for a claim of the same name that is gone is not for this one.
            let entry = entry.filter(|entry| entry.claim.meta.uid == new.meta.uid);
            let asks = entry.as_ref().is_none_or(|entry| entry.claim.meta.generation != new.meta.generation);
            self.groups.entry(class.clone()).or_default().insert(entry, new);
            if asks {
                self.dirty.insert(class);
            } else {
                self.run_soon(class);
            }
        }
    }

    fn class_changed(&mut self, old: Option<&ClassObject>, new: Option<&ClassObject>) {
        let Some(either) = new.or(old) else { return };
        let name = either.meta.key.name.clone();
        if old.map(|class| &class.meta.uid) != new.map(|class| &class.meta.uid) {
            // Its load balancers stay as they are: a class goes this way only if
            // somebody took our finalizer off.
            self.runners.remove(&name);
            self.left.remove(&name);
            self.due.remove(&Some(name.clone()));
            self.settings.metrics.forget_class(&name);
        }
        self.dirty.insert(Some(name));
        let default = default_class(self.classes.objects().values()).map(|class| class.meta.key.name.clone());
        if default != self.default_class {
            info!(class = default.as_deref(), "default class");
            let before = std::mem::replace(&mut self.default_class, default);
            self.regroup_unnamed(before);
        }
    }

    /// Claims that name no class follow the default one.
    fn regroup_unnamed(&mut self, before: Option<Arc<str>>) {
        let unnamed = self.groups.get_mut(&before).map(Group::take_unnamed).unwrap_or_default();
        self.dirty.insert(before);
        self.dirty.insert(self.default_class.clone());
        let group = self.groups.entry(self.default_class.clone()).or_default();
        unnamed.into_iter().for_each(|entry| group.put(entry));
    }

    fn touch_classes_by_namespace(&mut self) {
        let selecting = self.classes.objects().values().filter(|class| {
            class.spec.as_ref().is_ok_and(|spec| spec.allowed_namespaces.from == AllowedNamespacesFrom::Selector)
        });
        self.dirty.extend(selecting.map(|class| Some(class.meta.key.name.clone())));
    }

    /// Somebody deleted a load balancer: that its ports were closed for a while, and
    /// that its address may be another now, the class' admin should know.
    fn tell_gone(&self, class: &Arc<str>, uid: &str, index: u32, outcome: &Outcome) {
        let gone = self.runners.get(class).is_some_and(|runner| runner.was_gone(uid, index, outcome));
        let Some(class) = self.classes.get(&ObjectKey::cluster_scoped(class)).filter(|_| gone) else { return };
        let note = if class.spec.as_ref().is_ok_and(adopts) {
            format!("load balancer {index}, which the class adopts, is gone: make a class for another one")
        } else {
            format!("load balancer {index} was gone: it is recreated with the same ports, and may get another address")
        };
        let reason = Reason::LoadBalancerGone.as_str().to_owned();
        self.settings.events.tell::<SharedLBClass>(&class.meta, true, reason, note);
    }

    /// The claims for which a load balancer has news are looked at again.
    fn told_by_load_balancer(&mut self, class: Arc<str>, index: u32, news: &News) {
        let key = Some(class);
        match news {
            News::ForAll => {
                let entries = self.groups.get_mut(&key).into_iter().flat_map(Group::entries_mut);
                let there =
                    |entry: &&mut Entry| entry.claim.request.held.as_ref().is_some_and(|held| held.index == index);
                entries.filter(there).for_each(|entry| entry.rendered = None);
            }
            News::For(claims) => {
                let claims: Vec<_> = claims.iter().filter_map(|id| self.claims.get(id).cloned()).collect();
                for claim in claims {
                    self.entry(&claim).into_iter().for_each(|entry| entry.rendered = None);
                }
            }
        }
        self.run_soon(key);
    }

    /// The claims that a Service matters to are looked at again.
    fn service_changed(&mut self, service: &ServiceObject) {
        let concerned = companion::concerned(service, self.claims.objects());
        for claim in concerned {
            if let Some(entry) = self.entry(&claim) {
                entry.rendered = None;
                entry.service_is_fine = false;
                let class = self.class_of(&claim);
                self.run_soon(class);
            }
        }
    }

    fn entry(&mut self, claim: &ClaimObject) -> Option<&mut Entry> {
        let class = self.class_of(claim);
        self.groups.get_mut(&class)?.get_mut(claim)
    }

    /// A class is to be run, and nobody waits for a port: a big one rests before,
    /// so that most of the time it is free for somebody who does.
    fn run_soon(&mut self, class: Option<Arc<str>>) {
        let rested = class.as_ref().and_then(|name| self.runners.get(name)?.rests_until);
        match rested.filter(|rested| *rested > Instant::now()) {
            Some(rested) => self.run_at(class, rested),
            None => _ = self.dirty.insert(class),
        }
    }

    /// Classes whose load balancers take only so many targets are run within a
    /// while: there may be room now, or none any more.
    fn count_soon(&mut self) {
        let limited = self.runners.iter().filter(|(_, runner)| runner.counts_targets);
        let limited: Vec<_> = limited.map(|(name, _)| name.clone()).collect();
        limited.into_iter().for_each(|name| self.run_at(Some(name), Instant::now() + run::NUMBERS_EVERY));
    }

    fn run_at(&mut self, class: Option<Arc<str>>, time: Instant) {
        let due = self.due.entry(class).or_insert(time);
        *due = (*due).min(time);
    }
}
