//! A class, decided on run after run.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, ReleasedPort};
use sharedlb_providers::memory::{Cloud, Memory};
use sharedlb_providers::{Capacity as ProviderCapacity, ListenerKey, Owner, Provider};

use super::records::RESTING_MAX;
use super::*;
use crate::class::policy;
use crate::cluster::cache::Cache;
use crate::desired::Plan;
use crate::fixtures::{ClaimFixture, claim, class};
use crate::outcome::{ListenerOutcome, Since};
use crate::render::{self, Programmed, Verdict};
use kube::runtime::watcher::Event;

/// A class and its claims, and what its LB loops have told.
struct World {
    spec: Value,
    deleting: bool,
    /// Targets for each load balancer, if they are counted, and those of each port
    targets: Option<(u32, u32)>,
    status: SharedLBClassStatus,
    claims: Vec<ClaimFixture>,
    outcomes: BTreeMap<u32, Outcome>,
    left: Vec<ClaimFixture>,
    now: Timestamp,
}

impl World {
    fn new(claims: Vec<ClaimFixture>) -> Self {
        let now = "2026-02-01T00:00:00Z".parse().unwrap();
        let (status, outcomes) = (SharedLBClassStatus::default(), BTreeMap::new());
        Self { spec: json!({}), deleting: false, targets: None, status, claims, outcomes, left: Vec::new(), now }
    }

    fn with(mut self, spec: Value) -> Self {
        self.spec = spec;
        self
    }

    fn provider() -> Arc<dyn Provider> {
        Arc::new(Memory::new(Cloud::default()))
    }

    /// Decides, and takes over the class' status.
    fn decide(&mut self) -> Decision {
        let class = class(self.spec.clone(), &self.status, self.deleting);
        let spec = class.spec.clone().unwrap();
        let claims: Vec<_> = self.claims.iter().map(ClaimFixture::build).collect();
        let mut policy = policy(&spec, &Self::provider().capabilities(), std::iter::empty());
        policy.targets = self.targets.map(|(limit, _)| limit);
        let counted = self.targets.map(|(_, of_each)| {
            let mut requests: Vec<Claim> = claims.iter().map(|claim| claim.request.clone()).collect();
            requests.iter_mut().flat_map(|request| &mut request.ports).for_each(|port| port.targets = of_each);
            requests
        });
        let decision = decide(&Facts {
            class: &class,
            spec: &spec,
            policy,
            frozen: None,
            claims: claims.iter().collect(),
            counted,
            targets_closing: 0,
            outcomes: &self.outcomes,
            left: &self
                .left
                .iter()
                .map(ClaimFixture::build)
                .flat_map(|claim| Left::of(&claim).collect::<Vec<_>>())
                .collect::<Vec<_>>(),
            now: self.now,
        });
        self.status = decision.status.clone();
        decision
    }

    /// The load balancer 0 was last seen with these listeners, when these claims
    /// were planned on it.
    fn seen(&mut self, planned: &[ClaimFixture], open: &[(u16, &str)]) {
        let planned = planned.iter().map(|claim| {
            let claim = claim.build();
            Planned { slots: claim.request.held.clone().unwrap().slots, target: claim.target.clone() }
        });
        let listener = |&(port, name): &(u16, &str)| {
            let owner = Owner { namespace: "team".into(), claim: name.into(), port: "x".into() };
            (tcp(port), ListenerOutcome { owner, open: true, backends: true, left_out: None, trouble: None })
        };
        let outcome = Outcome {
            plan: Arc::new(Plan::new(Self::provider(), 0, Some(planned.collect()))),
            since: Since::default(),
            exists: Some(true),
            addresses: [parse_address("10.0.0.1")].into(),
            capacity: ProviderCapacity::default(),
            foreign: BTreeSet::new(),
            listeners: open.iter().map(listener).collect(),
            trouble: None,
            remade: 0,
        };
        self.outcomes.insert(0, outcome);
    }

