//! Services and EndpointSlices as Kubernetes has them.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::objects::SLICE_MANAGED_BY;
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
    json!({"selector": {"app": "dns"}, "ports": [
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "metrics", "port": 9153},
    ]})
}

/// A pod, with its conditions ready, serving and terminating.
fn endpoint(host: u8, ready: bool, serving: bool, terminating: bool) -> Value {
    json!({
        "addresses": [format!("10.244.0.{host}")],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {"kind": "Pod", "namespace": "team", "name": format!("dns-{host}")},
    })
}

fn slice(backends: &Backends, name: &str, version: u32, ports: Value, endpoints: Vec<Value>) -> Vec<ClaimId> {
    slice_of(SLICE_MANAGED_BY.1, backends, name, version, ports, endpoints)
}

fn slice_of(
    writer: &str,
    backends: &Backends,
    name: &str,
    version: u32,
    ports: Value,
    endpoints: Vec<Value>,
) -> Vec<ClaimId> {
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {
            "namespace": "team", "name": name, "uid": name, "resourceVersion": version.to_string(),
            "labels": {"kubernetes.io/service-name": "dns", "endpointslice.kubernetes.io/managed-by": writer},
        },
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    }))
    .unwrap();
    backends.watched_slice(Event::Apply(SliceObject::parse(&slice))).services
}

fn both() -> Value {
    json!([
        {"name": "dns-tcp", "port": 5353, "protocol": "TCP"},
        {"name": "dns", "port": 5353, "protocol": "UDP"},
    ])
}

fn hosts(backends: &Backends, port: PortRef, protocol: Protocol) -> Vec<String> {
    hosts_of(Endpoints::Pods, backends, port, protocol)
}

fn hosts_of(count: Endpoints, backends: &Backends, port: PortRef, protocol: Protocol) -> Vec<String> {
    backends.of(&key("dns"), &port, protocol, count).iter().map(|b| format!("{}:{}", b.address, b.port)).collect()
}

/// The hosts that get traffic by default, and those where the class takes any.
fn both_hosts(backends: &Backends) -> [Vec<String>; 2] {
    [Endpoints::Pods, Endpoints::Any].map(|count| hosts_of(count, backends, PortRef::Number(53), Protocol::Tcp))
}

#[test]
fn what_somebody_wrote_by_hand_gets_no_traffic_unless_the_class_says_so() {
    let backends = Backends::default();
    service(&backends, ports());
    slice_of("me", &backends, "by-hand", 1, both(), vec![endpoint(1, true, true, false)]);
    assert_eq!(both_hosts(&backends), [vec![], vec!["10.244.0.1:5353".to_owned()]]);
    let mut no_pod = endpoint(2, true, true, false);
    no_pod["targetRef"] = Value::Null;
    let mut of_another_namespace = endpoint(3, true, true, false);
    of_another_namespace["targetRef"]["namespace"] = json!("victim");
    slice(&backends, "forged", 2, both(), vec![no_pod, of_another_namespace]);
    let [by_default, any] = both_hosts(&backends);
    assert_eq!((by_default.len(), any.len()), (0, 3));
}

#[test]
fn what_says_that_kubernetes_wrote_it_counts_only_where_kubernetes_would_correct_it() {
    let backends = Backends::default();
    let mut without_selector = ports();
    without_selector["selector"] = Value::Null;
    service(&backends, without_selector);
    slice(&backends, "forged", 1, both(), vec![endpoint(1, true, true, false)]);
    assert_eq!(both_hosts(&backends).map(|hosts| hosts.len()), [0, 1]);
    let why = |count| backends.why_none(&key("dns"), &PortRef::Number(53), Protocol::Tcp, count);
    assert!(why(Endpoints::Pods).unwrap().starts_with("Service dns has no selector"));
    assert_eq!(why(Endpoints::Any), None);
}

#[test]
fn nothing_leads_to_whoever_sends_it_to_machines_nearby_or_to_many() {
    for address in [
        "127.0.0.1",
        "127.8.9.10",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "169.254.169.254",
        "fe80::1",
        "::ffff:169.254.169.254",
        "224.0.0.1",
        "239.1.2.3",
        "ff02::1",
        "255.255.255.255",
    ] {
        let backends = Backends::default();
        service(&backends, ports());
        let mut there = endpoint(1, true, true, false);
        there["addresses"] = json!([address]);
        slice(&backends, "a", 1, both(), vec![there]);
        assert_eq!(both_hosts(&backends).map(|hosts| hosts.len()), [0, 0], "{address}");
    }
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
    let why = |port: PortRef, protocol| backends.why_none(&key("dns"), &port, protocol, Endpoints::Pods);
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
    let why = || backends.why_none(&key("dns"), &PortRef::OfClaim("metrics".into()), Protocol::Tcp, Endpoints::Pods);
    assert_eq!(why(), None);
    service(&backends, json!({"selector": {"app": "dns"}, "ports": [{"name": "metrics-tcp", "port": 1}]}));
    assert_eq!(why(), None);
    let told = slice(&backends, "a", 1, json!([]), vec![]);
    assert_eq!(told, [key("dns")], "now it is known that there is none");
    assert!(why().is_some());
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

#[test]
fn a_change_of_endpoints_is_told_to_who_counts_them_and_to_nobody_else() {
    let backends = Backends::default();
    let event = |version: u32| {
        let slice = json!({
            "metadata": {
                "namespace": "team", "name": "a", "uid": "a", "resourceVersion": version.to_string(),
                "labels": {"kubernetes.io/service-name": "dns"},
            },
            "addressType": "IPv4", "ports": both(), "endpoints": [endpoint(1, true, true, false)],
        });
        Event::Apply(SliceObject::parse(&serde_json::from_value(slice).unwrap()))
    };
    assert!(!backends.watched_slice(event(1)).counts);
    backends.count();
    assert!(backends.watched_slice(event(2)).counts);
    assert!(!backends.watched_slice(event(2)).counts, "nothing has changed");
}
