//! The settings of a class, and the names of its objects.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio::sync::watch;

/// The ids of the nodes that traffic may be sent to, as in their `spec.providerID`; `None`: they
/// are not known yet.
pub type NodeIds = watch::Receiver<Option<Arc<BTreeSet<Arc<str>>>>>;

/// The settings of the load balancers of a class.
#[derive(Debug, Clone, Hash)]
pub struct Settings {
    /// The project of the load balancers
    pub project: String,
    /// Their region
    pub region: String,
    /// The VPC network of the nodes
    pub network: Reference,
    /// The subnetwork of the nodes, and of internal addresses
    pub subnetwork: Reference,
    /// From where they are reachable
    pub scheme: Scheme,
    /// The network tier of external load balancers
    pub network_tier: NetworkTier,
    /// The names of existing addresses, one for each load balancer by its index. A load balancer
    /// without one gets an address of its own
    pub address_names: Vec<String>,
    /// Labels of addresses and forwarding rules
    pub labels: BTreeMap<String, String>,
    /// Whether an internal load balancer is reachable from all regions
    pub global_access: bool,
    /// Whether a client keeps its node
    pub session_affinity: Affinity,
    /// The most nodes that get traffic from a load balancer
    pub entry_nodes: u32,
    /// The firewall rules of its address
    pub firewall: Firewall,
    /// The health check of nodes
    pub health_check: HealthCheck,
    /// The Secret with credentials; `None`: those of the environment
    pub secret_name: Option<String>,
    /// The id of this cluster, in the objects' descriptions
    pub cluster_id: String,
    /// The class
    pub class: String,
}

/// An object that may be in another project (Shared VPC).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Its project
    pub project: String,
    /// Its name
    pub name: String,
}

impl Reference {
    /// The object that a text names: its name, or a path that begins with `projects/PROJECT/`.
    #[must_use]
    pub fn parse(text: &str, project: &str) -> Self {
        let name = text.rsplit('/').next().unwrap_or(text).to_owned();
        let mut parts = text.split('/').skip_while(|part| *part != "projects").skip(1);
        let project = parts.next().unwrap_or(project).to_owned();
        Self { project, name }
    }
}

/// From where a load balancer is reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// From the Internet
    External,
    /// From the network, and networks that are connected to it
    Internal,
}

/// How the traffic of an external load balancer gets to Google's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NetworkTier {
    /// Near to the client
    Premium,
    /// Near to the region
    Standard,
}

/// Whether the connections of a client go to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Affinity {
    /// Each connection goes to any node
    None,
    /// By the address of the client
    ClientIp,
    /// By the address of the client and the protocol
    ClientIpProto,
}

/// The firewall rules of the address of a load balancer.
#[derive(Debug, Clone, Hash)]
pub struct Firewall {
    /// What is allowed
    pub manage: Managed,
    /// The clients that are allowed
    pub source_ranges: Vec<Ipv4Net>,
    /// The network tags of the nodes; none: all instances of the network, as far as they have the
    /// address
    pub target_tags: Vec<String>,
    /// The service accounts of the nodes, instead of tags
    pub target_service_accounts: Vec<String>,
    /// The priority of the rule that allows, from 0, which comes first, to 65534. The rule that
    /// denies has the next one
    pub priority: u16,
    /// Whether the rest of the address is denied
    pub deny_rest: bool,
}

/// What the firewall rules of SharedLB's allow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Managed {
    /// The ports of listeners
    Ports,
    /// These ports, whether they have listeners or not
    Range(Vec<RangeInclusive<u16>>),
    /// Nothing: an admin writes the rules
    None,
}

/// The health check of nodes.
#[derive(Debug, Clone, Hash)]
pub struct HealthCheck {
    /// The port, 1 to 65535
    pub port: u16,
    /// The path of the request
    pub path: String,
    /// Between two checks, in seconds
    pub interval_seconds: u32,
    /// How many failed checks in a row make a node unhealthy
    pub unhealthy_threshold: u32,
}

impl Scheme {
    /// As in the API of Compute Engine.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::External => "EXTERNAL",
            Self::Internal => "INTERNAL",
        }
    }
}

impl NetworkTier {
    /// As in the API of Compute Engine.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Premium => "PREMIUM",
            Self::Standard => "STANDARD",
        }
    }
}

impl Affinity {
    /// As in the API of Compute Engine.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::ClientIp => "CLIENT_IP",
            Self::ClientIpProto => "CLIENT_IP_PROTO",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_of_another_project_is_named_by_its_path() {
        let reference = |text| Reference::parse(text, "own");
        assert_eq!(reference("default"), Reference { project: "own".into(), name: "default".into() });
        let shared = Reference { project: "host".into(), name: "vpc".into() };
        assert_eq!(reference("projects/host/global/networks/vpc"), shared);
        assert_eq!(reference("https://www.googleapis.com/compute/v1/projects/host/global/networks/vpc"), shared);
    }
}
