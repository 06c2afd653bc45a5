//! The provider `vip`: virtual IP addresses that the cluster's own nodes serve.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The provider `vip`: each load balancer of the class is a Service whose
/// addresses are those of the class, and kube-proxy or Cilium on every node
/// accepts traffic to them. The packets must be brought to the nodes: by BGP,
/// by routes, or by keepalived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VipProvider {}
