//! Why a port of a Service has no backends, for the user. Pure.

use crate::kubernetes::ObjectKey;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sharedlb_providers::{IpFamily, Transport};

use super::{PortRef, ServiceObject, ServicePort};

pub(super) fn no_service(ObjectKey { namespace, name }: &ObjectKey) -> String {
    format!("Service {name} does not exist in namespace {namespace}: create it, or correct serviceName")
}

/// The Service, which is no companion Service, lacks this port.
pub(super) fn no_service_port(service: &ServiceObject, port: &PortRef, transport: Transport) -> String {
    let name = &service.meta.key.name;
    let other = |candidate: &&ServicePort| matches!(port, PortRef::Name(name) if candidate.name == *name);
    let way_out = match service.ports.iter().find(other).and_then(|other| other.transport) {
        Some(other) => format!("that name is of its {other} port: give targetPort as the number"),
        None => "correct targetPort or the Service".to_owned(),
    };
    format!("Service {name} has no port {port} with protocol {transport}: {way_out}")
}

pub(super) fn no_selector(service: &ServiceObject) -> String {
    format!(
        "Service {} has no selector, and traffic goes only to pods that one finds: give it one, or ask the admin for a class with spec.endpoints: Any",
        service.meta.key.name
    )
}

/// The Service has no endpoints at all. A pod is an endpoint even if it is not ready or
/// lacks the port, but not before it has an address of the Service's family, nor after it
/// has completed.
pub(super) fn no_endpoints(service: &ServiceObject, ours: bool) -> String {
    let name = &service.meta.key.name;
    if !service.has_selector {
        return format!("Service {name} has no selector, and no endpoints");
    }
    let of = if ours { String::new() } else { format!(" of Service {name}") };
    let address = match service.families[..] {
        [family] => format!("{family} address"),
        _ => "IP address".to_owned(),
    };
    format!("no pod matches the selector{of}, or none that does is running and has an {address}")
}

/// The Service has endpoints, none of which is ready.
pub(super) fn none_ready(service: &ServiceObject) -> String {
    if service.has_selector { "none of its pods is ready" } else { "none of its endpoints is ready" }.to_owned()
}

/// The Service has ready endpoints, but none for these of its ports. `None`: they all
/// should have one, and are about to.
pub(super) fn no_port(service: &ServiceObject, all: &[&ServicePort], unserved: &[&ServicePort]) -> Option<String> {
    let missing = |port: &&ServicePort| {
        let transport = port.transport?;
        match &port.target {
            // Kubernetes takes for granted that a pod has a port that is given by number.
            IntOrString::Int(_) if service.has_selector => None,
            IntOrString::Int(_) if port.name.is_empty() => Some(format!("{transport} port")),
            IntOrString::Int(_) => Some(format!("{transport} port {}", port.name)),
            IntOrString::String(name) => Some(format!("{transport} port {name}")),
        }
    };
    let missing: Vec<String> = unserved.iter().filter_map(missing).collect();
    if missing.is_empty() {
        return None;
    }
    let missing = missing.join(" or ");
    if !service.has_selector {
        return Some(format!("no ready endpoint of Service {} has a {missing}", service.meta.key.name));
    }
    let one_name = unserved.len() < all.len() && all.iter().all(|port| port.target == all[0].target);
    let way_out = if one_name {
        "a container's port name is of one protocol, so give targetPort as a number"
    } else {
        "correct targetPort, or the ports of the pods"
    };
    Some(format!("no ready pod has a {missing}: {way_out}"))
}

/// The Service has backends, but none of this family.
pub(super) fn no_family(service: &ServiceObject, family: IpFamily) -> String {
    let name = &service.meta.key.name;
    match service.families[..] {
        // A companion Service has all families of the cluster.
        [only] if only != family && service.owner.is_none() => {
            format!("Service {name} has only {only}: set its spec.ipFamilyPolicy to PreferDualStack")
        }
        _ => no_address(family),
    }
}

pub(super) fn no_address(family: IpFamily) -> String {
    format!("no ready pod has an {family} address")
}
