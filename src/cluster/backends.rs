//! Services and EndpointSlices: which backends a claim's port has right now.
//!
//! This is the only thing that the class loop and the LB loops share. A change
//! of endpoints goes from here straight to the LB loops that want to know of
//! it; the class loop hears of it only if it changes an outcome.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::runtime::watcher::Event;
use sharedlb_crds::{MANAGED_BY, MANAGED_BY_LABEL};
use sharedlb_providers::{Backend, Protocol, Transport};

use super::cache::{Cache, Cached, Changed};
use crate::assign::ClaimId;
use crate::claim::Meta;
use crate::lb_loop::Signal;
use crate::own_service;

/// The label by which an EndpointSlice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What matters of a Service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceObject {
    /// Its metadata
    pub meta: Meta,
    /// Its ports
    pub ports: Vec<ServicePort>,
    /// Whether it is only a name for a host elsewhere, and so has no endpoints
    pub external_name: bool,
    /// The name and uid of the claim that owns it, if it is one of ours
    pub owner: Option<(Arc<str>, Arc<str>)>,
    /// Its selector, if it is one of ours
    pub selector: Vec<(String, String)>,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePort {
    /// Its name; empty where there is just one
    pub name: Arc<str>,
    /// Its number
    pub number: i32,
    /// TCP or UDP; `None` for what is neither
    pub transport: Option<Transport>,
    /// The port of the pods
    pub target: IntOrString,
}

impl ServiceObject {
    /// Converts an object.
    #[must_use]
    pub fn parse(service: &Service) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        let ours = service.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY_LABEL));
        let owner = service.metadata.owner_references.iter().flatten().find(|owner| owner.kind == "SharedLB");
        let owner = owner
            .filter(|_| ours.is_some_and(|value| value == MANAGED_BY))
            .map(|owner| (owner.name.as_str().into(), owner.uid.as_str().into()));
        Self {
            meta: Meta::of(service),
            ports: spec.ports.iter().flatten().map(ServicePort::parse).collect(),
            external_name: spec.type_.as_deref() == Some("ExternalName"),
            selector: spec.selector.filter(|_| owner.is_some()).into_iter().flatten().collect(),
            owner,
        }
    }
}

impl ServicePort {
    /// Converts a port.
    #[must_use]
    pub fn parse(port: &k8s_openapi::api::core::v1::ServicePort) -> Self {
        Self {
            name: port.name.as_deref().unwrap_or_default().into(),
            number: port.port,
            transport: transport(port.protocol.as_deref()),
            target: port.target_port.clone().unwrap_or(IntOrString::Int(port.port)),
        }
    }

    fn is(&self, wanted: &PortRef, transport: Transport) -> bool {
        self.transport == Some(transport)
            && match wanted {
                PortRef::Number(number) => self.number == *number,
                PortRef::Name(name) => self.name == *name,
                PortRef::OfClaim(port) => *self.name == *own_service::port_name(port, transport),
            }
    }
}

/// Which port of a Service is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortRef {
    /// The one with this number
    Number(i32),
    /// The one with this name
    Name(Arc<str>),
    /// That of our own Service which stands for this port of its claim
    OfClaim(Arc<str>),
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) | Self::OfClaim(name) => name.fmt(f),
        }
    }
}

impl Cached for ServiceObject {
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

/// What matters of an EndpointSlice.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceObject {
    meta: Meta,
    service: ClaimId,
    ports: Vec<(Arc<str>, Transport, NonZeroU16)>,
    endpoints: Vec<EndpointObject>,
}

#[derive(Debug, Clone, PartialEq)]
struct EndpointObject {
    address: IpAddr,
    ready: bool,
    /// Not ready, but still answering while it goes away
    serving_while_terminating: bool,
    pod: Option<Arc<str>>,
    node: Option<Arc<str>>,
}

