//! The LB loop of one load balancer: the only one that talks to it.
//!
//! It is level-triggered: whatever woke it, it takes the latest plan and the current backends,
//! compares the desired with the observed state, has the provider carry out the difference,
//! and reports the outcome.

pub(crate) mod desired;
#[cfg(test)]
pub(crate) mod faulty_provider;
#[cfg(test)]
pub(crate) mod model;
pub(crate) mod outcome;
pub(crate) mod share;
mod state;
#[cfg(test)]
mod tests;
mod trial;
mod turn;
pub(crate) mod usable;
mod usable_cache;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sharedlb_providers::{Applied, Change, ChangeSet, Error, LbName, ListenerKey, LoadBalancer, Observed, replay};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, field, info, warn};

use self::state::{Failed, Failing, LbState};
use self::trial::Trials;
use self::turn::{Turn, makes_room, not_in_force, opened, turn};
use crate::backends::{Backends, Signal};
use crate::load_balancer::desired::{Plan, desired};
use crate::load_balancer::outcome::Outcome;
use crate::load_balancer::share::TargetLimits;
use crate::process::due::wait_until;
use crate::process::metrics::Metrics;

/// How long a load balancer may be without an address before that is reported as a
/// failure. An implementation that has an address to give does so within a second or
/// two (MetalLB). For a cloud that takes minutes, the failure is withdrawn once the
/// address comes.
pub(crate) const ADDRESS_WITHIN: Duration = Duration::from_secs(5);

/// The longest pause after a reconcile.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The most ports that a message about drift names. It gives the number of the others.
const DRIFT_LISTED: usize = 3;

/// An LB loop before its start.
pub(crate) struct LbLoop {
    /// The load balancer
    pub name: LbName,
    /// Its class, for logs and metrics
    pub class: Arc<str>,
    /// The plans; the loop ends when their sender is dropped
    pub plans: watch::Receiver<Arc<Plan>>,
    /// Wakes it besides a new plan
    pub signal: Arc<Signal>,
    /// Whether the load balancer existed at the last report of an earlier process
    pub existed: bool,
    /// Whether an earlier process reported that its address is overdue
    pub address_overdue: bool,
    /// How long it may have no address before that is reported as a failure; `None`: without
    /// limit
    pub address_within: Option<Duration>,
    pub backends: Arc<Backends>,
    /// Called with each new outcome
    pub on_outcome: Box<dyn Fn(Outcome) + Send + Sync>,
    /// How often the load balancer is observed although no change is known
    pub resync: Duration,
    /// Counts reconciles and calls
    pub metrics: Arc<Metrics>,
}

impl LbLoop {
    /// Reconciles until the sender of plans is dropped.
    pub(crate) async fn run(mut self) {
        let mut kept = LbState { there: self.existed, address_overdue: self.address_overdue, ..LbState::default() };
        let mut resync = tokio::time::interval_at(Instant::now() + self.resync, self.resync);
        let index = self.plans.borrow().index;
        self.metrics.load_balancer_succeeded(&self.class, index);
        loop {
            let started = Instant::now();
            let plan = self.plans.borrow_and_update().clone();
            self.note_interest(&plan, &mut kept);
            if !self.backends.knows(plan.reach) {
                tokio::select! {
                    biased;
                    changed = self.plans.changed() => if changed.is_err() { break },
                    () = self.signal.woken() => {}
                }
                continue;
            }
            let again = self.run_once(&plan, &mut kept).await;
            self.metrics.load_balancer_run(&self.class, started.elapsed());
            if kept.is_as_planned() {
                self.metrics.load_balancer_succeeded(&self.class, index);
            }
            self.report(plan, &mut kept);
            // It pauses for as long as the reconcile took: where changes are slow, more of them
            // then go into one, and their receiver has time for others.
            wait_until(Some(Instant::now() + started.elapsed().min(PAUSE_MAX))).await;
            tokio::select! {
                // The end of the plans first: a resync would carry out the last plan again.
                biased;
                changed = self.plans.changed() => if changed.is_err() { break },
                () = self.signal.woken() => {}
                () = wait_until(again) => {}
                _ = resync.tick() => {
                    kept.observed = None;
                    kept.usable.clear();
                }
            }
        }
        self.backends.interest(&kept.services, &BTreeSet::new(), &self.signal);
        self.metrics.load_balancer_ended(&self.class, index);
    }

    fn note_interest(&self, plan: &Plan, kept: &mut LbState) {
        if kept.services != plan.services {
            self.backends.interest(&kept.services, &plan.services, &self.signal);
            kept.services.clone_from(&plan.services);
            kept.usable.retain(&kept.services);
        }
    }

