//! One run of one class.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use sharedlb_crds::{Reason, SharedLB, SharedLBClass, SharedLBClassSpec, SharedLBClassStatus, SharedLBStatus};
use sharedlb_providers::{LbName, Provider};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::decide::{Decision, Facts, decide};
use super::group::Entry;
use super::writes::WriteError;
use super::{ClassLoop, Input};
use crate::assign::{Assignment, Held};
use crate::claim::ClaimObject;
use crate::class::{ClassObject, policy, same_provider, unsupported};
use crate::desired::{Plan, Planned, source, target};
use crate::lb_loop::{LbLoop, Signal};
use crate::metrics::Counted;
use crate::outcome::Outcome;
use crate::render::{self, Programmed, Verdict};

/// How often the class' status is written for its numbers alone.
const NUMBERS_EVERY: Duration = Duration::from_secs(1);
/// How long a class is left alone after a failed write to it.
const CLASS_HOLD: Duration = Duration::from_secs(1);

/// What runs for one class.
pub(super) struct Runner {
    uid: Arc<str>,
    spec: SharedLBClassSpec,
    provider: Arc<dyn Provider>,
    load_balancers: BTreeMap<u32, Handle>,
    outcomes: BTreeMap<u32, Outcome>,
    /// Which LB loop to wake when its load balancer changes by itself
    signals: Arc<Mutex<BTreeMap<LbName, Arc<Signal>>>>,
    _changes: AbortOnDropHandle<()>,
    status_written: Option<Instant>,
    /// Why nothing new is given, whatever is asked for
    frozen: Option<(Option<Reason>, String)>,
}

/// The LB loop of one load balancer. It ends when this is dropped.
struct Handle {
    plans: watch::Sender<Arc<Plan>>,
    name: LbName,
}

impl Runner {
    /// Takes in an outcome. Returns whether the class is to be run for it.
    pub(super) fn take_outcome(&mut self, uid: &str, index: u32, outcome: Outcome) -> bool {
        if *self.uid != *uid || !self.load_balancers.contains_key(&index) {
            return false;
        }
        let news = self.outcomes.get(&index).is_none_or(|known| !known.says_the_same(&outcome));
        // A plan that was carried out may have closed what waits to be forgotten.
        let closing = self.outcomes.get(&index).is_none_or(|known| known.plan.has_more_than(&outcome.plan));
        self.outcomes.insert(index, outcome);
        news || closing
    }
}

impl ClassLoop {
    /// Decide; record what is given back; give what is given; then everything
    /// that may wait.
    pub(super) async fn run_class(&mut self, name: &Arc<str>, class: &Arc<ClassObject>) {
        let started = Instant::now();
        let key = Some(name.clone());
        let Ok(spec) = &class.spec else {
            let why = class.spec.as_ref().err().cloned().unwrap_or_default();
            warn!(class = %name, error = why, "the spec of the class can't be read: nothing is changed");
            return;
        };
        let Some(class) = self.with_finalizer(class).await else {
            return self.run_at(key, Instant::now() + CLASS_HOLD);
        };
        self.ensure_runner(name, &class, spec);
        let frozen = self.frozen(name, &class, spec);
        let Some(runner) = self.runners.get_mut(name) else { return };
        runner.frozen = frozen;
        let Some(mut decision) = self.decide(name, &class, spec) else { return };
        let mut class = class;
        if decision.releases > 0 {
            match self.write_class_status(&class, &decision.status).await {
                Some(written) => class = written,
                None => return self.run_at(key, Instant::now() + CLASS_HOLD),
            }
        }
        self.give(name, &decision).await;
        self.tell_the_rest(name, &decision);
        self.side_writes(name);
        self.hand_plans(name, &class, std::mem::take(&mut decision.plans));
        self.write_numbers(name, &class, &decision.status).await;
        self.finish_deletion(&class).await;
        if let Some(due) = decision.due {
            let wait = due.duration_since(Timestamp::now()).unsigned_abs();
            let wait = if due <= Timestamp::now() { Duration::ZERO } else { wait };
            self.run_at(key, Instant::now() + wait);
        }
        self.count(name, &decision);
        self.settings.metrics.class_run(name, started.elapsed());
    }

