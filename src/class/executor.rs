//! Carries out the effects of steps. Every write is a task of its own, and its answer
//! comes back to the class loop.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use parking_lot::Mutex;
use sharedlb_crds::TargetKind;
use sharedlb_providers::LbName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::effect::{Answer, ClaimChange, ClaimWrite, ClassChange, ClassWrite, CompanionWrite, Effect};
use super::effect::{Figures, StartLoadBalancer};
use super::state::ClassSettings;
use super::writes::{WriteError, Writer};
use super::{ClassLoop, Input, Key};
use crate::api::addresses;
use crate::api::claim::ClaimObject;
use crate::api::class::{ClassObject, same_provider};
use crate::backends::{ServiceObject, Signal};
use crate::leader::FencedProvider;
use crate::load_balancer::LbLoop;
use crate::load_balancer::desired::Plan;
use crate::process::counted_provider::CountedProvider;

/// The writes of one class by which slots change hands that are sent at once. It is
/// half of what the client sends at once, so that a class whose writes are not
/// answered, such as by an admission webhook, leaves room for the others.
const GIVES_AT_ONCE: usize = 24;

/// The writes that follow, of each kind ([`Lane`]), that are sent at once, of all classes.
/// They are few, so that an API server with much to do has no long queue of them, behind
/// which a claim would wait for its port: 4 writes of 5 ms are 800 a second. (Where the claims
/// of a class of 10,000 were edited 50 times a second, a new claim of another class waited
/// 23 ms for its port at the median with 2 of a class at once, and 144 ms with 4.)
const FOLLOW_UPS_AT_ONCE: usize = 4;

/// The same of one class: half of it, as of the others.
const FOLLOW_UPS_OF_CLASS_AT_ONCE: usize = FOLLOW_UPS_AT_ONCE / 2;

/// What a write to a claim or a companion Service waits for: writes of the same kind.
#[derive(Clone, Copy)]
enum Lane {
    /// Slots change hands by it
    Gives,
    /// A port opens only after it
    Opens,
    /// A status is brought up to date by it, or a claim is let go
    Reports,
}

/// The limits of [`Lane::Opens`] and [`Lane::Reports`], of one class or of all.
#[derive(Clone)]
pub(super) struct FollowUps {
    opens: Arc<Semaphore>,
    reports: Arc<Semaphore>,
}

impl FollowUps {
    pub(super) fn of_all_classes() -> Self {
        Self::at_once(FOLLOW_UPS_AT_ONCE)
    }

    fn at_once(limit: usize) -> Self {
        Self { opens: Arc::new(Semaphore::new(limit)), reports: Arc::new(Semaphore::new(limit)) }
    }
}

/// How many writes to claims and companion Services are sent at once.
#[derive(Clone)]
struct Permits {
    /// Of one class, by which slots change hands
    gives: Arc<Semaphore>,
    of_class: FollowUps,
    of_all: FollowUps,
}

impl Permits {
    fn new(of_all: FollowUps) -> Self {
        Self {
            gives: Arc::new(Semaphore::new(GIVES_AT_ONCE)),
            of_class: FollowUps::at_once(FOLLOW_UPS_OF_CLASS_AT_ONCE),
            of_all,
        }
    }

    /// Waits until a write may be sent. It counts for as long as the permits live.
    async fn acquire(&self, lane: Lane) -> Vec<OwnedSemaphorePermit> {
        let needed = match lane {
            Lane::Gives => vec![&self.gives],
            Lane::Opens => vec![&self.of_class.opens, &self.of_all.opens],
            Lane::Reports => vec![&self.of_class.reports, &self.of_all.reports],
        };
        let mut permits = Vec::new();
        for semaphore in needed {
            // None of them is ever closed.
            permits.extend(semaphore.clone().acquire_owned().await);
        }
        permits
    }
}

/// The tasks of one class.
pub(super) struct Running {
    permits: Permits,
    load_balancers: BTreeMap<u32, Handle>,
    /// LB loops that were stopped and may not have ended yet. A new loop of the same load
    /// balancer starts after them: two at a time would undo each other's work.
    ending: BTreeMap<u32, JoinHandle<()>>,
    /// Wakes an LB loop when its load balancer has changed
    signals: Arc<Mutex<BTreeMap<LbName, Arc<Signal>>>>,
    changes: Option<AbortOnDropHandle<()>>,
}