    /// Observes if needed, compares, and applies. Returns when to retry failures.
    async fn run_once(&self, plan: &Plan, kept: &mut LbState) -> Option<Instant> {
        self.note_interest(plan, kept);
        if self.signal.take_observe() {
            kept.observed = None;
        }
        let result = match &plan.slots {
            Some(_) => self.converge(plan, kept).await,
            None => self.remove(plan, kept).await,
        };
        let address = kept.note_address(self.address_within);
        match result {
            Ok(next) => {
                self.note_answer(kept);
                kept.note_unserved();
                let failing = kept.failure.iter().chain(&kept.unconfigured).chain(&kept.unclosed).chain(&kept.unserved);
                let failing = failing.map(|failing| failing.again);
                let failed = kept.failed.values().map(|failed| failed.failing.again);
                failing.chain(failed).chain(next).chain(address).min()
            }
            Err(error) => Some(self.note_failure(error, kept)).into_iter().chain(address).min(),
        }
    }

    /// Brings the load balancer to its desired state, as far as that can be done now.
    /// Returns when to go on with postponed changes.
    async fn converge(&self, plan: &Plan, kept: &mut LbState) -> Result<Option<Instant>, Error> {
        let observed = self.observe(plan, kept).await?;
        let exists = observed.is_some();
        let mut observed = observed.unwrap_or_default();
        let wanted = self.wanted(plan, &observed, kept);
        let turn = turn(plan, &observed, wanted, kept);
        if exists && turn.changes.is_empty() {
            kept.unclosed = None;
            kept.observed = Some(Some(observed));
            return Ok(kept.coalescing_until);
        }
        let applied = self.apply(plan, &turn, exists, kept).await?;
        // Which backends a new load balancer takes is known only now.
        let at_once = !exists || !applied.postponed.is_empty() || turn.reopens;
        // A listener that failed may have been left half done, and what stood in
        // its way is worth knowing; so are the limits and addresses of a new load
        // balancer, and whether a listener that got no traffic is served by now.
        let known = exists && applied.failed.is_empty() && observed.unserved.is_empty();
        self.note_applied(&turn, applied, &mut observed, kept);
        kept.observed = Some(if known { Some(observed) } else { plan.provider.observe(&self.name).await? });
        kept.there = matches!(kept.observed, Some(Some(_)));
        Ok(if at_once { Some(Instant::now()) } else { kept.coalescing_until })
    }

    /// The load balancer as it was last seen, or is: whether it exists is noted, and
    /// whether it has an address.
    async fn observe(&self, plan: &Plan, kept: &mut LbState) -> Result<Option<Observed>, Error> {
        let observed = match kept.observed.take().filter(|_| !kept.may_be_ready() && !kept.may_be_served()) {
            Some(known) => known,
            None => plan.provider.observe(&self.name).await?,
        };
        self.note_presence(observed.is_some(), kept);
        let attributes = plan.provider.attributes(plan.index);
        match &observed {
            Some(observed) if !observed.addresses.is_empty() || observed.load_balancer.attributes == attributes => {
                kept.trials.seen(!observed.addresses.is_empty(), Instant::now());
            }
            // Deleted, or with other settings, it loses its address by no listener's fault.
            _ => kept.trials = Trials::default(),
        }
        Ok(observed)
    }

    async fn apply(&self, plan: &Plan, turn: &Turn, exists: bool, kept: &mut LbState) -> Result<Applied, Error> {
        let set = ChangeSet::new(&turn.target, &turn.changes).while_waiting(&turn.waiting);
        match plan.provider.apply(&self.name, set).await {
            Ok(applied) => Ok(applied),
            Err(error) => {
                // The outcome has what was closed before the failure, and that the
                // load balancer does not exist, if it cannot be created.
                let unmade = !exists && error.is_refusal();
                let takes_away =
                    |change: &Change| matches!(change, Change::Close(_) | Change::Own(_) | Change::Options(_));
                if unmade || turn.changes.iter().any(takes_away) {
                    kept.observed = plan.provider.observe(&self.name).await.ok();
                }
                Err(if exists { error } else { self.unmade(plan, error) })
            }
        }
    }

