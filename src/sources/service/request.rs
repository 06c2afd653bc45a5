//! What a Service requests: its claim, and the fields of its spec that have no effect.
//! Pure.

use std::collections::BTreeSet;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use kube::ResourceExt as _;
use sharedlb_crds::{
    ADDRESS_ANNOTATION, ASSIGN_PORTS_ANNOTATION, ClientIpConfig, Reason, SessionAffinity, SessionAffinityConfig,
    SharedLBPort, SharedLBSpec,
};

use super::super::{OwnedClaim, Problem, owned, ports};
use crate::backends::ServicePort;
use crate::kubernetes::text;

/// The annotation for ranges of clients' addresses, which is older than the field.
const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// How many ports a claim can have.
const PORTS_MAX: usize = 64;

/// How many source ranges a claim can have. A Service may have any number of them.
const SOURCE_RANGES_MAX: usize = 64;

/// What a Service requests.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ServiceRequest {
    pub(super) handling: Handling,
    /// Fields of a Service that is served that have no effect: the reason and the message of
    /// the condition
    pub(super) unhonoured: Option<(&'static str, String)>,
}

/// How a Service is handled.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Handling {
    /// A claim is kept for it.
    Served(DesiredClaim),
    /// Nothing may be open for it: open ports are closed.
    Closed(Problem),
    /// Its spec cannot be carried out, for example since a name is misspelt: open ports
    /// stay open.
    Kept(Problem),
}

/// The claim of a Service, as far as it depends on the Service alone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DesiredClaim {
    class: String,
    service: String,
    address: Option<String>,
    source_ranges: SourceRanges,
    session_affinity: SessionAffinity,
    session_affinity_config: Option<SessionAffinityConfig>,
    /// All ports that can be shared, which may be more than a claim can have
    ports: Vec<SharedLBPort>,
    /// The numbers of the ports that cannot be shared
    unshareable: BTreeSet<i32>,
}

/// The claim of a Service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Offer {
    pub(super) spec: SharedLBSpec,
    /// Which ports of the Service are left out, and what to do about it
    pub(super) left_out: Option<String>,
}

impl ServiceRequest {
    pub(super) fn parse(service: &Service, class: &str) -> Self {
        let default = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&default);
        Self { handling: Handling::parse(service, spec, class), unhonoured: unhonoured(spec) }
    }
}

impl Handling {
    fn parse(service: &Service, spec: &ServiceSpec, class: &str) -> Self {
        let unsupported = |message: String| Self::Closed(Problem { reason: Reason::Unsupported, message });
        let rejected = |message: String| Self::Kept(Problem { reason: Reason::Rejected, message });
        let source_ranges = match SourceRanges::parse(service, spec) {
            Ok(ranges) => ranges,
            Err(message) => return Self::Closed(Problem { reason: Reason::Rejected, message }),
        };
        if !owned::is_class_name(class) {
            let class = text::value(class);
            return rejected(format!(
                "class {class} cannot exist: give the name of a class, as kubectl get slbc lists them"
            ));
        }
        let annotation = |key: &str| service.annotations().get(key).filter(|value| !value.is_empty());
        let of_service: Vec<ServicePort> = spec.ports.iter().flatten().map(ServicePort::parse).collect();
        let unshareable = of_service.iter().filter(|port| port.transport.is_none()).map(|port| port.number).collect();
        let mut ports = ports::of_service(&of_service);
        if ports.is_empty() {
            return unsupported(no_transport(&unshareable));
        }
        if annotation(ASSIGN_PORTS_ANNOTATION).is_none_or(|value| value != "true") {
            ports.iter_mut().for_each(|port| port.port = ports::same_number(port));
        }
        let address = annotation(ADDRESS_ANNOTATION)
            .or(spec.load_balancer_ip.as_ref().filter(|address| !address.is_empty()))
            .cloned();
        let session_affinity = session_affinity(spec);
        Self::Served(DesiredClaim {
            class: class.to_owned(),
            service: service.name_any(),
            address,
            source_ranges,
            session_affinity,
            session_affinity_config: session_affinity_config(spec)
                .filter(|_| session_affinity == SessionAffinity::ClientIp),
            ports,
            unshareable,
        })
    }
}

impl DesiredClaim {
    /// The desired claim, given the current one: of more ports than fit, those of the
    /// current claim stay. Of more source ranges than fit, the clients of the last ones are
    /// not served: a claim that stayed as it was might serve those that the Service excludes.
    pub(super) fn offer(&self, claim: Option<&OwnedClaim>) -> Offer {
        let before = claim.and_then(|claim| claim.spec.as_ref().ok()).map_or(&[][..], |spec| &spec.ports);
        let has = |port: &SharedLBPort| before.iter().any(|other| other.target_port == port.target_port);
        let mut by_preference: Vec<usize> = (0..self.ports.len()).collect();
        by_preference.sort_by_key(|index| !has(&self.ports[*index]));
        let chosen: BTreeSet<usize> = by_preference.into_iter().take(PORTS_MAX).collect();
        let mut ports = Vec::new();
        let mut left = Vec::new();
        for (index, port) in self.ports.iter().enumerate() {
            if chosen.contains(&index) { ports.push(port.clone()) } else { left.push(port) }
        }
        let spec = SharedLBSpec {
            class_name: Some(self.class.clone()),
            service_name: Some(self.service.clone()),
            address: self.address.clone(),
            load_balancer_source_ranges: self.source_ranges.all.iter().take(SOURCE_RANGES_MAX).copied().collect(),
            session_affinity: self.session_affinity,
            session_affinity_config: self.session_affinity_config,
            ports,
            ..SharedLBSpec::default()
        };
        Offer { spec, left_out: self.left_out(&left) }
    }

