//! A load balancer as data: what is wanted of one, and what one was seen to be.
//!
//! Every type has a readable form for files and for other programs (`serde`): front
//! ports, listeners and addresses are strings (`22/TCP`, `20417/TCP_UDP`,
//! `lb.example.com`), names are in camel case, and what is `None` is left out.
//! A field that is added later has a default, so that what was written before
//! can still be read; a field that is not known is ignored.

mod address;
#[cfg(test)]
pub(crate) mod arbitrary;
mod capabilities;
mod listener;
mod name;
mod port;
#[cfg(test)]
mod serde_tests;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

pub use self::address::{Address, IpFamily};
pub use self::capabilities::{Capabilities, Capacity};
pub use self::listener::{Backend, BackendSet, Listener, Owner};
pub use self::name::{LbName, fnv1a};
pub use self::port::{FrontPort, ListenerKey, ParseError, Protocol, Transport};

/// Settings of a load balancer as a whole, by the names that its own API has
/// for them.
pub type Attributes = BTreeMap<String, String>;

/// All that we want of a load balancer, or our part of one as it was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancer {
    /// Its settings; see [`crate::Provider::attributes`]
    pub attributes: Attributes,
    /// Its listeners. No two of them take up the same front port.
    pub listeners: BTreeMap<ListenerKey, Listener>,
}

/// A load balancer as it was seen.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Observed {
    /// Our part of it
    pub load_balancer: LoadBalancer,
    /// Where clients reach it; empty until it is known
    pub addresses: Vec<Address>,
    /// The IP families of the backends that it sends traffic to; none: not known,
    /// or any. Where there are two, each of its addresses leads to backends of the
    /// address' own family.
    pub families: BTreeSet<IpFamily>,
    /// What fits on it
    pub capacity: Capacity,
    /// Ports that foreign listeners hold
    pub foreign: BTreeSet<FrontPort>,
    /// What of ours is not as it should be and is no listener, such as an orphaned target
    /// group: by the number of the front port that it belongs to, in words for a
    /// person. [`crate::Change::Configure`] repairs it.
    pub drift: BTreeMap<NonZeroU16, String>,
    /// Why it serves nothing yet although it takes listeners (a cloud is still
    /// setting it up), in words for the user. It is looked at again until it does
    pub not_ready: Option<String>,
}
