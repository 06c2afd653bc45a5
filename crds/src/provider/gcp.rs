//! The provider `gcp`: each load balancer of the class is a passthrough Network
//! Load Balancer of Google Cloud. Fields are named as in the API of Compute
//! Engine, version 1, whose reference is the source of every range unless
//! another is given.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The provider `gcp`: passthrough Network Load Balancers that the controller
/// creates. Each is one forwarding rule for all ports of one address; the nodes
/// are its backends, and kube-proxy or Cilium on them accepts its traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "self.project == oldSelf.project && self.region == oldSelf.region && self.network == oldSelf.network \
         && self.subnetwork == oldSelf.subnetwork && self.scheme == oldSelf.scheme",
        "project, region, network, subnetwork and scheme cannot be changed: make a new class, and move the claims to it",
    ),
    validation = (
        "has(self.networkTier) == has(oldSelf.networkTier) \
         && (!has(self.networkTier) || self.networkTier == oldSelf.networkTier)",
        "networkTier cannot be set, changed or removed: make a new class, and move the claims to it",
    ),
    validation = (
        "has(self.addressNames) == has(oldSelf.addressNames) \
         && (!has(self.addressNames) || self.addressNames == oldSelf.addressNames)",
        "addressNames cannot be set, changed or removed: make a new class, and move the claims to it",
    ),
    validation = (
        "!has(self.networkTier) || self.scheme == 'External'",
        "a networkTier is for a load balancer with the scheme External: leave it out",
    ),
    validation = (
        "!has(self.globalAccess) || self.scheme == 'Internal'",
        "globalAccess is for a load balancer with the scheme Internal: leave it out",
    )
)]
pub struct GcpProvider {
    /// The id of the project of the nodes and the load balancers. Cannot be
    /// changed.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = (
        "self.matches('^([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$')",
        "must be the id of a project, not its number or its name: 6 to 30 lower-case letters, digits and hyphens",
    ))]
    pub project: String,
    /// The region of the load balancers and the nodes, such as europe-west3.
    /// Cannot be changed.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = ("self.matches('^[a-z]+-[a-z]+[0-9]+$')", "must be the name of a region, such as europe-west3"))]
    pub region: String,
    /// The VPC network of the nodes: its name, or
    /// `projects/PROJECT/global/networks/NAME` if it is in another project
    /// (Shared VPC). Default: default. Cannot be changed.
    #[serde(default = "default_network")]
    #[schemars(length(min = 1, max = 160))]
    #[x_kube(validation = (
        "self.matches('^(projects/[a-z0-9.:-]+/global/networks/)?[a-z]([a-z0-9-]*[a-z0-9])?$')",
        "must be the name of a network, or projects/PROJECT/global/networks/NAME",
    ))]
    pub network: String,
    /// The subnetwork of the nodes, in the region: its name, or
    /// `projects/PROJECT/regions/REGION/subnetworks/NAME` if it is in another
    /// project. Internal load balancers have addresses of it. Default: default.
    /// Cannot be changed.
    #[serde(default = "default_network")]
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(validation = (
        "self.matches('^(projects/[a-z0-9.:-]+/regions/[a-z0-9-]+/subnetworks/)?[a-z]([a-z0-9-]*[a-z0-9])?$')",
        "must be the name of a subnetwork, or projects/PROJECT/regions/REGION/subnetworks/NAME",
    ))]
    pub subnetwork: String,
    /// Whether the load balancers are reachable from the Internet (External) or
    /// from the network (Internal). Default: External. Cannot be changed.
    #[serde(default)]
    pub scheme: GcpScheme,
    /// The network tier of external load balancers: Premium or Standard.
    /// Default: Premium. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "GcpNetworkTier")]
    pub network_tier: Option<GcpNetworkTier>,
    /// The names of reserved addresses of the region, one for each load balancer
    /// by its index. They stay when the class is deleted. Default: an address is
    /// reserved for each load balancer, and released with it. Cannot be changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = (
        "self.all(name, name.matches('^[a-z]([a-z0-9-]*[a-z0-9])?$'))",
        "the name of an address has lower-case letters, digits and hyphens, and begins with a letter",
    ))]
    pub address_names: Vec<String>,
    /// Labels of addresses and forwarding rules, at most 60. A resource can have
    /// 64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "maxProperties" = 60,
        "additionalProperties" = { "type": "string", "maxLength": 63 }
    ))]
    #[x_kube(validation = (
        "self.all(key, key.matches('^[a-z][a-z0-9_-]{0,62}$') && self[key].matches('^[a-z0-9_-]{0,63}$'))",
        "keys and values of labels have lower-case letters, digits, hyphens and underscores; a key begins with a letter",
    ))]
    pub labels: BTreeMap<String, String>,
    /// Whether an internal load balancer is reachable from all regions. Default:
    /// false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_access: Option<bool>,
    /// Whether the connections of a client enter by one node: NONE, CLIENT_IP or
    /// CLIENT_IP_PROTO. The node sends them to any pod, unless the claim has a
    /// sessionAffinity. Default: NONE.
    #[serde(default)]
    pub session_affinity: GcpSessionAffinity,
    /// The most nodes by which traffic enters, in equal parts of each zone, 1 to
    /// 1000. A node that goes is replaced by another one. Default: 250.
    #[serde(default = "default_entry_nodes")]
    #[schemars(range(min = 1, max = 1000))]
    pub entry_nodes: u32,
    /// The VPC firewall rules of the load balancers' addresses.
    #[serde(default)]
    pub firewall: GcpFirewall,
    /// The health check of nodes. The defaults are those of kube-proxy.
    #[serde(default)]
    pub health_check: GcpHealthCheck,
    /// The credentials of the controller. Default: those of its environment, by
    /// Workload Identity or a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SecretReference")]
    pub credentials: Option<SecretReference>,
}

