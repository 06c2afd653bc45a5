//! What allocation is asked, and what it answers.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sharedlb_providers::{Address, Capacity, FrontPort, ListenerKey, Protocol};

use super::{Refusal, Room};
use crate::allocation::ports::PortSet;
use crate::kubernetes::ObjectKey;

/// What a claim asks for, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Which claim
    pub id: ObjectKey,
    /// When it was created, in seconds since 1970: the older goes first.
    pub created: i64,
    /// The load balancer that it insists on, by address
    pub address: Option<Address>,
    /// The ports that it asks for
    pub ports: Vec<PortRequest>,
    /// What its status says that it holds
    pub held: Option<Held>,
}

/// One port that a claim asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRequest {
    /// Its name, unique within the claim
    pub name: Arc<str>,
    /// What its listener shall accept
    pub protocol: Protocol,
    /// The front port that it insists on; `None`: one is assigned
    pub number: Option<NonZeroU16>,
    /// The port of the pods or of the Service that it leads to, as its spec has it;
    /// `None`: its spec can't be read
    pub target: Option<IntOrString>,
    /// Targets that a listener of it has now; 0 where nobody counts them
    pub targets: u32,
}

/// Whether the two are equal: quickly so if they are one, which is the rule where
/// nothing has changed. (`==` of an `Arc<[T]>` or `Arc<str>` always looks inside.)
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

/// A slot as a claim's status has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSlot {
    /// Name of the claim's port
    pub name: Arc<str>,
    /// Front port and protocol
    pub key: ListenerKey,
    /// Whether it, or what it continues, was ever programmed: such a slot is never
    /// moved.
    pub opened: bool,
    /// Where its port led when the status was written, as the spec had it; `None`:
    /// the status does not say
    pub target: Option<IntOrString>,
}

/// A load balancer of the class as it is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadBalancerState {
    /// Where it is reached, or is going to be
    pub addresses: Vec<Address>,
    /// What fits on it, where the provider told limits of its own
    pub capacity: Capacity,
    /// Ports that strangers hold
    pub foreign: BTreeSet<FrontPort>,
    /// Listeners for which there was no room, since somebody else used it
    pub no_room: BTreeSet<ListenerKey>,
    /// Slots that were given back, and whose ports still rest
    pub released: Vec<Released>,
    /// Whether it serves nothing, and is not about to: it has been without an address
    /// for long, or cannot be made
    pub unusable: bool,
    /// Whether new slots must wait: it was adopted and has not been observed yet
    pub unobserved: bool,
}

/// A slot that was given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// Front port and protocol
    pub key: ListenerKey,
    /// Who gave it back, and alone may have it again before the delay is over
    pub claim: ObjectKey,
    /// Whether its listener may still be open, and so takes up room
    pub open: bool,
    /// Targets that it has if it is open; 0 where nobody counts them
    pub targets: u32,
}

/// What the class and its provider allow. All but `reserved` binds new slots
/// only.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Ports that are handed out when none is asked for
    pub dynamic: PortSet,
    /// Ports that may be asked for by number
    pub requestable: PortSet,
    /// Ports that nobody ever gets
    pub reserved: BTreeSet<FrontPort>,
    /// How many load balancers the class may have
    pub max: u32,
    /// The addresses that its load balancers are given, by index, if the class
    /// says
    pub addresses: Vec<Address>,
    /// Listeners for each load balancer
    pub listeners: u32,
    /// The most listeners that the provider could have on a load balancer, if the
    /// class asked for it
    pub max_listeners: u32,
    /// Targets for each load balancer that has not told what fits on it;
    /// `None`: nobody counts them
    pub targets: Option<u32>,
    /// Ports for each namespace
    pub ports_per_namespace: u32,
    /// Namespaces whose claims get new ports; `None`: all
    pub namespaces: Option<BTreeSet<Arc<str>>>,
    /// What a listener may accept
    pub protocols: BTreeSet<Protocol>,
    /// Whether a TCP and a UDP listener may have the same number
    pub tcp_and_udp_share_a_number: bool,
    /// Listeners that a port of protocol `TCP_UDP` takes up: one, or two
    pub listeners_for_tcp_udp: u32,
}

impl Policy {
    /// Listeners that a port of this protocol takes up.
    #[must_use]
    pub fn listeners_for(&self, protocol: Protocol) -> u32 {
        if protocol == Protocol::TcpUdp { self.listeners_for_tcp_udp } else { 1 }
    }

    /// What a port of this protocol takes up whose listeners have so many targets.
    #[must_use]
    pub fn room_for(&self, protocol: Protocol, targets: u32) -> Room {
        let listeners = self.listeners_for(protocol);
        Room { listeners, targets: targets.saturating_mul(listeners) }
    }
}

/// What became of one claim.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    /// The slots that it has now; `None`: not one
    pub granted: Option<Held>,
    /// The ports that got none, by name, and why
    pub refused: Vec<(Arc<str>, Refusal)>,
    /// Slots that it held and no longer wants: to be released
    pub dropped: Vec<ListenerKey>,
    /// Slots that its status names and an older claim holds
    pub lost: Vec<ListenerKey>,
}
