//! The EndpointSlices of a listener: rendered from its backends, and parsed.
//!
//! A listener has one slice for each front port, target port, address family and 1,000
//! endpoints. Their annotations record the protocol and owner of the listener; so one without
//! backends has a slice too, an empty one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::front::port_name;
use super::marks::{Marks, OWNER, PROTOCOL};
use super::name::ServiceName;
use crate::model::{Backend, FrontPort, IpFamily, LbName, ListenerKey, Owner, Protocol, Transport};

/// The most endpoints of an EndpointSlice, by the API server's validation.
const MAX_ENDPOINTS: usize = 1000;

/// One EndpointSlice as data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) service: ServiceName,
    /// The uid of its Service: a recreated Service is another one.
    pub(super) service_uid: Arc<str>,
    pub(super) listener: ListenerKey,
    pub(super) owner: Owner,
    pub(super) place: Place,
    pub(super) backends: Box<[Backend]>,
}

/// The key of a slice within its Service. Its name has nothing else, so that a slice
/// keeps its name when its listener changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) port: FrontPort,
    family: IpFamily,
    /// `None`: the slice of a listener without backends.
    target: Option<NonZeroU16>,
    chunk: u16,
}

/// A slice of ours as observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SeenSlice {
    pub(super) place: Place,
    /// `None`: it differs from what we wrote.
    pub(super) slice: Option<Slice>,
}

/// Distributes the backends of a front port to slices. A backend that has a slice stays in
/// it, so that one more or one less rewrites one slice.
pub(super) fn arrange<'a>(
    port: FrontPort,
    backends: impl IntoIterator<Item = &'a Backend>,
    seen: impl IntoIterator<Item = &'a SeenSlice>,
) -> BTreeMap<Place, Vec<Backend>> {
    let slices = seen.into_iter().filter(|seen| seen.place.port == port).filter_map(|seen| seen.slice.as_ref());
    let held: BTreeMap<&Backend, Place> =
        slices.flat_map(|slice| slice.backends.iter().map(|backend| (backend, slice.place))).collect();
    let mut arranged: BTreeMap<Place, Vec<Backend>> = BTreeMap::new();
    let mut new = Vec::new();
    for backend in backends {
        match held.get(backend) {
            Some(place) => arranged.entry(*place).or_default().push(backend.clone()),
            None => new.push(backend),
        }
    }
    for backend in new {
        let family = IpFamily::of(backend.address);
        let mut place = Place { port, family, target: Some(backend.port), chunk: 0 };
        while arranged.get(&place).is_some_and(|full| full.len() >= MAX_ENDPOINTS) {
            place.chunk += 1;
        }
        arranged.entry(place).or_default().push(backend.clone());
    }
    if arranged.is_empty() {
        arranged.insert(Place { port, family: IpFamily::V4, target: None, chunk: 0 }, Vec::new());
    }
    // Sorted, since observed and desired slices are compared.
    arranged.values_mut().for_each(|backends| backends.sort_unstable());
    arranged
}

impl Place {
    /// `<Service>-20417-tcp-v4-6379-0`
    pub(super) fn name(&self, service: &ServiceName) -> String {
        let FrontPort { port, transport } = self.port;
        let transport = transport.lower_case();
        let family = match self.family {
            IpFamily::V4 => "v4",
            IpFamily::V6 => "v6",
        };
        let target = self.target.map_or("none".into(), |target| target.to_string());
        format!("{service}-{port}-{transport}-{family}-{target}-{}", self.chunk)
    }

    /// Parses what follows the name of the Service in that of a slice.
    fn parse(text: &str) -> Option<Self> {
        let &[port, transport, family, target, chunk] = text.split('-').collect::<Vec<_>>().as_slice() else {
            return None;
        };
        let transport = match transport {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return None,
        };
        let family = match family {
            "v4" => IpFamily::V4,
            "v6" => IpFamily::V6,
            _ => return None,
        };
        let target = if target == "none" { None } else { Some(target.parse().ok()?) };
        let port = FrontPort { port: port.parse().ok()?, transport };
        Some(Self { port, family, target, chunk: chunk.parse().ok()? })
    }
}

impl Slice {
    pub(super) fn name(&self) -> String {
        self.place.name(&self.service)
    }

