//! Load balancers that get no new ports.

use super::*;

/// Two load balancers, of which the first one is cordoned.
fn cordoned() -> Policy {
    Policy { cordoned: [0].into(), ..policy() }
}

#[test]
fn new_claims_go_elsewhere_and_held_slots_stay() {
    let claims =
        [claim("a", 1).any("x").holds(0, "x", tcp(20001)), claim("b", 2).any("x"), claim("c", 3).number("x", 443)];
    let result = run(&claims, &existing(1), &cordoned());
    assert_eq!(slots(&result[0]), [(0, "x", tcp(20001))]);
    assert_eq!(slots(&result[1])[0].0, 1, "it is created for the claim");
    assert_eq!(slots(&result[2]), [(1, "x", tcp(443))]);
}

#[test]
fn a_claim_that_holds_a_port_there_gets_no_further_one() {
    let claims = [claim("a", 1).number("x", 80).number("y", 81).holds(0, "x", tcp(80))];
    let result = run(&claims, &existing(2), &cordoned());
    assert_eq!(slots(&result[0]), [(0, "x", tcp(80))]);
    assert_eq!(reasons(&result[0]), [("y", Some(Reason::PoolExhausted))]);
    let told = "no new ports are given on load balancer 0; class default may have 2 load balancers: ask the admin to \
                take it out of spec.loadBalancers.cordoned, or raise spec.loadBalancers.max";
    assert_eq!(message(&result[0]), told);
}

#[test]
fn a_port_that_cools_down_there_is_not_given_back() {
    let gone = claim("a", 1).number("x", 80);
    let released = Released { key: tcp(80), claim: gone.id.clone(), open: false, targets: 0 };
    let mut load_balancers = existing(1);
    load_balancers.insert(0, LoadBalancerState { released: vec![released], ..Default::default() });
    assert_eq!(slots(&run(&[gone], &load_balancers, &cordoned())[0]), [(1, "x", tcp(80))]);
}

#[test]
fn a_number_that_is_taken_elsewhere_is_refused_as_taken() {
    let claims = [claim("a", 1).number("x", 80).holds(1, "x", tcp(80)), claim("b", 2).number("x", 80)];
    let result = run(&claims, &existing(2), &cordoned());
    assert_eq!(reasons(&result[1]), [("x", Some(Reason::PortTaken))], "another number helps");
}

#[test]
fn a_claim_that_requests_its_address_is_refused() {
    let addresses = vec![Address::parse("10.0.0.1")];
    let load_balancers = LoadBalancers::from([(0, LoadBalancerState { addresses, ..Default::default() })]);
    let result = run(&[claim("a", 1).any("x").at("10.0.0.1")], &load_balancers, &cordoned());
    assert_eq!(reasons(&result[0]), [("x", Some(Reason::PoolExhausted))]);
}

#[test]
fn no_claim_moves_there() {
    let waits = claim("a", 1).any("x").holds_unopened(1, "x", tcp(20001));
    let unusable = LoadBalancerState { unusable: true, ..Default::default() };
    let load_balancers = LoadBalancers::from([(0, LoadBalancerState::default()), (1, unusable)]);
    let stays = run(std::slice::from_ref(&waits), &load_balancers, &cordoned());
    assert_eq!(slots(&stays[0]), [(1, "x", tcp(20001))]);
    let moves = run(&[waits], &load_balancers, &policy());
    assert_eq!(slots(&moves[0])[0].0, 0, "it would, if it were not cordoned");
}
