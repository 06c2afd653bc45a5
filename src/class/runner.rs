//! What runs for one class: its provider, and an LB loop for each load balancer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use sharedlb_crds::{ConditionType, LoadBalancerStatus, Reason, SharedLBClassSpec, TargetKind};
use sharedlb_providers::{LbName, Provider};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::group::Group;
use super::handed::InFlightPlans;
use super::{ClassLoop, Input};
use crate::api::class::{ClassObject, same_provider};
use crate::class::render::find;
use crate::kubernetes::ObjectKey;
use crate::load_balancer::desired::{Plan, Planned, Reach};
use crate::load_balancer::outcome::{MaybeOpen, News, Outcome};
use crate::load_balancer::{LbLoop, Signal};
use crate::process::metrics::Counted;

/// What runs for one class.
pub(super) struct Runner {
    uid: Arc<str>,
    /// The last one that could be read
    pub(super) spec: SharedLBClassSpec,
    pub(super) provider: Arc<dyn Provider>,
    /// Whether its load balancers take only so many targets
    pub(super) counts_targets: bool,
    pub(super) load_balancers: BTreeMap<u32, Handle>,
    /// LB loops that were told to end and may not have yet. The next one of the same
    /// load balancer begins after them: two would undo each other's work.
    ending: BTreeMap<u32, JoinHandle<()>>,
    pub(super) outcomes: BTreeMap<u32, Outcome>,
    /// Which LB loop to wake when its load balancer changes by itself
    signals: Arc<Mutex<BTreeMap<LbName, Arc<Signal>>>>,
    _changes: AbortOnDropHandle<()>,
    /// When its claims and slots were last counted
    pub(super) counted: Option<Instant>,
    /// Until when it is run for those only who wait for a port
    pub(super) rests_until: Option<Instant>,
    /// When its status was last written
    pub(super) status_written: Option<Instant>,
    /// Why nothing new is given, whatever is asked for
    pub(super) suspended: Option<(Option<Reason>, String)>,
}

/// The LB loop of one load balancer. It ends when this is dropped.
pub(super) struct Handle {
    plans: watch::Sender<Arc<Plan>>,
    handed: InFlightPlans,
    name: LbName,
    task: JoinHandle<()>,
}

impl Handle {
    /// What it was handed since the plan of this outcome.
    fn since(&mut self, outcome: &Outcome) -> MaybeOpen {
        self.handed.since(&outcome.plan, &self.plans.borrow())
    }
}

impl Runner {
    /// How the traffic of the class gets to pods.
    pub(super) fn reach(&self) -> Reach {
        Reach::of(&self.spec, &self.provider.capabilities())
    }

    /// Whether this outcome tells that the load balancer was found gone.
    pub(super) fn was_gone(&self, uid: &str, index: u32, outcome: &Outcome) -> bool {
        let known = self.outcomes.get(&index).map_or(0, |known| known.recreated);
        *self.uid == *uid && outcome.recreated > known
    }

    /// Takes in an outcome. Returns for whom it has news; `None`: the class need
    /// not be run for it.
    pub(super) fn take_outcome(&mut self, uid: &str, index: u32, mut outcome: Outcome) -> Option<News> {
        let handle = self.load_balancers.get_mut(&index).filter(|_| *self.uid == *uid)?;
        outcome.since = handle.since(&outcome);
        let known = self.outcomes.get(&index);
        let news = known.map_or(News::ForAll, |known| outcome.news_since(known));
        // A plan that was carried out may have closed what waits to be forgotten.
        let closing = known.is_some_and(|known| known.plan.has_more_than(&outcome.plan));
        self.outcomes.insert(index, outcome);
        (closing || !news.is_none()).then_some(news)
    }
}

impl ClassLoop {
    pub(super) fn ensure_runner(&mut self, name: &Arc<str>, class: &ClassObject, spec: &SharedLBClassSpec) {
        let mut known = self.runners.get_mut(name).filter(|runner| runner.uid == class.meta.uid);
        if let Some(runner) = known.as_mut().filter(|runner| same_provider(&runner.spec, spec)) {
            runner.spec.clone_from(spec);
            return;
        }
        let counted = Counted {
            provider: (self.settings.make_provider)(class, spec),
            kind: spec.provider.kind(),
            metrics: self.settings.metrics.clone(),
            fence: self.settings.fence.clone(),
        };
        let provider: Arc<dyn Provider> = Arc::new(counted);
        let counts_targets = provider.capabilities().default_targets.is_some();
        if counts_targets {
            self.settings.backends.count();
        }
        let signals = known.as_ref().map_or_else(Arc::default, |runner| runner.signals.clone());
        let (mut changes, wake) = (provider.changes(), signals.clone());
        let changes = tokio::spawn(async move {
            while let Some(name) = changes.next().await {
                let signals = wake.lock().unwrap_or_else(PoisonError::into_inner);
                signals.get(&name).into_iter().for_each(|signal| signal.look_again());
            }
        });
        let changes = AbortOnDropHandle::new(changes);
        if Reach::of(spec, &provider.capabilities()).targets == TargetKind::Node {
            self.settings.backends.need_nodes();
        }
        if let Some(runner) = known {
            (runner.spec, runner.provider, runner._changes) = (spec.clone(), provider, changes);
            // Traffic may get to pods in another way now, by Services of another kind.
            let entries = self.groups.get_mut(&Some(name.clone())).into_iter().flat_map(Group::entries_mut);
            entries.for_each(|entry| entry.service_is_fine = false);
            return;
        }
        let runner = Runner {
            uid: class.meta.uid.clone(),
            spec: spec.clone(),
            provider,
            counts_targets,
            load_balancers: BTreeMap::new(),
            ending: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            signals,
            _changes: changes,
            counted: None,
            rests_until: None,
            status_written: None,
            suspended: None,
        };
        self.runners.insert(name.clone(), runner);
    }