    /// Takes in what the provider made of the changes.
    fn note_applied(&self, turn: &Turn, applied: Applied, observed: &mut Observed, kept: &mut LbState) {
        let done = |change: &&Change| match change {
            Change::Configure => applied.unconfigured.is_none(),
            _ => change
                .listeners()
                .iter()
                .all(|key| !applied.failed.contains_key(key) && !applied.postponed.contains(key)),
        };
        let done: Vec<&Change> = turn.changes.iter().filter(done).collect();
        self.log_changes(done.iter().copied(), &observed.load_balancer, &turn.target);
        replay(&mut observed.load_balancer, &turn.target, done.iter().copied());
        let opened_at = Instant::now();
        for key in done.iter().copied().flat_map(opened) {
            let Some(listener) = turn.target.listeners.get(&key) else { continue };
            kept.trials.opened(key, &listener.owner, opened_at);
        }
        self.note_listener_failures(turn, &applied.failed, &observed.load_balancer, kept);
        if done.iter().copied().any(makes_room) {
            kept.room_was_made();
        }
        // It belongs to no claim, so no verdict has the failure; it is retried all the same.
        let unclosed = applied.failed.iter().find(|(key, _)| !turn.wanted.listeners.contains_key(key));
        kept.unclosed = unclosed.map(|(_, error)| Failing::again(kept.unclosed.as_ref(), error.clone()));
        if turn.changes.contains(&Change::Configure) {
            self.note_configured(applied.unconfigured, observed, &turn.waiting, kept);
        }
        if !applied.addresses.is_empty() {
            observed.addresses = applied.addresses;
        }
    }

    /// The error of a load balancer that cannot be created.
    fn unmade(&self, plan: &Plan, error: Error) -> Error {
        let object = plan.provider.object(&self.name);
        let unmade = format!("{} ({object}) cannot be made", self.what(plan));
        if error.is_refusal() { error.within(unmade) } else { error }
    }

    /// The load balancer, for a message.
    fn what(&self, plan: &Plan) -> String {
        format!("load balancer {} of class {}", plan.index, self.class)
    }

    /// The desired load balancer with the current backends.
    fn wanted(&self, plan: &Plan, observed: &Observed, kept: &mut LbState) -> LoadBalancer {
        let can = plan.provider.capabilities();
        let limits = TargetLimits {
            of_listener: can.max_targets_per_listener,
            in_all: observed.capacity.targets.or(can.default_targets),
        };
        kept.usable.refresh(plan, &observed.families, &self.signal.take_changed());
        let usable = |service: &_, port: &_, protocol| kept.usable.of(service, port, protocol, &self.backends);
        let attributes = plan.provider.attributes(plan.index);
        let wanted = desired(plan, attributes, observed, limits, usable);
        (kept.idle, kept.idle_families, kept.left_out) = (wanted.idle, wanted.idle_families, wanted.left_out);
        let mut wanted = wanted.load_balancer;
        let owner_of = |key| wanted.listeners.get(&key).map(|listener| &listener.owner);
        // A port that is renamed stays withdrawn.
        kept.trials.keep_wanted(|key, owner| owner_of(key).is_some_and(|wanted| wanted.is_same_claim(owner)));
        wanted.listeners.retain(|key, _| !kept.trials.is_withdrawn(*key));
        wanted
    }

    async fn remove(&self, plan: &Plan, kept: &mut LbState) -> Result<Option<Instant>, Error> {
        if !matches!(kept.observed, Some(None)) {
            plan.provider.delete(&self.name).await?;
            kept.observed = Some(None);
            kept.there = false;
            kept.failed.clear();
            info!(class = %self.class, load_balancer = %self.name, "load balancer removed");
        }
        Ok(None)
    }

    /// Records whether the load balancer exists: one that was deleted by another client is
    /// recreated, and that is reported.
    fn note_presence(&self, there: bool, kept: &mut LbState) {
        if kept.there && !there {
            warn!(class = %self.class, load_balancer = %self.name, "load balancer is gone, and is recreated");
            kept.recreated += 1;
        }
        kept.there = there;
    }

