//! `SharedLBClass`: the load balancers that an administrator offers, and their usage.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::port::{PortRange, Protocol};
use crate::pricing::Pricing;
use crate::provider::{Provider, ProviderSchema};

/// Which load balancers there are, which of their ports claims can get, and in
/// which namespaces. Ranges, limits, quotas and namespaces apply to new ports
/// only: narrowing them takes no port from a claim.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sharedlb.dev",
    version = "v1alpha1",
    kind = "SharedLBClass",
    plural = "sharedlbclasses",
    shortname = "slbc",
    status = "SharedLBClassStatus",
    derive = "PartialEq",
    doc = "A SharedLBClass offers load balancers for many workloads to share: \
           which kind, which ports, and who may use them. It is to SharedLB objects \
           what a StorageClass is to volume claims.",
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("the name of a class has at most 63 characters: choose a shorter one"),
    printcolumn(name = "Provider", type_ = "string", json_path = ".status.provider"),
    printcolumn(
        name = "Default",
        type_ = "string",
        json_path = r".metadata.annotations.sharedlb\.dev/is-default-class"
    ),
    printcolumn(name = "LoadBalancers", type_ = "string", json_path = ".status.summary"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "!has(self.provider.aws) || !has(self.provider.aws.loadBalancerArn) || self.loadBalancers.max == 1",
        "a class that adopts a load balancer has just that one: set loadBalancers.max to 1",
    ),
    validation = (
        "!has(self.provider.aws) || !has(self.provider.aws.subnetMappings) || self.loadBalancers.max == 1 \
         || self.provider.aws.subnetMappings.all(m, !has(m.allocationId) && !has(m.privateIPv4Address) && !has(m.iPv6Address))",
        "addresses in subnetMappings are for one load balancer: set loadBalancers.max to 1, or leave them out",
    ),
    validation = (
        "!has(self.provider.vip) || (has(self.addresses) && self.addresses.size() > 0)",
        "the provider vip serves the addresses that it is given: set addresses, one of each IP family for each load balancer",
    ),
    validation = (
        "!has(self.provider.aws) || !has(self.addresses)",
        "AWS gives its load balancers their addresses: leave addresses out; in provider.aws, subnetMappings can choose them",
    ),
    validation = (
        "!has(self.provider.gcp) || !has(self.addresses)",
        "Google Cloud gives its load balancers their addresses: leave addresses out; in provider.gcp, addressNames can choose them",
    ),
    validation = (
        "!has(self.provider.gcp) || self.provider.gcp.firewall.manage != 'Range' \
         || self.ports.dynamic.all(range, range.max < 30000 || range.min > 32767)",
        "with firewall.manage: Range, all of ports.dynamic leads to the nodes, so it must not have node ports (30000 to 32767)",
    ),
    validation = (
        "!has(self.provider.gcp) || self.provider.gcp.firewall.manage != 'Range' \
         || self.ports.dynamic.all(range, (range.min > 22 || range.max < 22) && (range.min > 10256 || range.max < 10248))",
        "with firewall.manage: Range, all of ports.dynamic leads to the nodes, so it must not have their own ports (22, and 10248 to 10256)",
    ),
    validation = (
        "!has(self.provider.httpUpdater) || self.loadBalancers.max == 1",
        "a class of the provider httpUpdater has one load balancer, the host of its updater: set loadBalancers.max to 1",
    ),
    validation = (
        "!has(self.provider.httpUpdater) || !has(self.addresses)",
        "the load balancer of the provider httpUpdater has the address of its host: leave addresses out, and set provider.httpUpdater.address",
    ),
    validation = (
        "!has(self.provider.httpUpdater) || has(self.targets)",
        "set targets to Node, or to Pod if the host of the updater reaches the addresses of pods",
    )
)]
pub struct SharedLBClassSpec {
    /// The provider of the load balancers. Exactly one is given, and it cannot
    /// be changed.
    #[schemars(with = "ProviderSchema")]
    pub provider: Provider,
    /// Which ports of the load balancers claims can get.
    #[serde(default)]
    pub ports: PortRanges,
    /// How many load balancers the class has.
    #[serde(default)]
    pub load_balancers: LoadBalancerLimits,
    /// The IP addresses of the load balancers, for providers that do not assign
    /// them: ranges, each of one IP family. Load balancer i has the i-th IPv4
    /// address and the i-th IPv6 address. The family of the first range comes
    /// first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub addresses: Vec<AddressRange>,
    /// The targets of the load balancers: Pod, the addresses of pods, or Node,
    /// a port of every node, from which kube-proxy passes traffic on to the
    /// pods of all nodes. Default: Pod, if the provider can. With Node,
    /// `endpoints` does not apply to kube-proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TargetKind")]
    pub targets: Option<TargetKind>,
    /// Which endpoints of a Service get traffic: Pods, those that Kubernetes
    /// finds by the Service's selector, which are pods of its namespace; or
    /// Any, also those that were written by hand. Default: Pods. With Any,
    /// users who may write EndpointSlices in a namespace can send traffic to
    /// any address that the load balancers reach: pods of other namespaces,
    /// nodes, the API server.
    #[serde(default)]
    pub endpoints: Endpoints,
    /// The namespaces whose claims may use the class. Default: all.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,
    /// How many ports the claims of one namespace may hold together, 1 to
    /// 1000000. A TCP_UDP port counts once. Together with released ports that
    /// cool down, they may be twice as many. Default: 100.
    #[serde(default = "default_ports_per_namespace")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub ports_per_namespace: u32,
    /// The cool-down of a released port in seconds, 0 to 86400 (a day): until
    /// then, only a claim of the same namespace and name can get it. Default:
    /// 300.
    #[serde(default = "default_reclaim_delay_seconds")]
    #[schemars(range(min = 0, max = 86_400))]
    pub reclaim_delay_seconds: u32,
    /// What the load balancers cost, for metrics and reports: nothing is billed
    /// or limited by it, and traffic is not part of it. An hour costs
    /// `basePerHour` if there is a load balancer, and `loadBalancerPerHour` and
    /// `listenerPerHour` for each one beyond those that are included. Default:
    /// not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Pricing")]
    pub pricing: Option<Pricing>,
}

