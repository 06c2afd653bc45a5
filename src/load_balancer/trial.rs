//! Listeners that take the address from their load balancer. Pure.
//!
//! An implementation may take the address from a Service because of one of its ports (MetalLB
//! does, if the address is shared with a foreign Service that has the port). Then all claims
//! of the load balancer are without traffic. So a listener that opens is on trial for a
//! while: if the load balancer loses its address meanwhile, all listeners on trial are
//! withdrawn. If the address comes back, the listener that opened last was the cause: it is
//! tried again alone, with growing backoff, and the others open again at once. If the address
//! does not come back, no listener was the cause, and all open again.

use std::collections::BTreeMap;
use std::time::Duration;

use sharedlb_providers::{ListenerKey, Owner};
use tokio::time::Instant;

/// How long a listener is on trial. An implementation that watches Services takes an address
/// away much sooner.
const TRIAL: Duration = Duration::from_secs(10);

/// How long the address may take to come back once its listeners are withdrawn.
const BACK_WITHIN: Duration = Duration::from_secs(30);

/// How long a withdrawn listener waits before it is tried again. It doubles with each further
/// time, since each time may take the address from all claims.
const AGAIN_MIN: Duration = Duration::from_secs(20);
/// The longest such wait.
const AGAIN_MAX: Duration = Duration::from_secs(3600);

/// The listeners of one load balancer that are on trial or withdrawn.
#[derive(Debug, Default)]
pub(super) struct Trials {
    has_address: bool,
    of: BTreeMap<ListenerKey, Trial>,
}

#[derive(Debug)]
struct Trial {
    owner: Owner,
    /// How often it took the address from the load balancer
    times: u32,
    state: TrialState,
}

#[derive(Debug)]
enum TrialState {
    /// It is open, or about to be, and its trial ends at `until`.
    Open { until: Instant },
    /// It was withdrawn, and the address is not back yet. It had opened at `opened`.
    Withdrawn { since: Instant, opened: Instant },
    /// It was withdrawn, and the address is back.
    Refused { again: Instant },
}

impl Trial {
    fn is_withdrawn(&self) -> bool {
        !matches!(self.state, TrialState::Open { .. })
    }
}

impl Trials {
    /// Removes listeners that are no longer desired: a new one of the same key starts over.
    pub(super) fn keep_wanted(&mut self, wanted: impl Fn(ListenerKey, &Owner) -> bool) {
        self.of.retain(|key, trial| wanted(*key, &trial.owner));
    }

    /// Records that a listener has opened.
    pub(super) fn opened(&mut self, key: ListenerKey, owner: &Owner, now: Instant) {
        if self.has_address {
            let trial =
                self.of.entry(key).or_insert_with(|| Trial { owner: owner.clone(), times: 0, state: open_until(now) });
            trial.state = open_until(now);
        }
    }

    /// Records whether the load balancer was observed with an address.
    pub(super) fn seen(&mut self, has_address: bool, now: Instant) {
        self.of.retain(|_, trial| match trial.state {
            TrialState::Open { until } => until > now,
            TrialState::Withdrawn { since, .. } => has_address || since + BACK_WITHIN > now,
            TrialState::Refused { .. } => true,
        });
        let opened_last = self.of.values().filter_map(|trial| match trial.state {
            TrialState::Withdrawn { opened, .. } => Some(opened),
            _ => None,
        });
        let opened_last = opened_last.max();
        let lost = std::mem::replace(&mut self.has_address, has_address) && !has_address;
        for trial in self.of.values_mut() {
            match trial.state {
                TrialState::Open { until } if lost => {
                    trial.state = TrialState::Withdrawn { since: now, opened: until - TRIAL }
                }
                TrialState::Withdrawn { opened, .. } if has_address && Some(opened) == opened_last => {
                    trial.times += 1;
                    trial.state = TrialState::Refused { again: now + wait(trial.times) };
                }
                TrialState::Withdrawn { .. } if has_address => trial.state = open_until(now),
                _ => {}
            }
        }
        let on_trial = self.of.values().any(|trial| matches!(trial.state, TrialState::Open { .. }));
        if has_address {
            // It does not wait for ever where others open all the time.
            let wait = if on_trial { TRIAL } else { Duration::ZERO };
            let due = self.of.values_mut().filter_map(|trial| match trial.state {
                TrialState::Refused { again } if again + wait <= now => Some((again, trial)),
                _ => None,
            });
            if let Some((_, trial)) = due.min_by_key(|(again, _)| *again) {
                trial.state = open_until(now);
            }
        }
    }

