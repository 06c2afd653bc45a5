//! Services, EndpointSlices and nodes: which backends a claim's port has right now.
//!
//! This is the only thing that the class loop and the LB loops share. A change
//! of endpoints goes from here straight to the LB loops that want to know of
//! it; the class loop hears of it only if it changes an outcome.

pub mod nodes;
mod objects;
mod reach;
mod signal;
#[cfg(test)]
mod tests;
mod why;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::runtime::watcher::Event;
use sharedlb_crds::{Endpoints, TargetKind};
use sharedlb_providers::{Backend, IpFamily, Protocol, Transport};
use tokio::sync::Notify;

use self::nodes::{NodeObject, UsableNode};
use self::objects::EndpointObject;
pub use self::objects::{ServiceKind, ServiceObject, ServicePort, SliceObject};
pub use self::reach::Reach;
pub use self::signal::Signal;
use crate::api::target::PortRef;
use crate::kubernetes::ObjectKey;
use crate::kubernetes::cache::{Cache, Changed};

/// Services, EndpointSlices and nodes, and who wants to know of which.
#[derive(Debug, Default)]
pub struct Backends {
    inner: RwLock<Inner>,
    nodes_needed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    services: Cache<ServiceObject>,
    slices: Cache<SliceObject>,
    slices_of: HashMap<ObjectKey, SlicesOf>,
    interested: HashMap<ObjectKey, Vec<Arc<Signal>>>,
    /// Whether anybody counts the backends of all Services
    counted: bool,
    nodes: Cache<NodeObject>,
}

/// Where traffic to a port of a Service goes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The backends
    pub backends: BTreeSet<Backend>,
    /// Whether a pod takes traffic behind them, of every transport. (Behind a port
    /// of every node there may be none.)
    pub ready: bool,
}

/// What a change of EndpointSlices or nodes means to those who are not told of every one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EndpointNews {
    /// The Services of which now something else is to be said to whom they matter
    pub services: Vec<ObjectKey>,
    /// Whether somebody counts endpoints, and should count them again
    pub counts: bool,
}

/// The EndpointSlices of one Service, and how many endpoints they have.
#[derive(Debug, Default)]
struct SlicesOf {
    slices: Vec<Arc<SliceObject>>,
    endpoints: usize,
}

impl Backends {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether Services, and EndpointSlices, have been listed.
    #[must_use]
    pub fn filled(&self) -> (bool, bool) {
        let inner = self.read();
        (inner.services.is_filled(), inner.slices.is_filled())
    }

    /// The Service of this name.
    #[must_use]
    pub fn service(&self, key: &ObjectKey) -> Option<Arc<ServiceObject>> {
        self.read().services.get(key).cloned()
    }

    /// Takes in what the watch of Services told, and returns which changed.
    pub fn watched_service(&self, event: Event<ServiceObject>) -> Vec<Changed<ServiceObject>> {
        let mut inner = self.write();
        let changes = inner.services.apply_event(event);
        changes.iter().for_each(|change| inner.signal_service(change));
        changes
    }

    /// Takes in the reply to a write of ours, and returns what it changed. When the
    /// watch tells of the same version later, that is no change any more.
    #[must_use]
    pub fn written_service(&self, service: ServiceObject) -> Option<Changed<ServiceObject>> {
        let mut inner = self.write();
        let change = inner.services.apply_write(service)?;
        inner.signal_service(&change);
        Some(change)
    }

    /// From now on it is told that there are more or fewer endpoints.
    pub fn count(&self) {
        self.write().counted = true;
    }

