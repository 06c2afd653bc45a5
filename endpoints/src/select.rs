//! Which endpoints take traffic: the rules of Kubernetes, as kube-proxy has them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1 as api;
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointSlice};

use crate::Families;

/// One port of one pod, or of whatever else is behind the Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Endpoint {
    /// Where requests are sent.
    pub address: SocketAddr,
    /// The name of the pod, if it is one.
    pub pod: Option<Arc<str>>,
}

/// Why there is no endpoint for a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoEndpoint {
    /// The EndpointSlices of the Service have not been read yet.
    #[error("the EndpointSlices of the Service have not been read yet")]
    NotSynced,
    /// The Service does not exist, or no endpoint of the wanted IP families is fit for traffic.
    #[error("the Service has no endpoint that is ready")]
    NoneReady,
    /// The endpoints do not have the port of [`Config::port`](crate::Config::port).
    #[error("the endpoints of the Service have no port {port:?}, but {}", listed(ports))]
    UnknownPort {
        /// The port that was asked for
        port: String,
        /// The names of the ports that there are
        ports: BTreeSet<String>,
    },
    /// [`Config::port`](crate::Config::port) is needed, since the Service has several ports.
    #[error("the Service has several ports, of which one must be named: {}", listed(ports))]
    SeveralPorts {
        /// The names of the ports
        ports: BTreeSet<String>,
    },
}

fn listed(ports: &BTreeSet<String>) -> String {
    if ports.is_empty() {
        return "none at all".to_owned();
    }
    let quoted: Vec<String> = ports.iter().map(|port| format!("{port:?}")).collect();
    quoted.join(", ")
}

/// What a client wants of the endpoints of a Service; see [`Config`](crate::Config).
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) port: Option<String>,
    pub(crate) families: Families,
    pub(crate) zone: Option<String>,
}

/// The endpoints of these slices that take traffic: the ready ones, or those that serve while they
/// terminate if none is ready; of the preferred IP family; and of those, the ones for this client's
/// zone.
///
/// # Errors
/// If it is not clear which port is wanted, or no endpoint has it.
pub(crate) fn select<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    rules: &Rules,
) -> Result<BTreeSet<Endpoint>, NoEndpoint> {
    let candidates = candidates(slices, rules.port.as_deref())?;
    for fitness in [Fitness::Ready, Fitness::Draining] {
        for is_of_family in families_in_order(rules.families) {
            let fit = candidates.iter().filter(|each| each.fitness == fitness && is_of_family(&each.address.ip()));
            let fit: Vec<&Candidate<'_>> = fit.collect();
            // kube-proxy takes no notice of hints either if no endpoint is ready.
            let zone = rules.zone.as_deref().filter(|zone| fitness == Fitness::Ready && hints_are_for(zone, &fit));
            if !fit.is_empty() {
                let near = fit.into_iter().filter(|each| zone.is_none_or(|zone| each.zones.contains(zone)));
                return Ok(near.map(Candidate::endpoint).collect());
            }
        }
    }
    Ok(BTreeSet::new())
}

/// How fit an endpoint is for traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fitness {
    /// It terminates, and still serves.
    Draining,
    /// It is ready.
    Ready,
}

impl Fitness {
    /// None: it gets no traffic.
    ///
    /// What an absent condition means is in the API reference of EndpointConditions.
    fn of(conditions: Option<&EndpointConditions>) -> Option<Self> {
        let is_ready = conditions.and_then(|each| each.ready).unwrap_or(true);
        let is_serving = conditions.and_then(|each| each.serving).unwrap_or(true);
        let is_terminating = conditions.and_then(|each| each.terminating).unwrap_or(false);
        match is_ready {
            true => Some(Self::Ready),
            false => (is_serving && is_terminating).then_some(Self::Draining),
        }
    }
}

/// An endpoint that is fit for traffic.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate<'a> {
    // The first field, so that of two candidates the fitter one is the greater.
    fitness: Fitness,
    address: SocketAddr,
    zones: BTreeSet<&'a str>,
    pod: Option<&'a str>,
}

