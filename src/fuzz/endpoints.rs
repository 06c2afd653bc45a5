//! Services and EndpointSlices: what is known of them stays one with what there
//! is, however they come, change and go.

use std::num::NonZeroU16;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Event;
use proptest::prelude::*;
use serde_json::{Value, json};
use sharedlb_crds::{Endpoints, TargetKind};
use sharedlb_providers::Protocol;

use super::config;
use super::mutate::near;
use crate::api::companion_name::CompanionPort;
use crate::api::target::PortRef;
use crate::backends::nodes::NodeObject;
use crate::backends::{Backends, Reach, ServiceObject, SliceObject};
use crate::kubernetes::ObjectKey;

fn service_json() -> Value {
    json!({
        "metadata": {"namespace": "team", "name": "web", "uid": "u", "resourceVersion": "1", "labels": {"a": "b"}},
        "spec": {"type": "ClusterIP", "selector": {"app": "web"}, "ports": [
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": "dns"},
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
        ]},
    })
}

fn slice_json(name: &str, version: u32) -> Value {
    json!({
        "metadata": {
            "namespace": "team", "name": name, "uid": name, "resourceVersion": version.to_string(),
            "labels": {
                "kubernetes.io/service-name": "web",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "addressType": "IPv4",
        "ports": [{"name": "dns-tcp", "port": 5353, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
        "endpoints": [{
            "addresses": ["10.244.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": "node-1", "targetRef": {"kind": "Pod", "namespace": "team", "name": "web-0"},
        }],
    })
}

fn node_json() -> Value {
    json!({
        "metadata": {"name": "node-1", "uid": "n", "resourceVersion": "1", "labels": {"a": "b"}},
        "spec": {"providerID": "aws:///eu-central-1a/i-1", "taints": [{"key": "k", "effect": "NoSchedule"}]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "node-1"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// What a watch may tell of EndpointSlices.
fn told() -> impl Strategy<Value = Event<EndpointSlice>> {
    let slice = (prop::sample::select(vec!["a", "b", "c"]), 1u32..20)
        .prop_flat_map(|(name, version)| near(slice_json(name, version), ""))
        .prop_filter_map("no slice", |object| serde_json::from_value::<EndpointSlice>(object).ok());
    (0u8..8, slice).prop_map(|(kind, slice)| match kind {
        0 => Event::Init,
        1 => Event::InitDone,
        2 => Event::InitApply(slice),
        3 | 4 => Event::Delete(slice),
        _ => Event::Apply(slice),
    })
}

fn parsed(event: Event<EndpointSlice>) -> Event<SliceObject> {
    match event {
        Event::Apply(slice) => Event::Apply(SliceObject::parse(&slice)),
        Event::Delete(slice) => Event::Delete(SliceObject::parse(&slice)),
        Event::Init => Event::Init,
        Event::InitApply(slice) => Event::InitApply(SliceObject::parse(&slice)),
        Event::InitDone => Event::InitDone,
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn traffic_goes_only_to_pods_for_any_endpoints(
        service in near(service_json(), ""), events in prop::collection::vec(told(), 0..12),
    ) {
        let backends = Backends::default();
        if let Ok(service) = serde_json::from_value::<Service>(service) {
            backends.apply_service_event(Event::Apply(ServiceObject::parse(&service)));
        }
        events.into_iter().for_each(|event| _ = backends.apply_slice_event(parsed(event)));
        let key = ObjectKey { namespace: "team".into(), name: "web".into() };
        for (port, protocol) in [
            (PortRef::Number(53), Protocol::TcpUdp), (PortRef::Name("dns".into()), Protocol::Udp),
            (PortRef::Companion(CompanionPort { number: NonZeroU16::MIN, name: "dns".into() }), Protocol::Tcp),
        ] {
            let any = backends.of(&key, &port, protocol, Endpoints::Any);
            let pods = backends.of(&key, &port, protocol, Endpoints::Pods);
            prop_assert!(pods.iter().all(|backend| backend.pod.is_some()), "{pods:?}");
            for backend in any.iter().chain(&pods) {
                let address = backend.address.to_canonical();
                prop_assert!(!address.is_loopback() && !address.is_multicast() && !address.is_unspecified());
            }
            _ = backends.why_none(&key, &port, protocol, Endpoints::Pods);
        }
        // Once nothing is left, nothing is known.
        backends.apply_slice_event(Event::Init);
        backends.apply_slice_event(Event::InitDone);
        prop_assert!(backends.of(&key, &PortRef::Number(53), Protocol::Udp, Endpoints::Any).is_empty());
    }

    #[test]
    fn whatever_a_node_is_it_is_a_backend_or_none(node in near(node_json(), ""), service in near(service_json(), "/spec")) {
        let backends = Backends::default();
        if let Ok(service) = serde_json::from_value::<Service>(service) {
            backends.apply_service_event(Event::Apply(ServiceObject::parse(&service)));
        }
        if let Ok(node) = serde_json::from_value::<Node>(node) {
            backends.apply_node_event(Event::Apply(NodeObject::parse(&node)));
        }
        backends.apply_node_event(Event::InitDone);
        let key = ObjectKey { namespace: "team".into(), name: "web".into() };
        let reach = Reach { endpoints: Endpoints::Pods, targets: TargetKind::Node };
        let reached = backends.reached(&key, &PortRef::Number(53), Protocol::Tcp, reach);
        prop_assert!(reached.backends.len() <= backends.nodes() * 2);
    }
}
