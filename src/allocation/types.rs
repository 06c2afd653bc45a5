//! The input and the output of allocation.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sharedlb_providers::{Address, Capacity, FrontPort, IpFamily, ListenerKey, ListenerOptions, Protocol};

use super::ports::PortSet;
use super::{Refusal, Room};
use crate::kubernetes::ObjectKey;

/// The request of a claim, and the slots that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRequest {
    /// The claim
    pub id: ObjectKey,
    /// When it was created, in seconds since 1970: the older goes first.
    pub created: i64,
    /// The address of the requested load balancer
    pub address: Option<Address>,
    /// The requested ports
    pub ports: Vec<PortRequest>,
    /// The requested options of its listeners; `None`: the spec can't be parsed
    pub options: Option<Arc<ListenerOptions>>,
    /// The slots in its status
    pub held: Option<Held>,
}

/// One requested port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRequest {
    /// Its name, unique within the claim
    pub name: Arc<str>,
    /// The protocol of its listener
    pub protocol: Protocol,
    /// The requested front port; `None`: one is assigned
    pub number: Option<NonZeroU16>,
    /// Its target in the spec: a port of the pods or of the Service; `None`: the spec can't be
    /// parsed
    pub target: Option<IntOrString>,
    /// Targets that a listener of it has now; 0 if targets are not counted
    pub targets: u32,
}

/// Whether the two are equal. It is fast if they are the same allocation, as usual if nothing
/// has changed. (`==` of an `Arc<[T]>` or `Arc<str>` always compares the content.)
pub(crate) fn same<T: PartialEq + ?Sized>(a: &Arc<T>, b: &Arc<T>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

/// The slots of one claim: all on one load balancer.
#[derive(Debug, Clone, Eq)]
pub struct Held {
    /// Index of the load balancer
    pub index: u32,
    /// The slots, by port name
    pub slots: Arc<[HeldSlot]>,
}

impl Held {
    /// Whether both are the same slots, by the names and numbers of their ports.
    pub(crate) fn has_slots_of(&self, other: &Self) -> bool {
        let is_same = |(a, b): (&HeldSlot, &HeldSlot)| a.key == b.key && same(&a.name, &b.name);
        self.index == other.index
            && self.slots.len() == other.slots.len()
            && self.slots.iter().zip(other.slots.iter()).all(is_same)
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && same(&self.slots, &other.slots)
    }
}

/// A slot in a claim's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSlot {
    /// Name of the claim's port
    pub name: Arc<str>,
    /// Front port and protocol
    pub key: ListenerKey,
    /// Whether it, or the slot that it continues, was ever open: such a slot is never moved.
    pub opened: bool,
    /// The target of its port in the spec when the status was written; `None`: the status does
    /// not have it
    pub target: Option<IntOrString>,
}

/// The known state of a load balancer of the class.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadBalancerState {
    /// Its addresses, or those that it will have
    pub addresses: Vec<Address>,
    /// Its capacity, if the provider has reported one
    pub capacity: Capacity,
    /// Foreign ports
    pub foreign: BTreeSet<FrontPort>,
    /// Listeners for which there was no room
    pub no_room: BTreeSet<ListenerKey>,
    /// Released slots, whose ports cool down
    pub released: Vec<Released>,
    /// Whether it serves nothing, and will not soon: it has had no address for too long, or
    /// cannot be created
    pub unusable: bool,
    /// Whether new slots must wait: it was adopted and has not been observed yet
    pub unobserved: bool,
}

/// A released slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// Front port and protocol
    pub key: ListenerKey,
    /// The claim that released it, and alone may get it during the cool-down
    pub claim: ObjectKey,
    /// Whether its listener may still be open, and so takes up room
    pub open: bool,
    /// Targets that it has if it is open; 0 if targets are not counted
    pub targets: u32,
}

