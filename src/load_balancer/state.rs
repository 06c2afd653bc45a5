//! The state of an LB loop between its reconciles, and the outcome of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sharedlb_crds::Reason;
use sharedlb_providers::{Change, Error, IpFamily, ListenerKey, LoadBalancer, Observed, Owner, Unserved};
use tokio::time::Instant;

use super::trial::Trials;
use super::usable_cache::UsableCache;
use crate::kubernetes::ObjectKey;
use crate::kubernetes::conditions::whole_seconds;
use crate::load_balancer::desired::Plan;
use crate::load_balancer::outcome::{Failure, ListenerOutcome, MaybeOpen, Outcome};
use crate::load_balancer::share::LeftOut;

/// The first wait after a failure. It doubles with each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait after a failure.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// How many conflicts in a row are not reported.
const CONFLICTS_UNREPORTED: u32 = 20;

/// The state of an LB loop between its reconciles.
#[derive(Default)]
pub(super) struct LbState {
    /// The current load balancer, if known; `Some(None)`: it does not exist
    pub(super) observed: Option<Option<Observed>>,
    /// Why the load balancer as a whole is not as planned
    pub(super) failure: Option<Failing>,
    /// Why its settings are not as planned. They are retried after a backoff, and delay no
    /// listener
    pub(super) unconfigured: Option<Failing>,
    pub(super) failed: BTreeMap<ListenerKey, Failed>,
    /// Why a listener that is no longer planned could not be closed
    pub(super) unclosed: Option<Failing>,
    /// Why a listener gets no traffic yet, and when to observe that again
    pub(super) unserved: Option<Failing>,
    /// Until when changes of backends are coalesced
    pub(super) coalescing_until: Option<Instant>,
    /// Whether the load balancer existed at the last observation
    pub(super) there: bool,
    /// Since when it exists without an address
    pub(super) without_address: Option<Instant>,
    /// Whether its address is overdue
    pub(super) address_overdue: bool,
    /// Listeners that may have taken its address
    pub(super) trials: Trials,
    /// How often it was recreated after it was deleted by another client
    pub(super) recreated: u32,
    /// Listeners with a transport without a ready and usable pod
    pub(super) idle: BTreeSet<ListenerKey>,
    /// The IP families of the load balancer in which a listener has no backend
    pub(super) idle_families: BTreeMap<ListenerKey, BTreeSet<IpFamily>>,
    /// Listeners that have more backends than the load balancer takes
    pub(super) left_out: BTreeMap<ListenerKey, LeftOut>,
    /// The Services that the last plan depends on
    pub(super) services: BTreeSet<ObjectKey>,
    /// Where the ports of these lead
    pub(super) usable: UsableCache,
    pub(super) last_reported: Option<Outcome>,
}

/// A failure, how often it occurred in a row, and when to retry.
pub(super) struct Failing {
    pub(super) error: Error,
    pub(super) failure: Failure,
    pub(super) times: u32,
    pub(super) again: Instant,
    /// When it occurred first
    pub(super) since: Instant,
}

impl Failing {
    /// Records a further failure.
    pub(super) fn again(before: Option<&Self>, error: Error) -> Self {
        let (times, now) = (before.map_or(0, |before| before.times) + 1, Instant::now());
        let again = now + backoff(times, &error);
        let since = before.map_or(now, |before| before.since);
        Self { failure: failure(&error, again), error, times, again, since }
    }

    /// Whether a retry may succeed once a listener was closed.
    fn lacks_room(&self) -> bool {
        matches!(self.error, Error::NoRoom(_) | Error::Exhausted(_))
    }

    /// Whether it is reported: a first transient failure, or a few conflicts with another
    /// client, are retried first.
    pub(super) fn is_reported(&self) -> bool {
        match self.error {
            Error::Transient(_) => self.times > 1,
            Error::Conflict(_) => self.times > CONFLICTS_UNREPORTED,
            _ => true,
        }
    }
}

/// A listener that failed. It is retried after a backoff, so that it does not delay the
/// others.
pub(super) struct Failed {
    pub(super) owner: Owner,
    pub(super) failing: Failing,
    /// Whether its options were to change. Its backends do not wait for that
    pub(super) options: bool,
}

impl LbState {
    /// Whether a change is due: none of its listeners waits for a retry. If `room_is_made`,
    /// those without room do not wait.
    pub(super) fn is_due(&self, change: &Change, room_is_made: bool) -> bool {
        let failing = match change {
            Change::Configure => self.unconfigured.as_ref(),
            _ => change
                .listeners()
                .iter()
                .filter_map(|key| self.failed.get(key))
                .map(|failed| &failed.failing)
                .filter(|failing| !(room_is_made && failing.lacks_room()))
                .max_by_key(|failing| failing.again),
        };
        failing.is_none_or(|failing| failing.again <= Instant::now())
    }

