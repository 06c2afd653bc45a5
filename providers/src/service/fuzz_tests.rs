//! Services and EndpointSlices of ours that were altered by hand, and foreign ones that are
//! similar.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::front::Front;
use super::marks::Marks;
use super::slices::{SeenSlice, arrange};
use super::view::observed;
use crate::model::{FrontPort, LbName, Transport};
use crate::mutate::{near, odd};

const NAME: &str = "slb-default-0-0123456789";

fn marks() -> Marks {
    Marks::new("sharedlb-system", "default", "cluster")
}

fn labels() -> Value {
    json!({
        "app.kubernetes.io/managed-by": "sharedlb", "sharedlb.dev/class": "default",
        "sharedlb.dev/cluster-id": "cluster", "sharedlb.dev/load-balancer": NAME,
    })
}

fn service_json() -> Value {
    json!({
        "metadata": {
            "name": NAME, "namespace": "sharedlb-system", "uid": "u", "resourceVersion": "1", "labels": labels(),
            "annotations": {"sharedlb.dev/attributes": "type,annotation/a", "a": "b"},
        },
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "allocateLoadBalancerNodePorts": false,
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [
                {"name": "tcp-20417", "port": 20417, "protocol": "TCP"}, {"name": "udp-53", "port": 53, "protocol": "UDP"},
                {"name": "theirs", "port": 22, "protocol": "TCP"},
            ],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "10.99.0.1"}, {"hostname": "lb.example.com"}]}},
    })
}

/// The slice of the front port 20417/TCP.
fn slice_json() -> Value {
    let mut labels = labels();
    labels["kubernetes.io/service-name"] = json!(NAME);
    labels["endpointslice.kubernetes.io/managed-by"] = json!("sharedlb.dev");
    json!({
        "metadata": {
            "name": format!("{NAME}-20417-tcp-v4-6379-0"), "namespace": "sharedlb-system", "labels": labels,
            "annotations": {"sharedlb.dev/owner": "team-a/redis/main", "sharedlb.dev/protocol": "TCP"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": NAME, "uid": "u"}],
        },
        "addressType": "IPv4",
        "ports": [{"name": "tcp-20417", "port": 6379, "protocol": "TCP"}],
        "endpoints": [{
            "addresses": ["10.244.0.7"], "conditions": {"ready": true, "serving": true}, "nodeName": "node-1",
            "targetRef": {"kind": "Pod", "namespace": "team-a", "name": "redis-0"},
        }],
    })
}

fn read(slice: &Value) -> Option<SeenSlice> {
    let slice: EndpointSlice = serde_json::from_value(slice.clone()).ok()?;
    SeenSlice::read(&slice, &LbName::from_recorded(NAME), &marks()).map(|(_, seen)| seen)
}

#[test]
fn the_slice_is_as_we_write_it() {
    assert!(read(&slice_json()).unwrap().slice.is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_slice_is_ours_only_if_we_would_write_the_same(slice in near(slice_json(), "")) {
        let Some(ours) = read(&slice).and_then(|seen| seen.slice) else { return Ok(()) };
        let (written, found) = (ours.object(&marks()), serde_json::from_value::<EndpointSlice>(slice).unwrap());
        // Other clients may have added labels and annotations, and nothing else.
        prop_assert_eq!(written.endpoints, found.endpoints);
        prop_assert_eq!(written.ports, found.ports);
        prop_assert_eq!(written.metadata.name, found.metadata.name);
        prop_assert_eq!(written.metadata.owner_references, found.metadata.owner_references);
    }

    #[test]
    fn whatever_is_found_is_a_load_balancer_and_only_whole_listeners_have_an_owner(
        service in near(service_json(), ""), slices in prop::collection::vec(near(slice_json(), ""), 0..4),
    ) {
        let Ok(service) = serde_json::from_value::<Service>(service) else { return Ok(()) };
        let front = Front::read(&service);
        let slices: Vec<SeenSlice> = slices.iter().filter_map(read).collect();
        let seen = observed(&front, "u", slices.iter());
        for (key, listener) in &seen.load_balancer.listeners {
            let whole = slices.iter().filter_map(|seen| seen.slice.as_ref()).any(|slice| {
                slice.listener == *key && slice.owner == listener.owner && &*slice.service_uid == "u"
            });
            prop_assert!(whole || listener.owner.claim.is_empty(), "{key} is {listener:?}");
            prop_assert!(key.front_ports().all(|port| front.ours.contains(&port)));
        }
        _ = marks().load_balancer(&service.metadata);
        let port = FrontPort { port: 20417.try_into().unwrap(), transport: Transport::Tcp };
        for listener in seen.load_balancer.listeners.values() {
            let arranged = arrange(port, &listener.backends, &slices);
            prop_assert_eq!(arranged.values().map(Vec::len).sum::<usize>(), listener.backends.len());
        }
    }

    #[test]
    fn an_owner_that_can_be_read_is_written_the_same(text in "[a-z0-9./-]{0,20}(/[a-z0-9.-]{0,20}){0,3}|\\PC{0,60}", value in odd()) {
        for text in [text.as_str(), value.as_str().unwrap_or_default()] {
            if let Some(owner) = crate::model::Owner::parse(text) {
                prop_assert_eq!(owner.to_string(), text);
            }
        }
    }
}