    /// The class under our finalizer: before that, nothing is made for it.
    async fn with_finalizer(&mut self, class: &Arc<ClassObject>) -> Option<Arc<ClassObject>> {
        if class.meta.deleting || class.has_finalizer() {
            return Some(class.clone());
        }
        match self.writer.class_finalizer(&class.meta, true).await {
            Ok(written) => Some(self.class_written(written)),
            Err(error) => {
                warn!(class = %class.meta.key.name, %error, "finalizer of the class not written");
                None
            }
        }
    }

    fn class_written(&mut self, written: ClassObject) -> Arc<ClassObject> {
        let as_written = Arc::new(written.clone());
        if let Some(change) = self.classes.written(written) {
            self.class_changed(change.old.as_deref(), change.new.as_deref());
        }
        as_written
    }

    fn ensure_runner(&mut self, name: &Arc<str>, class: &ClassObject, spec: &SharedLBClassSpec) {
        let known = self.runners.get_mut(name).filter(|runner| runner.uid == class.meta.uid);
        if known.as_ref().is_some_and(|runner| same_provider(&runner.spec, spec)) {
            return;
        }
        let counted = Counted {
            provider: (self.settings.make_provider)(class, spec),
            kind: spec.provider.kind(),
            metrics: self.settings.metrics.clone(),
        };
        let provider: Arc<dyn Provider> = Arc::new(counted);
        let signals = known.as_ref().map_or_else(Arc::default, |runner| runner.signals.clone());
        let (mut changes, wake) = (provider.changes(), signals.clone());
        let changes = tokio::spawn(async move {
            while let Some(name) = changes.next().await {
                let signals = wake.lock().unwrap_or_else(PoisonError::into_inner);
                signals.get(&name).into_iter().for_each(|signal| signal.look_again());
            }
        });
        let changes = AbortOnDropHandle::new(changes);
        if let Some(runner) = known {
            (runner.spec, runner.provider, runner._changes) = (spec.clone(), provider, changes);
            return;
        }
        let runner = Runner {
            uid: class.meta.uid.clone(),
            spec: spec.clone(),
            provider,
            load_balancers: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            signals,
            _changes: changes,
            status_written: None,
            frozen: None,
        };
        self.runners.insert(name.clone(), runner);
    }

    /// Why nothing new is given in this class, whatever is asked for.
    fn frozen(
        &self,
        name: &Arc<str>,
        class: &ClassObject,
        spec: &SharedLBClassSpec,
    ) -> Option<(Option<Reason>, String)> {
        if class.meta.deleting {
            return Some((Some(Reason::NoClass), format!("class {name} is being deleted: choose another class")));
        }
        if let Some(why) = unsupported(spec, &self.runners.get(name)?.provider.capabilities()) {
            return Some((Some(Reason::Unsupported), why));
        }
        let unreadable = |what: String| {
            Some((
                None,
                format!(
                    "the status of {what} can't be read, so nothing new is given in class {name}: correct or remove it"
                ),
            ))
        };
        if class.status.is_err() {
            return unreadable(format!("class {name}"));
        }
        let mut claims = self.groups.get(&Some(name.clone())).into_iter().flat_map(|group| group.entries());
        claims
            .find(|entry| entry.claim.illegible)
            .and_then(|entry| unreadable(format!("SharedLB {}", entry.claim.meta.key)))
    }

    fn decide(&self, name: &Arc<str>, class: &ClassObject, spec: &SharedLBClassSpec) -> Option<Decision> {
        let runner = self.runners.get(name)?;
        let namespaces = self.namespaces.objects().iter().map(|(key, namespace)| (&key.name, &namespace.labels));
        let mut policy = policy(spec, &runner.provider.capabilities(), namespaces);
        if runner.frozen.is_some() {
            policy.namespaces = Some(BTreeSet::new());
        }
        let entries = self.groups.get(&Some(name.clone())).into_iter().flat_map(|group| group.entries());
        let facts = Facts {
            class,
            spec,
            policy,
            frozen: runner.frozen.clone(),
            claims: entries.map(|entry| &entry.claim).collect(),
            outcomes: &runner.outcomes,
            now: Timestamp::now(),
        };
        Some(decide(&facts))
    }

