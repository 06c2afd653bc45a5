//! The whole controller, model checked: every order of events within a small
//! scope, with crashes, lost answers, lagging caches and a second leader.
//!
//! What runs in it is the controller's own code: `Class::step` with all that it calls,
//! the caches, and the LB loop with `desired`, `diff` and the `memory` provider. What
//! the model has of its own is the API server (`api`) and what comes of effects
//! (`steps`).
//!
//! What must hold is in `check`, and in which scopes in `tests`. That everything
//! becomes as desired is checked from every state that is reached, in one order:
//! what was sent arrives, load balancers are programmed, the class loop runs,
//! and only then do delays end. So what is shown is that it can always get
//! there without another fault, and that nothing more happens then; not that it
//! does in every order.
//!
//! What it leaves out:
//! - Time is either "not yet" or "the delay is over". Backoffs and rests are
//!   not there: whatever is to be tried again may be tried at once. So is the
//!   class loop: it may run at any time, so that a wake-up which is forgotten
//!   would not be noticed, and neither would a verdict that is thought to stand.
//! - Messages, numbers, events and the order of entries. Strangers' ports, UDP,
//!   claims of several ports, quotas, addresses asked for, other classes, what
//!   can't be parsed, finalizers removed by force, and Services and endpoints,
//!   which are always there.
//! - The deletion of a class. A load balancer beyond the minimum comes and goes
//!   only where the scope says so.
//! - Between the calls that an LB loop makes in one run nothing else happens,
//!   unless the process ends there. A process that is gone changes no load
//!   balancer any more: its last call ends sooner than a port rests.
//! - A write of the class' status is answered in the moment in which it arrives, and
//!   one of a process that is gone never arrives.
//! - A write to a claim that a living process has given up (no answer in time) and that
//!   is carried out later.
//! - What is put back when a write to the class fails: a failed one is forgotten, and
//!   the class decides anew.
//! - A watch lags by at most two events for each claim, and then lists afresh;
//!   of the class it tells the latest status only.
//! - A claim created again may be told that it is served while its namesake's
//!   listener is still open, and is then closed for a moment: "what is served
//!   stays served" is asked only for the first claim of a name. Nor is it asked
//!   for one that was edited: edited there and back, it may be closed for a
//!   moment although its slot never left its status, since that was asked for.

mod api;
mod check;
mod real;
mod state;
mod steps;
mod tests;

use std::collections::BTreeSet;

use stateright::{Model, Property};

use self::check::Settled;
use self::real::Real;
use self::state::{Budget, Class, Controller, Pending, State};
use self::steps::ClassAnswer;
use crate::load_balancer::faulty_provider::Answers;

/// How much of everything there is.
#[derive(Debug, Clone)]
struct Scope {
    /// The claims, each with the port that it insists on
    claims: Vec<Option<u8>>,
    /// How many of them are there at first; the others may be created
    at_first: usize,
    /// The ports that an edit may ask for
    edits: Vec<Option<u8>>,
    /// Load balancers that are there in any case, and at most: two
    min: u8,
    max: u8,
    ports: u8,
    /// Listeners for each load balancer
    listeners: u8,
    left: Budget,
    /// Whether writes of a process that is gone may still arrive
    strays: bool,
    /// Whether answers may take longer than what happens in between
    late_answers: bool,
}

/// A [`Scope`], with the code that is checked.
struct World {
    scope: Scope,
    real: Real,
    settled: Settled,
}

