use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;

use super::plan::{Call, Step, steps, teardown};
use super::record::{Posted, Record, Records, listeners};
use super::settings::Timeouts;
use crate::diff::diff;
use crate::model::arbitrary;
use crate::model::{Backend, FrontPort, Listener, ListenerKey, LoadBalancer, Owner};
use crate::{Change, ChangeSet};

const TIMEOUTS: Timeouts = Timeouts { proxy_timeout_seconds: 600, proxy_connect_timeout_seconds: 0 };

fn key(text: &str) -> ListenerKey {
    text.parse().unwrap()
}

fn listener(claim: &str, hosts: &[u8]) -> Listener {
    let backend = |host: &u8| Backend {
        address: IpAddr::from([10, 0, 0, *host]),
        port: 80.try_into().unwrap(),
        pod: None,
        node: None,
        provider_id: None,
        transport: None,
    };
    let owner = Owner { namespace: "team".into(), claim: claim.into(), port: "".into() };
    Listener::new(owner, hosts.iter().map(backend).collect::<BTreeSet<_>>())
}

fn load_balancer(listeners: &[(&str, Listener)]) -> LoadBalancer {
    let listeners = listeners.iter().map(|(text, listener)| (key(text), listener.clone())).collect();
    LoadBalancer { listeners, ..LoadBalancer::default() }
}

/// The records of a load balancer that is as desired.
fn records(of: &LoadBalancer) -> Records {
    let mut records = Records::new();
    carry_out(&mut records, &plan(&Records::new(), &LoadBalancer::default(), of));
    records
}

fn plan(records: &Records, from: &LoadBalancer, to: &LoadBalancer) -> Vec<Step> {
    steps(records, ChangeSet::new(to, &diff(from, to)), TIMEOUTS, |_| false)
}

fn carry_out(records: &mut Records, steps: &[Step]) {
    for step in steps {
        match &step.record {
            Some(record) => _ = records.insert(step.port, record.clone()),
            None => _ = records.remove(&step.port),
        }
    }
}

/// The calls from one load balancer to another one: `POST 20000/TCP`.
fn calls(from: &LoadBalancer, to: &LoadBalancer) -> Vec<String> {
    plan(&records(from), from, to).iter().filter_map(call).collect()
}

fn call(step: &Step) -> Option<String> {
    let verb = match step.call? {
        Call::Post => "POST",
        Call::Delete => "DELETE",
    };
    Some(format!("{verb} {}", step.port))
}

#[test]
fn a_change_of_endpoints_takes_one_post_for_each_port_concerned() {
    let before = load_balancer(&[("1/TCP", listener("a", &[1])), ("2/TCP", listener("b", &[1]))]);
    let after = load_balancer(&[("1/TCP", listener("a", &[1, 2])), ("2/TCP", listener("b", &[1]))]);
    assert_eq!(calls(&before, &after), ["POST 1/TCP"]);
}

#[test]
fn a_backend_without_servers_is_deleted_instead_of_posted() {
    let [none, some] = [&[][..], &[1]].map(|hosts| load_balancer(&[("1/TCP", listener("a", hosts))]));
    assert_eq!(calls(&some, &none), ["DELETE 1/TCP"]);
    assert_eq!(calls(&none, &some), ["POST 1/TCP"]);
    assert_eq!(listeners(&records(&none)), none.listeners, "the listener stays");
}

#[test]
fn a_port_that_stays_is_handed_over_when_its_listener_is_replaced() {
    let [tcp, both, udp] = ["53/TCP", "53/TCP_UDP", "53/UDP"].map(|key| load_balancer(&[(key, listener("dns", &[1]))]));
    assert_eq!(calls(&tcp, &both), ["POST 53/UDP"], "the updater has the backend of TCP already");
    assert_eq!(calls(&both, &udp), ["DELETE 53/TCP"]);
    assert_eq!(calls(&tcp, &udp), ["DELETE 53/TCP", "POST 53/UDP"]);
}

#[test]
fn an_owner_changes_in_the_journal_alone() {
    let [before, after] = ["a", "b"].map(|claim| load_balancer(&[("1/TCP", listener(claim, &[1]))]));
    let steps = plan(&records(&before), &before, &after);
    assert_eq!((steps.len(), steps[0].call), (1, None));
}

#[test]
fn after_a_call_without_a_result_it_is_made_again() {
    let all =
        load_balancer(&[("1/TCP", listener("a", &[1])), ("2/TCP", listener("b", &[])), ("3/TCP", listener("c", &[1]))]);
    let wanted = load_balancer(&[("1/TCP", listener("a", &[1])), ("2/TCP", listener("b", &[]))]);
    let mut records = records(&all);
    records.values_mut().for_each(|record| record.posted = None);
    let found = LoadBalancer { listeners: listeners(&records), ..LoadBalancer::default() };
    let calls: Vec<String> = plan(&records, &found, &wanted).iter().filter_map(call).collect();
    assert_eq!(calls, ["DELETE 3/TCP", "POST 1/TCP", "DELETE 2/TCP"]);
}

#[test]
fn what_is_due_is_posted_again_but_for_listeners_that_wait() {
    let wanted =
        load_balancer(&[("1/TCP", listener("a", &[1])), ("2/TCP", listener("b", &[])), ("3/TCP", listener("c", &[1]))]);
    let waiting = [key("3/TCP")].into();
    let set = ChangeSet::new(&wanted, &[Change::Configure]).while_waiting(&waiting);
    let repeated: Vec<String> = steps(&records(&wanted), set, TIMEOUTS, |_| true).iter().filter_map(call).collect();
    assert_eq!(repeated, ["POST 1/TCP", "DELETE 2/TCP"]);
    assert!(steps(&records(&wanted), set, TIMEOUTS, |_| false).is_empty());
}

