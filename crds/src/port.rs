//! Ports and protocols.

use std::fmt;
use std::num::NonZeroU16;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The protocol of a port of a claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// TCP alone.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP alone.
    #[serde(rename = "UDP")]
    Udp,
    /// TCP and UDP on one front port.
    #[serde(rename = "TCP_UDP")]
    TcpUdp,
}

impl Protocol {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
            Protocol::TcpUdp => "TCP_UDP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Transport {
    /// TCP.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
}

impl Transport {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A range of port numbers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = ("self.min <= self.max", "min must not be above max: swap them, or make them equal for a single port")
)]
pub struct PortRange {
    /// The lowest port of the range, 1 to 65535.
    pub min: NonZeroU16,
    /// The highest port of the range, 1 to 65535. Not below `min`.
    pub max: NonZeroU16,
}
