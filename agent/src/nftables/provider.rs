//! nftables as a provider.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use parking_lot::Mutex;
use sharedlb_providers::{
    Address, AffinitySupport, Applied, Attributes, Backend, Capabilities, Change, ChangeSet, Error, IpFamily, LbName,
    Listener, ListenerKey, LoadBalancer, Observed, Provider,
};

use super::engine::Observation;
use super::monitor;
use super::ruleset::{self, TABLE};
use super::shared::{Alteration, Altered, Desired, SharedEngine, Step};
use super::slots::MAX_BACKENDS;
use super::{ServedLoadBalancer, SourceAddress};

/// How many listeners one apply changes, so that it takes less than two seconds: `nft` fills the
/// tables for 5,000 listeners with 3 backends each in 1.1 s, and for 1,000 with 8 in 1.6 s
/// (measured on two busy cores).
const LISTENERS_AT_ONCE: usize = 500;

/// The listeners of a load balancer whose class does not set them.
const DEFAULT_LISTENERS: u32 = 1000;
/// The most listeners: up to this number, the time of a change was measured not to depend on it.
const MAX_LISTENERS: u32 = 5000;

/// The attributes of a load balancer.
const ADDRESSES: &str = "addresses";
const SOURCE_ADDRESS: &str = "sourceAddress";
/// The [version](ruleset::version) of the rules
const RULES: &str = "rules";
/// Between the addresses of the attribute.
const SEPARATOR: &str = ", ";
/// The value of the attribute if another program has altered the rules, or elements of no certain
/// listener.
const ALTERED: &str = "altered";

/// The settings of the load balancers of a class.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The addresses of each load balancer by its index, of either family: one at least. No other
    /// load balancer of the host has one of them
    pub addresses: BTreeMap<u32, BTreeSet<IpAddr>>,
    /// From where pods see connections come
    pub source_address: SourceAddress,
}

/// The provider of the load balancers of a class, as this host serves them.
///
/// Everything that is observed is read from the tables of the kernel, so that a process that was
/// just started goes on where an earlier one has ended. Nothing but the load balancer can be
/// reached at its addresses, and nothing but the agent has a part in its tables: there are no
/// foreign listeners. What another program alters there is drift.
#[derive(Debug)]
pub struct Nftables {
    engine: SharedEngine,
    settings: Settings,
    /// The load balancers that are there, as far as is known
    existing: Arc<Mutex<BTreeSet<LbName>>>,
}

impl Nftables {
    /// A provider on the engine of this host.
    #[must_use]
    pub fn new(engine: SharedEngine, settings: Settings) -> Self {
        Self { engine, settings, existing: Arc::default() }
    }

    /// What an alteration by these changes is about: the first of them, and the listeners for which
    /// there is no room in it.
    fn steps(&self, set: ChangeSet<'_>) -> (Vec<Step>, BTreeSet<ListenerKey>) {
        let (mut steps, mut postponed) = (Vec::new(), BTreeSet::new());
        let mut count = 0;
        for change in set.changes {
            let listeners = change.listeners();
            if listeners.is_empty() {
                continue;
            }
            count += listeners.len();
            if count > LISTENERS_AT_ONCE {
                postponed.extend(listeners);
                continue;
            }
            let desired = |key| (key, set.desired.listeners.get(&key).map(|listener| self.recorded(listener)));
            steps.push(listeners.into_iter().map(desired).collect());
        }
        (steps, postponed)
    }

    /// A listener as the tables record it.
    fn recorded(&self, listener: &Listener) -> Listener {
        let backends = listener.backends.iter().cloned().filter_map(|backend| self.as_observed(backend)).collect();
        Listener { backends, options: listener.options.offered_by(&self.capabilities()), ..listener.clone() }
    }
}

