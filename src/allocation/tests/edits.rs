//! Edits of a claim's list of ports: what is still wanted keeps its number.

use proptest::prelude::*;
use serde_json::{Value, json};
use sharedlb_crds::SharedLBStatus;

use super::*;
use crate::api::claim::ClaimObject;
use crate::class::render;
use crate::fixtures::served_slots;

const TCP: Protocol = Protocol::Tcp;
const UDP: Protocol = Protocol::Udp;
const BOTH: Protocol = Protocol::TcpUdp;

fn only(claim: ClaimRequest) -> Assignment {
    run(&[claim], &existing(1), &policy()).remove(0)
}

/// Where TCP and UDP cannot have one number side by side.
fn without_sharing() -> Policy {
    Policy { tcp_and_udp_share_a_number: false, ..policy() }
}

#[test]
fn an_unnamed_port_that_gets_a_name_since_a_second_one_is_added_keeps_its_number() {
    for named in [
        claim("a", 1).leads("web", TCP, "http").leads("tls", TCP, "https"),
        claim("a", 1).leads("tls", TCP, "https").leads("web", TCP, "http"),
    ] {
        let got = only(named.holds(0, "", tcp(20005)).led("http"));
        assert!(slots(&got).contains(&(0, "web", tcp(20005))), "{got:?}");
        assert_eq!(slots(&got).len(), 2);
        assert_eq!(got.dropped, [], "a name is only a name");
    }
}

#[test]
fn a_port_that_is_renamed_and_leads_elsewhere_is_known_by_its_place() {
    let got = only(claim("a", 1).leads("b", TCP, "new").holds(0, "a", tcp(20005)).led("old"));
    assert_eq!(slots(&got), [(0, "b", tcp(20005))]);
}

#[test]
fn names_that_change_places_keep_their_numbers_and_ports_that_do_are_in_the_new_order() {
    let held = |claim: ClaimRequest| claim.holds(0, "a", tcp(20001)).led("a").holds(0, "b", tcp(20002)).led("b");
    let got = only(held(claim("c", 1).leads("b", TCP, "b").leads("a", TCP, "a")));
    assert_eq!(slots(&got), [(0, "b", tcp(20002)), (0, "a", tcp(20001))]);
}

#[test]
fn a_number_that_is_asked_for_is_known_by_the_number_whatever_its_name() {
    let got = only(claim("c", 1).number("y", 443).number("x", 80).holds(0, "x", tcp(443)).holds(0, "y", tcp(80)));
    assert_eq!(slots(&got), [(0, "y", tcp(443)), (0, "x", tcp(80))]);
    assert_eq!(got.dropped, []);
}

#[test]
fn tcp_and_udp_of_one_number_are_merged_and_split_on_that_number() {
    let apart =
        |claim: ClaimRequest| claim.holds(0, "t", tcp(20005)).led("dns").holds(0, "u", key(20005, UDP)).led("dns");
    for name in ["t", "u", "dns"] {
        let got = only(apart(claim("c", 1).leads(name, BOTH, "dns")));
        assert_eq!(slots(&got), [(0, name, key(20005, BOTH))]);
        assert_eq!(got.dropped, [tcp(20005), key(20005, UDP)], "recorded, since they may be open for a while");
        assert!(got.granted.unwrap().slots[0].opened);
    }
    let split = claim("c", 1).leads("t", TCP, "dns").leads("u", UDP, "dns");
    let got = only(split.holds(0, "dns", key(20005, BOTH)).led("dns"));
    assert_eq!(slots(&got), [(0, "t", tcp(20005)), (0, "u", key(20005, UDP))]);
    assert_eq!(got.dropped, [key(20005, BOTH)]);
}

