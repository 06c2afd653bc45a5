//! One run of one class.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use sharedlb_crds::{Reason, SharedLB, SharedLBClass, SharedLBClassSpec, SharedLBClassStatus, SharedLBStatus};
use sharedlb_providers::ListenerKey;
use tokio::time::Instant;
use tracing::{info, warn};

use super::ClassLoop;
use super::count::TargetCounts;
use super::decide::{Decision, Facts, decide, unreadable_status};
use super::group::Entry;
use super::verdicts::changes_slots;
use super::writes::WriteError;
use crate::api::claim::ClaimObject;
use crate::api::class::{ClassObject, policy, unsupported};
use crate::class::render::{self, Verdict};
use crate::process::tasks;

/// How often the class' status is written for its numbers alone, and targets are
/// counted.
pub(super) const NUMBERS_EVERY: Duration = Duration::from_secs(1);
/// How long a class is left alone after a failed write to it.
const CLASS_HOLD: Duration = Duration::from_secs(1);
/// How often as long as a decision took a class rests after it.
const REST: u32 = 5;
/// Not worth a rest.
const REST_MIN: Duration = Duration::from_millis(5);

impl ClassLoop {
    /// Decide; record what is given back, and which load balancers begin; give what
    /// is given; then everything that may wait.
    pub(super) async fn run_class(&mut self, name: &Arc<str>, class: &Arc<ClassObject>) {
        let started = Instant::now();
        let key = Some(name.clone());
        self.due.remove(&key);
        let last_known = self.runners.get(name).map(|runner| runner.spec.clone());
        let Some(spec) = class.spec.as_ref().ok().cloned().or(last_known) else {
            return self.run_unreadable(name, class).await;
        };
        let spec = &spec;
        let Some(class) = self.with_finalizer(class).await else {
            return self.run_at(key, Instant::now() + CLASS_HOLD);
        };
        self.ensure_runner(name, &class, spec);
        let suspended = self.suspended(name, &class, spec);
        let Some(runner) = self.runners.get_mut(name) else { return };
        runner.suspended = suspended;
        let deciding = Instant::now();
        let Some(mut decision) = self.decide(name, &class, spec) else { return };
        let rest = Some(deciding.elapsed() * REST).filter(|rest| *rest > REST_MIN);
        if let Some(runner) = self.runners.get_mut(name) {
            runner.rests_until = rest.map(|rest| Instant::now() + rest);
        }
        let mut class = class;
        if decision.class_first() {
            match self.write_class_status(&class, &decision.status).await {
                Some(written) => class = written,
                None => return self.run_at(key, Instant::now() + CLASS_HOLD),
            }
        }
        self.left.remove(name);
        self.give(name, &decision).await;
        self.tell_the_rest(name, &decision);
        self.side_writes(name);
        self.hand_plans(name, &class, std::mem::take(&mut decision.plans), &decision.untouched);
        self.write_numbers(name, &class, &decision.status).await;
        self.finish_deletion(&class).await;
        if let Some(due) = decision.due {
            let wait = due.duration_since(Timestamp::now()).unsigned_abs();
            let wait = if due <= Timestamp::now() { Duration::ZERO } else { wait };
            self.run_at(key, Instant::now() + wait);
        }
        self.run_when_released(&Some(name.clone()));
        self.settings.metrics.class_run(name, started.elapsed());
    }

    /// A class whose spec cannot be read, and never could since this process
    /// started: its load balancers stay as they are, and who waits is told.
    async fn run_unreadable(&mut self, name: &Arc<str>, class: &Arc<ClassObject>) {
        let message = unreadable_spec(class).unwrap_or_default();
        let Ok(before) = &class.status else { return };
        let status = unreadable_status(before, &message, class.meta.generation, Timestamp::now());
        if status != *before && self.write_class_status(class, &status).await.is_none() {
            self.run_at(Some(name.clone()), Instant::now() + CLASS_HOLD);
        }
        self.tell_waiting(name, &message);
        self.run_when_released(&Some(name.clone()));
    }