    /// The slice for a server-side apply.
    pub(super) fn object(&self, marks: &Marks) -> EndpointSlice {
        let Place { port, family, target, .. } = self.place;
        EndpointSlice {
            metadata: ObjectMeta {
                name: Some(self.name()),
                namespace: Some(marks.namespace.clone()),
                labels: Some(marks.slice_labels(&self.service)),
                annotations: Some(
                    [
                        (OWNER.to_owned(), self.owner.to_string()),
                        (PROTOCOL.to_owned(), self.listener.protocol.to_string()),
                    ]
                    .into(),
                ),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".into(),
                    kind: "Service".into(),
                    name: self.service.to_string(),
                    uid: self.service_uid.to_string(),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            address_type: family.to_string(),
            ports: Some(vec![EndpointPort {
                name: Some(port_name(port)),
                // An empty slice has no target, but a port without a number would mean all
                // ports.
                port: Some(u16::from(target.unwrap_or(port.port)).into()),
                protocol: Some(port.transport.to_string()),
                ..EndpointPort::default()
            }]),
            endpoints: self.backends.iter().map(|backend| endpoint(backend, &self.owner)).collect(),
        }
    }
}

impl SeenSlice {
    /// Parses a slice of a load balancer of ours; `None`: its name is not one of ours.
    pub(super) fn read(object: &EndpointSlice, load_balancer: &LbName, marks: &Marks) -> Option<(ServiceName, Self)> {
        let (service, after) = ServiceName::split(object.metadata.name.as_deref()?, load_balancer)?;
        let place = Place::parse(after)?;
        // It is as we wrote it only if we would write the same.
        let slice = read_slice(object, &service, place).filter(|slice| same(object, &slice.object(marks)));
        Some((service, Self { place, slice }))
    }
}

fn read_slice(object: &EndpointSlice, service: &ServiceName, place: Place) -> Option<Slice> {
    let annotations = object.metadata.annotations.as_ref()?;
    let protocol: Protocol = annotations.get(PROTOCOL)?.parse().ok()?;
    Some(Slice {
        service: service.clone(),
        service_uid: object.metadata.owner_references.as_ref()?.first()?.uid.as_str().into(),
        listener: ListenerKey { port: place.port.port, protocol },
        owner: Owner::parse(annotations.get(OWNER)?)?,
        place,
        backends: object
            .endpoints
            .iter()
            .map(|endpoint| read_endpoint(endpoint, place.target))
            .collect::<Option<_>>()?,
    })
    .filter(|slice| protocol.transports().contains(&slice.place.port.transport))
}

/// Whether `found` has everything that `wanted` has. Other clients may have added labels and
/// annotations.
fn same(found: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let within = |wanted: &Option<BTreeMap<String, String>>, found: &Option<BTreeMap<String, String>>| {
        let found = found.as_ref();
        wanted.iter().flatten().all(|(key, value)| found.and_then(|found| found.get(key)) == Some(value))
    };
    within(&wanted.metadata.labels, &found.metadata.labels)
        && within(&wanted.metadata.annotations, &found.metadata.annotations)
        && found.metadata.owner_references == wanted.metadata.owner_references
        && found.address_type == wanted.address_type
        && found.ports == wanted.ports
        && found.endpoints == wanted.endpoints
}

fn endpoint(backend: &Backend, owner: &Owner) -> Endpoint {
    Endpoint {
        addresses: vec![backend.address.to_string()],
        conditions: Some(EndpointConditions { ready: Some(true), serving: Some(true), terminating: None }),
        node_name: backend.node.as_deref().map(Into::into),
        target_ref: backend.pod.as_deref().map(|pod| ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(owner.namespace.to_string()),
            name: Some(pod.into()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

fn read_endpoint(endpoint: &Endpoint, target: Option<NonZeroU16>) -> Option<Backend> {
    let [address] = endpoint.addresses.as_slice() else { return None };
    Some(Backend {
        address: address.parse::<IpAddr>().ok()?,
        port: target?,
        pod: endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref()).map(Into::into),
        node: endpoint.node_name.as_deref().map(Into::into),
        provider_id: None,
        transport: None,
    })
}

#[cfg(test)]
#[path = "slices_tests.rs"]
mod tests;
