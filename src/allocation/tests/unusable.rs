//! Load balancers that serve nothing, and are not about to.

use super::*;

/// Two load balancers, the second of which is unusable.
fn one_unusable() -> LoadBalancers {
    let mut lbs = existing(2);
    lbs.get_mut(&1).unwrap().unusable = true;
    lbs
}

fn index(assignment: &Assignment) -> Option<u32> {
    assignment.granted.as_ref().map(|held| held.index)
}

#[test]
fn a_claim_that_was_never_open_leaves_an_unusable_load_balancer_once_there_is_room_elsewhere() {
    let waits = claim("waits", 9).any("x").holds_unopened(1, "x", tcp(20001));
    let neighbours: Vec<ClaimRequest> =
        (0..4).map(|n| claim(&format!("n{n}"), 1).any("x").holds(0, "x", tcp(20005 + n))).collect();
    let full: Vec<ClaimRequest> = neighbours.iter().cloned().chain([waits.clone()]).collect();
    assert_eq!(slots(&run(&full, &one_unusable(), &policy())[4]), [(1, "x", tcp(20001))], "there is no room");

    let room: Vec<ClaimRequest> = neighbours.into_iter().skip(1).chain([waits]).collect();
    let result = &run(&room, &one_unusable(), &policy())[3];
    assert_eq!((index(result), result.dropped.clone()), (Some(0), vec![tcp(20001)]));
}

#[test]
fn a_claim_that_was_ever_open_stays_on_an_unusable_load_balancer() {
    let open = claim("a", 1).any("x").holds(1, "x", tcp(20001));
    assert_eq!(slots(&run(&[open], &one_unusable(), &policy())[0]), [(1, "x", tcp(20001))]);
}

#[test]
fn no_claim_moves_to_an_unusable_or_missing_load_balancer() {
    let waits = claim("a", 1).any("x").holds_unopened(1, "x", tcp(20001));
    let mut all = one_unusable();
    all.get_mut(&0).unwrap().unusable = true;
    let result = &run(&[waits], &all, &Policy { max: 3, ..policy() })[0];
    assert_eq!(slots(result), [(1, "x", tcp(20001))]);
}

#[test]
fn a_claim_that_insists_on_an_address_goes_only_where_that_is() {
    let mut lbs = one_unusable();
    lbs.get_mut(&0).unwrap().addresses = vec![Address::Hostname("lb-0".into())];
    lbs.get_mut(&1).unwrap().addresses = vec![Address::Hostname("lb-1".into())];
    for (asked, there) in [("lb-1", 1), ("lb-0", 0)] {
        let waits = claim("a", 1).any("x").at(asked).holds_unopened(1, "x", tcp(20001));
        assert_eq!(index(&run(&[waits], &lbs, &policy())[0]), Some(there));
    }
}

#[test]
fn a_newcomer_goes_to_an_unusable_load_balancer_only_if_no_other_may_be_had() {
    let mut lbs = existing(2);
    lbs.get_mut(&0).unwrap().unusable = true;
    assert_eq!(index(&run(&[claim("a", 1).any("x")], &lbs, &policy())[0]), Some(1));
    let only = LoadBalancers::from([(0, LoadBalancerState { unusable: true, ..Default::default() })]);
    assert_eq!(index(&run(&[claim("a", 1).any("x")], &only, &policy())[0]), Some(1), "it may be made");
    assert_eq!(index(&run(&[claim("a", 1).any("x")], &only, &Policy { max: 1, ..policy() })[0]), Some(0));
}
