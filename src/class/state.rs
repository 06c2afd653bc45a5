//! The state of one class: its object, its claims, and its load balancers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sharedlb_crds::{SharedLBClassSpec, TargetKind};
use sharedlb_providers::{LbName, Provider};
use tokio::time::Instant;

use super::claims::{ClaimState, Claims};
use super::decide::{AbandonedSlot, Decision};
use super::dropped_fields::DroppedFields;
use super::in_flight_plans::InFlightPlans;
use super::ledger::Ledger;
use super::render::Unallocated;
use crate::allocation::{Assignment, LackingOption};
use crate::api::addresses::{self, AddressesByIndex};
use crate::api::claim::ClaimObject;
use crate::api::class::{ClassObject, lacking};
use crate::backends::{Backends, Reach};
use crate::kubernetes::ObjectKey;
use crate::load_balancer::desired::Plan;
use crate::load_balancer::outcome::{AffectedClaims, Outcome};
use crate::watches::NamespaceObject;

/// How long a class is not written after a failed write to it.
const HOLD: Duration = Duration::from_secs(1);
/// The debounce after a decision, as a multiple of the time that the decision took.
const DEBOUNCE_FACTOR: u32 = 5;
/// A shorter debounce is not worth a timer.
const DEBOUNCE_MIN: Duration = Duration::from_millis(5);

/// The time of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// For timers
    pub(super) instant: Instant,
    /// For writes to the API
    pub(super) time: Timestamp,
}

/// The time of a step, and the state that classes share at that time.
pub(super) struct Context<'a> {
    pub(super) now: Now,
    pub(super) namespaces: &'a BTreeMap<ObjectKey, Arc<NamespaceObject>>,
    pub(super) backends: &'a Backends,
    /// The fields that the API server drops from the statuses of claims
    pub(super) dropped: DroppedFields,
}

#[cfg(test)]
impl Now {
    /// A time in February 2026.
    pub(super) fn fixture() -> Self {
        Self { instant: Instant::now(), time: "2026-02-01T00:00:00Z".parse().unwrap() }
    }
}

#[cfg(test)]
impl<'a> Context<'a> {
    /// The context of a step at the time of [`Now::fixture`].
    pub(super) fn fixture(namespaces: &'a BTreeMap<ObjectKey, Arc<NamespaceObject>>, backends: &'a Backends) -> Self {
        Self { now: Now::fixture(), namespaces, backends, dropped: DroppedFields::default() }
    }
}

/// One class. [`Class::step`] acts; the other methods take in events.
#[derive(Default)]
pub(super) struct Class {
    /// Its name; `None`: that of the claims that name no class while no class is the
    /// default
    pub(super) name: Option<Arc<str>>,
    /// `None`: it does not exist, although claims name it
    pub(super) object: Option<Arc<ClassObject>>,
    pub(super) claims: Claims,
    /// `None`: its spec was never readable since this process started
    pub(super) settings: Option<ClassSettings>,
    /// The plan that each LB loop was handed
    pub(super) load_balancers: BTreeMap<u32, LoadBalancerPlans>,
    /// What each LB loop reported last
    pub(super) outcomes: BTreeMap<u32, Outcome>,
    /// Slots of claims that are gone, or lost our finalizer while being deleted, since the last
    /// decision
    pub(super) abandoned: Vec<AbandonedSlot>,
    /// The ledger of the last decision, if nothing has changed since except for newcomers
    pub(super) ledger: Option<Ledger>,
    pub(super) stage: Stage,
    /// Writes in flight of statuses by which slots change hands
    pub(super) gives: usize,
    /// The class at the time of the write to it that is in flight
    pub(super) class_write: Option<Arc<ClassObject>>,
    /// After a failed write to the class: until when it is not written again. Claims get ports
    /// meanwhile, unless a release must be recorded first.
    pub(super) held_until: Option<Instant>,
    /// Until when work waits by which no claim gets a port
    pub(super) debounce_until: Option<Instant>,
    /// Why the class gives no new ports
    pub(super) suspended: Option<Unallocated>,
    /// Why the addresses of the class are not free: another class has them, or the cluster itself
    pub(super) address_conflict: Option<String>,
    /// Why the addresses of the class cannot be used: then it creates no load balancers
    pub(super) addresses_refused: Option<String>,
    /// When its figures were last exported
    pub(super) exported: Option<Instant>,
    /// When its status was last written
    pub(super) status_written: Option<Instant>,
}

/// The last spec of a class that could be parsed, and its provider.
pub(super) struct ClassSettings {
    pub(super) spec: SharedLBClassSpec,
    pub(super) provider: Arc<dyn Provider>,
    /// The addresses of its load balancers, as far as the class sets them
    pub(super) addresses: AddressesByIndex,
    /// The options that its listeners cannot have
    pub(super) lacking: Vec<LackingOption>,
}

impl ClassSettings {
    /// The settings of a class whose load balancers have these addresses.
    pub(super) fn new(spec: SharedLBClassSpec, provider: Arc<dyn Provider>, addresses: AddressesByIndex) -> Self {
        let lacking = lacking(&spec, &provider.capabilities());
        Self { spec, provider, addresses, lacking }
    }

