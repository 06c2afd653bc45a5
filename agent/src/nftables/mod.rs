//! The data path: nftables leads the ports of load balancers to pods.
//!
//! Everything is in the tables `ip sharedlb` and `ip6 sharedlb`, whose rules never change: what
//! differs from one load balancer to another is in their sets and maps. A change of a listener
//! replaces its elements in one transaction, and takes no longer with many listeners than with
//! few.
//!
//! - A new connection gets its backend by a hash of its source: the same on every host
//!   ([`slots`]). Its source becomes the address of the load balancer. So another host that gets
//!   a packet of a connection that it has never seen leads it to the same pod, for which it still
//!   is the same connection.
//! - Ports of a load balancer's address without backends are refused, and so are all others on
//!   which the host itself listens.
//! - Connections of backends that are gone are forgotten by the kernel ([`conntrack`]), or their
//!   packets would still be sent there.
//!
//! [`Nftables`] is the provider of the load balancers of a class. All providers of a host share one
//! [`Engine`] ([`SharedEngine`]), which applies a [`DataPath`], finds what other programs have
//! altered, and repairs it. What is recorded in the tables tells a new process what an earlier one
//! has left. All else in here is pure. See `docs/decisions/038-nftables-data-path.md`.

pub mod conntrack;
mod elements;
mod engine;
#[cfg(test)]
mod fixtures;
mod forget;
mod listing;
mod monitor;
mod provider;
mod records;
pub mod ruleset;
mod shared;
pub mod slots;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sharedlb_providers::{LbName, Listener, ListenerKey};

pub use self::engine::{Engine, Programs};
pub use self::provider::{Nftables, Settings};
pub use self::records::UnknownSourceAddress;
pub use self::shared::SharedEngine;
use crate::program;

/// The load balancers of a host, whichever host has their addresses at the moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataPath {
    /// Of the hashes by which connections get their backends: the same on all hosts
    pub seed: u32,
    /// The load balancers. No two have an address in common
    pub load_balancers: BTreeMap<LbName, ServedLoadBalancer>,
}

/// A load balancer as a host serves it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServedLoadBalancer {
    /// Its addresses, of either family. Nothing but the load balancer can be reached there
    pub addresses: BTreeSet<IpAddr>,
    /// From where pods see connections come
    pub source_address: SourceAddress,
    /// Its listeners. The ports of listeners without backends are refused
    pub listeners: BTreeMap<ListenerKey, Listener>,
}

/// The source address of connections to pods. It is not the client's, since their answers have to
/// come back to the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SourceAddress {
    /// The address of the load balancer, to which pods need a route. Connections outlive the host
    #[default]
    #[serde(rename = "VIP")]
    Vip,
    /// That of the host, where pods have no route to the address of the load balancer
    Host,
}
