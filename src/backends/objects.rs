//! Services and EndpointSlices, converted where they come in.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sharedlb_crds::{MANAGED_BY, MANAGED_BY_LABEL};
use sharedlb_providers::{IpFamily, Transport, port_number};

use crate::api::target::PortRef;
use crate::kubernetes::ObjectKey;
use crate::kubernetes::ObjectMeta;
use crate::kubernetes::cache::Cached;
use crate::kubernetes::names::{SERVICE_NAME_LABEL, SLICE_MANAGED_BY_LABEL};

/// The label for the writer of an EndpointSlice, with the value of Kubernetes' own
/// controller, which writes the endpoints of pods that a selector matches.
pub(super) const SLICE_MANAGED_BY: (&str, &str) = (SLICE_MANAGED_BY_LABEL, "endpointslice-controller.k8s.io");

/// The parts of a Service that backends and claims depend on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServiceObject {
    pub meta: ObjectMeta,
    pub ports: Box<[ServicePort]>,
    /// Whether it is of type ExternalName, and so has no endpoints
    pub external_name: bool,
    /// Whether it has a selector, by which Kubernetes finds its pods
    pub has_selector: bool,
    /// The name and uid of the claim that owns it, if it is a companion Service
    pub owner: Option<(Arc<str>, Arc<str>)>,
    pub selector: Box<[(String, String)]>,
    pub kind: ServiceKind,
    /// The IP families of its endpoints; none: not known
    pub families: Box<[IpFamily]>,
}

/// The kinds of Services that companion Services can have, and all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceKind {
    /// Without an address of its own.
    Headless,
    /// With a port on every node.
    NodePort,
    /// Any other.
    Other,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServicePort {
    /// Its name; may be empty if it is the only port
    pub name: Arc<str>,
    pub number: i32,
    /// TCP or UDP; `None`: another protocol
    pub transport: Option<Transport>,
    /// The port of the pods
    pub target: IntOrString,
    /// The port of every node, if it has one
    pub node_port: Option<NonZeroU16>,
}

impl ServiceObject {
    /// Converts an object.
    pub(crate) fn parse(service: &Service) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        let ours = service.metadata.labels.as_ref().and_then(|labels| labels.get(MANAGED_BY_LABEL));
        let owner = service.metadata.owner_references.iter().flatten().find(|owner| owner.kind == "SharedLB");
        let owner = owner
            .filter(|_| ours.is_some_and(|value| value == MANAGED_BY))
            .map(|owner| (owner.name.as_str().into(), owner.uid.as_str().into()));
        Self {
            meta: ObjectMeta::of(service),
            ports: spec.ports.iter().flatten().map(ServicePort::parse).collect(),
            external_name: spec.type_.as_deref() == Some("ExternalName"),
            has_selector: spec.selector.as_ref().is_some_and(|selector| !selector.is_empty()),
            selector: spec.selector.into_iter().flatten().collect(),
            kind: match (spec.cluster_ip.as_deref(), spec.type_.as_deref()) {
                (_, Some("ExternalName")) => ServiceKind::Other,
                (Some("None"), _) => ServiceKind::Headless,
                (_, Some("NodePort")) => ServiceKind::NodePort,
                _ => ServiceKind::Other,
            },
            families: spec.ip_families.iter().flatten().filter_map(|family| IpFamily::parse(family)).collect(),
            owner,
        }
    }
}

impl ServicePort {
    /// Converts a port.
    pub(crate) fn parse(port: &k8s_openapi::api::core::v1::ServicePort) -> Self {
        Self {
            name: port.name.as_deref().unwrap_or_default().into(),
            number: port.port,
            transport: transport(port.protocol.as_deref()),
            target: port.target_port.clone().unwrap_or(IntOrString::Int(port.port)),
            node_port: port.node_port.and_then(port_number),
        }
    }

    pub(crate) fn is(&self, wanted: &PortRef, transport: Transport) -> bool {
        self.transport == Some(transport)
            && match wanted {
                PortRef::Number(number) => self.number == *number,
                PortRef::Name(name) => self.name == *name,
                PortRef::Companion(port) => port.is_named(&self.name, transport),
            }
    }
}

impl Cached for ServiceObject {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

/// The parts of an EndpointSlice that backends depend on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SliceObject {
    pub(super) meta: ObjectMeta,
    pub(super) service: ObjectKey,
    /// Whether its label names Kubernetes' own controller as its writer. Any client may set
    /// the label; but if the Service has a selector, that controller corrects every slice
    /// with the label at once.
    pub(super) by_kubernetes: bool,
    /// The IP family of its endpoints; `None`: it has names instead of addresses
    pub(super) family: Option<IpFamily>,
    pub(super) ports: Box<[(Arc<str>, Transport, NonZeroU16)]>,
    pub(super) endpoints: Box<[EndpointObject]>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct EndpointObject {
    pub(super) address: IpAddr,
    pub(super) ready: bool,
    /// Still serving while it terminates
    pub(super) serving_while_terminating: bool,
    /// Its pod, if that is in the namespace of the slice
    pub(super) pod: Option<Arc<str>>,
    pub(super) node: Option<Arc<str>>,
}

impl SliceObject {
    /// Converts an object.
    pub(crate) fn parse(slice: &EndpointSlice) -> Self {
        let meta = ObjectMeta::of(slice);
        let label = |key| slice.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        let service = label(SERVICE_NAME_LABEL);
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            let number = port_number(port.port?)?;
            Some((port.name.as_deref().unwrap_or_default().into(), transport(port.protocol.as_deref())?, number))
        });
        Self {
            service: ObjectKey {
                namespace: meta.key.namespace.clone(),
                name: service.map(String::as_str).unwrap_or_default().into(),
            },
            by_kubernetes: label(SLICE_MANAGED_BY.0).is_some_and(|writer| writer == SLICE_MANAGED_BY.1),
            family: IpFamily::parse(&slice.address_type),
            ports: ports.collect(),
            endpoints: slice.endpoints.iter().filter_map(|found| EndpointObject::parse(found, &meta)).collect(),
            meta,
        }
    }
}

impl EndpointObject {
    fn parse(endpoint: &Endpoint, slice: &ObjectMeta) -> Option<Self> {
        let conditions = endpoint.conditions.as_ref();
        // Not set means ready (EndpointConditions of discovery/v1).
        let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
        let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
        let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
        let namespace = Some(&*slice.key.namespace);
        let pod = endpoint.target_ref.as_ref().filter(|target| {
            target.kind.as_deref() == Some("Pod") && target.namespace.as_deref().or(namespace) == namespace
        });
        Some(Self {
            // All addresses of an endpoint are of the same pod. kube-proxy uses only the first.
            address: endpoint.addresses.first()?.parse().ok().filter(may_be_elsewhere)?,
            ready,
            serving_while_terminating: serving && terminating,
            pod: pod.and_then(|pod| pod.name.as_deref()).map(Into::into),
            node: endpoint.node_name.as_deref().map(Into::into),
        })
    }
}

impl Cached for SliceObject {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

/// Whether it can be the address of another machine than the sender's: neither loopback, nor
/// link-local (where clouds serve a machine's credentials), multicast, broadcast or
/// unspecified. The API server refuses most of these.
fn may_be_elsewhere(address: &IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            !(v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] == 0)
        }
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified()),
    }
}

fn transport(protocol: Option<&str>) -> Option<Transport> {
    protocol.unwrap_or("TCP").parse().ok()
}