/// What happens next. `u8`s are a controller, and then a claim or a load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    /// A user deletes a claim.
    Delete(u8),
    /// A user creates it again, as it was at first.
    Create(u8),
    /// A user asks for another port.
    Edit(u8, Option<u8>),
    /// The watch tells the next event of a claim.
    Watch(u8, u8),
    /// It is broken off, and starts again with a list.
    Relist(u8, u8),
    /// The watch tells the latest status of the class.
    WatchClass(u8),
    /// The class loop reconciles the class.
    Run(u8),
    /// A write to the class reaches the API server, or does not.
    ArriveClass(u8, ClassAnswer),
    /// A write to a claim reaches the API server.
    Arrive(u8, u8),
    /// The same, but the answer is lost.
    ArriveUnanswered(u8, u8),
    /// The answer to a write reaches the class loop.
    Answer(u8, u8),
    /// An LB loop takes up its plan.
    Take(u8, u8),
    /// It carries it out.
    Apply(u8, u8, Answers),
    /// Its outcome reaches the class loop.
    Hear(u8, u8),
    /// An LB loop looks again.
    Resync(u8, u8),
    /// A process is killed, and another starts.
    Crash(u8),
    /// The same, after it has carried out so many changes of a load balancer.
    CrashAfter(u8, u8, u8),
    /// A write of a process that is gone arrives.
    Stray(u8),
    /// Every delay that runs is over.
    Wait,
    /// A second controller starts, although the first one runs.
    Second,
    /// One of the two ends.
    End(u8),
}

impl World {
    fn new(scope: Scope) -> Self {
        let real = Real::new(scope.min..=scope.max, scope.ports, scope.listeners);
        Self { scope, real, settled: Settled::default() }
    }

