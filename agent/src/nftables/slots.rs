//! Which backend each slot of a listener leads to: pure.
//!
//! The kernel hashes a new connection to a slot, and the slot leads to a backend. Every host
//! computes the same slots from the same backends, so a connection that another host takes over
//! stays with its backend. When a backend comes or goes, few slots change besides its own.
//!
//! Each slot has a preference for each backend: a hash of both (rendezvous hashing). The slots
//! are assigned such that every backend has its share, and the sum of the preferences is the
//! highest. `docs/decisions/038-nftables-data-path.md` has the alternatives, with figures.

use std::net::SocketAddr;

use sharedlb_providers::share::{chosen, rank};

/// The most backends of a listener. With more, these are chosen such that few of them change when
/// one comes or goes, and the others get no traffic.
pub const MAX_BACKENDS: usize = 128;

/// How many slots a listener has: at least eight for each backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotCount {
    /// 1 slot, for one backend
    One,
    /// 16 slots, for two backends
    Few,
    /// 128 slots, for up to eight backends
    Many,
    /// 1024 slots, for up to [`MAX_BACKENDS`]
    Most,
}

impl SlotCount {
    /// All counts.
    pub const ALL: [Self; 4] = [Self::One, Self::Few, Self::Many, Self::Most];

    /// The count for so many backends.
    #[must_use]
    pub fn of_backends(backends: usize) -> Self {
        match backends {
            0..=1 => Self::One,
            2 => Self::Few,
            3..=8 => Self::Many,
            _ => Self::Most,
        }
    }

    /// The number of slots.
    #[must_use]
    pub fn number(self) -> usize {
        match self {
            Self::One => 1,
            Self::Few => 16,
            Self::Many => 128,
            Self::Most => 1024,
        }
    }
}

/// The backend of each slot; none, if there are no backends. The order of the backends does not
/// matter, and there are no two equal ones.
#[must_use]
pub fn assign(seed: u32, backends: &[SocketAddr]) -> Vec<SocketAddr> {
    if backends.is_empty() {
        return Vec::new();
    }
    let identity = |backend: &SocketAddr| rank([&seed.to_be_bytes()[..], backend.to_string().as_bytes()]);
    let backends = chosen(backends.iter().copied(), MAX_BACKENDS, identity);
    let identities: Vec<u64> = backends.iter().map(identity).collect();
    let slots = SlotCount::of_backends(backends.len()).number();
    let mut assignment = Assignment::of_favourites(preferences(slots, &identities));
    let (least, most) = (slots / backends.len(), slots.div_ceil(backends.len()));
    while assignment.move_slots(|load| load > most, |load| load < most) {}
    while assignment.move_slots(|load| load > least, |load| load < least) {}
    assignment.backend_of.iter().map(|&backend| backends[backend]).collect()
}

/// How much each slot prefers each backend, by slot and backend: half of a hash, so that sums of
/// them fit.
fn preferences(slots: usize, identities: &[u64]) -> Vec<Vec<i64>> {
    let preference =
        |slot: u64, identity: u64| i64::from((rank([&identity.to_be_bytes()[..], &slot.to_be_bytes()]) >> 32) as u32);
    (0..slots as u64).map(|slot| identities.iter().map(|&identity| preference(slot, identity)).collect()).collect()
}

/// An assignment with the highest sum of preferences among all with the same loads: it is so at
/// the start, and stays so, since slots move along cheapest paths alone (successive shortest
/// paths, an algorithm for flows of minimal cost).
struct Assignment {
    preferences: Vec<Vec<i64>>,
    backend_of: Vec<usize>,
    /// The slots of each backend
    slots_of: Vec<Vec<usize>>,
    /// By two backends: the slot of the first that loses least when it moves to the second
    cheapest: Vec<Vec<Option<Move>>>,
}

/// The move of a slot to another backend.
#[derive(Clone, Copy)]
struct Move {
    /// How much more the slot prefers its present backend
    loss: i64,
    slot: usize,
}

impl Assignment {
    /// Each slot has the backend that it prefers most.
    fn of_favourites(preferences: Vec<Vec<i64>>) -> Self {
        let backends = preferences.first().map_or(0, Vec::len);
        let favourite = |of: &Vec<i64>| (0..backends).max_by_key(|&backend| of[backend]).unwrap_or(0);
        let backend_of: Vec<usize> = preferences.iter().map(favourite).collect();
        let mut slots_of = vec![Vec::new(); backends];
        for (slot, &backend) in backend_of.iter().enumerate() {
            slots_of[backend].push(slot);
        }
        let cheapest = vec![vec![None; backends]; backends];
        let mut assignment = Self { preferences, backend_of, slots_of, cheapest };
        (0..backends).for_each(|backend| assignment.find_cheapest(backend));
        assignment
    }

    /// Takes one slot from a backend with too many, and gives one to a backend with too few, by
    /// the cheapest way, which may lead over other backends. Returns whether there was one.
    fn move_slots(&mut self, gives: impl Fn(usize) -> bool, takes: impl Fn(usize) -> bool) -> bool {
        let path = self.cheapest_path(gives, takes);
        for &(_, to, slot) in &path {
            self.backend_of[slot] = to;
        }
        for &(from, to, slot) in &path {
            self.slots_of[from].retain(|&other| other != slot);
            self.slots_of[to].push(slot);
        }
        for &(from, to, _) in &path {
            self.find_cheapest(from);
            self.find_cheapest(to);
        }
        !path.is_empty()
    }

