//! Services and EndpointSlices: which backends a claim's port has right now.
//!
//! This is the only thing that the class loop and the LB loops share. A change
//! of endpoints goes from here straight to the LB loops that want to know of
//! it; the class loop hears of it only if it changes an outcome.

mod objects;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU16;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kube::runtime::watcher::Event;
use sharedlb_crds::Endpoints;
use sharedlb_providers::{Backend, Protocol, Transport};

use self::objects::EndpointObject;
pub use self::objects::{PortRef, ServiceObject, ServicePort, SliceObject};
use super::cache::{Cache, Changed};
use crate::assign::ClaimId;
use crate::lb_loop::Signal;

/// Services and EndpointSlices, and who wants to know of which.
#[derive(Debug, Default)]
pub struct Backends(RwLock<Inner>);

#[derive(Debug, Default)]
struct Inner {
    services: Cache<ServiceObject>,
    slices: Cache<SliceObject>,
    slices_of: HashMap<ClaimId, SlicesOf>,
    interested: HashMap<ClaimId, Vec<Arc<Signal>>>,
    /// Whether anybody counts the backends of all Services
    counted: bool,
}

/// What a change of EndpointSlices means to those who are not told of every one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EndpointNews {
    /// The Services of which now something else is to be said to whom they matter
    pub services: Vec<ClaimId>,
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
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether Services, and EndpointSlices, have been listed.
    #[must_use]
    pub fn filled(&self) -> (bool, bool) {
        let inner = self.read();
        (inner.services.is_filled(), inner.slices.is_filled())
    }

    /// The Service of this name.
    #[must_use]
    pub fn service(&self, key: &ClaimId) -> Option<Arc<ServiceObject>> {
        self.read().services.get(key).cloned()
    }

    /// Takes in what the watch of Services told, and returns which changed.
    pub fn watched_service(&self, event: Event<ServiceObject>) -> Vec<Changed<ServiceObject>> {
        let mut inner = self.write();
        let changes = inner.services.watched(event);
        changes
            .iter()
            .filter_map(|change| Some(&change.new.as_ref().or(change.old.as_ref())?.meta.key))
            .for_each(|key| inner.signal(key));
        changes
    }

    /// Takes in the reply to a write of ours.
    pub fn written_service(&self, service: ServiceObject) {
        self.write().services.written(service);
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
        for Changed { old, new } in inner.slices.watched(event) {
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

    /// From now on `signal` is told of changes of the services in `now`, and no
    /// longer of those only in `before`.
    pub fn interest(&self, before: &BTreeSet<ClaimId>, now: &BTreeSet<ClaimId>, signal: &Arc<Signal>) {
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

    /// Where traffic to this port of this Service goes: its ready endpoints, and
    /// if there are none, those that still serve while they go away. `count` says
    /// which endpoints count at all.
    ///
    /// For a protocol of two transports, the endpoints that serve both.
    #[must_use]
    pub fn of(&self, service: &ClaimId, port: &PortRef, protocol: Protocol, count: Endpoints) -> BTreeSet<Backend> {
        let inner = self.read();
        let mut of_each = protocol.transports().iter().map(|&transport| inner.of(service, port, transport, count));
        let first = of_each.next().unwrap_or_default();
        of_each.fold(first, |both, other| &both & &other)
    }

    /// Why a port of this Service has no backends, in words for the user; `None`:
    /// it has some, or it is not known yet whether it has.
    #[must_use]
    pub fn why_none(&self, service: &ClaimId, port: &PortRef, protocol: Protocol, count: Endpoints) -> Option<String> {
        let inner = self.read();
        let ours = matches!(port, PortRef::OfClaim(_));
        let name = &service.name;
        let Some(found) = inner.services.get(service) else {
            let namespace = &service.namespace;
            return (!ours).then(|| {
                format!("Service {name} does not exist in namespace {namespace}: create it, or correct serviceName")
            });
        };
        let has = |transport| found.ports.iter().any(|candidate| candidate.is(port, transport));
        let missing = protocol.transports().iter().find(|&&transport| !has(transport));
        if let Some(transport) = missing.filter(|_| !ours) {
            return Some(format!(
                "Service {name} has no port {port} with protocol {transport}: correct targetPort or the Service"
            ));
        }
        let served =
            protocol.transports().iter().all(|&transport| !inner.of(service, port, transport, count).is_empty());
        // Kubernetes makes an EndpointSlice even for a selector that matches nothing.
        let unknown = ours && !inner.slices_of.contains_key(service);
        if missing.is_some() || served || unknown {
            return None;
        }
        if !ours && !found.has_selector && count == Endpoints::Pods {
            return Some(format!(
                "Service {name} has no selector, and traffic goes only to pods that one finds: give it one, or ask the admin for a class with spec.endpoints: Any"
            ));
        }
        let endpoints = inner.endpoints_of(found, count).map(|(_, endpoint)| endpoint);
        Some(match (endpoints.clone().count(), endpoints.filter(|endpoint| endpoint.ready).count()) {
            (0, _) => "no pod matches the selector, or none has the port that targetPort names".to_owned(),
            (_, 0) => "none of its pods is ready".to_owned(),
            _ => "no ready pod has the port that targetPort names".to_owned(),
        })
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

    fn signal(&self, service: &ClaimId) {
        self.interested.get(service).into_iter().flatten().for_each(|signal| signal.wake());
    }

    fn slices_of<'a>(&'a self, service: &ClaimId) -> impl Iterator<Item = &'a SliceObject> + Clone {
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

    fn of(&self, service: &ClaimId, port: &PortRef, transport: Transport, count: Endpoints) -> BTreeSet<Backend> {
        let Some(found) = self.services.get(service) else { return BTreeSet::new() };
        let Some(port) = found.ports.iter().find(|candidate| candidate.is(port, transport)) else {
            return BTreeSet::new();
        };
        let all = || {
            self.endpoints_of(found, count).filter_map(|(slice, endpoint)| {
                let number = slice.ports.iter().find(|(name, t, _)| *name == port.name && *t == transport);
                number.map(|(_, _, number)| (endpoint, *number))
            })
        };
        let backend = |(endpoint, port): (&EndpointObject, NonZeroU16)| Backend {
            address: endpoint.address,
            port,
            pod: endpoint.pod.clone(),
            node: endpoint.node.clone(),
            provider_id: None,
        };
        let ready: BTreeSet<Backend> = all().filter(|(endpoint, _)| endpoint.ready).map(backend).collect();
        if ready.is_empty() {
            return all().filter(|(endpoint, _)| endpoint.serving_while_terminating).map(backend).collect();
        }
        ready
    }
}