impl Running {
    fn new(follow_ups: FollowUps) -> Self {
        Self {
            permits: Permits::new(follow_ups),
            load_balancers: BTreeMap::new(),
            ending: BTreeMap::new(),
            signals: Arc::default(),
            changes: None,
        }
    }
}

/// The LB loop of one load balancer. It ends when this is dropped.
struct Handle {
    plans: watch::Sender<Arc<Plan>>,
    name: LbName,
    task: JoinHandle<()>,
}

impl ClassLoop {
    /// Carries out the effects of a step of this class, in their order.
    pub(super) fn carry_out(&mut self, key: &Key, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Claim(write) => self.write_claim(key, write),
                Effect::Companion(claim, write) => self.write_companion(key, claim, write),
                Effect::Class(write) => self.write_class(write),
                Effect::WakeAt(time) => self.reconcile_at(key.clone(), time),
                Effect::Again => self.reconcile_soon(key.clone()),
                Effect::Export(figures) => self.export(key, &figures),
                Effect::Start(start) => self.start_lb_loop(key, start),
                Effect::Plan(index, plan) => {
                    if let Some(handle) = self.running(key).load_balancers.get(&index) {
                        handle.plans.send_replace(plan);
                    }
                }
                Effect::Stop(index) => self.stop_lb_loop(key, index),
            }
        }
    }

    fn write_claim(&mut self, key: &Key, write: ClaimWrite) {
        let (writer, sender, permits) = (self.writer.clone(), self.sender.clone(), self.running(key).permits.clone());
        let pending = self.settings.metrics.pending_write("SharedLB");
        tokio::spawn(async move {
            let _pending = pending;
            let lane = match write.what {
                _ if write.awaited_by.is_some() => Lane::Gives,
                ClaimChange::Protect => Lane::Opens,
                ClaimChange::Status { .. } | ClaimChange::Release => Lane::Reports,
            };
            let _permits = permits.acquire(lane).await;
            let meta = &write.claim.meta;
            let result = match &write.what {
                ClaimChange::Status { status, .. } => writer.claim_status(meta, status).await,
                ClaimChange::Protect => writer.claim_finalizer(meta, true).await,
                ClaimChange::Release => writer.claim_finalizer(meta, false).await,
            };
            sender.send(Input::Answer(Answer::Claim(write, result.map(Box::new))));
        });
    }

    fn write_companion(&mut self, key: &Key, claim: Arc<ClaimObject>, write: CompanionWrite) {
        let (writer, sender, permits) = (self.writer.clone(), self.sender.clone(), self.running(key).permits.clone());
        let pending = self.settings.metrics.pending_write("Service");
        tokio::spawn(async move {
            let _pending = pending;
            let _permits = permits.acquire(Lane::Opens).await;
            let result = companion(&writer, write).await.map(|written| written.map(Box::new));
            sender.send(Input::Answer(Answer::Companion(claim, result)));
        });
    }

    fn write_class(&self, write: ClassWrite) {
        let (writer, sender) = (self.writer.clone(), self.sender.clone());
        let pending = self.settings.metrics.pending_write("SharedLBClass");
        tokio::spawn(async move {
            let _pending = pending;
            let meta = &write.class.meta;
            let result = match &write.what {
                ClassChange::Status(status) => writer.class_status(meta, status).await,
                ClassChange::Protect => writer.class_finalizer(meta, true).await,
                ClassChange::Release => writer.class_finalizer(meta, false).await,
            };
            sender.send(Input::Answer(Answer::Class(write, result.map(Box::new))));
        });
    }

    fn export(&self, key: &Key, figures: &Figures) {
        let Some(class) = key else { return };
        self.settings.metrics.claims(class, figures.claims);
        for (index, counts) in &figures.slots {
            self.settings.metrics.slots(class, *index, *counts);
        }
        self.settings.metrics.usage(class, &figures.usage);
        self.settings.metrics.cost(class, figures.cost);
    }

    fn running(&mut self, key: &Key) -> &mut Running {
        let follow_ups = &self.follow_ups;
        self.running.entry(key.clone().unwrap_or_default()).or_insert_with(|| Running::new(follow_ups.clone()))
    }

    /// Creates the provider of a class, if its settings differ from those of the current one.
    pub(super) fn ensure_provider(&mut self, key: &Key) {
        let Some(class) = self.classes.get_mut(key) else { return };
        let Some(object) = class.object.clone() else { return };
        let Ok(spec) = &object.spec else { return };
        let addresses = addresses::assign(spec, &class.kept_addresses(spec));
        let is_same = |settings: &ClassSettings| same_provider(&settings.spec, spec) && settings.addresses == addresses;
        if let Some(settings) = class.settings.as_mut().filter(|settings| is_same(settings)) {
            settings.spec.clone_from(spec);
            return;
        }
        let provider = (self.settings.make_provider)(&object, spec, &addresses);
        let fenced = FencedProvider { provider, fence: self.settings.fence.clone() };
        let counted = CountedProvider {
            provider: Box::new(fenced),
            kind: spec.provider.kind(),
            metrics: self.settings.metrics.clone(),
        };
        let settings = ClassSettings::new(spec.clone(), Arc::new(counted), addresses);
        if settings.counts_targets() {
            self.settings.backends.count();
        }
        if settings.reach().targets == TargetKind::Node {
            self.settings.backends.need_nodes();
        }
        // Another provider may need companion Services of another kind.
        class.claims.all_mut().for_each(|state| state.service_is_fine = false);
        let changes = settings.provider.changes();
        class.settings = Some(settings);
        let running = self.running(key);
        let signals = running.signals.clone();
        running.changes = Some(AbortOnDropHandle::new(tokio::spawn(wake_on_changes(changes, signals))));
    }

    fn start_lb_loop(&mut self, key: &Key, start: StartLoadBalancer) {
        let class = key.clone().unwrap_or_default();
        let StartLoadBalancer { index, class_uid, plan, existed, address_overdue } = start;
        let name = LbName::new(&class, index, &self.settings.cluster_id, &class_uid);
        let (plans, receiver) = watch::channel(plan);
        let (sender, signal) = (self.sender.clone(), Arc::new(Signal::default()));
        let reported_by = class.clone();
        let lb_loop = LbLoop {
            name: name.clone(),
            existed,
            address_overdue,
            address_within: self.settings.address_within,
            class: class.clone(),
            plans: receiver,
            signal: signal.clone(),
            backends: self.settings.backends.clone(),
            on_outcome: Box::new(move |outcome| {
                let outcome = Box::new(outcome);
                sender.send(Input::Outcome(reported_by.clone(), class_uid.clone(), index, outcome));
            }),
            resync: self.settings.resync,
            metrics: self.settings.metrics.clone(),
        };
        let tasks = self.settings.tasks.clone();
        let running = self.running(key);
        running.signals.lock().insert(name.clone(), signal);
        let before = running.ending.remove(&index);
        let run = async move {
            if let Some(before) = before {
                // A loop that panicked has ended too.
                _ = before.await;
            }
            lb_loop.run().await;
        };
        let task = tokio::spawn(tasks.named(format!("load balancer {name} of class {class}"), run));
        running.load_balancers.insert(index, Handle { plans, name, task });
    }

    fn stop_lb_loop(&mut self, key: &Key, index: u32) {
        let running = self.running(key);
        if let Some(handle) = running.load_balancers.remove(&index) {
            running.signals.lock().remove(&handle.name);
            running.ending.retain(|_, task| !task.is_finished());
            running.ending.insert(index, handle.task);
        }
        if let Some(class) = key {
            self.settings.metrics.forget_slots(class, index);
        }
    }

    /// Ends all tasks of a class that was deleted. Its load balancers stay as they are.
    pub(super) fn forget_running(&mut self, class: &ClassObject) {
        self.running.remove(&class.meta.key.name);
        self.settings.metrics.forget_class(&class.meta.key.name);
    }
}

/// Wakes the LB loop of each load balancer that the provider reports as changed.
async fn wake_on_changes(
    mut changes: futures::stream::BoxStream<'static, LbName>,
    signals: Arc<Mutex<BTreeMap<LbName, Arc<Signal>>>>,
) {
    while let Some(name) = changes.next().await {
        let signals = signals.lock();
        signals.get(&name).into_iter().for_each(|signal| signal.observe_again());
    }
}

async fn companion(writer: &Writer, write: CompanionWrite) -> Result<Option<ServiceObject>, WriteError> {
    match write {
        CompanionWrite::Create(service) => writer.create_service(&service).await.map(Some),
        CompanionWrite::Correct(found, service) => writer.correct_service(&found, &service).await.map(Some),
        CompanionWrite::Delete(found) => writer.delete_service(&found).await.map(|()| None),
    }
}
