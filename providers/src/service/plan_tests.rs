//! What one apply writes, from a load balancer as it is to one as it should be.

use std::num::NonZeroU16;

use sharedlb_kubernetes::ObjectMeta;

use super::*;
use crate::diff::diff;
use crate::model::{Backend, BackendSet, LbName, Listener, Owner, Protocol};
use crate::service::marks::Marks;

fn service() -> ServiceName {
    ServiceName::main(&LbName::from_recorded("slb-default-0-0123456789"))
}

fn key(port: u16, protocol: Protocol) -> ListenerKey {
    ListenerKey { port: NonZeroU16::new(port).unwrap(), protocol }
}

fn listener(hosts: impl IntoIterator<Item = u8>) -> Listener {
    let backend = |host| Backend {
        address: [10, 244, 0, host].into(),
        port: NonZeroU16::MIN,
        pod: None,
        node: None,
        provider_id: None,
        transport: None,
    };
    let owner = Owner { namespace: "team".into(), claim: "claim".into(), port: "".into() };
    Listener::new(owner, hosts.into_iter().map(backend).collect::<BackendSet>())
}

fn wanted(listeners: impl IntoIterator<Item = (ListenerKey, Listener)>) -> LoadBalancer {
    LoadBalancer { listeners: listeners.into_iter().collect(), ..LoadBalancer::default() }
}

fn front(of: &LoadBalancer) -> Front {
    Front { ours: ports(of.listeners.keys()), ..Front::default() }
}

/// The names of the slices that are written and deleted on the way from one
/// to the other, without the load balancer's.
fn writes(from: &LoadBalancer, to: &LoadBalancer) -> (Vec<String>, Vec<String>) {
    let (first, written, last) = writes_with(&front(from), from, to);
    assert_eq!(first, are(&[]));
    (written, last)
}

/// The slices that are deleted before ports open, written, and deleted last.
fn writes_with(front: &Front, from: &LoadBalancer, to: &LoadBalancer) -> (Vec<String>, Vec<String>, Vec<String>) {
    let (service, uid, marks) = (service(), Arc::from("uid"), Marks::new("lbs", "default", "cluster"));
    let new = ApplyPlan::new(from, &[], None).slices_to_open(&SlicesThere::new(&service, &uid, [].into_iter()));
    let there: Vec<Entry<SeenSlice>> = new
        .into_iter()
        .flat_map(|work| work.write)
        .map(|slice| {
            let meta = ObjectMeta::of(&slice.object(&marks));
            let seen = SeenSlice { place: slice.place, slice: Some(slice) };
            Entry { service: service.clone(), meta, seen }
        })
        .collect();
    let there = SlicesThere::new(&service, &uid, there.iter());
    let plan = ApplyPlan::new(to, &diff(from, to), Some(front));
    let (mut first, mut written, mut last) = (Vec::new(), Vec::new(), Vec::new());
    let short = |name: &str| name.strip_prefix(&format!("{service}-")).unwrap().to_owned();
    for work in plan.slices_to_open(&there).into_iter().chain(plan.slices_in_place(&there)) {
        let delete = if work.delete_first { &mut first } else { &mut last };
        delete.extend(work.delete.iter().map(|id| short(&id.name)));
        written.extend(work.write.iter().map(|slice| short(&slice.name())));
    }
    (first, written, last)
}

