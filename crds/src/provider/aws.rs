//! The provider `aws`: each load balancer of the class is a Network Load
//! Balancer. Fields are named as in the Elastic Load Balancing API (version
//! 2015-12-01), whose reference is the source of every range unless another is
//! given.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The provider `aws`: Network Load Balancers that the controller creates, or
/// an existing one (`loadBalancerArn`).
///
/// Subnets and security groups are given here, since the controller makes no
/// calls to EC2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "has(self.loadBalancerArn) || has(self.subnets) != has(self.subnetMappings)",
        "give exactly one of subnets and subnetMappings, or the loadBalancerArn of a load balancer that is there already",
    ),
    validation = (
        "!has(self.loadBalancerArn) || !(has(self.scheme) || has(self.subnets) || has(self.subnetMappings) \
         || has(self.securityGroups) || has(self.ipAddressType) || has(self.crossZone) || has(self.attributes))",
        "a load balancer that is adopted by loadBalancerArn stays as it is: leave out scheme, subnets, subnetMappings, \
         securityGroups, ipAddressType, crossZone and attributes",
    ),
    validation = (
        "!has(self.loadBalancerArn) || self.loadBalancerArn.contains(':elasticloadbalancing:' + self.region + ':')",
        "loadBalancerArn is of another region than region: correct one of the two",
    ),
    validation = (
        "has(self.loadBalancerArn) == has(oldSelf.loadBalancerArn) \
         && (!has(self.loadBalancerArn) || self.loadBalancerArn == oldSelf.loadBalancerArn)",
        "loadBalancerArn cannot be set, changed or removed: make a new class, and move the claims to it",
    ),
    validation = (
        "has(self.scheme) == has(oldSelf.scheme) && (!has(self.scheme) || self.scheme == oldSelf.scheme) \
         && has(self.ipAddressType) == has(oldSelf.ipAddressType) \
         && (!has(self.ipAddressType) || self.ipAddressType == oldSelf.ipAddressType) \
         && has(self.targetGroupIpAddressType) == has(oldSelf.targetGroupIpAddressType) \
         && (!has(self.targetGroupIpAddressType) || self.targetGroupIpAddressType == oldSelf.targetGroupIpAddressType)",
        "scheme, ipAddressType and targetGroupIpAddressType cannot be set, changed or removed: make a new class, and \
         move the claims to it",
    ),
    validation = (
        "has(self.subnets) == has(oldSelf.subnets) && (!has(self.subnets) || self.subnets == oldSelf.subnets) \
         && has(self.subnetMappings) == has(oldSelf.subnetMappings) \
         && (!has(self.subnetMappings) || self.subnetMappings == oldSelf.subnetMappings)",
        "subnets and subnetMappings cannot be changed: make a new class, and move the claims to it",
    ),
    validation = (
        "has(self.securityGroups) == has(oldSelf.securityGroups)",
        "AWS lets a load balancer have security groups only if it was made with one: securityGroups can be changed, \
         but neither be added nor removed; make a new class, and move the claims to it",
    ),
    validation = (
        "!has(self.subnetMappings) || !has(self.scheme) || self.scheme == 'internet-facing' \
         || self.subnetMappings.all(m, !has(m.allocationId))",
        "an allocationId is for a load balancer with the scheme internet-facing: leave it out",
    ),
    validation = (
        "!has(self.subnetMappings) || (has(self.scheme) && self.scheme == 'internal') \
         || self.subnetMappings.all(m, !has(m.privateIPv4Address))",
        "a privateIPv4Address is for a load balancer with the scheme internal: leave it out",
    ),
    validation = (
        "!has(self.subnetMappings) || (has(self.ipAddressType) && self.ipAddressType == 'dualstack') \
         || self.subnetMappings.all(m, !has(m.iPv6Address))",
        "an iPv6Address needs the ipAddressType dualstack",
    ),
    validation = (
        "!has(self.targetGroupIpAddressType) || self.targetGroupIpAddressType == 'ipv4' || has(self.loadBalancerArn) \
         || (has(self.ipAddressType) && self.ipAddressType == 'dualstack')",
        "the targetGroupIpAddressType ipv6 needs the ipAddressType dualstack",
    )
)]
pub struct AwsProvider {
    /// The region, such as eu-central-1. Cannot be changed.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = (
        "self.matches('^[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}$')",
        "must be the name of a region, such as eu-central-1",
    ))]
    #[x_kube(validation = (
        "self == oldSelf",
        "the region cannot be changed: make a new class, and move the claims to it",
    ))]
    pub region: String,
    /// The VPC of the load balancers and their targets. Cannot be changed.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = (
        "self.matches('^vpc-[0-9a-f]{8,17}$')",
        "must be the id of a VPC: vpc- and 8 or 17 hexadecimal digits",
    ))]
    #[x_kube(validation = (
        "self == oldSelf",
        "the VPC cannot be changed: make a new class, and move the claims to it",
    ))]
    pub vpc_id: String,
    /// Whether the load balancers are reachable from the Internet,
    /// internet-facing, or only from the VPC and networks that are connected to
    /// it, internal. Default: internet-facing, as with AWS. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AwsScheme")]
    pub scheme: Option<AwsScheme>,
    /// The subnets of the load balancers, one of each availability zone.
    /// Exactly one of `subnets` and `subnetMappings` is given. Cannot be
    /// changed: AWS could add zones to a load balancer and remove them, but
    /// then its addresses would change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[x_kube(validation = (
        "self.all(id, id.matches('^subnet-[0-9a-f]{8,17}$'))",
        "must be ids of subnets: subnet- and 8 or 17 hexadecimal digits",
    ))]
    #[schemars(extend("items" = { "type": "string", "maxLength": 32 }))]
    pub subnets: Vec<String>,
    /// The subnets of the load balancer, each with its address there. An
    /// address is for one load balancer, so if any is given,
    /// `loadBalancers.max` is 1. Cannot be changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["subnetId".into()]))]
    pub subnet_mappings: Vec<AwsSubnetMapping>,
    /// The security groups of the load balancers. Default: none; AWS does not
    /// let a load balancer get any later. At most 16 (the VPC user guide's
    /// maximum of the quota of security groups for a network interface, whose
    /// default is 5).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[x_kube(validation = (
        "self.all(id, id.matches('^sg-[0-9a-f]{8,17}$'))",
        "must be ids of security groups: sg- and 8 or 17 hexadecimal digits",
    ))]
    #[schemars(extend("items" = { "type": "string", "maxLength": 32 }))]
    pub security_groups: Vec<String>,
    /// Whether the load balancers have IPv4 addresses, ipv4, or IPv6 addresses
    /// as well, dualstack. Default: ipv4, as with AWS. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AwsIpAddressType")]
    pub ip_address_type: Option<AwsIpAddressType>,
    /// The IP family of the addresses of targets, ipv4 or ipv6; a target group
    /// has one. Pods without an address of this family get no traffic.
    /// Default: ipv4, as with AWS. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AwsTargetGroupIpAddressType")]
    pub target_group_ip_address_type: Option<AwsTargetGroupIpAddressType>,
    /// Whether every zone of a load balancer sends traffic to the targets in
    /// all zones. A load balancer takes fewer targets then: 500 in total
    /// instead of 500 for each zone. Default: false, as with AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cross_zone: Option<bool>,
    /// Adopts an existing Network Load Balancer: listeners are opened on it,
    /// and nothing else of it is changed; when the class is deleted, it stays.
    /// `loadBalancers.max` is 1 then. Cannot be set, changed or removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = (
        "self.matches('^arn:aws[a-z-]*:elasticloadbalancing:[a-z0-9-]+:[0-9]{12}:loadbalancer/net/[A-Za-z0-9-]{1,32}/[0-9a-z]+$')",
        "must be the ARN of a Network Load Balancer: arn:aws:elasticloadbalancing:REGION:ACCOUNT:loadbalancer/net/NAME/ID",
    ))]
    pub load_balancer_arn: Option<String>,
    /// Further attributes of the load balancers by AWS' keys, such as
    /// `access_logs.s3.enabled` or `deletion_protection.enabled`, at most 20.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "maxProperties" = 20,
        "additionalProperties" = { "type": "string", "maxLength": 1024 }
    ))]
    #[x_kube(validation = (
        "!('load_balancing.cross_zone.enabled' in self)",
        "load_balancing.cross_zone.enabled has a field of its own: crossZone",
    ))]
    pub attributes: BTreeMap<String, String>,
    /// Tags of all objects that are created: load balancers, listeners and
    /// target groups. At most 40: a resource can have 50 (Tag restrictions in
    /// the user guide), and ten are left for SharedLB's own tags and those of
    /// your organisation. A value has at most 256 characters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "maxProperties" = 40,
        "additionalProperties" = { "type": "string", "maxLength": 256 }
    ))]
    #[x_kube(validation = (
        "self.all(key, key.size() >= 1 && key.size() <= 128 && !key.startsWith('aws:') && !key.startsWith('sharedlb.dev/'))",
        "a tag's key has 1 to 128 characters, and begins neither with aws:, which AWS keeps for itself, nor with sharedlb.dev/",
    ))]
    pub tags: BTreeMap<String, String>,
    /// The health check of targets. Default: that of AWS, a TCP connection to
    /// the port that takes the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AwsHealthCheck")]
    pub health_check: Option<AwsHealthCheck>,
    /// How many seconds connections to a deregistered target may last, 0 to
    /// 3600. Default: 300, as with AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub deregistration_delay_seconds: Option<u32>,
    /// Whether targets see the addresses of clients. Default, as with AWS:
    /// with the targets Node always; with the targets Pod for UDP and TCP_UDP,
    /// where it can't be switched off, and not for TCP.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "preserveClientIP")]
    pub preserve_client_ip: Option<bool>,
    /// Whether targets get the addresses of clients by the proxy protocol,
    /// version 2, which they must understand. Default: false, as with AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol_v2: Option<bool>,
}

