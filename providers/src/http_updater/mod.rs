//! The `httpUpdater` provider: a load balancer is a host with NGINX, whose configuration an
//! updater writes, a program with the HTTP API of nginx-lb-updater. A front port is a backend of
//! the updater.
//!
//! The updater has a POST, which creates or replaces a backend, and a DELETE. It lists nothing,
//! checks nothing, and answers before NGINX has read what it wrote. So:
//!
//! - A **journal**, a ConfigMap, has a record of each backend: from before its first POST until
//!   after its DELETE. An observation is what the journal has. A record of a call without a
//!   result says that nothing is known of the backend, and the listener differs from every
//!   desired one.
//! - The plan is pure: from records and changes to steps. Names of backends are made of letters,
//!   digits and hyphens, a backend without servers is deleted, and a foreign port is not
//!   posted, since one bad file has NGINX refuse all later ones.
//! - What was posted long ago is posted again when a load balancer is observed. That repairs what
//!   another client has done, without a way to read it. What was deleted after a lost call is
//!   deleted again.
//! - With [`Verification::Connect`], a TCP port is connected to before it is posted and after it.
//!   One that was deleted stays recorded until a connection to it is refused: until then NGINX,
//!   which may have refused to reload, may lead to its former backends.
//!
//! ```text
//!  desired ─► steps ─► journal: begun ─► POST, DELETE ─► journal: done
//!                ▲                                            │
//!                └─────────────── records ◄───────────────────┘
//! ```

mod apply;
mod credentials;
mod endpoint;
#[cfg(test)]
mod golden_tests;
mod journal;
mod known;
mod plan;
#[cfg(test)]
mod plan_tests;
mod record;
mod settings;
mod updater;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::apply::Work;
pub use self::endpoint::{canonical_address, canonical_host, canonical_url, may_be_host};
use self::journal::Journal;
use self::known::Known;
pub use self::settings::{Context, RATE, Settings, Timeouts, Verification};
use self::updater::Updater;
use self::verify::Listening;
use crate::model::{
    Attributes, Backend, Capabilities, Capacity, FrontPort, LbName, ListenerKey, LoadBalancer, Observed, Transport,
    Unserved,
};
use crate::{Applied, ChangeSet, Error, Provider};

/// How long connections to ports are tried when a load balancer is observed.
const VERIFIES_FOR: Duration = Duration::from_secs(2);

/// The listeners of a load balancer whose class does not set them. Each listening socket takes
/// one of NGINX' `worker_connections`, of which Debian's configuration has 768.
const DEFAULT_LISTENERS: u32 = 500;
/// The most listeners: with [`MAX_TARGETS`] servers of IPv6, and owners with the longest names,
/// the journal has [room](journal::ROOM) for them.
const MAX_LISTENERS: u32 = 1000;
/// The most targets of a load balancer. Those of a `TCP_UDP` port are recorded twice.
const MAX_TARGETS: u32 = 4000;

/// The attributes of a load balancer, as fields of the updater's API.
const PROXY_TIMEOUT: &str = "proxyTimeoutSeconds";
const PROXY_CONNECT_TIMEOUT: &str = "proxyConnectTimeoutSeconds";

/// The provider of a class.
pub struct HttpUpdater {
    settings: Settings,
    admits: fn(IpAddr) -> bool,
    repeat_after: Duration,
    journal: Journal,
    /// The client of the updater, or why there is none
    updater: Result<Arc<Updater>, Error>,
    known: Mutex<BTreeMap<LbName, Known>>,
}

impl HttpUpdater {
    /// A provider that makes its first call when a load balancer is observed.
    #[must_use]
    pub fn new(settings: Settings, context: &Context) -> Self {
        Self {
            journal: Journal::new(context, &settings),
            updater: Updater::new(&settings, context).map(Arc::new),
            admits: context.admits,
            repeat_after: context.repeat_after,
            settings,
            known: Mutex::default(),
        }
    }

