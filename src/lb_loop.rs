//! The LB loop of one load balancer: the only one that talks to it.
//!
//! Level-triggered: whatever woke it, it takes the latest plan and the backends
//! of the moment, compares what they make with what it last saw, has the
//! provider carry out the difference, and tells the outcome.

#[cfg(test)]
pub(crate) mod asked;
#[cfg(test)]
pub(crate) mod model;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sharedlb_providers::{Change, Error, LbName, ListenerKey, LoadBalancer, Observed, Owner, diff, replay};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{field, info, warn};

use crate::assign::ClaimId;
use crate::cluster::backends::Backends;
use crate::desired::{Plan, desired};
use crate::due::wait_until;
use crate::metrics::Metrics;
use crate::outcome::{ListenerOutcome, Outcome, Since, Trouble};

/// The first wait after a failure. It doubles with each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait after a failure.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// The longest rest after a run.
const REST_MAX: Duration = Duration::from_secs(1);
/// Conflicts in a row of which nobody is told.
const CONFLICTS_UNTOLD: u32 = 20;

/// Wakes an LB loop.
#[derive(Debug, Default)]
pub struct Signal {
    notify: Notify,
    look: AtomicBool,
}

impl Signal {
    /// Something that it depends on has changed.
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    /// Waits until it is woken.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }

    /// The load balancer itself has changed: it is to be observed again.
    pub fn look_again(&self) {
        self.look.store(true, Ordering::Release);
        self.notify.notify_one();
    }
}

/// What an LB loop is given at its start.
pub struct LbLoop {
    /// The load balancer
    pub name: LbName,
    /// Its class, for logs and metrics
    pub class: Arc<str>,
    /// What shall be; the loop ends when nobody plans any more
    pub plans: watch::Receiver<Arc<Plan>>,
    /// What wakes it besides a new plan
    pub signal: Arc<Signal>,
    /// Where traffic goes
    pub backends: Arc<Backends>,
    /// Whom the outcome is told
    pub tell: Box<dyn Fn(Outcome) + Send + Sync>,
    /// How often the load balancer is looked at although nothing is known to
    /// have changed
    pub resync: Duration,
    /// Where runs and calls are counted
    pub metrics: Arc<Metrics>,
}

/// What the loop remembers between its runs.
#[derive(Default)]
struct Kept {
    /// The load balancer as it is, if that is known: `Some(None)`, it does not exist
    observed: Option<Option<Observed>>,
    /// The load balancer as a whole: why it is not as planned
    trouble: Option<Failing>,
    /// Its settings alone: why they are not as planned. They are left alone until
    /// it is time, and the listeners go on
    unconfigured: Option<Failing>,
    /// Listeners that failed
    failed: BTreeMap<ListenerKey, Failed>,
    /// The Services that the last plan depends on
    services: BTreeSet<ClaimId>,
    told: Option<Outcome>,
}

/// What failed, how often in a row, and when it is tried again.
struct Failing {
    error: Error,
    times: u32,
    again: Instant,
}

impl Failing {
    /// It failed once more.
    fn again(before: Option<&Self>, error: Error) -> Self {
        let times = before.map_or(0, |before| before.times) + 1;
        let again = Instant::now() + backoff(times, &error);
        Self { error, times, again }
    }

    /// A first failure that will pass, or a few conflicts with another writer, are
    /// tried again before anybody is told of them.
    fn is_news(&self) -> bool {
        match self.error {
            Error::Transient(_) => self.times > 1,
            Error::Conflict(_) => self.times > CONFLICTS_UNTOLD,
            _ => true,
        }
    }
}

/// A listener that failed: left alone until it is time, so that it costs the
/// others nothing.
struct Failed {
    owner: Owner,
    trouble: Trouble,
    times: u32,
    again: Instant,
}

