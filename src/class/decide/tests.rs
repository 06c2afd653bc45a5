//! A class, decided on again and again.

mod records;
mod world;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, Reason, ReleasedPort};
use sharedlb_providers::memory::{Cloud, Memory};
use sharedlb_providers::{Capabilities, Capacity as ProviderCapacity, ListenerKey, Owner, Provider};

use self::world::World;
use super::*;
use crate::api::addresses::assign;
use crate::api::class::{lacking, policy};
use crate::class::render::{self, Programmed, Verdict};
use crate::fixtures::{ClaimFixture, claim, class};
use crate::kubernetes::cache::Cache;
use crate::kubernetes::conditions;
use crate::load_balancer::desired::Plan;
use crate::load_balancer::outcome::{Failure, ListenerOutcome, MaybeOpen};
use kube::runtime::watcher::Event;

fn tcp(port: u16) -> ListenerKey {
    ListenerKey { port: port.try_into().unwrap(), protocol: sharedlb_providers::Protocol::Tcp }
}

fn planned(decision: &Decision, index: u32) -> Vec<u16> {
    let slots = decision.plans[&index].as_ref().unwrap().iter().flat_map(|planned| planned.slots.iter());
    slots.map(|slot| slot.key.port.get()).collect()
}

#[test]
fn a_slot_is_planned_only_once_it_is_in_the_api_under_our_finalizer() {
    let mut world = World::new(vec![claim("a")]);
    assert_eq!(planned(&world.decide(), 0), [0u16; 0], "it is not in the status yet");

    let status = json!({"className": "default", "loadBalancerIndex": 0, "ports": [{"name": "x", "protocol": "TCP", "port": 20001}]});
    world.claims = vec![claim("a").status(status.clone())];
    assert_eq!(planned(&world.decide(), 0), [0u16; 0], "the finalizer is missing");

    world.claims = vec![claim("a").protected().status(status)];
    assert_eq!(planned(&world.decide(), 0), [20001]);
}

#[test]
fn a_claim_that_excludes_clients_whom_its_class_cannot_exclude_is_not_open_and_keeps_its_slots() {
    let excludes = |claim: ClaimFixture| claim.spec("loadBalancerSourceRanges", json!(["10.0.0.0/8"]));
    let affine = |claim: ClaimFixture| claim.spec("sessionAffinity", json!("ClientIP"));
    let held = claim("a").holds(0, 20001);
    let mut world = World::new(vec![excludes(held.clone()), affine(claim("b").holds(0, 20002)), excludes(claim("c"))]);
    world.seen(std::slice::from_ref(&held), &[(20001, "a")]);
    world.lacking = true;
    let decision = world.decide();
    assert_eq!(planned(&decision, 0), [20002], "without session affinity, it stays open");
    assert_eq!(world.status.load_balancers[0].listeners, 2);
    assert!(world.released().is_empty(), "its listener closes, and its slot is not given back");
    let [a, b, c] = [0, 1, 2].map(|n| decision.assignments[n].clone().unwrap());
    assert!(a.refused.is_empty() && b.refused.is_empty() && a.granted.is_some() && b.granted.is_some());
    assert_eq!(c.granted, None);
    assert_eq!(c.refused[0].1.reason(), Some(Reason::Unsupported));
    world.claims[0] = held;
    assert_eq!(planned(&world.decide(), 0), [20001, 20002], "they are removed again");
}

#[test]
fn a_load_balancer_is_listed_before_a_slot_on_it_is_assigned() {
    let spec = |max: u32| json!({"loadBalancers": {"min": 1, "max": max}});
    let mut world = World::new(vec![claim("a").holds(0, 6379).asks(6379)]).with(spec(2));
    assert!(!world.decide().class_first(), "what there always is need not be listed");
    world.claims.push(claim("b").asks(6379));
    assert!(world.decide().class_first());
    // The class is narrowed, and another process goes on from what the API says.
    world.claims[1] = claim("b").holds(1, 6379).asks(6379);
    world = world.with(spec(1));
    let decision = world.decide();
    assert_eq!(planned(&decision, 1), [6379]);
    assert!(!decision.class_first());
}