    /// Takes what is known of a load balancer, until it is [kept](Self::keep) again: a call that
    /// is dropped leaves nothing that may be wrong.
    fn take(&self, name: &LbName) -> Option<Known> {
        self.known.lock().remove(name)
    }

    fn keep(&self, name: &LbName, known: Known) {
        self.known.lock().insert(name.clone(), known);
    }

    /// What is known of a load balancer, with the journal as it is now; `None`: it does not
    /// exist.
    async fn refreshed(&self, name: &LbName) -> Result<Option<Known>, Error> {
        let before = self.take(name);
        let stored = match self.journal.read(name).await {
            Ok(stored) => stored,
            Err(error) => {
                before.into_iter().for_each(|known| self.keep(name, known));
                return Err(error);
            }
        };
        Ok(match before {
            Some(mut known) => {
                known.reread(stored, Instant::now());
                Some(known)
            }
            None => stored.map(|stored| Known::new(Some(stored), Instant::now())),
        })
    }

    fn is_due(&self, known: &Known, port: FrontPort) -> bool {
        known.is_due(port, self.settings.timeouts, self.repeat_after)
    }

    /// Finds out what NGINX has done of what the updater was asked for, as far as connections tell.
    async fn verify(&self, known: &mut Known, deadline: Instant) {
        match self.settings.verification {
            Verification::None => known.assume_closed(),
            Verification::Connect => {
                known.verified(&self.listening(known.to_verify(), deadline).await);
            }
        }
    }

    /// What connections to these ports of the host find.
    async fn listening(&self, ports: BTreeSet<FrontPort>, deadline: Instant) -> BTreeMap<FrontPort, Listening> {
        verify::listening(&self.settings.address, self.admits, ports, deadline).await
    }

    /// The listeners with a port that NGINX was not seen to serve or close as it should, each with
    /// the reason for users.
    fn unserved(&self, known: &Known) -> BTreeMap<ListenerKey, String> {
        match self.settings.verification {
            Verification::None => BTreeMap::new(),
            Verification::Connect => known.unserved(&self.settings.address),
        }
    }

    /// What is known, as an observation. Without settings, all that is due is asked for again.
    fn observed(&self, known: &Known) -> Observed {
        let Settings { address, .. } = &self.settings;
        let is_current = known.is_stored() && !known.entries.keys().any(|port| self.is_due(known, *port));
        let attributes = if is_current { self.attributes(0) } else { Attributes::new() };
        let unserved = self.unserved(known).into_iter().map(|(key, why)| (key, Unserved::Pending(why)));
        Observed {
            load_balancer: LoadBalancer { attributes, listeners: record::listeners(&known.records()) },
            addresses: vec![address.clone()],
            capacity: Capacity { listeners: Some(MAX_LISTENERS), targets: Some(MAX_TARGETS) },
            foreign: known.foreign.clone(),
            unserved: unserved.collect(),
            ..Observed::default()
        }
    }

    fn reserved(&self) -> Vec<FrontPort> {
        let of = |port| [Transport::Tcp, Transport::Udp].map(|transport| FrontPort { port, transport });
        self.settings.reserved_ports.iter().copied().flat_map(of).collect()
    }

    async fn apply_to(&self, name: &LbName, known: &mut Known, set: ChangeSet<'_>) -> Result<Applied, Error> {
        let updater = self.updater.clone()?;
        let mut work = Work::new(self, &updater, name);
        work.write(known).await?;
        let due = |port| self.is_due(known, port);
        let steps = plan::steps(&known.records(), set, self.settings.timeouts, due);
        work.carry_out(known, &steps).await?;
        Ok(work.applied())
    }