    /// Hands every load balancer its plan, if that is a new one.
    pub(super) fn hand_plans(
        &mut self,
        name: &Arc<str>,
        class: &ClassObject,
        plans: BTreeMap<u32, Option<Vec<Planned>>>,
        untouched: &BTreeSet<ObjectKey>,
    ) {
        let Some(mut runner) = self.runners.remove(name) else { return };
        let gone: Vec<u32> = runner.load_balancers.keys().filter(|index| !plans.contains_key(index)).copied().collect();
        for index in gone {
            if let Some(handle) = runner.load_balancers.remove(&index) {
                runner.signals.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle.name);
                runner.ending.retain(|_, task| !task.is_finished());
                runner.ending.insert(index, handle.task);
            }
            runner.outcomes.remove(&index);
            self.settings.metrics.forget_slots(name, index);
        }
        let reach = runner.reach();
        for (index, slots) in plans {
            match runner.load_balancers.get_mut(&index) {
                Some(handle) => {
                    let before = handle.plans.borrow().clone();
                    if before.is(&runner.provider, slots.as_deref(), reach, untouched) {
                        continue;
                    }
                    let plan = Plan::new(runner.provider.clone(), index, slots).by(reach).leaving(untouched);
                    let plan = plan.after(&before);
                    handle.handed.replace(&before, &plan);
                    handle.plans.send_replace(Arc::new(plan));
                    if let Some(outcome) = runner.outcomes.get_mut(&index) {
                        outcome.since = handle.since(outcome);
                    }
                }
                None => {
                    let plan = Plan::new(runner.provider.clone(), index, slots).by(reach);
                    let plan = plan.leaving(untouched);
                    let handle = self.start_lb_loop(name, class, index, Arc::new(plan), &mut runner);
                    runner.load_balancers.insert(index, handle);
                }
            }
        }
        self.runners.insert(name.clone(), runner);
    }

    pub(super) fn start_lb_loop(
        &self,
        name: &Arc<str>,
        class: &ClassObject,
        index: u32,
        plan: Arc<Plan>,
        runner: &mut Runner,
    ) -> Handle {
        let lb = LbName::new(name, index, &self.settings.cluster_id, &class.meta.uid);
        let signal = Arc::new(Signal::default());
        runner.signals.lock().unwrap_or_else(PoisonError::into_inner).insert(lb.clone(), signal.clone());
        let listed = class.status.iter().flat_map(|status| &status.load_balancers).find(|lb| lb.index == index);
        let existed = listed.is_some_and(|listed| listed.address.is_some());
        let overdue = |listed: &LoadBalancerStatus| {
            find(&listed.conditions, ConditionType::Ready)
                .is_some_and(|ready| ready.reason == Reason::AddressNotAssigned.as_str())
        };
        let address_overdue = listed.is_some_and(overdue);
        let (sender, class, uid) = (self.sender.clone(), name.clone(), class.meta.uid.clone());
        let (plans, receiver) = watch::channel(plan);
        let lb_loop = LbLoop {
            name: lb.clone(),
            existed,
            address_overdue,
            class: name.clone(),
            plans: receiver,
            signal,
            backends: self.settings.backends.clone(),
            tell: Box::new(move |outcome| {
                _ = sender.send(Input::Outcome(class.clone(), uid.clone(), index, Box::new(outcome)));
            }),
            resync: self.settings.resync,
            metrics: self.settings.metrics.clone(),
        };
        let before = runner.ending.remove(&index);
        let run = async move {
            if let Some(before) = before {
                // A loop that panicked has ended too.
                _ = before.await;
            }
            lb_loop.run().await;
        };
        let task = tokio::spawn(self.settings.tasks.named(format!("load balancer {lb} of class {name}"), run));
        Handle { plans, handed: InFlightPlans::default(), name: lb, task }
    }
}
