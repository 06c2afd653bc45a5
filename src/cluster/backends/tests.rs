//! Services and EndpointSlices as Kubernetes has them.

use serde_json::{Value, json};

use super::*;

fn key(name: &str) -> ClaimId {
    ClaimId { namespace: "team".into(), name: name.into() }
}

/// The Service `dns` of a user: port 53 for TCP and UDP, and 9153 called metrics.
fn service(backends: &Backends, spec: Value) -> Vec<Changed<ServiceObject>> {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "team", "name": "dns", "uid": "u", "resourceVersion": "1"},
        "spec": spec,
    }))
    .unwrap();
    backends.watched_service(Event::Apply(ServiceObject::parse(&service)))
}

fn ports() -> Value {
    json!({"ports": [
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "metrics", "port": 9153},
    ]})
}

/// An endpoint, with its conditions ready, serving and terminating.
fn endpoint(host: u8, ready: bool, serving: bool, terminating: bool) -> Value {
    json!({
        "addresses": [format!("10.244.0.{host}")],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
    })
}

fn slice(backends: &Backends, name: &str, version: u32, ports: Value, endpoints: Vec<Value>) -> Vec<ClaimId> {
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {
            "namespace": "team", "name": name, "uid": name, "resourceVersion": version.to_string(),
            "labels": {"kubernetes.io/service-name": "dns"},
        },
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    }))
    .unwrap();
    backends.watched_slice(Event::Apply(SliceObject::parse(&slice)))
}

fn both() -> Value {
    json!([
        {"name": "dns-tcp", "port": 5353, "protocol": "TCP"},
        {"name": "dns", "port": 5353, "protocol": "UDP"},
    ])
}

fn hosts(backends: &Backends, port: PortRef, protocol: Protocol) -> Vec<String> {
    backends.of(&key("dns"), &port, protocol).iter().map(|b| format!("{}:{}", b.address, b.port)).collect()
}

#[test]
fn traffic_goes_to_ready_endpoints_and_if_there_are_none_to_those_that_serve_while_they_go() {
    let backends = Backends::default();
    service(&backends, ports());
    let (ready, going) = (endpoint(1, true, true, false), endpoint(2, false, true, true));
    let (starting, gone) = (endpoint(3, false, false, false), endpoint(4, false, false, true));
    slice(&backends, "a", 1, both(), vec![ready, going.clone(), starting.clone(), gone.clone()]);
    assert_eq!(hosts(&backends, PortRef::Number(53), Protocol::Tcp), ["10.244.0.1:5353"]);
    slice(&backends, "a", 2, both(), vec![going, starting, gone]);
    assert_eq!(hosts(&backends, PortRef::Number(53), Protocol::Tcp), ["10.244.0.2:5353"]);
}

#[test]
fn a_port_is_found_by_number_or_name_and_by_its_protocol() {
    let backends = Backends::default();
    service(&backends, ports());
    slice(&backends, "a", 1, both(), vec![endpoint(1, true, true, false)]);
    assert_eq!(hosts(&backends, PortRef::Name("dns".into()), Protocol::Udp).len(), 1);
    assert_eq!(hosts(&backends, PortRef::Name("dns".into()), Protocol::Tcp).len(), 0, "dns is the one of UDP");
    assert_eq!(hosts(&backends, PortRef::Name("metrics".into()), Protocol::Tcp).len(), 0, "no pod has it");
}

#[test]
fn a_port_of_both_protocols_goes_to_the_endpoints_that_serve_both() {
    let backends = Backends::default();
    service(&backends, ports());
    let tcp_only = json!([{"name": "dns-tcp", "port": 5353, "protocol": "TCP"}]);
    slice(&backends, "a", 1, both(), vec![endpoint(1, true, true, false)]);
    slice(&backends, "b", 2, tcp_only, vec![endpoint(2, true, true, false)]);
    assert_eq!(hosts(&backends, PortRef::Number(53), Protocol::TcpUdp), ["10.244.0.1:5353"]);
    assert_eq!(hosts(&backends, PortRef::Number(53), Protocol::Tcp).len(), 2);
}

#[test]
fn a_port_without_backends_says_why_and_what_to_do() {
    let backends = Backends::default();
    let why = |port: PortRef, protocol| backends.why_none(&key("dns"), &port, protocol);
    let named = || PortRef::Name("dns-tcp".into());
    assert_eq!(
        why(named(), Protocol::Tcp).unwrap(),
        "Service dns does not exist in namespace team: create it, or correct serviceName"
    );
    service(&backends, ports());
    assert_eq!(
        why(PortRef::Number(80), Protocol::Tcp).unwrap(),
        "Service dns has no port 80 with protocol TCP: correct targetPort or the Service"
    );
    assert!(why(named(), Protocol::Tcp).unwrap().starts_with("no pod matches the selector"));
    slice(&backends, "a", 1, both(), vec![endpoint(1, false, false, false)]);
    assert_eq!(why(named(), Protocol::Tcp).unwrap(), "none of its pods is ready");
    slice(&backends, "a", 2, both(), vec![endpoint(1, true, true, false)]);
    assert_eq!(why(named(), Protocol::Tcp), None);
}

#[test]
fn nothing_is_said_of_our_own_service_before_kubernetes_has_listed_its_pods() {
    let backends = Backends::default();
    assert_eq!(backends.why_none(&key("dns"), &PortRef::OfClaim("metrics".into()), Protocol::Tcp), None);
    service(&backends, json!({"ports": [{"name": "metrics-tcp", "port": 1}]}));
    assert_eq!(backends.why_none(&key("dns"), &PortRef::OfClaim("metrics".into()), Protocol::Tcp), None);
    let told = slice(&backends, "a", 1, json!([]), vec![]);
    assert_eq!(told, [key("dns")], "now it is known that there is none");
    assert!(backends.why_none(&key("dns"), &PortRef::OfClaim("metrics".into()), Protocol::Tcp).is_some());
}

#[test]
fn a_further_endpoint_is_no_news_but_the_first_and_the_last_are() {
    let backends = Backends::default();
    service(&backends, ports());
    let ready = |hosts: std::ops::Range<u8>| hosts.map(|host| endpoint(host, true, true, false)).collect();
    assert_eq!(slice(&backends, "a", 1, both(), ready(0..1)), [key("dns")]);
    assert_eq!(slice(&backends, "a", 2, both(), ready(0..3)), []);
    assert_eq!(slice(&backends, "a", 3, both(), ready(0..0)), [key("dns")]);
}

#[test]
fn who_is_interested_in_a_service_is_woken_by_its_changes_and_by_no_others() {
    let backends = Backends::default();
    let signal = Arc::new(Signal::default());
    let of_dns = BTreeSet::from([key("dns")]);
    let woken = || futures::FutureExt::now_or_never(signal.woken()).is_some();
    slice(&backends, "a", 1, both(), vec![endpoint(1, true, true, false)]);
    assert!(!woken());
    backends.interest(&BTreeSet::new(), &of_dns, &signal);
    slice(&backends, "a", 2, both(), vec![endpoint(2, true, true, false)]);
    assert!(woken());
    backends.interest(&of_dns, &BTreeSet::new(), &signal);
    slice(&backends, "a", 3, both(), vec![endpoint(3, true, true, false)]);
    assert!(!woken());
}