#[async_trait]
impl Provider for Nftables {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new(MAX_LISTENERS);
        capabilities.default_listeners = DEFAULT_LISTENERS;
        capabilities.backends_by_transport = true;
        capabilities.address_families =
            self.settings.addresses.values().flatten().map(|address| IpFamily::of(*address)).collect();
        capabilities.source_ranges = true;
        // A hash of the client's address, which has no timeout.
        capabilities.session_affinity = AffinitySupport::FixedTimeout;
        capabilities.max_targets_per_listener = u32::try_from(MAX_BACKENDS).ok();
        capabilities
    }

    fn attributes(&self, index: u32) -> Attributes {
        let addresses = self.settings.addresses.get(&index).cloned().unwrap_or_default();
        attributes(&addresses, self.settings.source_address, version_text(ruleset::version(self.engine.seed())))
    }

    fn object(&self, name: &LbName) -> String {
        format!("load balancer {name} in the tables {TABLE} of nftables")
    }

    fn as_observed(&self, backend: Backend) -> Option<Backend> {
        Some(Backend { pod: None, node: None, provider_id: None, ..backend })
    }

    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        let observation = self.engine.observe().await?;
        let observed = observation.load_balancers.get(name).map(|served| observed(&observation, served));
        let mut existing = self.existing.lock();
        if observed.is_some() {
            existing.insert(name.clone())
        } else {
            existing.remove(name)
        };
        Ok(observed)
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        let LoadBalancer { attributes, .. } = set.desired;
        let (addresses, source_address) = settings(attributes).ok_or_else(|| {
            Error::Refused(format!("load balancer {name} has attributes of another form: {attributes:?}").into())
        })?;
        let (steps, postponed) = self.steps(set);
        let of_load_balancer = addresses.iter().copied().map(Address::Ip).collect();
        let desired = Desired::Served { addresses, source_address, steps };
        let altered = self.engine.alter(Alteration { name: name.clone(), desired }).await?;
        self.existing.lock().insert(name.clone());
        let Altered { failed, postponed: late, unforgotten } = altered;
        let mut applied = Applied::default();
        applied.failed = failed;
        applied.postponed = &postponed | &late;
        applied.addresses = of_load_balancer;
        match unforgotten {
            // It is drift when the load balancer is observed next.
            Some(error) if !set.changes.contains(&Change::Configure) => Err(error),
            unconfigured => {
                applied.unconfigured = unconfigured;
                Ok(applied)
            }
        }
    }

    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        let removal = Alteration { name: name.clone(), desired: Desired::Removed };
        let altered = self.engine.alter(removal).await?;
        self.existing.lock().remove(name);
        altered.unforgotten.map_or(Ok(()), Err)
    }

    /// All load balancers, whenever a table of ours is deleted. What else another program alters is
    /// found on a resync.
    fn changes(&self) -> BoxStream<'static, LbName> {
        let existing = self.existing.clone();
        let deleted = monitor::deleted_tables(self.engine.programs().nft.clone());
        deleted.flat_map(move |()| stream::iter(existing.lock().clone())).boxed()
    }
}

/// A load balancer as it is in the tables.
fn observed(observation: &Observation, served: &ServedLoadBalancer) -> Observed {
    let ServedLoadBalancer { addresses, source_address, listeners } = served;
    let rules = observation.rules.filter(|_| !observation.is_damaged_elsewhere());
    let rules = rules.map_or_else(|| ALTERED.to_owned(), version_text);
    let mut observed = Observed::default();
    observed.load_balancer =
        LoadBalancer { attributes: attributes(addresses, *source_address, rules), listeners: listeners.clone() };
    observed.addresses = addresses.iter().copied().map(Address::Ip).collect();
    observed.families = addresses.iter().copied().map(IpFamily::of).collect();
    observed.capacity.listeners = Some(MAX_LISTENERS);
    let of_us = |fronts: &BTreeSet<(IpAddr, NonZeroU16)>, what: String| {
        let ports = fronts.iter().filter(|(address, _)| addresses.contains(address)).map(|(_, port)| *port);
        ports.map(|port| (port, what.clone())).collect::<Vec<_>>()
    };
    observed.drift.extend(of_us(&observation.orphaned, "connections to its former backends go on".into()));
    let altered = format!("another program has altered it in the tables {TABLE} of nftables");
    observed.drift.extend(of_us(&observation.damage.ports, altered));
    observed
}

fn attributes(addresses: &BTreeSet<IpAddr>, source_address: SourceAddress, rules: String) -> Attributes {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    Attributes::from([
        (ADDRESSES.to_owned(), addresses.join(SEPARATOR)),
        (SOURCE_ADDRESS.to_owned(), source_address.to_string()),
        (RULES.to_owned(), rules),
    ])
}

/// The settings in attributes; `None`: these are of another form.
fn settings(attributes: &Attributes) -> Option<(BTreeSet<IpAddr>, SourceAddress)> {
    let addresses = attributes.get(ADDRESSES)?.split(SEPARATOR).filter(|text| !text.is_empty());
    let addresses = addresses.map(|address| address.parse().ok()).collect::<Option<_>>()?;
    Some((addresses, attributes.get(SOURCE_ADDRESS)?.parse().ok()?))
}

fn version_text(version: u64) -> String {
    format!("{version:016x}")
}