#[test]
fn a_listener_is_replaced_in_place_on_a_full_load_balancer_and_within_a_used_up_quota() {
    let grown = claim("a", 1).asks("x", BOTH, None).holds(0, "x", tcp(20005));
    let full = Policy { listeners: 1, ports_per_namespace: 1, max: 1, ..policy() };
    let first = run(std::slice::from_ref(&grown), &existing(1), &full).remove(0);
    assert_eq!(slots(&first), [(0, "x", key(20005, BOTH))]);

    // As long as the former listener may be open, it takes no second place.
    let mut lbs = existing(1);
    let released = Released { key: tcp(20005), claim: grown.id.clone(), open: true, targets: 0 };
    lbs.get_mut(&0).unwrap().released.push(released);
    let settled = with_status(&[grown], std::slice::from_ref(&first));
    let two = Policy { listeners: 2, ports_per_namespace: 2, ..full };
    let result = run(&[settled[0].clone(), claim("b", 2).any("x")], &lbs, &two);
    assert!(result[1].granted.is_some(), "{result:?}");
}

#[test]
fn a_transport_that_an_edit_removes_cools_down() {
    let narrowed = claim("a", 1).number("x", 53).holds(0, "x", key(53, BOTH));
    let other = claim("b", 2).asks("x", UDP, Some(53));
    let result = run(&[narrowed, other], &existing(1), &Policy { max: 1, ..policy() });
    assert_eq!(slots(&result[0]), [(0, "x", tcp(53))]);
    assert_eq!(reasons(&result[1]), [("x", Some(Reason::PortTaken))]);
}

#[test]
fn a_port_whose_other_transport_is_anothers_stays_as_it_is_and_says_what_stands_in_the_way() {
    let other = claim("b", 2).asks("x", UDP, Some(53)).holds(0, "x", key(53, UDP));
    let grown = claim("a", 1).asks("dns", BOTH, Some(53)).holds(0, "dns", tcp(53));
    let result = &run(&[grown, other], &existing(1), &policy())[0];
    assert_eq!((slots(result), result.dropped.clone()), (vec![(0, "dns", tcp(53))], vec![]));
    assert_eq!(reasons(result), [("dns", Some(Reason::PortTaken))]);
    assert_eq!(
        message(result),
        "port 53/UDP is taken on load balancer 0, so 53/TCP stays open as it is: set protocol to TCP, or ask for a number of which both TCP and UDP are free"
    );
    let own = claim("a", 1).asks("a", BOTH, None).asks("b", UDP, None);
    let got = only(own.holds(0, "a", tcp(20005)).holds(0, "b", key(20005, UDP)));
    assert_eq!(slots(&got), [(0, "a", tcp(20005)), (0, "b", key(20005, UDP))]);
    assert!(message(&got).starts_with("port 20005/UDP is the claim's own port b, so 20005/TCP stays open as it is"));
}

#[test]
fn a_port_that_grows_takes_no_transport_that_is_foreign_or_cooling_for_another_claim() {
    let udp = FrontPort { port: number(53), transport: Transport::Udp };
    let foreign = LoadBalancerState { foreign: BTreeSet::from([udp]), ..Default::default() };
    let released = Released { key: key(53, UDP), claim: claim("b", 0).id, open: false, targets: 0 };
    let cooling = LoadBalancerState { released: vec![released], ..Default::default() };
    for lb in [foreign, cooling] {
        let grown = claim("a", 1).asks("x", BOTH, Some(53)).holds(0, "x", tcp(53));
        let result = &run(&[grown], &BTreeMap::from([(0, lb)]), &policy())[0];
        assert_eq!(slots(result), [(0, "x", tcp(53))]);
        assert_eq!(reasons(result), [("x", Some(Reason::PortTaken))]);
    }
}

#[test]
fn a_conflict_with_the_claims_other_port_is_reported_with_a_way_out() {
    let both = claim("a", 1).number("a", 55).asks("b", UDP, Some(55));
    let result = &run(&[both], &existing(1), &without_sharing())[0];
    assert_eq!(reasons(result), [("b", Some(Reason::Unsupported))]);
    assert_eq!(
        message(result),
        "port 55/UDP is the claim's own port a (55/TCP), and a load balancer of class default has one listener for a number: \
         use one port with protocol TCP_UDP (a Service: give both ports the same number as targetPort)"
    );
    let added = claim("a", 1).number("a", 55).asks("b", UDP, Some(55)).holds(0, "a", tcp(55));
    let result = &run(&[added], &existing(2), &without_sharing())[0];
    assert_eq!((slots(result).len(), reasons(result)), (1, vec![("b", Some(Reason::Unsupported))]));
    let assigned = claim("a", 1).any("a").number("b", 20005).holds(0, "a", tcp(20005));
    assert_eq!(reasons(&only(assigned)), [("b", Some(Reason::PortTaken))], "its number is taken everywhere");
}

