//! Targets, and room that foreign listeners use up.

use super::*;

/// Load balancers that take so many targets each.
fn limited(targets: u32, max: u32) -> Policy {
    Policy { targets: Some(targets), max, ..policy() }
}

fn taking(name: &str, created: i64, targets: u32) -> ClaimRequest {
    claim(name, created).any("x").with_targets(targets)
}

fn indices(result: &[Assignment]) -> Vec<Option<u32>> {
    result.iter().map(|got| got.granted.as_ref().map(|held| held.index)).collect()
}

#[test]
fn a_claim_whose_targets_do_not_fit_goes_to_the_next_load_balancer() {
    let claims = [taking("a", 1, 6), taking("b", 2, 5), taking("c", 3, 4)];
    let result = run(&claims, &existing(1), &limited(10, 2));
    assert_eq!(indices(&result), [Some(0), Some(1), Some(0)], "the third fits beside the first");
}

#[test]
fn a_target_counts_for_each_listener_that_it_is_behind() {
    let both = claim("both", 1).any("x").any("y").with_targets(5);
    let dns = claim("dns", 2).asks("x", Protocol::TcpUdp, None).with_targets(5);
    let policy = Policy { listeners_for_tcp_udp: 2, ..limited(10, 2) };
    assert_eq!(indices(&run(&[both, dns], &existing(1), &policy)), [Some(0), Some(1)]);
}

#[test]
fn a_refusal_says_how_many_targets_there_are_and_how_many_fit() {
    let claims = [taking("a", 1, 8), taking("b", 2, 9), taking("c", 3, 3)];
    let result = run(&claims, &existing(2), &limited(10, 2));
    assert_eq!(reasons(&result[2]), [("x", Some(Reason::PoolExhausted))]);
    assert_eq!(
        message(&result[2]),
        "8 of 10 targets are held, and 3 more are needed, on load balancer 0, \
         9 of 10 targets are held, and 3 more are needed, on load balancer 1; \
         class default may have 2 load balancers: delete a claim, or ask the admin to raise spec.loadBalancers.max"
    );
}

#[test]
fn a_reported_limit_applies_even_if_it_is_lower_than_assumed() {
    let told = LoadBalancerState { capacity: Capacity { listeners: None, targets: Some(5) }, ..Default::default() };
    let claims = [taking("a", 1, 4), taking("b", 2, 4)];
    let result = run(&claims, &LoadBalancers::from([(0, told)]), &limited(10, 2));
    assert_eq!(indices(&result), [Some(0), Some(1)]);
}

#[test]
fn a_claim_that_needs_more_than_a_whole_load_balancer_gets_one_for_itself() {
    let claims = [taking("small", 1, 1), taking("huge", 2, 11), taking("late", 3, 1)];
    let result = run(&claims, &existing(1), &limited(10, 2));
    assert_eq!(indices(&result), [Some(0), Some(1), Some(0)]);
    assert_eq!(indices(&run(&claims, &existing(1), &limited(10, 1))), [Some(0), None, Some(0)]);
}

#[test]
fn added_ports_whose_targets_do_not_fit_are_refused_alone() {
    let growing = claim("a", 1).any("old").any("new").with_targets(6).holds(0, "old", tcp(20005));
    let result = &run(&[growing], &existing(2), &limited(10, 2))[0];
    assert_eq!(slots(result), [(0, "old", tcp(20005))]);
    assert_eq!(reasons(result), [("new", Some(Reason::PoolExhausted))]);
}

#[test]
fn a_listener_that_is_being_closed_has_its_targets_until_it_is_but_not_for_its_former_claim() {
    let former = taking("former", 1, 6);
    let port = slots(&run(std::slice::from_ref(&former), &existing(1), &policy())[0])[0].2;
    for (open, index) in [(true, 1), (false, 0)] {
        let released = vec![Released { key: port, claim: former.id.clone(), open, targets: 6 }];
        let lbs = LoadBalancers::from([(0, LoadBalancerState { released, ..Default::default() })]);
        assert_eq!(indices(&run(&[taking("new", 2, 5)], &lbs, &limited(10, 2))), [Some(index)], "open: {open}");
        assert_eq!(indices(&run(std::slice::from_ref(&former), &lbs, &limited(10, 2))), [Some(0)]);
    }
}

/// Load balancer 0, on which there was no room for this listener, and another one.
fn without_room(key: ListenerKey) -> LoadBalancers {
    let no_room = BTreeSet::from([key]);
    let full = LoadBalancerState { no_room, ..Default::default() };
    LoadBalancers::from([(0, full), (1, LoadBalancerState::default())])
}

