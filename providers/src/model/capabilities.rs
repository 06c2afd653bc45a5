//! Capabilities of providers, and the capacity of load balancers.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::{DurationMilliSeconds, serde_as, skip_serializing_none};

use super::address::IpFamily;
use super::port::{FrontPort, Protocol};

/// The capabilities of a provider, known without a request.
#[serde_as]
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Capabilities {
    /// The protocols of listeners
    pub protocols: BTreeSet<Protocol>,
    /// Whether a TCP and a UDP listener may have the same port number
    pub tcp_and_udp_share_a_number: bool,
    /// How many listeners a port of protocol `TCP_UDP` is: one or two
    pub listeners_for_tcp_udp: u32,
    /// Whether TCP and UDP of a port of protocol `TCP_UDP` may have different backends (see [`Backend::transport`](super::Backend::transport))
    pub backends_by_transport: bool,
    /// Whether the addresses of pods can be targets
    pub pod_targets: bool,
    /// Whether node ports can be targets
    pub node_targets: bool,
    /// The IP families of the addresses of load balancers; none: not known
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub address_families: BTreeSet<IpFamily>,
    /// Whether a listener can serve the clients of certain addresses only
    pub source_ranges: bool,
    /// Session affinity
    pub session_affinity: AffinitySupport,
    /// Ports that no claim gets, even if it requests them
    pub reserved: Vec<FrontPort>,
    /// The listeners of each load balancer, if the class does not set them
    pub default_listeners: u32,
    /// The most listeners that a load balancer can ever have
    pub max_listeners: u32,
    /// The targets of each load balancer until its capacity was observed (see
    /// [`Capacity::targets`]); `None`: no limit
    pub default_targets: Option<u32>,
    /// The most targets that one listener can have; `None`: no limit
    pub max_targets_per_listener: Option<u32>,
    /// How long changes of backends are coalesced into one. It is more than zero where calls
    /// are expensive: there, a change that opens a port also precedes garbage collection.
    /// (Serialized in milliseconds.)
    #[serde_as(as = "DurationMilliSeconds<u64>")]
    #[serde(rename = "coalesceMilliseconds")]
    pub coalesce: Duration,
}

impl Capabilities {
    /// The capabilities of most load balancers: every protocol, TCP and UDP of one number for
    /// different claims, one listener for both with the same backends, and pods as targets.
    /// They have neither source ranges nor session affinity, and addresses of any family. They
    /// have at most `max_listeners`
    /// listeners, which is also the default; targets have no limit, and changes are not
    /// coalesced.
    #[must_use]
    pub fn new(max_listeners: u32) -> Self {
        Self {
            protocols: Protocol::ALL.into(),
            tcp_and_udp_share_a_number: true,
            listeners_for_tcp_udp: 1,
            backends_by_transport: false,
            pod_targets: true,
            node_targets: false,
            address_families: BTreeSet::new(),
            source_ranges: false,
            session_affinity: AffinitySupport::None,
            reserved: Vec::new(),
            default_listeners: max_listeners,
            max_listeners,
            default_targets: None,
            max_targets_per_listener: None,
            coalesce: Duration::ZERO,
        }
    }
}

/// Whether listeners can have session affinity by the address of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AffinitySupport {
    /// They cannot.
    None,
    /// They can, and the load balancer has a timeout of its own.
    FixedTimeout,
    /// They can, with any timeout.
    Timeout,
}

/// The capacity of one load balancer.
#[skip_serializing_none]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// Listeners, our own and foreign ones together; `None`: no limit is known
    pub listeners: Option<u32>,
    /// Targets: backends of all listeners together, one that is behind two
    /// listeners counted twice; `None`: no limit is known
    pub targets: Option<u32>,
}
