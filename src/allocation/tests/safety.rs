//! Ports that are released, foreign or not observed yet are assigned to no claim.

use super::*;

#[test]
fn a_cooling_port_goes_only_to_its_former_claim() {
    let former = claim("former", 1).any("x");
    let port = slots(&run(std::slice::from_ref(&former), &existing(1), &policy())[0])[0].2;
    let released = vec![Released { key: port, claim: former.id.clone(), open: true, targets: 0 }];
    let lbs = LoadBalancers::from([(0, LoadBalancerState { released, ..Default::default() })]);

    let thief = claim("thief", 2).number("x", port.port.get());
    let result = run(&[thief], &lbs, &Policy { max: 1, ..policy() });
    assert_eq!(reasons(&result[0]), [("x", Some(Reason::PortTaken))]);

    assert_eq!(slots(&run(&[former], &lbs, &policy())[0]), [(0, "x", port)]);
}

#[test]
fn a_claim_that_was_displaced_and_created_again_gets_the_displaced_port_back() {
    let wants = preferred(&claim("b", 2).id, "x", &dynamic()).unwrap();
    let first = claim("a", 1).number("x", wants.get()).holds(0, "x", tcp(wants.get()));
    let b = claim("b", 2).any("x");
    let displaced = slots(&run(&[first.clone(), b.clone()], &existing(1), &policy())[1])[0].2;
    let released = vec![Released { key: displaced, claim: b.id.clone(), open: false, targets: 0 }];
    let lbs = LoadBalancers::from([(0, LoadBalancerState { released, ..Default::default() })]);
    assert_eq!(slots(&run(&[first, b], &lbs, &policy())[1])[0].2, displaced);
}

#[test]
fn a_released_listener_takes_up_room_until_it_is_closed_but_not_for_its_former_claim() {
    let three = (0..3).map(|n| claim(&format!("n{n}"), 0).any("x").holds(0, "x", tcp(20000 + n)));
    let claims = |last: ClaimRequest| three.clone().chain([last]).collect::<Vec<_>>();
    let former = claim("former", 1).number("x", 6379);
    let one = Policy { max: 1, ..policy() };
    for (open, newcomer_fits) in [(true, false), (false, true)] {
        let released = vec![Released { key: tcp(6379), claim: former.id.clone(), open, targets: 0 }];
        let lbs = LoadBalancers::from([(0, LoadBalancerState { released, ..Default::default() })]);
        let newcomer = run(&claims(claim("new", 9).any("x")), &lbs, &one);
        assert_eq!(newcomer[3].granted.is_some(), newcomer_fits, "open: {open}");
        assert!(run(&claims(former.clone()), &lbs, &one)[3].granted.is_some(), "open: {open}");
    }
}

#[test]
fn a_released_slot_cools_down_in_the_same_assignment() {
    let one = Policy { max: 1, ..policy() };
    let dropping = claim("a", 1).number("x", 443).holds(0, "x", tcp(20005));
    let waiting = claim("b", 2).number("x", 20005);
    let result = run(&[dropping, waiting], &existing(1), &one);
    assert_eq!(result[0].dropped, [tcp(20005)]);
    assert_eq!(reasons(&result[1]), [("x", Some(Reason::PortTaken))]);
}

#[test]
fn only_a_slot_that_was_assigned_and_never_open_is_moved_off_a_foreign_port() {
    let foreign = BTreeSet::from([FrontPort { port: number(20005), transport: Transport::Tcp }]);
    let lbs = LoadBalancers::from([(0, LoadBalancerState { foreign, ..Default::default() })]);
    let moved = claim("a", 1).any("x").holds_unopened(0, "x", tcp(20005));
    let result = &run(&[moved], &lbs, &policy())[0];
    assert_ne!(slots(result)[0].2, tcp(20005));
    assert_eq!(slots(result)[0].0, 0);

    let opened = claim("a", 1).any("x").holds(0, "x", tcp(20005));
    let asked = claim("a", 1).number("x", 20005).holds_unopened(0, "x", tcp(20005));
    for stays in [opened, asked] {
        assert_eq!(slots(&run(&[stays], &lbs, &policy())[0]), [(0, "x", tcp(20005))]);
    }
}

#[test]
fn an_adopted_load_balancer_gives_its_first_slot_only_after_it_was_observed() {
    let adopted = |unobserved| LoadBalancers::from([(0, LoadBalancerState { unobserved, ..Default::default() })]);
    let one = Policy { max: 1, ..policy() };
    let result = run(&[claim("a", 1).any("x")], &adopted(true), &one);
    assert_eq!(reasons(&result[0]), [("x", None)], "it waits, it is not refused");
    assert_eq!(slots(&run(&[claim("a", 1).any("x")], &adopted(false), &one)[0]).len(), 1);
}

#[test]
fn a_full_range_refuses_at_once() {
    let policy = Policy { max: 1000, listeners: 1000, dynamic: ranges(&[(1, 65535)]), ..policy() };
    let full = Policy { listeners: 0, ..policy };
    let claims: Vec<ClaimRequest> = (0..1000).map(|n| claim(&format!("c{n}"), n).any("x")).collect();
    let result = run(&claims, &existing(1000), &full);
    assert!(result.iter().all(|got| got.granted.is_none() && got.refused[0].1.reason() == Some(Reason::PoolExhausted)));
}

// Properties.
