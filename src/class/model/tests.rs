//! The scopes that are checked: the small ones always, and the others, which
//! take minutes, by hand. CONTRIBUTING.md says how.

use std::collections::BTreeSet;
use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model as _};

use super::state::Budget;
use super::{Scope, World};

/// So many claims, two load balancers with three ports and two listeners each.
/// No failure, and no action of a user.
fn scope(claims: usize) -> Scope {
    Scope {
        claims: vec![None; claims],
        at_first: claims,
        edits: Vec::new(),
        source_ranges: false,
        min: 2,
        max: 2,
        ports: 3,
        listeners: 2,
        left: Budget::default(),
        strays: false,
        late_answers: false,
    }
}

/// What does not hold in this scope, each with the way there printed; no further
/// than so many steps from the start.
fn broken(scope: &Scope, steps: Option<usize>) -> BTreeSet<&'static str> {
    let started = Instant::now();
    let checker = World::new(scope.clone()).checker().threads(2).target_max_depth(steps.unwrap_or(0));
    let until = if steps.is_some() { HasDiscoveries::All } else { HasDiscoveries::AnyFailures };
    let checker = checker.finish_when(until).spawn_bfs().join();
    let (unique, all, deep) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
    println!("{scope:?}");
    println!(
        "{unique} states, reached in {all} ways of up to {deep} steps, in {:.1} s",
        started.elapsed().as_secs_f32()
    );
    let (never, wrong): (Vec<_>, Vec<_>) = checker
        .model()
        .properties()
        .into_iter()
        .filter(|property| (property.expectation == Expectation::Always) == checker.discovery(property.name).is_some())
        .partition(|property| property.expectation == Expectation::Sometimes);
    never.iter().for_each(|property| println!("never seen: {}", property.name));
    for property in &wrong {
        println!(
            "it does not hold that {}:\n  {:?}",
            property.name,
            checker.discovery(property.name).unwrap().into_actions()
        );
    }
    checker.model().settled.complaint.lock().unwrap().iter().for_each(|complaint| println!("{complaint}"));
    wrong.iter().map(|property| property.name).collect()
}

/// Looks at every state of this scope: in all of them everything holds.
fn holds(scope: &Scope) {
    assert_eq!(broken(scope, None), BTreeSet::new());
}

