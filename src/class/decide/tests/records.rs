//! Released slots: recorded, closed, cooling down, forgotten.

use super::*;
use crate::class::decide::records::COOLING_MAX;

#[test]
fn a_release_is_recorded_before_a_claim_goes_and_its_slot_is_no_longer_planned() {
    let going = claim("a").holds(0, 20001).deleting();
    let mut world = World::new(vec![going, claim("b").holds(0, 20002)]);
    let decision = world.decide();
    assert_eq!(decision.releases, 1, "the status of the class is to be written first");
    assert_eq!(world.released(), [(20001, "team/a")]);
    assert_eq!(planned(&decision, 0), [20002]);
    assert_eq!(world.decide().releases, 0, "once is enough");
}

#[test]
fn a_slot_that_its_claim_no_longer_wants_is_recorded_as_released() {
    let mut world = World::new(vec![claim("a").holds(0, 20001).asks(6379)]);
    let decision = world.decide();
    assert_eq!(decision.releases, 1);
    assert_eq!(world.released(), [(20001, "team/a")]);
    let granted = decision.assignments[0].as_ref().unwrap().granted.as_ref().unwrap();
    assert_eq!(granted.slots[0].key, tcp(6379));
}

#[test]
fn a_released_port_cools_down_until_it_is_closed_and_the_delay_is_over() {
    let a = claim("a").holds(0, 20001);
    let mut world = World::new(vec![a.clone().deleting()]).with(json!({"reclaimDelaySeconds": 60}));
    world.seen(std::slice::from_ref(&a), &[(20001, "a")]);
    world.decide();
    world.claims.clear();

    world.later(120);
    world.decide();
    assert_eq!(world.released().len(), 1, "the delay is over, but the listener is still open");

    world.seen(&[], &[]);
    world.decide();
    assert_eq!(world.released().len(), 0);

    let mut world = World::new(vec![a.deleting()]).with(json!({"reclaimDelaySeconds": 60}));
    world.seen(&[], &[]);
    world.decide();
    world.claims.clear();
    world.later(59);
    let decision = world.decide();
    assert_eq!(world.released().len(), 1, "it is closed, but the delay is not over");
    assert_eq!(decision.due, Some(world.now + SignedDuration::from_secs(1)));
}

#[test]
fn rounding_to_seconds_shortens_no_cooldown() {
    let mut world = World::new(vec![claim("a").holds(0, 20001).deleting()]).with(json!({"reclaimDelaySeconds": 60}));
    world.now += SignedDuration::from_millis(900);
    world.seen(&[], &[]);
    world.decide();
    world.claims.clear();
    world.now += SignedDuration::from_millis(59_900);
    world.decide();
    assert_eq!(world.released().len(), 1);
    world.later(1);
    world.decide();
    assert_eq!(world.released().len(), 0);
}

#[test]
fn a_listener_that_is_planned_may_be_open_whatever_was_seen_before() {
    let a = claim("a").holds(0, 20001);
    let mut world = World::new(vec![a.clone().deleting()]).with(json!({"reclaimDelaySeconds": 0}));
    // The LB loop was handed the slot, and has not reported its outcome.
    world.seen(&[a], &[]);
    world.decide();
    world.claims.clear();
    world.decide();
    assert_eq!(world.released(), [(20001, "team/a")]);
}

#[test]
fn a_listener_planned_after_a_report_may_be_open() {
    let a = claim("a").holds(0, 20001);
    let mut world = World::new(vec![a.deleting()]).with(json!({"reclaimDelaySeconds": 0}));
    // The LB loop has reported on an older plan than its current one.
    world.seen(&[], &[]);
    world.outcomes.get_mut(&0).unwrap().since.planned.insert(tcp(20001));
    world.decide();
    world.claims.clear();
    world.decide();
    assert_eq!(world.released(), [(20001, "team/a")]);
}