    /// Takes in what the watch of EndpointSlices told.
    pub fn watched_slice(&self, event: Event<SliceObject>) -> EndpointNews {
        let mut inner = self.write();
        let mut retold = Vec::new();
        let mut counts = false;
        for Changed { old, new } in inner.slices.apply_event(event) {
            let Some(service) = new.as_ref().or(old.as_ref()).map(|slice| slice.service.clone()) else { continue };
            let before = inner.slices_of.get(&service).map_or((0, 0), |known| (known.slices.len(), known.endpoints));
            if let Some(old) = old {
                inner.forget_slice(&old);
            }
            if let Some(new) = new {
                let known = inner.slices_of.entry(service.clone()).or_default();
                known.endpoints += new.endpoints.len();
                known.slices.push(new);
            }
            inner.signal(&service);
            counts |= inner.counted;
            let now = inner.slices_of.get(&service).map_or((0, 0), |known| (known.slices.len(), known.endpoints));
            if (before.0 == 0, before.1 == 0) != (now.0 == 0, now.1 == 0) {
                retold.push(service);
            }
        }
        EndpointNews { services: retold, counts }
    }

    /// From now on nodes are to be watched, too. They are not before: in a large
    /// cluster there are many, and they change often.
    pub fn need_nodes(&self) {
        self.nodes_needed.notify_one();
    }

    /// Waits until nodes are to be watched.
    pub async fn nodes_needed(&self) {
        self.nodes_needed.notified().await;
    }

    /// Takes in what the watch of nodes told.
    pub fn watched_node(&self, event: Event<NodeObject>) -> EndpointNews {
        let mut inner = self.write();
        let listed = matches!(event, Event::InitDone);
        let changes = inner.nodes.apply_event(event);
        // Nodes tell every few minutes that they are still there.
        let differs = |change: &Changed<NodeObject>| match (&change.old, &change.new) {
            (Some(old), Some(new)) => !old.is_like(new),
            _ => true,
        };
        let changed = listed || changes.iter().any(differs);
        if changed && inner.nodes.is_filled() {
            inner.signal(&nodes::key());
        }
        EndpointNews { services: Vec::new(), counts: changed && inner.counted }
    }

    /// Whether all is known that traffic depends on which gets to pods in this way.
    #[must_use]
    pub fn knows(&self, reach: Reach) -> bool {
        reach.targets == TargetKind::Pod || self.read().nodes.is_filled()
    }

    fn nodes_of(&self, service: &ObjectKey, port: &PortRef, protocol: Protocol) -> BTreeSet<Backend> {
        let inner = self.read();
        Backend::by_transport(protocol, |transport| inner.nodes_of(service, port, transport))
    }

    /// How many nodes get traffic.
    #[must_use]
    pub fn nodes(&self) -> usize {
        nodes::usable(self.read().nodes.objects().values()).len()
    }

    /// From now on `signal` is told of changes of the services in `now`, and no
    /// longer of those only in `before`.
    pub fn interest(&self, before: &BTreeSet<ObjectKey>, now: &BTreeSet<ObjectKey>, signal: &Arc<Signal>) {
        let mut inner = self.write();
        for service in before.difference(now) {
            if let Some(signals) = inner.interested.get_mut(service) {
                signals.retain(|other| !Arc::ptr_eq(other, signal));
                if signals.is_empty() {
                    inner.interested.remove(service);
                }
            }
        }
        for service in now.difference(before) {
            inner.interested.entry(service.clone()).or_default().push(signal.clone());
        }
    }

    /// Whether Kubernetes has listed the pods of this Service. It has not just after
    /// the Service was made, and then makes an EndpointSlice even for a selector that
    /// matches nothing.
    #[must_use]
    pub fn has_listed(&self, service: &ObjectKey) -> bool {
        self.read().slices_of.contains_key(service)
    }

    /// Where traffic to this port of this Service goes: its ready endpoints, and
    /// if there are none, those that still serve while they go away. `count` says
    /// which endpoints count at all.
    ///
    /// Each transport of the protocol leads to its own.
    #[must_use]
    pub fn of(&self, service: &ObjectKey, port: &PortRef, protocol: Protocol, count: Endpoints) -> BTreeSet<Backend> {
        let inner = self.read();
        Backend::by_transport(protocol, |transport| inner.of(service, port, transport, count))
    }