    fn later(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    fn released(&self) -> Vec<(u16, &str)> {
        let all = self.status.load_balancers.iter().flat_map(|lb| &lb.released);
        all.map(|entry| (entry.port.get(), entry.claim.as_str())).collect()
    }
}

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
fn a_released_port_rests_until_it_is_closed_and_the_delay_is_over() {
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
fn a_port_that_is_given_back_late_in_a_second_rests_no_shorter() {
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
    // The LB loop was handed the slot, and has not told what became of it.
    world.seen(&[a], &[]);
    world.decide();
    world.claims.clear();
    world.decide();
    assert_eq!(world.released(), [(20001, "team/a")]);
}

#[test]
fn a_listener_that_was_planned_since_may_be_open_whatever_was_told() {
    let a = claim("a").holds(0, 20001);
    let mut world = World::new(vec![a.deleting()]).with(json!({"reclaimDelaySeconds": 0}));
    // The LB loop has told of an older plan than the one that it is at work on.
    world.seen(&[], &[]);
    world.outcomes.get_mut(&0).unwrap().since.planned.insert(tcp(20001));
    world.decide();
    world.claims.clear();
    world.decide();
    assert_eq!(world.released(), [(20001, "team/a")]);
}

#[test]
fn a_release_is_recorded_on_a_load_balancer_that_nobody_has_listed_yet() {
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
    for run in 1..=2 {
        world.decide();
        assert_eq!(world.released(), [(20001, "team/a")], "run {run}: closed and rested, but not given back yet");
    }
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
    world.left = vec![a.clone()];
    assert_eq!(world.decide().releases, 1);
    assert_eq!(world.released(), [(20001, "team/a")]);
    assert_eq!(world.decide().releases, 0, "once is enough");

    let mut world = World::new(vec![a.clone()]);
    world.left = vec![a];
    assert_eq!(world.decide().releases, 0, "somebody holds it");
}

#[test]
fn what_a_claim_holds_whose_status_cannot_be_read_is_neither_released_nor_closed() {
    let illegible = claim("a").protected().status(json!({"ports": "nonsense"}));
    let mut world = World::new(vec![illegible.clone(), claim("b").holds(0, 20002)]);
    world.seen(&[], &[(20001, "a"), (20002, "b")]);
    let decision = world.decide();
    assert_eq!(decision.releases, 0);
    assert_eq!(decision.assignments[0], None, "nothing is written to it");
    assert_eq!(decision.untouched, BTreeSet::from([illegible.build().meta.key.clone()]));

    world.claims[0] = illegible.deleting();
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
    assert_eq!(world.released().len(), RESTING_MAX);
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
    assert_eq!(world.released().len(), RESTING_MAX);
    assert_eq!(world.released()[..4], [(1, "victim/c1"), (2, "victim/c2"), (3, "victim/c3"), (1004, "team/c1004")]);
}

#[test]
fn a_claim_that_only_somebody_elses_finalizer_keeps_does_not_keep_its_port_from_others() {
    let held = claim("a").holds(0, 20001).deleting();
    let mut world = World::new(vec![held.clone()]).with(json!({"reclaimDelaySeconds": 60}));
    world.seen(&[], &[]);
    world.decide();
    assert_eq!(world.released(), [(20001, "team/a")]);
    world.claims = vec![held.let_go()];
    world.later(59);
    world.decide();
    assert_eq!(world.released(), [(20001, "team/a")], "it rests");
    world.later(1);
    world.decide();
    assert_eq!(world.released(), []);
}

#[test]
fn a_load_balancer_is_listed_before_a_slot_on_it_is_given_so_that_narrowing_takes_it_from_nobody() {
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
        since: Since::default(),
        exists: Some(false),
        addresses: Arc::default(),
        capacity: ProviderCapacity::default(),
        foreign: BTreeSet::new(),
        listeners: BTreeMap::new(),
        trouble: None,
        remade: 0,
    };
    world.outcomes.insert(1, gone);
    world.decide();
    assert_eq!(world.status.load_balancers.len(), 1);
}

#[test]
fn a_load_balancer_stays_while_a_claim_on_it_has_not_been_let_go() {
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
fn deciding_again_on_its_own_status_changes_nothing_even_when_no_load_balancer_was_heard() {
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
fn a_cache_frozen_over_two_runs_gives_no_slot_twice() {
    // All want one port, the only one that there is on each load balancer.
    let spec = json!({"ports": {"dynamic": [{"min": 20000, "max": 20000}]}});
    let names = ["a", "b", "c"];
    let mut cache = Cache::default();
    cache.watched(Event::Init);
    cache.watched(Event::InitDone);
    let mut given = Vec::new();
    for (n, name) in names.iter().enumerate() {
        // The watch tells of the newcomer, and still shows the others as they were
        // before they were given anything.
        for known in &names[..=n] {
            cache.watched(Event::Apply((*claim(known).build()).clone()));
        }
        let claims: Vec<_> = cache.objects().values().cloned().collect();
        let class = class(spec.clone(), &SharedLBClassStatus::default(), false);
        let spec = class.spec.clone().unwrap();
        let decision = decide(&Facts {
            class: &class,
            policy: policy(&spec, &World::provider().capabilities(), std::iter::empty()),
            spec: &spec,
            frozen: None,
            claims: claims.iter().collect(),
            counted: None,
            targets_closing: 0,
            outcomes: &BTreeMap::new(),
            left: &[],
            now: "2026-02-01T00:00:00Z".parse().unwrap(),
        });
        let newcomer = claims.iter().position(|claim| *claim.meta.key.name == **name).unwrap();
        let held = decision.assignments[newcomer].clone().unwrap().granted.unwrap();
        given.push((held.index, held.slots[0].key));
        let verdict = Verdict { held: Some(held), refused: None, programmed: Programmed::Pending, addresses: None };
        let status = render::status(&claims[newcomer], Some("default"), &verdict, Timestamp::UNIX_EPOCH);
        // The reply to the write goes in at once.
        cache.written((*claim(name).version(100 + n as u64).rendered(&status).build()).clone());
    }
    assert_eq!(given, [(0, tcp(20000)), (1, tcp(20000)), (2, tcp(20000))]);
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

    let told = world.status.clone();
    world.outcomes.clear();
    world.decide();
    assert_eq!(world.status, told, "as after a restart");
    let trouble = crate::outcome::Trouble { reason: Reason::Unreachable, message: "no answer".into() };
    world.seen(&world.claims.clone(), &[]);
    let outcome = world.outcomes.get_mut(&0).unwrap();
    (outcome.exists, outcome.addresses, outcome.trouble) = (None, Arc::default(), Some(trouble));
    world.decide();
    let lb = &world.status.load_balancers[0];
    assert_eq!((lb.address.as_deref(), &lb.capacity), (Some("10.0.0.1"), &told.load_balancers[0].capacity));
}

#[test]
fn a_claim_for_which_somebody_else_used_the_room_moves_on_and_what_it_had_is_recorded() {
    let waiting = claim("a").protected().status(json!({
        "className": "default", "loadBalancerIndex": 0, "ports": [{"name": "x", "protocol": "TCP", "port": 20001}],
    }));
    let mut world = World::new(vec![waiting.clone()]).with(json!({"loadBalancers": {"min": 2}}));
    world.seen(&[waiting], &[(20001, "a")]);
    let listener = world.outcomes.get_mut(&0).unwrap().listeners.get_mut(&tcp(20001)).unwrap();
    listener.open = false;
    listener.trouble = Some(crate::outcome::Trouble { reason: Reason::NoRoom, message: "full".into() });
    let decision = world.decide();
    let granted = decision.assignments[0].as_ref().unwrap().granted.as_ref().unwrap();
    assert_eq!(granted.index, 1);
    assert_eq!(decision.releases, 1);
    assert_eq!(world.released(), [(20001, "team/a")]);
}

#[test]
fn nothing_is_given_on_an_adopted_load_balancer_before_it_was_looked_at() {
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
    let trouble = crate::outcome::Trouble { reason: Reason::ProviderRefused, message: message.into() };
    world.outcomes.get_mut(&0).unwrap().trouble = Some(trouble);
    assert!(world.decide().plans[&0].is_none(), "it shall go");
    let said = |conditions: &[Condition]| {
        let ready = render::find(conditions, ConditionType::Ready).unwrap();
        (ready.status.clone(), ready.reason.clone(), ready.message.clone())
    };
    let lb = &world.status.load_balancers[0];
    assert_eq!(said(&lb.conditions), ("False".into(), "ProviderRefused".into(), message.into()));
    assert_eq!(said(&world.status.conditions).2, format!("load balancer 0: {message}"));
}