#[test]
fn a_release_is_recorded_on_an_unlisted_load_balancer() {
    // The class' status could not be written since the claim was given its slot.
    let spec = json!({"loadBalancers": {"min": 1, "max": 2}});
    let mut world = World::new(vec![claim("a").holds(1, 20001).deleting()]).with(spec);
    let decision = world.decide();
    assert_eq!(world.released(), [(20001, "team/a")]);
    assert_eq!(planned(&decision, 1), [0u16; 0], "it may exist, with a listener that is to be closed");
}

#[test]
fn a_record_stays_while_the_slot_is_in_its_claims_status() {
    let mut world = World::new(vec![claim("a").holds(0, 20001).asks(6379)]).with(json!({"reclaimDelaySeconds": 0}));
    world.seen(&[], &[]);
    for decision in 1..=2 {
        world.decide();
        assert_eq!(
            world.released(),
            [(20001, "team/a")],
            "decision {decision}: closed and cooled down, but not released yet"
        );
    }
}

#[test]
fn the_record_names_the_last_holder() {
    let mut world = World::new(vec![claim("a").holds(0, 20001).deleting()]);
    world.seen(&[], &[]);
    world.decide();
    // For whatever reason another one has it although it is recorded.
    world.claims = vec![claim("b").holds(0, 20001)];
    world.decide();
    world.claims = vec![claim("b").holds(0, 20001).deleting(), claim("a").asks(20001)];
    assert_eq!(world.decide().releases, 1);
    assert_eq!(world.released(), [(20001, "team/b")]);
    let decision = world.decide();
    assert_eq!(decision.releases, 0, "once is enough");
    let granted = decision.assignments[1].as_ref().unwrap().granted.as_ref();
    assert!(granted.is_none_or(|granted| granted.index != 0), "it cools down, also for its former claim");
}

#[test]
fn a_port_that_two_claims_give_back_is_recorded_once() {
    let mut world = World::new(vec![claim("a").holds(0, 20001).deleting(), claim("b").holds(0, 20001).deleting()]);
    assert_eq!(world.decide().releases, 1);
    assert_eq!(world.released(), [(20001, "team/a")]);
    assert_eq!(world.decide().releases, 0);
}

#[test]
fn a_claim_that_holds_its_port_again_takes_it_out_of_the_record() {
    let mut world = World::new(vec![claim("a").holds(0, 20001).deleting()]);
    world.seen(&[], &[]);
    world.decide();
    world.claims = vec![claim("a").asks(20001)];
    world.decide();
    assert_eq!(world.released(), [(20001, "team/a")], "its status does not say so yet");
    world.claims = vec![claim("a").asks(20001).holds(0, 20001)];
    world.decide();
    assert_eq!(world.released(), []);
}

#[test]
fn a_listener_of_a_claim_that_went_without_our_finalizer_is_recorded_as_released() {
    let mut world = World::new(vec![claim("b").holds(0, 20002)]);
    world.seen(&[], &[(20001, "gone"), (20002, "b")]);
    assert_eq!(world.decide().releases, 1);
    assert_eq!(world.released(), [(20001, "team/gone")]);
}

#[test]
fn what_a_claim_held_that_went_without_our_finalizer_is_recorded_also_while_it_is_planned() {
    let a = claim("a").holds(0, 20001);
    let mut world = World::new(Vec::new());
    world.seen(std::slice::from_ref(&a), &[(20001, "a")]);
    world.abandoned = vec![a.clone()];
    assert_eq!(world.decide().releases, 1);
    assert_eq!(world.released(), [(20001, "team/a")]);
    assert_eq!(world.decide().releases, 0, "once is enough");

    let mut world = World::new(vec![a.clone()]);
    world.abandoned = vec![a];
    assert_eq!(world.decide().releases, 0, "somebody holds it");
}

