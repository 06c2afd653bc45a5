//! The objects of the teams, the administrator and bystanders, as JSON.

use serde_json::{Value, json};

/// Where the load balancers of all classes are.
pub(crate) const SYSTEM: &str = "sharedlb-system";
/// A namespace outside of the test.
pub(crate) const BYSTANDERS: &str = "bystanders";
/// The label of objects that must not change.
pub(crate) const FOREIGN: &str = "chaos.test/foreign";

/// The seconds for which a port of the first class cools down, in any of its settings.
pub(crate) const DELAY: u64 = 3;

/// The class that comes and goes.
pub(crate) const FLEETING: u64 = 2;
/// The class whose load balancers are at AWS.
pub(crate) const CLOUD: u64 = 3;

/// Whether the load balancers of a class have node ports, of which there are few.
pub(crate) fn has_node_ports(class: u64) -> bool {
    class == 0
}

/// The node ports of the cluster: enough for all that there is in the end, and as
/// many again for those that an API server loses that is killed while it gives
/// them out (it looks for these only after minutes).
pub(crate) const NODE_PORTS: (u16, u16) = (30000, 30199);
/// How many of them each Service takes that takes them from the others.
pub(crate) const HOGGED: u64 = 12;

/// The label of the Services that do.
pub(crate) const HOG: &str = "chaos.test/hog";

/// The claim of each team that names a Service instead of pods.
const BY_SERVICE: u64 = 6;
/// That Service.
pub(crate) const NAMED: &str = "by-name";
/// The Service of each team that has no selector.
pub(crate) const BARE: u64 = 2;
/// The Service of each team with assigned port numbers.
const ASSIGNED: u64 = 1;
/// The Service of each team that has node ports of its own.
const WITH_NODE_PORTS: u64 = 0;

/// The finalizer that teams put on claims.
pub(crate) const HOLD: &str = "example.com/hold";
/// The label of what a team wrote by hand.
pub(crate) const HAND_WRITTEN: &str = "chaos.test/by-hand";

pub(crate) fn namespace_name(team: u64) -> String {
    format!("team-{team}")
}

pub(crate) fn claim_name(claim: u64) -> String {
    format!("claim-{claim}")
}

pub(crate) fn service_name(service: u64) -> String {
    format!("lb-{service}")
}

/// The claim that the controller makes for a Service.
pub(crate) fn claim_of_service(service: u64) -> String {
    format!("service-{}", service_name(service))
}

pub(crate) fn class_name(class: u64) -> &'static str {
    ["wide", "swift", "fleeting", "cloud"][usize::try_from(class).unwrap_or(0) % 4]
}

/// The class of a claim: most of them share the first.
pub(crate) fn class_of(claim: u64) -> u64 {
    match claim {
        0..4 => 0,
        4..7 => 1,
        7 => FLEETING,
        _ => CLOUD,
    }
}

/// The class of a Service.
fn class_of_service(service: u64) -> u64 {
    match service {
        0..3 => 0,
        3 => 1,
        _ => CLOUD,
    }
}

pub(crate) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A class in one of its settings, of which the first is wide enough for all, and
/// the others have claims wait for each other's ports.
pub(crate) fn class(class: u64, setting: u64, provider: &Value) -> Value {
    let (dynamic, most, each, empty) = match setting {
        1 => ((20000, 20011), 1, 60, 2),
        // Its load balancers fill, so that it gets more of them.
        2 => ((20000, 20060), 3, 6, 2),
        3 => ((20004, 20009), 2, 60, 0),
        4 => ((20000, 20005), 1, 12, 1),
        _ => ((20000, 20060), 3, 60, 2),
    };
    // So that one waits for what another gives back.
    let most = if class == 1 { 1 } else { most };
    // There are few claims at AWS, and no more than 50 fit.
    let each = if class == CLOUD { u64::min(each, 50).div_ceil(2) } else { each };
    let delay = if class == 1 { 0 } else { DELAY + setting % 2 };
    json!({
        "apiVersion": "sharedlb.dev/v1alpha1",
        "kind": "SharedLBClass",
        "metadata": {"name": class_name(class)},
        "spec": {
            "provider": provider,
            "ports": {"dynamic": [{"min": dynamic.0, "max": dynamic.1}]},
            "loadBalancers": {"min": 1, "max": most, "listenersPerLoadBalancer": each, "emptyDelaySeconds": empty},
            "reclaimDelaySeconds": delay,
            "portsPerNamespace": 1000,
        },
    })
}