fn are(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn only_the_slices_of_what_changes_are_written() {
    let (a, b) = (key(20000, Protocol::Tcp), key(20001, Protocol::TcpUdp));
    let from = wanted([(a, listener([1])), (b, listener([2]))]);
    let to = wanted([(a, listener([1])), (b, listener([2, 3]))]);
    assert_eq!(writes(&from, &to), (are(&["20001-tcp-v4-1-0", "20001-udp-v4-1-0"]), are(&[])));
    assert_eq!(writes(&from, &from), (are(&[]), are(&[])));
}

#[test]
fn the_first_backend_replaces_the_empty_slice_and_the_last_one_leaves_it() {
    let key = key(20000, Protocol::Tcp);
    let (none, one) = (wanted([(key, listener([]))]), wanted([(key, listener([1]))]));
    assert_eq!(writes(&none, &one), (are(&["20000-tcp-v4-1-0"]), are(&["20000-tcp-v4-none-0"])));
    assert_eq!(writes(&one, &none), (are(&["20000-tcp-v4-none-0"]), are(&["20000-tcp-v4-1-0"])));
}

#[test]
fn what_is_closed_loses_its_slices_and_what_another_protocol_takes_over_keeps_its_half() {
    let (both, tcp) = (key(20000, Protocol::TcpUdp), key(20000, Protocol::Tcp));
    let from = wanted([(both, listener([1])), (key(20001, Protocol::Tcp), listener([1]))]);
    let to = wanted([(tcp, listener([1]))]);
    assert_eq!(writes(&from, &to), (are(&["20000-tcp-v4-1-0"]), are(&["20000-udp-v4-1-0", "20001-tcp-v4-1-0"])));
}

#[test]
fn what_an_earlier_listener_has_left_is_gone_before_its_port_opens_for_another() {
    // The apply was interrupted after its Service port was closed.
    let left = wanted([(key(20000, Protocol::Tcp), listener([1])), (key(20001, Protocol::Tcp), listener([1]))]);
    let mut next = listener([2]);
    next.backends =
        next.backends.iter().map(|each| Backend { port: 8080.try_into().unwrap(), ..each.clone() }).collect();
    let to = wanted([(key(20000, Protocol::Tcp), next)]);
    let (first, written, last) = writes_with(&Front::default(), &left, &to);
    assert_eq!(first, are(&["20000-tcp-v4-1-0"]));
    assert_eq!((written, last), (are(&["20000-tcp-v4-8080-0"]), are(&["20001-tcp-v4-1-0"])));
}

#[test]
fn a_port_that_a_has_foreign_is_left_out_and_its_neighbours_are_not() {
    let to = wanted([(key(20000, Protocol::TcpUdp), listener([1])), (key(20001, Protocol::Tcp), listener([1]))]);
    let theirs = key(20000, Protocol::Udp).front_ports().map(|port| (port, "theirs".to_owned()));
    let there = Front { foreign: theirs.collect(), ..Front::default() };
    let plan = ApplyPlan::new(&to, &diff(&LoadBalancer::default(), &to), Some(&there));
    assert!(
        matches!(&plan.failed[&key(20000, Protocol::TcpUdp)], Error::PortInUse(why) if format!("{why:#}").contains("theirs"))
    );
    assert_eq!(plan.ports_with(&plan.openings), ports(&[key(20001, Protocol::Tcp)]));
    let (service, uid) = (service(), "uid".into());
    let slices = plan.slices_to_open(&SlicesThere::new(&service, &uid, [].into_iter()));
    assert_eq!(slices.iter().map(|work| work.listener).collect::<Vec<_>>(), [Some(key(20001, Protocol::Tcp))]);
}

#[test]
fn a_listener_that_loses_a_protocol_needs_no_opening() {
    let (both, tcp) = (key(20000, Protocol::TcpUdp), key(20000, Protocol::Tcp));
    let (from, to) = (wanted([(both, listener([1]))]), wanted([(tcp, listener([1]))]));
    let plan = ApplyPlan::new(&to, &diff(&from, &to), Some(&front(&from)));
    assert_eq!((&plan.stays, &plan.closing), (&ports(&[tcp]), &ports(&[key(20000, Protocol::Udp)])));
    assert_eq!((plan.openings, plan.in_place), (vec![], [tcp].into()));
}

#[test]
fn a_port_that_another_claim_gets_is_closed_in_between() {
    let (both, udp) = (key(20000, Protocol::TcpUdp), key(20000, Protocol::Udp));
    let mut theirs = listener([2]);
    theirs.owner.claim = "other".into();
    let (from, to) = (wanted([(both, listener([1]))]), wanted([(udp, theirs)]));
    let plan = ApplyPlan::new(&to, &diff(&from, &to), Some(&front(&from)));
    assert_eq!((&plan.stays, &plan.closing), (&BTreeSet::new(), &ports(&[both])));
    assert_eq!(plan.ports_with(&plan.openings), ports(&[udp]));
}

#[test]
fn what_is_said_to_open_and_is_open_is_written_in_place() {
    let to = wanted([(key(20000, Protocol::TcpUdp), listener([1]))]);
    let plan = ApplyPlan::new(&to, &diff(&LoadBalancer::default(), &to), Some(&front(&to)));
    assert_eq!((plan.openings, plan.in_place), (vec![], [key(20000, Protocol::TcpUdp)].into()));
}

#[test]
fn a_listener_none_of_whose_ports_its_successor_has_closes_without_it() {
    let (tcp, udp) = (key(53, Protocol::Tcp), key(53, Protocol::Udp));
    let (from, to) = (wanted([(tcp, listener([1]))]), wanted([(udp, listener([1]))]));
    let plan = ApplyPlan::new(&to, &diff(&from, &to), Some(&front(&from)));
    assert_eq!(plan.closing, tcp.front_ports().collect());
    assert_eq!(plan.openings.iter().flat_map(Opening::listeners).collect::<Vec<_>>(), [udp]);
}

#[test]
fn a_listener_whose_record_is_lost_is_written_again_and_stays_open() {
    let to = wanted([(key(20000, Protocol::TcpUdp), listener([1]))]);
    let unknown = Listener { owner: Owner::unknown(), ..listener([]) };
    let halves = [Protocol::Tcp, Protocol::Udp].map(|half| (key(20000, half), unknown.clone()));
    let plan = ApplyPlan::new(&to, &diff(&wanted(halves), &to), Some(&front(&to)));
    assert_eq!((plan.closing, plan.openings), (BTreeSet::new(), vec![]));
    assert_eq!(plan.in_place, [key(20000, Protocol::TcpUdp)].into());
}