impl<'a> Candidate<'a> {
    /// None: the endpoint gets no traffic, or has no address of the slice's IP family.
    fn of(endpoint: &'a api::Endpoint, port: u16, slice: &EndpointSlice) -> Option<Self> {
        let hints = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_ref());
        Some(Self {
            fitness: Fitness::of(endpoint.conditions.as_ref())?,
            address: SocketAddr::new(ip(slice, endpoint)?, port),
            zones: hints.into_iter().flatten().map(|zone| zone.name.as_str()).collect(),
            pod: endpoint.target_ref.as_ref().and_then(pod_name),
        })
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.address, pod: self.pod.map(Arc::from) }
    }
}

fn pod_name(target: &ObjectReference) -> Option<&str> {
    target.name.as_deref().filter(|_| target.kind.as_deref() == Some("Pod"))
}

/// The endpoints that are fit for traffic, each address once: endpoints are in two slices for a
/// moment when they move from one to the other, and then the fitter one counts.
fn candidates<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    wanted_port: Option<&str>,
) -> Result<Vec<Candidate<'a>>, NoEndpoint> {
    // A Service without pods has a slice without endpoints, which has no ports either.
    let slices: Vec<_> = slices.into_iter().filter(|slice| !slice.endpoints.is_empty()).collect();
    let mut candidates = BTreeMap::new();
    let mut has_port = false;
    for slice in &slices {
        let Some(port) = port_number(slice, wanted_port)? else { continue };
        has_port = true;
        for candidate in slice.endpoints.iter().filter_map(|endpoint| Candidate::of(endpoint, port, slice)) {
            let fitter = match candidates.remove(&candidate.address) {
                Some(known) => candidate.max(known),
                None => candidate,
            };
            candidates.insert(fitter.address, fitter);
        }
    }
    match wanted_port {
        Some(port) if !has_port && !slices.is_empty() => {
            let ports = slices.iter().flat_map(|slice| port_names(slice)).collect();
            Err(NoEndpoint::UnknownPort { port: port.to_owned(), ports })
        }
        _ => Ok(candidates.into_values().collect()),
    }
}

/// The number of the wanted port in the pods of this slice; None: they do not have it.
fn port_number(slice: &EndpointSlice, wanted: Option<&str>) -> Result<Option<u16>, NoEndpoint> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let port = match (wanted, ports) {
        (Some(wanted), _) => ports.iter().find(|port| port.name.as_deref().unwrap_or_default() == wanted),
        (None, [] | [_]) => ports.first(),
        (None, _) => return Err(NoEndpoint::SeveralPorts { ports: port_names(slice).collect() }),
    };
    Ok(port.and_then(|port| port.port?.try_into().ok()))
}

fn port_names(slice: &EndpointSlice) -> impl Iterator<Item = String> {
    slice.ports.iter().flatten().map(|port| port.name.clone().unwrap_or_default())
}

/// The address of an endpoint, of which only the first one has a meaning in the API. None: it is
/// no IP address.
fn ip(slice: &EndpointSlice, endpoint: &api::Endpoint) -> Option<IpAddr> {
    let ip = endpoint.addresses.first()?.parse().ok()?;
    matches!((slice.address_type.as_str(), ip), ("IPv4", IpAddr::V4(_)) | ("IPv6", IpAddr::V6(_))).then_some(ip)
}

/// The IP families that are used, the preferred one first.
fn families_in_order(families: Families) -> &'static [fn(&IpAddr) -> bool] {
    match families {
        Families::PreferIpv4 => &[IpAddr::is_ipv4, IpAddr::is_ipv6],
        Families::PreferIpv6 => &[IpAddr::is_ipv6, IpAddr::is_ipv4],
        Families::Ipv4 => &[IpAddr::is_ipv4],
        Families::Ipv6 => &[IpAddr::is_ipv6],
    }
}

/// Whether zone hints are followed: all of the ready endpoints have some, and one is for this zone.
fn hints_are_for(zone: &str, ready: &[&Candidate<'_>]) -> bool {
    ready.iter().all(|each| !each.zones.is_empty()) && ready.iter().any(|each| each.zones.contains(zone))
}

#[cfg(test)]
mod tests;