#[test]
fn where_a_number_has_one_listener_tcp_udp_that_is_split_goes_on_for_the_first() {
    let split = claim("a", 1).number("t", 53).asks("u", UDP, Some(53)).holds(0, "dns", key(53, BOTH));
    let result = &run(&[split], &existing(2), &without_sharing())[0];
    assert_eq!(slots(result), [(0, "t", tcp(53))]);
    assert_eq!(reasons(result), [("u", Some(Reason::Unsupported))]);
}

// What can never be had, and what would help.

#[test]
fn a_claim_that_no_load_balancer_could_ever_take_is_to_be_split() {
    let wide = (0..5).fold(claim("wide", 1), |claim, n| claim.any(&format!("p{n}")));
    let told = |policy: &Policy| message(&run(std::slice::from_ref(&wide), &existing(1), policy)[0]);
    let may_be_raised = told(&policy());
    assert!(
        may_be_raised.ends_with(": split it, or ask the admin to raise spec.loadBalancers.listenersPerLoadBalancer"),
        "{may_be_raised}"
    );
    let at_most = told(&Policy { max_listeners: 4, ..policy() });
    assert!(at_most.ends_with("class default may have 2 load balancers: split it"), "{at_most}");
    let narrow = told(&Policy { dynamic: ranges(&[(20000, 20002)]), listeners: 9, ..policy() });
    assert!(narrow.starts_with("5 ports are to be assigned, and spec.ports.dynamic has 3, on"), "{narrow}");
    assert!(narrow.ends_with(": ask for ports by number, or ask the admin to widen spec.ports.dynamic"), "{narrow}");
    let quota = told(&Policy { listeners: 9, ports_per_namespace: 4, ..policy() });
    assert_eq!(
        quota,
        "5 ports are asked for, and a namespace may hold 4 of class default: \
         ask for fewer, or ask the admin to raise spec.portsPerNamespace"
    );
}

/// One port of the claim that is edited.
#[derive(Debug, Clone)]
struct Port {
    /// Which port it is, whatever it is called
    id: usize,
    name: String,
    protocol: Protocol,
    target: u16,
}

/// What a user does to the list of ports; the numbers choose a port and a place.
#[derive(Debug, Clone, Copy)]
enum Edit {
    Rename(usize),
    Reorder(usize, usize),
    Add(usize, Protocol),
    Remove(usize),
    Retarget(usize),
    Protocol(usize, Protocol),
    /// TCP_UDP becomes a port of TCP and one of UDP.
    Split(usize, bool),
    /// Two ports of one number become one.
    Merge(usize, bool),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let protocol = || prop_oneof![Just(TCP), Just(UDP), Just(BOTH)];
    let n = || 0usize..6;
    let edit = prop_oneof![
        n().prop_map(Edit::Rename),
        (n(), n()).prop_map(|(from, to)| Edit::Reorder(from, to)),
        (n(), protocol()).prop_map(|(at, protocol)| Edit::Add(at, protocol)),
        n().prop_map(Edit::Remove),
        n().prop_map(Edit::Retarget),
        (n(), protocol()).prop_map(|(at, protocol)| Edit::Protocol(at, protocol)),
        (n(), any::<bool>()).prop_map(|(at, named)| Edit::Split(at, named)),
        (n(), any::<bool>()).prop_map(|(at, named)| Edit::Merge(at, named)),
    ];
    prop::collection::vec(edit, 1..20)
}

/// A claim whose ports are edited, and what its status says.
struct Edited {
    ports: Vec<Port>,
    next: usize,
    status: Value,
    /// The number of each port that has one
    numbers: HashMap<usize, u16>,
    lbs: LoadBalancers,
}