pub(crate) fn claim(team: u64, claim: u64, ports: u64) -> Value {
    let mut spec = json!({"className": class_name(class_of(claim)), "ports": ports_of(team, claim, ports)});
    if claim == BY_SERVICE {
        spec["serviceName"] = json!(NAMED);
    } else {
        spec["selector"] = pods_of(claim);
    }
    json!({
        "apiVersion": "sharedlb.dev/v1alpha1",
        "kind": "SharedLB",
        "metadata": {"name": claim_name(claim)},
        "spec": spec,
    })
}

/// Whether a number is one that several ask for.
pub(crate) fn is_contended(port: &Value) -> bool {
    port["port"].as_u64().is_some_and(|number| (5000..5002).contains(&number))
}

/// What a claim asks for. The last choice asks for a number that other claims
/// ask for as well.
pub(crate) fn ports_of(team: u64, claim: u64, choice: u64) -> Value {
    let own = 6000 + team * 100 + claim;
    match choice {
        0 => json!([{"name": "web", "targetPort": "http"}]),
        1 => json!([{"name": "web", "targetPort": "http"}, {"name": "dns", "protocol": "UDP", "targetPort": 5353}]),
        2 => json!([{"name": "both", "protocol": "TCP_UDP", "targetPort": 5353}]),
        3 => json!([{"name": "web", "targetPort": "http"}, {"name": "own", "port": own, "targetPort": 8080}]),
        4 => json!([{"name": "web", "targetPort": "other"}]),
        5 => json!([{"targetPort": "http"}]),
        _ => json!([{"name": "contended", "port": 5000 + claim % 2, "targetPort": "http"}]),
    }
}

/// The ports of a Service that shares a load balancer. The last choice has a
/// number that others ask for as well.
pub(crate) fn service_ports(team: u64, service: u64, choice: u64) -> Value {
    let own = 7000 + team * 100 + service * 10;
    match choice {
        0 => json!([{"name": "web", "port": own, "targetPort": "http"}]),
        1 => json!([
            {"name": "web", "port": own, "targetPort": "http"},
            {"name": "dns", "port": own + 1, "protocol": "UDP", "targetPort": 5353},
        ]),
        2 => json!([
            {"name": "dns-tcp", "port": own + 2, "protocol": "TCP", "targetPort": 5353},
            {"name": "dns", "port": own + 2, "protocol": "UDP", "targetPort": 5353},
        ]),
        3 => json!([{"port": own, "targetPort": "http"}]),
        _ => json!([{"name": "web", "port": 5000 + service % 2, "targetPort": "http"}]),
    }
}

/// A Service that shares a load balancer.
pub(crate) fn shared_service(team: u64, service: u64, ports: u64) -> Value {
    let annotations = match service {
        ASSIGNED => json!({"sharedlb.dev/assign-ports": "true"}),
        _ => json!({}),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service_name(service), "annotations": annotations},
        "spec": {
            "type": "LoadBalancer",
            "loadBalancerClass": format!("sharedlb.dev/{}", class_name(class_of_service(service))),
            "allocateLoadBalancerNodePorts": service == WITH_NODE_PORTS,
            "selector": if service == BARE { Value::Null } else { pods_of(service) },
            "ports": service_ports(team, service, ports),
        },
    })
}

/// A Service of something else in the cluster, which takes node ports.
pub(crate) fn hog(nth: u64, ports: u64) -> Value {
    let ports = (0..ports).map(|port| json!({"name": format!("p{port}"), "port": 1000 + port}));
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": hog_name(nth), "labels": {HOG: "yes"}},
        "spec": {"type": "NodePort", "ports": ports.collect::<Vec<_>>()},
    })
}

pub(crate) fn hog_name(nth: u64) -> String {
    format!("hog-{nth}")
}

