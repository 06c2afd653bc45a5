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
//!   another client has done, without a way to read it.
//! - With [`Verification::Connect`], a TCP port is connected to before it is posted and after it.
//!
//! ```text
//!  desired ─► steps ─► journal: begun ─► POST, DELETE ─► journal: done
//!                ▲                                            │
//!                └─────────────── records ◄───────────────────┘
//! ```

mod apply;
mod credentials;
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

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::apply::Work;
use self::journal::Journal;
use self::known::Known;
pub use self::settings::{Context, RATE, Settings, Timeouts, Verification};
use self::updater::Updater;
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
/// the journal is smaller than a ConfigMap can be (1 MiB; Kubernetes documentation, "ConfigMaps").
const MAX_LISTENERS: u32 = 1000;
/// The most targets of a load balancer.
const MAX_TARGETS: u32 = 8000;

/// The attributes of a load balancer, as fields of the updater's API.
const PROXY_TIMEOUT: &str = "proxyTimeoutSeconds";
const PROXY_CONNECT_TIMEOUT: &str = "proxyConnectTimeoutSeconds";

/// The provider of a class.
pub struct HttpUpdater {
    settings: Settings,
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
                known.reread(stored);
                Some(known)
            }
            None => stored.map(|stored| Known::new(Some(stored), Instant::now())),
        })
    }

    fn is_due(&self, known: &Known, port: FrontPort) -> bool {
        known.is_due(port, self.settings.timeouts, self.repeat_after)
    }

    /// The listeners of which a TCP port is posted and not open, each with the reason for users.
    async fn unserved(&self, known: &mut Known) -> BTreeMap<ListenerKey, String> {
        let Settings { address, verification, .. } = &self.settings;
        if *verification == Verification::None {
            return BTreeMap::new();
        }
        let open = verify::open(address, known.unverified(), Instant::now() + VERIFIES_FOR).await;
        let mut unserved = BTreeMap::new();
        for (port, is_open) in open {
            if is_open {
                known.opened(port);
                continue;
            }
            let why = format!(
                "the updater has port {port}, and nothing listens on {address} yet: if it stays so, check for a reload \
                 that NGINX has refused (nginx -t), and for a firewall between the controller and {address}"
            );
            unserved.insert(record::listener_of(port, &known.records), why);
        }
        unserved
    }

    /// What is known, as an observation. Without settings, all that is due is posted again.
    fn observed(&self, known: &Known, unserved: BTreeMap<ListenerKey, String>) -> Observed {
        let Settings { address, .. } = &self.settings;
        let is_current = known.is_stored() && !known.records.keys().any(|port| self.is_due(known, *port));
        let attributes = if is_current { self.attributes(0) } else { Attributes::new() };
        Observed {
            load_balancer: LoadBalancer { attributes, listeners: record::listeners(&known.records) },
            addresses: vec![address.clone()],
            capacity: Capacity { listeners: Some(MAX_LISTENERS), targets: Some(MAX_TARGETS) },
            unserved: unserved.into_iter().map(|(key, why)| (key, Unserved::Pending(why))).collect(),
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
        let steps = plan::steps(&known.records, set, self.settings.timeouts, due);
        work.carry_out(known, &steps).await?;
        work.verify(known, &steps).await;
        Ok(work.applied())
    }

    async fn delete_all(&self, name: &LbName, known: &mut Known) -> Result<(), Error> {
        let updater = self.updater.clone()?;
        let mut work = Work::new(self, &updater, name);
        let steps = plan::teardown(&known.records);
        work.carry_out(known, &steps).await?;
        if let Some(error) = work.first_error() {
            return Err(error);
        }
        if !known.records.is_empty() {
            let left = known.records.len();
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
        let unserved = self.unserved(&mut known).await;
        let observed = self.observed(&known, unserved);
        self.keep(name, known);
        Ok(Some(observed))
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        let known = match self.take(name) {
            Some(known) => Some(known),
            None => self.refreshed(name).await?,
        };
        let mut known = known.unwrap_or_else(|| Known::new(None, Instant::now()));
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
