//! What a controller does: the steps of the real class and of the real LB loop, and
//! what comes of their effects.

use std::sync::Arc;

use super::real::Real;
use super::state::{Claim, Class, ClassWrite, Controller, Known, KnownClaim, Lbs, Loop, Pending, Slot, State, Stepped};
use super::state::{View, Wrong};
use crate::load_balancer::faulty_provider::Answers;
use crate::load_balancer::model::{Clients, Numbered, PlannedPort, There};

/// What becomes of a write of the class' status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ClassAnswer {
    Done,
    /// It was carried out, but the answer is lost.
    Lost,
    /// It never arrived.
    Not,
}

impl Controller {
    /// A process that has just filled its caches.
    pub(super) fn started(claims: &[Option<Claim>; 3], class: Class) -> Self {
        let views = claims.map(|known| View { known, ..View::default() });
        Self { claims: views, class, ..Self::default() }
    }

    /// What its class knows.
    fn known(&self) -> Known {
        let claim = |view: &View| {
            let claim = Claim { version: 0, ..view.known? };
            Some(KnownClaim { claim, in_flight: view.write.is_some(), disturbed: view.disturbed })
        };
        let gives = |view: &&View| match view.write {
            Some(Pending::Sent(write)) => write.gives,
            Some(Pending::Answered { gives, .. }) => gives,
            None => false,
        };
        let plans = |lb_loop: &Option<Loop>| lb_loop.as_ref().map(|lb_loop| lb_loop.plans.clone());
        Known {
            claims: [0, 1, 2].map(|n: usize| claim(&self.claims[n])),
            lbs: self.class.lbs,
            outcomes: self.outcomes.clone(),
            plans: [0, 1].map(|lb: usize| plans(&self.loops[lb])),
            class_write: self.class_write.is_some(),
            gives: self.claims.iter().filter(gives).count(),
        }
    }

    /// The class makes steps until it has to wait.
    fn step(&mut self, real: &Real, recorded: Option<Arc<Known>>) {
        let known = self.known();
        let Stepped { writes, class_write, records, plans, outcomes } = real.step(known.clone(), recorded);
        for (view, write) in self.claims.iter_mut().zip(writes) {
            if let Some((what, gives)) = write {
                view.send(what, gives);
            }
        }
        for (lb, plans) in plans.into_iter().enumerate() {
            match (plans, &mut self.loops[lb]) {
                (None, lb_loop) => *lb_loop = None,
                (Some(plans), Some(lb_loop)) => lb_loop.plans = plans,
                (Some(plans), none) => *none = Some(Loop { plans, ..Loop::default() }),
            }
        }
        self.outcomes = outcomes;
        if let Some(lbs) = class_write {
            let recorded = records.then(|| Arc::new(known));
            self.claims.iter_mut().for_each(|view| view.disturbed = false);
            self.class_write = Some(ClassWrite { version: self.class.version, lbs, recorded });
        }
    }
}

impl State {
    pub(super) fn controller(&mut self, process: u8) -> &mut Controller {
        Arc::make_mut(self.controllers[usize::from(process)].as_mut().expect("it runs"))
    }

    /// The class loop reconciles the class.
    pub(super) fn run(&mut self, process: u8, real: &Real) {
        self.controller(process).step(real, None);
    }

    /// The API server carries out a write of the class' status, and answers.
    pub(super) fn arrive_class(&mut self, process: u8, real: &Real, answer: ClassAnswer) {
        let Some(write) = self.controller(process).class_write.take() else { return };
        let arrives = answer != ClassAnswer::Not;
        let written = if arrives { self.carry_out_class(write.version, write.lbs) } else { None };
        let controller = self.controller(process);
        let Some(version) = written.filter(|_| answer == ClassAnswer::Done) else { return };
        controller.class = Class { version, lbs: write.lbs };
        if let Some(recorded) = write.recorded {
            controller.step(real, Some(recorded));
        }
    }

    /// The API server carries out a write that was sent.
    pub(super) fn arrive(&mut self, process: u8, claim: usize, lost: bool) {
        let Some(Pending::Sent(write)) = self.controller(process).claims[claim].write else { return };
        let written = self.carry_out(claim, write).filter(|_| !lost);
        self.controller(process).claims[claim].write =
            Some(Pending::Answered { born: write.born, written, gives: write.gives });
    }

    /// The answer to a write comes in.
    pub(super) fn answer(&mut self, process: u8, claim: usize) {
        let view = &mut self.controller(process).claims[claim];
        if let Some(Pending::Answered { written, .. }) = view.write {
            view.answered(claim, written);
        }
    }

    /// Where answers take no time: every one that has been given comes in.
    pub(super) fn answer_at_once(&mut self) {
        for process in [0, 1] {
            if self.controllers[usize::from(process)].is_some() {
                (0..3).for_each(|claim| self.answer(process, claim));
            }
        }
    }

    /// The watch of claims is broken off, and begins with a list.
    pub(super) fn relist(&mut self, process: u8, claim: usize) {
        let there = self.claims[claim];
        self.controller(process).claims[claim].list(claim, there);
    }

    /// The watch reports the class' latest status.
    pub(super) fn watch_class(&mut self, process: u8) {
        self.controller(process).class = self.class;
    }

    /// An LB loop takes up its plan.
    pub(super) fn take(&mut self, process: u8, lb: usize) {
        if let Some(lb_loop) = &mut self.controller(process).loops[lb] {
            lb_loop.taken = Some(lb_loop.plans.current);
        }
    }