    /// The settings of a class none of whose load balancers has an address yet.
    #[cfg(test)]
    pub(super) fn of_new(spec: SharedLBClassSpec, provider: Arc<dyn Provider>) -> Self {
        let addresses = addresses::assign(&spec, &BTreeMap::new());
        Self::new(spec, provider, addresses)
    }

    /// How the traffic of the class gets to pods.
    pub(super) fn reach(&self) -> Reach {
        Reach::of(&self.spec, &self.provider.capabilities())
    }

    /// Whether load balancers of the class have a limit of targets.
    pub(super) fn counts_targets(&self) -> bool {
        self.provider.capabilities().default_targets.is_some()
    }
}

/// The plans of one load balancer.
pub(super) struct LoadBalancerPlans {
    /// The last one that its LB loop was handed
    pub(super) current: Arc<Plan>,
    pub(super) in_flight: InFlightPlans,
}

/// The stage of a decision. The stages have this order, so that a release is in the API before
/// its slot is removed.
#[derive(Default)]
pub(super) enum Stage {
    /// There is no decision.
    #[default]
    Idle,
    /// The class' status records the releases; the other writes of the decision wait for the
    /// answer. With the part of [`Class::abandoned`] that the decision took.
    Record(Box<Decided>, Vec<AbandonedSlot>),
    /// The statuses with new slots were sent. The other work is left.
    FollowUp(Box<Decided>),
}

/// A decision, and the claims that may need a write.
pub(super) struct Decided {
    /// As they were decided on, each with its assignment; `None`: it is being deleted, or its
    /// status can't be parsed
    pub(super) claims: Vec<(Arc<ClaimObject>, Option<Assignment>)>,
    pub(super) decision: Decision,
    /// Whether it was recorded in the class' status first: later events are not in it
    pub(super) recorded_first: bool,
}

/// The answer to a write to a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClassAnswer {
    Written,
    /// The API server has dropped what was written.
    Unchanged,
    Conflict,
    Failed,
}

/// The effect of an outcome on a class.
#[derive(Debug, Default)]
pub(super) struct OutcomeChange {
    /// The affected claims; `None`: neither a claim nor the class is affected
    pub(super) affected: Option<AffectedClaims>,
    /// Whether the load balancer was found gone
    pub(super) was_gone: bool,
}

impl Class {
    /// A class with only a name.
    pub(super) fn new(name: Option<Arc<str>>) -> Self {
        Self { name, ..Self::default() }
    }

    /// Takes in the class object. One with another uid is another class: the load balancers of
    /// the former one stay as they are, since its finalizer was removed by force.
    pub(super) fn replace_object(&mut self, object: Option<Arc<ClassObject>>) {
        let uid = |object: &Option<Arc<ClassObject>>| object.as_ref().map(|object| object.meta.uid.clone());
        if uid(&self.object) != uid(&object) {
            let claims = std::mem::take(&mut self.claims);
            // Writes of the former class may be in flight.
            *self = Self { claims, gives: self.gives, ..Self::new(self.name.clone()) };
        }
        // A write that failed on another version of the class may succeed now.
        let version = |object: &Option<Arc<ClassObject>>| object.as_ref().map(|object| object.meta.version);
        self.held_until.take_if(|_| version(&self.object) != version(&object));
        self.object = object;
    }

    /// The objects of its load balancers that exist, or may exist: what is left if the class goes
    /// now.
    pub(super) fn objects(&self, cluster_id: &str) -> Vec<String> {
        let Some((object, settings)) = self.object.as_ref().zip(self.settings.as_ref()) else { return Vec::new() };
        let exists = |index: &&u32| self.outcomes.get(*index).is_none_or(|outcome| outcome.exists != Some(false));
        let name = |index: &u32| LbName::new(&object.meta.key.name, *index, cluster_id, &object.meta.uid);
        self.load_balancers.keys().filter(exists).map(|index| settings.provider.object(&name(index))).collect()
    }

    /// Inserts the current version of a claim, with its writes in flight.
    pub(super) fn insert_claim(&mut self, state: Option<ClaimState>, claim: Arc<ClaimObject>) {
        let before = state.as_ref().map(|state| &*state.claim);
        self.ledger.take_if(|ledger| !ledger.insert(before, &claim));
        self.claims.insert(state, claim);
    }

    /// Removes a claim.
    pub(super) fn remove_claim(&mut self, claim: &ClaimObject) -> Option<ClaimState> {
        if let Some(ledger) = &mut self.ledger {
            ledger.remove(claim);
        }
        self.claims.remove(claim)
    }

    /// Removes the claims that name no class.
    pub(super) fn take_unnamed(&mut self) -> Vec<ClaimState> {
        self.ledger = None;
        self.claims.take_unnamed()
    }

    /// Inserts claims with their states.
    pub(super) fn put_claims(&mut self, claims: Vec<ClaimState>) {
        self.ledger = None;
        claims.into_iter().for_each(|state| self.claims.put(state));
    }

    /// Whether there are claims that wait for a port, and of which the last decision did not
    /// know.
    pub(super) fn has_newcomers(&self) -> bool {
        self.ledger.as_ref().is_some_and(Ledger::has_newcomers)
    }

