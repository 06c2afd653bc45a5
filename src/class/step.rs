//! One step of a class: from its state to the effects. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sharedlb_crds::{ConditionType, LoadBalancerStatus, Reason, SharedLBClassStatus, SharedLBStatus};
use tokio::time::Instant;

use super::claims::{ClaimState, changes_slots};
use super::count::TargetCounts;
use super::decide::{Decision, Facts, decide};
use super::effect::{ClaimChange, ClaimWrite, ClassChange, ClassWrite, Effect, Figures, StartLoadBalancer};
use super::in_flight_plans::InFlightPlans;
use super::ledger::Ledger;
use super::render::{self, Verdict};
use super::state::{Class, Context, Decided, LoadBalancerPlans, Now, Stage};
use super::transitions;
use crate::allocation::{Assignment, Usage};
use crate::api::claim::ClaimObject;
use crate::api::class::{ClassObject, policy};
use crate::kubernetes::{ObjectKey, conditions};
use crate::load_balancer::desired::{Plan, Planned};
use crate::process::metrics::{Cost, VERDICTS};
use crate::process::tasks;

/// The shortest interval of writes of the class' status for its numbers alone, and of counts
/// of targets.
pub(super) const NUMBERS_EVERY: Duration = Duration::from_secs(1);

impl Class {
    /// Returns the next effects. A step ends where it has to wait for an answer: decisions
    /// depend on the slots in the API, so there is none while writes are in flight by which
    /// slots change hands, or a write to the class. Statuses with new slots come first, and
    /// nothing that may wait is computed before them: while [`Class::has_work`], the next step
    /// does that.
    pub(super) fn step(&mut self, context: &Context<'_>) -> Vec<Effect> {
        let Some(class) = self.object.clone() else { return self.without_class(context) };
        tasks::at("SharedLBClass", &class.meta.key);
        if self.class_write.is_some() {
            return Vec::new();
        }
        match std::mem::take(&mut self.stage) {
            Stage::Record(decided, _) => self.give(decided, context),
            Stage::FollowUp(decided) => self.follow_up(&class, &decided, context),
            Stage::Idle => self.begin(&class, context),
        }
    }

    /// Makes a decision, and records its releases.
    fn begin(&mut self, class: &Arc<ClassObject>, context: &Context<'_>) -> Vec<Effect> {
        if self.gives > 0 {
            return Vec::new();
        }
        let Some(settings) = &self.settings else { return self.unreadable(class, context) };
        if !class.meta.deleting && !class.has_finalizer() {
            return vec![self.write_class(class, ClassChange::Protect, &context.now)];
        }
        let refused = self.refuse_addresses(&settings.spec);
        let suspended = self.suspension(class, settings, refused.as_deref());
        (self.addresses_refused, self.suspended) = (refused, suspended);
        if let Some(effects) = self.admit(class, context) {
            return effects;
        }
        let claims = self.claims.all().map(|state| &state.claim).collect();
        let Some(facts) = self.facts(class, claims, context) else { return Vec::new() };
        let (mut decision, occupancy) = decide(&facts);
        context.dropped.remove_from_class(&mut decision.status);
        self.ledger = Ledger::after(&decision, &facts.claims, &facts.policy, occupancy);
        let assignments = std::mem::take(&mut decision.assignments);
        let unsettled = self.claims.all().zip(assignments).filter(|(state, got)| !state.is_settled(got.as_ref()));
        let claims = unsettled.map(|(state, got)| (state.claim.clone(), got)).collect();
        let abandoned = std::mem::take(&mut self.abandoned);
        let records_first = decision.class_first();
        let status = records_first.then(|| Box::new(decision.status.clone()));
        let decided = Box::new(Decided { claims, decision, recorded_first: records_first });
        match (status, self.held(&context.now)) {
            (Some(_), Some(until)) => {
                self.abandoned = abandoned;
                vec![Effect::WakeAt(until)]
            }
            (Some(status), None) => {
                self.stage = Stage::Record(decided, abandoned);
                vec![self.write_class(class, ClassChange::Status(status), &context.now)]
            }
            (None, _) => self.give(decided, context),
        }
    }