    /// Records that a listener was closed: listeners without room are retried at once, and
    /// their backoff starts over, since the room may be free only a moment later.
    pub(super) fn room_was_made(&mut self) {
        for Failed { failing, .. } in self.failed.values_mut() {
            if failing.lacks_room() {
                (failing.times, failing.again) = (0, Instant::now());
            }
        }
    }

    /// Sorts the listeners that open by the time of their first failure, so that freed room
    /// goes to the one that has waited longest. Those that have not failed come last.
    pub(super) fn oldest_first(&self, changes: &mut [Change]) {
        let waits_since = |change: &Change| match change {
            Change::Open(key) => self.failed.get(key).map(|failed| failed.failing.since),
            _ => None,
        };
        let opens = |change: &Change| matches!(change, Change::Open(_));
        let first = changes.iter().position(opens).unwrap_or_default();
        let count = changes[first..].iter().take_while(|change| opens(change)).count();
        changes[first..first + count].sort_by_key(|change| {
            let since = waits_since(change);
            (since.is_none(), since)
        });
    }

    /// Coalesces changes of backends, where calls are expensive. The first backend of a
    /// listener does not wait, since a user waits for it, and neither do those of a listener
    /// whose owner changes, since they are the wrong pods. Returns the changes to make now, and
    /// those that wait.
    pub(super) fn coalesce(
        &mut self,
        changes: Vec<Change>,
        found: &LoadBalancer,
        wanted: &LoadBalancer,
        coalesce: Duration,
    ) -> (Vec<Change>, Vec<Change>) {
        let waits = |change: &Change| match change {
            Change::Backends(key) => found.listeners.get(key).is_some_and(|found| {
                let wanted = wanted.listeners.get(key).unwrap_or(found);
                !found.backends.is_empty() && found.owner.is_same_claim(&wanted.owner)
            }),
            _ => false,
        };
        if coalesce.is_zero() || !changes.iter().any(waits) {
            self.coalescing_until = None;
            return (changes, Vec::new());
        }
        if *self.coalescing_until.get_or_insert(Instant::now() + coalesce) <= Instant::now() {
            self.coalescing_until = None;
            return (changes, Vec::new());
        }
        changes.into_iter().partition(|change| !waits(change))
    }

    /// Whether the load balancer is as planned, except for listeners that could not be opened or
    /// changed: their claims say so.
    pub(super) fn is_as_planned(&self) -> bool {
        self.failure.is_none() && self.unconfigured.is_none() && self.unclosed.is_none()
    }

    /// Whether it existed, but served nothing yet.
    pub(super) fn is_not_ready(&self) -> bool {
        self.failure.as_ref().is_some_and(|failing| matches!(failing.error, Error::NotReady(_)))
    }

    /// Whether it is time to observe if it serves by now.
    pub(super) fn may_be_ready(&self) -> bool {
        self.is_not_ready() && self.failure.as_ref().is_some_and(|failing| failing.again <= Instant::now())
    }

    /// Whether it is time to observe if a listener gets traffic by now.
    pub(super) fn may_be_served(&self) -> bool {
        self.unserved.as_ref().is_some_and(|failing| failing.again <= Instant::now())
    }

    /// Records whether a listener gets no traffic yet.
    pub(super) fn note_unserved(&mut self) {
        let unserved = self.observed.iter().flatten().flat_map(|observed| &observed.unserved);
        let mut pending = unserved.filter_map(|(key, unserved)| match unserved {
            Unserved::Pending(why) => Some(format!("port {key}: {why}")),
            Unserved::Refused(_) => None,
        });
        let before = self.unserved.take();
        self.unserved = pending.next().map(|why| match before {
            Some(before) if before.again > Instant::now() => before,
            before => Failing::again(before.as_ref(), Error::NotReady(why.into())),
        });
    }

    /// Records whether the load balancer has an address, which is overdue after `within`.
    /// Returns when to check that again.
    pub(super) fn note_address(&mut self, within: Option<Duration>) -> Option<Instant> {
        let now = Instant::now();
        let Some(Some(observed)) = &self.observed else {
            // Without an observation, nothing changes.
            if matches!(self.observed, Some(None)) {
                (self.without_address, self.address_overdue, self.trials) = (None, false, Trials::default());
            }
            return None;
        };
        let has_address = !observed.addresses.is_empty();
        self.trials.seen(has_address, now);
        if has_address {
            (self.without_address, self.address_overdue) = (None, false);
        }
        let since = (!has_address).then(|| *self.without_address.get_or_insert(now));
        let overdue_at = since.zip(within).map(|(since, within)| since + within);
        self.address_overdue |= overdue_at.is_some_and(|overdue_at| overdue_at <= now);
        let overdue_at = overdue_at.filter(|_| !self.address_overdue);
        overdue_at.into_iter().chain(self.trials.next()).min()
    }

