//! Services of options, as data.

use std::num::NonZeroU16;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::arbitrary::load_balancers;
use crate::model::{BackendSet, Protocol, SessionAffinity};

fn lb() -> LbName {
    LbName::from_recorded("slb-default-0-44d0a5b833")
}

/// The desired settings of a load balancer of both families.
fn dual_stack() -> Attributes {
    [("type", "LoadBalancer"), (attribute::STATUS, "203.0.113.10,2001:db8::10")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The Service of the listeners with these options, if no others have their hash.
fn service_of(name: &LbName, options: &ListenerOptions) -> ServiceName {
    services_of(name, &ObservedServices::new(), &[options].into()).remove(options).expect("it has a name")
}

/// The addresses of all load balancers of the class.
fn of_class() -> BTreeSet<IpAddr> {
    ["203.0.113.10", "2001:db8::10", "203.0.113.11"].map(|address| address.parse().unwrap()).into()
}

fn tcp(number: u16) -> ListenerKey {
    ListenerKey { port: NonZeroU16::new(number).unwrap(), protocol: Protocol::Tcp }
}

fn ranges(ranges: &[&str]) -> ListenerOptions {
    ListenerOptions::new(ranges.iter().map(|range| range.parse().unwrap()), None)
}

/// Session affinity with this timeout.
fn affinity(seconds: u64) -> ListenerOptions {
    ListenerOptions::new([], Some(SessionAffinity { timeout: Some(Duration::from_secs(seconds)) }))
}

fn of_namespace(namespace: &str, options: ListenerOptions) -> Listener {
    let owner = Owner { namespace: namespace.into(), claim: "claim".into(), port: "".into() };
    Listener { options, ..Listener::new(owner, BackendSet::default()) }
}

fn listener(options: ListenerOptions) -> Listener {
    of_namespace("team", options)
}

fn desired(listeners: impl IntoIterator<Item = (ListenerKey, Listener)>) -> LoadBalancer {
    LoadBalancer { attributes: dual_stack(), listeners: listeners.into_iter().collect() }
}

/// Load balancers that a provider may be given: no two listeners have a port in common.
fn valid() -> impl Strategy<Value = LoadBalancer> {
    load_balancers().prop_map(|load_balancer| {
        let mut valid = desired([]);
        for (key, listener) in load_balancer.listeners {
            if !listener.owner.is_unknown() && !valid.listeners.keys().any(|other| other.overlaps(key)) {
                valid.listeners.insert(key, listener);
            }
        }
        valid
    })
}

/// Services as data.
#[derive(Default)]
struct World {
    existing: ObservedServices,
    unavailable: Unavailable,
    /// The steps that are still carried out
    steps: usize,
}

impl World {
    fn carry_out(&mut self, name: &ServiceName, step: Step) {
        let Some(left) = self.steps.checked_sub(1) else { return };
        self.steps = left;
        self.existing.entry(name.clone()).or_default().load_balancer = step.target;
        let ports = self.existing.values().flat_map(|observed| observed.load_balancer.listeners.keys());
        let ports: Vec<FrontPort> = ports.flat_map(|key| key.front_ports()).collect();
        let different: BTreeSet<_> = ports.iter().collect();
        assert_eq!(ports.len(), different.len(), "a port is in two Services");
    }

    /// As the provider does, and again while something is postponed. Returns the listeners
    /// that failed.
    fn apply(&mut self, desired: &LoadBalancer) -> BTreeMap<ListenerKey, Error> {
        loop {
            let Blocked { failed, postponed } = self.apply_once(desired);
            if postponed.is_empty() || self.steps == 0 {
                return failed;
            }
        }
    }

    fn apply_once(&mut self, desired: &LoadBalancer) -> Blocked {
        let seen = merge(&self.existing, Some(&of_class()), &Unwritten::new());
        let configures = seen.is_none_or(|seen| seen.load_balancer.attributes != desired.attributes);
        let Distribution { mut targets, failed } =
            distribute(&lb(), &self.existing, desired, configures, &self.unavailable);
        for (name, target) in &targets {
            let observed = self.existing.get(name).map(|observed| observed.load_balancer.clone()).unwrap_or_default();
            if let Some(step) = closing(&observed, target) {
                self.carry_out(name, step);
            }
        }
        let mut blocked = block(&self.existing, &mut targets);
        blocked.failed.extend(failed);
        for (name, target) in targets {
            let changes = diff(&self.existing.get(&name).cloned().unwrap_or_default().load_balancer, &target);
            if !changes.is_empty() {
                self.carry_out(&name, Step { target, changes });
            }
        }
        if self.steps > 0 {
            self.existing.retain(|name, observed| name.is_main() || !is_unused(observed));
        }
        blocked
    }

    fn of(desired: &LoadBalancer) -> Self {
        let mut world = Self { steps: usize::MAX, ..Self::default() };
        assert_eq!(world.apply(desired), BTreeMap::new());
        world
    }

    fn seen(&self) -> Observed {
        merge(&self.existing, Some(&of_class()), &Unwritten::new()).expect("it exists")
    }

    fn names(&self) -> Vec<&ServiceName> {
        self.existing.keys().collect()
    }

    fn service(&mut self, options: &ListenerOptions) -> &mut Observed {
        self.existing.get_mut(&service_of(&lb(), options)).expect("it exists")
    }
}

proptest! {
    #[test]
    fn a_load_balancer_reads_back_from_its_services(wanted in valid()) {
        prop_assert_eq!(World::of(&wanted).seen().load_balancer, wanted);
    }

    #[test]
    fn no_port_is_in_two_services_and_an_interrupted_change_is_completed(
        before in valid(), after in valid(), steps in 0usize..8,
    ) {
        let mut world = World::of(&before);
        world.steps = steps;
        _ = world.apply(&after);
        world.steps = usize::MAX;
        prop_assert_eq!(world.apply(&after), BTreeMap::new());
        let all: BTreeSet<_> = after.listeners.values().map(|listener| service_of(&lb(), &listener.options)).collect();
        prop_assert!(world.names().into_iter().all(|name| name.is_main() || all.contains(name)), "{:?}", world.names());
        prop_assert_eq!(world.seen().load_balancer, after);
    }
}

#[test]
fn listeners_with_the_same_options_share_a_service() {
    let world = World::of(&desired([
        (tcp(1001), listener(ranges(&["192.0.2.0/24"]))),
        (tcp(1002), of_namespace("other", ranges(&["192.0.2.0/24"]))),
        (tcp(1003), listener(ListenerOptions::default())),
    ]));
    assert_eq!(world.names(), [&ServiceName::main(&lb()), &service_of(&lb(), &ranges(&["192.0.2.0/24"]))]);
}

#[test]
fn an_address_of_a_family_without_a_source_range_is_not_in_the_status() {
    let v4 = ranges(&["192.0.2.0/24"]);
    let mut world = World::of(&desired([(tcp(1001), listener(v4.clone()))]));
    assert_eq!(world.service(&v4).load_balancer.attributes[attribute::STATUS], "203.0.113.10");
    assert_eq!(world.seen().addresses.len(), 2, "the load balancer has both");
}

#[test]
fn the_listeners_of_a_service_whose_status_lacks_an_address_get_no_traffic() {
    let (v4, no_affinity) = (ranges(&["192.0.2.0/24"]), ListenerOptions::default());
    let mut world =
        World::of(&desired([(tcp(1001), listener(v4.clone())), (tcp(1002), listener(no_affinity.clone()))]));
    assert_eq!(world.seen().unserved, BTreeMap::new(), "the options of one admit no client of IPv6");
    let (group, main) = ((tcp(1001), &v4), (tcp(1002), &no_affinity));
    for ((key, options), status, lacks) in [
        (group, "", "no address 203.0.113.10 "),
        (group, "192.0.2.9", "no address 203.0.113.10 "),
        (group, "2001:db8::10", "no address 203.0.113.10 "),
        (main, "", "no address "),
        (main, "192.0.2.9", "no address "),
    ] {
        let attributes = &mut world.service(options).load_balancer.attributes;
        let before = attributes.insert(attribute::STATUS.to_owned(), status.to_owned()).expect("it has one");
        let name = service_of(&lb(), options);
        let why = format!("the Service {name} has {lacks}in its status, by which nodes would serve it");
        assert_eq!(world.seen().unserved, [(key, Unserved::Pending(why.clone()))].into(), "{status:?} of {name}");
        let unwritten = Unwritten::from([(name, Error::Refused("ask the admin".into()))]);
        let seen = merge(&world.existing, Some(&of_class()), &unwritten).expect("it exists");
        assert_eq!(seen.unserved, [(key, Unserved::Refused(format!("{why}: ask the admin")))].into());
        world.service(options).load_balancer.attributes.insert(attribute::STATUS.to_owned(), before);
    }
}

#[test]
fn an_address_that_another_client_has_written_is_none_of_the_load_balancer() {
    let mut world = World::of(&desired([]));
    let main = world.service(&ListenerOptions::default());
    main.load_balancer.attributes.insert(attribute::STATUS.to_owned(), "192.0.2.9,203.0.113.10".to_owned());
    assert_eq!(world.seen().addresses, [Address::parse("203.0.113.10")]);
}

#[test]
fn a_service_that_was_altered_or_has_no_listeners_is_a_difference() {
    let options = affinity(60);
    let wanted = desired([(tcp(1001), listener(options.clone()))]);
    type Alter = fn(&mut Observed);
    let alterations: [(&str, Alter); 3] = [
        ("the status is wiped", |observed| {
            observed.load_balancer.attributes.insert(attribute::STATUS.to_owned(), String::new());
        }),
        ("a setting is altered", |observed| {
            observed.load_balancer.attributes.insert("type".to_owned(), "ClusterIP".to_owned());
        }),
        ("another affinity", |observed| {
            observed.load_balancer.attributes.insert(attribute::AFFINITY_TIMEOUT.to_owned(), "61".to_owned());
        }),
    ];
    for (what, alter) in alterations {
        let mut world = World::of(&wanted);
        alter(world.service(&options));
        assert_ne!(world.seen().load_balancer, wanted, "{what}");
        world.apply(&wanted);
        assert_eq!(world.seen().load_balancer, wanted, "{what}");
    }
    let mut world = World::of(&wanted);
    world.service(&options).load_balancer.listeners.clear();
    let empty = desired([]);
    assert_ne!(world.seen().load_balancer, empty);
    world.apply(&empty);
    assert_eq!(world.names(), [&ServiceName::main(&lb())]);
}

#[test]
fn what_is_altered_is_not_repaired_before_its_time() {
    let options = affinity(60);
    let wanted = desired([(tcp(1001), listener(options.clone()))]);
    let mut world = World::of(&wanted);
    world.service(&options).load_balancer.attributes.insert(attribute::STATUS.to_owned(), "192.0.2.9".to_owned());
    let targets = distribute(&lb(), &world.existing, &world.seen().load_balancer, false, &Unavailable::new()).targets;
    assert_eq!(closing(&world.service(&options).load_balancer, &targets[&service_of(&lb(), &options)]), None);
    assert_eq!(targets[&service_of(&lb(), &options)], world.service(&options).load_balancer);
}

#[test]
fn source_ranges_that_another_client_removed_come_back_before_anything_opens() {
    let options = ranges(&["192.0.2.0/24"]);
    let wanted = desired([(tcp(1001), listener(options.clone())), (tcp(1002), listener(affinity(60)))]);
    let mut world = World::of(&desired([(tcp(1001), listener(options.clone()))]));
    let ranges = attribute::LOAD_BALANCER_SOURCE_RANGES;
    world.service(&options).load_balancer.attributes.insert(ranges.to_owned(), String::new());
    let name = service_of(&lb(), &options);
    let targets = distribute(&lb(), &world.existing, &wanted, false, &Unavailable::new()).targets;
    let step = closing(&world.existing[&name].load_balancer, &targets[&name]).expect("it is corrected first");
    assert_eq!(step.changes, [Change::Configure]);
    assert_eq!(step.target.attributes[ranges], "192.0.2.0/24");
}

#[test]
fn a_port_that_another_service_of_the_load_balancer_has_is_refused_alone() {
    let mut world = World::of(&desired([(tcp(1001), listener(affinity(60)))]));
    let theirs = FrontPort { port: NonZeroU16::new(1002).unwrap(), transport: crate::model::Transport::Tcp };
    world.service(&affinity(60)).foreign.insert(theirs);
    let failed = world.apply(&desired([1001, 1002, 1003].map(|port| (tcp(port), listener(affinity(120))))));
    assert!(matches!(&failed[&tcp(1002)], Error::PortInUse(why) if why.to_string().contains("1002/TCP")), "{failed:?}");
    assert_eq!(world.service(&affinity(120)).load_balancer.listeners.len(), 2);
    assert!(world.names().contains(&&service_of(&lb(), &affinity(60))), "a Service with a foreign port stays");
}

#[test]
fn a_listener_stays_while_another_service_has_a_port_of_its_successor() {
    let of_group = |options| (tcp(1001), listener(options));
    let mut world = World::of(&desired([of_group(affinity(60)), (tcp(1002), listener(affinity(120)))]));
    let theirs = FrontPort { port: NonZeroU16::new(1002).unwrap(), transport: crate::model::Transport::Udp };
    world.service(&affinity(60)).foreign.insert(theirs);
    let both = ListenerKey { protocol: Protocol::TcpUdp, ..tcp(1002) };
    let wanted = desired([of_group(affinity(60)), (both, listener(affinity(120)))]);
    let failed = world.apply(&wanted);
    assert!(matches!(&failed[&both], Error::PortInUse(_)), "{failed:?}");
    let open: Vec<ListenerKey> = world.seen().load_balancer.listeners.into_keys().collect();
    assert_eq!(open, [tcp(1001), tcp(1002)]);
}

#[test]
fn a_namespace_has_eight_different_options_and_other_namespaces_have_theirs() {
    let nth = |number: u16| (tcp(1000 + number), listener(affinity(number.into())));
    let mut wanted = desired((2..=9).map(nth));
    let mut world = World::of(&wanted);
    // The first one sorts before those that the namespace has.
    wanted.listeners.extend([nth(1), (tcp(2001), of_namespace("other", affinity(1)))]);
    let failed = world.apply(&wanted);
    assert_eq!(failed.keys().collect::<Vec<_>>(), [&tcp(1001)]);
    let why = failed[&tcp(1001)].to_string();
    assert!(why.contains("namespace team") && why.contains("8 different"), "{why}");
    wanted.listeners.remove(&tcp(1001));
    assert_eq!(world.seen().load_balancer, wanted);
}

#[test]
fn a_listener_whose_new_options_are_one_too_many_stays_unless_others_would_be_served() {
    let eight = (1..=8).map(|number| (tcp(1000 + number), listener(affinity(number.into()))));
    let with = |options| desired(eight.clone().chain([(tcp(2000), listener(options))]));
    for (before, after, stays) in [
        (ListenerOptions::default(), affinity(60), true),
        (ListenerOptions::default(), ranges(&["192.0.2.0/24"]), false),
    ] {
        let mut world = World::of(&with(before.clone()));
        assert_eq!(world.apply(&with(after)).into_keys().collect::<Vec<_>>(), [tcp(2000)]);
        let found = world.seen().load_balancer.listeners.get(&tcp(2000)).map(|found| found.options.clone());
        assert_eq!(found, stays.then_some(before));
    }
    let mut world = World::of(&with(ListenerOptions::default()));
    let mut of_another = with(affinity(60));
    let owner = Owner { claim: "another".into(), ..of_another.listeners[&tcp(2000)].owner.clone() };
    of_another.listeners.insert(tcp(2000), Listener { owner, ..listener(affinity(60)) });
    world.apply(&of_another);
    assert!(!world.seen().load_balancer.listeners.contains_key(&tcp(2000)), "another claim gets the port");
}

#[test]
fn a_listener_stays_while_its_successor_cannot_have_its_options() {
    let both = |number: u16| ListenerKey { protocol: Protocol::TcpUdp, ..tcp(number) };
    let eight = (1..=8).map(|number| (tcp(1000 + number), listener(affinity(number.into()))));
    let with = |own| desired(eight.clone().chain([own]));
    let before = ranges(&["192.0.2.0/24"]);
    for (after, stays) in [(affinity(60), true), (ranges(&["192.0.2.0/25"]), false)] {
        // The namespace has seven others, so that these are the eighth options.
        let mut world = World::of(&desired(eight.clone().skip(1).chain([(tcp(2000), listener(before.clone()))])));
        let wanted = with((both(2000), listener(after.clone())));
        assert_eq!(world.apply(&wanted).into_keys().collect::<Vec<_>>(), [both(2000)], "{after:?}");
        let open = world.seen().load_balancer.listeners;
        assert_eq!(open.contains_key(&tcp(2000)), stays, "{after:?}");
        assert!(!open.contains_key(&both(2000)));
    }
    // Or the Service of its options cannot be created.
    let mut world = World::of(&desired([(tcp(1000), listener(ListenerOptions::default()))]));
    let wanted = desired([(both(1000), listener(affinity(60)))]);
    let service = service_of(&lb(), &affinity(60));
    let targets = distribute(&lb(), &world.existing, &wanted, false, &Unavailable::new()).targets;
    let created: Vec<_> = missing(&world.existing, &targets).into_keys().collect();
    assert_eq!(created, std::slice::from_ref(&service));
    world.unavailable.insert(service, Error::Refused("a quota".into()));
    assert_eq!(world.apply(&wanted).into_keys().collect::<Vec<_>>(), [both(1000)]);
    assert!(world.seen().load_balancer.listeners.contains_key(&tcp(1000)));
    world.unavailable.clear();
    assert_eq!(world.apply(&wanted), BTreeMap::new());
    assert_eq!(world.seen().load_balancer, wanted);
}

#[test]
fn options_with_the_hash_of_others_have_a_service_of_their_own_and_keep_it() {
    let (theirs, ours) = (ranges(&["10.24.156.30/32"]), ranges(&["10.10.154.2/32"]));
    let name = service_of(&lb(), &theirs);
    assert_eq!(name, service_of(&lb(), &ours), "their hashes are the same");
    let mut wanted = desired([(tcp(1001), listener(theirs.clone()))]);
    let mut world = World::of(&wanted);
    // These sort before the ones that are in use.
    wanted.listeners.insert(tcp(1000), of_namespace("attacker", ours.clone()));
    assert_eq!(world.apply(&wanted), BTreeMap::new());
    assert_eq!(world.seen().load_balancer, wanted);
    assert_eq!(options::read(&world.existing[&name].load_balancer.attributes), theirs, "it stays");
    let second = ServiceName::beside(&lb(), &options::identity(&ours)).nth(1).expect("there is another name");
    assert_eq!(options::read(&world.existing[&second].load_balancer.attributes), ours);

    wanted.listeners.remove(&tcp(1001));
    world.apply(&wanted);
    assert_eq!(world.names(), [&ServiceName::main(&lb()), &second], "the first one is free, and nothing moves");
    assert_eq!(world.seen().load_balancer, wanted);
}

#[test]
fn options_that_the_api_server_has_not_taken_are_a_failure() {
    let wanted = desired([(tcp(1000), listener(ListenerOptions::default())), (tcp(1001), listener(affinity(60)))]);
    let mut world = World::of(&wanted);
    assert_eq!(altered(&world.existing, &wanted, &Applied::default()), BTreeMap::new());
    let of_group = world.existing.get_mut(&service_of(&lb(), &affinity(60))).expect("it exists");
    of_group.load_balancer.attributes.extend(options::attributes(&ranges(&["192.0.2.0/24"])));
    let failed = altered(&world.existing, &wanted, &Applied::default());
    assert_eq!(failed.keys().collect::<Vec<_>>(), [&tcp(1001)]);
    let known = Applied { failed, ..Applied::default() };
    assert_eq!(altered(&world.existing, &wanted, &known), BTreeMap::new(), "it has failed for another reason");
}

#[test]
fn a_listener_keeps_its_options_while_the_service_of_others_cannot_be_created() {
    let with = |options| desired([(tcp(1000), listener(options))]);
    for (after, stays) in [(affinity(60), true), (ranges(&["192.0.2.0/24"]), false)] {
        let mut world = World::of(&with(ListenerOptions::default()));
        let service = service_of(&lb(), &after);
        let targets = distribute(&lb(), &world.existing, &with(after.clone()), false, &Unavailable::new()).targets;
        let missing = missing(&world.existing, &targets);
        assert_eq!(missing.keys().collect::<Vec<_>>(), [&service]);
        assert!(missing[&service].listeners.is_empty());

        world.unavailable.insert(service.clone(), Error::Refused("a quota".into()));
        assert_eq!(world.apply(&with(after.clone())).into_keys().collect::<Vec<_>>(), [tcp(1000)]);
        let open = world.seen().load_balancer.listeners;
        assert_eq!(open.contains_key(&tcp(1000)), stays, "it is open to clients that the new options admit only");
        world.unavailable.clear();
        assert_eq!(world.apply(&with(after.clone())), BTreeMap::new());
        assert_eq!(world.seen().load_balancer, with(after));
    }
}
