//! `SharedLB`: the ports that a team requests, and those that it gets.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::class::all_addresses;
use crate::port::{Protocol, Transport};

/// The requested ports on a shared load balancer, and the pods that their
/// traffic goes to. All ports of one SharedLB are on one load balancer, so
/// they have one address.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sharedlb.dev",
    version = "v1alpha1",
    kind = "SharedLB",
    plural = "sharedlbs",
    namespaced,
    shortname = "slb",
    status = "SharedLBStatus",
    derive = "PartialEq",
    doc = "A SharedLB requests ports on a load balancer that many workloads share. \
           Create one, and read its address and ports from its status.",
    printcolumn(name = "Class", type_ = "string", json_path = ".status.className"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.address"),
    printcolumn(name = "Ports", type_ = "string", json_path = ".status.summary"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "has(self.className) == has(oldSelf.className) \
         && (!has(self.className) || self.className == oldSelf.className)",
        "className cannot be set, changed or removed: delete this SharedLB, and create it again with the className you want",
    ),
    validation = (
        "(has(self.selector) && self.selector.size() > 0) != has(self.serviceName)",
        "give exactly one of selector (with at least one label) and serviceName",
    ),
    validation = (
        "has(self.serviceName) || self.ports.all(p, !has(p.targetPort) \
         || (string(p.targetPort).size() <= 15 && !string(p.targetPort).contains('--')))",
        "with a selector, a named targetPort is a port of the pods' containers, whose names have at most 15 characters and no '--'",
    ),
    validation = (
        "!has(self.sessionAffinityConfig) || (has(self.sessionAffinity) && self.sessionAffinity == 'ClientIP')",
        "sessionAffinityConfig has no effect without session affinity: set sessionAffinity to ClientIP, or remove sessionAffinityConfig",
    )
)]
pub struct SharedLBSpec {
    /// The SharedLBClass of the ports. Default: the class that is annotated
    /// `sharedlb.dev/is-default-class: "true"` (the newest, if there are
    /// several). Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = (
        "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
        "must be the name of a class: lower-case letters, digits, '-' and '.', with a letter or digit at both ends",
    ))]
    pub class_name: Option<String>,
    /// The labels of the pods, in this namespace, that the traffic goes to.
    /// Exactly one of `selector` and `serviceName` is given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "maxProperties" = 64,
        "additionalProperties" = { "type": "string", "maxLength": 63 }
    ))]
    #[x_kube(validation = (
        "self.all(key, self[key].matches('^([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?$'))",
        "a label has letters, digits, '-', '_' and '.', with a letter or digit at both ends",
    ))]
    pub selector: BTreeMap<String, String>,
    /// The Service, in this namespace, whose pods the traffic goes to. Not
    /// one of type ExternalName. Exactly one of `selector` and `serviceName`
    /// is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = (
        "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "must be the name of a Service: lower-case letters, digits and '-', with a letter or digit at both ends",
    ))]
    pub service_name: Option<String>,
    /// Requests the load balancer of the class with this IP address or host
    /// name. Default: any of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = (
        "isIP(self) || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",
        "must be the IP address or the lower-case host name of a load balancer, as the status of the class has it, without a port",
    ))]
    pub address: Option<String>,
    /// The ports, 1 to 64 of them. If there is more than one, each has a name.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[x_kube(validation = (
        "self.size() < 2 || self.all(p, p.name != '')",
        "give each port a name, since there is more than one",
    ))]
    #[x_kube(validation = (
        "self.all(p, !has(p.port) || p.port == 0 || self.exists_one(q, has(q.port) && q.port == p.port \
         && (q.protocol == p.protocol || q.protocol == 'TCP_UDP' || p.protocol == 'TCP_UDP')))",
        "two ports ask for one number with the same protocol: change one of them, or use one port with the protocol TCP_UDP",
    ))]
    pub ports: Vec<SharedLBPort>,
    /// The addresses of the clients that the ports serve, as in a Service: 1
    /// to 64 ranges in CIDR notation, IPv4 or IPv6. Clients outside of them
    /// cannot connect, from the first packet on. If all ranges are of one IP
    /// family, clients of the other family cannot connect either, except that
    /// 0.0.0.0/0 without a range of IPv6 stands for all clients. Default: all
    /// clients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>", length(max = 64), inner(length(max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    #[x_kube(validation = (
        "self.size() > 0",
        "an empty list names no clients: leave loadBalancerSourceRanges out to serve all clients",
    ))]
    #[x_kube(validation = (
        "self.all(range, isCIDR(range))",
        "a range is an IPv4 or IPv6 address with the length of its prefix: 10.0.0.0/8, or fd00::/8",
    ))]
    pub load_balancer_source_ranges: Vec<IpNet>,
    /// ClientIP: all connections of a client to a port go to the same pod, as
    /// long as that can take traffic. None: each connection goes to any pod.
    /// Default: None.
    #[serde(default, skip_serializing_if = "SessionAffinity::is_none")]
    pub session_affinity: SessionAffinity,
    /// Settings of the session affinity, which must be ClientIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<SessionAffinityConfig>,
}

/// Whether connections of one client go to one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SessionAffinity {
    /// Each connection goes to any pod.
    #[default]
    None,
    /// All connections of a client, by its address, go to the same pod.
    #[serde(rename = "ClientIP")]
    ClientIp,
}

impl SessionAffinity {
    /// Whether there is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// Settings of the session affinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionAffinityConfig {
    /// Settings of the affinity ClientIP.
    #[serde(default, rename = "clientIP", skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<ClientIpConfig>,
}

