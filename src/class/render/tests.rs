use std::collections::BTreeMap;

use sharedlb_providers::memory::Memory;
use sharedlb_providers::{Capacity, ListenerOptions, Owner};

use super::*;
use crate::class::programmed::programmed;
use crate::class::transitions::transitions;
use crate::fixtures::{claim, served};
use crate::kubernetes::events::EventType;
use crate::load_balancer::desired::Plan;
use crate::load_balancer::outcome::{ListenerOutcome, MaybeOpen, Outcome};

fn ready_with(addresses: &[&str], idle: &[(&str, IpFamily)]) -> (String, String, String) {
    let claim = claim("web").holds(0, 20001).build();
    let idle = idle.iter().map(|(port, family)| {
        let why = format!("no ready pod has an {family} address");
        IdleFamily { port: (*port).into(), family: *family, why }
    });
    let programmed = Programmed::Served(Served { idle_families: idle.collect(), ..Served::default() });
    let addresses = addresses.iter().map(|address| Address::parse(address)).collect();
    let verdict = Verdict { programmed, addresses: Some(addresses), ..served(&claim) };
    let status = status(&claim, Some("default"), &verdict, Timestamp::UNIX_EPOCH);
    let ready = conditions::find(&status.conditions, ConditionType::Ready).unwrap().clone();
    (ready.status, ready.reason, ready.message)
}

#[test]
fn ready_names_the_address_that_leads_to_no_backend() {
    let both = ["10.0.0.1", "fd00::1"];
    let (status, reason, message) = ready_with(&both, &[("x", IpFamily::V6)]);
    assert_eq!((&*status, &*reason), ("True", "AddressWithoutBackends"));
    assert_eq!(
        message,
        "every port is served, and has a backend; but port x: nothing answers at fd00::1, \
         since no ready pod has an IPv6 address"
    );
    let (status, reason, message) = ready_with(&["lb.example.com"], &[("", IpFamily::V6)]);
    assert_eq!((&*status, &*reason), ("True", "AddressWithoutBackends"));
    assert!(message.contains("nothing answers at the IPv6 address of lb.example.com"), "{message}");
}

#[test]
fn a_family_without_an_address_is_not_reported() {
    let (status, reason, _) = ready_with(&["10.0.0.1"], &[("x", IpFamily::V6)]);
    assert_eq!((&*status, &*reason), ("True", "Ready"));
}

#[test]
fn a_port_that_no_address_leads_to_is_not_ready() {
    let (status, reason, message) = ready_with(&["10.0.0.1"], &[("", IpFamily::V4)]);
    assert_eq!((&*status, &*reason), ("False", "NoBackends"));
    assert_eq!(message, "nothing answers at 10.0.0.1, since no ready pod has an IPv4 address");
}

#[test]
fn a_partly_served_port_is_not_ready_for_the_reported_reason() {
    let claim = claim("web").holds(0, 20001).build();
    let failure = Failure { reason: Reason::Unsupported, message: "only its TCP gets traffic".into() };
    let without_backends = vec![("dns".into(), Some(failure))];
    let programmed = Programmed::Served(Served { without_backends, ..Served::default() });
    let verdict = Verdict { programmed, ..served(&claim) };
    let status = status(&claim, Some("default"), &verdict, Timestamp::UNIX_EPOCH);
    let said = |kind| {
        let condition = conditions::find(&status.conditions, kind).unwrap();
        (condition.status.clone(), condition.reason.clone())
    };
    assert_eq!(said(ConditionType::Programmed), ("True".into(), "Programmed".into()), "its port stays open");
    assert_eq!(said(ConditionType::Ready), ("False".into(), "Unsupported".into()));
    let message = &conditions::find(&status.conditions, ConditionType::Ready).unwrap().message;
    assert_eq!(message, "port dns: only its TCP gets traffic");
}