#[test]
fn repetitions_come_after_all_changes() {
    let before = load_balancer(&[("1/TCP", listener("a", &[1])), ("2/TCP", listener("b", &[1]))]);
    let after = load_balancer(&[("1/TCP", listener("a", &[1])), ("3/TCP", listener("c", &[1]))]);
    let changes: Vec<Change> = [Change::Configure].into_iter().chain(diff(&before, &after)).collect();
    let steps = steps(&records(&before), ChangeSet::new(&after, &changes), TIMEOUTS, |_| true);
    assert_eq!(steps.iter().filter_map(call).collect::<Vec<_>>(), ["DELETE 2/TCP", "POST 3/TCP", "POST 1/TCP"]);
}

/// What is left of a port: it has no backend at the updater.
fn left(of: &LoadBalancer, port: &str, alter: impl Fn(Record) -> Record) -> (Records, FrontPort) {
    let mut records = records(of);
    let port: FrontPort = port.parse().unwrap();
    let found = records.remove(&port).unwrap();
    let deleted = Posted { servers: BTreeSet::new(), timeouts: TIMEOUTS };
    records.insert(port, alter(Record { posted: Some(deleted), ..found }));
    (records, port)
}

#[test]
fn a_port_that_is_closing_is_not_deleted_again_before_it_is_due() {
    let all = load_balancer(&[("1/TCP", listener("a", &[1]))]);
    let (records, _) = left(&all, "1/TCP", |record| Record { closing: true, ..record });
    let found = LoadBalancer { listeners: listeners(&records), ..LoadBalancer::default() };
    let none = LoadBalancer::default();
    let changes = diff(&found, &none);
    let calls = |due| steps(&records, ChangeSet::new(&none, &changes), TIMEOUTS, |_| due);
    assert_eq!(calls(false).iter().map(|step| step.call).collect::<Vec<_>>(), [None]);
    assert_eq!(calls(true).iter().map(|step| step.call).collect::<Vec<_>>(), [Some(Call::Delete)]);
}

#[test]
fn what_a_lost_call_may_have_left_is_deleted_again_when_it_is_due() {
    let all = load_balancer(&[("1/TCP", listener("a", &[1])), ("2/TCP", listener("b", &[1]))]);
    let wanted = load_balancer(&[("1/TCP", listener("a", &[1]))]);
    let (records, port) = left(&all, "2/TCP", |record| Record { lost: true, released: true, ..record });
    assert_eq!(listeners(&records), wanted.listeners, "it is no listener");
    let set = ChangeSet::new(&wanted, &[Change::Configure]);
    let repeated = steps(&records, set, TIMEOUTS, |due| due == port);
    assert_eq!(repeated.iter().filter_map(call).collect::<Vec<_>>(), ["DELETE 2/TCP"]);
    assert!(repeated[0].record.is_none());
}

#[test]
fn everything_is_deleted_at_the_end() {
    let records = records(&load_balancer(&[("53/TCP_UDP", listener("dns", &[1])), ("1/TCP", listener("a", &[]))]));
    let calls: Vec<String> = teardown(&records).iter().filter_map(call).collect();
    assert_eq!(calls, ["DELETE 1/TCP", "DELETE 53/TCP", "DELETE 53/UDP"]);
}

/// A load balancer as this provider records it, in which no two listeners have one port.
fn recorded(of: LoadBalancer) -> LoadBalancer {
    let mut recorded = LoadBalancer { attributes: of.attributes, ..LoadBalancer::default() };
    for (key, listener) in of.listeners {
        if recorded.listeners.keys().any(|other: &ListenerKey| other.overlaps(key)) {
            continue;
        }
        let plain = |backend: Backend| Backend { pod: None, node: None, provider_id: None, ..backend };
        let of = |transport| listener.backends_of(transport).into_iter().map(plain).collect();
        let backends = Backend::by_transport(key.protocol, of);
        recorded.listeners.insert(key, Listener::new(listener.owner, backends));
    }
    recorded
}

proptest! {
    /// From any load balancer to any other one, killed after any number of steps: the next
    /// process reaches the same state. No backend is posted without servers.
    #[test]
    fn a_process_that_is_killed_anywhere_is_continued_by_the_next_one(
        (before, after) in (arbitrary::load_balancers(), arbitrary::load_balancers()),
        done in 0..20_usize,
        begun in 0..20_usize,
    ) {
        let (before, after) = (recorded(before), recorded(after));
        let mut at = records(&before);
        let planned = plan(&at, &before, &after);
        for step in planned.iter().filter(|step| step.call == Some(Call::Post)) {
            let posted: Option<&Posted> = step.record.as_ref().and_then(|record| record.posted.as_ref());
            prop_assert!(posted.is_some_and(|posted| !posted.servers.is_empty()));
        }
        carry_out(&mut at, &planned[..done.min(planned.len())]);
        for step in planned.iter().skip(done).take(begun) {
            let record = step.record.clone().or_else(|| at.get(&step.port).cloned());
            at.extend(record.map(|record: Record| (step.port, Record { posted: None, ..record })));
        }
        let found = LoadBalancer { attributes: before.attributes.clone(), listeners: listeners(&at) };
        let taken: Vec<FrontPort> = found.listeners.keys().flat_map(|key| key.front_ports()).collect();
        prop_assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len(), "two listeners have one port");
        let rest = plan(&at, &found, &after);
        carry_out(&mut at, &rest);
        prop_assert_eq!(listeners(&at), after.listeners);
    }
}