    /// Logs the changes that were carried out on the way from `before` to `after`.
    fn log_changes<'a>(&self, changes: impl Iterator<Item = &'a Change>, before: &LoadBalancer, after: &LoadBalancer) {
        let log = |what: &str, key: &ListenerKey| {
            let claim = after.listeners.get(key).map(|listener| field::display(&listener.owner));
            info!(class = %self.class, load_balancer = %self.name, listener = %key, claim, "{what}");
        };
        for change in changes {
            match change {
                Change::Configure => {
                    info!(class = %self.class, load_balancer = %self.name, "load balancer configured");
                }
                Change::Open(key) => log("listener opened", key),
                Change::Close(key) => log("listener closed", key),
                Change::Replace { open, .. } => open.iter().for_each(|key| log("listener replaced", key)),
                Change::Own(key) => log("listener given to another claim", key),
                Change::Options(key) => log("options of the listener changed", key),
                Change::Backends(key) => {
                    let backends = |of: &LoadBalancer| of.listeners.get(key).map(|listener| listener.backends.clone());
                    let (before, after) = (backends(before).unwrap_or_default(), backends(after).unwrap_or_default());
                    debug!(
                        class = %self.class, load_balancer = %self.name, listener = %key,
                        added = (&after - &before).len(), removed = (&before - &after).len(),
                        "backends changed"
                    );
                }
                change => info!(class = %self.class, load_balancer = %self.name, ?change, "changed"),
            }
        }
    }

    /// Records whether the settings and the repair of drift were carried out.
    fn note_configured(
        &self,
        unconfigured: Option<Error>,
        observed: &mut Observed,
        waiting: &BTreeSet<ListenerKey>,
        kept: &mut LbState,
    ) {
        let mut drift: Vec<String> =
            observed.drifted(waiting).map(|(port, what)| format!("port {port}: {what}")).collect();
        // The cause comes after it in a message of limited length.
        if let Some(more) = drift.len().checked_sub(DRIFT_LISTED).filter(|more| *more > 0) {
            drift.truncate(DRIFT_LISTED);
            drift.push(format!("and {more} more"));
        }
        let (name, drift) = (&self.name, drift.join("; "));
        let Some(error) = unconfigured else {
            if !drift.is_empty() {
                info!(class = %self.class, load_balancer = %name, drift, "drift was repaired");
            }
            observed.drift.retain(|port, _| waiting.iter().any(|key| key.port == *port));
            return;
        };
        let error = if drift.is_empty() { error } else { error.within(drift) };
        let why = format_args!("{error:#}");
        warn!(class = %self.class, load_balancer = %name, error = %why, "load balancer could not be configured");
        kept.unconfigured = Some(Failing::again(kept.unconfigured.as_ref(), error));
    }

    fn note_listener_failures(
        &self,
        turn: &Turn,
        failed: &BTreeMap<ListenerKey, Error>,
        found: &LoadBalancer,
        kept: &mut LbState,
    ) {
        // Backends may have changed while the options wait.
        let has_options = |key: &ListenerKey| {
            let both = found.listeners.get(key).zip(turn.wanted.listeners.get(key));
            both.is_none_or(|(found, wanted)| found.options == wanted.options)
        };
        let done = turn.changes.iter().flat_map(Change::listeners).filter(|key| !failed.contains_key(key));
        for key in done.filter(has_options) {
            kept.failed.remove(&key);
        }
        for (key, error) in failed {
            let (name, why) = (&self.name, format_args!("{error:#}"));
            match error {
                Error::NotReady(_) => {
                    info!(class = %self.class, load_balancer = %name, listener = %key, error = %why, "listener not ready yet");
                }
                _ => {
                    warn!(class = %self.class, load_balancer = %name, listener = %key, error = %why, "listener failed")
                }
            }
            // One that could not be closed belongs to no claim any more.
            let Some(wanted) = turn.wanted.listeners.get(key) else { continue };
            let not_in_force = found.listeners.get(key).and_then(|found| not_in_force(*key, found, wanted));
            let error = not_in_force.map_or_else(|| error.clone(), |what| error.clone().within(what));
            let failing = Failing::again(kept.failed.get(key).map(|before| &before.failing), error);
            let options = turn.changes.contains(&Change::Options(*key));
            kept.failed.insert(*key, Failed { owner: wanted.owner.clone(), failing, options });
        }
    }

    /// Records that everything was carried out. The load balancer is as planned, unless it
    /// serves nothing yet.
    fn note_answer(&self, kept: &mut LbState) {
        let not_ready = kept.observed.iter().flatten().find_map(|observed| observed.not_ready.clone());
        match not_ready {
            Some(_) if kept.is_not_ready() && !kept.may_be_ready() => {}
            Some(why) => _ = self.note_failure(Error::NotReady(why.into()), kept),
            None => {
                if kept.failure.take().is_some_and(|failing| failing.is_reported()) {
                    info!(class = %self.class, load_balancer = %self.name, "load balancer is as planned again");
                }
            }
        }
    }

    fn note_failure(&self, error: Error, kept: &mut LbState) -> Instant {
        let failing = Failing::again(kept.failure.as_ref(), error);
        let (name, error, times, again) = (&self.name, format!("{:#}", failing.error), failing.times, failing.again);
        match failing.error {
            _ if !failing.is_reported() => {
                info!(class = %self.class, load_balancer = %name, error, "to be tried again")
            }
            Error::NotReady(_) => info!(class = %self.class, load_balancer = %name, error, "not ready yet"),
            _ => warn!(class = %self.class, load_balancer = %name, error, times, "load balancer failed"),
        }
        kept.failure = Some(failing);
        again
    }

    /// Reports the outcome to the class loop, if it has changed.
    fn report(&self, plan: Arc<Plan>, kept: &mut LbState) {
        let (what, object) = (self.what(&plan), plan.provider.object(&self.name));
        let outcome = kept.outcome(plan, &what, &object);
        let known = kept.last_reported.as_ref().is_some_and(|reported| {
            outcome.affected_since(reported).is_none() && Arc::ptr_eq(&reported.plan, &outcome.plan)
        });
        if !known {
            kept.last_reported = Some(outcome.clone());
            (self.on_outcome)(outcome);
        }
    }
}