/// The limits of the class and its provider. All but `reserved` apply to new slots only.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Ports that are assigned to claims that request no number
    pub dynamic: PortSet,
    /// Ports that may be requested by number
    pub requestable: PortSet,
    /// Ports that no claim ever gets
    pub reserved: BTreeSet<FrontPort>,
    /// How many load balancers the class may have
    pub max: u32,
    /// The load balancers that get no new slots, by index
    pub cordoned: BTreeSet<u32>,
    /// The addresses of its load balancers, by index, if the class sets them
    pub addresses: Arc<[Vec<IpAddr>]>,
    /// Listeners for each load balancer
    pub listeners: u32,
    /// The most listeners that the class could set for a load balancer of the provider
    pub max_listeners: u32,
    /// Targets for each load balancer whose capacity is not known yet; `None`: no limit
    pub targets: Option<u32>,
    /// Ports for each namespace
    pub ports_per_namespace: u32,
    /// Namespaces whose claims get new ports; `None`: all
    pub namespaces: Option<BTreeSet<Arc<str>>>,
    /// The protocols of listeners
    pub protocols: BTreeSet<Protocol>,
    /// Whether a TCP and a UDP listener may have the same number
    pub tcp_and_udp_share_a_number: bool,
    /// Listeners that a port of protocol `TCP_UDP` takes up: one, or two
    pub listeners_for_tcp_udp: u32,
    /// The options that listeners cannot have
    pub lacking: Vec<LackingOption>,
}

/// An option of listeners that the load balancers of a class cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LackingOption {
    /// The option
    pub option: ListenerOption,
    /// What the author of a claim that requests it can do
    pub instead: &'static str,
}

/// An option of listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerOption {
    /// `loadBalancerSourceRanges`
    SourceRanges,
    /// `loadBalancerSourceRanges` without a range of this family, which all addresses have
    SourceRangesBeside(IpFamily),
    /// `sessionAffinity`
    SessionAffinity,
}

impl ListenerOption {
    /// Whether it is one of these.
    pub(crate) fn is_in(self, options: &ListenerOptions) -> bool {
        match self {
            Self::SourceRanges => !options.source_ranges.is_empty(),
            Self::SourceRangesBeside(family) => !options.admits(family),
            Self::SessionAffinity => options.session_affinity.is_some(),
        }
    }

    /// Whether it says which clients are served. A listener without it stays closed.
    pub(crate) fn is_about_clients(self) -> bool {
        match self {
            Self::SourceRanges | Self::SourceRangesBeside(_) => true,
            Self::SessionAffinity => false,
        }
    }
}

impl ClaimRequest {
    /// The first of these options that the claim requests.
    pub(crate) fn lacks(&self, lacking: &[LackingOption]) -> Option<LackingOption> {
        let options = self.options.as_deref()?;
        lacking.iter().find(|lacking| lacking.option.is_in(options)).copied()
    }

    /// Whether its listeners must not be open, since those of the class cannot serve just the
    /// clients that it admits.
    pub(crate) fn must_stay_closed(&self, lacking: &[LackingOption]) -> bool {
        let is_lacking = |lacking: &LackingOption| self.lacks(std::slice::from_ref(lacking)).is_some();
        lacking.iter().any(|lacking| lacking.option.is_about_clients() && is_lacking(lacking))
    }
}

impl Policy {
    /// Listeners that a port of this protocol takes up.
    fn listeners_for(&self, protocol: Protocol) -> u32 {
        if protocol == Protocol::TcpUdp { self.listeners_for_tcp_udp } else { 1 }
    }

    /// The usage of a port of this protocol whose listeners have this many targets.
    pub(crate) fn room_for(&self, protocol: Protocol, targets: u32) -> Room {
        let listeners = self.listeners_for(protocol);
        Room { listeners, targets: targets.saturating_mul(listeners) }
    }
}

/// The result for one claim.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    /// The slots that it has now; `None`: none
    pub granted: Option<Held>,
    /// The refused ports, by name, and why
    pub refused: Vec<(Arc<str>, Refusal)>,
    /// Slots that it held and no longer requests, which are released
    pub dropped: Vec<ListenerKey>,
    /// Slots in its status that an older claim holds
    pub lost: Vec<ListenerKey>,
}
