//! The settings of the Network Load Balancers of a class, by the names of AWS' own API.

use std::collections::BTreeMap;

use crate::model::IpFamily;

/// The settings of the load balancers of a class.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The region, as in `eu-central-1`
    pub region: String,
    /// The VPC of the target groups
    pub vpc_id: String,
    /// Whether the load balancers are reachable from the Internet
    pub scheme: Scheme,
    /// The subnets, one for each zone; none for an adopted load balancer
    pub subnet_mappings: Vec<SubnetMapping>,
    /// Their security groups. A load balancer that was created without any can never get one,
    /// and one that was created with some must keep at least one (ELB user guide, "Update the
    /// security groups for your Network Load Balancer")
    pub security_groups: Vec<String>,
    /// The families of their addresses
    pub ip_address_type: IpAddressType,
    /// The family of the pods' addresses that are registered: a target group takes one family.
    /// `V6` needs [`IpAddressType::Dualstack`]
    pub target_ip_family: IpFamily,
    /// Whether the nodes of a load balancer in each zone send traffic to targets in all zones.
    /// It lowers the limit of a load balancer to 500 targets
    pub cross_zone: bool,
    /// An existing load balancer to open listeners on. It is never created, configured or
    /// deleted, and the class can have no second one
    pub load_balancer_arn: Option<String>,
    /// Further attributes, as in ModifyLoadBalancerAttributes
    pub attributes: BTreeMap<String, String>,
    /// Tags of every object that is created. Ours have precedence
    pub tags: BTreeMap<String, String>,
    /// The health check of targets
    pub health_check: HealthCheck,
    /// How long a deregistered target may finish its connections, in seconds; 0 to 3600,
    /// `None`: AWS' default, 300
    pub deregistration_delay_seconds: Option<u32>,
    /// Whether targets see the client's address; `None`: AWS' default (no for TCP
    /// to pods, else yes). For UDP it cannot be switched off
    pub preserve_client_ip: Option<bool>,
    /// Whether a PROXY header, version 2, has the client's address
    pub proxy_protocol_v2: bool,
    /// The kind of targets
    pub target_kind: TargetKind,
    /// The id of this cluster, in the tags of its objects
    pub cluster_id: String,
    /// The class
    pub class: String,
}

/// `Scheme` of CreateLoadBalancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Reachable from the Internet
    InternetFacing,
    /// Reachable from the VPC and networks that are connected to it
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
    /// Pods, by their own addresses (`ip`)
    Pod,
    /// Nodes, by their instance ids, at node ports (`instance`)
    Node,
}

/// The health check of targets: the members of CreateTargetGroup whose names begin with
/// `HealthCheck`, and the thresholds. `None`: AWS' default.
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

    /// Those of a class with only the required fields.
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