/// An EndpointSlice that a team writes by hand for one of its Services, with an
/// address that is not its own. `forged`: it claims to be this pod of the team, and
/// its label says that Kubernetes' own controller writes it.
pub(crate) fn hand_slice(name: &str, service: &Value, address: &str, forged: Option<&str>) -> Value {
    let mut labels = json!({
        HAND_WRITTEN: "yes", "kubernetes.io/service-name": crate::api::name(service),
    });
    let mut endpoint = json!({"addresses": [address]});
    if let Some(pod) = forged {
        labels["endpointslice.kubernetes.io/managed-by"] = json!("endpointslice-controller.k8s.io");
        let namespace = crate::api::text(service, "/metadata/namespace");
        endpoint["targetRef"] = json!({"kind": "Pod", "namespace": namespace, "name": pod});
    }
    let port = |port: &Value| {
        let number = if port["protocol"] == "UDP" { 5353 } else { 8080 };
        json!({"name": port["name"].as_str().unwrap_or_default(), "protocol": port["protocol"], "port": number})
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": labels},
        "addressType": "IPv4",
        "endpoints": [endpoint],
        "ports": crate::api::entries(service, "/spec/ports").map(port).collect::<Vec<_>>(),
    })
}

/// Whether a condition that is about the spec as it is has this status.
pub(crate) fn has_condition(claim: &Value, kind: &str, status: &str) -> bool {
    crate::api::entries(claim, "/status/conditions").any(|condition| {
        condition["type"] == kind
            && condition["status"] == status
            && condition["observedGeneration"] == claim["metadata"]["generation"]
    })
}

/// The labels of a claim's pods.
pub(crate) fn pods_of(claim: u64) -> Value {
    json!({"app": claim_name(claim)})
}

/// The Service of a team that a claim names.
pub(crate) fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAMED},
        "spec": {
            "selector": pods_of(BY_SERVICE),
            "ports": [
                {"name": "http", "port": 8080},
                {"name": "other", "port": 9090},
                {"name": "dns-tcp", "port": 5353},
                {"name": "dns", "port": 5353, "protocol": "UDP"},
            ],
        },
    })
}

/// The name of a pod tells whose it is, and is what it answers.
pub(crate) fn pod_name(team: u64, claim: u64, pod: u64) -> String {
    format!("team-{team}-claim-{claim}-{pod}")
}

pub(crate) fn pod(team: u64, claim: u64, pod: u64) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod_name(team, claim, pod), "labels": pods_of(claim)},
        "spec": {"containers": [{"name": "main", "image": "testbed", "ports": [
            {"name": "http", "containerPort": 8080},
            {"name": "other", "containerPort": 9090},
            {"name": "dns-tcp", "containerPort": 5353},
            {"name": "dns", "containerPort": 5353, "protocol": "UDP"},
        ]}]},
    })
}

/// Objects of others, by their namespaces: some that look much like ours.
pub(crate) fn foreign() -> Vec<(&'static str, Value)> {
    let service = |name: &str, labels: Value, kind: &str| {
        let mut labels = labels;
        labels[FOREIGN] = json!("yes");
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": labels},
            "spec": {"type": kind, "ports": [{"name": "tcp-20001", "port": 20001}]},
        })
    };
    let slice = |name: &str, of: &str, labels: Value| {
        let mut labels = labels;
        labels[FOREIGN] = json!("yes");
        labels["kubernetes.io/service-name"] = json!(of);
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": name, "labels": labels},
            "addressType": "IPv4", "endpoints": [{"addresses": ["10.246.0.1"]}],
            "ports": [{"name": "tcp-20001", "port": 8080}],
        })
    };
    // Those of another cluster's controller, for a class of the same name.
    let another = json!({
        "app.kubernetes.io/managed-by": "sharedlb", "sharedlb.dev/class": "wide",
        "sharedlb.dev/cluster-id": "another", "sharedlb.dev/load-balancer": "slb-wide-0-another",
    });
    vec![
        (SYSTEM, service("stranger", json!({}), "LoadBalancer")),
        (SYSTEM, slice("stranger-1", "stranger", json!({}))),
        (SYSTEM, service("slb-wide-0-another", another.clone(), "ClusterIP")),
        (SYSTEM, slice("slb-wide-0-another-20001-tcp-v4-8080-0", "slb-wide-0-another", another)),
        (BYSTANDERS, service("stranger", json!({}), "LoadBalancer")),
        (BYSTANDERS, slice("stranger-1", "stranger", json!({}))),
        (
            BYSTANDERS,
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "stranger", "labels": {FOREIGN: "yes"}},
                "data": {"namespace": BYSTANDERS, "target-service-name": "stranger"},
            }),
        ),
    ]
}
