//! The reference provider: load balancers that exist in memory only.
//!
//! It has the rules of every real load balancer (a port has one listener, foreign listeners
//! stay, room is limited), and fails on demand, so that code that uses a [`Provider`] can be
//! tested without a cloud.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};

use crate::diff::{Change, replay};
use crate::model::{
    Address, AffinitySupport, Attributes, Capabilities, Capacity, FrontPort, IpFamily, LbName, ListenerKey,
    LoadBalancer, Observed, Unserved,
};
use crate::{Applied, ChangeSet, Error, Provider};

/// The load balancers of one [`Memory`]. A clone is the same cloud, for another process.
#[derive(Debug, Clone, Default)]
pub struct Cloud(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    load_balancers: BTreeMap<LbName, MemoryLoadBalancer>,
    refused: BTreeSet<ListenerKey>,
    /// Listeners that take the address from their load balancer while they are open
    costly: BTreeSet<ListenerKey>,
    /// Listeners that get no traffic while they are open
    unserved: BTreeMap<ListenerKey, Unserved>,
    /// Whether drift cannot be repaired
    cannot_repair: bool,
    /// Whether load balancers get no address
    no_addresses: bool,
    /// Whether no further load balancer can be created
    no_more: bool,
    limits: Capacity,
    coalesce: Duration,
    families: BTreeSet<IpFamily>,
    one_set_of_backends: bool,
    address_families: BTreeSet<IpFamily>,
    lacks_source_ranges: bool,
    /// Whether open listeners keep their options
    keeps_options: bool,
    /// `None`: with any timeout
    affinity: Option<AffinitySupport>,
    calls: usize,
}

impl State {
    /// Why this change is refused on demand.
    fn refuses(&self, change: &Change) -> Option<Error> {
        if self.keeps_options && matches!(change, Change::Options(_)) {
            return Some(Error::Refused("options do not change on demand".into()));
        }
        let refused = change.listeners().into_iter().find(|listener| self.refused.contains(listener))?;
        Some(Error::Refused(format!("{refused} is refused on demand").into()))
    }
}

#[derive(Debug, Default)]
struct MemoryLoadBalancer {
    ours: LoadBalancer,
    drift: BTreeMap<NonZeroU16, String>,
    foreign: BTreeSet<FrontPort>,
}

impl Cloud {
    /// Listeners that fit on one load balancer.
    pub const LISTENERS: u32 = 50;

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Opens a foreign listener on a load balancer.
    pub fn open_foreign(&self, name: &LbName, port: FrontPort) {
        self.state().load_balancers.entry(name.clone()).or_default().foreign.insert(port);
    }

    /// Whether this foreign listener exists.
    #[must_use]
    pub fn has_foreign(&self, name: &LbName, port: FrontPort) -> bool {
        self.state().load_balancers.get(name).is_some_and(|lb| lb.foreign.contains(&port))
    }

    /// Adds drift at a port.
    pub fn drifts(&self, name: &LbName, port: NonZeroU16, what: &str) {
        self.state().load_balancers.entry(name.clone()).or_default().drift.insert(port, what.to_owned());
    }

    /// From now on, drift can or cannot be repaired.
    pub fn repairs(&self, repairs: bool) {
        self.state().cannot_repair = !repairs;
    }

    /// From now on a change of this listener is refused.
    pub fn refuse(&self, listener: ListenerKey) {
        self.state().refused.insert(listener);
    }

    /// From now on a load balancer has no address while it has this listener.
    pub fn takes_address(&self, listener: ListenerKey) {
        self.state().costly.insert(listener);
    }

    /// From now on this listener gets no traffic, for this reason; `None`: it does.
    pub fn leave_unserved(&self, listener: ListenerKey, why: Option<Unserved>) {
        let mut state = self.state();
        state.unserved.remove(&listener);
        state.unserved.extend(why.map(|why| (listener, why)));
    }

    /// From now on load balancers have an address, or none.
    pub fn gives_addresses(&self, gives: bool) {
        self.state().no_addresses = !gives;
    }

    /// From now on no further load balancer can be made, or any again.
    pub fn refuse_new(&self, refuse: bool) {
        self.state().no_more = refuse;
    }

    /// From now on, each load balancer has this capacity, as if foreign listeners used the
    /// rest.
    pub fn limit(&self, limits: Capacity) {
        self.state().limits = limits;
    }

    /// From now on, changes of backends are to be coalesced for this long.
    pub fn coalesce(&self, how_long: Duration) {
        self.state().coalesce = how_long;
    }

    /// From now on each load balancer sends traffic to backends of these families.
    pub fn families(&self, families: impl IntoIterator<Item = IpFamily>) {
        self.state().families = families.into_iter().collect();
    }

