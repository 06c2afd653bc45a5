//! Load balancers that send traffic to a port of every node.

use k8s_openapi::api::core::v1::Node;
use serde_json::Value;

use super::*;
use crate::backends::nodes::NodeObject;

const TO_NODES: Reach = Reach { endpoints: sharedlb_crds::Endpoints::Pods, targets: TargetKind::Node };

impl Running {
    /// A node with this address, as it is now.
    async fn node(&self, n: u8, ready: bool, more: Value) {
        let mut node = json!({
            "metadata": {"name": format!("node-{n}"), "uid": format!("node-{n}"), "resourceVersion": self.version()},
            "spec": {"providerID": format!("aws:///eu-central-1a/i-{n}")},
            "status": {
                "addresses": [
                    {"type": "Hostname", "address": format!("node-{n}")},
                    {"type": "ExternalIP", "address": format!("198.51.100.{n}")},
                    {"type": "InternalIP", "address": format!("10.0.0.{n}")},
                ],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "Unknown" }}],
            },
        });
        for (part, value) in more.as_object().into_iter().flatten() {
            for (field, value) in value.as_object().into_iter().flatten() {
                node[part][field] = value.clone();
            }
        }
        let node: Node = serde_json::from_value(node).unwrap();
        self.backends.apply_node_event(Event::Apply(NodeObject::parse(&node)));
        self.settle().await;
    }

    fn nodes_are_listed(&self) {
        self.backends.apply_node_event(Event::Init);
        self.backends.apply_node_event(Event::InitDone);
    }

    /// The claim's Service has this port on every node.
    async fn node_port(&self, claim: &ClaimFixture, port: u16) {
        let service = companion::desired(&claim.build(), TargetKind::Node, None).unwrap().unwrap();
        let mut service = Service { spec: service.spec, metadata: service.metadata, ..Service::default() };
        service.metadata.resource_version = Some(self.version());
        service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].node_port = Some(port.into());
        self.backends.apply_service_event(Event::Apply(ServiceObject::parse(&service)));
        self.settle().await;
    }

    async fn addresses(&self) -> Vec<String> {
        let observed = Memory::new(self.cloud.clone()).observe(&name()).await.unwrap().unwrap();
        let backends = observed.load_balancer.listeners.values().flat_map(|listener| &listener.backends);
        backends.map(|b| format!("{}:{} {}", b.address, b.port, b.provider_id.as_deref().unwrap_or_default())).collect()
    }
}

/// Two nodes, and a listener at port 30001 of them.
async fn two_nodes() -> (Running, ClaimFixture) {
    let running = Running::start().await;
    let a = claim("a").holds(0, 20001);
    running.nodes_are_listed();
    running.node(1, true, Value::Null).await;
    running.node(2, true, Value::Null).await;
    running.node_port(&a, 30001).await;
    running.pods(&a.build(), 1).await;
    running.plan_by(std::slice::from_ref(&a), TO_NODES).await;
    (running, a)
}

const NODE_1: &str = "10.0.0.1:30001 aws:///eu-central-1a/i-1";
const NODE_2: &str = "10.0.0.2:30001 aws:///eu-central-1a/i-2";

#[tokio::test(start_paused = true)]
async fn traffic_goes_to_the_port_of_every_node() {
    let (running, _) = two_nodes().await;
    assert_eq!(running.addresses().await, [NODE_1, NODE_2]);
    assert!(running.last().listeners[&tcp(20001)].backends);
}

#[tokio::test(start_paused = true)]
async fn without_a_ready_pod_the_nodes_stay_and_no_backends_is_reported() {
    let (running, a) = two_nodes().await;
    running.pods(&a.build(), 0).await;
    assert!(!running.last().listeners[&tcp(20001)].backends);
    let calls = running.cloud.calls();
    running.pods(&a.build(), 3).await;
    assert!(running.last().listeners[&tcp(20001)].backends);
    assert_eq!(running.cloud.calls(), calls, "the load balancer knows nothing of pods");
    assert_eq!(running.addresses().await, [NODE_1, NODE_2]);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_may_not_take_traffic_get_none() {
    let (running, _) = two_nodes().await;
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    for (what, more) in [
        ("excluded", json!({"metadata": {"labels": {label: ""}}})),
        ("being deleted", json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
        (
            "about to be",
            json!({"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}}),
        ),
    ] {
        running.node(2, true, more).await;
        assert_eq!(running.addresses().await, [NODE_1], "{what}");
        running.node(2, true, json!({"metadata": {"labels": {label: "false"}}})).await;
        assert_eq!(running.addresses().await, [NODE_1, NODE_2]);
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_are_not_ready_get_no_traffic_unless_none_is() {
    let (running, _) = two_nodes().await;
    running.node(2, false, Value::Null).await;
    assert_eq!(running.addresses().await, [NODE_1]);
    running.node(1, false, Value::Null).await;
    assert_eq!(running.addresses().await, [NODE_1, NODE_2]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_reports_again_that_it_is_ready_causes_no_calls() {
    let (running, _) = two_nodes().await;
    let calls = running.cloud.calls();
    running.node(2, true, json!({"metadata": {"labels": {"heartbeat": "1"}}})).await;
    assert_eq!(running.cloud.calls(), calls);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_before_the_nodes_have_been_listed() {
    let running = Running::start().await;
    let a = claim("a").holds(0, 20001);
    running.plan(std::slice::from_ref(&a)).await;
    running.endpoints(&a, 2).await;
    assert_eq!(running.addresses().await.len(), 2);
    let calls = running.cloud.calls();
    running.plan_by(std::slice::from_ref(&a), TO_NODES).await;
    running.node(1, true, Value::Null).await;
    assert_eq!(running.cloud.calls(), calls, "as long as half of the nodes are known, nobody is taken off");
    running.nodes_are_listed();
    running.node(1, true, Value::Null).await;
    running.node_port(&a, 30001).await;
    assert_eq!(running.addresses().await, [NODE_1]);
}