    /// The withdrawn listeners, with the claims that they are for.
    pub(super) fn withdrawn(&self) -> impl Iterator<Item = (ListenerKey, &Owner)> {
        self.of.iter().filter(|(_, trial)| trial.is_withdrawn()).map(|(key, trial)| (*key, &trial.owner))
    }

    /// Whether this listener is withdrawn.
    pub(super) fn is_withdrawn(&self, key: ListenerKey) -> bool {
        self.of.get(&key).is_some_and(Trial::is_withdrawn)
    }

    /// When a withdrawn listener may be due to open again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.withdrawn().next()?;
        let times = self.of.values().filter_map(|trial| match trial.state {
            TrialState::Open { until } => Some(until),
            TrialState::Withdrawn { since, .. } => Some(since + BACK_WITHIN),
            // None is tried without an address: the observation of an address wakes the loop.
            TrialState::Refused { again } => self.has_address.then_some(again),
        });
        // While one is on trial, another one is tried only after it.
        let open = self.of.values().filter_map(|trial| match trial.state {
            TrialState::Open { until } => Some(until),
            _ => None,
        });
        let overdue = self.of.values().filter_map(|trial| match trial.state {
            TrialState::Refused { again } => self.has_address.then_some(again + TRIAL),
            _ => None,
        });
        match open.max() {
            Some(open) => overdue.chain([open]).min(),
            None => times.min(),
        }
    }
}

fn open_until(now: Instant) -> TrialState {
    TrialState::Open { until: now + TRIAL }
}

fn wait(times: u32) -> Duration {
    AGAIN_MIN.saturating_mul(1 << times.saturating_sub(1).min(16)).min(AGAIN_MAX)
}

#[cfg(test)]
mod tests {
    use sharedlb_providers::Protocol;

    use super::*;

    fn key(port: u16) -> ListenerKey {
        ListenerKey { port: port.try_into().unwrap(), protocol: Protocol::Tcp }
    }

    fn owner() -> Owner {
        Owner { namespace: "team".into(), claim: "claim".into(), port: "x".into() }
    }

    /// Trials in simulated time.
    struct World {
        trials: Trials,
        start: Instant,
        seconds: u64,
    }

    impl World {
        /// These have just opened on a load balancer that has an address.
        fn opened(ports: &[u16]) -> Self {
            let mut world = Self { trials: Trials::default(), start: Instant::now(), seconds: 0 };
            world.seen(true);
            ports.iter().for_each(|port| world.open(*port));
            world
        }

        fn now(&self) -> Instant {
            self.start + Duration::from_secs(self.seconds)
        }

        fn open(&mut self, port: u16) {
            let now = self.now();
            self.trials.opened(key(port), &owner(), now);
        }

        fn seen(&mut self, has_address: bool) {
            let now = self.now();
            self.trials.seen(has_address, now);
        }

        fn seen_after(&mut self, seconds: u64, has_address: bool) {
            self.seconds += seconds;
            self.seen(has_address);
        }

        fn withdrawn(&self) -> Vec<u16> {
            self.trials.withdrawn().map(|(key, _)| key.port.get()).collect()
        }
    }

    #[test]
    fn what_opened_right_before_the_address_went_is_withdrawn_and_what_opened_earlier_is_not() {
        let mut world = World::opened(&[1]);
        world.seen_after(11, true);
        world.open(2);
        world.seen_after(1, false);
        assert_eq!(world.withdrawn(), [2]);
    }