#[test]
fn a_port_some_of_whose_backends_are_left_out_is_served_and_says_how_many_get_traffic() {
    let claim = claim("web").holds(0, 20001).build();
    let left_out = LeftOut { served: 120, all: 1400, limit: 500, of_listener: false };
    let verdict = |left_out: &[LeftOut]| {
        let left_out = left_out.iter().map(|left_out| ("x".into(), *left_out)).collect();
        Verdict { programmed: Programmed::Served(Served { left_out, ..Served::default() }), ..served(&claim) }
    };
    let before = status(&claim, Some("default"), &verdict(&[]), Timestamp::UNIX_EPOCH);
    let after = status(&claim, Some("default"), &verdict(&[left_out]), Timestamp::UNIX_EPOCH);
    let programmed = conditions::find(&after.conditions, ConditionType::Programmed).unwrap();
    assert_eq!((programmed.status.as_str(), programmed.reason.as_str()), ("True", "BackendsLeftOut"));
    assert_eq!(
        programmed.message,
        "the load balancer serves every port that is allocated; port x: 120 of 1400 backends get traffic, \
         since load balancer 0 takes 500 for all ports together"
    );
    assert_eq!(conditions::find(&after.conditions, ConditionType::Ready).unwrap().status, "True");
    let reported = transitions(&before.conditions, &after.conditions, None);
    assert_eq!(
        reported.iter().map(|notice| (notice.kind == EventType::Warning, notice.reason.as_str())).collect::<Vec<_>>(),
        [(false, "BackendsLeftOut")]
    );
}

/// A claim that holds two ports, each of which was opened or not, and of which the
/// status lists these as reached.
fn two_ports(opened: [bool; 2], reached: &[u16]) -> Arc<ClaimObject> {
    let port = |name: &str, port: u16, opened: bool| serde_json::json!({"name": name, "port": port, "opened": opened});
    let reached: Vec<_> = reached.iter().map(|port| serde_json::json!({"port": port, "protocol": "TCP"})).collect();
    let status = serde_json::json!({
        "className": "default", "loadBalancerIndex": 0,
        "ports": [port("a", 20001, opened[0]), port("b", 20002, opened[1])],
        "loadBalancer": {"ingress": [{"ip": "10.0.0.1", "ports": reached}]},
    });
    claim("web").ports(serde_json::json!([{"name": "a"}, {"name": "b"}])).protected().status(status).build()
}

/// The ports that a status lists as opened, and those that it lists as reached, where
/// these listeners are open and the others of the claim fail.
fn opened_and_reached(claim: &ClaimObject, open: &[u16], addresses: &[&str]) -> (Vec<u16>, Vec<u16>) {
    let addresses: Arc<[Address]> = addresses.iter().map(|address| Address::parse(address)).collect();
    let listeners = claim.request.held.iter().flat_map(|held| held.slots.iter()).map(|slot| {
        let owner = Owner { namespace: "team".into(), claim: "web".into(), port: slot.name.clone() };
        let is_open = open.contains(&slot.key.port.get());
        let refused = || Failure { reason: Reason::ProviderRefused, message: "no".into() };
        let failure = (!is_open).then(refused);
        (slot.key, ListenerOutcome { open: is_open, backends: is_open, failure, ..ListenerOutcome::closed(&owner) })
    });
    let outcome = outcome(addresses.clone(), listeners.collect());
    let held = claim.request.held.clone().unwrap();
    let programmed = programmed(claim, &held, None, Some(&outcome), |_, _| None, |_, _| None);
    let open = crate::class::programmed::open(claim, &outcome);
    let verdict = Verdict { held: Some(held), refused: None, programmed, addresses: Some(addresses), open };
    let status = status(claim, Some("default"), &verdict, Timestamp::UNIX_EPOCH);
    let opened = status.ports.iter().filter(|port| port.opened).map(|port| port.port.get()).collect();
    let ingress = status.load_balancer.iter().flat_map(|found| &found.ingress);
    (opened, ingress.flat_map(|ingress| &ingress.ports).map(|port| port.port.get()).collect())
}