impl LbLoop {
    /// Runs until nobody plans for this load balancer any more.
    pub async fn run(mut self) {
        let mut kept = Kept::default();
        let mut resync = tokio::time::interval_at(Instant::now() + self.resync, self.resync);
        loop {
            let started = Instant::now();
            let plan = self.plans.borrow_and_update().clone();
            let again = self.run_once(&plan, &mut kept).await;
            self.metrics.load_balancer_run(&self.class, started.elapsed());
            self.report(plan, &mut kept);
            // It rests for as long as the run took: where changes are slow, more of
            // them then go into one, and their receiver has time for others.
            tokio::time::sleep(started.elapsed().min(REST_MAX)).await;
            tokio::select! {
                changed = self.plans.changed() => if changed.is_err() { break },
                () = self.signal.woken() => {}
                () = wait_until(again) => {}
                _ = resync.tick() => kept.observed = None,
            }
        }
        self.backends.interest(&kept.services, &BTreeSet::new(), &self.signal);
    }

    /// Observe if need be, compare, apply. Returns when to try again what failed.
    async fn run_once(&self, plan: &Plan, kept: &mut Kept) -> Option<Instant> {
        if kept.services != plan.services {
            self.backends.interest(&kept.services, &plan.services, &self.signal);
            kept.services.clone_from(&plan.services);
        }
        if self.signal.look.swap(false, Ordering::AcqRel) {
            kept.observed = None;
        }
        let result = match &plan.slots {
            Some(_) => self.converge(plan, kept).await,
            None => self.remove(plan, kept).await,
        };
        match result {
            Ok(postponed) => {
                self.note_no_trouble(kept);
                let failing = kept.trouble.iter().chain(&kept.unconfigured).map(|failing| failing.again);
                let failed = kept.failed.values().map(|failed| failed.again);
                failing.chain(failed).chain(postponed.then(Instant::now)).min()
            }
            Err(error) => Some(self.note_trouble(error, kept)),
        }
    }

    /// Returns whether something was left for the next run.
    async fn converge(&self, plan: &Plan, kept: &mut Kept) -> Result<bool, Error> {
        let observed = match kept.observed.take().filter(|_| !kept.may_be_ready()) {
            Some(known) => known,
            None => plan.provider.observe(&self.name).await?,
        };
        let exists = observed.is_some();
        let mut observed = observed.unwrap_or_default();
        let attributes = plan.provider.attributes(plan.index);
        let backends = |service: &_, port: &_, protocol| self.backends.of(service, port, protocol, plan.endpoints);
        let wanted = desired(plan, attributes, &observed.load_balancer.listeners, backends);
        let changes = diff(&observed.load_balancer, &wanted);
        // What is as planned by now did not fail, whatever was told of it.
        kept.unconfigured.take_if(|_| observed.load_balancer.attributes == wanted.attributes);
        kept.failed.retain(|key, failed| {
            wanted.listeners.get(key).is_some_and(|listener| listener.owner == failed.owner)
                && changes.iter().any(|change| change.listener() == Some(*key))
        });
        let (now, later): (Vec<Change>, Vec<Change>) = changes.into_iter().partition(|change| kept.is_due(change));
        if exists && now.is_empty() {
            kept.observed = Some(Some(observed));
            return Ok(false);
        }
        // Providers that write the whole must not be given what is to wait.
        let mut target = observed.load_balancer.clone();
        replay(&mut target, &now);
        debug_assert!(!later.is_empty() || target == wanted, "the diff does not lead to what is desired");

        let applied = plan.provider.apply(&self.name, &target, &now).await?;
        let done = |change: &&Change| match change.listener() {
            Some(key) => !applied.failed.contains_key(&key) && !applied.postponed.contains(&key),
            None => applied.trouble.is_none(),
        };
        replay(&mut observed.load_balancer, now.iter().filter(done));
        self.log_changes(&now, |change| done(&change));
        self.note_failures(&now, &applied.failed, &wanted, kept);
        if let Some(error) = applied.trouble {
            warn!(class = %self.class, load_balancer = %self.name, %error, "load balancer could not be configured");
            kept.unconfigured = Some(Failing::again(kept.unconfigured.as_ref(), error));
        }
        if !applied.addresses.is_empty() {
            observed.addresses = applied.addresses;
        }
        // A listener that failed may have been left half done, and what stood in
        // its way is worth knowing; so are the limits and addresses of a new load
        // balancer.
        let known = exists && applied.failed.is_empty();
        kept.observed = Some(if known { Some(observed) } else { plan.provider.observe(&self.name).await? });
        Ok(!applied.postponed.is_empty())
    }

