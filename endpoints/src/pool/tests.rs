use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Choice, InFlight, Pool};
use crate::{Endpoint, Policy};

fn endpoint(number: u16) -> Endpoint {
    Endpoint { address: SocketAddr::from(([10, 0, 0, 1], number)), pod: None }
}

fn pool(size: u16) -> Pool {
    Pool::new((0..size).map(endpoint).collect(), None).unwrap()
}

/// How many requests each endpoint of the only pool has in flight, in their order.
fn in_flight(pool: &Pool) -> Vec<usize> {
    pool.0.iter().map(|each| Arc::strong_count(each) - 1).collect()
}

/// Begins so many requests.
fn begin(pool: &Pool, policy: Policy, count: usize) -> Vec<InFlight> {
    let choice = Choice::new(policy);
    (0..count).map(|_| pool.next(&choice)).collect()
}

#[test]
fn there_is_no_pool_without_endpoints() {
    assert!(Pool::new(BTreeSet::new(), Some(&pool(3))).is_none());
}

#[test]
fn round_robin_starts_at_random() {
    let firsts: BTreeSet<u16> = (0..100).map(|_| begin(&pool(100), Policy::RoundRobin, 1)[0].address.port()).collect();
    // It fails by chance once in 10^198 times.
    assert!(firsts.len() > 1, "all started with {firsts:?}");
}

#[test]
fn two_choices_spread_requests_in_flight_better_than_chance() {
    let pool = pool(1000);
    let _requests = begin(&pool, Policy::PowerOfTwoChoices, 10_000);
    let most = in_flight(&pool).into_iter().max();
    // By chance, the most would be more than 20; with two choices, it is 12 or 13.
    assert!(most <= Some(16), "{most:?}");
}

#[test]
fn requests_go_on_being_counted_when_endpoints_change() {
    let before = pool(2);
    let requests = begin(&before, Policy::RoundRobin, 4);
    let after = Pool::new((1..3).map(endpoint).collect(), Some(&before)).unwrap();
    drop(before);
    assert_eq!(in_flight(&after), [2, 0]);
    drop(requests);
    assert_eq!(in_flight(&after), [0, 0]);
}

proptest! {
    #[test]
    fn round_robin_gives_every_endpoint_the_same_share(size in 1..50_u16, turns in 1..5_usize) {
        let pool = pool(size);
        let _requests = begin(&pool, Policy::RoundRobin, turns * usize::from(size));
        prop_assert!(in_flight(&pool).iter().all(|count| *count == turns));
    }

    #[test]
    fn an_endpoint_with_more_requests_than_any_other_gets_no_further_one(
        busy in vec(0..5_usize, 2..10),
        busiest in any::<prop::sample::Index>(),
    ) {
        let pool = pool(busy.len().try_into().unwrap());
        let mut requests = Vec::new();
        for (endpoint, count) in pool.0.iter().zip(&busy) {
            requests.extend((0..*count).map(|_| InFlight(endpoint.clone())));
        }
        let busiest = &pool.0[busiest.index(busy.len())];
        requests.extend((0..6).map(|_| InFlight(busiest.clone())));
        for _ in 0..20 {
            prop_assert_ne!(&*pool.next(&Choice::PowerOfTwo), &**busiest);
        }
    }

    #[test]
    fn nothing_is_in_flight_once_all_requests_have_ended(size in 1..10_u16, count in 0..100_usize) {
        let pool = pool(size);
        let requests = begin(&pool, Policy::PowerOfTwoChoices, count);
        prop_assert_eq!(in_flight(&pool).iter().sum::<usize>(), count);
        drop(requests);
        prop_assert!(in_flight(&pool).iter().all(|count| *count == 0));
    }
}