    #[test]
    fn what_cost_the_address_is_tried_again_ever_more_seldom() {
        let mut world = World::opened(&[1]);
        for wait in [20, 40, 80] {
            world.seen_after(1, false);
            world.seen_after(1, true);
            assert_eq!(world.withdrawn(), [1]);
            world.seen_after(wait - 1, true);
            assert_eq!(world.withdrawn(), [1], "not yet");
            assert_eq!(world.trials.next(), Some(world.now() + Duration::from_secs(1)));
            world.seen_after(1, true);
            assert_eq!(world.withdrawn(), [0u16; 0]);
            world.open(1);
        }
        world.seen_after(10, true);
        world.seen_after(1, false);
        assert_eq!(world.withdrawn(), [0u16; 0], "it was cleared");
    }

    #[test]
    fn the_one_that_opened_last_is_withdrawn_and_the_others_open_again_as_soon_as_the_address_is_back() {
        let mut world = World::opened(&[1]);
        world.seen_after(1, true);
        world.open(2);
        world.seen_after(1, false);
        assert_eq!(world.withdrawn(), [1, 2]);
        world.seen_after(1, true);
        assert_eq!(world.withdrawn(), [2]);
        // The other one was the cause after all.
        world.open(1);
        world.seen_after(1, false);
        world.seen_after(1, true);
        assert_eq!(world.withdrawn(), [1, 2]);
        world.seen_after(18, true);
        assert_eq!(world.withdrawn(), [1]);
    }

    #[test]
    fn of_several_that_opened_at_once_one_at_a_time_is_tried_again_and_the_innocent_stay_open() {
        let mut world = World::opened(&[1, 2]);
        world.seen_after(1, false);
        world.seen_after(1, true);
        world.seen_after(20, true);
        assert_eq!(world.withdrawn(), [2]);
        world.open(1);
        world.seen_after(9, true);
        assert_eq!(world.withdrawn(), [2], "the first is on trial still");
        world.seen_after(1, true);
        assert_eq!(world.withdrawn(), [0u16; 0]);
        world.open(2);
        world.seen_after(1, false);
        assert_eq!(world.withdrawn(), [2], "the first was cleared");
    }

    #[test]
    fn if_the_address_does_not_come_back_no_listener_is_the_cause() {
        let mut world = World::opened(&[1]);
        world.seen_after(1, false);
        world.seen_after(29, false);
        assert_eq!(world.withdrawn(), [1]);
        assert_eq!(world.trials.next(), Some(world.now() + Duration::from_secs(1)));
        world.seen_after(1, false);
        assert_eq!(world.withdrawn(), [0u16; 0]);
        world.open(1);
        world.seen_after(1, true);
        assert_eq!(world.withdrawn(), [0u16; 0]);
    }

    #[test]
    fn a_load_balancer_that_waits_for_its_first_address_withdraws_nothing() {
        let mut world = World { trials: Trials::default(), start: Instant::now(), seconds: 0 };
        world.seen(false);
        world.open(1);
        world.seen_after(1, false);
        world.seen_after(1, true);
        assert_eq!(world.withdrawn(), [0u16; 0]);
    }

    #[test]
    fn a_listener_that_is_no_longer_wanted_is_forgotten() {
        let mut world = World::opened(&[1]);
        world.seen_after(1, false);
        world.trials.keep_wanted(|_, _| false);
        assert_eq!((world.withdrawn(), world.trials.next()), (vec![], None));
    }

    #[test]
    fn what_is_due_while_there_is_no_address_asks_for_no_run_at_once() {
        let mut world = World::opened(&[1]);
        world.seen_after(1, false);
        world.seen_after(1, true);
        world.seen_after(2, false);
        world.seen_after(60, false);
        assert_eq!(world.withdrawn(), [1]);
        assert!(world.trials.next().is_none_or(|next| next > world.now()));
    }

    #[test]
    fn a_withdrawn_listener_is_tried_again_although_others_open_all_the_time() {
        let mut world = World::opened(&[1]);
        world.seen(false);
        world.seen(true);
        assert!(world.trials.is_withdrawn(key(1)));
        for _ in 0..10 {
            world.seconds += 9;
            world.seen(true);
            world.open(2);
        }
        assert!(!world.trials.is_withdrawn(key(1)));
    }
}
