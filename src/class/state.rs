//! One class, as far as it is known: its object, its claims, and its load balancers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sharedlb_crds::{SharedLBClassSpec, TargetKind};
use sharedlb_providers::Provider;
use tokio::time::Instant;

use super::claims::{ClaimState, Claims};
use super::decide::{Decision, Left};
use super::dropped_fields::DroppedFields;
use super::in_flight_plans::InFlightPlans;
use super::ledger::Ledger;
use super::render::Obstacle;
use crate::allocation::Assignment;
use crate::api::claim::ClaimObject;
use crate::api::class::ClassObject;
use crate::backends::{Backends, Reach};
use crate::kubernetes::ObjectKey;
use crate::load_balancer::desired::Plan;
use crate::load_balancer::outcome::{AffectedClaims, Outcome};
use crate::watches::NamespaceObject;

/// How long a class is left alone after a failed write to it.
const HOLD: Duration = Duration::from_secs(1);
/// How often as long as a decision took a class is debounced after it.
const DEBOUNCE_FACTOR: u32 = 5;
/// A shorter debounce is not worth a timer.
const DEBOUNCE_MIN: Duration = Duration::from_millis(5);

/// The time of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// For timers
    pub(super) instant: Instant,
    /// For what is written to the API
    pub(super) time: Timestamp,
}

/// What classes share, as it is at the time of a step.
pub(super) struct Surroundings<'a> {
    pub(super) namespaces: &'a BTreeMap<ObjectKey, Arc<NamespaceObject>>,
    pub(super) backends: &'a Backends,
    /// What the API server drops of the statuses of claims
    pub(super) dropped: DroppedFields,
}

/// One class. [`Class::step`] is what it does; the other methods take in what happened.
#[derive(Default)]
pub(super) struct Class {
    /// Its name; `None`: that of the claims that name no class while no class is the
    /// default
    pub(super) name: Option<Arc<str>>,
    /// `None`: claims name it, and it does not exist
    pub(super) object: Option<Arc<ClassObject>>,
    pub(super) claims: Claims,
    /// `None`: its spec was never readable since this process started
    pub(super) settings: Option<ClassSettings>,
    /// The plan that each LB loop was handed
    pub(super) load_balancers: BTreeMap<u32, LoadBalancerPlans>,
    /// What each LB loop reported last
    pub(super) outcomes: BTreeMap<u32, Outcome>,
    /// Slots of claims that went, or were let go, since the last decision
    pub(super) left: Vec<Left>,
    /// What the last decision has left, if nothing has changed since but for newcomers
    pub(super) ledger: Option<Ledger>,
    pub(super) stage: Stage,
    /// Writes in flight of statuses by which slots change hands
    pub(super) gives: usize,
    /// The class as it was when the write to it was sent that is in flight
    pub(super) class_write: Option<Arc<ClassObject>>,
    /// After a failed write to the class: until when no other one is made. Claims are
    /// given ports meanwhile, unless something must be recorded first.
    pub(super) held_until: Option<Instant>,
    /// Until when what needs no new port waits
    pub(super) debounce_until: Option<Instant>,
    /// Why nothing new is given, whatever is asked for
    pub(super) suspended: Option<Obstacle>,
    /// When its figures were last exported
    pub(super) exported: Option<Instant>,
    /// When its status was last written
    pub(super) status_written: Option<Instant>,
}

/// The spec of a class, as it could be read last, and its provider.
pub(super) struct ClassSettings {
    pub(super) spec: SharedLBClassSpec,
    pub(super) provider: Arc<dyn Provider>,
}

impl ClassSettings {
    /// How the traffic of the class gets to pods.
    pub(super) fn reach(&self) -> Reach {
        Reach::of(&self.spec, &self.provider.capabilities())
    }

    /// Whether load balancers of the class take only so many targets.
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

/// How far the work of a decision is. It is done in this order, so that a release is
/// in the API before its slot goes.
#[derive(Default)]
pub(super) enum Stage {
    /// There is no decision.
    #[default]
    Idle,
    /// The class' status records what is given back; what is left of the decision
    /// waits for the answer. With what it had of [`Class::left`].
    Record(Box<Decided>, Vec<Left>),
    /// What is given was sent. All that may wait is left to be done.
    Rest(Box<Decided>),
}

/// A decision, and the claims to which something may have to be written.
pub(super) struct Decided {
    /// As they were decided on, each with what it got; `None`: it is being deleted, or its
    /// status can't be read
    pub(super) claims: Vec<(Arc<ClaimObject>, Option<Assignment>)>,
    pub(super) decision: Decision,
    /// Whether it was recorded in the class' status first: what happened meanwhile is
    /// not in it
    pub(super) recorded_first: bool,
}

/// How a write to a class was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClassAnswer {
    Written,
    /// The API server has dropped what was written.
    Unchanged,
    Conflict,
    Failed,
}

