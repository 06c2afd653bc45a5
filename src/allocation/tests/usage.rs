//! How much of a class is used.

use super::*;

fn usage(claims: &[ClaimRequest], load_balancers: &LoadBalancers, policy: &Policy) -> Usage {
    let (load_balancers, policy) = (Arc::new(load_balancers.clone()), Arc::new(policy.clone()));
    assign(&claims.iter().collect::<Vec<_>>(), &load_balancers, &policy).1.usage()
}

fn share(used: u64, capacity: u64) -> Share {
    Share { used, capacity }
}

#[test]
fn what_is_used_is_compared_with_all_load_balancers_that_the_class_may_have() {
    let claims = [claim("a", 1).any("x").any("y"), claim("b", 2).number("z", 443)];
    for there_are in [0, 1, 2] {
        let usage = usage(&claims, &existing(there_are), &policy());
        assert_eq!(usage.listeners, share(3, 8), "two load balancers of 4 listeners");
        assert_eq!(usage.dynamic_ports, share(2, 20), "443 is no dynamic port");
        assert_eq!(usage.targets, None, "without a limit");
    }
}

#[test]
fn a_load_balancer_counts_with_the_capacity_that_it_reports() {
    let capacity = Capacity { listeners: Some(1), targets: Some(7) };
    let load_balancers = LoadBalancers::from([(0, LoadBalancerState { capacity, ..Default::default() })]);
    let policy = Policy { targets: Some(10), ..policy() };
    let usage = usage(&[claim("a", 1).any("x").with_targets(3)], &load_balancers, &policy);
    assert_eq!(usage.listeners, share(1, 5), "1 and 4");
    assert_eq!(usage.targets, Some(share(3, 17)), "7 and 10");
}

#[test]
fn foreign_and_released_listeners_are_used_and_so_are_numbers_that_cool_down() {
    let foreign = BTreeSet::from([FrontPort { port: number(20000), transport: Transport::Tcp }]);
    let gone = claim("gone", 1).id;
    let released = [(20001, true), (20002, false)]
        .map(|(port, open)| Released { key: tcp(port), claim: gone.clone(), open, targets: 0 })
        .into();
    let load_balancers = LoadBalancers::from([(0, LoadBalancerState { foreign, released, ..Default::default() })]);
    let usage = usage(&[], &load_balancers, &policy());
    assert_eq!(usage.listeners, share(2, 8), "20002 is closed, and cools down");
    assert_eq!(usage.dynamic_ports, share(3, 20));
}

#[test]
fn of_tcp_and_udp_the_one_counts_that_has_fewer_numbers_left() {
    let claims = [claim("a", 1).any("x").any("y"), claim("b", 2).asks("z", Protocol::Udp, None)];
    assert_eq!(usage(&claims, &existing(1), &policy()).dynamic_ports, share(2, 20));
}

#[test]
fn numbers_that_the_provider_reserves_are_no_capacity() {
    let reserved = BTreeSet::from([FrontPort { port: number(20000), transport: Transport::Tcp }]);
    let usage = usage(&[], &existing(1), &Policy { reserved, ..policy() });
    assert_eq!(usage.dynamic_ports, share(0, 18), "9 of each load balancer");
}

#[test]
fn load_balancers_beyond_the_maximum_get_no_new_ports_and_do_not_count() {
    let claims = [claim("a", 1).any("x").holds(0, "x", tcp(20001)), claim("b", 2).any("x").holds(1, "x", tcp(20001))];
    let usage = usage(&claims, &existing(2), &Policy { max: 1, ..policy() });
    assert_eq!((usage.listeners, usage.dynamic_ports), (share(1, 4), share(1, 10)));
}

#[test]
fn cordoned_load_balancers_get_no_new_ports_and_do_not_count() {
    let claims = [claim("a", 1).any("x").holds(0, "x", tcp(20001)), claim("b", 2).any("x").holds(1, "x", tcp(20001))];
    let usage = usage(&claims, &existing(2), &Policy { max: 3, cordoned: [1].into(), ..policy() });
    assert_eq!((usage.listeners, usage.dynamic_ports), (share(1, 8), share(1, 20)), "0, and 2 when it is created");
}

#[test]
fn the_quota_is_that_of_the_namespace_with_the_most_ports() {
    let claims = [claim("a", 1).any("x"), claim("b", 2).any("x").any("y").of("other"), claim("c", 3).any("x")];
    let policy = Policy { ports_per_namespace: 4, ..policy() };
    let usage = usage(&claims, &existing(1), &policy);
    assert_eq!(usage.quota, share(2, 4));
    assert_eq!(usage.quota.ratio(), 0.5);
}