impl Edited {
    fn new_port(&mut self, protocol: Protocol) -> Port {
        self.next += 1;
        let id = self.next;
        Port { id, name: format!("p{id}"), protocol, target: u16::try_from(id).unwrap() }
    }

    fn fresh_name(&mut self) -> String {
        self.next += 1;
        format!("n{}", self.next)
    }

    fn edit(&mut self, edit: Edit) {
        let len = self.ports.len();
        match edit {
            Edit::Rename(at) => self.ports[at % len].name = self.fresh_name(),
            Edit::Reorder(from, to) => {
                let port = self.ports.remove(from % len);
                self.ports.insert(to % len, port);
            }
            Edit::Add(at, protocol) if len < 5 => {
                let port = self.new_port(protocol);
                self.ports.insert(at % (len + 1), port);
            }
            Edit::Remove(at) if len > 1 => _ = self.ports.remove(at % len),
            Edit::Retarget(at) => {
                self.next += 1;
                self.ports[at % len].target = u16::try_from(self.next).unwrap();
            }
            Edit::Protocol(at, protocol) => {
                // Another transport is another port.
                let had = self.served(&self.ports[at % len].name).unwrap_or(self.ports[at % len].protocol);
                let is_another = protocol.transports().iter().all(|transport| !had.transports().contains(transport));
                let name = self.ports[at % len].name.clone();
                if is_another {
                    self.ports[at % len] = Port { name, ..self.new_port(protocol) };
                } else {
                    self.ports[at % len].protocol = protocol;
                }
            }
            Edit::Split(at, named) if len < 5 && self.ports[at % len].protocol == BOTH => {
                let name = self.fresh_name();
                let at = at % len;
                let served = self.served(&self.ports[at].name);
                let port = &mut self.ports[at];
                let other;
                (port.protocol, other) = if served == Some(UDP) { (UDP, TCP) } else { (TCP, UDP) };
                let mut half = Port { protocol: other, name, ..port.clone() };
                if named {
                    std::mem::swap(&mut port.name, &mut half.name);
                }
                // Both go on with the one number, if the port was served on both transports.
                self.next += 1;
                half.id = self.next;
                let (id, number) = (half.id, self.numbers.get(&port.id).copied());
                if let (Some(number), Some(BOTH)) = (number, served) {
                    self.numbers.insert(id, number);
                }
                self.ports.insert(at + 1, half);
            }
            Edit::Merge(at, named) => {
                let one = self.ports[at % len].clone();
                let number = self.numbers.get(&one.id).copied();
                let other = self.ports.iter().position(|port| {
                    let both = [one.protocol, port.protocol];
                    number.is_some()
                        && self.numbers.get(&port.id).copied() == number
                        && (both == [TCP, UDP] || both == [UDP, TCP])
                });
                if let Some(other) = other {
                    let gone = self.ports.remove(other);
                    let kept = self.ports.iter_mut().find(|port| port.id == one.id).unwrap();
                    kept.protocol = BOTH;
                    if named {
                        kept.name = gone.name;
                    }
                }
            }
            _ => {}
        }
        // Only one that is alone may be without a name.
        if self.ports.len() == 1 && self.next.is_multiple_of(2) {
            self.ports[0].name = String::new();
        } else if self.ports.len() > 1 {
            let unnamed = self.ports.iter().position(|port| port.name.is_empty());
            if let Some(unnamed) = unnamed {
                self.ports[unnamed].name = self.fresh_name();
            }
        }
    }

    /// The protocol that the status has for a port.
    fn served(&self, name: &str) -> Option<Protocol> {
        let mut ports = self.status["ports"].as_array().into_iter().flatten();
        let port = ports.find(|port| port["name"] == name)?;
        [TCP, UDP, BOTH].into_iter().find(|protocol| port["protocol"] == protocol.to_string())
    }

