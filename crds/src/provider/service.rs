//! The provider `service`: another controller creates the load balancers.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::port::Transport;

/// The provider `service`: each load balancer of the class is one Service of
/// type LoadBalancer, and another controller assigns its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "has(self.loadBalancerClass) == has(oldSelf.loadBalancerClass) \
         && (!has(self.loadBalancerClass) || self.loadBalancerClass == oldSelf.loadBalancerClass)",
        "loadBalancerClass cannot be set, changed or removed: make a new class, and move the claims to it",
    ),
    validation = (
        "!has(self.ipFamilies) || self.ipFamilies.size() < 2 \
         || !has(self.ipFamilyPolicy) || self.ipFamilyPolicy != 'SingleStack'",
        "two ipFamilies need the ipFamilyPolicy PreferDualStack or RequireDualStack, or leave it out",
    )
)]
pub struct ServiceProvider {
    /// The namespace of the Services. The controller needs a Role there; the
    /// manifests give it one in `sharedlb-system`, which is the default.
    /// Cannot be changed.
    #[serde(default = "default_namespace")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = (
        "self == oldSelf",
        "the namespace of the Services cannot be changed: make a new class, and move the claims to it",
    ))]
    #[x_kube(validation = (
        "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "must be the name of a namespace: lower-case letters, digits and '-', with a letter or digit at both ends",
    ))]
    pub namespace: String,
    /// Annotations of the Services, by which the implementation is
    /// configured.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
    /// The `loadBalancerClass` of the Services, which selects the
    /// implementation. Default: the cluster's default one. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = (
        "!self.startsWith('sharedlb.dev/')",
        "must be the class of another controller: names that begin with sharedlb.dev/ are for Services that share the load balancers of this class",
    ))]
    pub load_balancer_class: Option<String>,
    /// Whether the Services get node ports, as most clouds need. An
    /// implementation that sends traffic straight to a node's kube-proxy by
    /// the load balancer's address, such as MetalLB, works without. Default:
    /// true.
    #[serde(default = "yes")]
    pub allocate_load_balancer_node_ports: bool,
    /// Which ports the Services have from the start, without backends until a
    /// claim gets them: for the protocols TCP, UDP or TCP_UDP, the five lowest
    /// ports and the highest one of `spec.ports`. Then the range from the
    /// lowest to the highest port of a Service never changes, by which GKE
    /// recreates the forwarding rule and interrupts the traffic of all claims.
    /// None: no such ports. Default: TCP for the loadBalancerClass of GKE,
    /// `networking.gke.io/l4-regional-external` and `-internal`, and otherwise
    /// None.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ParkedPorts")]
    pub parked_ports: Option<ParkedPorts>,
    /// Whether the load balancers have addresses of one IP family or of both:
    /// SingleStack, PreferDualStack or RequireDualStack, as in a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "IpFamilyPolicy")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
    /// The IP families of the load balancers, IPv4 or IPv6 or both, the
    /// preferred one first, as in a Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = (
        "self.size() < 2 || self[0] != self[1]",
        "name each IP family once",
    ))]
    pub ip_families: Vec<IpFamily>,
}

impl Default for ServiceProvider {
    fn default() -> Self {
        ServiceProvider {
            namespace: default_namespace(),
            annotations: BTreeMap::new(),
            load_balancer_class: None,
            allocate_load_balancer_node_ports: yes(),
            parked_ports: None,
            ip_family_policy: None,
            ip_families: Vec::new(),
        }
    }
}

fn default_namespace() -> String {
    "sharedlb-system".into()
}

fn yes() -> bool {
    true
}

/// The `loadBalancerClass` of a Service that GKE serves by one forwarding rule.
const GKE_CLASSES: [&str; 2] = ["networking.gke.io/l4-regional-external", "networking.gke.io/l4-regional-internal"];

impl ServiceProvider {
    /// The protocols of the parked ports.
    pub fn parked_transports(&self) -> &'static [Transport] {
        let of_gke = || self.load_balancer_class.as_deref().is_some_and(|class| GKE_CLASSES.contains(&class));
        match self.parked_ports {
            Some(ParkedPorts::TcpUdp) => &[Transport::Tcp, Transport::Udp],
            Some(ParkedPorts::Udp) => &[Transport::Udp],
            Some(ParkedPorts::Tcp) => &[Transport::Tcp],
            None if of_gke() => &[Transport::Tcp],
            Some(ParkedPorts::None) | None => &[],
        }
    }
}

/// The protocols of the ports that Services have from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ParkedPorts {
    /// There are no such ports.
    None,
    /// TCP.
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// Each of them for TCP and for UDP.
    #[serde(rename = "TCP_UDP")]
    TcpUdp,
}

/// How many IP families a Service has, as in its `ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IpFamilyPolicy {
    /// One family.
    SingleStack,
    /// Two, where the cluster has two.
    PreferDualStack,
    /// Two, or the Service is refused.
    RequireDualStack,
}

impl IpFamilyPolicy {
    /// Its name in the API, which is also that of a Service.
    pub fn as_str(self) -> &'static str {
        match self {
            IpFamilyPolicy::SingleStack => "SingleStack",
            IpFamilyPolicy::PreferDualStack => "PreferDualStack",
            IpFamilyPolicy::RequireDualStack => "RequireDualStack",
        }
    }
}

/// An IP family, as in a Service's `ipFamilies`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IpFamily {
    /// IP version 4.
    #[serde(rename = "IPv4")]
    V4,
    /// IP version 6.
    #[serde(rename = "IPv6")]
    V6,
}