    async fn write_class_status(
        &mut self,
        class: &ClassObject,
        status: &SharedLBClassStatus,
    ) -> Option<Arc<ClassObject>> {
        match self.writer.class_status(&class.meta, status).await {
            Ok(written) => {
                let before = class.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
                for (warning, reason, message) in render::transitions(&before, &status.conditions) {
                    info!(class = %class.meta.key.name, reason, message, "class");
                    self.settings.events.tell::<SharedLBClass>(&class.meta, warning, reason, message);
                }
                if let Some(runner) = self.runners.get_mut(&class.meta.key.name) {
                    runner.status_written = Some(Instant::now());
                }
                Some(self.class_written(written))
            }
            Err(error) => {
                if !matches!(error, WriteError::Conflict) {
                    warn!(class = %class.meta.key.name, %error, "status of the class not written");
                }
                None
            }
        }
    }

    /// Writes every status by which slots change hands, and waits for it: the
    /// next run must not decide without.
    async fn give(&mut self, name: &Arc<str>, decision: &Decision) {
        let (key, now) = (Some(name.clone()), Timestamp::now());
        let Some(group) = self.groups.get(&key) else { return };
        let mut statuses: Vec<(Arc<ClaimObject>, SharedLBStatus)> = Vec::new();
        for (entry, got) in group.entries().zip(&decision.assignments) {
            let Some(got) = got.as_ref().filter(|got| changes_slots(&entry.claim, got) && entry.is_free()) else {
                continue;
            };
            let verdict = self.verdict(name, entry, got);
            statuses.push((entry.claim.clone(), render::status(&entry.claim, Some(name), &verdict, now)));
        }
        let writer = self.writer.clone();
        let mut writes: FuturesUnordered<_> = statuses
            .into_iter()
            .map(|(claim, status)| {
                let writer = &writer;
                async move {
                    let result = writer.claim_status(&claim.meta, &status).await;
                    (claim, status, result)
                }
            })
            .collect();
        while let Some((claim, status, result)) = writes.next().await {
            self.claim_written(&claim, Some(&status), result);
        }
    }

    /// Takes in the result of a write to a claim.
    pub(super) fn claim_written(
        &mut self,
        claim: &ClaimObject,
        status: Option<&SharedLBStatus>,
        result: Result<ClaimObject, WriteError>,
    ) {
        match result {
            Ok(written) => {
                self.tell_transitions(claim, status);
                if let Some(entry) = self.entry(claim) {
                    entry.release();
                }
                if let Some(change) = self.claims.written(written) {
                    self.claim_changed(change.old.as_deref(), change.new);
                }
            }
            Err(WriteError::Gone) => {}
            Err(error) => {
                if !matches!(error, WriteError::Conflict) {
                    warn!(claim = %claim.meta.key, %error, "claim not written");
                }
                let class = self.class_of(claim);
                if let Some(until) = self.entry(claim).map(Entry::hold) {
                    self.run_at(class, until);
                }
            }
        }
    }

    fn tell_transitions(&self, claim: &ClaimObject, status: Option<&SharedLBStatus>) {
        let Some(status) = status else { return };
        let class = status.class_name.as_deref().or(claim.named_class()).unwrap_or_default();
        for (warning, reason, message) in render::transitions(&claim.status.conditions, &status.conditions) {
            info!(class, claim = %claim.meta.key, load_balancer = status.load_balancer_index, ports = status.summary, reason, message, "claim");
            self.settings.events.tell::<SharedLB>(&claim.meta, warning, reason, message);
        }
    }

    /// What became of a claim, from what it was given and what its load balancer
    /// makes of it.
    fn verdict(&self, name: &str, entry: &Entry, got: &Assignment) -> Verdict {
        let outcome = got.granted.as_ref().and_then(|held| self.runners.get(name)?.outcomes.get(&held.index));
        let heard = outcome.filter(|outcome| outcome.exists.is_some());
        Verdict {
            refused: self.refusal(name, entry, got),
            programmed: got.granted.as_ref().map_or(Programmed::Pending, |held| self.programmed(entry, held, outcome)),
            addresses: match &got.granted {
                Some(_) => heard.map(|outcome| outcome.addresses.clone()),
                None => Some(Vec::new()),
            },
            held: got.granted.clone(),
        }
    }

