//! The settings of a class, and what the provider shares with the rest of the process.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use serde::{Deserialize, Serialize};

use crate::http::Secrets;
use crate::model::Address;
use crate::{Gate, Rate};

/// The settings of a class.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The URL of the updater, with its path: `https://lb1.example.com/api/v1/lb`
    pub url: String,
    /// Where clients reach the ports that the updater configures
    pub address: Address,
    /// Certificates of authorities that are trusted besides those of the system, in PEM
    pub ca_bundle: String,
    /// The name of the Secret with the credentials; `None`: calls have none
    pub secret_name: Option<String>,
    /// Ports of the host that are not the class': foreign listeners have them
    pub reserved_ports: BTreeSet<NonZeroU16>,
    /// How long connections may be silent
    pub timeouts: Timeouts,
    /// How it is found out whether a port is open
    pub verification: Verification,
    /// The id of this cluster
    pub cluster_id: String,
    /// The class
    pub class: String,
}

/// What the provider shares with the rest of the process.
#[derive(Clone)]
pub struct Context {
    /// The API server
    pub client: Client,
    /// The namespace of the journals, which must exist
    pub namespace: String,
    /// Reads the Secrets with credentials
    pub secrets: Arc<dyn Secrets>,
    /// The gate of calls to updaters
    pub gate: Option<Gate>,
    /// Whether the host of an updater may have an address: [`may_be_host`](super::may_be_host),
    /// but for tests
    pub admits: fn(IpAddr) -> bool,
    /// The rate of calls to one updater
    pub rate: Rate,
    /// How long what was posted counts as unchanged. After this time an observation asks for
    /// it to be posted again
    pub repeat_after: Duration,
}

/// The rate of calls to one updater. It writes a file for each call, and NGINX is reloaded
/// after it.
pub const RATE: Rate = Rate { size: 200.0, per_second: 100.0 };

/// How long connections may be silent, as fields of the updater's API.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// How many seconds may pass between two reads or writes of an open connection; 0: the
    /// default of the updater
    pub proxy_timeout_seconds: u32,
    /// How many seconds a connection to a backend may take; 0: the default of the updater
    pub proxy_connect_timeout_seconds: u32,
}

/// How it is found out whether a port is open. The updater's answer says nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// Not at all: a port counts as open once the updater has its backend, and as closed once the
    /// updater has deleted it
    None,
    /// By a connection to each TCP port: before it is posted, since then nothing may listen
    /// there; after it; and after it was deleted, until the connection is refused
    Connect,
}
