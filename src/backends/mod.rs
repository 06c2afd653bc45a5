//! Services, EndpointSlices and nodes: the current backends of each port.
//!
//! The class loop and the LB loops share only this. A change of endpoints wakes the LB
//! loops that depend on it directly; the class loop gets an event only if an outcome
//! changes.

mod cluster_addresses;
pub(crate) mod nodes;
mod objects;
mod reach;
mod signal;
#[cfg(test)]
mod tests;
mod why;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::runtime::watcher::Event;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use sharedlb_crds::{Endpoints, TargetKind};
use sharedlb_providers::gcp::NodeIds;
use sharedlb_providers::{Backend, IpFamily, Protocol, Transport};
use tokio::sync::{Notify, watch};

pub(crate) use self::cluster_addresses::ServiceCidrObject;
use self::nodes::{NodeObject, UsableNode};
use self::objects::EndpointObject;
pub(crate) use self::objects::{ServiceObject, ServicePort, SliceObject};
pub(crate) use self::reach::Reach;
pub(crate) use self::signal::Signal;
use crate::api::target::PortRef;
use crate::kubernetes::ObjectKey;
use crate::kubernetes::cache::{Cache, Changed};

/// The caches of Services, EndpointSlices and nodes, and the LB loops that depend on them.
#[derive(Debug, Default)]
pub(crate) struct Backends {
    inner: RwLock<Inner>,
    nodes_needed: Notify,
    node_ids: watch::Sender<Option<Arc<BTreeSet<Arc<str>>>>>,
    service_cidrs_needed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    services: Cache<ServiceObject>,
    slices: Cache<SliceObject>,
    slices_of: HashMap<ObjectKey, SlicesOf>,
    interested: HashMap<ObjectKey, Vec<Arc<Signal>>>,
    /// Whether changes of the number of endpoints are reported
    counted: bool,
    nodes: Cache<NodeObject>,
    service_cidrs: Cache<ServiceCidrObject>,
}

/// The backends of a port of a Service.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    pub backends: BTreeSet<Backend>,
    /// Whether each transport has a ready pod behind them. (Behind a port of every node
    /// there may be none.)
    pub ready: bool,
}

/// The parts of a change of EndpointSlices, nodes or ServiceCIDRs that the class loop needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct BackendChanges {
    /// The Services that got their first EndpointSlice, endpoint or ready endpoint, or lost the
    /// last one
    pub services: Vec<ObjectKey>,
    /// Whether endpoints are counted and their number may have changed
    pub counts: bool,
    /// Whether the addresses that the cluster itself uses have changed, or were listed
    pub cluster_addresses: bool,
}

/// The EndpointSlices of one Service.
#[derive(Debug, Default)]
struct SlicesOf {
    slices: Vec<Arc<SliceObject>>,
}

/// What the EndpointSlices of a Service have, as far as [`Backends::why_none`] depends on it.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    families: BTreeSet<IpFamily>,
    has_endpoints: bool,
    has_ready_endpoints: bool,
}

impl SlicesOf {
    /// The IP families that Kubernetes has listed.
    fn families(&self) -> BTreeSet<IpFamily> {
        self.slices.iter().filter_map(|slice| slice.family).collect()
    }

    fn listed(&self) -> Listed {
        Listed {
            families: self.families(),
            has_endpoints: self.slices.iter().any(|slice| !slice.endpoints.is_empty()),
            has_ready_endpoints: self.slices.iter().flat_map(|slice| &slice.endpoints).any(|endpoint| endpoint.ready),
        }
    }
}

