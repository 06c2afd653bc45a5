//! What an admin says of the Network Load Balancers of a class, by the names of
//! AWS' own API.

use std::collections::BTreeMap;

use crate::model::IpFamily;

/// What the load balancers of a class shall be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The region, as in `eu-central-1`
    pub region: String,
    /// The VPC of the target groups
    pub vpc_id: String,
    /// Who reaches the load balancers
    pub scheme: Scheme,
    /// Where they are: one subnet for each zone. None for an adopted one
    pub subnet_mappings: Vec<SubnetMapping>,
    /// Their security groups. A load balancer that was made with none can never
    /// get one, and one that was made with some must keep at least one (ELB user
    /// guide, "Update the security groups for your Network Load Balancer")
    pub security_groups: Vec<String>,
    /// Which addresses clients reach them by
    pub ip_address_type: IpAddressType,
    /// Which addresses of pods are registered: a target group takes one family.
    /// `V6` needs [`IpAddressType::Dualstack`]
    pub target_ip_family: IpFamily,
    /// Whether each zone's part sends traffic to targets in all zones. It lowers
    /// what fits on a load balancer to 500 targets; see [`super::limits`]
    pub cross_zone: bool,
    /// An existing load balancer to open listeners on. It is never made,
    /// configured or deleted, and the class can have no second one
    pub load_balancer_arn: Option<String>,
    /// Further attributes, as in ModifyLoadBalancerAttributes
    pub attributes: BTreeMap<String, String>,
    /// Tags of everything that is made, beside ours, which win
    pub tags: BTreeMap<String, String>,
    /// How targets are probed
    pub health_check: HealthCheck,
    /// How long a removed target may finish its connections; 0 to 3600, `None`:
    /// AWS' default, 300
    pub deregistration_delay_seconds: Option<u32>,
    /// Whether targets see the client's address; `None`: AWS' default (no for TCP
    /// to pods, else yes). For UDP it cannot be switched off
    pub preserve_client_ip: Option<bool>,
    /// Whether the client's address is told by a PROXY header, version 2
    pub proxy_protocol_v2: bool,
    /// What is registered
    pub target_kind: TargetKind,
    /// Tells our objects from those of another cluster's controller
    pub cluster_id: String,
    /// The class
    pub class: String,
}

/// `Scheme` of CreateLoadBalancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Reached from the Internet
    InternetFacing,
    /// Reached from the VPC and what is connected to it
    Internal,
}

/// A member of `SubnetMappings` of CreateLoadBalancer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubnetMapping {
    /// `SubnetId`
    pub subnet_id: String,
    /// `AllocationId`: the elastic IP address of an internet-facing one
    pub allocation_id: Option<String>,
    /// `PrivateIPv4Address` of an internal one
    pub private_ipv4_address: Option<String>,
    /// `IPv6Address`
    pub ipv6_address: Option<String>,
}

/// `IpAddressType` of CreateLoadBalancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpAddressType {
    /// IPv4 only
    Ipv4,
    /// IPv4 and IPv6
    Dualstack,
}

/// `TargetType` of CreateTargetGroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// Pods by their own addresses (`ip`)
    Pod,
    /// Nodes by their instance ids, at node ports (`instance`)
    Node,
}

/// How targets are probed: the members of CreateTargetGroup whose names begin
/// with `HealthCheck`, and the thresholds. `None`: AWS' default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthCheck {
    /// `TCP` (the default), `HTTP` or `HTTPS`
    pub protocol: Option<String>,
    /// `traffic-port` (the default), or 1 to 65535
    pub port: Option<String>,
    /// For HTTP and HTTPS
    pub path: Option<String>,
    /// 5 to 300
    pub interval_seconds: Option<i32>,
    /// 2 to 120
    pub timeout_seconds: Option<i32>,
    /// 2 to 10
    pub healthy_threshold_count: Option<i32>,
    /// 2 to 10
    pub unhealthy_threshold_count: Option<i32>,
}

impl Scheme {
    /// As in AWS' API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InternetFacing => "internet-facing",
            Self::Internal => "internal",
        }
    }
}

impl IpAddressType {
    /// As in AWS' API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Dualstack => "dualstack",
        }
    }
}

impl IpFamily {
    /// `IpAddressType` of CreateTargetGroup.
    pub(super) fn as_aws(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

impl TargetKind {
    /// As in AWS' API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "ip",
            Self::Node => "instance",
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// As a class has them that says no more than it must.
    pub(in super::super) fn settings() -> Settings {
        Settings {
            region: "eu-central-1".into(),
            vpc_id: "vpc-1".into(),
            scheme: Scheme::Internal,
            subnet_mappings: vec![SubnetMapping { subnet_id: "subnet-1".into(), ..SubnetMapping::default() }],
            security_groups: Vec::new(),
            ip_address_type: IpAddressType::Ipv4,
            target_ip_family: IpFamily::V4,
            cross_zone: false,
            load_balancer_arn: None,
            attributes: BTreeMap::new(),
            tags: BTreeMap::new(),
            health_check: HealthCheck::default(),
            deregistration_delay_seconds: None,
            preserve_client_ip: None,
            proxy_protocol_v2: false,
            target_kind: TargetKind::Pod,
            cluster_id: "cluster".into(),
            class: "default".into(),
        }
    }
}
