use std::collections::BTreeSet;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::{NoEndpoint, Rules, select};
use crate::Families;

mod properties;

/// A slice with the port `http`, 8080.
fn slice(address_type: &str, endpoints: &[Value]) -> EndpointSlice {
    slice_with_ports(address_type, endpoints, &json!([{"name": "http", "port": 8080}]))
}

fn slice_with_ports(address_type: &str, endpoints: &[Value], ports: &Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {},
        "addressType": address_type,
        "endpoints": endpoints,
        "ports": ports,
    }))
    .unwrap()
}

fn with_conditions(address: &str, conditions: Value) -> Value {
    json!({"addresses": [address], "conditions": conditions})
}

fn ready(address: &str) -> Value {
    with_conditions(address, json!({"ready": true, "serving": true, "terminating": false}))
}

fn unready(address: &str) -> Value {
    with_conditions(address, json!({"ready": false, "serving": false, "terminating": false}))
}

fn draining(address: &str) -> Value {
    with_conditions(address, json!({"ready": false, "serving": true, "terminating": true}))
}

fn hinted(address: &str, zones: &[&str]) -> Value {
    let zones: Vec<Value> = zones.iter().map(|zone| json!({"name": zone})).collect();
    json!({"addresses": [address], "hints": {"forZones": zones}})
}

/// The addresses of the endpoints that are selected.
fn selected(slices: &[EndpointSlice], rules: &Rules) -> Vec<String> {
    select(slices, rules).unwrap().iter().map(|endpoint| endpoint.address.to_string()).collect()
}

fn rules() -> Rules {
    Rules::default()
}

fn port(name: &str) -> Rules {
    Rules { port: Some(name.to_owned()), ..rules() }
}

fn zone(name: &str) -> Rules {
    Rules { zone: Some(name.to_owned()), ..rules() }
}