    /// The moves of the cheapest path from a backend that gives to one that takes, each as the two
    /// backends and the slot. (Bellman and Ford's algorithm: some moves are gains.)
    fn cheapest_path(
        &self,
        gives: impl Fn(usize) -> bool,
        takes: impl Fn(usize) -> bool,
    ) -> Vec<(usize, usize, usize)> {
        let backends = self.slots_of.len();
        let load = |backend: usize| self.slots_of[backend].len();
        let mut losses: Vec<Option<i64>> = (0..backends).map(|backend| gives(load(backend)).then_some(0)).collect();
        let mut before: Vec<Option<(usize, usize)>> = vec![None; backends];
        let mut improves = true;
        while improves {
            improves = false;
            for from in 0..backends {
                let Some(so_far) = losses[from] else { continue };
                for (to, cheapest) in self.cheapest[from].iter().enumerate() {
                    let Some(cheapest) = cheapest else { continue };
                    let loss = so_far + cheapest.loss;
                    if losses[to].is_none_or(|known| loss < known) {
                        losses[to] = Some(loss);
                        before[to] = Some((from, cheapest.slot));
                        improves = true;
                    }
                }
            }
        }
        let reached = (0..backends).filter(|&backend| takes(load(backend)));
        let last = reached.filter_map(|backend| Some((losses[backend]?, backend))).min();
        let steps = std::iter::successors(last.map(|(_, backend)| backend), |&to| Some(before[to]?.0));
        steps.filter_map(|to| before[to].map(|(from, slot)| (from, to, slot))).collect()
    }

    fn find_cheapest(&mut self, from: usize) {
        for to in (0..self.slots_of.len()).filter(|&to| to != from) {
            let moves = self.slots_of[from].iter().map(|&slot| {
                let of = &self.preferences[slot];
                Move { loss: of[from] - of[to], slot }
            });
            self.cheapest[from][to] = moves.min_by_key(|one| (one.loss, one.slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    fn backend(n: u16) -> SocketAddr {
        let [high, low] = n.to_be_bytes();
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 244, high, low)), 8080)
    }

    fn without(backends: &[SocketAddr], gone: SocketAddr) -> Vec<SocketAddr> {
        backends.iter().copied().filter(|&backend| backend != gone).collect()
    }

    fn backends(most: usize) -> impl Strategy<Value = Vec<SocketAddr>> {
        prop::collection::btree_set(any::<u16>(), 1..=most)
            .prop_map(|numbers| numbers.into_iter().map(backend).collect())
    }

    /// How many slots each backend has.
    fn loads(table: &[SocketAddr], backends: &[SocketAddr]) -> Vec<usize> {
        backends.iter().map(|backend| table.iter().filter(|slot| *slot == backend).count()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_backend_has_an_equal_share(seed in any::<u32>(), backends in backends(40)) {
            let table = assign(seed, &backends);
            prop_assert_eq!(table.len(), SlotCount::of_backends(backends.len()).number());
            let loads = loads(&table, &backends);
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
        }

        #[test]
        fn the_order_of_the_backends_does_not_matter(seed in any::<u32>(), backends in backends(20)) {
            let reversed: Vec<SocketAddr> = backends.iter().rev().copied().collect();
            prop_assert_eq!(assign(seed, &backends), assign(seed, &reversed));
        }

        /// For up to 16 backends, 1.1 to 1.3 times its own on average.
        #[test]
        fn a_backend_that_goes_takes_few_slots_of_others_along(seed in any::<u32>(), backends in backends(16)) {
            let before = assign(seed, &backends);
            let mut moved = 0;
            for &gone in &backends {
                let left = without(&backends, gone);
                prop_assume!(SlotCount::of_backends(left.len()) == SlotCount::of_backends(backends.len()));
                let after = assign(seed, &left);
                moved += before.iter().zip(&after).filter(|(before, after)| before != after).count();
            }
            prop_assert!(2 * moved <= 3 * before.len(), "{moved} of {}", before.len());
        }
    }

    #[test]
    fn a_backend_has_at_least_eight_slots() {
        for backends in 2..=MAX_BACKENDS {
            assert!(SlotCount::of_backends(backends).number() / backends >= 8, "{backends}");
        }
    }

    #[test]
    fn of_too_many_backends_the_same_ones_get_traffic_as_far_as_they_are_there() {
        let all: Vec<SocketAddr> = (0..200).map(backend).collect();
        let before = assign(7, &all);
        let served: Vec<SocketAddr> = all.iter().copied().filter(|backend| before.contains(backend)).collect();
        assert_eq!(loads(&before, &served), [8; MAX_BACKENDS]);
        let after = assign(7, &without(&all, served[0]));
        assert!(served[1..].iter().all(|backend| after.contains(backend)));
    }

    /// All hosts compute the same slots, whichever version they run.
    #[test]
    fn slots_are_the_same_in_every_version() {
        let backends = [backend(1), backend(2)];
        let of_slot = |slot: &SocketAddr| if *slot == backends[0] { '1' } else { '2' };
        assert_eq!(assign(7, &backends).iter().map(of_slot).collect::<String>(), "2112112211212122");
    }
}
