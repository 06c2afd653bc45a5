//! Which changes of EndpointSlices are reported.

use super::*;

#[test]
fn the_first_pod_that_becomes_ready_is_a_change_and_the_second_is_none() {
    let backends = Backends::default();
    service(&backends, ports());
    let with = |version, ready: [bool; 2]| {
        let endpoints = [(1, ready[0]), (2, ready[1])].map(|(host, ready)| endpoint(host, ready, ready, false));
        slice(&backends, "dns-a", version, both(), endpoints.into())
    };
    assert_eq!(with(1, [false, false]), [key("dns")]);
    assert_eq!(with(2, [true, false]), [key("dns")], "the claim says that no pod is ready");
    assert_eq!(with(3, [true, true]), []);
}

#[test]
fn a_slice_whose_label_names_another_service_is_a_change_of_both() {
    let backends = Backends::default();
    service(&backends, ports());
    slice(&backends, "dns-a", 1, both(), vec![endpoint(1, true, true, false)]);
    let signal = Arc::new(Signal::default());
    backends.interest(&BTreeSet::new(), &[key("dns")].into(), &signal);
    let other: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"namespace": "team", "name": "dns-a", "uid": "dns-a", "resourceVersion": "2",
            "labels": {"kubernetes.io/service-name": "other"}},
        "addressType": "IPv4", "ports": both(), "endpoints": [],
    }))
    .unwrap();
    let changed = backends.apply_slice_event(Event::Apply(SliceObject::parse(&other))).services;
    assert_eq!(changed, [key("dns"), key("other")]);
    assert!(signal.take_changed().contains(&key("dns")));
}
