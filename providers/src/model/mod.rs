//! A load balancer as data: its desired and its observed state.
//!
//! Every type has a readable form for files and for other programs (`serde`): front
//! ports, listeners and addresses are strings (`22/TCP`, `20417/TCP_UDP`,
//! `lb.example.com`), names are in camel case, and fields that are `None` are left out. A
//! field that is added later has a default, so that older files can be read; unknown fields
//! are ignored.

mod address;
#[cfg(test)]
pub(crate) mod arbitrary;
mod capabilities;
mod listener;
mod name;
mod options;
mod port;
#[cfg(test)]
mod serde_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

pub use self::address::{Address, IpFamily};
pub use self::capabilities::{AffinitySupport, Capabilities, Capacity};
pub use self::listener::{Backend, BackendSet, Listener, Owner};
pub use self::name::{LbName, fnv1a};
pub use self::options::{ListenerOptions, SessionAffinity};
pub use self::port::{FrontPort, ListenerKey, ParseError, Protocol, Transport, port_number};

/// Settings of a load balancer as a whole, by their names in its API.
pub type Attributes = BTreeMap<String, String>;

/// The desired state of a load balancer, or the observed state of our part of one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancer {
    /// Its settings; see [`crate::Provider::attributes`]
    pub attributes: Attributes,
    /// Its listeners. No two of them take up the same front port.
    pub listeners: BTreeMap<ListenerKey, Listener>,
}

/// An observation of a load balancer.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Observed {
    /// Our part of the load balancer
    pub load_balancer: LoadBalancer,
    /// Its addresses; empty until they are known
    pub addresses: Vec<Address>,
    /// The IP families of the backends that it sends traffic to; none: not known, or any. If
    /// there are two, each of its addresses leads to backends of the same family.
    pub families: BTreeSet<IpFamily>,
    /// Its capacity
    pub capacity: Capacity,
    /// Ports that foreign listeners hold
    pub foreign: BTreeSet<FrontPort>,
    /// Drift of our objects that are no listeners, such as an orphaned target group: by the
    /// number of the front port that it belongs to, for an admin.
    /// [`crate::Change::Configure`] repairs it.
    pub drift: BTreeMap<NonZeroU16, String>,
    /// Listeners that are as they should be and get no traffic, each with the cause
    pub unserved: BTreeMap<ListenerKey, Unserved>,
    /// Why it serves nothing yet although it takes listeners (a cloud is still provisioning
    /// it), for the user. It is observed again until it does
    pub not_ready: Option<String>,
}

/// Why a listener that is as it should be gets no traffic. Each has a message for the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Unserved {
    /// What it lacks is being made (a firewall rule, an address in a status). The load balancer
    /// is observed again until it is there
    Pending(String),
    /// What it lacks is refused, until something changes: the message says what to do
    Refused(String),
}