impl SliceObject {
    /// Converts an object.
    #[must_use]
    pub fn parse(slice: &EndpointSlice) -> Self {
        let meta = Meta::of(slice);
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            let number = u16::try_from(port.port?).ok().and_then(NonZeroU16::new)?;
            Some((port.name.as_deref().unwrap_or_default().into(), transport(port.protocol.as_deref())?, number))
        });
        Self {
            service: ClaimId {
                namespace: meta.key.namespace.clone(),
                name: service.map(String::as_str).unwrap_or_default().into(),
            },
            ports: ports.collect(),
            endpoints: slice.endpoints.iter().filter_map(EndpointObject::parse).collect(),
            meta,
        }
    }
}

impl EndpointObject {
    fn parse(endpoint: &Endpoint) -> Option<Self> {
        let conditions = endpoint.conditions.as_ref();
        // Not set means ready (EndpointConditions of discovery/v1).
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
        let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
        Some(Self {
            // All addresses of an endpoint mean the same one: only the first is used.
            address: endpoint.addresses.first()?.parse().ok()?,
            ready,
            serving_while_terminating: serving && terminating,
            pod: pod.and_then(|pod| pod.name.as_deref()).map(Into::into),
            node: endpoint.node_name.as_deref().map(Into::into),
        })
    }
}

impl Cached for SliceObject {
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

fn transport(protocol: Option<&str>) -> Option<Transport> {
    match protocol.unwrap_or("TCP") {
        "TCP" => Some(Transport::Tcp),
        "UDP" => Some(Transport::Udp),
        _ => None,
    }
}

/// Services and EndpointSlices, and who wants to know of which.
#[derive(Debug, Default)]
pub struct Backends(RwLock<Inner>);

#[derive(Debug, Default)]
struct Inner {
    services: Cache<ServiceObject>,
    slices: Cache<SliceObject>,
    slices_of: HashMap<ClaimId, SlicesOf>,
    interested: HashMap<ClaimId, Vec<Arc<Signal>>>,
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

    /// Takes in what the watch of EndpointSlices told, and returns the Services of
    /// which now something else is to be said to whom they matter.
    pub fn watched_slice(&self, event: Event<SliceObject>) -> Vec<ClaimId> {
        let mut inner = self.write();
        let mut retold = Vec::new();
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
            let now = inner.slices_of.get(&service).map_or((0, 0), |known| (known.slices.len(), known.endpoints));
            if (before.0 == 0, before.1 == 0) != (now.0 == 0, now.1 == 0) {
                retold.push(service);
            }
        }
        retold
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
    /// if there are none, those that still serve while they go away.
    ///
    /// For a protocol of two transports, the endpoints that serve both.
    #[must_use]
    pub fn of(&self, service: &ClaimId, port: &PortRef, protocol: Protocol) -> BTreeSet<Backend> {
        let inner = self.read();
        let mut of_each = protocol.transports().iter().map(|&transport| inner.of(service, port, transport));
        let first = of_each.next().unwrap_or_default();
        of_each.fold(first, |both, other| &both & &other)
    }

    /// Why a port of this Service has no backends, in words for the user; `None`:
    /// it has some, or it is not known yet whether it has.
    #[must_use]
    pub fn why_none(&self, service: &ClaimId, port: &PortRef, protocol: Protocol) -> Option<String> {
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
        let served = protocol.transports().iter().all(|&transport| !inner.of(service, port, transport).is_empty());
        // Kubernetes makes an EndpointSlice even for a selector that matches nothing.
        let unknown = ours && !inner.slices_of.contains_key(service);
        if missing.is_some() || served || unknown {
            return None;
        }
        let endpoints = inner.slices_of(service).flat_map(|slice| &slice.endpoints);
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

    fn of(&self, service: &ClaimId, port: &PortRef, transport: Transport) -> BTreeSet<Backend> {
        let Some(found) = self.services.get(service) else { return BTreeSet::new() };
        let Some(port) = found.ports.iter().find(|candidate| candidate.is(port, transport)) else {
            return BTreeSet::new();
        };
        let all = || {
            self.slices_of(service).flat_map(|slice| {
                let number = slice.ports.iter().find(|(name, t, _)| *name == port.name && *t == transport);
                number
                    .into_iter()
                    .flat_map(|(_, _, number)| slice.endpoints.iter().map(move |endpoint| (endpoint, *number)))
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
