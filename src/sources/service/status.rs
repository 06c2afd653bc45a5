//! What a Service's status says: addresses, real ports, and the conditions of
//! its claim. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, PortStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::json;
use sharedlb_crds::{ConditionType, GROUP, Ingress, IngressPort};

use super::super::{Change, News, OwnedClaim, Refusal, ports};
use super::{Asks, ServiceSource};
use crate::render;
use crate::text;

/// The type of the condition that says what of a Service is not carried out. It
/// is there only if there is something.
const HONOURED: &str = "sharedlb.dev/Honoured";

/// What the status of a Service should have of ours.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Status {
    ingress: Vec<LoadBalancerIngress>,
    conditions: Vec<Condition>,
}

/// Those of these conditions that are ours.
pub(super) fn of_ours(conditions: &[Condition]) -> impl Iterator<Item = &Condition> {
    let ours = |type_: &str| type_.strip_prefix(GROUP).is_some_and(|rest| rest.starts_with('/'));
    conditions.iter().filter(move |condition| ours(&condition.type_))
}

/// The status of a Service that has nothing of ours.
pub(super) fn nothing(service: &ServiceSource) -> Status {
    // The addresses of a Service that was never told anything are another's.
    let ours = of_ours(&service.conditions).next().is_some();
    Status { ingress: if ours { Vec::new() } else { service.ingress.clone() }, conditions: Vec::new() }
}

/// The status of a Service whose claim has a verdict.
pub(super) fn of_claim(service: &ServiceSource, asks: &Asks, claim: &OwnedClaim, now: Timestamp) -> Status {
    let copied = claim.status.conditions.iter().map(copied);
    Status { ingress: ingress(asks, claim), conditions: copied.chain(unhonoured(service, asks, now)).collect() }
}

/// The status of a Service whose claim cannot be written, or may not exist.
pub(super) fn refused(
    service: &ServiceSource,
    asks: &Asks,
    refusal: &Refusal,
    claim: Option<&OwnedClaim>,
    now: Timestamp,
) -> Status {
    let condition = |kind: ConditionType| {
        let finding = ("False", refusal.reason.as_str(), refusal.message.as_str());
        condition(service, &qualified(kind.as_str()), finding, now)
    };
    let programmed = claim.and_then(|claim| render::find(&claim.status.conditions, ConditionType::Programmed));
    let programmed = programmed.map(copied);
    let conditions = [Some(condition(ConditionType::Allocated)), programmed, Some(condition(ConditionType::Ready))];
    Status {
        ingress: claim.map(|claim| ingress(asks, claim)).unwrap_or_default(),
        conditions: conditions.into_iter().flatten().chain(unhonoured(service, asks, now)).collect(),
    }
}

/// What a claim is advised to do, and what its Service would have to do for that.
const ADVICE: [&str; 2] = [
    "leave port out to have one assigned",
    "annotate the Service with sharedlb.dev/assign-ports: \"true\" to have one assigned",
];

/// A condition of a claim as one of its Service.
fn copied(condition: &Condition) -> Condition {
    Condition {
        type_: qualified(&condition.type_),
        message: condition.message.replace(ADVICE[0], ADVICE[1]),
        last_transition_time: to_the_second(condition.last_transition_time.0),
        // It is the generation of the claim.
        observed_generation: None,
        ..condition.clone()
    }
}

/// The times of a Service have no fractions, those of a claim may have.
fn to_the_second(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}

fn qualified(kind: &str) -> String {
    format!("{GROUP}/{kind}")
}

fn unhonoured(service: &ServiceSource, asks: &Asks, now: Timestamp) -> Option<Condition> {
    let (reason, message) = asks.unhonoured.as_ref()?;
    Some(condition(service, HONOURED, ("False", reason, message), now))
}

/// A condition, with the time of its last transition kept if it did not change.
fn condition(
    service: &ServiceSource,
    kind: &str,
    (status, reason, message): (&str, &str, &str),
    now: Timestamp,
) -> Condition {
    let before = service.conditions.iter().find(|condition| condition.type_ == kind && condition.status == status);
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: text::message(message),
        last_transition_time: before.map_or_else(|| to_the_second(now), |before| before.last_transition_time.clone()),
        observed_generation: None,
    }
}

/// Where the Service is reached: as its claim says, and what kube-proxy is to
/// make of it.
///
/// kube-proxy takes an IP address that is not marked `Proxy` for the Service's
/// own, and captures what comes to its ports there. So it must not be unless the
/// Service has all its ports there: another's may be one of them.
fn ingress(asks: &Asks, claim: &OwnedClaim) -> Vec<LoadBalancerIngress> {
    let wanted = claim.spec.as_ref().map(|spec| spec.ports.as_slice()).unwrap_or_default();
    let own = wanted.iter().all(|port| {
        let given = claim.status.ports.iter().find(|given| given.name == port.name && given.protocol == port.protocol);
        given.is_some_and(|given| Some(given.port) == ports::same_number(port))
    });
    let mode = if own && !asks.local { "VIP" } else { "Proxy" };
    let port = |port: &IngressPort| PortStatus {
        error: None,
        port: port.port.get().into(),
        protocol: port.protocol.as_str().to_owned(),
    };
    let entry = |ingress: &Ingress| LoadBalancerIngress {
        hostname: ingress.hostname.clone(),
        ip: ingress.ip.clone(),
        ip_mode: ingress.ip.as_ref().map(|_| mode.to_owned()),
        ports: (!ingress.ports.is_empty()).then(|| ingress.ports.iter().map(port).collect()),
    };
    claim.status.load_balancer.iter().flat_map(|found| &found.ingress).map(entry).collect()
}

impl Status {
    /// The write that makes it so; `None`: it is so.
    pub(super) fn write(&self, service: &ServiceSource) -> Option<Change> {
        let before: Vec<Condition> = of_ours(&service.conditions).cloned().collect();
        if self.ingress == service.ingress && self.conditions == before {
            return None;
        }
        let foreign = service.conditions.iter().filter(|condition| !before.contains(condition));
        let conditions: Vec<&Condition> = foreign.chain(&self.conditions).collect();
        let told = render::transitions(&before, &self.conditions);
        Some(Change {
            what: "status",
            status: true,
            patch: json!({"status": {"loadBalancer": {"ingress": self.ingress}, "conditions": conditions}}),
            news: told.into_iter().map(|(warning, reason, note)| News { warning, reason, note }).collect(),
        })
    }
}