#[test]
fn a_load_balancer_beyond_the_minimum_goes_after_it_was_empty_for_the_delay() {
    let mut world = World::new(vec![claim("a").holds(1, 20001)])
        .with(json!({"loadBalancers": {"min": 1, "max": 2, "emptyDelaySeconds": 60}}));
    assert_eq!(world.decide().plans.len(), 2);
    world.claims.clear();
    world.decide();
    world.later(59);
    assert!(world.decide().plans[&1].is_some());
    world.later(1);
    let decision = world.decide();
    assert!(decision.plans[&1].is_none(), "it shall go");
    assert!(decision.plans[&0].is_some(), "the minimum stays");
    assert_eq!(world.status.load_balancers.len(), 2, "and is listed until it is gone");

    let gone = Outcome {
        plan: Arc::new(Plan::new(World::provider(), 1, None)),
        since: MaybeOpen::default(),
        exists: Some(false),
        addresses: Arc::default(),
        no_address: None,
        capacity: ProviderCapacity::default(),
        foreign: BTreeSet::new(),
        listeners: Arc::default(),
        failure: None,
        recreated: 0,
    };
    world.outcomes.insert(1, gone);
    world.decide();
    assert_eq!(world.status.load_balancers.len(), 1);
}

#[test]
fn a_load_balancer_stays_until_its_claims_are_released() {
    let spec = json!({"loadBalancers": {"min": 1, "max": 2, "emptyDelaySeconds": 0}});
    let mut world = World::new(vec![claim("a").holds(1, 20001).deleting()]).with(spec);
    assert!(world.decide().plans[&1].is_some(), "its record would go with it");
    world.claims.clear();
    assert!(world.decide().plans[&1].is_none());
}

#[test]
fn a_class_that_is_deleted_keeps_load_balancers_in_use_and_lets_the_others_go() {
    let mut world = World::new(vec![claim("a").holds(1, 20001)]).with(json!({"loadBalancers": {"min": 2}}));
    world.decide();
    world.deleting = true;
    let decision = world.decide();
    assert!(decision.plans[&0].is_none());
    assert_eq!(planned(&decision, 1), [20001]);
}

#[test]
fn deciding_again_on_its_own_status_changes_nothing_even_without_outcomes() {
    let a = claim("a").holds(0, 20001);
    let mut world = World::new(vec![a.clone(), claim("gone").holds(0, 20002).deleting()]);
    world.seen(&[a], &[(20001, "a"), (20002, "gone")]);
    world.decide();
    let before = world.status.clone();
    world.later(30);
    world.decide();
    assert_eq!(world.status, before);
    world.outcomes.clear();
    world.decide();
    assert_eq!(world.status, before, "as after a restart");
}

#[test]
fn a_stale_cache_over_two_decisions_assigns_no_slot_twice() {
    // All want one port, the only one that there is on each load balancer.
    let spec = json!({"ports": {"dynamic": [{"min": 20000, "max": 20000}]}});
    let names = ["a", "b", "c"];
    let mut cache = Cache::default();
    cache.apply_event(Event::Init);
    cache.apply_event(Event::InitDone);
    let mut given = Vec::new();
    for (n, name) in names.iter().enumerate() {
        // The watch reports the newcomer, and still shows the others as they were
        // before they were given anything.
        for known in &names[..=n] {
            cache.apply_event(Event::Apply((*claim(known).build()).clone()));
        }
        let claims: Vec<_> = cache.objects().values().cloned().collect();
        let class = class(spec.clone(), &SharedLBClassStatus::default(), false);
        let spec = class.spec.clone().unwrap();
        let (decision, _) = decide(&Facts {
            class: &class,
            policy: Arc::new(policy(&spec, &World::provider().capabilities(), Arc::default(), std::iter::empty())),
            spec: &spec,
            suspended: None,
            confined_to: None,
            claims: claims.iter().collect(),
            counted: None,
            targets_closing: 0,
            outcomes: &BTreeMap::new(),
            abandoned: &[],
            now: "2026-02-01T00:00:00Z".parse().unwrap(),
        });
        let newcomer = claims.iter().position(|claim| *claim.meta.key.name == **name).unwrap();
        let held = decision.assignments[newcomer].clone().unwrap().granted.unwrap();
        given.push((held.index, held.slots[0].key));
        let open = BTreeSet::new();
        let verdict =
            Verdict { held: Some(held), refused: None, programmed: Programmed::Pending, addresses: None, open };
        let status = render::status(&claims[newcomer], Some("default"), &verdict, Timestamp::UNIX_EPOCH);
        // The reply to the write goes in at once.
        cache.apply_write((*claim(name).version(100 + n as u64).rendered(&status).build()).clone());
    }
    assert_eq!(given, [(0, tcp(20000)), (1, tcp(20000)), (2, tcp(20000))]);
}

#[test]
fn nothing_is_opened_before_its_targets_are_known_and_nothing_that_was_is_closed() {
    let fresh = claim("b").protected().status(json!({
        "className": "default", "loadBalancerIndex": 0, "ports": [{"name": "x", "protocol": "TCP", "port": 20002}],
    }));
    let mut world = World::new(vec![claim("a").holds(0, 20001), fresh]);
    (world.targets, world.listed) = (Some((500, 1)), false);
    assert_eq!(planned(&world.decide(), 0), [20001]);
    assert_eq!(world.status.load_balancers[0].listeners, 2, "its place is taken");
    world.listed = true;
    assert_eq!(planned(&world.decide(), 0), [20001, 20002]);
}