impl Default for SharedLBClassSpec {
    fn default() -> Self {
        SharedLBClassSpec {
            provider: Provider::default(),
            ports: PortRanges::default(),
            load_balancers: LoadBalancerLimits::default(),
            addresses: Vec::new(),
            targets: None,
            endpoints: Endpoints::default(),
            allowed_namespaces: AllowedNamespaces::default(),
            ports_per_namespace: default_ports_per_namespace(),
            reclaim_delay_seconds: default_reclaim_delay_seconds(),
            pricing: None,
        }
    }
}

fn default_ports_per_namespace() -> u32 {
    100
}

fn default_reclaim_delay_seconds() -> u32 {
    300
}

/// The ports that claims can get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortRanges {
    /// The ports that are assigned to claims that request no number, 1 to 16
    /// ranges. Default: 20000 to 29999.
    #[serde(default = "default_dynamic")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub dynamic: Vec<PortRange>,
    /// The ports that claims may request by number, 1 to 16 ranges, except for
    /// those that the provider reserves. Default: 1 to 65535.
    #[serde(default = "default_requestable")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub requestable: Vec<PortRange>,
}

impl Default for PortRanges {
    fn default() -> Self {
        PortRanges { dynamic: default_dynamic(), requestable: default_requestable() }
    }
}

fn default_dynamic() -> Vec<PortRange> {
    const MIN: NonZeroU16 = NonZeroU16::new(20_000).expect("it is not zero");
    const MAX: NonZeroU16 = NonZeroU16::new(29_999).expect("it is not zero");
    vec![PortRange { min: MIN, max: MAX }]
}

fn default_requestable() -> Vec<PortRange> {
    vec![PortRange { min: NonZeroU16::MIN, max: NonZeroU16::MAX }]
}

/// How many load balancers a class has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = ("self.min <= self.max", "min must not be above max: raise max, or lower min")
)]
pub struct LoadBalancerLimits {
    /// The least number, even without claims, 0 to 1000. Default: 1.
    #[serde(default = "default_min")]
    #[schemars(range(min = 0, max = 1000))]
    pub min: u32,
    /// The greatest number, 1 to 1000. Default: 10.
    #[serde(default = "default_max")]
    #[schemars(range(min = 1, max = 1000))]
    pub max: u32,
    /// How many listeners one of them may have, 1 to 1000. A TCP_UDP port is
    /// two listeners, unless the provider has one listener for both. Default:
    /// the limit of the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub listeners_per_load_balancer: Option<u32>,
    /// How many seconds a load balancer beyond `min` is kept after its last
    /// port was released, 0 to 2592000 (30 days). Default: 3600.
    #[serde(default = "default_empty_delay_seconds")]
    #[schemars(range(min = 0, max = 2_592_000))]
    pub empty_delay_seconds: u32,
    /// The load balancers, by their index, on which no claim gets new ports, at
    /// most 64. Claims keep the ports that they have there. They count for
    /// `max`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 0, max = 999)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub cordoned: BTreeSet<u32>,
}