    /// From now on the addresses of load balancers are of these families.
    pub fn address_families(&self, families: impl IntoIterator<Item = IpFamily>) {
        self.state().address_families = families.into_iter().collect();
    }

    /// From now on TCP and UDP of one listener lead to the same backends.
    pub fn one_set_of_backends(&self) {
        self.state().one_set_of_backends = true;
    }

    /// From now on listeners can have these options.
    pub fn offer(&self, source_ranges: bool, session_affinity: AffinitySupport) {
        let mut state = self.state();
        state.lacks_source_ranges = !source_ranges;
        state.affinity = Some(session_affinity);
    }

    /// From now on the options of open listeners can or cannot be changed.
    pub fn changes_options(&self, changes: bool) {
        self.state().keeps_options = !changes;
    }

    /// Nothing is refused any more.
    pub fn accept_all(&self) {
        let mut state = self.state();
        state.refused.clear();
        state.costly.clear();
    }

    /// The number of calls so far: one for each observation and each change.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.state().calls
    }
}

/// The provider of a [`Cloud`].
#[derive(Debug, Clone, Default)]
pub struct Memory {
    cloud: Cloud,
    /// How many more calls succeed before the process "dies".
    dies_after: Option<Arc<Mutex<usize>>>,
}

impl Memory {
    /// A provider for this cloud.
    #[must_use]
    pub fn new(cloud: Cloud) -> Self {
        Self { cloud, dies_after: None }
    }

    /// A provider whose calls all fail after the first `calls`, as for a process that was
    /// killed.
    #[must_use]
    pub fn dying_after(cloud: Cloud, calls: usize) -> Self {
        Self { cloud, dies_after: Some(Arc::new(Mutex::new(calls))) }
    }

    fn call(&self) -> Result<MutexGuard<'_, State>, Error> {
        if let Some(left) = &self.dies_after {
            let mut left = left.lock();
            *left = left.checked_sub(1).ok_or_else(|| Error::Transient("the process has died".into()))?;
        }
        let mut state = self.cloud.state();
        state.calls += 1;
        Ok(state)
    }
}

#[async_trait]
impl Provider for Memory {
    fn capabilities(&self) -> Capabilities {
        let state = self.cloud.state();
        Capabilities {
            backends_by_transport: !state.one_set_of_backends,
            node_targets: true,
            address_families: state.address_families.clone(),
            source_ranges: !state.lacks_source_ranges,
            session_affinity: state.affinity.unwrap_or(AffinitySupport::Timeout),
            default_targets: state.limits.targets,
            coalesce: state.coalesce,
            ..Capabilities::new(Cloud::LISTENERS)
        }
    }

    fn attributes(&self, index: u32) -> Attributes {
        Attributes::from([("index".into(), index.to_string())])
    }

    fn object(&self, name: &LbName) -> String {
        format!("load balancer {name} in memory")
    }

    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        let state = self.call()?;
        Ok(state.load_balancers.get(name).map(|found| Observed {
            load_balancer: found.ours.clone(),
            addresses: addresses(&state, name, &found.ours),
            families: state.families.clone(),
            capacity: capacity(state.limits),
            foreign: found.foreign.clone(),
            drift: found.drift.clone(),
            unserved: unserved(&state, &found.ours),
            not_ready: None,
        }))
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        let mut unconfigured = None;
        {
            let mut state = self.call()?;
            if state.no_more && !state.load_balancers.contains_key(name) {
                return Err(Error::Exhausted("no further load balancer can be made".into()));
            }
            let cannot_repair = state.cannot_repair;
            let lb = state.load_balancers.entry(name.clone()).or_default();
            let waits = |port: &NonZeroU16| set.waiting.iter().any(|key| key.port == *port);
            if !cannot_repair {
                lb.drift.retain(|port, _| waits(port));
            } else if !lb.drift.keys().all(waits) {
                unconfigured = Some(Error::Refused("it is not repaired on demand".into()));
            }
        }
        let mut failed: BTreeMap<ListenerKey, Error> = BTreeMap::new();
        // Listeners that keep their options, and stay with their claims
        let mut unaltered: BTreeSet<ListenerKey> = BTreeSet::new();
        for change in set.changes {
            let goes_on = matches!(change, Change::Backends(key) if unaltered.contains(key));
            if !goes_on && change.listeners().iter().any(|key| failed.contains_key(key)) {
                continue;
            }
            let mut state = self.call()?;
            let limits = capacity(state.limits);
            let error = state.refuses(change);
            let lb = state.load_balancers.entry(name.clone()).or_default();
            match error.or_else(|| check(lb, set.desired, change, limits)) {
                Some(error) => {
                    if let Change::Options(key) = change
                        && stays_with_its_claim(*key, &lb.ours, set.desired)
                    {
                        unaltered.insert(*key);
                    }
                    failed.extend(change.listeners().into_iter().map(|key| (key, error.clone())));
                }
                None => replay(&mut lb.ours, set.desired, [change]),
            }
        }
        let state = self.cloud.state();
        let addresses = state.load_balancers.get(name).map(|found| addresses(&state, name, &found.ours));
        Ok(Applied { failed, unconfigured, addresses: addresses.unwrap_or_default(), ..Applied::default() })
    }

    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        self.call()?.load_balancers.remove(name);
        Ok(())
    }
}

