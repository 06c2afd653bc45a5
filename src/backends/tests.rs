//! Services and EndpointSlices as Kubernetes has them.

mod changes;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::objects::SLICE_MANAGED_BY;
use super::*;
use crate::api::companion_name::CompanionPort;
use crate::kubernetes::ObjectKey;

fn key(name: &str) -> ObjectKey {
    ObjectKey { namespace: "team".into(), name: name.into() }
}

/// The Service `dns` of a user: port 53 for TCP and UDP, and 9153 called metrics.
fn service(backends: &Backends, spec: Value) -> Vec<Changed<ServiceObject>> {
    service_at(backends, 1, spec)
}

/// The same at this resourceVersion.
fn service_at(backends: &Backends, version: u64, spec: Value) -> Vec<Changed<ServiceObject>> {
    backends.apply_service_event(Event::Apply(parsed(version, spec)))
}

fn parsed(version: u64, spec: Value) -> ServiceObject {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "team", "name": "dns", "uid": "u", "resourceVersion": version.to_string()},
        "spec": spec,
    }))
    .unwrap();
    ServiceObject::parse(&service)
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

fn slice(backends: &Backends, name: &str, version: u32, ports: Value, endpoints: Vec<Value>) -> Vec<ObjectKey> {
    slice_of(SLICE_MANAGED_BY.1, backends, name, version, ports, endpoints)
}