    fn refusal(&self, name: &str, entry: &Entry, got: &Assignment) -> Option<(Option<Reason>, String)> {
        if let Err(error) = &entry.claim.spec {
            return Some((Some(Reason::Unsupported), format!("the spec can't be read ({error}): correct it")));
        }
        if let Some(service) = external_name(self, &entry.claim) {
            return Some((
                Some(Reason::Unsupported),
                format!("Service {service} is of type ExternalName, which has no pods: name another Service"),
            ));
        }
        let (port, refusal) = got.refused.first()?;
        let frozen = self.runners.get(name).and_then(|runner| runner.frozen.clone());
        if let (Some(Reason::NotPermitted), Some(frozen)) = (refusal.reason(), frozen) {
            return Some(frozen);
        }
        let others = match got.refused.len() - 1 {
            0 => String::new(),
            1 => " (and one more port was refused)".to_owned(),
            n => format!(" (and {n} more ports were refused)"),
        };
        let port = if port.is_empty() { String::new() } else { format!("port {port}: ") };
        Some((refusal.reason(), format!("{port}{}{others}", refusal.message(name))))
    }

    fn programmed(&self, entry: &Entry, held: &Held, outcome: Option<&Outcome>) -> Programmed {
        let claim = &entry.claim;
        render::programmed(claim, held, outcome, |slot| {
            if let Some(trouble) = &entry.service_trouble {
                return trouble.clone();
            }
            match source(claim).zip(target(claim, &slot.name)) {
                Some((service, port)) => self.settings.backends.why_none(&service, &port, slot.key.protocol),
                None => "its spec can't be read".to_owned(),
            }
        })
    }

    /// Everything else that a claim should be told, in the background.
    fn tell_the_rest(&mut self, name: &Arc<str>, decision: &Decision) {
        let (key, now) = (Some(name.clone()), Timestamp::now());
        let Some(group) = self.groups.get(&key) else { return };
        let mut news: Vec<(Arc<ClaimObject>, Verdict)> = Vec::new();
        for (entry, got) in group.entries().zip(&decision.assignments) {
            let Some(got) = got.as_ref().filter(|got| !changes_slots(&entry.claim, got) && entry.is_free()) else {
                continue;
            };
            let verdict = self.verdict(name, entry, got);
            if entry.rendered.as_ref() != Some(&verdict) {
                news.push((entry.claim.clone(), verdict));
            }
        }
        for (claim, verdict) in news {
            self.tell_claim(&claim, Some(name), verdict, now);
        }
    }

    /// Claims whose class does not exist, or that name none and there is no
    /// default: they are told, and keep what they hold.
    pub(super) fn run_without_class(&mut self, key: &Option<Arc<str>>) {
        let (reason, message) = match key {
            Some(name) => {
                (Reason::NoClass, format!("class {name} does not exist: create it, or create the claim again with another className"))
            }
            None => (
                Reason::NoDefaultClass,
                "no className is given, and no class is the default: name one, or annotate a class with sharedlb.dev/is-default-class: \"true\"".to_owned(),
            ),
        };
        let Some(group) = self.groups.get(key) else { return };
        let claims: Vec<Arc<ClaimObject>> = group
            .entries()
            .filter(|entry| !entry.claim.meta.deleting && entry.is_free())
            .map(|entry| entry.claim.clone())
            .collect();
        for claim in claims {
            let held = claim.request.held.clone();
            let refused = Some((Some(reason), message.clone()));
            let verdict = Verdict { held, refused, programmed: Programmed::NotHeard, addresses: None };
            let class = claim.status.class_name.clone();
            self.tell_claim(&claim, class.as_deref(), verdict, Timestamp::now());
        }
        self.remove_finalizers(key);
    }

