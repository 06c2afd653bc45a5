//! Every rule, safety point and property of allocation, each with a test named
//! for it.

mod cordoned;
mod edits;
mod properties;
mod room;
mod rules;
mod safety;
mod unusable;
mod usage;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU16;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sharedlb_crds::Reason;
use sharedlb_providers::{
    Address, Capacity, FrontPort, IpFamily, ListenerKey, ListenerOptions, Protocol, SessionAffinity, Transport,
};

use super::choice::preferred;
use super::*;
use crate::kubernetes::ObjectKey;

fn number(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap()
}

fn key(port: u16, protocol: Protocol) -> ListenerKey {
    ListenerKey { port: number(port), protocol }
}

fn tcp(port: u16) -> ListenerKey {
    key(port, Protocol::Tcp)
}

/// The dynamic ports of [`policy`], in order.
fn dynamic() -> Vec<NonZeroU16> {
    policy().dynamic.iter_from(NonZeroU16::MIN).collect()
}

fn ranges(ranges: &[(u16, u16)]) -> PortSet {
    PortSet::of_ranges(&ranges.iter().map(|&(a, b)| number(a)..=number(b)).collect::<Vec<_>>())
}

/// A class of two load balancers with 4 listeners each, dynamic ports 20000 to
/// 20009, and everything requestable but what the provider reserves, 22/TCP.
fn policy() -> Policy {
    Policy {
        dynamic: ranges(&[(20000, 20009)]),
        requestable: ranges(&[(1, 65535)]),
        reserved: BTreeSet::from([FrontPort { port: number(22), transport: Transport::Tcp }]),
        max: 2,
        cordoned: BTreeSet::new(),
        addresses: Arc::default(),
        listeners: 4,
        max_listeners: 1000,
        targets: None,
        ports_per_namespace: 100,
        namespaces: None,
        protocols: Protocol::ALL.into(),
        tcp_and_udp_share_a_number: true,
        listeners_for_tcp_udp: 1,
        lacking: Vec::new(),
    }
}

/// A claim that asks for nothing yet; the older, the lower its age.
fn claim(name: &str, created: i64) -> ClaimRequest {
    let id = ObjectKey { namespace: "team".into(), name: name.into() };
    ClaimRequest { id, created, address: None, ports: Vec::new(), options: Some(Arc::default()), held: None }
}

impl ClaimRequest {
    fn of(mut self, namespace: &str) -> Self {
        self.id.namespace = namespace.into();
        self
    }

    fn any(self, name: &str) -> Self {
        self.asks(name, Protocol::Tcp, None)
    }

    fn number(self, name: &str, port: u16) -> Self {
        self.asks(name, Protocol::Tcp, Some(port))
    }

    fn asks(mut self, name: &str, protocol: Protocol, port: Option<u16>) -> Self {
        self.ports.push(PortRequest {
            name: name.into(),
            protocol,
            number: port.map(number),
            target: None,
            targets: 0,
        });
        self
    }

    /// A port that leads to a port of the pods of this name.
    fn leads(mut self, name: &str, protocol: Protocol, target: &str) -> Self {
        self = self.asks(name, protocol, None);
        self.ports.last_mut().unwrap().target = Some(IntOrString::String(target.into()));
        self
    }

    /// What it held last led there.
    fn led(mut self, target: &str) -> Self {
        let mut slots = self.held.as_ref().unwrap().slots.to_vec();
        slots.last_mut().unwrap().target = Some(IntOrString::String(target.into()));
        self.held = self.held.map(|held| Held { slots: slots.into(), ..held });
        self
    }

    /// Every port has so many.
    fn with_targets(mut self, targets: u32) -> Self {
        self.ports.iter_mut().for_each(|port| port.targets = targets);
        self
    }

    /// It serves the clients of this range alone.
    fn excluding(self, range: &str) -> Self {
        self.with_options(|options| options.source_ranges = [range.parse().unwrap()].into())
    }

    fn with_affinity(self) -> Self {
        self.with_options(|options| options.session_affinity = Some(SessionAffinity::default()))
    }

    fn with_options(mut self, change: impl FnOnce(&mut ListenerOptions)) -> Self {
        change(Arc::make_mut(self.options.as_mut().unwrap()));
        self
    }

    fn at(mut self, address: &str) -> Self {
        self.address = Some(Address::parse(address));
        self
    }

    fn holds(self, index: u32, name: &str, key: ListenerKey) -> Self {
        self.holding(index, HeldSlot { name: name.into(), key, opened: true, target: None })
    }

    fn holds_unopened(self, index: u32, name: &str, key: ListenerKey) -> Self {
        self.holding(index, HeldSlot { name: name.into(), key, opened: false, target: None })
    }

    /// All that it holds was opened.
    fn opened(mut self) -> Self {
        let opened = |slot: &HeldSlot| HeldSlot { opened: true, ..slot.clone() };
        self.held = self.held.map(|held| Held { slots: held.slots.iter().map(opened).collect(), ..held });
        self
    }

    fn holding(mut self, index: u32, slot: HeldSlot) -> Self {
        let before = self.held.take().map(|held| held.slots.to_vec()).unwrap_or_default();
        self.held = Some(Held { index, slots: before.into_iter().chain([slot]).collect() });
        self
    }
}

type LoadBalancers = BTreeMap<u32, LoadBalancerState>;

fn run(claims: &[ClaimRequest], load_balancers: &LoadBalancers, policy: &Policy) -> Vec<Assignment> {
    let (load_balancers, policy) = (Arc::new(load_balancers.clone()), Arc::new(policy.clone()));
    assign(&claims.iter().collect::<Vec<_>>(), &load_balancers, &policy).0
}

/// The load balancers that there are after an assignment, with nothing else on them.
fn existing(n: u32) -> LoadBalancers {
    (0..n).map(|index| (index, LoadBalancerState::default())).collect()
}

fn slots(assignment: &Assignment) -> Vec<(u32, &str, ListenerKey)> {
    let held = assignment.granted.iter();
    held.flat_map(|held| held.slots.iter().map(|slot| (held.index, &*slot.name, slot.key))).collect()
}

fn reasons(assignment: &Assignment) -> Vec<(&str, Option<Reason>)> {
    assignment.refused.iter().map(|(name, refusal)| (&**name, refusal.reason())).collect()
}

fn message(assignment: &Assignment) -> String {
    assignment.refused.first().map(|(_, refusal)| refusal.message("default")).unwrap_or_default()
}

/// The claims as their status says after this assignment.
fn with_status(claims: &[ClaimRequest], result: &[Assignment]) -> Vec<ClaimRequest> {
    claims.iter().zip(result).map(|(claim, got)| ClaimRequest { held: got.granted.clone(), ..claim.clone() }).collect()
}