    fn left_out(&self, too_many: &[&SharedLBPort]) -> Option<String> {
        let transport = (!self.unshareable.is_empty()).then(|| no_transport(&self.unshareable));
        let number = (!too_many.is_empty()).then(|| {
            let left =
                too_many.iter().filter_map(|port| ports::same_number(port)).map(|number| i32::from(number.get()));
            let all = self.ports.len();
            let left = listed(&left.collect());
            format!("it has {all} ports, and at most {PORTS_MAX} can be shared ({left} left out): split it")
        });
        let ranges = self.source_ranges.all.len();
        let ranges = (ranges > SOURCE_RANGES_MAX).then(|| {
            format!(
                "it has {ranges} source ranges, and a claim can have {SOURCE_RANGES_MAX}, so the clients in the last \
                 {} are not served: merge some of them",
                ranges - SOURCE_RANGES_MAX
            )
        });
        let unreadable = &self.source_ranges.unreadable;
        let messages: Vec<String> =
            transport.into_iter().chain(number).chain(ranges).chain(unreadable.clone()).collect();
        (!messages.is_empty()).then(|| messages.join("; "))
    }
}

fn no_transport(numbers: &BTreeSet<i32>) -> String {
    let it = if numbers.len() == 1 { "it" } else { "them" };
    format!("{}: only TCP and UDP can be shared: remove {it}", listed(numbers))
}

/// `port 1`, `ports 1, 2`
fn listed(numbers: &BTreeSet<i32>) -> String {
    let list = numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(", ");
    format!("port{} {list}", if numbers.len() == 1 { "" } else { "s" })
}

/// The ranges of the addresses of clients that a Service admits.
#[derive(Debug, Clone, PartialEq)]
struct SourceRanges {
    /// None: all clients
    all: Vec<IpNet>,
    /// Which ranges cannot be read, so that their clients are not served, and what to do about it
    unreadable: Option<String>,
}

impl SourceRanges {
    /// The ranges of a Service. As everywhere in Kubernetes, the field has precedence over the
    /// annotation. The API server validates both, so few are ever unreadable.
    ///
    /// # Errors
    /// If none of them can be read: an empty list would admit all clients.
    fn parse(service: &Service, spec: &ServiceSpec) -> Result<Self, String> {
        let field = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
        let annotation = service.annotations().get(SOURCE_RANGES_ANNOTATION).filter(|_| field.is_empty());
        let of_annotation = annotation.iter().flat_map(|ranges| ranges.split(','));
        let texts = field.iter().map(String::as_str).chain(of_annotation).map(str::trim);
        let texts: Vec<&str> = texts.filter(|range| !range.is_empty()).collect();
        let mut all: Vec<IpNet> = texts.iter().filter_map(|range| range.parse().ok()).collect();
        let unreadable = texts.iter().find(|range| range.parse::<IpNet>().is_err()).map(|first| {
            let others = match texts.len() - all.len() {
                1 => String::new(),
                count => format!(" (and {} more)", count - 1),
            };
            let first = text::value(first);
            format!(
                "source range {first} is not a range of addresses{others}, so its clients are not served: write it as \
                 in 10.0.0.0/8 or fd00::/8"
            )
        });
        if let Some(message) = unreadable.as_ref().filter(|_| all.is_empty()) {
            return Err(message.clone());
        }
        // A Service with IPv6 alone has no other clients.
        let only_v6 = spec.ip_families.as_deref().is_some_and(|families| families == ["IPv6"]);
        if only_v6 && all.iter().any(|range| range.addr().is_ipv6() && range.prefix_len() == 0) {
            all.clear();
        }
        if all.len() > SOURCE_RANGES_MAX {
            all = IpNet::aggregate(&all);
        }
        Ok(Self { all, unreadable })
    }
}

fn session_affinity(spec: &ServiceSpec) -> SessionAffinity {
    match spec.session_affinity.as_deref() {
        Some("ClientIP") => SessionAffinity::ClientIp,
        _ => SessionAffinity::None,
    }
}

/// The settings of session affinity. Kubernetes sets the timeout of every Service that has it.
fn session_affinity_config(spec: &ServiceSpec) -> Option<SessionAffinityConfig> {
    let timeout = spec.session_affinity_config.as_ref()?.client_ip.as_ref()?.timeout_seconds?;
    let client_ip = Some(ClientIpConfig { timeout_seconds: timeout.try_into().ok()? });
    Some(SessionAffinityConfig { client_ip })
}

/// The fields of a Service that have no effect although it is served.
fn unhonoured(spec: &ServiceSpec) -> Option<(&'static str, String)> {
    let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let message = "externalTrafficPolicy Local: pods see the address of a node instead of the client's, and traffic goes to the pods of all nodes";
    is_local.then(|| ("ExternalTrafficPolicy", message.to_owned()))
}