fn outcome(addresses: Arc<[Address]>, listeners: BTreeMap<ListenerKey, ListenerOutcome>) -> Outcome {
    Outcome {
        plan: Arc::new(Plan::new(Arc::new(Memory::default()), 0, None)),
        since: MaybeOpen::default(),
        exists: Some(true),
        addresses,
        no_address: None,
        capacity: Capacity::default(),
        foreign: BTreeSet::new(),
        listeners: Arc::new(listeners),
        failure: None,
        recreated: 0,
    }
}

#[test]
fn a_port_that_is_open_is_recorded_as_opened_although_its_sibling_never_was() {
    let claim = two_ports([false, false], &[]);
    assert_eq!(opened_and_reached(&claim, &[20001], &["10.0.0.1"]), (vec![20001], vec![20001]));
    let claim = two_ports([true, false], &[20001]);
    assert_eq!(opened_and_reached(&claim, &[20001], &[]), (vec![20001], vec![]), "the address is lost");
}

#[test]
fn a_port_of_a_load_balancer_without_an_address_was_never_opened() {
    let claim = two_ports([false, false], &[]);
    assert_eq!(opened_and_reached(&claim, &[20001, 20002], &[]), (vec![], vec![]), "it may move to another");
}

#[test]
fn once_the_address_is_back_the_ports_that_are_open_there_are_listed_although_another_one_fails() {
    let claim = two_ports([true, true], &[]);
    assert_eq!(opened_and_reached(&claim, &[20001], &["10.0.0.1"]), (vec![20001, 20002], vec![20001]));
}

#[test]
fn a_port_is_listed_once_it_opens_although_another_one_fails() {
    let claim = two_ports([true, false], &[20001]);
    let both = vec![20001, 20002];
    assert_eq!(opened_and_reached(&claim, &[20002], &["10.0.0.1"]), (both.clone(), both));
}

#[test]
fn a_listener_that_gets_no_traffic_is_not_programmed_and_its_port_is_not_listed() {
    let claim = two_ports([false, false], &[]);
    let held = claim.request.held.clone().unwrap();
    let refused = Failure { reason: Reason::ProviderRefused, message: "no node serves it".into() };
    let listeners = held.slots.iter().map(|slot| {
        let owner = Owner { namespace: "team".into(), claim: "web".into(), port: slot.name.clone() };
        let unserved = (&*slot.name == "a").then(|| refused.clone());
        (slot.key, ListenerOutcome { open: true, backends: true, unserved, ..ListenerOutcome::closed(&owner) })
    });
    let outcome = outcome([Address::parse("10.0.0.1")].into(), listeners.collect());
    let programmed = programmed(&claim, &held, None, Some(&outcome), |_, _| None, |_, _| None);
    assert_eq!(programmed, Programmed::Failed(refused));
    let open = crate::class::programmed::open(&claim, &outcome);
    assert_eq!(open.iter().map(ToString::to_string).collect::<Vec<_>>(), ["20002/TCP"]);
}

#[test]
fn a_claim_has_all_addresses_of_its_load_balancer_and_keeps_them_while_those_are_not_known() {
    let addresses: Arc<[Address]> = ["10.0.0.1", "fd00::1"].iter().map(|address| Address::parse(address)).collect();
    let before = claim("web").holds(0, 20001).build();
    let verdict = Verdict { addresses: Some(addresses), ..served(&before) };
    let rendered = status(&before, Some("default"), &verdict, Timestamp::UNIX_EPOCH);
    assert_eq!(rendered.address.as_deref(), Some("10.0.0.1"));
    assert_eq!(rendered.addresses, ["10.0.0.1", "fd00::1"]);

    let restarted = claim("web").holds(0, 20001).rendered(&rendered).build();
    let unknown = Verdict { programmed: Programmed::Unknown, addresses: None, ..served(&restarted) };
    let again = status(&restarted, Some("default"), &unknown, Timestamp::UNIX_EPOCH);
    assert_eq!(again.addresses, ["10.0.0.1", "fd00::1"]);

    let by_an_earlier_version = claim("web").rendered(&SharedLBStatus { addresses: Vec::new(), ..rendered }).build();
    let again = status(&by_an_earlier_version, Some("default"), &unknown, Timestamp::UNIX_EPOCH);
    assert_eq!(again.addresses, ["10.0.0.1"]);
}