    /// `what` names the load balancer in messages, and `object` its object for an admin.
    pub(super) fn outcome(&self, plan: Arc<Plan>, what: &str, object: &str) -> Outcome {
        let before = self.last_reported.as_ref();
        // While it can't be observed, the last outcome stands, and so does its plan: what was
        // opened or closed since is not known.
        let plan = before.filter(|_| self.observed.is_none()).map_or(plan, |reported| reported.plan.clone());
        let (exists, addresses, capacity, foreign, ours) = match (&self.observed, before) {
            (Some(Some(observed)), _) => (
                Some(true),
                observed.addresses.clone().into(),
                observed.capacity,
                observed.foreign.clone(),
                Some(&observed.load_balancer),
            ),
            (Some(None), _) => (Some(false), Arc::default(), Default::default(), BTreeSet::new(), None),
            (None, Some(reported)) => {
                (reported.exists, reported.addresses.clone(), reported.capacity, reported.foreign.clone(), None)
            }
            (None, None) => (None, Arc::default(), Default::default(), BTreeSet::new(), None),
        };
        let failure = self.failure.iter().chain(&self.unconfigured).find(|failing| failing.is_reported());
        let failure = failure.map(|failing| failing.failure.clone());
        let known = before.filter(|_| self.observed.is_none()).map(|reported| &reported.listeners);
        let mut listeners = known.map_or_else(|| self.listeners(ours), |known| BTreeMap::clone(known));
        if let Some(Observed { not_ready: Some(why), .. }) = self.observed.iter().flatten().next() {
            let failure = Failure::from(&Error::NotReady(why.clone().into()));
            listeners.values_mut().for_each(|found| _ = found.failure.get_or_insert_with(|| failure.clone()));
        }
        for (key, why) in self.observed.iter().flatten().flat_map(|observed| &observed.unserved) {
            let listener = listeners.get_mut(key);
            listener.into_iter().for_each(|listener| listener.unserved = Some(why.into()));
        }
        for (key, owner) in self.trials.withdrawn() {
            let listener = listeners.entry(key).or_insert_with(|| ListenerOutcome::closed(owner));
            let message = format!(
                "{what} lost its address when port {key} was opened, so the port was closed again: ask for another \
                 port, or ask the admin to look at {object}"
            );
            listener.failure = Some(Failure { reason: Reason::ProviderRefused, message: message.into() });
        }
        let no_address = (exists == Some(true) && addresses.is_empty() && self.address_overdue).then(|| Failure {
            reason: Reason::AddressNotAssigned,
            message: format!("{what} has no address yet: ask the admin to look at {object}").into(),
        });
        let (since, recreated, listeners) = (MaybeOpen::default(), self.recreated, Arc::new(listeners));
        Outcome { plan, since, exists, addresses, no_address, capacity, foreign, listeners, failure, recreated }
    }

    fn listeners(&self, ours: Option<&LoadBalancer>) -> BTreeMap<ListenerKey, ListenerOutcome> {
        let open = ours.into_iter().flat_map(|ours| &ours.listeners);
        let mut listeners: BTreeMap<ListenerKey, ListenerOutcome> = open
            .map(|(key, found)| {
                let backends = !found.backends.is_empty() && !self.idle.contains(key);
                let left_out = self.left_out.get(key).copied();
                let idle_families = self.idle_families.get(key).cloned().unwrap_or_default();
                let closed = ListenerOutcome::closed(&found.owner);
                let options = found.options.clone();
                (*key, ListenerOutcome { open: true, options, backends, idle_families, left_out, ..closed })
            })
            .collect();
        for (key, failed) in &self.failed {
            let listener = listeners.entry(*key).or_insert_with(|| ListenerOutcome::closed(&failed.owner));
            listener.failure = Some(failed.failing.failure.clone());
        }
        listeners
    }
}

/// The wait after the nth failure in a row.
fn backoff(times: u32, error: &Error) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << times.saturating_sub(1).min(16)).min(BACKOFF_MAX);
    match error {
        Error::Throttled { retry_after, .. } => doubled.max(*retry_after),
        Error::Conflict(_) => BACKOFF_MIN,
        _ => doubled,
    }
}

/// The failure for the user, of an error with a retry at this time.
pub(super) fn failure(error: &Error, again: Instant) -> Failure {
    let mut failure = Failure::from(error);
    if let Error::Throttled { details, .. } = error {
        let wait = SignedDuration::try_from(again.saturating_duration_since(Instant::now())).unwrap_or_default();
        let time = whole_seconds(Timestamp::now().saturating_add(wait).unwrap_or(Timestamp::MAX));
        failure.message = format!("too many calls, to be tried again at {time}: {details}").into();
    }
    failure
}