impl Backends {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write()
    }

    /// Whether Services and EndpointSlices, respectively, have been listed.
    pub(crate) fn filled(&self) -> (bool, bool) {
        let inner = self.read();
        (inner.services.is_filled(), inner.slices.is_filled())
    }

    /// The Service of this name.
    pub(crate) fn service(&self, key: &ObjectKey) -> Option<Arc<ServiceObject>> {
        self.read().services.get(key).cloned()
    }

    /// Takes in an event of the watch of Services, and returns the changes.
    pub(crate) fn apply_service_event(&self, event: Event<ServiceObject>) -> Vec<Changed<ServiceObject>> {
        let mut inner = self.write();
        let changes = inner.services.apply_event(event);
        changes.iter().for_each(|change| inner.signal_service(change));
        changes
    }

    /// Takes in the reply to a write of ours, and returns the change. The watch event with
    /// the same version is no change then.
    pub(crate) fn apply_service_write(&self, service: ServiceObject) -> Option<Changed<ServiceObject>> {
        let mut inner = self.write();
        let change = inner.services.apply_write(service)?;
        inner.signal_service(&change);
        Some(change)
    }

    /// From now on, changes of the number of endpoints are reported.
    pub(crate) fn count(&self) {
        self.write().counted = true;
    }

    /// Takes in an event of the watch of EndpointSlices.
    pub(crate) fn apply_slice_event(&self, event: Event<SliceObject>) -> BackendChanges {
        let mut inner = self.write();
        let mut changed = Vec::new();
        let mut counts = false;
        for Changed { old, new } in inner.slices.apply_event(event) {
            // Its label may name another Service than before.
            let services: BTreeSet<ObjectKey> = old.iter().chain(&new).map(|slice| slice.service.clone()).collect();
            let listed = |inner: &Inner| -> Vec<Option<Listed>> {
                services.iter().map(|service| inner.slices_of.get(service).map(SlicesOf::listed)).collect()
            };
            let before = listed(&inner);
            if let Some(old) = old {
                inner.forget_slice(&old);
            }
            if let Some(new) = new {
                inner.slices_of.entry(new.service.clone()).or_default().slices.push(new);
            }
            counts |= inner.counted;
            let now = listed(&inner);
            services.iter().for_each(|service| inner.signal(service));
            let differs = services.into_iter().zip(before).zip(now).filter(|((_, before), now)| before != now);
            changed.extend(differs.map(|((service, _), _)| service));
        }
        BackendChanges { services: changed, counts, cluster_addresses: false }
    }

    /// Has nodes watched from now on. A large cluster has many, and they change often, so
    /// they are watched only where they are needed.
    pub(crate) fn need_nodes(&self) {
        self.nodes_needed.notify_one();
    }

    /// The ids of the nodes that get traffic, as they change.
    pub(crate) fn node_ids(&self) -> NodeIds {
        self.node_ids.subscribe()
    }

    /// Waits until nodes have to be watched.
    pub(crate) async fn nodes_needed(&self) {
        self.nodes_needed.notified().await;
    }

    /// Takes in an event of the watch of nodes.
    pub(crate) fn apply_node_event(&self, event: Event<NodeObject>) -> BackendChanges {
        let mut inner = self.write();
        let listed = matches!(event, Event::InitDone);
        let changes = inner.nodes.apply_event(event);
        // The kubelet renews the status of its node every few minutes.
        let differs = |change: &Changed<NodeObject>| match (&change.old, &change.new) {
            (Some(old), Some(new)) => !old.is_like(new),
            _ => true,
        };
        let moved = |change: &Changed<NodeObject>| match (&change.old, &change.new) {
            (Some(old), Some(new)) => !old.occupies_like(new),
            _ => true,
        };
        let cluster_addresses = listed || changes.iter().any(moved);
        let changed = listed || changes.iter().any(differs);
        if changed && inner.nodes.is_filled() {
            inner.signal(&nodes::key());
            let usable = nodes::usable(inner.nodes.objects().values());
            let ids = usable.into_iter().filter_map(|node| node.provider_id.clone()).collect();
            self.node_ids.send_if_modified(|known| {
                let differs = known.as_deref() != Some(&ids);
                if differs {
                    *known = Some(Arc::new(ids));
                }
                differs
            });
        }
        BackendChanges { services: Vec::new(), counts: changed && inner.counted, cluster_addresses }
    }

    /// Whether the caches that traffic with this reach depends on have filled.
    pub(crate) fn knows(&self, reach: Reach) -> bool {
        reach.targets == TargetKind::Pod || self.read().nodes.is_filled()
    }

    fn nodes_of(&self, service: &ObjectKey, port: &PortRef, protocol: Protocol) -> BTreeSet<Backend> {
        let inner = self.read();
        Backend::by_transport(protocol, |transport| inner.nodes_of(service, port, transport))
    }

    /// How many nodes get traffic.
    pub(crate) fn nodes(&self) -> usize {
        nodes::usable(self.read().nodes.objects().values()).len()
    }

    /// From now on, changes of the Services in `now` wake `signal`, and no longer those of
    /// the Services only in `before`.
    pub(crate) fn interest(&self, before: &BTreeSet<ObjectKey>, now: &BTreeSet<ObjectKey>, signal: &Arc<Signal>) {
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

    /// The backends of this port of this Service: its ready endpoints, or if there are none,
    /// those that still serve while they terminate. `count` selects the endpoints that may
    /// be backends at all.
    ///
    /// Each transport of the protocol has backends of its own.
    pub(crate) fn of(
        &self,
        service: &ObjectKey,
        port: &PortRef,
        protocol: Protocol,
        count: Endpoints,
    ) -> BTreeSet<Backend> {
        let inner = self.read();
        Backend::by_transport(protocol, |transport| inner.of(service, port, transport, count))
    }

    /// The backends of this port of this Service with this reach: pods, as in
    /// [`Backends::of`], or all nodes that get traffic, whether a pod is ready or not. So
    /// nodes are neither removed nor added when the last pod goes and the next one comes.
    pub(crate) fn reached(&self, service: &ObjectKey, port: &PortRef, protocol: Protocol, reach: Reach) -> Reached {
        let pods = self.of(service, port, protocol, reach.endpoints);
        let ready = transports_with_backends(protocol, &pods).count() == protocol.transports().len();
        match reach.targets {
            TargetKind::Pod => Reached { backends: pods, ready },
            TargetKind::Node => Reached { backends: self.nodes_of(service, port, protocol), ready },
        }
    }

    /// Whether Kubernetes has listed the pods of this Service in all its IP families. It does
    /// so a moment after the Service is created, one family after the other, and creates an
    /// EndpointSlice even for a selector that matches no pod.
    pub(crate) fn has_listed(&self, service: &ObjectKey) -> bool {
        self.read().has_listed(service)
    }

    /// Why a transport of a port of this Service has no backend, for the user; `None`: each
    /// has one, or it is not known yet.
    pub(crate) fn why_none(
        &self,
        service: &ObjectKey,
        port: &PortRef,
        protocol: Protocol,
        count: Endpoints,
    ) -> Option<String> {
        let inner = self.read();
        let ours = matches!(port, PortRef::Companion(_));
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
        let unknown = (ours || found.has_selector) && !inner.has_listed(service);
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

    /// Why this Service, which has backends, has none of this IP family, for the user.
    pub(crate) fn why_none_of(&self, service: &ObjectKey, family: IpFamily) -> String {
        match self.read().services.get(service) {
            Some(found) => why::no_family(found, family),
            None => why::no_address(family),
        }
    }
}

impl Inner {
    fn has_listed(&self, service: &ObjectKey) -> bool {
        let Some(slices) = self.slices_of.get(service) else { return false };
        let Some(found) = self.services.get(service) else { return true };
        let families = slices.families();
        // Without a selector, Kubernetes lists nothing.
        !found.has_selector || found.families.iter().all(|family| families.contains(family))
    }

    fn forget_slice(&mut self, slice: &SliceObject) {
        if let Some(known) = self.slices_of.get_mut(&slice.service) {
            known.slices.retain(|known| known.meta.key != slice.meta.key);
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

    /// The endpoints of a Service that may be backends, each with its slice.
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

    /// The nodes, with the node port of this port of the Service.
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
            PortRef::Companion(port) => port.is_named(name, transport),
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

/// The transports of this protocol that one of these backends takes.
pub(crate) fn transports_with_backends(
    protocol: Protocol,
    backends: &BTreeSet<Backend>,
) -> impl Iterator<Item = Transport> {
    let transports = protocol.transports().iter().copied();
    transports.filter(|transport| backends.iter().any(|backend| backend.takes(*transport)))
}

/// The number of a renamed port in an EndpointSlice that still has the former name: the
/// only name in the slice that no port of the Service has now, with the target of the port.
/// The renamed port of a Service is known before its EndpointSlices are.
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
