//! Renders a verdict as the status of its claim. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sharedlb_crds::{ConditionType, Ingress, IngressPort, LoadBalancerIngress, PortStatus, Reason, SharedLBStatus};
use sharedlb_providers::{Address, FrontPort, IpFamily, ListenerKey};

use crate::allocation::{Assignment, Held, HeldSlot};
use crate::api::claim::{ClaimObject, api_protocol, api_transport, opened as opened_before};
use crate::kubernetes::{conditions, text};
use crate::load_balancer::outcome::Failure;
use crate::load_balancer::share::LeftOut;

/// The most ports that a text names. It gives the number of the others.
const LISTED_PORTS: usize = 4;

/// The message of a claim that is ready.
const EVERY_PORT_HAS_A_BACKEND: &str = "every port is served, and has a backend";

/// The state of a claim. Equal verdicts on one version of a claim render to the same
/// status, so most claims need not be rendered.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    /// The slots that the claim holds
    pub held: Option<Held>,
    /// Why it does not hold every port in its spec
    pub refused: Option<Unallocated>,
    /// The state of its slots on the load balancer
    pub programmed: Programmed,
    /// The addresses of the load balancer; `None`: not known yet
    pub addresses: Option<Arc<[Address]>>,
    /// The ports that clients can reach now: the load balancer has an address, and a
    /// listener for this claim
    pub open: BTreeSet<FrontPort>,
}

/// What keeps a claim from getting the ports in its spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unallocated {
    /// The reason of the condition. `None`: the claim waits for something that passes by
    /// itself, or that its author may not know
    pub reason: Option<Reason>,
    /// For the author of the claim
    pub message: String,
}

impl Unallocated {
    /// It stays until the claim, the class or the cluster is changed.
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason: Some(reason), message: message.into() }
    }
}

impl Verdict {
    /// Whether this is still the verdict on a claim with this assignment, if nothing else
    /// of the claim has changed. A refusal may change with every other claim, so a
    /// verdict with one does not stand.
    pub(crate) fn stands(&self, got: &Assignment) -> bool {
        got.refused.is_empty() && self.refused.is_none() && self.held == got.granted
    }
}

/// The state of a claim's slots on the load balancer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Programmed {
    /// The load balancer has not been observed since this process started: the status
    /// stays as it is.
    Unknown,
    /// The load balancer has not opened all of them yet.
    Pending,
    /// The load balancer serves all of them.
    Served(Served),
    /// The load balancer cannot serve all of them.
    Failed(Failure),
}

/// What keeps traffic from slots, or from some of their backends, although the load
/// balancer serves all of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Served {
    /// The names of ports of which a transport has no backend, and why; `None`: the cause
    /// is not known yet
    pub without_backends: Vec<(Arc<str>, Option<Failure>)>,
    /// The ports that have backends, but none in an IP family of the load balancer
    pub idle_families: Vec<IdleFamily>,
    /// Names of the ports that have more backends than the load balancer takes
    pub left_out: Vec<(Arc<str>, LeftOut)>,
    /// Why the load balancer has no address, if that is overdue
    pub no_address: Option<Failure>,
    /// The timeout of session affinity that is requested, where the load balancer has another
    /// one
    pub least_affinity: Option<Duration>,
}

/// An IP family of the load balancer in which a port has no backend.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct IdleFamily {
    /// The name of the port
    pub port: Arc<str>,
    pub family: IpFamily,
    pub why: String,
}