    /// It observes its load balancer although nothing is known to have changed.
    pub(super) fn resync(&mut self, process: u8, lb: usize) {
        if let Some(lb_loop) = &mut self.controller(process).loops[lb] {
            lb_loop.memories.observed = None;
            lb_loop.taken = Some(lb_loop.plans.current);
        }
    }

    /// It carries out the plan that it has taken, and reports the outcome.
    pub(super) fn carry_out_plan(&mut self, process: u8, lb: usize, real: &Real, answers: Answers) {
        let there = self.there[lb];
        let Some(lb_loop) = &mut self.controller(process).loops[lb] else { return };
        let Some(plan) = lb_loop.taken.take() else { return };
        let index = u8::try_from(lb).unwrap();
        let (memories, after) = real.run(index, &lb_loop.memories, &plan, &there, answers);
        lb_loop.unheard |= memories.last_reported != lb_loop.memories.last_reported;
        lb_loop.memories = memories;
        self.there[lb] = after;
        self.note_what_was_cut(index, &there);
        self.note_excluding(index, &plan);
    }

    /// Notes the ports that by this plan serve none but the clients of their claims, or are closed.
    fn note_excluding(&mut self, lb: u8, plan: &Numbered) {
        let open = self.there[usize::from(lb)].unwrap_or_default();
        for (port, planned) in plan.slots.iter().flatten().enumerate() {
            let Some(PlannedPort { claim, clients: Clients::Few }) = *planned else { continue };
            let serves_all = open[port].is_some_and(|open| open.owner == claim && open.clients == Clients::All);
            let wanted = self.claims[usize::from(claim)].is_some_and(|claim| claim.clients == Clients::Few);
            if wanted && !serves_all {
                self.excluding[usize::from(lb)][port] = Some(claim);
            }
        }
    }

    fn note_what_was_cut(&mut self, lb: u8, before: &There) {
        let after = self.there[usize::from(lb)];
        for port in 0..3u8 {
            let at = |there: &There| there.and_then(|ports| ports[usize::from(port)]);
            let (Some(open), now) = (at(before), at(&after)) else { continue };
            let slot = Slot { lb, port };
            let served = self.claims[usize::from(open.owner)].is_some_and(|claim| {
                // A claim created again may be served by what was its namesake's, which is being
                // closed; and one that was edited there and back has asked for this.
                claim.born == 0
                    && !self.edited[usize::from(open.owner)]
                    && claim.finalizer
                    && claim.status.held == Some(slot)
                    && claim.wants(slot)
                    && claim.status.opened
            });
            if served && now != Some(open) {
                self.wrong.insert(Wrong::Cut);
            }
        }
    }

    /// The class loop takes in what an LB loop has reported.
    pub(super) fn hear(&mut self, process: u8, lb: usize) {
        let controller = self.controller(process);
        if let Some(lb_loop) = &mut controller.loops[lb] {
            lb_loop.unheard = false;
            let reported = lb_loop.memories.last_reported.as_ref();
            controller.outcomes[lb] =
                reported.map(|reported| lb_loop.plans.in_flight.heard(reported, &lb_loop.plans.current));
        }
    }

    /// A process ends. What it had sent may still arrive.
    pub(super) fn end(&mut self, process: u8, strays: bool) {
        let Some(controller) = self.controllers[usize::from(process)].take() else { return };
        for (claim, view) in controller.claims.iter().enumerate() {
            if let Some(Pending::Sent(write)) = view.write
                && strays
            {
                self.strays[claim] = Some(write);
            }
        }
    }

    /// A process starts, and fills its caches.
    pub(super) fn start(&mut self, process: u8) {
        let started = Controller::started(&self.claims, self.class);
        self.controllers[usize::from(process)] = Some(Arc::new(started));
    }

    /// What a process that is gone had sent arrives.
    pub(super) fn stray(&mut self, claim: usize) {
        if let Some(write) = self.strays[claim].take() {
            _ = self.carry_out(claim, write);
        }
    }

    /// Time goes by: every delay that runs is over.
    pub(super) fn wait(&mut self) {
        let over = |lbs: &mut Lbs| {
            for listed in lbs.iter_mut().flatten() {
                listed.released.iter_mut().flatten().for_each(|record| record.cooled = true);
                listed.empty = listed.empty.map(|_| true);
            }
        };
        over(&mut self.class.lbs);
        for controller in self.controllers.iter_mut().flatten() {
            let controller = Arc::make_mut(controller);
            over(&mut controller.class.lbs);
            if let Some(write) = &mut controller.class_write {
                over(&mut write.lbs);
            }
        }
        self.cooling_down = Default::default();
    }

    /// Whether any delay runs.
    pub(super) fn has_delays(&self) -> bool {
        let known = self.controllers.iter().flatten().flat_map(|controller| {
            let sent = controller.class_write.as_ref().map(|write| &write.lbs);
            sent.into_iter().chain([&controller.class.lbs])
        });
        known
            .chain([&self.class.lbs])
            .flatten()
            .flatten()
            .any(|listed| listed.empty == Some(false) || listed.released.iter().flatten().any(|record| !record.cooled))
    }

    /// Reports that change nothing are taken in at once, and state that does not matter is forgotten.
    pub(super) fn tidy(&mut self) {
        for controller in self.controllers.iter_mut().flatten() {
            for claim in 0..3 {
                if !controller.claims[claim].coming.is_empty() {
                    Arc::make_mut(controller).claims[claim].skip_what_is_no_news(claim);
                }
            }
        }
        self.normalize();
    }
}