    async fn remove(&self, plan: &Plan, kept: &mut Kept) -> Result<bool, Error> {
        if !matches!(kept.observed, Some(None)) {
            plan.provider.delete(&self.name).await?;
            kept.observed = Some(None);
            kept.failed.clear();
            info!(class = %self.class, load_balancer = %self.name, "load balancer removed");
        }
        Ok(false)
    }

    fn log_changes(&self, changes: &[Change], done: impl Fn(&Change) -> bool) {
        for change in changes.iter().filter(|change| done(change)) {
            let (what, listener, claim) = match change {
                Change::Configure(_) => ("load balancer configured", None, None),
                Change::Open(key, listener) => ("listener opened", Some(key), Some(&listener.owner)),
                Change::Close(key) => ("listener closed", Some(key), None),
                Change::Own(key, owner) => ("listener given to another claim", Some(key), Some(owner)),
                Change::Backends { listener, add, remove } => {
                    tracing::debug!(
                        class = %self.class, load_balancer = %self.name, %listener,
                        added = add.len(), removed = remove.len(), "backends changed"
                    );
                    continue;
                }
            };
            let (listener, claim) = (listener.map(field::display), claim.map(field::display));
            info!(class = %self.class, load_balancer = %self.name, listener, claim, "{what}");
        }
    }

    fn note_failures(
        &self,
        tried: &[Change],
        failed: &BTreeMap<ListenerKey, Error>,
        wanted: &LoadBalancer,
        kept: &mut Kept,
    ) {
        for key in tried.iter().filter_map(Change::listener).filter(|key| !failed.contains_key(key)) {
            kept.failed.remove(&key);
        }
        for (key, error) in failed {
            warn!(class = %self.class, load_balancer = %self.name, listener = %key, %error, "listener failed");
            // One that could not be closed is nobody's any more.
            let Some(owner) = wanted.listeners.get(key).map(|listener| listener.owner.clone()) else { continue };
            let times = kept.failed.get(key).map_or(0, |before| before.times) + 1;
            let again = Instant::now() + backoff(times, error);
            kept.failed.insert(*key, Failed { owner, trouble: Trouble::from(error), times, again });
        }
    }

    /// All was carried out. It is fine, unless it serves nothing yet.
    fn note_no_trouble(&self, kept: &mut Kept) {
        let not_ready = kept.observed.iter().flatten().find_map(|observed| observed.not_ready.clone());
        match not_ready {
            Some(_) if kept.is_not_ready() && !kept.may_be_ready() => {}
            Some(why) => _ = self.note_trouble(Error::NotReady(why), kept),
            None => {
                if kept.trouble.take().is_some_and(|failing| failing.is_news()) {
                    info!(class = %self.class, load_balancer = %self.name, "load balancer is as planned again");
                }
            }
        }
    }

    fn note_trouble(&self, error: Error, kept: &mut Kept) -> Instant {
        let failing = Failing::again(kept.trouble.as_ref(), error);
        let (name, error, times, again) = (&self.name, &failing.error, failing.times, failing.again);
        match error {
            _ if !failing.is_news() => info!(class = %self.class, load_balancer = %name, %error, "to be tried again"),
            Error::NotReady(_) => info!(class = %self.class, load_balancer = %name, %error, "not ready yet"),
            _ => warn!(class = %self.class, load_balancer = %name, %error, times, "load balancer failed"),
        }
        kept.trouble = Some(failing);
        again
    }