/// The status of a claim of this class with this verdict.
pub(crate) fn status(claim: &ClaimObject, class: Option<&str>, verdict: &Verdict, now: Timestamp) -> SharedLBStatus {
    let before = &claim.status;
    let is_unknown = verdict.programmed == Programmed::Unknown
        && numbered(verdict.held.as_ref()) == numbered(claim.request.held.as_ref());
    let addresses: Vec<Address> = match &verdict.addresses {
        Some(addresses) => addresses.to_vec(),
        None => before.all_addresses().map(Address::parse).collect(),
    };
    let held = verdict.held.as_ref();
    let slots = held.map_or(&[][..], |held| &held.slots);
    let mut status = SharedLBStatus {
        class_name: held.and(class).map(str::to_owned),
        load_balancer_index: held.map(|held| held.index),
        address: held.and(addresses.first()).map(Address::to_string),
        addresses: held.map_or_else(Vec::new, |_| addresses.iter().map(Address::to_string).collect()),
        summary: (!slots.is_empty()).then(|| summary(claim, slots)),
        load_balancer: ingress(&addresses, served_once(claim, slots, &verdict.open)),
        ports: slots.iter().map(|slot| port_status(claim, slot, &verdict.open)).collect(),
        observed_generation: Some(claim.meta.generation),
        conditions: Vec::new(),
    };
    if is_unknown && verdict.addresses.is_none() {
        status.load_balancer.clone_from(&before.load_balancer);
    }
    let [allocated, programmed, ready] = findings(class, verdict, &addresses);
    let kept = |kind: ConditionType| is_unknown.then(|| conditions::find(&before.conditions, kind)).flatten();
    for (kind, finding) in [
        (ConditionType::Allocated, allocated.clone()),
        (ConditionType::Programmed, kept(ConditionType::Programmed).map_or(programmed, Finding::from)),
        // A new refusal is in Ready although the load balancer has not been observed.
        (ConditionType::Ready, kept(ConditionType::Ready).filter(|_| allocated.is_true()).map_or(ready, Finding::from)),
    ] {
        status.conditions.push(condition(kind, finding, &before.conditions, claim.meta.generation, now));
    }
    status
}

/// One condition's status, reason and message.
#[derive(Clone)]
struct Finding {
    status: &'static str,
    reason: String,
    message: String,
}

impl Finding {
    fn new(status: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        Self { status, reason: reason.as_str().to_owned(), message: message.into() }
    }

    fn is_true(&self) -> bool {
        self.status == "True"
    }
}

impl From<&Condition> for Finding {
    fn from(condition: &Condition) -> Self {
        let status = match condition.status.as_str() {
            "True" => "True",
            "False" => "False",
            _ => "Unknown",
        };
        Self { status, reason: condition.reason.clone(), message: condition.message.clone() }
    }
}

/// Allocated, Programmed and Ready.
fn findings(class: Option<&str>, verdict: &Verdict, addresses: &[Address]) -> [Finding; 3] {
    let allocated = match (&verdict.refused, &verdict.held) {
        (Some(Unallocated { reason: Some(reason), message }), _) => Finding::new("False", *reason, message),
        (Some(Unallocated { reason: None, message }), _) => Finding::new("Unknown", Reason::Pending, message),
        (None, Some(held)) => {
            let (class, ports) = (class.unwrap_or_default(), numbers(&held.slots));
            Finding::new("True", Reason::Allocated, format!("{ports} on load balancer {} of class {class}", held.index))
        }
        (None, None) => Finding::new("Unknown", Reason::Pending, "waiting for a port"),
    };
    let programmed = match (&verdict.programmed, &verdict.held) {
        (_, None) => Finding::new("Unknown", Reason::Pending, "there is no port to serve"),
        (Programmed::Unknown | Programmed::Pending, _) => {
            Finding::new("Unknown", Reason::Pending, "waiting for the load balancer")
        }
        (Programmed::Served(served), Some(held)) if !served.left_out.is_empty() => some_left_out(served, held.index),
        (Programmed::Served(served), _) => Finding::new("True", Reason::Programmed, every_port_is_served(served)),
        (Programmed::Failed(failure), _) => Finding::new("False", failure.reason, &*failure.message),
    };
    let ready = match &verdict.programmed {
        _ if !allocated.is_true() => Finding { status: "False", ..allocated.clone() },
        _ if !programmed.is_true() => Finding { status: "False", ..programmed.clone() },
        Programmed::Served(Served { no_address: Some(failure), .. }) => {
            Finding::new("False", failure.reason, &*failure.message)
        }
        _ if addresses.is_empty() => Finding::new("False", Reason::Pending, "the load balancer has no address yet"),
        Programmed::Served(Served { without_backends, .. }) if !without_backends.is_empty() => {
            no_backends(without_backends)
        }
        Programmed::Served(Served { idle_families, .. }) => idle_addresses(addresses, idle_families)
            .unwrap_or_else(|| Finding::new("True", Reason::Ready, EVERY_PORT_HAS_A_BACKEND)),
        _ => Finding::new("True", Reason::Ready, EVERY_PORT_HAS_A_BACKEND),
    };
    [allocated, programmed, ready]
}