fn families(families: Families) -> Rules {
    Rules { families, ..rules() }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn ready_endpoints_are_selected_and_others_are_not() {
    let slice = slice("IPv4", &[ready("10.0.0.1"), unready("10.0.0.2"), draining("10.0.0.3")]);
    assert_eq!(selected(&[slice], &rules()), ["10.0.0.1:8080"]);
}

#[test]
fn terminating_endpoints_that_serve_are_selected_if_none_is_ready() {
    let gone = with_conditions("10.0.0.2", json!({"ready": false, "serving": false, "terminating": true}));
    let slice = slice("IPv4", &[unready("10.0.0.1"), gone, draining("10.0.0.3")]);
    assert_eq!(selected(&[slice], &rules()), ["10.0.0.3:8080"]);
}

#[test]
fn an_endpoint_without_conditions_is_ready() {
    let slice = slice("IPv4", &[json!({"addresses": ["10.0.0.1"]}), with_conditions("10.0.0.2", json!({}))]);
    assert_eq!(selected(&[slice], &rules()), ["10.0.0.1:8080", "10.0.0.2:8080"]);
}

#[test]
fn a_terminating_endpoint_is_selected_while_it_counts_as_ready() {
    // As with publishNotReadyAddresses.
    let published = with_conditions("10.0.0.1", json!({"ready": true, "serving": false, "terminating": true}));
    let slice = slice("IPv4", &[published, draining("10.0.0.2")]);
    assert_eq!(selected(&[slice], &rules()), ["10.0.0.1:8080"]);
}

#[test]
fn nothing_is_selected_of_a_service_without_endpoints() {
    assert_eq!(select(&[], &rules()), Ok(BTreeSet::new()));
    // What the EndpointSlice controller keeps for a Service without pods.
    let placeholder = slice_with_ports("IPv4", &[], &Value::Null);
    assert_eq!(select(&[placeholder], &port("http")), Ok(BTreeSet::new()));
}

#[test]
fn a_named_port_may_have_another_number_in_each_slice() {
    let slices = [
        slice_with_ports(
            "IPv4",
            &[ready("10.0.0.1")],
            &json!([{"name": "metrics", "port": 9090}, {"name": "http", "port": 8080}]),
        ),
        slice_with_ports("IPv4", &[ready("10.0.0.2")], &json!([{"name": "http", "port": 8081}])),
    ];
    assert_eq!(selected(&slices, &port("http")), ["10.0.0.1:8080", "10.0.0.2:8081"]);
    assert_eq!(selected(&slices, &port("metrics")), ["10.0.0.1:9090"]);
}

#[test]
fn the_only_port_needs_no_name() {
    for ports in [json!([{"port": 8080}]), json!([{"name": "", "port": 8080}]), json!([{"name": "any", "port": 8080}])]
    {
        let slice = slice_with_ports("IPv4", &[ready("10.0.0.1")], &ports);
        assert_eq!(selected(&[slice], &rules()), ["10.0.0.1:8080"], "{ports}");
    }
}

#[test]
fn one_of_several_ports_has_to_be_named() {
    let ports = json!([{"name": "http", "port": 8080}, {"name": "metrics", "port": 9090}]);
    let slice = slice_with_ports("IPv4", &[ready("10.0.0.1")], &ports);
    let error = select(&[slice], &rules()).unwrap_err();
    assert_eq!(error, NoEndpoint::SeveralPorts { ports: names(&["http", "metrics"]) });
    assert_eq!(error.to_string(), r#"the Service has several ports, of which one must be named: "http", "metrics""#);
}

#[test]
fn a_port_that_no_endpoint_has_is_an_error_that_names_those_there_are() {
    let error = select(&[slice("IPv4", &[ready("10.0.0.1")])], &port("grpc")).unwrap_err();
    assert_eq!(error, NoEndpoint::UnknownPort { port: "grpc".to_owned(), ports: names(&["http"]) });
    assert_eq!(error.to_string(), r#"the endpoints of the Service have no port "grpc", but "http""#);
}

#[test]
fn an_endpoint_in_two_slices_counts_once_and_as_the_fitter_one() {
    let slices = [
        slice("IPv4", &[unready("10.0.0.1"), ready("10.0.0.2")]),
        slice("IPv4", &[ready("10.0.0.1"), draining("10.0.0.2")]),
    ];
    assert_eq!(selected(&slices, &rules()), ["10.0.0.1:8080", "10.0.0.2:8080"]);
}

#[test]
fn of_a_dual_stack_service_the_preferred_family_is_selected() {
    let slices = [slice("IPv4", &[ready("10.0.0.1")]), slice("IPv6", &[ready("fd00::1")])];
    assert_eq!(selected(&slices, &rules()), ["10.0.0.1:8080"]);
    assert_eq!(selected(&slices, &families(Families::PreferIpv6)), ["[fd00::1]:8080"]);
    assert_eq!(selected(&slices, &families(Families::Ipv4)), ["10.0.0.1:8080"]);
    assert_eq!(selected(&slices, &families(Families::Ipv6)), ["[fd00::1]:8080"]);
}

#[test]
fn a_family_that_is_only_preferred_gives_way_to_ready_endpoints_of_the_other() {
    let slices = [slice("IPv4", &[draining("10.0.0.1")]), slice("IPv6", &[ready("fd00::1")])];
    assert_eq!(selected(&slices, &rules()), ["[fd00::1]:8080"]);
    assert_eq!(selected(&slices, &families(Families::Ipv4)), ["10.0.0.1:8080"]);
}

#[test]
fn slices_of_names_are_ignored() {
    assert_eq!(select(&[slice("FQDN", &[json!({"addresses": ["example.com"]})])], &rules()), Ok(BTreeSet::new()));
}

#[test]
fn hints_are_followed_if_all_endpoints_have_some() {
    let slice =
        slice("IPv4", &[hinted("10.0.0.1", &["a"]), hinted("10.0.0.2", &["b", "a"]), hinted("10.0.0.3", &["b"])]);
    assert_eq!(selected(&[slice], &zone("a")), ["10.0.0.1:8080", "10.0.0.2:8080"]);
}

#[test]
fn hints_are_ignored_if_a_ready_endpoint_has_none_or_none_is_for_the_zone() {
    let one_without = slice("IPv4", &[hinted("10.0.0.1", &["a"]), ready("10.0.0.2")]);
    assert_eq!(selected(&[one_without], &zone("a")).len(), 2);
    let other_zones = [slice("IPv4", &[hinted("10.0.0.1", &["b"]), hinted("10.0.0.2", &["c"])])];
    assert_eq!(selected(&other_zones, &zone("a")).len(), 2);
    assert_eq!(selected(&other_zones, &rules()).len(), 2);
}

#[test]
fn an_unready_endpoint_without_hints_changes_nothing() {
    let slice = slice("IPv4", &[hinted("10.0.0.1", &["a"]), hinted("10.0.0.2", &["b"]), unready("10.0.0.3")]);
    assert_eq!(selected(&[slice], &zone("a")), ["10.0.0.1:8080"]);
}

#[test]
fn an_endpoint_has_the_name_of_its_pod_and_of_nothing_else() {
    let target = |kind: &str| json!({"addresses": ["10.0.0.1"], "targetRef": {"kind": kind, "name": "web-0"}});
    let pod = |kind: &str| select(&[slice("IPv4", &[target(kind)])], &rules()).unwrap().pop_first().unwrap().pod;
    assert_eq!(pod("Pod").as_deref(), Some("web-0"));
    assert_eq!(pod("VirtualMachine"), None);
}
