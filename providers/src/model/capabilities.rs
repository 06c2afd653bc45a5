//! What a provider can do, and what fits on a load balancer.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::{DurationMilliSeconds, serde_as, skip_serializing_none};

use super::port::{FrontPort, Protocol};

/// What a provider can do, known without asking any load balancer.
#[serde_as]
#[skip_serializing_none]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Capabilities {
    /// What a listener may accept
    pub protocols: BTreeSet<Protocol>,
    /// Whether a TCP and a UDP listener may have the same port number
    pub tcp_and_udp_share_a_number: bool,
    /// Listeners that a port of protocol `TCP_UDP` takes up: one, or two
    pub listeners_for_tcp_udp: u32,
    /// Whether TCP and UDP of a port of protocol `TCP_UDP` may lead to different
    /// backends (see [`Backend::transport`](super::Backend::transport))
    pub backends_by_transport: bool,
    /// Whether traffic can go to pods' own addresses
    pub pod_targets: bool,
    /// Whether traffic can go to node ports
    pub node_targets: bool,
    /// Ports that are never handed out, not even when asked for
    pub reserved: Vec<FrontPort>,
    /// Listeners for each load balancer where the class does not say
    pub default_listeners: u32,
    /// The most listeners that a load balancer can ever have
    pub max_listeners: u32,
    /// Targets for each load balancer until one tells what fits on it (see
    /// [`Capacity::targets`]); `None`: they are not limited
    pub default_targets: Option<u32>,
    /// The most targets that one listener can have; `None`: no limit
    pub max_targets_per_listener: Option<u32>,
    /// How long changes of backends are coalesced, to go out as one. More than
    /// zero where calls are dear: there, what opens a port also goes ahead of
    /// what tidies up.
    /// (Serialized in milliseconds.)
    #[serde_as(as = "DurationMilliSeconds<u64>")]
    #[serde(rename = "coalesceMilliseconds")]
    pub coalesce: Duration,
}

impl Capabilities {
    /// What most load balancers can do: every protocol, TCP and UDP of one number for
    /// different claims, one listener for both with the same backends, and traffic to
    /// pods. They have at most so many listeners, and that many where the class does not
    /// say; targets are not counted, and changes go out at once.
    #[must_use]
    pub fn new(max_listeners: u32) -> Self {
        Self {
            protocols: Protocol::ALL.into(),
            tcp_and_udp_share_a_number: true,
            listeners_for_tcp_udp: 1,
            backends_by_transport: false,
            pod_targets: true,
            node_targets: false,
            reserved: Vec::new(),
            default_listeners: max_listeners,
            max_listeners,
            default_targets: None,
            max_targets_per_listener: None,
            coalesce: Duration::ZERO,
        }
    }
}

/// What fits on one load balancer.
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