impl Default for LoadBalancerLimits {
    fn default() -> Self {
        LoadBalancerLimits {
            min: default_min(),
            max: default_max(),
            listeners_per_load_balancer: None,
            empty_delay_seconds: default_empty_delay_seconds(),
            cordoned: BTreeSet::new(),
        }
    }
}

fn default_min() -> u32 {
    1
}

fn default_max() -> u32 {
    10
}

fn default_empty_delay_seconds() -> u32 {
    3600
}

/// A range of IP addresses, both ends included. The controller checks that
/// `min` is not above `max`: CEL has no order of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = (
        "isIP(self.min) && isIP(self.max)",
        "min and max must be IP addresses, like 10.0.0.10 or fd00::10",
    ),
    validation = (
        "!isIP(self.min) || !isIP(self.max) || ip(self.min).family() == ip(self.max).family()",
        "min and max must be of one IP family: make two ranges of it",
    )
)]
pub struct AddressRange {
    /// The lowest address of the range.
    #[schemars(length(max = 45))]
    pub min: IpAddr,
    /// The highest address of the range, of the same IP family as `min`.
    #[schemars(length(max = 45))]
    pub max: IpAddr,
}

/// The targets of load balancers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    /// The addresses of pods.
    Pod,
    /// A port of every node, from which kube-proxy passes it on.
    Node,
}

/// Which endpoints of a Service get traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Endpoints {
    /// The pods that Kubernetes finds by the Service's selector.
    #[default]
    Pods,
    /// Also endpoints that were written by hand.
    Any,
}

/// The namespaces whose claims may use a class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "(self.from == 'Selector') == has(self.selector)",
        "give a selector if from is Selector, and only then",
    )
)]
pub struct AllowedNamespaces {
    /// All, or Selector for those whose labels match `selector`. Default: All.
    #[serde(default)]
    pub from: AllowedNamespacesFrom,
    /// The labels of the namespaces, given if `from` is Selector and only
    /// then. An empty one matches every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// How the namespaces that may use a class are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AllowedNamespacesFrom {
    /// Every namespace.
    #[default]
    All,
    /// Those whose labels match.
    Selector,
}

/// The load balancers of the class, and their usage. Written by the controller
/// alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharedLBClassStatus {
    /// The kind of provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The numbers of load balancers and listeners, each with its limit, in a
    /// line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// The load balancers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["index".into()]))]
    pub load_balancers: Vec<LoadBalancerStatus>,
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted: the spec can be carried out. Ready: every load balancer is as
    /// planned and has an address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One load balancer of a class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerStatus {
    /// Which load balancer of the class it is, from 0 on.
    #[serde(default)]
    pub index: u32,
    /// Its first IP address or host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// All its IP addresses and host names; `address` is the first one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub addresses: Vec<String>,
    /// Whether no claim gets new ports on it, as `loadBalancers.cordoned` of the
    /// spec says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cordoned: bool,
    /// How many listeners it has for claims.
    #[serde(default)]
    pub listeners: u32,
    /// How many targets those have together, if that is limited: a backend of
    /// two listeners counts twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<u32>,
    /// Its capacity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// The ports of foreign listeners on it, like 22/TCP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub foreign_ports: Vec<String>,
    /// The released ports, which no other claim gets until they are closed and
    /// the class's `reclaimDelaySeconds` are over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub released: Vec<ReleasedPort>,
    /// Since when it has had no port of a claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_since: Option<Time>,
    /// The state of this load balancer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

impl LoadBalancerStatus {
    /// All its addresses, the first one first. Earlier versions wrote `address` alone.
    pub fn all_addresses(&self) -> impl Iterator<Item = &str> {
        all_addresses(&self.addresses, self.address.as_deref())
    }
}

/// `addresses`, or if there are none, `address`.
pub(crate) fn all_addresses<'a>(
    addresses: &'a [String],
    address: Option<&'a str>,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let first = address.filter(|_| addresses.is_empty());
    addresses.iter().map(String::as_str).chain(first)
}

/// The capacity of a load balancer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// How many listeners it can have.
    #[serde(default)]
    pub listeners: u32,
    /// How many targets it can have, if that is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<u32>,
}

/// A released port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleasedPort {
    /// The port of the load balancer, 1 to 65535.
    pub port: NonZeroU16,
    /// TCP, UDP or TCP_UDP.
    #[serde(default)]
    pub protocol: Protocol,
    /// The claim that had it: its namespace, a slash, and its name. Only this
    /// claim can get the port during the cool-down.
    #[serde(default)]
    pub claim: String,
    /// When it was released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
}
