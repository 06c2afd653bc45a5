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
//! - Time is either "not yet" or "the delay is over". There are no backoffs and no
//!   debounce: every retry may come at once, and the class loop may run at any time. So
//!   the model does not notice a missing wake-up, nor a cached verdict that is outdated.
//! - Messages, numbers, Events and the order of entries. Foreign ports, UDP,
//!   claims of several ports, quotas, requested addresses, other classes,
//!   unparsable objects, finalizers removed by force, and Services and endpoints,
//!   which are always there.
//! - The deletion of a class. A load balancer beyond the minimum comes and goes
//!   only where the scope says so.
//! - Between the calls that an LB loop makes in one run nothing else happens,
//!   unless the process ends there. A process that is gone changes no load
//!   balancer any more: its last call ends before a cool-down does.
//! - A write of the class' status is answered in the moment in which it arrives, and
//!   one of a process that is gone never arrives.
//! - A write to a claim that timed out in a living process and that the API server
//!   carries out later.
//! - The state that a failed write to the class restores: the write is dropped, and
//!   the class decides again.
//! - A watch lags by at most two events for each claim, and then lists again;
//!   of the class it reports the latest status only.
//! - A recreated claim may be reported as served while the listener of its predecessor is
//!   still open, and is then closed for a moment: "what is served stays served" is
//!   checked only for the first claim of a name. Nor is it checked for a claim that was
//!   edited: edited to another port and back, it may be closed for a moment although its
//!   slot never left its status.

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
use crate::load_balancer::model::Clients;