    /// The input of a decision on these claims. `None`: the class' spec could never be parsed.
    pub(super) fn facts<'a>(
        &'a self,
        class: &'a ClassObject,
        claims: Vec<&'a Arc<ClaimObject>>,
        context: &Context<'_>,
    ) -> Option<Facts<'a>> {
        let settings = self.settings.as_ref()?;
        let namespaces = context.namespaces.iter().map(|(key, namespace)| (&key.name, &namespace.labels));
        let mut policy =
            policy(&settings.spec, &settings.provider.capabilities(), settings.addresses.clone(), namespaces);
        if self.suspended.is_some() {
            policy.namespaces = Some(BTreeSet::new());
        }
        let counts = policy.targets.map(|_| TargetCounts::new(context.backends, &settings.provider, &settings.spec));
        Some(Facts {
            class,
            spec: &settings.spec,
            policy: Arc::new(policy),
            suspended: self.suspended.clone(),
            confined_to: self.addresses_refused.as_ref().map(|_| self.load_balancers.keys().copied().collect()),
            counted: counts.as_ref().map(|counts| self.claims.all().map(|state| counts.of(state)).collect()),
            targets_closing: counts.as_ref().map_or(0, TargetCounts::least),
            claims,
            outcomes: &self.outcomes,
            abandoned: &self.abandoned,
            now: context.now.time,
        })
    }

    /// Writes every status by which slots change hands.
    fn give(&mut self, decided: Box<Decided>, context: &Context<'_>) -> Vec<Effect> {
        let effects = self.give_slots(&decided.claims, context);
        self.stage = Stage::FollowUp(decided);
        effects
    }

    /// Writes the statuses of these claims by which slots change hands, and creates the companion
    /// Services of those that get their first ones.
    pub(super) fn give_slots(
        &mut self,
        claims: &[(Arc<ClaimObject>, Option<Assignment>)],
        context: &Context<'_>,
    ) -> Vec<Effect> {
        let mut writes = Vec::new();
        let mut given = Vec::new();
        let changed = |(state, got): &(&ClaimState, &Assignment)| changes_slots(&state.claim, got);
        for (state, got) in self.undisturbed(claims, &context.now).filter(changed) {
            let status = self.status(&state.claim, &self.verdict(state, got, context), context);
            writes.push((state.claim.clone(), status, got.lost.clone()));
            given.extend(got.granted.clone().map(|granted| (state.claim.clone(), granted)));
        }
        let awaited_by = self.name.clone();
        let mut effects: Vec<Effect> = writes
            .into_iter()
            .filter_map(|(claim, status, lost)| {
                self.claims.get_mut(&claim)?.writes.begin();
                let what = ClaimChange::Status { status: Box::new(status), lost };
                Some(Effect::Claim(ClaimWrite { claim, what, awaited_by: awaited_by.clone() }))
            })
            .collect();
        self.gives = effects.len();
        effects.extend(self.accompany_newcomers(given, context));
        effects
    }

    /// The work that may wait: other statuses, finalizers and companion Services, the plans with
    /// the slots that the API has confirmed, and figures.
    fn follow_up(&mut self, class: &Arc<ClassObject>, decided: &Decided, context: &Context<'_>) -> Vec<Effect> {
        let mut effects = self.report_follow_up(decided, context);
        let claims: Vec<Arc<ClaimObject>> = decided.claims.iter().map(|(claim, _)| claim.clone()).collect();
        effects.extend(self.release_deleted(&claims, &context.now));
        effects.extend(self.protect_and_accompany(&claims, context));
        let Decision { plans, untouched, status, due, usage, .. } = &decided.decision;
        effects.extend(self.plan(class, plans, untouched));
        effects.extend(self.export(status, *usage, &context.now));
        if decided.recorded_first {
            effects.push(Effect::WakeAt(context.now.instant));
        } else {
            effects.extend(self.write_status(class, status, &context.now));
        }
        effects.extend(self.finish_deletion(class, &context.now));
        effects.extend(due.map(|due| Effect::WakeAt(at(due, &context.now))));
        effects
            .extend(Self::wake_when_released(claims.iter().filter_map(|claim| self.claims.get(claim)), &context.now));
        effects
    }

    /// The claims that have not changed since the decision and may be written, each with its
    /// assignment.
    fn undisturbed<'a>(
        &'a self,
        claims: &'a [(Arc<ClaimObject>, Option<Assignment>)],
        now: &'a Now,
    ) -> impl Iterator<Item = (&'a ClaimState, &'a Assignment)> {
        claims.iter().filter_map(|(claim, got)| {
            let state = self.claims.get(claim).filter(|state| Arc::ptr_eq(&state.claim, claim))?;
            Some((state, got.as_ref()?)).filter(|_| state.writes.are_free(now.instant))
        })
    }

    /// Writes the statuses of all other claims whose verdict has changed.
    fn report_follow_up(&mut self, decided: &Decided, context: &Context<'_>) -> Vec<Effect> {
        let mut changed: Vec<(Arc<ClaimObject>, Verdict)> = Vec::new();
        for (state, got) in self.undisturbed(&decided.claims, &context.now) {
            if changes_slots(&state.claim, got) {
                continue;
            }
            if state.rendered.as_ref().is_some_and(|rendered| rendered.stands(got)) {
                continue;
            }
            let verdict = self.verdict(state, got, context);
            if state.rendered.as_ref() != Some(&verdict) {
                changed.push((state.claim.clone(), verdict));
            }
        }
        changed.into_iter().filter_map(|(claim, verdict)| self.report(&claim, verdict, context)).collect()
    }

    /// Writes the status with this verdict, unless the claim has it, or the write may wait.
    pub(super) fn report(
        &mut self,
        claim: &Arc<ClaimObject>,
        verdict: Verdict,
        context: &Context<'_>,
    ) -> Option<Effect> {
        let status = self.status(claim, &verdict, context);
        let state = self.claims.get_mut(claim)?;
        if status == claim.status {
            state.rendered = Some(verdict);
            return None;
        }
        if let Some(until) = transitions::may_wait_until(&claim.status, &status, context.now.time)
            .filter(|until| *until > context.now.time)
        {
            return Some(Effect::WakeAt(at(until, &context.now)));
        }
        state.writes.begin();
        let what = ClaimChange::Status { status: Box::new(status), lost: Vec::new() };
        Some(Effect::Claim(ClaimWrite { claim: claim.clone(), what, awaited_by: None }))
    }

    /// The status of a claim with this verdict, without fields that the API server drops.
    fn status(&self, claim: &ClaimObject, verdict: &Verdict, context: &Context<'_>) -> SharedLBStatus {
        let class = match (&self.object, &self.settings) {
            (Some(_), Some(_)) => self.name.as_deref(),
            // A class whose spec could never be parsed has given no ports.
            (Some(_), None) => None,
            (None, _) => claim.status.class_name.as_deref(),
        };
        let mut status = render::status(claim, class, verdict, context.now.time);
        context.dropped.remove_from(&mut status);
        status
    }

    /// Hands every load balancer its plan, if that has changed.
    fn plan(
        &mut self,
        class: &ClassObject,
        plans: &BTreeMap<u32, Option<Vec<Planned>>>,
        untouched: &BTreeSet<ObjectKey>,
    ) -> Vec<Effect> {
        let Some(settings) = &self.settings else { return Vec::new() };
        let reach = settings.reach();
        let gone: Vec<u32> = self.load_balancers.keys().filter(|index| !plans.contains_key(index)).copied().collect();
        let mut effects = Vec::new();
        for index in gone {
            self.load_balancers.remove(&index);
            self.outcomes.remove(&index);
            effects.push(Effect::Stop(index));
        }
        for (&index, slots) in plans {
            let new = || Plan::new(settings.provider.clone(), index, slots.clone()).by(reach).leaving(untouched);
            let Some(known) = self.load_balancers.get_mut(&index) else {
                let plan = Arc::new(new());
                let plans = LoadBalancerPlans { current: plan.clone(), in_flight: InFlightPlans::default() };
                self.load_balancers.insert(index, plans);
                effects.push(Effect::Start(start(class, index, plan)));
                continue;
            };
            if known.current.is(&settings.provider, slots.as_deref(), reach, untouched) {
                continue;
            }
            let plan = Arc::new(new().after(&known.current));
            known.in_flight.replace(&known.current, &plan);
            known.current = plan.clone();
            if let Some(outcome) = self.outcomes.get_mut(&index) {
                outcome.since = known.in_flight.since(&outcome.plan, &plan);
            }
            effects.push(Effect::Plan(index, plan));
        }
        effects
    }

    /// Exports the numbers of claims by verdict, of slots by load balancer, and what of the class
    /// is used, at most once in [`NUMBERS_EVERY`].
    fn export(&mut self, status: &SharedLBClassStatus, usage: Usage, now: &Now) -> Vec<Effect> {
        if let Some(next) = not_before(self.exported, now) {
            return vec![Effect::WakeAt(next)];
        }
        self.exported = Some(now.instant);
        let mut claims = [0; VERDICTS.len()];
        self.claims.all().for_each(|state| claims[verdict_of(&state.claim)] += 1);
        let count = |items: usize| u32::try_from(items).unwrap_or(u32::MAX);
        let slots = |lb: &LoadBalancerStatus| {
            let limit = lb.capacity.as_ref().map_or(0, |capacity| capacity.listeners);
            let foreign = count(lb.foreign_ports.len());
            let free = limit.saturating_sub(lb.listeners).saturating_sub(foreign);
            (lb.index, [lb.listeners, free, count(lb.released.len()), foreign])
        };
        let slots = status.load_balancers.iter().map(slots).collect();
        vec![Effect::Export(Figures { claims, slots, usage, cost: self.cost(status) })]
    }

    /// What the load balancers cost, and what they would cost if each claim that holds ports had
    /// one of its own.
    fn cost(&self, status: &SharedLBClassStatus) -> Option<Cost> {
        let pricing = self.settings.as_ref()?.spec.pricing.as_ref()?;
        let count = |items: usize| u32::try_from(items).unwrap_or(u32::MAX);
        let listeners = status.load_balancers.iter().map(|lb| lb.listeners).sum();
        let holders = self.claims.all().filter(|state| holds_ports(state)).count();
        Some(Cost {
            shared: pricing.hourly(count(status.load_balancers.len()), listeners),
            unshared: pricing.hourly(count(holders), listeners),
        })
    }

    /// Writes the class' status if it has changed. If only its numbers have, which change with
    /// every claim, at most once in [`NUMBERS_EVERY`].
    fn write_status(&mut self, class: &Arc<ClassObject>, status: &SharedLBClassStatus, now: &Now) -> Option<Effect> {
        let known = class.status.as_ref().ok().filter(|known| *known != status)?;
        match not_before(self.status_written, now).filter(|_| differs_in_numbers_only(known, status)) {
            Some(next) => Some(Effect::WakeAt(next)),
            None => Some(self.write_class(class, ClassChange::Status(Box::new(status.clone())), now)),
        }
    }

    /// Removes the finalizer of a class that is being deleted, once no claim holds a slot of it
    /// and its load balancers are gone.
    fn finish_deletion(&mut self, class: &Arc<ClassObject>, now: &Now) -> Option<Effect> {
        let in_use = !self.load_balancers.is_empty() || self.claims.all().any(holds_ports);
        let goes = class.meta.deleting && class.has_finalizer() && !in_use && self.class_write.is_none();
        goes.then(|| self.write_class(class, ClassChange::Release, now))
    }

    /// Writes to the class now, or wakes when it may be written.
    pub(super) fn write_class(&mut self, class: &Arc<ClassObject>, what: ClassChange, now: &Now) -> Effect {
        if let Some(until) = self.held(now) {
            return Effect::WakeAt(until);
        }
        self.class_write = Some(class.clone());
        Effect::Class(ClassWrite { class: class.clone(), what })
    }

    /// Wakes when the next failed write may be repeated.
    pub(super) fn wake_when_released<'a>(claims: impl Iterator<Item = &'a ClaimState>, now: &Now) -> Option<Effect> {
        claims.filter_map(|state| state.held_until(now.instant)).min().map(Effect::WakeAt)
    }
}