    /// Hands every load balancer its plan, if that is a new one.
    fn hand_plans(&mut self, name: &Arc<str>, class: &ClassObject, plans: BTreeMap<u32, Option<Vec<Planned>>>) {
        let Some(mut runner) = self.runners.remove(name) else { return };
        let gone: Vec<u32> = runner.load_balancers.keys().filter(|index| !plans.contains_key(index)).copied().collect();
        for index in gone {
            if let Some(handle) = runner.load_balancers.remove(&index) {
                runner.signals.lock().unwrap_or_else(PoisonError::into_inner).remove(&handle.name);
            }
            runner.outcomes.remove(&index);
            self.settings.metrics.forget_slots(name, index);
        }
        for (index, slots) in plans {
            match runner.load_balancers.get(&index) {
                Some(handle) => {
                    if !handle.plans.borrow().is(&runner.provider, slots.as_deref()) {
                        handle.plans.send_replace(Arc::new(Plan::new(runner.provider.clone(), index, slots)));
                    }
                }
                None => {
                    let plan = Arc::new(Plan::new(runner.provider.clone(), index, slots));
                    let handle = self.start_lb_loop(name, class, index, plan, &runner);
                    runner.load_balancers.insert(index, handle);
                }
            }
        }
        self.runners.insert(name.clone(), runner);
    }

    fn start_lb_loop(
        &self,
        name: &Arc<str>,
        class: &ClassObject,
        index: u32,
        plan: Arc<Plan>,
        runner: &Runner,
    ) -> Handle {
        let lb = LbName::new(name, index, &self.settings.cluster_id, &class.meta.uid);
        let signal = Arc::new(Signal::default());
        runner.signals.lock().unwrap_or_else(PoisonError::into_inner).insert(lb.clone(), signal.clone());
        let (sender, class, uid) = (self.sender.clone(), name.clone(), class.meta.uid.clone());
        let (plans, receiver) = watch::channel(plan);
        let lb_loop = LbLoop {
            name: lb.clone(),
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
        tokio::spawn(lb_loop.run());
        Handle { plans, name: lb }
    }

    /// Writes the class' status if it differs; if only in its numbers, not too often.
    async fn write_numbers(&mut self, name: &Arc<str>, class: &Arc<ClassObject>, status: &SharedLBClassStatus) {
        if class.status.as_ref().ok() == Some(status) || class.status.is_err() {
            return;
        }
        let written = self.runners.get(name).and_then(|runner| runner.status_written);
        let next = written.map(|written| written + NUMBERS_EVERY).filter(|next| *next > Instant::now());
        match next {
            Some(next) => self.run_at(Some(name.clone()), next),
            None => {
                if self.write_class_status(class, status).await.is_none() {
                    self.run_at(Some(name.clone()), Instant::now() + CLASS_HOLD);
                }
            }
        }
    }

    /// A class that is being deleted goes once no claim holds a slot of it and
    /// its load balancers are gone.
    async fn finish_deletion(&mut self, class: &Arc<ClassObject>) {
        let name = &class.meta.key.name;
        let in_use = self.runners.get(name).is_some_and(|runner| !runner.load_balancers.is_empty())
            || self
                .groups
                .get(&Some(name.clone()))
                .is_some_and(|group| group.entries().any(|entry| entry.claim.request.held.is_some()));
        if class.meta.deleting && class.has_finalizer() && !in_use {
            match self.writer.class_finalizer(&class.meta, false).await {
                Ok(written) => {
                    info!(class = %name, "class deleted");
                    self.class_written(written);
                }
                Err(WriteError::Gone) => {}
                Err(error) => {
                    warn!(class = %name, %error, "finalizer of the class not removed");
                    self.run_at(Some(name.clone()), Instant::now() + CLASS_HOLD);
                }
            }
        }
    }
}

/// The Service that the claim names, if that is of type ExternalName.
fn external_name(class_loop: &ClassLoop, claim: &ClaimObject) -> Option<String> {
    let named = claim.spec.as_ref().ok()?.service_name.as_ref()?;
    let service = class_loop.settings.backends.service(&source(claim)?)?;
    service.external_name.then(|| named.clone())
}

/// Whether a claim's slots are not those that its status has.
fn changes_slots(claim: &ClaimObject, got: &Assignment) -> bool {
    let slots = |held: Option<&Held>| {
        held.map(|held| (held.index, held.slots.iter().map(|slot| (slot.name.clone(), slot.key)).collect::<Vec<_>>()))
    };
    match (&claim.request.held, &got.granted) {
        (Some(held), Some(granted)) if held == granted => false,
        (held, granted) => slots(held.as_ref()) != slots(granted.as_ref()),
    }
}