/// What does not hold in this scope, each by one of the shortest ways there.
fn breaks_first(scope: &Scope, expected: &[&'static str]) {
    let mut missing: BTreeSet<&str> = expected.iter().copied().collect();
    for steps in 2..30 {
        let found = broken(scope, Some(steps));
        missing.retain(|name| !found.contains(name));
        if missing.is_empty() {
            return;
        }
    }
    panic!("these hold after all: {missing:?}");
}

#[test]
fn three_claims_and_a_crash() {
    holds(&Scope { left: Budget { crashes: 1, ..Budget::default() }, ..scope(3) });
}

#[test]
#[ignore = "takes minutes"]
fn three_claims_and_two_crashes() {
    holds(&Scope { left: Budget { crashes: 2, ..Budget::default() }, ..scope(3) });
}

#[test]
fn a_claim_that_is_deleted_or_created_again_and_a_crash() {
    let left = Budget { crashes: 1, users: 1, ..Budget::default() };
    holds(&Scope { left, strays: true, late_answers: true, ..scope(1) });
}

#[test]
fn a_claim_of_two_that_is_deleted() {
    holds(&Scope { left: Budget { users: 1, ..Budget::default() }, min: 1, ..scope(2) });
}

#[test]
fn two_claims_that_ask_for_one_port_of_which_one_is_deleted() {
    let left = Budget { users: 1, ..Budget::default() };
    holds(&Scope { claims: vec![Some(0); 2], min: 1, max: 1, left, ..scope(2) });
}

#[test]
fn a_claim_that_is_deleted_and_a_load_balancer_whose_answers_are_lost() {
    let left = Budget { users: 1, lost: 2, ..Budget::default() };
    holds(&Scope { min: 1, max: 1, left, ..scope(1) });
}

#[test]
fn a_claim_that_asks_for_another_port_and_an_answer_that_is_lost() {
    let left = Budget { users: 1, lost: 1, ..Budget::default() };
    holds(&Scope { claims: vec![Some(0)], edits: vec![Some(1)], left, min: 1, ..scope(1) });
}

#[test]
fn a_claim_that_asks_for_the_port_that_another_one_is_just_being_given() {
    let left = Budget { users: 1, ..Budget::default() };
    for port in 0..3 {
        holds(&Scope { claims: vec![None, Some(port)], at_first: 1, left, min: 1, max: 1, ..scope(2) });
    }
}

#[test]
fn a_claim_that_excludes_clients_and_is_deleted_or_admits_them_again() {
    let left = Budget { users: 2, unchanged: 1, ..Budget::default() };
    holds(&Scope { source_ranges: true, min: 1, max: 1, left, ..scope(1) });
}

#[test]
#[ignore = "takes minutes"]
fn a_claim_that_excludes_clients_a_crash_and_an_answer_that_is_lost() {
    let left = Budget { unchanged: 2, ..left(1, 1, 2) };
    holds(&Scope { source_ranges: true, min: 1, max: 1, left, ..scope(1) });
}

#[test]
#[ignore = "takes minutes"]
fn two_claims_that_exclude_clients() {
    let left = Budget { unchanged: 2, ..left(0, 0, 2) };
    holds(&Scope { source_ranges: true, min: 1, max: 1, left, ..scope(2) });
}

/// What `lease` is for.
#[test]
fn two_leaders_give_one_port_twice_so_there_is_a_lease() {
    let left = Budget { users: 2, second: 1, ..Budget::default() };
    breaks_first(&Scope { at_first: 0, left, ..scope(2) }, &["no slot is held by two claims"]);
}

#[test]
#[ignore = "takes minutes"]
fn what_two_leaders_break() {
    let left = Budget { users: 1, second: 1, ..Budget::default() };
    breaks_first(
        &Scope { left, ..scope(1) },
        &[
            "what is served stays served",
            "a release is recorded first",
            "an open listener is its holder's, or recorded",
        ],
    );
}

/// So many crashes, lost answers, and things that users do.
fn left(crashes: u8, lost: u8, users: u8) -> Budget {
    Budget { crashes, lost, users, ..Budget::default() }
}

#[test]
#[ignore = "takes minutes"]
fn three_claims_one_of_which_is_deleted() {
    holds(&Scope { left: left(0, 0, 1), ..scope(3) });
}

#[test]
#[ignore = "takes minutes"]
fn two_claims_that_are_deleted_and_created_again_and_a_crash() {
    holds(&Scope { left: left(1, 0, 1), ..scope(2) });
    holds(&Scope { left: left(1, 0, 2), min: 1, ..scope(2) });
}

#[test]
#[ignore = "takes minutes"]
fn two_claims_and_everything_goes_wrong_once() {
    holds(&Scope { left: left(1, 1, 1), ..scope(2) });
}

#[test]
#[ignore = "takes minutes"]
fn three_claims_two_crashes_and_an_answer_that_is_lost() {
    holds(&Scope { left: left(2, 1, 0), ..scope(3) });
}

#[test]
#[ignore = "takes minutes"]
fn one_claim_and_everything_goes_wrong_once() {
    holds(&Scope { left: left(1, 1, 1), strays: true, late_answers: true, ..scope(1) });
}

#[test]
#[ignore = "takes minutes"]
fn two_claims_that_are_asked_to_swap_their_ports() {
    let edits = vec![Some(0), Some(1)];
    holds(&Scope { claims: edits.clone(), edits, min: 1, left: left(0, 0, 2), ..scope(2) });
}