/// A subnet of a load balancer, and its address there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsSubnetMapping {
    /// The subnet.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = (
        "self.matches('^subnet-[0-9a-f]{8,17}$')",
        "must be the id of a subnet: subnet- and 8 or 17 hexadecimal digits",
    ))]
    pub subnet_id: String,
    /// The Elastic IP address, for a load balancer that is internet-facing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = (
        "self.matches('^eipalloc-[0-9a-f]{8,17}$')",
        "must be the allocation id of an Elastic IP address: eipalloc- and 8 or 17 hexadecimal digits",
    ))]
    pub allocation_id: Option<String>,
    /// The IPv4 address, for a load balancer that is internal.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "privateIPv4Address")]
    #[schemars(length(max = 15))]
    #[x_kube(validation = ("isIP(self) && ip(self).family() == 4", "must be an IPv4 address, like 10.0.0.10"))]
    pub private_ipv4_address: Option<Ipv4Addr>,
    /// The IPv6 address, for a load balancer that is dualstack.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "iPv6Address")]
    #[schemars(length(max = 45))]
    #[x_kube(validation = ("isIP(self) && ip(self).family() == 6", "must be an IPv6 address, like fd00::10"))]
    pub ipv6_address: Option<Ipv6Addr>,
}

/// The health check of targets. The defaults are those of AWS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "!has(self.path) || (has(self.protocol) && self.protocol != 'TCP')",
        "a path is for the protocols HTTP and HTTPS: set protocol, or leave path out",
    ),
    validation = (
        "!has(self.timeoutSeconds) || !has(self.intervalSeconds) || self.timeoutSeconds <= self.intervalSeconds",
        "timeoutSeconds must not be above intervalSeconds",
    )
)]
pub struct AwsHealthCheck {
    /// TCP, HTTP or HTTPS. Default: TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AwsHealthCheckProtocol")]
    pub protocol: Option<AwsHealthCheckProtocol>,
    /// The port of the targets, 1 to 65535. Default: the one that takes the
    /// traffic. A UDP port is checked by one of the other protocols, so its
    /// targets must listen on this port too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<NonZeroU16>,
    /// The path of the request, for HTTP and HTTPS. Default: /.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = ("self.startsWith('/')", "must begin with a slash"))]
    pub path: Option<String>,
    /// How many seconds are between two checks of a target, 5 to 300. Left
    /// out: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 5, max = 300))]
    pub interval_seconds: Option<u32>,
    /// After how many seconds without an answer a check has failed, 2 to 120.
    /// Default: 10, and 6 for HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 120))]
    pub timeout_seconds: Option<u32>,
    /// How many checks in a row make a target healthy, 2 to 10. Default: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 10))]
    pub healthy_threshold_count: Option<u32>,
    /// How many failed checks in a row make it unhealthy, 2 to 10. Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 10))]
    pub unhealthy_threshold_count: Option<u32>,
}

/// From where a load balancer is reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AwsScheme {
    /// From the Internet.
    InternetFacing,
    /// From the VPC and networks that are connected to it.
    Internal,
}

/// The IP families of a load balancer's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AwsIpAddressType {
    /// IPv4.
    Ipv4,
    /// IPv4 and IPv6.
    Dualstack,
}

/// The IP family of the addresses of targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AwsTargetGroupIpAddressType {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// The protocol of a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum AwsHealthCheckProtocol {
    /// A connection.
    Tcp,
    /// A request for a path.
    Http,
    /// The same over TLS; certificates are not verified.
    Https,
}

impl AwsHealthCheckProtocol {
    /// Its name in the API, which is also that of AWS.
    pub fn as_str(self) -> &'static str {
        match self {
            AwsHealthCheckProtocol::Tcp => "TCP",
            AwsHealthCheckProtocol::Http => "HTTP",
            AwsHealthCheckProtocol::Https => "HTTPS",
        }
    }
}