    /// The claim as the API has it.
    fn object(&self) -> ClaimObject {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|port| json!({"name": port.name, "protocol": port.protocol.to_string(), "targetPort": port.target}))
            .collect();
        ClaimObject::parse(
            &serde_json::from_value(json!({
                "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLB",
                "metadata": {"namespace": "team", "name": "edited", "uid": "u", "resourceVersion": "1", "generation": 1},
                "spec": {"selector": {"app": "x"}, "ports": ports},
                "status": self.status,
            }))
            .unwrap(),
        )
    }

    /// Decides, and writes the status down.
    fn decide(&mut self, neighbours: &[ClaimRequest], policy: &Policy) -> (Assignment, Vec<Assignment>) {
        let object = self.object();
        let all: Vec<ClaimRequest> = neighbours.iter().cloned().chain([object.request.clone()]).collect();
        let mut result = run(&all, &self.lbs, policy);
        let got = result.pop().unwrap();
        let verdict = served_slots(got.granted.clone());
        let status: SharedLBStatus = render::status(&object, Some("default"), &verdict, jiff::Timestamp::UNIX_EPOCH);
        self.status = serde_json::to_value(status).unwrap();
        (got, result)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn an_edit_moves_no_port_that_is_still_requested_and_no_other_claims_port(
        edits in edits(), protocol in prop_oneof![Just(TCP), Just(UDP), Just(BOTH)], halves in prop::collection::vec(20000u16..20010, 0..3),
    ) {
        let policy = Policy { listeners: 1000, ports_per_namespace: 1000, max: 1, ..policy() };
        let halves: BTreeSet<u16> = halves.into_iter().collect();
        let neighbours: Vec<ClaimRequest> = halves
            .iter()
            .map(|&port| claim(&format!("n{port}"), 0).asks("x", UDP, Some(port)).holds(0, "x", key(port, UDP)))
            .collect();
        let first = Port { id: 0, name: String::new(), protocol, target: 0 };
        let mut edited =
            Edited { ports: vec![Port { target: 60000, ..first }], next: 0, status: json!({}), numbers: HashMap::new(), lbs: existing(1) };
        for edit in std::iter::once(None).chain(edits.into_iter().map(Some)) {
            if let Some(edit) = edit {
                edited.edit(edit);
            }
            let (got, others) = edited.decide(&neighbours, &policy);
            for (neighbour, got) in neighbours.iter().zip(others) {
                prop_assert_eq!(&neighbour.held, &got.granted);
            }
            let granted: HashMap<&str, u16> = slots(&got).iter().map(|&(_, name, key)| (name, key.port.get())).collect();
            for port in &edited.ports {
                let now = granted.get(port.name.as_str()).copied();
                match edited.numbers.get(&port.id) {
                    Some(before) => prop_assert_eq!(Some(*before), now, "after {:?}: {:?} {:?}", edit, port, got),
                    None => if let Some(now) = now {
                        _ = edited.numbers.insert(port.id, now);
                    },
                }
            }
            let (again, _) = edited.decide(&neighbours, &policy);
            prop_assert_eq!(&got.granted.as_ref().map(|held| held.index), &again.granted.as_ref().map(|held| held.index));
            prop_assert_eq!(slots(&got), slots(&again));
            prop_assert_eq!(again.dropped, vec![]);
        }
    }
}

#[test]
fn a_half_that_may_not_be_asked_for_is_not_had_by_leaving_the_number_out() {
    let policy = Policy { requestable: ranges(&[]), ..policy() };
    let got = run(&[claim("a", 1).leads("x", BOTH, "x").holds(0, "x", tcp(53)).led("x")], &existing(1), &policy);
    assert_eq!(slots(&got[0]), [(0, "x", tcp(53))]);
}

/// Each of them needs what the other one has.
#[test]
fn two_ports_of_one_number_that_both_ask_for_the_other_half_stay_and_both_say_why() {
    let claims = [claim("a", 1).asks("y", BOTH, None).asks("x", BOTH, None).holds(0, "x", tcp(20000)).holds(
        0,
        "y",
        key(20000, Protocol::Udp),
    )];
    let got = run(&claims, &existing(1), &policy());
    let refused: BTreeSet<&str> = got[0].refused.iter().map(|(name, _)| &**name).collect();
    assert_eq!(refused, BTreeSet::from(["x", "y"]));
    assert_eq!(slots(&got[0]).len(), 2);
}
