//! The ports of a claim for the ports of a Service.

use std::collections::BTreeSet;
use std::iter;
use std::num::NonZeroU16;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sharedlb_crds::{Protocol, SharedLBPort};
use sharedlb_providers::{Transport, port_number};

use crate::backends::ServicePort;
use crate::kubernetes::names;

/// The longest name of a claim's port, in characters. (That of a Service's port
/// may have four more.)
const NAME_MAX: usize = 59;

/// The ports of the claim for this Service: each has the port of the Service as its
/// target, and no number yet.
///
/// TCP and UDP of one number are one port for both, so that both get one number on the
/// load balancer, unless their targets are two different numbers. (The target of a named
/// port is known only once there are pods.) Such a port is named by its number, since the
/// name of one of the two would depend on their order.
pub(super) fn of_service(ports: &[ServicePort]) -> Vec<SharedLBPort> {
    let twin = |port: &ServicePort| ports.iter().any(|other| are_one(port, other));
    let single = ports.iter().filter(|port| port.transport.is_some() && !twin(port));
    let taken: BTreeSet<String> = single.map(own_name).collect();
    let mut made: Vec<SharedLBPort> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let Some(transport) = port.transport else { continue };
        if ports[..index].iter().any(|other| are_one(port, other)) {
            continue;
        }
        let (name, protocol) = match transport {
            _ if twin(port) => (number_name(port.number, &taken), Protocol::TcpUdp),
            Transport::Tcp => (own_name(port), Protocol::Tcp),
            Transport::Udp => (own_name(port), Protocol::Udp),
        };
        made.push(SharedLBPort { name, protocol, port: None, target_port: Some(IntOrString::Int(port.number)) });
    }
    made
}

/// Whether two ports of a Service are one port of its claim.
fn are_one(port: &ServicePort, other: &ServicePort) -> bool {
    let transports = (port.transport, other.transport);
    let both = matches!(
        transports,
        (Some(Transport::Tcp), Some(Transport::Udp)) | (Some(Transport::Udp), Some(Transport::Tcp))
    );
    let lead_apart = match (&port.target, &other.target) {
        (IntOrString::Int(one), IntOrString::Int(another)) => one != another,
        _ => false,
    };
    both && port.number == other.number && !lead_apart
}

fn own_name(port: &ServicePort) -> String {
    names::shortened(port.name.to_string(), &port.name, NAME_MAX)
}

/// The name of the port for TCP and UDP on this number: `53`, unless a port of the
/// Service that keeps its own name has that name.
fn number_name(number: i32, taken: &BTreeSet<String>) -> String {
    let mut names = iter::once(number.to_string()).chain((2..).map(|count| format!("{number}-{count}")));
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}

/// The number of the Service's port, as a port of a load balancer.
pub(super) fn same_number(port: &SharedLBPort) -> Option<NonZeroU16> {
    match port.target_port {
        Some(IntOrString::Int(number)) => port_number(number),
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
    fn tcp_and_udp_on_one_number_are_one_port_if_they_may_lead_to_the_same() {
        let cases = [
            (json!(5353), json!(5353)),
            (json!("dns"), json!("dns")),
            // A container may not give one name to two of its ports.
            (json!("dns-udp"), json!("dns-tcp")),
            (json!("dns"), json!(5353)),
            (json!(null), json!(53)),
        ];
        for (udp, tcp) in cases {
            let both = ports(json!([
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": udp},
                {"name": "web", "port": 80},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": tcp},
            ]));
            assert_eq!(both, [("53".into(), "TCP_UDP", 53), ("web".into(), "TCP", 80)], "{udp} and {tcp}");
        }
    }

    #[test]
    fn tcp_and_udp_on_one_number_are_two_ports_if_they_lead_to_different_numbers() {
        let two = ports(json!([
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 5354},
        ]));
        assert_eq!(two, [("dns".into(), "UDP", 53), ("dns-tcp".into(), "TCP", 53)]);
    }

    #[test]
    fn the_order_of_the_list_names_no_port() {
        let mut list = vec![
            json!({"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": "dns"}),
            json!({"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns"}),
            json!({"name": "sip", "port": 5060, "protocol": "UDP", "targetPort": 1}),
            json!({"name": "sip-tcp", "port": 5060, "protocol": "TCP", "targetPort": 2}),
        ];
        let sorted = |list: &[Value]| {
            let mut made = ports(Value::from(list));
            made.sort();
            made
        };
        let wanted = sorted(&list);
        assert_eq!(wanted.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["53", "sip", "sip-tcp"]);
        for _ in 0..list.len() {
            list.rotate_left(1);
            assert_eq!(sorted(&list), wanted);
        }
        list.reverse();
        assert_eq!(sorted(&list), wanted);
    }

    #[test]
    fn a_port_that_is_called_like_the_number_of_others_keeps_its_name() {
        let named = |other: Value| {
            let mut list = vec![
                json!({"name": "dns", "port": 53, "protocol": "UDP"}),
                json!({"name": "dns-tcp", "port": 53, "protocol": "TCP"}),
            ];
            list.extend(other.as_array().unwrap().clone());
            ports(Value::from(list)).into_iter().map(|(name, ..)| name).collect::<Vec<_>>()
        };
        assert_eq!(named(json!([{"name": "53", "port": 80}])), ["53-2", "53"]);
        let both = json!([{"name": "53", "port": 80}, {"name": "53-2", "port": 81}]);
        assert_eq!(named(both), ["53-3", "53", "53-2"]);
        // It is the name of one of the two themselves: nothing else has it.
        let itself = json!([
            {"name": "53", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ]);
        assert_eq!(ports(itself), [("53".into(), "TCP_UDP", 53)]);
        // What cannot be shared has no port in the claim, and so takes no name.
        assert_eq!(named(json!([{"name": "53", "port": 80, "protocol": "SCTP"}])), ["53"]);
    }

    #[test]
    fn a_name_that_is_too_long_for_a_claim_is_cut_and_stays_its_own() {
        let long = |end: char| format!("{}{end}", "x".repeat(62));
        let cut = ports(json!([{"name": long('a'), "port": 1}, {"name": long('b'), "port": 2}]));
        assert!(cut.iter().all(|(name, ..)| name.len() == NAME_MAX), "{cut:?}");
        assert_ne!(cut[0].0, cut[1].0);
    }
}
