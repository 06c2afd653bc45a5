//! The `gcp` provider: external and internal passthrough Network Load Balancers of Google Cloud.
//!
//! A load balancer is one forwarding rule for every protocol and port of one address, with the
//! nodes as its backends. Packets arrive at nodes with the address as their destination, so the
//! listeners are Services of the provider [`vip`] with this address in their status: a
//! port takes no call to Google Cloud, except for the firewall rule that allows exactly the open
//! ports.
//!
//! ```text
//!  desired ─► wanted ─► plan ◄── found ◄── read       a firewall allows a port before its Service
//!                        │                   ▲        has it, and denies it after it is closed
//!                        └─► calls ─► operations
//! ```
//!
//! Every object of ours has a description that says so, from the call that creates it; foreign
//! objects of the same name are refused. The objects are cached, so that a change costs no reads.

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
mod nodes;
mod objects;
mod plan;
mod ports;
mod settings;
#[cfg(test)]
mod tests;
mod view;
mod wanted;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;

pub use self::clients::{Clients, Rates};
use self::cloud::Cloud;
use self::found::Found;
use self::nodes::{Nodes, entry_nodes};
use self::objects::{Names, Zone, last_part};
pub use self::settings::{Affinity, Firewall, HealthCheck, Managed, NetworkTier, NodeIds, Reference, Scheme, Settings};
use self::wanted::wanted;
use self::work::{Known, Part};
use crate::budget::Urgency;
use crate::diff::{Change, replay};
use crate::model::{Attributes, Capabilities, FrontPort, IpFamily, LbName, ListenerKey, Observed, Transport};
use crate::vip::{self, Vip};
use crate::{Applied, ChangeSet, Details, Error, Provider};

/// How long an apply begins calls and waits for operations.
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
    front: Vip,
}

struct Inner {
    settings: Settings,
    clients: Clients,
    nodes: NodeIds,
    zones: OnceCell<Vec<Zone>>,
    known: Mutex<BTreeMap<LbName, Known>>,
}

impl Gcp {
    /// A provider that shares clients and budgets with all others of its project. The addresses in
    /// the settings of its Services are not used. It makes no call to Google Cloud before the first
    /// observation. Must be called within a Tokio runtime.
    #[must_use]
    pub fn new(settings: Settings, front: vip::Settings, clients: &Clients, nodes: NodeIds) -> Self {
        let front = Vip::with_families(vip::Settings { addresses: Vec::new(), ..front }, vec![IpFamily::V4]);
        let (clients, zones, known) = (clients.clone(), OnceCell::new(), Mutex::default());
        Self { inner: Arc::new(Inner { settings, clients, nodes, zones, known }), front }
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

    /// The known state, which is read unless it is good enough.
    async fn known(&self, name: &LbName, is_enough: impl Fn(&mut Known) -> bool) -> Result<Known, Error> {
        let mut known = self.known.lock().get(name).cloned().unwrap_or_else(Known::unknown);
        if is_enough(&mut known) { Ok(known) } else { Ok(Known::new(self.read(name).await?, known.pending)) }
    }

    fn keep(&self, name: &LbName, known: Known) {
        self.known.lock().insert(name.clone(), known);
    }

    async fn read(&self, name: &LbName) -> Result<Found, Error> {
        let cloud = self.cloud(name, Urgency::Alter, None)?;
        let zones = self.zones.get_or_try_init(|| async {
            let zones = cloud.region().await?.zones;
            Ok(zones.iter().map(|url| Zone::from(last_part(url))).collect())
        });
        cloud.all(zones.await?).await
    }

    /// An error if an object has the name of one of ours.
    fn refuse_foreign(&self, names: Names<'_>, found: &Found) -> Result<(), Error> {
        let Some(object) = found.foreign.first() else { return Ok(()) };
        let message = format!(
            "the {object} {} exists and is not ours (its description does not say so): delete it",
            names.of(object)
        );
        Err(Error::Refused(message.into()))
    }
}

#[async_trait]
impl Provider for Gcp {
    fn capabilities(&self) -> Capabilities {
        let front = self.front.capabilities();
        let Settings { firewall, health_check, .. } = &self.inner.settings;
        let of_nodes = OF_NODES.into_iter().chain([health_check.port]).filter_map(NonZeroU16::new);
        let of_nodes = of_nodes.map(|port| FrontPort { port, transport: Transport::Tcp });
        let by_firewall = firewall.manage == Managed::Ports;
        Capabilities {
            reserved: front.reserved.iter().copied().chain(of_nodes).collect(),
            default_listeners: if by_firewall { LISTENERS_BY_FIREWALL } else { front.default_listeners },
            ..front
        }
    }

    fn attributes(&self, index: u32) -> Attributes {
        view::attributes(self.front.attributes(index))
    }