/// What an outcome changes.
#[derive(Debug, Default)]
pub(super) struct OutcomeChange {
    /// The claims that it matters to; `None`: none, and the class neither
    pub(super) affected: Option<AffectedClaims>,
    /// Whether the load balancer was found gone
    pub(super) was_gone: bool,
}

impl Class {
    /// A class of which only the name is known.
    pub(super) fn new(name: Option<Arc<str>>) -> Self {
        Self { name, ..Self::default() }
    }

    /// Takes in the class object. One of another uid is another class: its load
    /// balancers stay as they are, since a class goes this way only if its finalizer
    /// was removed by force.
    pub(super) fn replace_object(&mut self, object: Option<Arc<ClassObject>>) {
        let uid = |object: &Option<Arc<ClassObject>>| object.as_ref().map(|object| object.meta.uid.clone());
        if uid(&self.object) != uid(&object) {
            let claims = std::mem::take(&mut self.claims);
            // Statuses that the former one gave may still be written.
            *self = Self { claims, gives: self.gives, ..Self::new(self.name.clone()) };
        }
        // What failed on another version of the class may work now.
        let version = |object: &Option<Arc<ClassObject>>| object.as_ref().map(|object| object.meta.version);
        self.held_until.take_if(|_| version(&self.object) != version(&object));
        self.object = object;
    }

    /// Takes in a claim as it is now, with its writes in flight.
    pub(super) fn insert_claim(&mut self, state: Option<ClaimState>, claim: Arc<ClaimObject>) {
        let before = state.as_ref().map(|state| &*state.claim);
        self.ledger.take_if(|ledger| !ledger.insert(before, &claim));
        self.claims.insert(state, claim);
    }

    /// Takes a claim out.
    pub(super) fn remove_claim(&mut self, claim: &ClaimObject) -> Option<ClaimState> {
        if let Some(ledger) = &mut self.ledger {
            ledger.remove(claim);
        }
        self.claims.remove(claim)
    }

    /// Takes out the claims that name no class.
    pub(super) fn take_unnamed(&mut self) -> Vec<ClaimState> {
        self.ledger = None;
        self.claims.take_unnamed()
    }

    /// Takes in claims with their states.
    pub(super) fn put_claims(&mut self, claims: Vec<ClaimState>) {
        self.ledger = None;
        claims.into_iter().for_each(|state| self.claims.put(state));
    }

    /// Whether there are claims that wait for a port, and of which the last decision did not
    /// know.
    pub(super) fn has_newcomers(&self) -> bool {
        self.ledger.as_ref().is_some_and(Ledger::has_newcomers)
    }

    /// Whether nothing is known of it, and nothing in flight for it.
    pub(super) fn is_forgettable(&self) -> bool {
        self.object.is_none() && self.claims.is_empty() && self.gives == 0
    }

    /// Whether the class object has this uid.
    pub(super) fn is_of(&self, uid: &str) -> bool {
        self.object.as_ref().is_some_and(|object| *object.meta.uid == *uid)
    }

    /// Takes in what an LB loop reported.
    pub(super) fn take_outcome(&mut self, class_uid: &str, index: u32, mut outcome: Outcome) -> OutcomeChange {
        let is_own = self.is_of(class_uid);
        let Some(plans) = self.load_balancers.get_mut(&index).filter(|_| is_own) else {
            return OutcomeChange::default();
        };
        outcome.since = plans.in_flight.since(&outcome.plan, &plans.current);
        let known = self.outcomes.get(&index);
        let was_gone = outcome.recreated > known.map_or(0, |known| known.recreated);
        let affected = known.map_or(AffectedClaims::All, |known| outcome.affected_since(known));
        // A plan that was carried out may have closed what waits to be forgotten.
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
            // The decision that was to be recorded is made again.
            match std::mem::take(&mut self.stage) {
                Stage::Record(_, left) => self.left.extend(left),
                other => self.stage = other,
            }
        }
    }

    /// Until when no write to the class is made.
    pub(super) fn held(&self, now: &Now) -> Option<Instant> {
        self.held_until.filter(|until| *until > now.instant)
    }

    /// Whether the last step left work that waits for nothing.
    pub(super) fn has_work(&self) -> bool {
        matches!(self.stage, Stage::Rest(_))
    }

    /// Whether there is no decision whose work is not done.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// What needs no new port waits for a multiple of what a decision takes, so that a big
    /// class leaves time for claims that wait for one.
    pub(super) fn debounce(&mut self, decision_took: Duration, now: Instant) {
        let debounce = decision_took * DEBOUNCE_FACTOR;
        self.debounce_until = (debounce > DEBOUNCE_MIN).then(|| now + debounce);
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
