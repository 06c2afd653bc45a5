//! What a controller does, step by step, in the order of `run.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::real::Real;
use super::state::{Claim, Class, Controller, Decision, Lbs, Loop, Pending, Slot, State, View, What, Wrong};
use crate::load_balancer::faulty_provider::Answers;
use crate::load_balancer::model::{Numbered, Slots, There};

/// What becomes of the write of the class' status in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ClassWrite {
    Done,
    /// It was carried out, but the answer is lost.
    Lost,
    /// It was put off, or it never arrived.
    Not,
}

impl Controller {
    /// A process that has just filled its caches.
    pub(super) fn started(claims: &[Option<Claim>; 3], class: Class) -> Self {
        let views = claims.map(|known| View { known, ..View::default() });
        Self { claims: views, class, ..Self::default() }
    }

    /// What it would decide now.
    pub(super) fn decision(&self, real: &Real) -> Arc<Decision> {
        let claims = [0, 1, 2].map(|n: usize| self.claims[n].known);
        real.decide((claims, self.class.lbs, self.outcomes.clone()))
    }

    /// Everything that may wait, once slots have changed hands: what else there
    /// is to tell, finalizers, plans.
    fn finish(&mut self, decision: &Decision) {
        for (n, view) in self.claims.iter_mut().enumerate() {
            let Some(known) = view.known.filter(|_| view.is_free()) else { continue };
            if let Some(status) = decision.tell[n] {
                view.send(What::Status(status));
            } else if known.deleting && known.finalizer {
                view.send(What::LetGo);
            } else if !known.deleting && !known.finalizer && known.status.held.is_some() {
                view.send(What::Protect);
            }
        }
        for (lb, plan) in decision.plans.iter().enumerate() {
            match plan {
                None => (self.loops[lb], self.outcomes[lb]) = (None, None),
                Some(slots) => self.hand(lb, *slots),
            }
        }
    }

    /// Hands a load balancer its plan, if that is a new one.
    fn hand(&mut self, lb: usize, slots: Slots) {
        let Some(lb_loop) = &mut self.loops[lb] else {
            let plan = Numbered { number: 0, slots };
            self.loops[lb] = Some(Loop { plan, ..Loop::default() });
            return;
        };
        if lb_loop.plan.slots != slots {
            let plan = Numbered { number: lb_loop.plan.number + 1, slots };
            lb_loop.handed.replace(&lb_loop.plan, &plan);
            lb_loop.plan = plan;
            if let Some(heard) = &mut self.outcomes[lb] {
                *heard = lb_loop.handed.heard(&heard.told, &plan);
            }
        }
    }
}

impl State {
    pub(super) fn controller(&mut self, who: u8) -> &mut Controller {
        Arc::make_mut(self.controllers[usize::from(who)].as_mut().expect("it runs"))
    }

    /// Decide; record what is given back; begin to give what is given.
    pub(super) fn run(&mut self, who: u8, real: &Real, write: ClassWrite) {
        let decision = self.controller(who).decision(real);
        if decision.class_first && !self.write_class(who, &decision, write) {
            return;
        }
        let controller = self.controller(who);
        let gives = (0..3).filter(|n: &u8| decision.give[usize::from(*n)].is_some());
        let waits: BTreeSet<u8> = gives.filter(|n| controller.claims[usize::from(*n)].is_free()).collect();
        for &n in &waits {
            let status = decision.give[usize::from(n)].expect("it is given");
            controller.claims[usize::from(n)].send(What::Status(status));
        }
        if !waits.is_empty() {
            controller.giving = Some((decision, waits));
            return;
        }
        controller.finish(&decision);
        if !decision.class_first && controller.class.lbs != decision.lbs {
            self.write_class(who, &decision, write);
        }
    }

    fn write_class(&mut self, who: u8, decision: &Decision, write: ClassWrite) -> bool {
        let version = self.controller(who).class.version;
        let written = if write == ClassWrite::Not { None } else { self.carry_out_class(version, decision.lbs) };
        match written.filter(|_| write == ClassWrite::Done) {
            Some(version) => {
                self.controller(who).class = Class { version, lbs: decision.lbs };
                true
            }
            None => false,
        }
    }

    /// The API server carries out a write that was sent.
    pub(super) fn arrive(&mut self, who: u8, claim: usize, lost: bool) {
        let Some(Pending::Sent(write)) = self.controller(who).claims[claim].write else { return };
        let written = self.carry_out(claim, write).filter(|_| !lost);
        let controller = self.controller(who);
        controller.claims[claim].write = Some(Pending::Answered { born: write.born, written });
        let n = u8::try_from(claim).unwrap();
        // The answers to what it gives are waited for; the last one lets it go on.
        if let Some((decision, mut waits)) = controller.giving.take_if(|(_, waits)| waits.contains(&n)) {
            controller.claims[claim].answered(claim, written);
            // It is left alone for a while after a failure: for this run.
            waits.remove(&n);
            if waits.is_empty() {
                controller.finish(&decision);
            } else {
                controller.giving = Some((decision, waits));
            }
        }
    }