    /// Where traffic to this port of this Service goes if it gets to pods in this
    /// way: to pods as [`Backends::of`] has it, or to all nodes that get traffic,
    /// whether a pod is ready or not. So no node is exchanged when the last pod
    /// goes and the next one comes.
    #[must_use]
    pub fn reached(&self, service: &ObjectKey, port: &PortRef, protocol: Protocol, reach: Reach) -> Reached {
        let pods = self.of(service, port, protocol, reach.endpoints);
        let ready = transports_with_backends(protocol, &pods).count() == protocol.transports().len();
        match reach.targets {
            TargetKind::Pod => Reached { backends: pods, ready },
            TargetKind::Node => Reached { backends: self.nodes_of(service, port, protocol), ready },
        }
    }

    /// Why a transport of a port of this Service leads to no backend, in words for
    /// the user; `None`: each leads to one, or it is not known yet whether it does.
    #[must_use]
    pub fn why_none(
        &self,
        service: &ObjectKey,
        port: &PortRef,
        protocol: Protocol,
        count: Endpoints,
    ) -> Option<String> {
        let inner = self.read();
        let ours = matches!(port, PortRef::OfClaim(_));
        let Some(found) = inner.services.get(service) else {
            return (!ours).then(|| why::no_service(service));
        };
        let port_of = |transport: &Transport| found.ports.iter().find(|candidate| candidate.is(port, *transport));
        let missing = protocol.transports().iter().find(|transport| port_of(transport).is_none());
        if let Some(transport) = missing {
            return (!ours).then(|| why::no_service_port(found, port, *transport));
        }
        let unserved = |transport: &&Transport| inner.of(service, port, **transport, count).is_empty();
        let unserved: Vec<&ServicePort> = protocol.transports().iter().filter(unserved).filter_map(&port_of).collect();
        let unknown = (ours || found.has_selector) && !inner.slices_of.contains_key(service);
        if unserved.is_empty() || unknown {
            return None;
        }
        if !ours && !found.has_selector && count == Endpoints::Pods {
            return Some(why::no_selector(found));
        }
        let mut endpoints = inner.endpoints_of(found, count).map(|(_, endpoint)| endpoint).peekable();
        if endpoints.peek().is_none() {
            return Some(why::no_endpoints(found, ours));
        }
        if !endpoints.any(|endpoint| endpoint.ready) {
            return Some(why::none_ready(found));
        }
        let all: Vec<&ServicePort> = protocol.transports().iter().filter_map(port_of).collect();
        why::no_port(found, &all, &unserved)
    }

    /// Why this Service, which leads to backends, leads to none of this IP family, in
    /// words for the user.
    #[must_use]
    pub fn why_none_of(&self, service: &ObjectKey, family: IpFamily) -> String {
        match self.read().services.get(service) {
            Some(found) => why::no_family(found, family),
            None => why::no_address(family),
        }
    }
}

impl Inner {
    fn forget_slice(&mut self, slice: &SliceObject) {
        if let Some(known) = self.slices_of.get_mut(&slice.service) {
            known.slices.retain(|known| known.meta.key != slice.meta.key);
            known.endpoints -= slice.endpoints.len();
            if known.slices.is_empty() {
                self.slices_of.remove(&slice.service);
            }
        }
    }

    fn signal_service(&self, Changed { old, new }: &Changed<ServiceObject>) {
        new.as_ref().or(old.as_ref()).into_iter().for_each(|service| self.signal(&service.meta.key));
    }

    fn signal(&self, service: &ObjectKey) {
        self.interested.get(service).into_iter().flatten().for_each(|signal| signal.service_changed(service));
    }