    /// Tells the class loop, if there is anything that it does not know.
    fn report(&self, plan: Arc<Plan>, kept: &mut Kept) {
        let outcome = kept.outcome(plan);
        let known = kept
            .told
            .as_ref()
            .is_some_and(|told| outcome.news_since(told).is_none() && Arc::ptr_eq(&told.plan, &outcome.plan));
        if !known {
            kept.told = Some(outcome.clone());
            (self.tell)(outcome);
        }
    }
}

impl Kept {
    /// Whether a change is to be tried now: its listener did not fail lately.
    fn is_due(&self, change: &Change) -> bool {
        let again = match change.listener() {
            Some(key) => self.failed.get(&key).map(|failed| failed.again),
            None => self.unconfigured.as_ref().map(|failing| failing.again),
        };
        again.is_none_or(|again| again <= Instant::now())
    }

    /// Whether it was there, but served nothing yet.
    fn is_not_ready(&self) -> bool {
        self.trouble.as_ref().is_some_and(|failing| matches!(failing.error, Error::NotReady(_)))
    }

    /// Whether it is time to look if it serves by now.
    fn may_be_ready(&self) -> bool {
        self.is_not_ready() && self.trouble.as_ref().is_some_and(|failing| failing.again <= Instant::now())
    }

    fn outcome(&self, plan: Arc<Plan>) -> Outcome {
        let before = self.told.as_ref();
        // While it can't be asked, what was last known of it stands, and so does
        // the plan that this is about: what was opened or closed since is not known.
        let plan = before.filter(|_| self.observed.is_none()).map_or(plan, |told| told.plan.clone());
        let (exists, addresses, capacity, foreign, ours) = match (&self.observed, before) {
            (Some(Some(observed)), _) => (
                Some(true),
                observed.addresses.clone().into(),
                observed.capacity,
                observed.foreign.clone(),
                Some(&observed.load_balancer),
            ),
            (Some(None), _) => (Some(false), Arc::default(), Default::default(), BTreeSet::new(), None),
            (None, Some(told)) => (told.exists, told.addresses.clone(), told.capacity, told.foreign.clone(), None),
            (None, None) => (None, Arc::default(), Default::default(), BTreeSet::new(), None),
        };
        let trouble = self.trouble.iter().chain(&self.unconfigured).find(|failing| failing.is_news());
        let trouble = trouble.map(|failing| Trouble::from(&failing.error));
        let known = before.filter(|_| self.observed.is_none()).map(|told| &told.listeners);
        let mut listeners = known.cloned().unwrap_or_else(|| self.listeners(ours));
        if let Some(Observed { not_ready: Some(why), .. }) = self.observed.iter().flatten().next() {
            let trouble = Trouble::from(&Error::NotReady(why.clone()));
            listeners.values_mut().for_each(|found| _ = found.trouble.get_or_insert_with(|| trouble.clone()));
        }
        Outcome { plan, since: Since::default(), exists, addresses, capacity, foreign, listeners, trouble }
    }

    fn listeners(&self, ours: Option<&LoadBalancer>) -> BTreeMap<ListenerKey, ListenerOutcome> {
        let open = ours.into_iter().flat_map(|ours| &ours.listeners);
        let mut listeners: BTreeMap<ListenerKey, ListenerOutcome> = open
            .map(|(key, found)| {
                let backends = !found.backends.is_empty();
                (*key, ListenerOutcome { owner: found.owner.clone(), open: true, backends, trouble: None })
            })
            .collect();
        for (key, failed) in &self.failed {
            let listener = listeners.entry(*key).or_insert_with(|| ListenerOutcome {
                owner: failed.owner.clone(),
                open: false,
                backends: false,
                trouble: None,
            });
            listener.trouble = Some(failed.trouble.clone());
        }
        listeners
    }
}

/// How long to wait after the nth failure in a row.
fn backoff(times: u32, error: &Error) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << times.saturating_sub(1).min(16)).min(BACKOFF_MAX);
    match error {
        Error::Throttled { retry_after, .. } => doubled.max(*retry_after),
        Error::Conflict(_) => BACKOFF_MIN,
        _ => doubled,
    }
}
