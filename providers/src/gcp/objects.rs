//! The objects of Compute Engine that make up a load balancer, as far as they are sent and read:
//! fields of the API `compute`, version 1.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::settings::Settings;
use crate::model::LbName;

/// The name of a zone, such as `europe-west3-a`.
pub(super) type Zone = Arc<str>;

/// One object of a load balancer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Object {
    /// Its address
    Address,
    /// The health check of its nodes
    HealthCheck,
    /// The nodes of a zone: a network endpoint group
    Group(Zone),
    /// Its groups of nodes
    BackendService,
    /// What accepts its traffic
    ForwardingRule,
    /// A firewall rule
    Firewall(Rule),
}

/// The firewall rules of a load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rule {
    /// Allows the ports of listeners
    Allow,
    /// Denies the other ports of the address
    Deny,
    /// Allows health checks
    Health,
}

impl Rule {
    pub(super) const ALL: [Self; 3] = [Self::Allow, Self::Deny, Self::Health];

    fn suffix(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Health => "health",
        }
    }
}

impl Object {
    /// Its kind, as in names of permissions: `compute.KIND.create`.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Address => "addresses",
            Self::HealthCheck => "regionHealthChecks",
            Self::Group(_) => "networkEndpointGroups",
            Self::BackendService => "regionBackendServices",
            Self::ForwardingRule => "forwardingRules",
            Self::Firewall(_) => "firewalls",
        }
    }

    /// Whether it is a firewall rule.
    pub(super) fn is_firewall(&self) -> bool {
        matches!(self, Self::Firewall(_))
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("address"),
            Self::HealthCheck => f.write_str("health check"),
            Self::Group(zone) => write!(f, "network endpoint group in {zone}"),
            Self::BackendService => f.write_str("backend service"),
            Self::ForwardingRule => f.write_str("forwarding rule"),
            Self::Firewall(rule) => write!(f, "firewall rule {}", rule.suffix()),
        }
    }
}

/// The names and paths of the objects of one load balancer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) settings: &'a Settings,
    pub(super) name: &'a LbName,
    /// The name of an existing address
    pub(super) address: Option<&'a str>,
}

impl Names<'_> {
    /// The name of an object.
    pub(super) fn of(&self, object: &Object) -> String {
        match object {
            Object::Address => self.address.unwrap_or(self.name.as_str()).to_owned(),
            Object::Firewall(rule) => format!("{}-{}", self.name, rule.suffix()),
            _ => self.name.to_string(),
        }
    }

    /// The path of the project, region or zone that an object is in: operations on it are there
    /// too.
    pub(super) fn scope(&self, object: &Object) -> String {
        let Settings { project, region, network, .. } = self.settings;
        match object {
            Object::Group(zone) => format!("projects/{project}/zones/{zone}"),
            // Firewall rules are in the project of their network.
            Object::Firewall(_) => format!("projects/{}/global", network.project),
            _ => format!("projects/{project}/regions/{region}"),
        }
    }

    /// The path of the objects of its kind.
    pub(super) fn collection(&self, object: &Object) -> String {
        let kind = match object {
            Object::HealthCheck => "healthChecks",
            Object::BackendService => "backendServices",
            object => object.kind(),
        };
        format!("{}/{kind}", self.scope(object))
    }

    /// The path of an object.
    pub(super) fn path(&self, object: &Object) -> String {
        format!("{}/{}", self.collection(object), self.of(object))
    }

    /// The path of the network.
    pub(super) fn network(&self) -> String {
        let network = &self.settings.network;
        format!("projects/{}/global/networks/{}", network.project, network.name)
    }

    /// The path of the subnetwork.
    pub(super) fn subnetwork(&self) -> String {
        let Settings { subnetwork, region, .. } = self.settings;
        format!("projects/{}/regions/{region}/subnetworks/{}", subnetwork.project, subnetwork.name)
    }

    /// The description by which an object is known to be ours.
    pub(super) fn description(&self) -> String {
        serde_json::to_string(&self.ownership()).unwrap_or_default()
    }

    /// Whether an object with this description is ours.
    pub(super) fn is_ours(&self, description: &str) -> bool {
        serde_json::from_str::<Ownership>(description).is_ok_and(|found| found == self.ownership())
    }

    fn ownership(&self) -> Ownership {
        Ownership {
            cluster: self.settings.cluster_id.clone(),
            class: self.settings.class.clone(),
            load_balancer: self.name.to_string(),
        }
    }
}

/// The record of the owner of an object. It is a description, since labels cannot be set when an
/// object is created, and not every kind has them.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Ownership {
    #[serde(rename = "sharedlb.dev/cluster")]
    cluster: String,
    #[serde(rename = "sharedlb.dev/class")]
    class: String,
    #[serde(rename = "sharedlb.dev/load-balancer")]
    load_balancer: String,
}