#[test]
fn an_address_of_a_family_of_which_no_client_is_admitted_is_none_of_the_claim() {
    let all: Arc<[Address]> = ["10.0.0.1", "fd00::1", "lb.example.com"].map(Address::parse).into();
    let listed = |ranges: serde_json::Value, found: ListenerOptions| {
        let claim = claim("web").holds(0, 20001).spec("loadBalancerSourceRanges", ranges).build();
        let held = claim.request.held.clone().unwrap();
        let owner = Owner { namespace: "team".into(), claim: "web".into(), port: "x".into() };
        let listener = ListenerOutcome { open: true, options: found, ..ListenerOutcome::closed(&owner) };
        let outcome = outcome(all.clone(), [(held.slots[0].key, listener)].into());
        crate::class::programmed::addresses(&claim, &held, &outcome)
    };
    let v6 = ListenerOptions::new(["fd00::/8".parse().unwrap()], None);
    let only_v4 = [all[0].clone(), all[2].clone()];
    let only_v6 = [all[1].clone(), all[2].clone()];
    assert_eq!(*listed(serde_json::json!([]), v6.clone()), *all, "as requested, whatever is in force");
    assert_eq!(*listed(serde_json::json!(["10.0.0.0/8"]), ListenerOptions::default()), only_v4);
    assert_eq!(*listed(serde_json::json!(["10.0.0.0/8", "fd00::/8"]), ListenerOptions::default()), *all);
    assert_eq!(*listed(serde_json::json!("nonsense"), v6), only_v6, "as its listener has it");
}

#[test]
fn an_edit_is_programmed_once_the_listener_has_its_options() {
    let claim = claim("web").holds(0, 20001).build();
    let held = claim.request.held.clone().unwrap();
    let narrow = ListenerOptions::new(["10.0.0.0/8".parse().unwrap()], None);
    let programmed = |wanted: &ListenerOptions, found: &ListenerOptions| {
        let owner = Owner { namespace: "team".into(), claim: "web".into(), port: "x".into() };
        let listener =
            ListenerOutcome { open: true, options: found.clone(), backends: true, ..ListenerOutcome::closed(&owner) };
        let outcome = outcome(Arc::default(), [(held.slots[0].key, listener)].into());
        programmed(&claim, &held, Some(wanted), Some(&outcome), |_, _| None, |_, _| None)
    };
    assert_eq!(programmed(&narrow, &narrow), Programmed::Served(Served::default()));
    assert_eq!(programmed(&narrow, &ListenerOptions::default()), Programmed::Pending);
    assert_eq!(programmed(&ListenerOptions::default(), &narrow), Programmed::Pending);
}

#[test]
fn a_timeout_that_cannot_be_set_counts_as_the_least() {
    let claim = claim("web").holds(0, 20001).build();
    let least_affinity = Some(Duration::from_secs(600));
    let programmed = Programmed::Served(Served { least_affinity, ..Served::default() });
    let verdict = Verdict { programmed, ..served(&claim) };
    let status = status(&claim, Some("default"), &verdict, Timestamp::UNIX_EPOCH);
    let programmed = conditions::find(&status.conditions, ConditionType::Programmed).unwrap();
    assert_eq!((programmed.status.as_str(), programmed.reason.as_str()), ("True", "Programmed"));
    assert!(programmed.message.contains("session affinity lasts for at least 600 s"), "{}", programmed.message);
    assert_eq!(conditions::find(&status.conditions, ConditionType::Ready).unwrap().status, "True");
}
