//! The claim that has the ports of a Service. Pure.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use kube::ResourceExt as _;
use sharedlb_crds::{
    ClientIpConfig, Protocol, SessionAffinity, SessionAffinityConfig, SharedLB, SharedLBPort, SharedLBSpec,
};

/// How many ports a claim can have, and how long their names can be, by its definition.
const PORTS_MAX: usize = 64;
const NAME_MAX: usize = 59;

/// How the numbers of the claim are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// Those of the Service
    Requested,
    /// Any
    Assigned,
}

/// The claim of this class that has the ports of a Service, and its name.
///
/// # Errors
/// Why the Service cannot share a load balancer, for its author.
pub(crate) fn claim(service: &Service, class: &str, numbers: Numbers) -> Result<SharedLB, String> {
    let default = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    if spec.selector.as_ref().is_none_or(BTreeMap::is_empty) {
        return Err("it has no selector, so its endpoints are written by hand".to_owned());
    }
    let mut ports = ports(spec)?;
    if numbers == Numbers::Assigned {
        for port in &mut ports {
            port.target_port = port.target();
            port.port = None;
        }
    }
    let session_affinity = match spec.session_affinity.as_deref() {
        Some("ClientIP") => SessionAffinity::ClientIp,
        _ => SessionAffinity::None,
    };
    let claim = SharedLBSpec {
        class_name: Some(class.to_owned()),
        service_name: Some(service.name_any()),
        ports,
        load_balancer_source_ranges: source_ranges(spec)?,
        session_affinity,
        session_affinity_config: session_affinity_config(spec)
            .filter(|_| session_affinity == SessionAffinity::ClientIp),
        ..SharedLBSpec::default()
    };
    let mut claim = SharedLB::new(&service.name_any(), claim);
    claim.metadata.namespace = service.namespace();
    Ok(claim)
}

/// The ports of a Service; TCP and UDP of one number that lead to the same port are one.
fn ports(spec: &ServiceSpec) -> Result<Vec<SharedLBPort>, String> {
    let of_service = spec.ports.as_deref().unwrap_or_default();
    let mut ports: Vec<SharedLBPort> = Vec::new();
    for port in of_service {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some(other) => return Err(format!("port {} is {other}: only TCP and UDP can be shared", port.port)),
        };
        let number = u16::try_from(port.port).ok().and_then(NonZeroU16::new);
        let twin = ports.iter_mut().find(|twin| twin.port == number);
        let leads_alike = |other: &k8s_openapi::api::core::v1::ServicePort| {
            other.port == port.port && other.protocol != port.protocol && other.target_port == port.target_port
        };
        match twin.filter(|_| of_service.iter().any(leads_alike)) {
            Some(twin) => twin.protocol = Protocol::TcpUdp,
            None => {
                let name = port.name.clone().filter(|name| name.len() <= NAME_MAX);
                let name = name.unwrap_or_else(|| format!("port-{}", port.port));
                ports.push(SharedLBPort { name, protocol, port: number, target_port: None });
            }
        }
    }
    match ports.len() {
        0 => Err("it has no ports".to_owned()),
        1 => {
            ports[0].name = String::new();
            Ok(ports)
        }
        2..=PORTS_MAX => Ok(ports),
        count => Err(format!("it has {count} ports, and a claim can have {PORTS_MAX}: split it")),
    }
}

fn source_ranges(spec: &ServiceSpec) -> Result<Vec<IpNet>, String> {
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    ranges
        .map(|range| range.trim().parse().map_err(|_| format!("source range {range:?} is not a range of addresses")))
        .collect()
}

fn session_affinity_config(spec: &ServiceSpec) -> Option<SessionAffinityConfig> {
    let timeout = spec.session_affinity_config.as_ref()?.client_ip.as_ref()?.timeout_seconds?;
    let client_ip = Some(ClientIpConfig { timeout_seconds: timeout.try_into().ok()? });
    Some(SessionAffinityConfig { client_ip })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures::object;

    fn service(spec: Value) -> Service {
        object(json!({"metadata": {"namespace": "team-a", "name": "web"}, "spec": spec}))
    }

    fn spec(of: Value, numbers: Numbers) -> Value {
        let claim = claim(&service(of), "default", numbers).expect("it can be shared");
        serde_json::to_value(claim.spec).expect("it is plain data")
    }

    #[test]
    fn a_claim_requests_the_numbers_of_its_service() {
        let ports = json!([
            {"name": "http", "port": 80, "targetPort": 8080},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": "dns"},
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns"},
        ]);
        let of = json!({"selector": {"app": "web"}, "ports": ports, "loadBalancerSourceRanges": ["10.0.0.0/8"]});
        assert_eq!(
            spec(of, Numbers::Requested),
            json!({
                "className": "default", "serviceName": "web", "loadBalancerSourceRanges": ["10.0.0.0/8"],
                "ports": [
                    {"name": "http", "protocol": "TCP", "port": 80},
                    {"name": "dns-tcp", "protocol": "TCP_UDP", "port": 53},
                ],
            })
        );
    }

    #[test]
    fn a_claim_whose_numbers_are_assigned_leads_to_the_ports_of_its_service() {
        let of = json!({"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
        assert_eq!(spec(of, Numbers::Assigned)["ports"], json!([{"name": "", "protocol": "TCP", "targetPort": 80}]));
    }

    #[test]
    fn what_cannot_be_shared_is_said_of_the_service() {
        let refused = |of: Value| claim(&service(of), "default", Numbers::Requested).expect_err("it cannot be shared");
        let ports = json!([{"port": 80}]);
        assert!(refused(json!({"ports": ports})).starts_with("it has no selector"));
        let sctp = json!({"selector": {"a": "b"}, "ports": [{"port": 80, "protocol": "SCTP"}]});
        assert_eq!(refused(sctp), "port 80 is SCTP: only TCP and UDP can be shared");
        let many: Vec<Value> = (1..=65).map(|port| json!({"port": port})).collect();
        let many = json!({"selector": {"a": "b"}, "ports": many});
        assert_eq!(refused(many), "it has 65 ports, and a claim can have 64: split it");
    }
}