fn every_port_is_served(served: &Served) -> String {
    let at_least = served.least_affinity.map(|timeout| {
        let seconds = timeout.as_secs();
        format!("; session affinity lasts for at least {seconds} s, since the load balancer has a timeout of its own")
    });
    format!("the load balancer serves every port that is allocated{}", at_least.unwrap_or_default())
}

/// "port redis: 120 of 1400 backends get traffic, since …"
fn some_left_out(served: &Served, index: u32) -> Finding {
    let some_served = |(port, out): &(Arc<str>, LeftOut)| {
        let each = if out.of_listener { "for each port" } else { "for all ports together" };
        let LeftOut { served, all, limit, .. } = out;
        of_port(
            port,
            &format!("{served} of {all} backends get traffic, since load balancer {index} takes {limit} {each}"),
        )
    };
    let ports: Vec<String> = served.left_out.iter().take(LISTED_PORTS).map(some_served).collect();
    let message = format!("{}; {}", every_port_is_served(served), ports.join("; "));
    Finding::new("True", Reason::BackendsLeftOut, message)
}

fn no_backends(without: &[(Arc<str>, Option<Failure>)]) -> Finding {
    let known: Vec<(&str, &Failure)> =
        without.iter().filter_map(|(port, why)| Some((&**port, why.as_ref()?))).take(3).collect();
    let Some((_, first)) = known.first() else {
        return Finding::new("False", Reason::Pending, "waiting for the endpoints of its pods");
    };
    let ports: Vec<String> = known.iter().map(|(port, why)| of_port(port, &why.message)).collect();
    Finding::new("False", first.reason, ports.join("; "))
}

/// `port redis: …`, where there is more than one port.
pub(super) fn of_port(port: &str, message: &str) -> String {
    if port.is_empty() { message.to_owned() } else { format!("port {port}: {message}") }
}

/// The finding on a claim where addresses of the load balancer lead to no backend;
/// `None`: each of them leads to one. A claim is not ready where no address leads to one
/// of its ports.
fn idle_addresses(addresses: &[Address], idle: &[IdleFamily]) -> Option<Finding> {
    let is_idle = |port: &str, address: &Address| match address {
        Address::Ip(ip) => idle.iter().any(|idle| *idle.port == *port && idle.family == IpFamily::of(*ip)),
        Address::Hostname(_) => false,
    };
    let address_of = |family: IpFamily| {
        addresses.iter().find_map(|address| match address {
            Address::Ip(ip) => (IpFamily::of(*ip) == family).then(|| ip.to_string()),
            Address::Hostname(name) => Some(format!("the {family} address of {name}")),
        })
    };
    let at = idle.iter().filter_map(|idle| Some((idle, address_of(idle.family)?)));
    let ports: Vec<String> = at
        .take(LISTED_PORTS)
        .map(|(IdleFamily { port, why, .. }, address)| {
            of_port(port, &format!("nothing answers at {address}, since {why}"))
        })
        .collect();
    if ports.is_empty() {
        return None;
    }
    let ports = ports.join("; ");
    if idle.iter().any(|idle| addresses.iter().all(|address| is_idle(&idle.port, address))) {
        return Some(Finding::new("False", Reason::NoBackends, ports));
    }
    Some(Finding::new("True", Reason::AddressWithoutBackends, format!("{EVERY_PORT_HAS_A_BACKEND}; but {ports}")))
}

/// The slots without the names of their ports.
fn numbered(held: Option<&Held>) -> Option<(u32, BTreeSet<ListenerKey>)> {
    held.map(|held| (held.index, held.slots.iter().map(|slot| slot.key).collect()))
}

fn port_status(claim: &ClaimObject, slot: &HeldSlot, open: &BTreeSet<FrontPort>) -> PortStatus {
    PortStatus {
        name: slot.name.to_string(),
        protocol: api_protocol(slot.key.protocol),
        port: slot.key.port,
        target_port: target(claim, slot),
        opened: slot.opened || slot.key.front_ports().any(|port| open.contains(&port)),
    }
}