#[test]
fn a_claim_for_which_there_was_no_room_moves_on_and_keeps_the_number_that_it_asks_for() {
    let by_number = claim("a", 1).number("x", 6379).holds_unopened(0, "x", tcp(6379));
    let result = &run(&[by_number], &without_room(tcp(6379)), &policy())[0];
    assert_eq!(slots(result), [(1, "x", tcp(6379))]);
    assert_eq!(result.dropped, [tcp(6379)], "what was begun there is to be tidied up");

    let two = claim("a", 1).any("x").any("y").holds_unopened(0, "x", tcp(20001)).holds_unopened(0, "y", tcp(20002));
    let result = &run(&[two], &without_room(tcp(20002)), &Policy { ports_per_namespace: 2, ..policy() })[0];
    assert_eq!(slots(result).iter().map(|(index, ..)| *index).collect::<Vec<_>>(), [1, 1], "all of it, or nothing");
}

#[test]
fn only_the_claims_that_do_not_fit_move() {
    let claims =
        [taking("a", 1, 1).holds_unopened(0, "x", tcp(20001)), taking("b", 2, 1).holds_unopened(0, "x", tcp(20002))];
    assert_eq!(indices(&run(&claims, &without_room(tcp(20002)), &policy())), [Some(0), Some(1)]);
}

#[test]
fn a_claim_that_was_ever_open_stays_where_it_is_whatever_room_there_is() {
    let opened = claim("a", 1).any("x").any("y").holds(0, "x", tcp(20001)).holds_unopened(0, "y", tcp(20002));
    let result = &run(&[opened], &without_room(tcp(20002)), &policy())[0];
    assert_eq!(slots(result), [(0, "x", tcp(20001)), (0, "y", tcp(20002))]);
    assert_eq!(result.dropped, []);
}

#[test]
fn a_claim_for_which_there_was_no_room_stays_first_in_line_if_no_other_has_any() {
    let held = claim("a", 1).any("x").holds_unopened(0, "x", tcp(20001));
    let result = &run(std::slice::from_ref(&held), &without_room(tcp(20001)), &Policy { max: 1, ..policy() })[0];
    assert_eq!(slots(result), [(0, "x", tcp(20001))]);

    // It does not go back to where it came from, or it would go to and fro.
    let mut lbs = without_room(tcp(20001));
    let came_from = Released { key: tcp(20003), claim: held.id.clone(), open: false, targets: 0 };
    lbs.entry(1).or_default().released.push(came_from);
    assert_eq!(slots(&run(&[held], &lbs, &policy())[0]), [(0, "x", tcp(20001))]);
}

/// All of these on load balancer 0, none of them opened.
fn together(claims: impl IntoIterator<Item = ClaimRequest>) -> Vec<ClaimRequest> {
    claims.into_iter().zip(20001..).map(|(claim, port)| claim.holds_unopened(0, "x", tcp(port))).collect()
}

#[test]
fn a_claim_that_has_more_targets_than_were_known_moves_on_unless_it_was_ever_open() {
    let mut claims = together([taking("older", 1, 6), taking("younger", 2, 6), taking("small", 3, 3)]);
    let result = run(&claims, &existing(1), &limited(10, 2));
    assert_eq!(indices(&result), [Some(0), Some(1), Some(1)], "the older stays, and the others fit beside each other");
    assert_eq!(result[1].dropped, [tcp(20002)], "what was begun there is to be tidied up");

    claims[1] = claims[1].clone().opened();
    assert_eq!(indices(&run(&claims, &existing(1), &limited(10, 2))), [Some(1), Some(0), Some(1)]);
    let opened: Vec<ClaimRequest> = claims.into_iter().map(ClaimRequest::opened).collect();
    assert_eq!(indices(&run(&opened, &existing(1), &limited(10, 2))), [Some(0); 3], "some backends are left out");
}

#[test]
fn a_claim_that_fits_nowhere_does_not_move() {
    let claims = together([taking("huge", 2, 11), taking("small", 1, 1)]);
    assert_eq!(indices(&run(&claims, &existing(1), &limited(10, 2))), [Some(1), Some(0)], "it gets one for itself");
    assert_eq!(indices(&run(&claims, &existing(1), &limited(10, 1))), [Some(0); 2]);
    assert_eq!(indices(&run(&claims[..1], &existing(1), &limited(10, 2))), [Some(0)]);
}
