//! What a Service requests: its claim, and the fields of its spec that have no effect.
//! Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use kube::ResourceExt as _;
use sharedlb_crds::{ADDRESS_ANNOTATION, ASSIGN_PORTS_ANNOTATION, Reason, SharedLBPort, SharedLBSpec};

use super::super::{OwnedClaim, Refusal, owned, ports};
use crate::backends::ServicePort;
use crate::kubernetes::text;

/// The annotation for ranges of clients' addresses, which is older than the field.
const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// How many ports a claim can have.
const PORTS_MAX: usize = 64;

/// What a Service requests.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) handling: Handling,
    /// Fields of a Service that is served that have no effect: the reason and the message of
    /// the condition
    pub(super) unhonoured: Option<(&'static str, String)>,
}

/// How a Service is handled.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Handling {
    /// A claim is kept for it.
    Served(Wanted),
    /// Nothing may be open for it: open ports are closed.
    Closed(Refusal),
    /// Its spec cannot be carried out, for example since a name is misspelt: open ports
    /// stay open.
    Kept(Refusal),
}

/// The claim of a Service, as far as it depends on the Service alone.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    class: String,
    service: String,
    address: Option<String>,
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

impl Request {
    pub(super) fn parse(service: &Service, class: &str) -> Self {
        let default = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&default);
        Self { handling: Handling::parse(service, spec, class), unhonoured: unhonoured(spec) }
    }
}

impl Handling {
    fn parse(service: &Service, spec: &ServiceSpec, class: &str) -> Self {
        let unsupported = |message: String| Self::Closed(Refusal { reason: Reason::Unsupported, message });
        if let Some(message) = kept_out(service, spec, class) {
            return unsupported(message);
        }
        if !owned::is_class_name(class) {
            let class = text::value(class);
            let message =
                format!("class {class} cannot exist: give the name of a class, as kubectl get slbc lists them");
            return Self::Kept(Refusal { reason: Reason::Rejected, message });
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
        Self::Served(Wanted { class: class.to_owned(), service: service.name_any(), address, ports, unshareable })
    }
}

impl Wanted {
    /// The desired claim, given the current one: of more ports than fit, those of the
    /// current claim stay.
    pub(super) fn offer(&self, claim: Option<&OwnedClaim>) -> Offer {
        let before = claim.and_then(|claim| claim.spec.as_ref().ok()).map_or(&[][..], |spec| &spec.ports);
        let has = |port: &SharedLBPort| before.iter().any(|other| other.target_port == port.target_port);
        let mut by_preference: Vec<usize> = (0..self.ports.len()).collect();
        by_preference.sort_by_key(|index| !has(&self.ports[*index]));
        let chosen: BTreeSet<usize> = by_preference.into_iter().take(PORTS_MAX).collect();
        let (mut ports, mut left) = (Vec::new(), Vec::new());
        for (index, port) in self.ports.iter().enumerate() {
            if chosen.contains(&index) { ports.push(port.clone()) } else { left.push(port) }
        }
        let spec = SharedLBSpec {
            class_name: Some(self.class.clone()),
            service_name: Some(self.service.clone()),
            address: self.address.clone(),
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
            let (all, left) = (self.ports.len(), listed(&left.collect()));
            format!("it has {all} ports, and at most {PORTS_MAX} can be shared ({left} left out): split it")
        });
        let messages: Vec<String> = transport.into_iter().chain(number).collect();
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

/// Why nothing may be opened for a Service: it admits only some clients, and SharedLB
/// cannot reject the others.
///
/// As everywhere in Kubernetes, the field has precedence over the annotation.
fn kept_out(service: &Service, spec: &ServiceSpec, class: &str) -> Option<String> {
    let field = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let annotation = service.annotations().get(SOURCE_RANGES_ANNOTATION).map(|ranges| ranges.trim());
    let (name, it, ranges): (String, _, Vec<&str>) = if field.is_empty() {
        let ranges = annotation.filter(|ranges| !ranges.is_empty())?;
        (format!("annotation {SOURCE_RANGES_ANNOTATION}"), "it", ranges.split(',').collect())
    } else {
        ("loadBalancerSourceRanges".to_owned(), "them", field.iter().map(String::as_str).collect())
    };
    let only_v6 = spec.ip_families.as_deref().is_some_and(|families| families == ["IPv6"]);
    (!admits_all_clients(&ranges, only_v6)).then(|| {
        format!(
            "{name}: class {class} cannot keep other clients out, so nothing is opened: remove {it}, let all in with 0.0.0.0/0, or use another load balancer"
        )
    })
}

/// Whether these ranges admit every client. As in Kubernetes' own helper for cloud
/// controllers (`IsAllowAll`), 0.0.0.0/0 among them is enough. ::/0 alone rejects IPv4
/// clients, so it admits every client only of a Service with IPv6 alone.
fn admits_all_clients(ranges: &[&str], only_v6: bool) -> bool {
    let all_of = |range: &str| {
        let (address, length) = range.trim().split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        (length.parse() == Ok(0_u8)).then_some(address)
    };
    ranges.iter().filter_map(|range| all_of(range)).any(|address| address.is_ipv4() || only_v6)
}

/// The fields of a Service that have no effect although it is served.
fn unhonoured(spec: &ServiceSpec) -> Option<(&'static str, String)> {
    let local = (spec.external_traffic_policy.as_deref() == Some("Local")).then_some((
        "ExternalTrafficPolicy",
        "externalTrafficPolicy Local: pods see the address of a node instead of the client's, and traffic goes to the pods of all nodes",
    ));
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then_some((
        "SessionAffinity",
        "sessionAffinity ClientIP: connections of one client through the shared load balancer go to any pod",
    ));
    let found: Vec<_> = local.into_iter().chain(affinity).collect();
    let (reason, _) = found.first()?;
    Some((reason, found.iter().map(|(_, message)| *message).collect::<Vec<_>>().join("; ")))
}