/// An address of a region.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Address {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) address: Option<String>,
    pub(super) address_type: Option<String>,
    pub(super) network_tier: Option<String>,
    pub(super) subnetwork: Option<String>,
    /// The URLs of what uses it
    #[serde(skip_serializing)]
    pub(super) users: Vec<String>,
    #[serde(skip_serializing)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(skip_serializing)]
    pub(super) label_fingerprint: Option<String>,
}

/// A health check of a region.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct HealthCheck {
    pub(super) name: String,
    pub(super) description: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) http_health_check: Option<HttpHealthCheck>,
    pub(super) check_interval_sec: u32,
    pub(super) timeout_sec: u32,
    pub(super) healthy_threshold: u32,
    pub(super) unhealthy_threshold: u32,
}

/// The request of a health check.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct HttpHealthCheck {
    pub(super) port: u16,
    pub(super) request_path: String,
}

/// A network endpoint group of a zone.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) network_endpoint_type: String,
    pub(super) network: Option<String>,
    pub(super) subnetwork: Option<String>,
}

/// Instances of a network endpoint group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Endpoints {
    pub(super) network_endpoints: Vec<Endpoint>,
}

/// One instance of a network endpoint group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Endpoint {
    /// Its name, or its URL
    pub(super) instance: String,
}

/// A page of the instances of a network endpoint group.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EndpointPage {
    pub(super) items: Vec<EndpointItem>,
    pub(super) next_page_token: Option<String>,
}

/// One of the instances.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EndpointItem {
    pub(super) network_endpoint: Endpoint,
}

/// A backend service of a region.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BackendService {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) protocol: String,
    pub(super) load_balancing_scheme: String,
    pub(super) session_affinity: String,
    pub(super) health_checks: Vec<String>,
    pub(super) backends: Vec<Backend>,
    pub(super) fingerprint: Option<String>,
}

/// A group of a backend service.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Backend {
    pub(super) group: String,
    pub(super) balancing_mode: Option<String>,
}

/// A forwarding rule of a region.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ForwardingRule {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) load_balancing_scheme: String,
    #[serde(rename = "IPAddress")]
    pub(super) ip_address: String,
    #[serde(rename = "IPProtocol")]
    pub(super) ip_protocol: String,
    pub(super) all_ports: bool,
    pub(super) backend_service: String,
    pub(super) network_tier: Option<String>,
    pub(super) network: Option<String>,
    pub(super) subnetwork: Option<String>,
    pub(super) allow_global_access: Option<bool>,
    #[serde(skip_serializing)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(skip_serializing)]
    pub(super) label_fingerprint: Option<String>,
}

/// A firewall rule of a network.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Firewall {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) network: String,
    pub(super) direction: String,
    pub(super) priority: u32,
    pub(super) disabled: bool,
    pub(super) source_ranges: Vec<String>,
    pub(super) destination_ranges: Vec<String>,
    pub(super) target_tags: Vec<String>,
    pub(super) target_service_accounts: Vec<String>,
    pub(super) allowed: Option<Vec<Ports>>,
    pub(super) denied: Option<Vec<Ports>>,
}

/// Ports of a protocol in a firewall rule.
#[skip_serializing_none]
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Ports {
    #[serde(rename = "IPProtocol")]
    pub(super) ip_protocol: String,
    /// Each a number, or a range such as `30000-30100`; `None`: all
    pub(super) ports: Option<Vec<String>>,
}

/// An operation that was started by a call.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Operation {
    pub(super) name: String,
    pub(super) status: String,
    pub(super) error: Option<OperationError>,
}

impl Operation {
    /// Whether it is complete, with success or not.
    pub(super) fn is_done(&self) -> bool {
        self.status == "DONE"
    }
}

/// Why an operation failed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct OperationError {
    pub(super) errors: Vec<Said>,
}

/// One reason.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Said {
    /// In upper case, such as `QUOTA_EXCEEDED`
    pub(super) code: String,
    pub(super) message: String,
}

/// A region.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Region {
    /// The URLs of its zones
    pub(super) zones: Vec<String>,
}

/// The last part of a URL or path: the name of the object.
pub(super) fn last_part(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// Whether the object that a URL or path names is in this zone.
pub(super) fn is_in(zone: &Zone, url: &str) -> bool {
    url.split('/').any(|part| part == &**zone)
}

/// Whether two URLs or paths name the same object.
pub(super) fn same_object(one: &str, other: &str) -> bool {
    path(one) == path(other)
}

/// The path of the object that a URL names.
fn path(text: &str) -> &str {
    text.find("/projects/").filter(|_| text.contains("://")).map_or(text, |at| &text[at + 1..])
}
