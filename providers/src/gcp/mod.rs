//! The `gcp` provider: external and internal passthrough Network Load Balancers of Google Cloud.
//!
//! A load balancer is one forwarding rule for every protocol and port of one address, with the
//! nodes as its backends. Packets arrive at nodes with the address as their destination, so the
//! listeners are Services of the provider [`vip`] with this address in their status: a
//! port takes no call to Google Cloud, except for the firewall rule that allows exactly the open
//! ports.
//!
//! ```text
//!  desired ─► Services ─► open ports ─► wanted ─► plan ◄── found ◄── read
//!                                                  │                   ▲
//!                                                  └─► calls ─► operations
//! ```
//!
//! The Services come first, and wait for nothing at Google Cloud: what closes, and the pods behind
//! a port, need none of it. The firewall allows the ports that the Services have, so a port that
//! was only tried is never allowed, and one that has closed is denied a moment later.
//!
//! Every object of ours has a description that says so, from the call that creates it; foreign
//! objects of the same name are refused. The objects are cached, so that a change costs no reads.

mod apply;
mod attaching;
mod clients;
mod cloud;
mod credentials;
mod failure;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fixture;
mod found;
#[cfg(test)]
mod golden_tests;
mod known;
mod nodes;
mod objects;
mod obstacles;
mod plan;
mod ports;
mod settings;
#[cfg(test)]
mod tests;
mod view;
mod wanted;
mod work;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

pub use self::clients::{Clients, Rates};
use self::cloud::Cloud;
use self::found::Found;
use self::known::Known;
use self::nodes::{Nodes, entry_nodes};
use self::objects::{Names, Object, Zone, last_part};
pub use self::settings::{Affinity, Firewall, HealthCheck, Managed, NetworkTier, NodeIds, Reference, Scheme, Settings};
use self::work::Scope;
use crate::budget::Urgency;
use crate::model::{Attributes, Capabilities, FrontPort, IpFamily, LbName, Observed, Transport};
use crate::vip::{self, Vip};
use crate::{Applied, ChangeSet, Details, Error, Provider};

/// How long a call of the provider begins calls to Google Cloud and waits for operations.
const BEGINS_FOR: Duration = Duration::from_secs(2);

/// The listeners of a load balancer whose class does not set them, if the firewall rule lists
/// their ports. Google documents no limit of ports in a rule.
const LISTENERS_BY_FIREWALL: u32 = 250;

/// Ports of nodes on which not only Services listen: no claim gets them, since traffic would get to
/// the node itself until the Service is there (SSH, and the kubelet).
const OF_NODES: [u16; 2] = [22, 10_250];

/// The provider of a class.
pub struct Gcp {
    inner: Arc<Inner>,
    /// The Services of its load balancers
    services: Vip,
}

struct Inner {
    settings: Settings,
    clients: Clients,
    nodes: NodeIds,
    zones: OnceCell<Vec<Zone>>,
    known: Mutex<BTreeMap<LbName, Known>>,
    /// Reads that took longer than a call of the provider may. The next one takes their result
    reads: Mutex<BTreeMap<LbName, Reading>>,
}

/// A read of all objects of a load balancer.
type Reading = AbortOnDropHandle<Result<Found, Error>>;

impl Gcp {
    /// A provider that shares clients and budgets with all others of its project. The addresses in
    /// the settings of its Services are not used. It makes no call to Google Cloud before the first
    /// observation. Must be called within a Tokio runtime.
    #[must_use]
    pub fn new(settings: Settings, services: vip::Settings, clients: &Clients, nodes: NodeIds) -> Self {
        let services = vip::Settings { addresses: Vec::new(), ..services };
        let inner = Inner {
            settings,
            clients: clients.clone(),
            nodes,
            zones: OnceCell::new(),
            known: Mutex::default(),
            reads: Mutex::default(),
        };
        Self { inner: Arc::new(inner), services: Vip::with_families(services, vec![IpFamily::V4]) }
    }
}

impl Inner {
    fn names<'a>(&'a self, name: &'a LbName) -> Names<'a> {
        let index = name.index().and_then(|index| usize::try_from(index).ok());
        let address = index.and_then(|index| self.settings.address_names.get(index));
        Names { settings: &self.settings, name, address: address.map(String::as_str) }
    }

    fn cloud<'a>(&'a self, name: &'a LbName, urgency: Urgency, begin_by: Option<Instant>) -> Result<Cloud<'a>, Error> {
        let http = self.clients.of(&self.settings).map_err(|failure| {
            Error::Refused(Details::new("the client of Google Cloud cannot be set up").caused_by(failure))
        })?;
        Ok(Cloud::new(http, self.names(name), urgency, begin_by))
    }

    /// The nodes that get traffic.
    fn nodes(&self) -> Result<Nodes, Error> {
        let ids = self.nodes.borrow().clone();
        let ids = ids.ok_or_else(|| Error::NotReady("the nodes of the cluster are not listed yet".into()))?;
        Ok(entry_nodes(&ids, &self.settings))
    }

    /// What is known of a load balancer.
    fn known(&self, name: &LbName) -> Known {
        self.known.lock().get(name).cloned().unwrap_or_default()
    }

    fn keep(&self, name: &LbName, known: Known) {
        self.known.lock().insert(name.clone(), known);
    }