#[test]
fn the_status_counts_targets_and_says_what_fits_also_while_a_load_balancer_cannot_be_asked() {
    let mut world = World::new(vec![claim("a").holds(0, 20001), claim("b").holds(0, 20002)]);
    world.targets = Some((500, 20));
    world.decide();
    let listed = |world: &World| {
        let lb = &world.status.load_balancers[0];
        (lb.listeners, lb.targets, lb.capacity.as_ref().map(|capacity| (capacity.listeners, capacity.targets)))
    };
    assert_eq!(listed(&world), (2, Some(40), Some((50, Some(500)))));
    assert_eq!(world.status.summary.as_deref(), Some("1 of 10, 2 of 50 listeners, 40 of 500 targets"));

    world.seen(&world.claims.clone(), &[(20001, "a"), (20002, "b")]);
    world.outcomes.get_mut(&0).unwrap().capacity = ProviderCapacity { listeners: Some(40), targets: Some(30) };
    world.decide();
    assert_eq!(listed(&world), (2, Some(40), Some((40, Some(30)))), "somebody else used the rest");

    let before = world.status.clone();
    world.outcomes.clear();
    world.decide();
    assert_eq!(world.status, before, "as after a restart");
    let failure = Failure { reason: Reason::Unreachable, message: "no answer".into() };
    world.seen(&world.claims.clone(), &[]);
    let outcome = world.outcomes.get_mut(&0).unwrap();
    (outcome.exists, outcome.addresses, outcome.failure) = (None, Arc::default(), Some(failure));
    world.decide();
    let lb = &world.status.load_balancers[0];
    assert_eq!((lb.address.as_deref(), &lb.capacity), (Some("10.0.0.1"), &before.load_balancers[0].capacity));
}

#[test]
fn the_status_adds_up_whatever_load_balancers_say_that_fits_on_them() {
    let mut world = World::new(vec![claim("a").holds(0, 20001), claim("b").holds(1, 20002)]);
    world.targets = Some((u32::MAX, 20));
    world.decide();
    assert_eq!(world.status.summary.as_deref(), Some("2 of 10, 2 of 100 listeners, 40 of 8589934590 targets"));
}

#[test]
fn nothing_is_assigned_on_an_adopted_load_balancer_before_it_is_observed() {
    let arn = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/net/edge/0123456789abcdef";
    let aws = json!({"region": "eu-central-1", "vpcId": "vpc-01234567", "loadBalancerArn": arn});
    let spec = json!({"provider": {"aws": aws}, "loadBalancers": {"min": 1, "max": 1}});
    let mut world = World::new(vec![claim("a")]).with(spec);
    let granted = |decision: Decision| decision.assignments[0].as_ref().unwrap().granted.is_some();
    assert!(!granted(world.decide()));
    world.seen(&[], &[]);
    assert!(granted(world.decide()));
}

#[test]
fn a_load_balancer_that_will_not_be_deleted_stays_listed_and_the_class_says_why() {
    let mut world = World::new(Vec::new());
    world.seen(&[], &[]);
    world.decide();
    world.deleting = true;
    let message = "deletion protection is on: switch it off";
    let failure = Failure { reason: Reason::ProviderRefused, message: message.into() };
    world.outcomes.get_mut(&0).unwrap().failure = Some(failure);
    assert!(world.decide().plans[&0].is_none(), "it shall go");
    let said = |conditions: &[Condition]| {
        let ready = conditions::find(conditions, ConditionType::Ready).unwrap();
        (ready.status.clone(), ready.reason.clone(), ready.message.clone())
    };
    let lb = &world.status.load_balancers[0];
    assert_eq!(said(&lb.conditions), ("False".into(), "ProviderRefused".into(), message.into()));
    assert_eq!(said(&world.status.conditions).2, format!("load balancer 0: {message}"));
}

#[test]
fn an_overdue_address_is_reported_on_claim_and_class_with_what_to_check() {
    let a = claim("a").holds(0, 20001);
    let mut world = World::new(vec![a.clone()]);
    world.seen(&[a], &[(20001, "a")]);
    world.without_address();
    world.decide();
    let of_load_balancer = &world.status.load_balancers[0].conditions;
    for conditions in [of_load_balancer, &world.status.conditions] {
        let ready = conditions::find(conditions, ConditionType::Ready).unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "AddressNotAssigned"));
        assert_eq!(ready.message, "load balancer 0 of class default has no address yet: ask the admin");
    }
}