/// Settings of the affinity ClientIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientIpConfig {
    /// For how many seconds after its last connection a client goes to the
    /// same pod, 1 to 86400 (a day). Load balancers whose timeout cannot be
    /// set keep a client for at least as long. Default: 10800 (three hours).
    #[serde(default = "default_affinity_timeout_seconds")]
    #[schemars(range(min = 1, max = 86_400))]
    pub timeout_seconds: u32,
}

impl Default for ClientIpConfig {
    fn default() -> Self {
        Self { timeout_seconds: default_affinity_timeout_seconds() }
    }
}

/// As in a Service.
fn default_affinity_timeout_seconds() -> u32 {
    10_800
}

/// One requested port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "has(self.targetPort) || (has(self.port) && self.port > 0)",
        "give a targetPort (the port of the pods), since no port number is asked for that it could equal",
    )
)]
pub struct SharedLBPort {
    /// The name of the port, unique in this SharedLB: a DNS label of at most
    /// 59 characters. May be left out if there is only one port. A port that is
    /// renamed or reordered keeps its number: it is recognised by its name, then
    /// by its port, then by its targetPort and protocol, then by its place in the
    /// list.
    #[serde(default)]
    #[schemars(length(max = 59))]
    #[x_kube(validation = (
        "self.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$')",
        "must be a DNS label: lower-case letters, digits and '-', with a letter or digit at both ends",
    ))]
    pub name: String,
    /// TCP, UDP, or TCP_UDP for both on one port number. Default: TCP.
    #[serde(default)]
    pub protocol: Protocol,
    /// Requests this port of the load balancer, 1 to 65535. If left out or 0, a
    /// port is assigned.
    #[serde(default, deserialize_with = "zero_is_none", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: Option<NonZeroU16>,
    /// The port of the pods, by number or name. With `serviceName`: the port
    /// of that Service, by number or name. Default: the same number as `port`,
    /// which must be given then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // A name equals itself as a string. CEL's type() would be clearer, but not every
    // evaluator has it.
    #[schemars(extend("maxLength" = 63))]
    #[x_kube(validation = (
        "self == string(self) || (self >= 1 && self <= 65535)",
        "must be a port number from 1 to 65535, or the name of a port",
    ))]
    #[x_kube(validation = (
        "self != string(self) || (string(self).matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') \
         && string(self).matches('[a-z]'))",
        "must be the name of a port (lower-case letters, digits and '-', with at least one letter), or a number without quotes",
    ))]
    pub target_port: Option<IntOrString>,
}

impl SharedLBSpec {
    /// The timeout of the session affinity, in seconds; `None`: no affinity is requested.
    #[must_use]
    pub fn affinity_timeout_seconds(&self) -> Option<u32> {
        let config = self.session_affinity_config.and_then(|config| config.client_ip).unwrap_or_default();
        (self.session_affinity == SessionAffinity::ClientIp).then_some(config.timeout_seconds)
    }
}

impl SharedLBPort {
    /// The target: `targetPort`, or else the same number as `port`. `None`: the API server
    /// would have rejected the object.
    pub fn target(&self) -> Option<IntOrString> {
        self.target_port.clone().or_else(|| self.port.map(|port| IntOrString::Int(port.get().into())))
    }
}

/// Parses a port, of which 0 means none.
fn zero_is_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU16>, D::Error> {
    Ok(Option::<u16>::deserialize(deserializer)?.and_then(NonZeroU16::new))
}

/// The ports that the SharedLB has. Written by the controller alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharedLBStatus {
    /// The class of the ports. Once it is set, a change of the default class
    /// has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_name: Option<String>,
    /// Which load balancer of the class the ports are on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer_index: Option<u32>,
    /// The first address of the load balancer: an IP address or a host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// All addresses that serve the claim; `address` is the first one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub addresses: Vec<String>,
    /// The ports and their targets, in a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// The addresses with the open ports, as in the status of a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerIngress>,
    /// The ports, by the names of the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub ports: Vec<PortStatus>,
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Allocated: every port has a number. Programmed: the load balancer
    /// serves every port. Ready: both, the load balancer has an address, and
    /// every port has a backend that takes traffic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

impl SharedLBStatus {
    /// All addresses of the load balancer, the first one first. Earlier versions wrote
    /// `address` alone.
    pub fn all_addresses(&self) -> impl Iterator<Item = &str> {
        all_addresses(&self.addresses, self.address.as_deref())
    }
}

/// A port that the SharedLB has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortStatus {
    /// The name of the port in the spec.
    #[serde(default)]
    pub name: String,
    /// TCP, UDP, or TCP_UDP for both on one port number.
    #[serde(default)]
    pub protocol: Protocol,
    /// The port of the load balancer, 1 to 65535.
    pub port: NonZeroU16,
    /// The targetPort of the spec when this status was written. A port that is
    /// renamed keeps its number by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<IntOrString>,
    /// Whether this port, or the one that it continues, has ever been open on a
    /// load balancer with an address. Such a port is never moved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opened: bool,
}

/// The addresses of ports, as in the status of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerIngress {
    /// The addresses of the load balancer. Its first entry is the one that
    /// `address` of the status shows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub ingress: Vec<Ingress>,
}

/// One address of a load balancer. It has either an `ip` or a `hostname`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// The IP address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// The host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The ports that have been open; a TCP_UDP port is two entries. A new
    /// port is listed once the load balancer has opened it, and stays listed
    /// while the load balancer fails to serve it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub ports: Vec<IngressPort>,
}

/// A port of an address, as in the status of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressPort {
    /// The port of the load balancer, 1 to 65535.
    pub port: NonZeroU16,
    /// TCP or UDP.
    #[serde(default)]
    pub protocol: Transport,
}
