//! What must hold.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;

use sharedlb_crds::Reason;
use stateright::{Model, Property};

use super::state::{Budget, Claim, Slot, State, Truth, Wrong};
use super::steps::ClassAnswer;
use super::{Action, World};
use crate::load_balancer::faulty_provider::Answers;
use crate::load_balancer::model::{Clients, Open};

/// More steps than it can take until nothing is left to do.
const STEPS_MAX: usize = 400;

/// States from which everything is known to become as desired, by their hash.
#[derive(Default)]
pub(super) struct Settled {
    fine: Mutex<HashSet<u64>>,
    /// What was wrong in the first from which it does not
    pub(super) complaint: Mutex<Option<String>>,
}

pub(super) fn properties() -> Vec<Property<World>> {
    vec![
        Property::always("no slot is held by two claims", |_, state: &State| {
            slots().all(|slot| holders(state, slot).count() < 2)
        }),
        Property::always("an open listener is its holder's, or recorded", |_, state: &State| {
            listeners(state).all(|(slot, open)| {
                let recorded = state.class.record(slot).is_some_and(|record| record.claim == open.owner);
                recorded || holders(state, slot).any(|holder| holder == open.owner)
            })
        }),
        Property::always("no listener on a claim's slot leads to another's pods", |_, state: &State| {
            listeners(state).all(|(slot, open)| {
                let only = |claim: u8| open.owner == claim && open.pods & !(1 << claim) == 0;
                only(open.owner) && holders(state, slot).all(only)
            })
        }),
        Property::always("a held slot never moves", |_, state: &State| !state.wrong.contains(&Wrong::Moved)),
        Property::always("what is served stays served", |_, state: &State| !state.wrong.contains(&Wrong::Cut)),
        Property::always("clients that were excluded stay excluded", |_, state: &State| {
            listeners(state).all(|(slot, open)| {
                let excluding = state.excluding[usize::from(slot.lb)][usize::from(slot.port)];
                open.clients == Clients::Few || excluding != Some(open.owner)
            })
        }),
        Property::always("a release is recorded first", |_, state: &State| !state.wrong.contains(&Wrong::Unrecorded)),
        Property::always("a released port cools down", |_, state: &State| {
            !state.wrong.contains(&Wrong::CoolDownIgnored)
        }),
        Property::always("without further faults all becomes as desired", |world: &World, state: &State| {
            world.settles(state)
        }),
        Property::sometimes("every claim is ready", |world: &World, state: &State| {
            let claims = state.claims.iter().take(world.scope.claims.len());
            claims.into_iter().all(|claim| claim.is_some_and(|claim| is_ready(&claim)))
        }),
        Property::sometimes("the port of a deleted claim cools down", |_, state: &State| {
            state.claims.contains(&None) && state.cooling_down.iter().flatten().any(Option::is_some)
        }),
    ]
}

fn slots() -> impl Iterator<Item = Slot> {
    (0..2).flat_map(|lb| (0..3).map(move |port| Slot { lb, port }))
}

/// The claims whose status says that they hold this slot.
fn holders(state: &State, slot: Slot) -> impl Iterator<Item = u8> {
    let claims = (0..).zip(&state.claims);
    claims.filter(move |(_, claim)| claim.is_some_and(|claim| claim.status.held == Some(slot))).map(|(n, _)| n)
}

fn listeners(state: &State) -> impl Iterator<Item = (Slot, Open)> {
    slots().filter_map(|slot| Some((slot, state.there[usize::from(slot.lb)]?[usize::from(slot.port)]?)))
}

fn is_ready(claim: &Claim) -> bool {
    claim.status.current && claim.status.opened && claim.status.said[2] == Some((Truth::True, Reason::Ready))
}

impl State {
    /// Forgets what is known for other properties only.
    fn forget_history(&mut self) {
        (self.cooling_down, self.excluding) = Default::default();
        self.wrong.clear();
    }
}