    /// What users may do.
    fn user_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.left.users == 0 {
            return;
        }
        for (n, _) in self.scope.claims.iter().enumerate() {
            let claim = u8::try_from(n).unwrap();
            match state.claims[n] {
                None => actions.push(Action::Create(claim)),
                Some(there) if !there.deleting => {
                    actions.push(Action::Delete(claim));
                    let other = self.scope.edits.iter().filter(|asks| **asks != there.asks);
                    actions.extend(other.map(|&asks| Action::Edit(claim, asks)));
                }
                Some(_) => {}
            }
        }
    }

    /// What goes on between a controller and the API server.
    fn api_actions(who: u8, controller: &Controller, state: &State, actions: &mut Vec<Action>) {
        for (claim, view) in (0..).zip(&controller.claims) {
            match view.write {
                Some(Pending::Sent(_)) => {
                    actions.push(Action::Arrive(who, claim));
                    if state.left.lost > 0 {
                        actions.push(Action::ArriveUnanswered(who, claim));
                    }
                }
                Some(Pending::Answered { .. }) => actions.push(Action::Answer(who, claim)),
                None => {}
            }
            if !view.coming.is_empty() {
                actions.push(Action::Watch(who, claim));
                if view.coming.len() > 1 {
                    actions.push(Action::Relist(who, claim));
                }
            }
        }
        if controller.class_write.is_some() {
            actions.extend([ClassAnswer::Done, ClassAnswer::Not].map(|answer| Action::ArriveClass(who, answer)));
            if state.left.lost > 0 {
                actions.push(Action::ArriveClass(who, ClassAnswer::Lost));
            }
        } else if controller.class.version < state.class.version {
            actions.push(Action::WatchClass(who));
        }
        actions.push(Action::Run(who));
    }

    /// What goes on between a controller and the load balancers.
    fn lb_actions(who: u8, controller: &Controller, state: &State, actions: &mut Vec<Action>) {
        for (lb, lb_loop) in (0..).zip(&controller.loops) {
            let Some(lb_loop) = lb_loop else { continue };
            let told = lb_loop.memories.last_reported.as_ref().map(|told| told.plan);
            if lb_loop.unheard {
                actions.push(Action::Hear(who, lb));
            }
            if lb_loop.taken.is_some() {
                actions.push(Action::Apply(who, lb, Answers::Fine));
                let changes = 0..4;
                if state.left.lost > 0 {
                    let faults = [Answers::None, Answers::ThenNone, Answers::OneDenied];
                    actions.extend(faults.map(|answers| Action::Apply(who, lb, answers)));
                    actions.extend(changes.clone().map(|n| Action::Apply(who, lb, Answers::LostAfter(n))));
                }
                if state.left.crashes > 0 {
                    actions.extend(changes.map(|n| Action::CrashAfter(who, lb, n)));
                }
            } else if told != Some(lb_loop.plans.current) || lb_loop.memories.again {
                actions.push(Action::Take(who, lb));
            } else if lb_loop.memories.observed != Some(state.there[usize::from(lb)]) {
                actions.push(Action::Resync(who, lb));
            }
        }
    }

    /// Carries an action out.
    fn act(&self, state: &mut State, action: Action) {
        let at = usize::from;
        match action {
            Action::Delete(_) | Action::Create(_) | Action::Edit(..) => state.left.users -= 1,
            Action::ArriveClass(_, ClassAnswer::Lost) | Action::ArriveUnanswered(..) => state.left.lost -= 1,
            Action::Apply(_, _, answers) if answers != Answers::Fine => state.left.lost -= 1,
            Action::Crash(_) | Action::CrashAfter(..) => state.left.crashes -= 1,
            Action::Second => state.left.second -= 1,
            _ => {}
        }
        match action {
            Action::Delete(claim) => state.delete(at(claim)),
            Action::Create(claim) => state.create(at(claim), self.scope.claims[at(claim)]),
            Action::Edit(claim, asks) => state.edit(at(claim), asks),
            Action::Watch(who, claim) => state.controller(who).claims[at(claim)].watch(at(claim)),
            Action::Relist(who, claim) => state.relist(who, at(claim)),
            Action::WatchClass(who) => state.watch_class(who),
            Action::Run(who) => state.run(who, &self.real),
            Action::ArriveClass(who, answer) => state.arrive_class(who, &self.real, answer),
            Action::Arrive(who, claim) => state.arrive(who, at(claim), false),
            Action::ArriveUnanswered(who, claim) => state.arrive(who, at(claim), true),
            Action::Answer(who, claim) => state.answer(who, at(claim)),
            Action::Take(who, lb) => state.take(who, at(lb)),
            Action::Apply(who, lb, answers) => state.carry_out_plan(who, at(lb), &self.real, answers),
            Action::Hear(who, lb) => state.hear(who, at(lb)),
            Action::Resync(who, lb) => state.resync(who, at(lb)),
            Action::Crash(who) => {
                state.end(who, self.scope.strays);
                state.start(who);
            }
            Action::CrashAfter(who, lb, changes) => {
                state.carry_out_plan(who, at(lb), &self.real, Answers::LostAfter(changes));
                state.end(who, self.scope.strays);
                state.start(who);
            }
            Action::Stray(claim) => state.stray(at(claim)),
            Action::Wait => state.wait(),
            Action::Second => state.start(1),
            Action::End(who) => state.end(who, self.scope.strays),
        }
        if !self.scope.late_answers {
            state.answer_at_once();
        }
        state.tidy();
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            claims: [None; 3],
            class: Class::default(),
            there: [None; 2],
            controllers: [None, None],
            strays: [None; 3],
            left: self.scope.left,
            born: [0; 3],
            edited: [false; 3],
            resting: Default::default(),
            wrong: BTreeSet::new(),
        };
        for (claim, asks) in self.scope.claims.iter().enumerate().take(self.scope.at_first) {
            state.create(claim, *asks);
        }
        state.start(0);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.user_actions(state, actions);
        for who in [0, 1] {
            let Some(controller) = &state.controllers[usize::from(who)] else { continue };
            Self::api_actions(who, controller, state, actions);
            Self::lb_actions(who, controller, state, actions);
            if state.left.crashes > 0 {
                actions.push(Action::Crash(who));
            }
        }
        let strays = (0..).zip(&state.strays).filter(|(_, stray)| stray.is_some());
        actions.extend(strays.map(|(claim, _)| Action::Stray(claim)));
        match &state.controllers {
            [Some(_), Some(_)] => actions.extend([Action::End(0), Action::End(1)]),
            [Some(_), None] if state.left.second > 0 => actions.push(Action::Second),
            _ => {}
        }
        if state.has_delays() {
            actions.push(Action::Wait);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.act(&mut state, action);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        check::properties()
    }
}