/// The target of a slot's port in the spec; if the spec can't be parsed, the one in the
/// status.
fn target(claim: &ClaimObject, slot: &HeldSlot) -> Option<IntOrString> {
    let Ok(spec) = &claim.spec else { return slot.target.clone() };
    spec.ports.iter().find(|port| *port.name == *slot.name)?.target()
}

/// The ports that are served, or were until something came in the way. A load balancer that
/// loses its address takes all ports out of the status; a port is back once it is open
/// there again. A port that became one of two transports has been served on one of them.
fn served_once(claim: &ClaimObject, slots: &[HeldSlot], open: &BTreeSet<FrontPort>) -> Vec<FrontPort> {
    let before = opened_before(&claim.status);
    let once = |slot: &HeldSlot, port| open.contains(&port) || (slot.opened && before.contains(&port));
    slots.iter().flat_map(|slot| slot.key.front_ports().filter(move |port| once(slot, *port))).collect()
}

/// The addresses with the ports that have been served, as in a Service's status.
fn ingress(addresses: &[Address], served: Vec<FrontPort>) -> Option<LoadBalancerIngress> {
    let ports: Vec<IngressPort> = served
        .into_iter()
        .map(|port| IngressPort { port: port.port, protocol: api_transport(port.transport) })
        .collect();
    let entry = |address: &Address| match address {
        Address::Ip(ip) => Ingress { ip: Some(ip.to_string()), hostname: None, ports: ports.clone() },
        Address::Hostname(name) => Ingress { ip: None, hostname: Some(name.clone()), ports: ports.clone() },
    };
    let ingress: Vec<Ingress> = addresses.iter().map(entry).collect();
    (!ingress.is_empty() && !ports.is_empty()).then_some(LoadBalancerIngress { ingress })
}

/// `20417/TCP→redis`
fn summary(claim: &ClaimObject, slots: &[HeldSlot]) -> String {
    let target = |slot: &HeldSlot| match target(claim, slot)? {
        IntOrString::Int(number) => Some(number.to_string()),
        IntOrString::String(name) => Some(name),
    };
    let to = |slot: &HeldSlot| if slot.name.is_empty() { target(slot) } else { Some(slot.name.to_string()) };
    text::message(&list(slots, |slot| format!("{}→{}", slot.key, to(slot).unwrap_or_default())))
}

/// `20417/TCP, 20418/TCP`: all of them, sorted, so that the text changes only if they do.
fn numbers(slots: &[HeldSlot]) -> String {
    let keys: BTreeSet<ListenerKey> = slots.iter().map(|slot| slot.key).collect();
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn list(slots: &[HeldSlot], one: impl Fn(&HeldSlot) -> String) -> String {
    let mut listed: Vec<String> = slots.iter().take(LISTED_PORTS).map(one).collect();
    if slots.len() > LISTED_PORTS {
        listed.push(format!("and {} more", slots.len() - LISTED_PORTS));
    }
    listed.join(", ")
}

/// A condition, with the time of its last transition kept if it did not change.
fn condition(
    kind: ConditionType,
    finding: Finding,
    before: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Condition {
    let last_transition_time = conditions::last_transition(before, kind.as_str(), finding.status, now);
    Condition {
        type_: kind.as_str().to_owned(),
        status: finding.status.to_owned(),
        reason: finding.reason,
        message: text::message(&finding.message),
        observed_generation: Some(generation),
        last_transition_time,
    }
}

/// A condition of a class or of one of its load balancers: true, or false with the
/// reason and message of a failure.
pub(crate) fn class_condition(
    kind: ConditionType,
    failure: Option<(Reason, String)>,
    fine: Reason,
    before: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Condition {
    let finding = match failure {
        None => Finding::new("True", fine, ""),
        Some((reason, message)) => Finding::new("False", reason, message),
    };
    condition(kind, finding, before, generation, now)
}

/// The key of a released port in a class' status.
pub(crate) fn released_key(port: &sharedlb_crds::ReleasedPort) -> ListenerKey {
    ListenerKey { port: port.port, protocol: crate::api::claim::protocol(port.protocol) }
}

#[cfg(test)]
mod tests;