/// A Secret in the namespace of the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// The name of the Secret. Its key `credentials.json` has the key of a
    /// service account, or a configuration of workload identity federation.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// The VPC firewall rules of the load balancers' addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "!has(self.targetTags) || !has(self.targetServiceAccounts)",
        "a firewall rule is for targetTags or for targetServiceAccounts: leave one of them out",
    )
)]
pub struct GcpFirewall {
    /// What the controller allows: Ports, exactly those of listeners; Range, all
    /// of `ports.dynamic` and no others, so that a port takes no call to Google
    /// Cloud; or None, where an admin writes the rules. Default: Ports.
    #[serde(default)]
    pub manage: GcpFirewallManagement,
    /// The IPv4 ranges of the clients that are allowed, 1 to 256. Default:
    /// 0.0.0.0/0.
    #[serde(default = "default_source_ranges")]
    #[schemars(length(min = 1, max = 256), inner(length(max = 18)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = (
        "self.all(range, isCIDR(range) && cidr(range).ip().family() == 4 && cidr(range) == cidr(range).masked())",
        "must be IPv4 ranges without host bits, like 192.0.2.0/24",
    ))]
    pub source_ranges: Vec<String>,
    /// The network tags of the nodes, at most 70. Default: the rules are for all
    /// instances of the network, of which only nodes get the traffic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 70), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub target_tags: Vec<String>,
    /// The service accounts of the nodes, instead of tags, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), inner(length(min = 1, max = 256)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub target_service_accounts: Vec<String>,
    /// The priority of the rule that allows, 0 (first) to 65534. The rule that
    /// denies the rest has the next one. Default: 900, before the rules that are
    /// there by default.
    #[serde(default = "default_priority")]
    #[schemars(range(min = 0, max = 65_534))]
    pub priority: u16,
    /// Whether the other ports of the address are denied, which would otherwise
    /// lead to the nodes themselves where another rule allows them. Default:
    /// true.
    #[serde(default = "default_deny_rest")]
    pub deny_rest: bool,
}

impl Default for GcpFirewall {
    fn default() -> Self {
        GcpFirewall {
            manage: GcpFirewallManagement::default(),
            source_ranges: default_source_ranges(),
            target_tags: Vec::new(),
            target_service_accounts: Vec::new(),
            priority: default_priority(),
            deny_rest: default_deny_rest(),
        }
    }
}

/// The health check of nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcpHealthCheck {
    /// The port, 1 to 65535. Default: 10256, of kube-proxy.
    #[serde(default = "default_health_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: NonZeroU16,
    /// The path of the request. Default: /healthz.
    #[serde(default = "default_health_path")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = ("self.startsWith('/')", "must begin with a slash"))]
    pub path: String,
    /// How many seconds are between two checks of a node, 1 to 300. Default: 8.
    #[serde(default = "default_health_interval")]
    #[schemars(range(min = 1, max = 300))]
    pub interval_seconds: u32,
    /// How many failed checks in a row make a node unhealthy, 1 to 10. Default:
    /// 3.
    #[serde(default = "default_unhealthy_threshold")]
    #[schemars(range(min = 1, max = 10))]
    pub unhealthy_threshold: u32,
}

impl Default for GcpHealthCheck {
    fn default() -> Self {
        GcpHealthCheck {
            port: default_health_port(),
            path: default_health_path(),
            interval_seconds: default_health_interval(),
            unhealthy_threshold: default_unhealthy_threshold(),
        }
    }
}

/// From where a load balancer is reachable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GcpScheme {
    /// From the Internet.
    #[default]
    External,
    /// From the network, and networks that are connected to it.
    Internal,
}

/// How the traffic of an external load balancer gets to Google's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GcpNetworkTier {
    /// Near to the client.
    Premium,
    /// Near to the region.
    Standard,
}

/// Whether the connections of a client enter by one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum GcpSessionAffinity {
    /// By any node.
    #[default]
    None,
    /// By the address of the client.
    ClientIp,
    /// By the address of the client and the protocol.
    ClientIpProto,
}

/// What firewall rules of the controller allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GcpFirewallManagement {
    /// The ports of listeners.
    #[default]
    Ports,
    /// The ports that are assigned to claims which request no number.
    Range,
    /// Nothing.
    None,
}

fn default_network() -> String {
    "default".to_owned()
}

fn default_entry_nodes() -> u32 {
    250
}

fn default_source_ranges() -> Vec<String> {
    vec!["0.0.0.0/0".to_owned()]
}

fn default_priority() -> u16 {
    900
}

fn default_deny_rest() -> bool {
    true
}

fn default_health_port() -> NonZeroU16 {
    const PORT: NonZeroU16 = NonZeroU16::new(10_256).expect("it is not zero");
    PORT
}

fn default_health_path() -> String {
    "/healthz".to_owned()
}

fn default_health_interval() -> u32 {
    8
}

fn default_unhealthy_threshold() -> u32 {
    3
}