#[test]
fn what_a_claim_holds_whose_status_cannot_be_read_is_neither_released_nor_closed() {
    let unparsable = claim("a").protected().status(json!({"ports": "nonsense"}));
    let mut world = World::new(vec![unparsable.clone(), claim("b").holds(0, 20002)]);
    world.seen(&[], &[(20001, "a"), (20002, "b")]);
    let decision = world.decide();
    assert_eq!(decision.releases, 0);
    assert_eq!(decision.assignments[0], None, "nothing is written to it");
    assert_eq!(decision.untouched, BTreeSet::from([unparsable.build().meta.key.clone()]));

    world.claims[0] = unparsable.deleting();
    assert_eq!(world.decide().releases, 1, "deleted, it is like one that went without our finalizer");
}

#[test]
fn no_tenant_can_make_the_record_grow_without_bound() {
    let mut world = World::new(Vec::new());
    let entry = |n: u16| ReleasedPort {
        port: n.try_into().unwrap(),
        protocol: sharedlb_crds::Protocol::Tcp,
        claim: format!("team/c{n}"),
        time: Some(Time(world.now + SignedDuration::from_secs(i64::from(n)))),
    };
    let released = (1..=3000).map(entry).collect();
    world.status.load_balancers = vec![LoadBalancerStatus { released, ..Default::default() }];
    world.decide();
    assert_eq!(world.released().len(), 3000, "what may still be open stays recorded in any case");
    world.seen(&[], &[]);
    world.decide();
    assert_eq!(world.released().len(), COOLING_MAX);
    assert_eq!(world.released()[0].0, 1001, "the oldest went");
}

#[test]
fn no_tenant_can_end_the_rest_of_anothers_ports_with_his_own() {
    let mut world = World::new(Vec::new());
    let entry = |n: u16| ReleasedPort {
        port: n.try_into().unwrap(),
        protocol: sharedlb_crds::Protocol::Tcp,
        claim: if n <= 3 { format!("victim/c{n}") } else { format!("team/c{n}") },
        time: Some(Time(world.now + SignedDuration::from_secs(i64::from(n)))),
    };
    let released = (1..=3000).map(entry).collect();
    world.status.load_balancers = vec![LoadBalancerStatus { released, ..Default::default() }];
    world.seen(&[], &[]);
    world.decide();
    assert_eq!(world.released().len(), COOLING_MAX);
    assert_eq!(world.released()[..4], [(1, "victim/c1"), (2, "victim/c2"), (3, "victim/c3"), (1004, "team/c1004")]);
}

#[test]
fn a_claim_kept_only_by_a_foreign_finalizer_keeps_no_port() {
    let held = claim("a").holds(0, 20001).deleting();
    let mut world = World::new(vec![held.clone()]).with(json!({"reclaimDelaySeconds": 60}));
    world.seen(&[], &[]);
    world.decide();
    assert_eq!(world.released(), [(20001, "team/a")]);
    world.claims = vec![held.let_go()];
    world.later(59);
    world.decide();
    assert_eq!(world.released(), [(20001, "team/a")], "it cools down");
    world.later(1);
    world.decide();
    assert_eq!(world.released(), []);
}

#[test]
fn a_claim_displaced_by_foreign_listeners_moves_and_its_old_slot_is_recorded() {
    let waiting = claim("a").protected().status(json!({
        "className": "default", "loadBalancerIndex": 0, "ports": [{"name": "x", "protocol": "TCP", "port": 20001}],
    }));
    let mut world = World::new(vec![waiting.clone()]).with(json!({"loadBalancers": {"min": 2}}));
    world.seen(&[waiting], &[(20001, "a")]);
    let listeners = &mut world.outcomes.get_mut(&0).unwrap().listeners;
    let listener = Arc::make_mut(listeners).get_mut(&tcp(20001)).unwrap();
    listener.open = false;
    listener.failure = Some(Failure { reason: Reason::NoRoom, message: "full".into() });
    let decision = world.decide();
    let granted = decision.assignments[0].as_ref().unwrap().granted.as_ref().unwrap();
    assert_eq!(granted.index, 1);
    assert_eq!(decision.releases, 1);
    assert_eq!(world.released(), [(20001, "team/a")]);
}