    /// Whether it has neither an object nor claims, and no writes in flight.
    pub(super) fn is_forgettable(&self) -> bool {
        self.object.is_none() && self.claims.is_empty() && self.gives == 0
    }

    /// Whether the class object has this uid.
    pub(super) fn is_of(&self, uid: &str) -> bool {
        self.object.as_ref().is_some_and(|object| *object.meta.uid == *uid)
    }

    /// Takes in an outcome of an LB loop.
    pub(super) fn take_outcome(&mut self, class_uid: &str, index: u32, mut outcome: Outcome) -> OutcomeChange {
        let is_own = self.is_of(class_uid);
        let Some(plans) = self.load_balancers.get_mut(&index).filter(|_| is_own) else {
            return OutcomeChange::default();
        };
        outcome.since = plans.in_flight.since(&outcome.plan, &plans.current);
        let known = self.outcomes.get(&index);
        let was_gone = outcome.recreated > known.map_or(0, |known| known.recreated);
        let affected = known.map_or(AffectedClaims::All, |known| outcome.affected_since(known));
        // A plan that was carried out may have closed released ports.
        let closing = known.is_some_and(|known| known.plan.has_more_than(&outcome.plan));
        match &affected {
            AffectedClaims::All => {
                let there = |claim: &ClaimObject| claim.request.held.as_ref().is_some_and(|held| held.index == index);
                let claims = self.claims.all_mut().filter(|state| there(&state.claim));
                claims.for_each(|state| state.rendered = None);
            }
            AffectedClaims::These(_) => {}
        }
        self.ledger.take_if(|_| outcome.has_orphans());
        self.outcomes.insert(index, outcome);
        OutcomeChange { affected: (closing || !affected.is_none()).then_some(affected), was_gone }
    }

    /// Takes in that the status by which a claim got or lost slots was answered.
    /// Returns whether it was the last one that the class waited for.
    pub(super) fn give_answered(&mut self) -> bool {
        self.gives = self.gives.saturating_sub(1);
        self.gives == 0
    }

    /// Takes in the answer to the write that was sent when the class was `sent`.
    pub(super) fn class_write_answered(&mut self, sent: &Arc<ClassObject>, answer: ClassAnswer, now: Instant) {
        if self.class_write.take_if(|write| Arc::ptr_eq(write, sent)).is_none() {
            // It is the answer to a write of a former class of this name.
            return;
        }
        let is_outdated = self.object.as_ref().is_some_and(|object| object.meta.version != sent.meta.version);
        match answer {
            ClassAnswer::Written => return,
            ClassAnswer::Conflict if is_outdated => {}
            ClassAnswer::Unchanged | ClassAnswer::Conflict | ClassAnswer::Failed => {
                self.held_until = Some(now + HOLD);
            }
        }
        if answer != ClassAnswer::Unchanged {
            // The decision is made again.
            match std::mem::take(&mut self.stage) {
                Stage::Record(_, abandoned) => self.abandoned.extend(abandoned),
                other => self.stage = other,
            }
        }
    }

    /// Until when the class is not written.
    pub(super) fn held(&self, now: &Now) -> Option<Instant> {
        self.held_until.filter(|until| *until > now.instant)
    }

    /// Whether the last step left work that can be done at once.
    pub(super) fn has_work(&self) -> bool {
        matches!(self.stage, Stage::FollowUp(_))
    }

    /// Whether there is no decision whose work is not done.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Debounces work by which no claim gets a port, for a multiple of the time that a decision
    /// takes, so that a large class leaves time for claims that wait for one.
    pub(super) fn debounce(&mut self, decision_took: Duration, now: Instant) {
        let debounce = decision_took * DEBOUNCE_FACTOR;
        self.debounce_until = (debounce > DEBOUNCE_MIN).then(|| now + debounce);
    }

    /// The addresses that load balancers have from the provider of the class. They never
    /// change, whatever the spec says.
    pub(super) fn kept_addresses(&self, spec: &SharedLBClassSpec) -> BTreeMap<u32, Vec<IpAddr>> {
        if !addresses::gives_addresses(spec) {
            return BTreeMap::new();
        }
        let status = self.object.iter().flat_map(|class| &class.status);
        let recorded = status.flat_map(addresses::recorded);
        // One that is being created may not be recorded yet.
        let given = |settings: &ClassSettings, index: u32| {
            let addresses = settings.addresses.get(usize::try_from(index).ok()?)?;
            Some((index, addresses.clone()))
        };
        let indices = || self.load_balancers.keys().copied();
        let given = self.settings.iter().flat_map(|settings| indices().filter_map(|index| given(settings, index)));
        recorded.chain(given).filter(|(_, addresses)| !addresses.is_empty()).collect()
    }

    /// How the traffic of the class gets to pods.
    pub(super) fn reach(&self) -> Reach {
        self.settings.as_ref().map(ClassSettings::reach).unwrap_or_default()
    }

    /// What the load balancers of the class send traffic to.
    pub(super) fn targets(&self) -> TargetKind {
        self.reach().targets
    }
}