    fn object(&self, name: &LbName) -> String {
        let Settings { project, region, .. } = &self.inner.settings;
        format!("forwarding rule {name} in region {region} of project {project}")
    }

    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        let nodes = self.inner.nodes()?;
        let front = self.front.observe(name).await?;
        let known = self.inner.known(name, Known::take_trust).await?;
        let names = self.inner.names(name);
        self.inner.refuse_foreign(names, &known.found)?;
        if front.is_none() && known.found.is_empty(names) && known.pending.is_empty() {
            return Ok(None);
        }
        let observed = view::observed(names, front, &known, nodes);
        self.inner.keep(name, known);
        Ok(Some(observed))
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        let mut known = self.inner.known(name, |known| known.is_certain()).await?;
        let applied = self.carry_out(name, &mut known, set).await;
        if matches!(applied, Err(Error::NotReady(_))) {
            known.trust();
        }
        self.inner.keep(name, known);
        applied
    }

    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        self.front.delete(name).await?;
        let deadline = Instant::now() + BEGINS_FOR;
        let mut known = self.inner.known(name, |_| false).await?;
        // Rules that cannot be read may be those of an admin.
        known.found.firewalls_denied = None;
        let names = self.inner.names(name);
        let cloud = self.inner.cloud(name, Urgency::Close, Some(deadline))?;
        let deleted = cloud.work(&mut known, Part::All, deadline, |found| plan::teardown(names, found)).await;
        if let Some(denied) = known.found.firewalls_denied {
            return Err(denied);
        }
        match deleted {
            Ok(()) => _ = self.inner.known.lock().remove(name),
            Err(_) => self.inner.keep(name, known),
        }
        deleted
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
        stream::select(self.front.changes(), nodes.flatten()).boxed()
    }
}

impl Gcp {
    async fn carry_out(&self, name: &LbName, known: &mut Known, set: ChangeSet<'_>) -> Result<Applied, Error> {
        let deadline = Instant::now() + BEGINS_FOR;
        let names = self.inner.names(name);
        self.inner.refuse_foreign(names, &known.found)?;
        let nodes = self.inner.nodes()?;
        let ports = view::front_ports(set.desired);
        let wanted = |found: &Found| wanted(names, nodes.clone(), found.ip(), &ports);
        let steps = |found: &Found| plan::next(&wanted(found), found);
        // What closes waits for no call to Google Cloud.
        let mut front = match known.found.serving() {
            Some(ip) => Some(self.apply_front(name, &known.found, ip.into(), set).await?),
            None => None,
        };
        let configures = set.changes.contains(&Change::Configure) || front.is_none();
        let mut base = Ok(());
        let cloud = self.inner.cloud(name, Urgency::Open, Some(deadline))?;
        if configures {
            if known.found.firewalls_denied.take().is_some() {
                cloud.read_firewalls(&mut known.found).await?;
            }
            base = cloud.work(known, Part::Base, deadline, steps).await;
        }
        let Some(ip) = known.found.serving() else {
            base?;
            return Err(Error::NotReady("Google Cloud creates the load balancer".into()));
        };
        let allowed = cloud.work(known, Part::Ports, deadline, steps).await;
        if front.as_ref().is_none_or(|front| !front.waiting.is_empty()) {
            front = Some(self.apply_front(name, &known.found, ip.into(), set).await?);
        }
        let FrontApplied { mut applied, waiting } = front.unwrap_or_default();
        match allowed {
            Err(Error::NotReady(_)) => applied.postponed.extend(waiting),
            Err(error) => {
                // Without one that waits, the rule still allows the ports of those that closed: as
                // failures, they are observed again, and what is left is repaired.
                let affected = if waiting.is_empty() { closed(set) } else { waiting };
                if affected.is_empty() {
                    base = base.and(Err(error.clone()));
                }
                applied.failed.extend(affected.into_iter().map(|key| (key, error.clone())));
            }
            Ok(()) => {
                let message = "the firewall rule of the class does not allow it: request a port of ports.dynamic, or set \
                               provider.gcp.firewall.manage to Ports";
                let error = Error::Refused(message.into());
                applied.failed.extend(waiting.into_iter().map(|key| (key, error.clone())));
            }
        }
        if configures {
            let denied = known.found.firewalls_denied.as_ref();
            let denied = denied.map(|denied| view::unmanaged(names, &wanted(&known.found), denied));
            applied.unconfigured = base.err().or(applied.unconfigured).or(denied);
        }
        Ok(applied)
    }

    /// Carries out the changes of its Services, except for those that open a port which the
    /// firewall does not allow yet.
    async fn apply_front(
        &self,
        name: &LbName,
        found: &Found,
        ip: IpAddr,
        set: ChangeSet<'_>,
    ) -> Result<FrontApplied, Error> {
        let is_allowed = |change: &Change| {
            let opens = match change {
                Change::Open(key) => BTreeSet::from([*key]),
                Change::Replace { open, .. } => open.clone(),
                _ => BTreeSet::new(),
            };
            let mut ports = opens.iter().flat_map(|key| key.front_ports());
            ports.all(|port| found.admits(&self.inner.settings, port))
        };
        let (now, later): (Vec<Change>, Vec<Change>) = set.changes.iter().cloned().partition(is_allowed);
        let waiting = later.iter().flat_map(Change::listeners).collect();
        let there = self.front.observe(name).await?.unwrap_or_default().load_balancer;
        let mut target = there;
        replay(&mut target, &view::for_front(set.desired, ip), &now);
        let target = view::for_front(&target, ip);
        let set = ChangeSet { desired: &target, changes: &now, waiting: set.waiting };
        Ok(FrontApplied { applied: self.front.apply(name, set).await?, waiting })
    }
}

/// The listeners that close.
fn closed(set: ChangeSet<'_>) -> BTreeSet<ListenerKey> {
    let closed = set.changes.iter().filter(|change| matches!(change, Change::Close(_) | Change::Replace { .. }));
    closed.flat_map(Change::listeners).filter(|key| !set.desired.listeners.contains_key(key)).collect()
}

/// The result of changes of the Services.
#[derive(Debug, Default)]
struct FrontApplied {
    applied: Applied,
    /// The listeners that wait for the firewall
    waiting: BTreeSet<ListenerKey>,
}