    /// Reads all objects of a load balancer again. A read that is not over by the deadline goes on,
    /// and the next call of this takes its result.
    ///
    /// # Errors
    /// When they could not be read, also in `known.unread`.
    async fn reread(self: &Arc<Self>, name: &LbName, known: &mut Known, deadline: Instant) -> Result<(), Error> {
        let begun = self.reads.lock().remove(name);
        let mut reading = begun.unwrap_or_else(|| {
            let (inner, name) = (self.clone(), name.clone());
            AbortOnDropHandle::new(tokio::spawn(async move { inner.read(&name).await }))
        });
        let read = match timeout_at(deadline, &mut reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(ended)) => Err(Error::Transient(Details::new("Google Cloud could not be read").caused_by(ended))),
            Err(_) => {
                self.reads.lock().insert(name.clone(), reading);
                Err(Error::Transient("Google Cloud has not answered yet".into()))
            }
        };
        let result = read.as_ref().map(drop).map_err(Clone::clone);
        known.reread(read);
        result
    }

    async fn read(&self, name: &LbName) -> Result<Found, Error> {
        let cloud = self.cloud(name, Urgency::Alter, None)?;
        let zones = self.zones.get_or_try_init(|| async {
            let zones = cloud.region().await?.zones;
            Ok(zones.iter().map(|url| Zone::from(last_part(url))).collect())
        });
        cloud.all(zones.await?).await
    }
}

#[async_trait]
impl Provider for Gcp {
    fn capabilities(&self) -> Capabilities {
        let services = self.services.capabilities();
        let Settings { firewall, health_check, .. } = &self.inner.settings;
        let of_nodes = OF_NODES.into_iter().chain([health_check.port]).filter_map(NonZeroU16::new);
        let of_nodes = of_nodes.map(|port| FrontPort { port, transport: Transport::Tcp });
        let by_firewall = firewall.manage == Managed::Ports;
        Capabilities {
            reserved: services.reserved.iter().copied().chain(of_nodes).collect(),
            default_listeners: if by_firewall { LISTENERS_BY_FIREWALL } else { services.default_listeners },
            ..services
        }
    }

    fn attributes(&self, index: u32) -> Attributes {
        view::attributes(self.services.attributes(index), &self.inner.settings)
    }

    fn object(&self, name: &LbName) -> String {
        let Settings { project, region, .. } = &self.inner.settings;
        format!("forwarding rule {name} in region {region} of project {project}")
    }

    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        let services = self.services.observe(name).await?;
        let mut known = self.inner.known(name);
        if !known.take_trust() {
            // What is known of the Services does not wait for it. `known.unread` has the error.
            _ = self.inner.reread(name, &mut known, Instant::now() + BEGINS_FOR).await;
        }
        self.inner.keep(name, known.clone());
        let names = self.inner.names(name);
        if services.is_none() {
            // Without a Service, nothing gets traffic that would have to be closed.
            let state = known.state.as_ref().filter(|_| known.unread.is_none());
            let Some(state) = state else { return Err(known.unread.unwrap_or_else(not_read)) };
            if !state.found.foreign.is_empty()
                && let Some(error) = obstacles::to_creation(names, &state.found)
            {
                return Err(error);
            }
            if state.found.is_empty(names) && state.pending.is_empty() {
                return Ok(None);
            }
        }
        Ok(Some(view::observed(names, services, &known, &self.inner.nodes())))
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        self.carry_out(name, set).await
    }

    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        let services = self.services.delete(name).await;
        let deadline = Instant::now() + BEGINS_FOR;
        let mut known = self.inner.known(name);
        if let Some(state) = &mut known.state {
            // Whether rules may be written is seen when they are deleted.
            state.found.firewalls_denied = None;
        }
        let deleted = match self.inner.reread(name, &mut known, deadline).await {
            Ok(()) => self.tear_down(name, &mut known, services.is_ok(), deadline).await,
            Err(error) => Err(error),
        };
        match services.and(deleted) {
            Ok(()) => _ = self.inner.known.lock().remove(name),
            Err(error) => {
                self.inner.keep(name, known);
                return Err(error);
            }
        }
        Ok(())
    }

    fn changes(&self) -> BoxStream<'static, LbName> {
        let state = (self.inner.clone(), self.inner.nodes.clone());
        let nodes = stream::unfold(state, |(inner, mut nodes)| async move {
            nodes.changed().await.ok()?;
            // Nothing has changed at Google Cloud, so nothing is read.
            let mut known = inner.known.lock();
            known.values_mut().for_each(Known::trust);
            let names: Vec<LbName> = known.keys().cloned().collect();
            drop(known);
            Some((stream::iter(names), (inner, nodes)))
        });
        stream::select(self.services.changes(), nodes.flatten()).boxed()
    }
}

impl Gcp {
    /// Deletes everything at Google Cloud. The address stays while a Service has it: nodes would
    /// take traffic for it that is somebody else's.
    async fn tear_down(
        &self,
        name: &LbName,
        known: &mut Known,
        services_are_gone: bool,
        deadline: Instant,
    ) -> Result<(), Error> {
        let Some(state) = &mut known.state else { return Err(not_read()) };
        let names = self.inner.names(name);
        let mut denied = state.found.firewalls_denied.take();
        let cloud = self.inner.cloud(name, Urgency::Close, Some(deadline))?;
        let steps = |found: &Found, _: &_| {
            let mut steps = plan::teardown(names, found);
            steps.retain(|step| services_are_gone || step.object != Object::Address);
            steps
        };
        cloud.work(state, Scope::All, deadline, steps).await?;
        denied = state.found.firewalls_denied.take().or(denied);
        denied.map_or(Ok(()), |denied| Err(view::rules_left(names, &denied)))
    }
}

/// The error of objects that were never read.
fn not_read() -> Error {
    Error::Transient("Google Cloud was not read yet".into())
}