/// What is planned on load balancer 0: the name and key of each slot.
fn planned_slots(decision: &Decision) -> Vec<(String, ListenerKey)> {
    let slots = decision.plans[&0].iter().flatten().flat_map(|planned| planned.slots.iter());
    slots.map(|slot| (slot.name.to_string(), slot.key)).collect()
}

#[test]
fn a_port_that_is_renamed_goes_on_being_planned_before_its_status_says_so_and_nothing_is_released() {
    let renamed = claim("a").holds(0, 20001).ports(json!([{"name": "y", "targetPort": 6379}]));
    let mut world = World::new(vec![renamed.clone()]);
    let decision = world.decide();
    assert_eq!(planned_slots(&decision), [("y".to_owned(), tcp(20001))]);
    let target = &decision.plans[&0].as_ref().unwrap()[0].target;
    let slot = HeldSlot { name: "y".into(), key: tcp(20001), opened: true, target: None };
    assert!(
        target.port_through(&slot, sharedlb_crds::TargetKind::Pod).is_some(),
        "its backends are found by that name"
    );
    assert_eq!(world.released(), []);

    // What was opened for the port by its former name serves it.
    world.seen(&[claim("a").holds(0, 20001)], &[(20001, "a")]);
    let held = world.decide().assignments[0].clone().unwrap().granted.unwrap();
    let programmed = crate::class::programmed::programmed(
        &renamed.build(),
        &held,
        None,
        world.outcomes.get(&0),
        |_, _| None,
        |_, _| None,
    );
    assert!(matches!(programmed, Programmed::Served { .. }), "{programmed:?}");
}

#[test]
fn a_listener_stays_planned_until_the_api_has_its_successor() {
    let both = json!([{"name": "x", "protocol": "TCP_UDP", "targetPort": 6379}]);
    let grown = claim("a").holds(0, 20001).ports(both);
    let mut world = World::new(vec![grown.clone()]);
    let decision = world.decide();
    assert_eq!(planned_slots(&decision), [("x".to_owned(), tcp(20001))]);
    assert!(decision.class_first(), "that TCP goes is recorded first");
    assert_eq!(world.released(), [(20001, "team/a")]);

    let successor = ListenerKey { protocol: sharedlb_providers::Protocol::TcpUdp, ..tcp(20001) };
    let ingress = json!([{"ip": "10.0.0.1", "ports": [{"port": 20001, "protocol": "TCP"}]}]);
    world.claims = vec![grown.status(json!({
        "className": "default", "loadBalancerIndex": 0, "loadBalancer": {"ingress": ingress},
        "ports": [{"name": "x", "protocol": "TCP_UDP", "port": 20001}],
    }))];
    assert_eq!(planned_slots(&world.decide()), [("x".to_owned(), successor)]);
}

#[test]
fn ports_that_were_served_stay_in_the_status_while_their_listener_is_replaced() {
    let both = json!([{"name": "x", "protocol": "TCP_UDP", "targetPort": 6379}]);
    let grown = claim("a").holds(0, 20001).ports(both);
    let mut world = World::new(vec![grown.clone()]);
    let held = world.decide().assignments[0].clone().unwrap().granted;
    let verdict = Verdict {
        held,
        refused: None,
        programmed: Programmed::Pending,
        addresses: Some([Address::parse("10.0.0.1")].into()),
        open: BTreeSet::new(),
    };
    let status = render::status(&grown.build(), Some("default"), &verdict, world.now);
    let ports = &status.load_balancer.unwrap().ingress[0].ports;
    let ports: Vec<_> = ports.iter().map(|port| (port.port.get(), port.protocol)).collect();
    assert_eq!(ports, [(20001, sharedlb_crds::Transport::Tcp)], "UDP has not been served yet, TCP has");
}

#[test]
fn the_addresses_that_a_load_balancer_was_given_are_recorded_whatever_another_client_makes_of_them() {
    let of_class =
        |provider: &str| json!({"provider": {provider: {}}, "addresses": [{"min": "10.0.0.9", "max": "10.0.0.9"}]});
    for (provider, recorded) in [("vip", "10.0.0.9"), ("service", "10.0.0.1")] {
        let mut world = World::new(Vec::new()).with(of_class(provider));
        world.seen(&[], &[]);
        world.decide();
        assert_eq!(world.status.load_balancers[0].addresses, [recorded], "{provider}");
        assert_eq!(world.status.load_balancers[0].address.as_deref(), Some(recorded));
        world.outcomes.clear();
        world.decide();
        assert_eq!(world.status.load_balancers[0].addresses, [recorded], "after a restart");
    }
}
