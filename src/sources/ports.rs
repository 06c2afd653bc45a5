//! The ports of a claim for the ports of a Service.

use std::num::NonZeroU16;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sharedlb_crds::{Protocol, SharedLBPort};
use sharedlb_providers::Transport;

use super::owned::shortened;
use crate::cluster::backends::ServicePort;

/// The longest name of a claim's port, in characters. (That of a Service's port
/// may have four more.)
const NAME_MAX: usize = 59;

/// The ports of a claim on this Service: each leads to the port of the Service
/// that it is made of. They have no number of their own yet.
///
/// TCP and UDP on one number that lead to the same port of the pods are one port
/// for both, so that they have one number whatever that is. If they lead to
/// different ports they are two, since a load balancer's port for both sends
/// both to the same.
pub(super) fn of_service(ports: &[ServicePort]) -> Vec<SharedLBPort> {
    let mut made: Vec<SharedLBPort> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let Some(transport) = port.transport else { continue };
        let twin = |other: &ServicePort| {
            other.number == port.number
                && other.target == port.target
                && other.transport.is_some_and(|other| other != transport)
        };
        if ports[..index].iter().any(twin) {
            continue;
        }
        let protocol = match transport {
            _ if ports[index..].iter().any(twin) => Protocol::TcpUdp,
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
        };
        let target_port = Some(IntOrString::Int(port.number));
        made.push(SharedLBPort {
            name: shortened(port.name.to_string(), &port.name, NAME_MAX),
            protocol,
            port: None,
            target_port,
        });
    }
    made
}

/// The port of a load balancer that has the number of the Service's port.
pub(super) fn same_number(port: &SharedLBPort) -> Option<NonZeroU16> {
    match port.target_port {
        Some(IntOrString::Int(number)) => u16::try_from(number).ok().and_then(NonZeroU16::new),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ports(of_service: Value) -> Vec<(String, &'static str, i32)> {
        let of_service: Vec<k8s_openapi::api::core::v1::ServicePort> = serde_json::from_value(of_service).unwrap();
        let of_service: Vec<ServicePort> = of_service.iter().map(ServicePort::parse).collect();
        let number = |port: &SharedLBPort| match port.target_port {
            Some(IntOrString::Int(number)) => number,
            _ => 0,
        };
        super::of_service(&of_service).iter().map(|p| (p.name.clone(), p.protocol.as_str(), number(p))).collect()
    }

    #[test]
    fn tcp_and_udp_on_one_number_are_one_port_if_they_lead_to_the_same() {
        let both = ports(json!([
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
            {"name": "web", "port": 80},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 5353},
        ]));
        assert_eq!(both, [("dns".into(), "TCP_UDP", 53), ("web".into(), "TCP", 80)]);
    }

    #[test]
    fn tcp_and_udp_on_one_number_are_two_ports_if_they_lead_to_different_ones() {
        let two = ports(json!([
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": "dns-tcp"},
        ]));
        assert_eq!(two, [("dns".into(), "UDP", 53), ("dns-tcp".into(), "TCP", 53)]);
    }

    #[test]
    fn a_name_that_is_too_long_for_a_claim_is_cut_and_stays_its_own() {
        let long = |end: char| format!("{}{end}", "x".repeat(62));
        let cut = ports(json!([{"name": long('a'), "port": 1}, {"name": long('b'), "port": 2}]));
        assert!(cut.iter().all(|(name, ..)| name.len() == NAME_MAX), "{cut:?}");
        assert_ne!(cut[0].0, cut[1].0);
    }
}