    /// What a failed write holds up is looked at again when its time has come.
    pub(super) fn run_when_released(&mut self, key: &Option<Arc<str>>) {
        let next = self.groups.get(key).and_then(|group| group.entries().filter_map(Entry::held_until).min());
        if let Some(next) = next {
            self.run_at(key.clone(), next);
        }
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
        if let Some(change) = self.classes.apply_write(written) {
            self.class_changed(change.old.as_deref(), change.new.as_deref());
        }
        as_written
    }

    /// Why nothing new is given in this class, whatever is asked for.
    fn suspended(
        &self,
        name: &Arc<str>,
        class: &ClassObject,
        spec: &SharedLBClassSpec,
    ) -> Option<(Option<Reason>, String)> {
        if let Some(message) = unreadable_spec(class) {
            return Some((Some(Reason::Unsupported), message));
        }
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
            .find(|entry| entry.claim.unparsable)
            .and_then(|entry| unreadable(format!("SharedLB {}", entry.claim.meta.key)))
    }

    fn decide(&self, name: &Arc<str>, class: &ClassObject, spec: &SharedLBClassSpec) -> Option<Decision> {
        tasks::at("SharedLBClass", &class.meta.key);
        let runner = self.runners.get(name)?;
        let namespaces = self.namespaces.objects().iter().map(|(key, namespace)| (&key.name, &namespace.labels));
        let mut policy = policy(spec, &runner.provider.capabilities(), namespaces);
        if runner.suspended.is_some() {
            policy.namespaces = Some(BTreeSet::new());
        }
        let entries = self.groups.get(&Some(name.clone())).into_iter().flat_map(|group| group.entries());
        let counts = policy.targets.map(|_| TargetCounts::new(&self.settings.backends, &runner.provider, spec));
        let counted = counts.as_ref().map(|counts| entries.clone().map(|entry| counts.of(entry)).collect());
        let claims: Vec<&Arc<ClaimObject>> = entries.map(|entry| &entry.claim).collect();
        let facts = Facts {
            class,
            spec,
            policy,
            suspended: runner.suspended.clone(),
            counted,
            targets_closing: counts.as_ref().map_or(0, TargetCounts::least),
            claims,
            outcomes: &runner.outcomes,
            left: self.left.get(name).map(Vec::as_slice).unwrap_or_default(),
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
                    info!(class = %class.meta.key.name, reason, note = message, "class");
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
        let mut statuses: Vec<(Arc<ClaimObject>, SharedLBStatus, Vec<ListenerKey>)> = Vec::new();
        for (entry, got) in group.entries().zip(&decision.assignments) {
            let Some(got) = got.as_ref().filter(|got| changes_slots(&entry.claim, got) && entry.writes.are_free())
            else {
                continue;
            };
            let verdict = self.verdict(name, entry, got);
            let status = self.status(&entry.claim, Some(name), &verdict, now);
            statuses.push((entry.claim.clone(), status, got.lost.clone()));
        }
        let writer = self.writer.clone();
        let mut writes: FuturesUnordered<_> = statuses
            .into_iter()
            .map(|(claim, status, lost)| {
                let writer = &writer;
                async move {
                    let result = writer.claim_status(&claim.meta, &status).await;
                    (claim, status, lost, result)
                }
            })
            .collect();
        while let Some((claim, status, lost, result)) = writes.next().await {
            if result.is_ok() {
                self.tell_lost(&claim, &lost);
            }
            self.claim_written(&claim, Some(&status), result);
        }
    }

    /// Tells a claim that slots which its status named are an older claim's.
    fn tell_lost(&self, claim: &ClaimObject, lost: &[ListenerKey]) {
        for slot in lost {
            let note = format!("port {slot}, which the status named, is held by an older SharedLB: it stays there");
            warn!(claim = %claim.meta.key, load_balancer = claim.status.load_balancer_index, port = %slot, "slot held by another claim");
            self.settings.events.tell::<SharedLB>(&claim.meta, true, Reason::PortTaken.as_str().to_owned(), note);
        }
    }

    /// Takes in the result of a write to a claim.
    pub(super) fn claim_written(
        &mut self,
        claim: &ClaimObject,
        status: Option<&SharedLBStatus>,
        result: Result<ClaimObject, WriteError>,
    ) {
        if let (Ok(written), Some(status)) = (&result, status) {
            self.note_dropped_fields(status, &written.status);
        }
        if let Some(entry) = self.entry(claim).filter(|entry| entry.claim.meta.uid == claim.meta.uid) {
            match &result {
                Ok(_) => entry.writes.succeeded(),
                Err(error) => entry.writes.failed(matches!(error, WriteError::Conflict | WriteError::Gone)),
            }
        }
        match result {
            Ok(written) => {
                self.tell_transitions(claim, status);
                if let Some(change) = self.claims.apply_write(written) {
                    self.claim_changed(change.old.as_deref(), change.new);
                }
            }
            Err(WriteError::Gone | WriteError::Conflict) => {}
            Err(error) => warn!(claim = %claim.meta.key, %error, "claim not written"),
        }
        let class = self.class_of(claim);
        self.run_soon(class);
    }

    /// The status of a claim with this verdict, as far as the API server keeps it.
    pub(super) fn status(
        &self,
        claim: &ClaimObject,
        class: Option<&str>,
        verdict: &Verdict,
        now: Timestamp,
    ) -> SharedLBStatus {
        let mut status = render::status(claim, class, verdict, now);
        if self.drops_target_ports {
            status.ports.iter_mut().for_each(|port| port.target_port = None);
        }
        status
    }

    /// With the CustomResourceDefinition of an earlier version, the API server drops a
    /// field that it does not know. The status would otherwise be written without end.
    fn note_dropped_fields(&mut self, written: &SharedLBStatus, kept: &SharedLBStatus) {
        let has = |status: &SharedLBStatus| status.ports.iter().any(|port| port.target_port.is_some());
        if !self.drops_target_ports && has(written) && !has(kept) {
            warn!(
                "the API server drops status.ports[].targetPort of SharedLBs: apply the CustomResourceDefinitions of this version, and restart the controller"
            );
            self.drops_target_ports = true;
        }
    }

    fn tell_transitions(&self, claim: &ClaimObject, status: Option<&SharedLBStatus>) {
        let Some(status) = status else { return };
        let class = self.class_of(claim);
        let class = class.as_deref();
        for (warning, reason, message) in render::transitions(&claim.status.conditions, &status.conditions) {
            info!(class, claim = %claim.meta.key, load_balancer = status.load_balancer_index, ports = status.summary, reason, message, "claim");
            self.settings.events.tell::<SharedLB>(&claim.meta, warning, reason, message);
        }
    }

    /// Counts, and writes the class' status if it differs; if only in its numbers,
    /// which change with every claim, not too often.
    async fn write_numbers(&mut self, name: &Arc<str>, class: &Arc<ClassObject>, status: &SharedLBClassStatus) {
        let soon = |last: Option<Instant>| last.map(|last| last + NUMBERS_EVERY).filter(|next| *next > Instant::now());
        let Some(runner) = self.runners.get_mut(name) else { return };
        match soon(runner.counted) {
            Some(next) => self.run_at(Some(name.clone()), next),
            None => {
                runner.counted = Some(Instant::now());
                self.count(name, status);
            }
        }
        let Some(known) = class.status.as_ref().ok().filter(|known| *known != status) else { return };
        let written = self.runners.get(name).and_then(|runner| runner.status_written);
        match soon(written).filter(|_| differs_in_numbers_only(known, status)) {
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
            || self.groups.get(&Some(name.clone())).is_some_and(|group| {
                group.entries().any(|entry| entry.claim.request.held.is_some() && !entry.claim.is_let_go())
            });
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

fn unreadable_spec(class: &ClassObject) -> Option<String> {
    let error = class.spec.as_ref().err()?;
    Some(format!(
        "the spec of class {} can't be read ({error}): correct it; until then nothing of it is changed",
        class.meta.key.name
    ))
}

fn differs_in_numbers_only(a: &SharedLBClassStatus, b: &SharedLBClassStatus) -> bool {
    let without_numbers = |status: &SharedLBClassStatus| {
        let mut status = SharedLBClassStatus { summary: None, ..status.clone() };
        for lb in &mut status.load_balancers {
            (lb.listeners, lb.targets, lb.released) = (0, None, Vec::new());
        }
        status
    };
    without_numbers(a) == without_numbers(b)
}