    fn slices_of<'a>(&'a self, service: &ObjectKey) -> impl Iterator<Item = &'a SliceObject> + Clone {
        self.slices_of.get(service).into_iter().flat_map(|known| known.slices.iter().map(Arc::as_ref))
    }

    /// The endpoints of a Service that count, each with its slice.
    fn endpoints_of<'a>(
        &'a self,
        service: &'a ServiceObject,
        count: Endpoints,
    ) -> impl Iterator<Item = (&'a SliceObject, &'a EndpointObject)> + Clone {
        let all =
            self.slices_of(&service.meta.key).flat_map(|slice| slice.endpoints.iter().map(move |each| (slice, each)));
        all.filter(move |(slice, endpoint)| {
            count == Endpoints::Any || (service.has_selector && slice.by_kubernetes && endpoint.pod.is_some())
        })
    }

    /// The nodes, at the port that this port of the Service has on each of them.
    fn nodes_of(&self, service: &ObjectKey, port: &PortRef, transport: Transport) -> BTreeSet<Backend> {
        let Some(found) = self.services.get(service) else { return BTreeSet::new() };
        let found = found.ports.iter().find(|each| each.is(port, transport));
        let Some(port) = found.and_then(|port| port.node_port) else { return BTreeSet::new() };
        let backend = |node: &UsableNode, address: &IpAddr| Backend {
            address: *address,
            port,
            pod: None,
            node: Some(node.name.clone()),
            provider_id: node.provider_id.clone(),
            transport: None,
        };
        let nodes = nodes::usable(self.nodes.objects().values());
        nodes.into_iter().flat_map(|node| node.addresses.iter().map(move |address| backend(node, address))).collect()
    }

    fn of(&self, service: &ObjectKey, port: &PortRef, transport: Transport, count: Endpoints) -> BTreeSet<Backend> {
        let Some(found) = self.services.get(service) else { return BTreeSet::new() };
        let Some(of_service) = found.ports.iter().find(|candidate| candidate.is(port, transport)) else {
            return BTreeSet::new();
        };
        // A Service whose port was renamed may be known before its EndpointSlices are.
        let is_meant = |name: &str| match port {
            PortRef::OfClaim(port) => port.is_named(name, transport),
            _ => *name == *of_service.name,
        };
        let listed = |slice: &SliceObject| {
            slice.ports.iter().find(|(name, t, _)| is_meant(name) && *t == transport).map(|(_, _, number)| *number)
        };
        let is_listed = self.slices_of(service).any(|slice| listed(slice).is_some());
        let all = || {
            self.endpoints_of(found, count).filter_map(|(slice, endpoint)| {
                let is_renamed = !is_listed && found.has_selector && slice.by_kubernetes;
                let former = || if is_renamed { of_former_name(found, of_service, slice) } else { None };
                Some((endpoint, listed(slice).or_else(former)?))
            })
        };
        let backend = |(endpoint, port): (&EndpointObject, NonZeroU16)| Backend {
            address: endpoint.address,
            port,
            pod: endpoint.pod.clone(),
            node: endpoint.node.clone(),
            provider_id: None,
            transport: None,
        };
        let ready: BTreeSet<Backend> = all().filter(|(endpoint, _)| endpoint.ready).map(backend).collect();
        if ready.is_empty() {
            return all().filter(|(endpoint, _)| endpoint.serving_while_terminating).map(backend).collect();
        }
        ready
    }
}

/// The transports of this protocol that lead to any of these backends.
pub fn transports_with_backends(protocol: Protocol, backends: &BTreeSet<Backend>) -> impl Iterator<Item = Transport> {
    let transports = protocol.transports().iter().copied();
    transports.filter(|transport| backends.iter().any(|backend| backend.takes(*transport)))
}

/// The number that an EndpointSlice has under the former name of a port of its Service:
/// the only name in the slice that no port of the Service has now, and that leads to
/// the target of the port. A renamed Service is known before its EndpointSlices are.
fn of_former_name(service: &ServiceObject, port: &ServicePort, slice: &SliceObject) -> Option<NonZeroU16> {
    let is_known =
        |name: &Arc<str>| service.ports.iter().any(|known| known.name == *name && known.transport == port.transport);
    let leads_there = |number: NonZeroU16| match &port.target {
        IntOrString::Int(target) => i32::from(number.get()) == *target,
        IntOrString::String(_) => true,
    };
    let mut former = slice.ports.iter().filter(|(name, transport, number)| {
        Some(*transport) == port.transport && !is_known(name) && leads_there(*number)
    });
    let (_, _, number) = former.next()?;
    former.next().is_none().then_some(*number)
}
