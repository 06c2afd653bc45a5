//! What a claim may ask of its listeners.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_with::{DurationSeconds, serde_as, skip_serializing_none};

use super::capabilities::{AffinitySupport, Capabilities};

/// The options of a listener. The default ones are those of a Service that sets none.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct ListenerOptions {
    /// The addresses of the clients that are served, without host bits
    /// ([`IpNet::trunc`]); empty: all clients
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub source_ranges: BTreeSet<IpNet>,
    /// Session affinity; `None`: each connection goes to any backend
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<SessionAffinity>,
}

/// Session affinity by the address of the client: all its connections to a listener go to one
/// backend.
#[serde_as]
#[skip_serializing_none]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionAffinity {
    /// How long after a client's last connection it goes to the same backend, in whole
    /// seconds from 1 to 86400 (`timeoutSeconds` of a Service); `None`: as the load balancer
    /// has it
    #[serde_as(as = "Option<DurationSeconds<u64>>")]
    #[serde(rename = "timeoutSeconds")]
    pub timeout: Option<Duration>,
}

impl ListenerOptions {
    /// Whether they are those of a listener for which nothing is requested.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The options that load balancers with these capabilities have if these are requested:
    /// without session affinity where they have none, without its timeout where that cannot
    /// be set. Source ranges stay: a listener must not open without them, and the caller
    /// opens none where [`Capabilities::source_ranges`] is not set.
    #[must_use]
    pub fn offered_by(&self, can: &Capabilities) -> Self {
        let session_affinity = match can.session_affinity {
            AffinitySupport::None => None,
            AffinitySupport::FixedTimeout => self.session_affinity.map(|_| SessionAffinity { timeout: None }),
            AffinitySupport::Timeout => self.session_affinity,
        };
        Self { source_ranges: self.source_ranges.clone(), session_affinity }
    }
}