    /// The answer to a write that nobody waited for comes in.
    pub(super) fn answer(&mut self, who: u8, claim: usize) {
        let view = &mut self.controller(who).claims[claim];
        if let Some(Pending::Answered { written, .. }) = view.write {
            view.answered(claim, written);
        }
    }

    /// Where answers take no time: every one that has been given comes in.
    pub(super) fn answer_at_once(&mut self) {
        for who in [0, 1] {
            if self.controllers[usize::from(who)].as_ref().is_some_and(|controller| controller.giving.is_none()) {
                (0..3).for_each(|claim| self.answer(who, claim));
            }
        }
    }

    /// The watch of claims is broken off, and begins with a list.
    pub(super) fn relist(&mut self, who: u8, claim: usize) {
        let there = self.claims[claim];
        self.controller(who).claims[claim].list(claim, there);
    }

    /// The watch tells the class' latest status.
    pub(super) fn watch_class(&mut self, who: u8) {
        self.controller(who).class = self.class;
    }

    /// An LB loop takes up its plan.
    pub(super) fn take(&mut self, who: u8, lb: usize) {
        if let Some(lb_loop) = &mut self.controller(who).loops[lb] {
            lb_loop.taken = Some(lb_loop.plan);
        }
    }

    /// It looks at its load balancer although nothing is known to have changed.
    pub(super) fn resync(&mut self, who: u8, lb: usize) {
        if let Some(lb_loop) = &mut self.controller(who).loops[lb] {
            lb_loop.memories.observed = None;
            lb_loop.taken = Some(lb_loop.plan);
        }
    }

    /// It carries the plan out that it has taken, and tells what became of it.
    pub(super) fn carry_out_plan(&mut self, who: u8, lb: usize, real: &Real, answers: Answers) {
        let there = self.there[lb];
        let Some(lb_loop) = &mut self.controller(who).loops[lb] else { return };
        let Some(plan) = lb_loop.taken.take() else { return };
        let index = u8::try_from(lb).unwrap();
        let (memories, after) = real.run(index, &lb_loop.memories, &plan, &there, answers);
        lb_loop.unheard |= memories.told != lb_loop.memories.told;
        lb_loop.memories = memories;
        self.there[lb] = after;
        self.note_what_was_cut(index, &there);
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

    /// The class loop takes in what an LB loop has told.
    pub(super) fn hear(&mut self, who: u8, lb: usize) {
        let controller = self.controller(who);
        if let Some(lb_loop) = &mut controller.loops[lb] {
            lb_loop.unheard = false;
            let told = lb_loop.memories.told.as_ref();
            controller.outcomes[lb] = told.map(|told| lb_loop.handed.heard(told, &lb_loop.plan));
        }
    }

    /// A process ends. What it had sent may still arrive.
    pub(super) fn end(&mut self, who: u8, strays: bool) {
        let Some(controller) = self.controllers[usize::from(who)].take() else { return };
        for (claim, view) in controller.claims.iter().enumerate() {
            if let Some(Pending::Sent(write)) = view.write
                && strays
            {
                self.strays[claim] = Some(write);
            }
        }
    }

    /// A process starts, and fills its caches.
    pub(super) fn start(&mut self, who: u8) {
        let started = Controller::started(&self.claims, self.class);
        self.controllers[usize::from(who)] = Some(Arc::new(started));
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
                listed.released.iter_mut().flatten().for_each(|record| record.rested = true);
                listed.empty = listed.empty.map(|_| true);
            }
        };
        over(&mut self.class.lbs);
        for controller in self.controllers.iter_mut().flatten() {
            let controller = Arc::make_mut(controller);
            over(&mut controller.class.lbs);
            if let Some((decision, _)) = &mut controller.giving {
                let mut later = Decision::clone(decision);
                over(&mut later.lbs);
                *decision = Arc::new(later);
            }
        }
        self.resting = Default::default();
    }

    /// Whether any delay runs.
    pub(super) fn has_delays(&self) -> bool {
        let known = self.controllers.iter().flatten().map(|controller| &controller.class.lbs);
        known
            .chain([&self.class.lbs])
            .flatten()
            .flatten()
            .any(|listed| listed.empty == Some(false) || listed.released.iter().flatten().any(|record| !record.rested))
    }

    /// What is no news to anybody is told at once, and what does not matter is forgotten.
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