impl World {
    /// Whether everything becomes as desired if nothing goes wrong any more, and
    /// no user does anything, and stays so.
    fn settles(&self, state: &State) -> bool {
        let mut state = State { left: Budget::default(), ..state.clone() };
        state.forget_history();
        let mut path = Vec::new();
        loop {
            let mut hasher = DefaultHasher::new();
            (&state, ()).hash(&mut hasher);
            let hash = hasher.finish();
            if self.settled.fine.lock().unwrap().contains(&hash) {
                break;
            }
            path.push(hash);
            let Some(next) = self.next_without_fault(&state) else {
                if let Err(complaint) = self.is_as_desired(&state) {
                    self.settled.complaint.lock().unwrap().get_or_insert(complaint);
                    return false;
                }
                break;
            };
            if path.len() > STEPS_MAX {
                self.settled
                    .complaint
                    .lock()
                    .unwrap()
                    .get_or_insert_with(|| format!("it does not become quiet: {next:#?}"));
                return false;
            }
            state = next;
            state.forget_history();
        }
        self.settled.fine.lock().unwrap().extend(path);
        true
    }

    /// The first of the things that can happen now and change anything: what
    /// was sent arrives, then load balancers are programmed, then the class loop
    /// runs, and only then time goes by.
    fn next_without_fault(&self, state: &State) -> Option<State> {
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        let rank = |action: &Action| match action {
            Action::End(0) => Some(0),
            Action::Stray(_) => Some(1),
            Action::Arrive(..) | Action::ArriveClass(_, ClassAnswer::Done) | Action::Answer(..) => Some(2),
            Action::Watch(..) | Action::WatchClass(_) => Some(3),
            Action::Hear(..) | Action::Take(..) | Action::Apply(_, _, Answers::Fine) => Some(4),
            Action::Run(_) => Some(5),
            Action::Resync(..) => Some(6),
            Action::Wait => Some(7),
            _ => None,
        };
        let mut ranked: Vec<(i32, Action)> = actions.into_iter().filter_map(|a| Some((rank(&a)?, a))).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().find_map(|(_, action)| self.next_state(state, action))
    }

    /// Every claim is served, or refused with cause; nothing else is open, or
    /// recorded.
    fn is_as_desired(&self, state: &State) -> Result<(), String> {
        let complain = |what: &str| Err(format!("{what}: {state:#?}"));
        for (n, claim) in state.claims.iter().enumerate() {
            let Some(claim) = claim else { continue };
            let open = claim.status.held.and_then(|slot| {
                let open = state.there[usize::from(slot.lb)]?[usize::from(slot.port)]?;
                Some((slot, open))
            });
            let by = u8::try_from(n).unwrap();
            match open {
                _ if claim.deleting => return complain("a claim does not go"),
                Some((slot, open)) => {
                    let wanted = Open { owner: by, pods: 1 << by, clients: claim.clients };
                    if !is_ready(claim) || !claim.wants(slot) || open != wanted {
                        return complain("a claim is not served");
                    }
                }
                None => {
                    let refused = matches!(claim.status.said[0], Some((Truth::False, _)));
                    if !claim.status.current || !refused || self.has_room(state, claim) {
                        return complain("a claim is refused without cause, or waits");
                    }
                }
            }
        }
        if listeners(state).any(|(slot, open)| !holders(state, slot).any(|holder| holder == open.owner)) {
            return complain("a listener is leaked");
        }
        if slots().any(|slot| state.class.record(slot).is_some()) {
            return complain("a record is never forgotten");
        }
        Ok(())
    }

    /// Whether there is a slot for this claim, which has none.
    fn has_room(&self, state: &State, claim: &Claim) -> bool {
        (0..self.scope.max).any(|lb| {
            let held = |port: u8| holders(state, Slot { lb, port }).next().is_some();
            let full = (0..3).filter(|port| held(*port)).count() >= usize::from(self.scope.listeners);
            let fits = |port: u8| !held(port) && claim.asks.is_none_or(|asks| asks == port);
            !full && (0..self.scope.ports).any(fits)
        })
    }
}