    async fn delete_all(&self, name: &LbName, known: &mut Known) -> Result<(), Error> {
        let updater = self.updater.clone()?;
        let mut work = Work::new(self, &updater, name);
        let steps = plan::teardown(&known.records());
        work.carry_out(known, &steps).await?;
        if let Some(error) = work.first_error() {
            return Err(error);
        }
        // Those that were released are deleted once more by now.
        let left = known.entries.values().filter(|entry| !entry.record.released).count();
        if left > 0 {
            return Err(Error::NotReady(format!("{left} backends are still to be deleted").into()));
        }
        match &known.stored {
            Some(stored) => self.journal.delete(name, stored).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Provider for HttpUpdater {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            // A backend has one protocol.
            listeners_for_tcp_udp: 2,
            backends_by_transport: true,
            node_targets: true,
            reserved: self.reserved(),
            default_listeners: DEFAULT_LISTENERS,
            default_targets: Some(MAX_TARGETS),
            ..Capabilities::new(MAX_LISTENERS)
        }
    }

    fn attributes(&self, _index: u32) -> Attributes {
        let Timeouts { proxy_timeout_seconds, proxy_connect_timeout_seconds } = self.settings.timeouts;
        Attributes::from([
            (PROXY_TIMEOUT.to_owned(), proxy_timeout_seconds.to_string()),
            (PROXY_CONNECT_TIMEOUT.to_owned(), proxy_connect_timeout_seconds.to_string()),
        ])
    }

    fn object(&self, name: &LbName) -> String {
        format!("{}, updater {}", self.journal.object(name), self.settings.url)
    }

    fn as_observed(&self, backend: Backend) -> Option<Backend> {
        Some(Backend { pod: None, node: None, provider_id: None, ..backend })
    }

    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        let Some(mut known) = self.refreshed(name).await? else { return Ok(None) };
        self.verify(&mut known, Instant::now() + VERIFIES_FOR).await;
        let observed = self.observed(&known);
        self.keep(name, known);
        Ok(Some(observed))
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        let known = match self.take(name) {
            Some(known) => Some(known),
            None => self.refreshed(name).await?,
        };
        let mut known = known.unwrap_or_default();
        let applied = self.apply_to(name, &mut known, set).await;
        self.keep(name, known);
        applied
    }

    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        let Some(mut known) = self.refreshed(name).await? else { return Ok(()) };
        let deleted = self.delete_all(name, &mut known).await;
        if deleted.is_err() {
            self.keep(name, known);
        }
        deleted
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddr};

    use super::journal::{ROOM, bytes};
    use super::record::{Posted, Record};
    use super::*;
    use crate::model::{Owner, Protocol};

    /// A listener of both transports is two records, with all its backends in each.
    #[test]
    fn the_largest_load_balancer_fits_into_its_journal() {
        let longest = |length| "x".repeat(length).as_str().into();
        let owner = Owner { namespace: longest(63), claim: longest(253), port: longest(63) };
        let record = |number: u16, transport, servers| {
            let port = FrontPort { port: number.try_into().unwrap(), transport };
            let timeouts = Timeouts { proxy_timeout_seconds: 86_400, proxy_connect_timeout_seconds: 3_600 };
            let listener = ListenerKey { port: port.port, protocol: Protocol::TcpUdp };
            let posted = Some(Posted { servers, timeouts });
            bytes(port, &Record { listener, owner: owner.clone(), posted, ..Record::unknown(port) }).unwrap()
        };
        let ports = u16::try_from(MAX_LISTENERS / 2).unwrap();
        let of_each = u16::try_from(MAX_TARGETS).unwrap() / ports;
        let servers = |number: u16| {
            let server = |n| {
                SocketAddr::new(Ipv6Addr::new(0xfd00, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff, number, n).into(), 65_535)
            };
            (0xf000..0xf000 + of_each).map(server).collect()
        };
        let numbers = 65_535 - ports..65_535;
        let all = numbers.flat_map(|number| [Transport::Tcp, Transport::Udp].map(|transport| (number, transport)));
        let size: usize = all.map(|(number, transport)| record(number, transport, servers(number))).sum();
        assert!(size <= ROOM, "{size}");
    }
}