/// The listeners of a load balancer that get no traffic.
fn unserved(state: &State, ours: &LoadBalancer) -> BTreeMap<ListenerKey, Unserved> {
    let open = |(key, _): &(&ListenerKey, &Unserved)| ours.listeners.contains_key(key);
    state.unserved.iter().filter(open).map(|(key, why)| (*key, why.clone())).collect()
}

/// The capacity of one load balancer.
fn capacity(limits: Capacity) -> Capacity {
    Capacity { listeners: limits.listeners.or(Some(Cloud::LISTENERS)), targets: limits.targets }
}

/// Why the load balancer refuses this change.
fn check(lb: &MemoryLoadBalancer, desired: &LoadBalancer, change: &Change, limits: Capacity) -> Option<Error> {
    let mut after = lb.ours.clone();
    replay(&mut after, desired, [change]);
    let targets = |ours: &LoadBalancer| ours.listeners.values().map(|listener| listener.backends.len()).sum::<usize>();
    let before = targets(&lb.ours);
    let targets = targets(&after);
    if let Some(limit) = limits.targets.filter(|limit| targets > before && targets > *limit as usize) {
        return Some(Error::NoRoom(
            format!("the load balancer takes {limit} targets, and these were {targets}").into(),
        ));
    }
    let opened: Vec<ListenerKey> = match change {
        Change::Open(key) => vec![*key],
        Change::Replace { open, .. } => open.iter().copied().collect(),
        _ => return None,
    };
    let others = after.listeners.keys().filter(|key| !opened.contains(key)).flat_map(|key| key.front_ports());
    let taken: BTreeSet<FrontPort> = others.chain(lb.foreign.iter().copied()).collect();
    let in_use = opened.iter().flat_map(|key| key.front_ports()).find(|port| taken.contains(port));
    if let Some(port) = in_use {
        return Some(Error::PortInUse(format!("{port} has a listener already").into()));
    }
    let listeners = after.listeners.len() + lb.foreign.len();
    let limit = limits.listeners.unwrap_or(u32::MAX);
    let held = lb.ours.listeners.len() + lb.foreign.len();
    (listeners > held && listeners > limit as usize)
        .then(|| Error::NoRoom(format!("the load balancer holds {held} of {limit} listeners").into()))
}

fn stays_with_its_claim(key: ListenerKey, ours: &LoadBalancer, desired: &LoadBalancer) -> bool {
    let both = ours.listeners.get(&key).zip(desired.listeners.get(&key));
    both.is_some_and(|(found, wanted)| found.owner.is_same_claim(&wanted.owner))
}

fn addresses(state: &State, name: &LbName, ours: &LoadBalancer) -> Vec<Address> {
    let costs_it = ours.listeners.keys().any(|key| state.costly.contains(key));
    let address = Address::Hostname(format!("{name}.example.com"));
    Some(address).filter(|_| !state.no_addresses && !costs_it).into_iter().collect()
}

#[cfg(all(test, feature = "conformance"))]
mod tests {
    use super::*;
    use crate::conformance::{self, Peer};

    struct MemoryPeer(Cloud);

    #[async_trait]
    impl Peer for MemoryPeer {
        async fn provider(&self) -> Box<dyn Provider> {
            Box::new(Memory::new(self.0.clone()))
        }
        async fn provider_dying_after(&self, calls: usize) -> Box<dyn Provider> {
            Box::new(Memory::dying_after(self.0.clone(), calls))
        }
        async fn open_foreign(&self, name: &LbName, port: FrontPort) {
            self.0.open_foreign(name, port);
        }
        async fn has_foreign(&self, name: &LbName, port: FrontPort) -> bool {
            self.0.has_foreign(name, port)
        }
        async fn refuse(&self, listener: ListenerKey) {
            self.0.refuse(listener);
        }
        async fn accept_all(&self) {
            self.0.accept_all();
        }
    }

    #[tokio::test]
    async fn the_memory_provider_passes_the_conformance_suite() {
        for (name, test) in conformance::SUITE {
            println!("{name}");
            test(&MemoryPeer(Cloud::default())).await;
        }
    }
}
