//! Nodes, for load balancers that send traffic to a port of every node, and for classes whose
//! load balancers must not have the addresses of nodes.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

use crate::kubernetes::cache::Cached;
use crate::kubernetes::{ObjectKey, ObjectMeta};

/// The label that excludes a node from load balancers, unless its value means false (as in
/// Kubernetes' own service controller).
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The values that Go's `strconv.ParseBool` takes for false.
const FALSE: [&str; 6] = ["0", "f", "F", "false", "False", "FALSE"];

/// The taint of a node that the cluster autoscaler is about to remove.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// The key of an LB loop's interest in nodes. No Service has it, since those have a
/// namespace.
pub(crate) fn key() -> ObjectKey {
    ObjectKey::cluster_scoped("nodes")
}

/// The parts of a Node that backends and classes depend on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeObject {
    meta: ObjectMeta,
    pub(super) node: UsableNode,
    /// Whether load balancers may send traffic to it
    usable: bool,
    ready: bool,
    all_addresses: Box<[IpAddr]>,
    /// The ranges of the addresses of its pods
    pod_cidrs: Box<[IpNet]>,
}

/// A node as a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UsableNode {
    pub(super) name: Arc<str>,
    /// Its addresses within the cluster
    pub(super) addresses: Vec<IpAddr>,
    pub(super) provider_id: Option<Arc<str>>,
}

impl NodeObject {
    /// Converts an object.
    pub(crate) fn parse(node: &Node) -> Self {
        let meta = ObjectMeta::of(node);
        let (spec, status) = (node.spec.clone().unwrap_or_default(), node.status.clone().unwrap_or_default());
        let label = node.metadata.labels.as_ref().and_then(|labels| labels.get(EXCLUDE));
        let excluded = label.is_some_and(|value| !FALSE.contains(&value.as_str()));
        let going = meta.deleting || spec.taints.iter().flatten().any(|taint| taint.key == TO_BE_DELETED);
        let addresses = || status.addresses.iter().flatten();
        let internal = addresses().filter(|address| address.type_ == "InternalIP");
        Self {
            node: UsableNode {
                name: meta.key.name.clone(),
                addresses: internal.filter_map(|address| address.address.parse().ok()).collect(),
                provider_id: spec.provider_id.filter(|id| !id.is_empty()).map(Into::into),
            },
            usable: !excluded && !going,
            ready: status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True"),
            all_addresses: addresses().filter_map(|address| address.address.parse().ok()).collect(),
            pod_cidrs: spec.pod_cidrs.iter().flatten().filter_map(|cidr| cidr.parse().ok()).collect(),
            meta,
        }
    }

    /// Its addresses of all types.
    pub(super) fn all_addresses(&self) -> &[IpAddr] {
        &self.all_addresses
    }

    /// The ranges of the addresses of its pods, if Kubernetes assigns them.
    pub(super) fn pod_cidrs(&self) -> &[IpNet] {
        &self.pod_cidrs
    }

    /// Whether it and its pods have the same addresses as the other one.
    pub(super) fn occupies_like(&self, other: &Self) -> bool {
        (&self.all_addresses, &self.pod_cidrs) == (&other.all_addresses, &other.pod_cidrs)
    }

    /// Whether it is the same backend as the other one.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (&self.node, self.usable, self.ready) == (&other.node, other.usable, other.ready)
    }
}

impl Cached for NodeObject {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

/// The nodes that get traffic: those that may, and are ready. If none is ready, all that
/// may: it is more likely that the node controller or the API server fails than all nodes.
pub(super) fn usable<'a>(nodes: impl Iterator<Item = &'a Arc<NodeObject>>) -> Vec<&'a UsableNode> {
    let may: Vec<&Arc<NodeObject>> = nodes.filter(|node| node.usable).collect();
    let any_ready = may.iter().any(|node| node.ready);
    may.into_iter().filter(|node| node.ready || !any_ready).map(|node| &node.node).collect()
}