/// The arguments of a new LB loop, from the class' status.
fn start(class: &ClassObject, index: u32, plan: Arc<Plan>) -> StartLoadBalancer {
    let listed = class.status.iter().flat_map(|status| &status.load_balancers).find(|lb| lb.index == index);
    let overdue = |listed: &LoadBalancerStatus| {
        conditions::find(&listed.conditions, ConditionType::Ready)
            .is_some_and(|ready| ready.reason == Reason::AddressNotAssigned.as_str())
    };
    StartLoadBalancer {
        index,
        class_uid: class.meta.uid.clone(),
        plan,
        existed: listed.is_some_and(|listed| listed.address.is_some()),
        address_overdue: listed.is_some_and(overdue),
    }
}

/// Whether a claim holds ports that it has not given back.
fn holds_ports(state: &ClaimState) -> bool {
    state.claim.request.held.is_some() && !state.claim.is_released()
}

/// The index in [`VERDICTS`] of a claim's verdict, from its status.
fn verdict_of(claim: &ClaimObject) -> usize {
    let is = |kind: ConditionType, status: &str| {
        conditions::find(&claim.status.conditions, kind).is_some_and(|condition| condition.status == status)
    };
    if is(ConditionType::Ready, "True") {
        0
    } else if is(ConditionType::Allocated, "False") {
        3
    } else if is(ConditionType::Programmed, "True") {
        1
    } else if is(ConditionType::Allocated, "True") {
        2
    } else {
        4
    }
}

/// When an action that was done at `last` may be repeated, if that is later than now.
fn not_before(last: Option<Instant>, now: &Now) -> Option<Instant> {
    last.map(|last| last + NUMBERS_EVERY).filter(|next| *next > now.instant)
}

/// Converts a time to that of a timer.
fn at(due: Timestamp, now: &Now) -> Instant {
    let wait = if due <= now.time { Duration::ZERO } else { due.duration_since(now.time).unsigned_abs() };
    now.instant + wait
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