fn slice_of(
    writer: &str,
    backends: &Backends,
    name: &str,
    version: u32,
    ports: Value,
    endpoints: Vec<Value>,
) -> Vec<ObjectKey> {
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {
            "namespace": "team", "name": name, "uid": name, "resourceVersion": version.to_string(),
            "labels": {"kubernetes.io/service-name": "dns", "endpointslice.kubernetes.io/managed-by": writer},
        },
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    }))
    .unwrap();
    backends.apply_slice_event(Event::Apply(SliceObject::parse(&slice))).services
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
fn handwritten_endpoints_get_no_traffic_unless_the_class_allows_them() {
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
fn loopback_link_local_and_multicast_endpoints_are_ignored() {
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

/// Each backend of port 53 of the Service `dns`, with the transport that it is for alone.
fn of_both(backends: &Backends) -> Vec<(String, Option<Transport>)> {
    let found = backends.of(&key("dns"), &PortRef::Number(53), Protocol::TcpUdp, Endpoints::Pods);
    found.iter().map(|backend| (format!("{}:{}", backend.address, backend.port), backend.transport)).collect()
}

#[test]
fn each_transport_of_a_port_of_both_goes_to_the_endpoints_that_serve_it() {
    let backends = Backends::default();
    service(&backends, ports());
    let tcp_only = json!([{"name": "dns-tcp", "port": 5353, "protocol": "TCP"}]);
    slice(&backends, "a", 1, both(), vec![endpoint(1, true, true, false)]);
    slice(&backends, "b", 2, tcp_only, vec![endpoint(2, true, true, false)]);
    let (first, second) = ("10.244.0.1:5353".to_owned(), "10.244.0.2:5353".to_owned());
    assert_eq!(of_both(&backends), [(first, None), (second, Some(Transport::Tcp))]);
    assert_eq!(hosts(&backends, PortRef::Number(53), Protocol::Tcp).len(), 2);
}

#[test]
fn tcp_and_udp_of_one_number_that_lead_to_different_ports_each_keep_their_own() {
    let backends = Backends::default();
    service(&backends, ports());
    let apart = json!([
        {"name": "dns-tcp", "port": 5353, "protocol": "TCP"},
        {"name": "dns", "port": 5354, "protocol": "UDP"},
    ]);
    slice(&backends, "a", 1, apart, vec![endpoint(1, true, true, false)]);
    let (tcp, udp) = ("10.244.0.1:5353".to_owned(), "10.244.0.1:5354".to_owned());
    assert_eq!(of_both(&backends), [(tcp, Some(Transport::Tcp)), (udp, Some(Transport::Udp))]);
    let ready = || backends.reached(&key("dns"), &PortRef::Number(53), Protocol::TcpUdp, Reach::default()).ready;
    assert!(ready());
    let tcp_only = json!([{"name": "dns-tcp", "port": 5353, "protocol": "TCP"}]);
    slice(&backends, "a", 2, tcp_only, vec![endpoint(1, true, true, false)]);
    assert!(!ready(), "UDP leads nowhere");
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
    assert_eq!(
        why(PortRef::Name("dns".into()), Protocol::TcpUdp).unwrap(),
        "Service dns has no port dns with protocol TCP: that name is of its UDP port: give targetPort as the number"
    );
    assert_eq!(why(named(), Protocol::Tcp), None, "Kubernetes has not listed its pods yet");
    slice(&backends, "a", 1, json!([]), vec![]);
    assert_eq!(
        why(named(), Protocol::Tcp).unwrap(),
        "no pod matches the selector of Service dns, or none that does is running and has an IP address"
    );
    slice(&backends, "a", 2, both(), vec![endpoint(1, false, false, false)]);
    assert_eq!(why(named(), Protocol::Tcp).unwrap(), "none of its pods is ready");
    slice(&backends, "a", 3, both(), vec![endpoint(1, true, true, false)]);
    assert_eq!(why(named(), Protocol::Tcp), None);
}

/// A Service `dns` whose ports for TCP and UDP lead to these ports of the pods.
fn service_to(backends: &Backends, tcp: Value, udp: Value) {
    service(
        backends,
        json!({"selector": {"app": "dns"}, "ports": [
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": tcp},
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": udp},
        ]}),
    );
}

fn why_none_of_both(backends: &Backends) -> Option<String> {
    backends.why_none(&key("dns"), &PortRef::Number(53), Protocol::TcpUdp, Endpoints::Pods)
}

#[test]
fn a_missing_named_port_is_reported_with_protocol_and_name() {
    let backends = Backends::default();
    service_to(&backends, json!("dns-tcp"), json!("dns-udp"));
    // What Kubernetes writes of pods that have none of the ports.
    slice(&backends, "a", 1, json!([]), vec![endpoint(1, true, true, false)]);
    assert_eq!(
        why_none_of_both(&backends).unwrap(),
        "no ready pod has a TCP port dns-tcp or UDP port dns-udp: correct targetPort, or the ports of the pods"
    );
    let udp_only = || json!([{"name": "dns", "port": 5353, "protocol": "UDP"}]);
    slice(&backends, "a", 2, udp_only(), vec![endpoint(1, true, true, false)]);
    let no_tcp = "no ready pod has a TCP port dns-tcp: correct targetPort, or the ports of the pods";
    assert_eq!(why_none_of_both(&backends).unwrap(), no_tcp);

    slice(&backends, "b", 3, both(), vec![endpoint(2, false, false, false)]);
    assert_eq!(why_none_of_both(&backends).unwrap(), no_tcp, "the one that has it is not ready");
    slice(&backends, "b", 4, both(), vec![endpoint(2, true, true, false)]);
    assert_eq!(why_none_of_both(&backends), None, "one that has it is enough");
}

#[test]
fn a_name_that_only_one_protocol_has_is_reported() {
    let backends = Backends::default();
    service_to(&backends, json!("dns"), json!("dns"));
    let udp_only = json!([{"name": "dns", "port": 5353, "protocol": "UDP"}]);
    slice(&backends, "a", 1, udp_only, vec![endpoint(1, true, true, false)]);
    assert_eq!(
        why_none_of_both(&backends).unwrap(),
        "no ready pod has a TCP port dns: a container's port name is of one protocol, so give targetPort as a number"
    );
}

#[test]
fn nothing_is_said_of_a_port_that_is_given_by_number_before_kubernetes_has_listed_it() {
    let backends = Backends::default();
    service_to(&backends, json!(5353), json!(5353));
    slice(&backends, "a", 1, json!([]), vec![endpoint(1, true, true, false)]);
    assert_eq!(why_none_of_both(&backends), None);
}

#[test]
fn pods_that_go_are_not_called_pods_without_the_port() {
    let backends = Backends::default();
    service_to(&backends, json!("dns-tcp"), json!("dns-udp"));
    let (going, gone) = (endpoint(1, false, true, true), endpoint(2, false, false, true));
    slice(&backends, "a", 1, both(), vec![going.clone()]);
    assert_eq!(why_none_of_both(&backends), None, "it still serves while it goes");
    slice(&backends, "a", 2, json!([]), vec![going]);
    assert_eq!(why_none_of_both(&backends).unwrap(), "none of its pods is ready");
    slice(&backends, "a", 3, both(), vec![gone]);
    assert_eq!(why_none_of_both(&backends).unwrap(), "none of its pods is ready");
}

#[test]
fn what_a_service_publishes_although_it_is_not_ready_is_a_backend() {
    let backends = Backends::default();
    service_to(&backends, json!("dns-tcp"), json!("dns-udp"));
    // As Kubernetes writes it with publishNotReadyAddresses.
    slice(&backends, "a", 1, both(), vec![endpoint(1, true, false, false)]);
    assert_eq!(why_none_of_both(&backends), None);
}

#[test]
fn endpoints_that_no_selector_finds_are_not_called_pods() {
    let backends = Backends::default();
    let mut by_hand = ports();
    by_hand["selector"] = Value::Null;
    service(&backends, by_hand);
    let why = || backends.why_none(&key("dns"), &PortRef::Number(53), Protocol::Tcp, Endpoints::Any).unwrap();
    assert_eq!(why(), "Service dns has no selector, and no endpoints");
    slice_of("me", &backends, "a", 1, both(), vec![endpoint(1, false, false, false)]);
    assert_eq!(why(), "none of its endpoints is ready");
    slice_of("me", &backends, "a", 2, json!([]), vec![endpoint(1, true, true, false)]);
    assert_eq!(why(), "no ready endpoint of Service dns has a TCP port dns-tcp");
}

#[test]
fn a_missing_family_is_reported_for_the_service_or_for_its_pods() {
    let of_families = |families: Value| {
        let backends = Backends::default();
        let mut spec = ports();
        spec["ipFamilies"] = families;
        service(&backends, spec);
        backends.why_none_of(&key("dns"), IpFamily::V6)
    };
    let only_v4 = "Service dns has only IPv4: set its spec.ipFamilyPolicy to PreferDualStack";
    assert_eq!(of_families(json!(["IPv4"])), only_v4);
    assert_eq!(of_families(json!(["IPv4", "IPv6"])), "no ready pod has an IPv6 address");
    let backends = Backends::default();
    let mut spec = ports();
    spec["ipFamilies"] = json!(["IPv4"]);
    service(&backends, spec);
    slice(&backends, "a", 1, json!([]), vec![]);
    let why = backends.why_none(&key("dns"), &PortRef::Number(53), Protocol::Tcp, Endpoints::Pods).unwrap();
    assert!(why.ends_with("is running and has an IPv4 address"), "{why}");
}

#[test]
fn nothing_is_reported_of_a_companion_service_before_kubernetes_has_listed_its_pods() {
    let backends = Backends::default();
    let metrics = PortRef::Companion(CompanionPort { number: NonZeroU16::new(20001).unwrap(), name: "metrics".into() });
    let why = || backends.why_none(&key("dns"), &metrics, Protocol::Tcp, Endpoints::Pods);
    assert_eq!(why(), None);
    service(&backends, json!({"selector": {"app": "dns"}, "ports": [{"name": "tcp-20001", "port": 20001}]}));
    assert_eq!(why(), None);
    let told = slice(&backends, "a", 1, json!([]), vec![]);
    assert_eq!(told, [key("dns")], "now it is known that there is none");
    assert!(why().is_some());
}

#[test]
fn a_service_of_an_earlier_version_that_is_written_again_has_its_endpoints_all_the_time() {
    let backends = Backends::default();
    let metrics = PortRef::Companion(CompanionPort { number: NonZeroU16::new(20001).unwrap(), name: "metrics".into() });
    let has_some = || !backends.of(&key("dns"), &metrics, Protocol::Tcp, Endpoints::Pods).is_empty();
    let named = |name: &str| json!({"selector": {"app": "dns"}, "ports": [{"name": name, "port": 1}]});
    let listed = |name: &str| json!([{"name": name, "port": 9153, "protocol": "TCP"}]);
    service(&backends, named("metrics-tcp"));
    slice(&backends, "a", 1, listed("metrics-tcp"), vec![endpoint(1, true, true, false)]);
    assert!(has_some());
    service_at(&backends, 2, named("tcp-20001"));
    assert!(has_some(), "the endpoints follow later");
    slice(&backends, "a", 2, listed("tcp-20001"), vec![endpoint(1, true, true, false)]);
    assert!(has_some());
}

#[test]
fn a_service_whose_port_gets_another_name_has_its_endpoints_all_the_time() {
    for target in [json!(9153), json!("metrics")] {
        let backends = Backends::default();
        let some =
            |port: i32| !backends.of(&key("dns"), &PortRef::Number(port), Protocol::Tcp, Endpoints::Pods).is_empty();
        let port = |name: &str| json!({"name": name, "port": 80, "targetPort": target});
        let other = json!({"name": "other", "port": 81, "targetPort": 8080});
        let ports = |ports: Value| json!({"selector": {"app": "dns"}, "ports": ports});
        service(&backends, ports(json!([port("")])));
        slice(&backends, "a", 1, json!([{"name": "", "port": 9153}]), vec![endpoint(1, true, true, false)]);
        assert!(some(80));
        service_at(&backends, 2, ports(json!([port("web")])));
        assert!(some(80), "its endpoints are listed under the former name");
        let listed = json!([{"name": "web", "port": 9153}, {"name": "gone", "port": 8080}]);
        slice(&backends, "a", 2, listed, vec![endpoint(1, true, true, false)]);
        service_at(&backends, 3, ports(json!([port("web"), other])));
        assert!(some(80));
        assert!(some(81), "where the number is what counts");
    }
}

#[test]
fn only_the_first_and_last_endpoint_change_the_verdict() {
    let backends = Backends::default();
    service(&backends, ports());
    let ready = |hosts: std::ops::Range<u8>| hosts.map(|host| endpoint(host, true, true, false)).collect();
    assert_eq!(slice(&backends, "a", 1, both(), ready(0..1)), [key("dns")]);
    assert_eq!(slice(&backends, "a", 2, both(), ready(0..3)), []);
    assert_eq!(slice(&backends, "a", 3, both(), ready(0..0)), [key("dns")]);
}

/// Kubernetes creates the EndpointSlices of the two families one after the other.
#[test]
fn why_a_dual_stack_service_leads_nowhere_is_known_once_both_families_are_listed() {
    let backends = Backends::default();
    let mut spec = ports();
    spec["ipFamilies"] = json!(["IPv4", "IPv6"]);
    service(&backends, spec);
    assert_eq!(slice(&backends, "a", 1, both(), vec![]), [key("dns")]);
    assert!(!backends.has_listed(&key("dns")));
    assert_eq!(why_none_of_both(&backends), None);
    let of_v6: EndpointSlice = serde_json::from_value(json!({
        "metadata": {
            "namespace": "team", "name": "b", "uid": "b", "resourceVersion": "2",
            "labels": {
                "kubernetes.io/service-name": "dns", "endpointslice.kubernetes.io/managed-by": SLICE_MANAGED_BY.1,
            },
        },
        "addressType": "IPv6", "ports": both(), "endpoints": [],
    }))
    .unwrap();
    let changes = backends.apply_slice_event(Event::Apply(SliceObject::parse(&of_v6)));
    assert_eq!(changes.services, [key("dns")], "the verdicts on its claims change");
    assert!(backends.has_listed(&key("dns")));
    assert!(why_none_of_both(&backends).is_some_and(|why| why.contains("no pod matches")));
}

#[test]
fn a_change_of_a_service_wakes_only_its_users() {
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

/// The watch often reports a write of ours after its reply, when the cache has that version
/// already.
#[test]
fn the_reply_to_a_write_of_a_service_wakes_its_users() {
    let backends = Backends::default();
    let signal = Arc::new(Signal::default());
    let woken = || futures::FutureExt::now_or_never(signal.woken()).is_some();
    backends.interest(&BTreeSet::new(), &BTreeSet::from([key("dns")]), &signal);
    service_at(&backends, 1, ports());
    assert!(woken());
    assert!(backends.apply_service_write(parsed(2, ports())).is_some());
    assert!(woken());
    assert!(service_at(&backends, 2, ports()).is_empty());
    assert!(backends.apply_service_write(parsed(2, ports())).is_none());
    assert!(!woken());
}

#[test]
fn a_change_of_endpoints_wakes_only_claims_that_count_them() {
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
    assert!(!backends.apply_slice_event(event(1)).counts);
    backends.count();
    assert!(backends.apply_slice_event(event(2)).counts);
    assert!(!backends.apply_slice_event(event(2)).counts, "nothing has changed");
}