/// How much of everything there is.
#[derive(Debug, Clone)]
struct Scope {
    /// The claims, each with the port that it insists on
    claims: Vec<Option<u8>>,
    /// How many of them are there at first; the others may be created
    at_first: usize,
    /// The ports that an edit may request
    edits: Vec<Option<u8>>,
    /// Whether users edit source ranges
    source_ranges: bool,
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
    /// A user requests another port.
    Edit(u8, Option<u8>),
    /// A user wants other clients to be served.
    Serve(u8, Clients),
    /// The watch reports the next event of a claim.
    Watch(u8, u8),
    /// It is broken off, and starts again with a list.
    Relist(u8, u8),
    /// The watch reports the latest status of the class.
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
    /// An LB loop observes again.
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
                    if self.scope.source_ranges {
                        let others = [Clients::All, Clients::Few].into_iter().filter(|other| *other != there.clients);
                        actions.extend(others.map(|clients| Action::Serve(claim, clients)));
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// What goes on between a controller and the API server.
    fn api_actions(process: u8, controller: &Controller, state: &State, actions: &mut Vec<Action>) {
        for (claim, view) in (0..).zip(&controller.claims) {
            match view.write {
                Some(Pending::Sent(_)) => {
                    actions.push(Action::Arrive(process, claim));
                    if state.left.lost > 0 {
                        actions.push(Action::ArriveUnanswered(process, claim));
                    }
                }
                Some(Pending::Answered { .. }) => actions.push(Action::Answer(process, claim)),
                None => {}
            }
            if !view.coming.is_empty() {
                actions.push(Action::Watch(process, claim));
                if view.coming.len() > 1 {
                    actions.push(Action::Relist(process, claim));
                }
            }
        }
        if controller.class_write.is_some() {
            actions.extend([ClassAnswer::Done, ClassAnswer::Not].map(|answer| Action::ArriveClass(process, answer)));
            if state.left.lost > 0 {
                actions.push(Action::ArriveClass(process, ClassAnswer::Lost));
            }
        } else if controller.class.version < state.class.version {
            actions.push(Action::WatchClass(process));
        }
        actions.push(Action::Run(process));
    }

    /// What goes on between a controller and the load balancers.
    fn lb_actions(process: u8, controller: &Controller, state: &State, actions: &mut Vec<Action>) {
        for (lb, lb_loop) in (0..).zip(&controller.loops) {
            let Some(lb_loop) = lb_loop else { continue };
            let reported = lb_loop.memories.last_reported.as_ref().map(|reported| reported.plan);
            if lb_loop.unheard {
                actions.push(Action::Hear(process, lb));
            }
            if lb_loop.taken.is_some() {
                actions.push(Action::Apply(process, lb, Answers::Fine));
                let changes = 0..4;
                if state.left.lost > 0 {
                    let faults = [Answers::None, Answers::ThenNone, Answers::OneDenied];
                    actions.extend(faults.map(|answers| Action::Apply(process, lb, answers)));
                    actions.extend(changes.clone().map(|n| Action::Apply(process, lb, Answers::LostAfter(n))));
                }
                if state.left.unchanged > 0 {
                    actions.push(Action::Apply(process, lb, Answers::NoOptions));
                }
                if state.left.crashes > 0 {
                    actions.extend(changes.map(|n| Action::CrashAfter(process, lb, n)));
                }
            } else if reported != Some(lb_loop.plans.current) || lb_loop.memories.again {
                actions.push(Action::Take(process, lb));
            } else if lb_loop.memories.observed != Some(state.there[usize::from(lb)]) {
                actions.push(Action::Resync(process, lb));
            }
        }
    }

    /// Carries an action out.
    fn act(&self, state: &mut State, action: Action) {
        let at = usize::from;
        match action {
            Action::Delete(_) | Action::Create(_) | Action::Edit(..) | Action::Serve(..) => state.left.users -= 1,
            Action::ArriveClass(_, ClassAnswer::Lost) | Action::ArriveUnanswered(..) => state.left.lost -= 1,
            Action::Apply(_, _, Answers::NoOptions) => state.left.unchanged -= 1,
            Action::Apply(_, _, answers) if answers != Answers::Fine => state.left.lost -= 1,
            Action::Crash(_) | Action::CrashAfter(..) => state.left.crashes -= 1,
            Action::Second => state.left.second -= 1,
            _ => {}
        }
        match action {
            Action::Delete(claim) => state.delete(at(claim)),
            Action::Create(claim) => state.create(at(claim), self.scope.claims[at(claim)]),
            Action::Edit(claim, asks) => state.edit(at(claim), asks),
            Action::Serve(claim, clients) => state.serve(at(claim), clients),
            Action::Watch(process, claim) => state.controller(process).claims[at(claim)].watch(at(claim)),
            Action::Relist(process, claim) => state.relist(process, at(claim)),
            Action::WatchClass(process) => state.watch_class(process),
            Action::Run(process) => state.run(process, &self.real),
            Action::ArriveClass(process, answer) => state.arrive_class(process, &self.real, answer),
            Action::Arrive(process, claim) => state.arrive(process, at(claim), false),
            Action::ArriveUnanswered(process, claim) => state.arrive(process, at(claim), true),
            Action::Answer(process, claim) => state.answer(process, at(claim)),
            Action::Take(process, lb) => state.take(process, at(lb)),
            Action::Apply(process, lb, answers) => state.carry_out_plan(process, at(lb), &self.real, answers),
            Action::Hear(process, lb) => state.hear(process, at(lb)),
            Action::Resync(process, lb) => state.resync(process, at(lb)),
            Action::Crash(process) => {
                state.end(process, self.scope.strays);
                state.start(process);
            }
            Action::CrashAfter(process, lb, changes) => {
                state.carry_out_plan(process, at(lb), &self.real, Answers::LostAfter(changes));
                state.end(process, self.scope.strays);
                state.start(process);
            }
            Action::Stray(claim) => state.stray(at(claim)),
            Action::Wait => state.wait(),
            Action::Second => state.start(1),
            Action::End(process) => state.end(process, self.scope.strays),
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
            excluding: Default::default(),
            cooling_down: Default::default(),
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
        for process in [0, 1] {
            let Some(controller) = &state.controllers[usize::from(process)] else { continue };
            Self::api_actions(process, controller, state, actions);
            Self::lb_actions(process, controller, state, actions);
            if state.left.crashes > 0 {
                actions.push(Action::Crash(process));
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
