//! The status of a Service: addresses, the ports on the load balancer, and the conditions
//! of its claim. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, PortStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, GROUP, Ingress, IngressPort, Reason};

use super::super::{ObjectChange, OwnedClaim, Problem};
use super::{ServiceRequest, ServiceSource};
use crate::class::transitions;
use crate::kubernetes::{conditions, text};

/// The type of the condition for fields of a Service that have no effect. A Service without
/// such fields does not have it.
const HONOURED: &str = "sharedlb.dev/Honoured";

/// Our part of the status of a Service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Status {
    ingress: Vec<LoadBalancerIngress>,
    conditions: Vec<Condition>,
    /// The ports and the address, for the Event that the Service is ready
    reached: Option<String>,
}

/// The `ipMode` of every address that we write: kube-proxy ignores such an address.
///
/// kube-proxy captures traffic to an address of any other mode at *all* ports in the
/// Service's spec, and the author may change those at any time to another tenant's port of
/// the shared address. Inside of the cluster the address works by the Service of the load
/// balancer.
const PROXY: &str = "Proxy";

/// The conditions that are ours.
pub(super) fn of_ours(conditions: &[Condition]) -> impl Iterator<Item = &Condition> {
    let ours = |type_: &str| type_.strip_prefix(GROUP).is_some_and(|rest| rest.starts_with('/'));
    conditions.iter().filter(move |condition| ours(&condition.type_))
}

/// The status of a Service without anything of ours.
pub(super) fn nothing(service: &ServiceSource) -> Status {
    // Addresses of a Service without our conditions are another controller's.
    let ingress = if service.has_our_address() { Vec::new() } else { service.ingress.clone() };
    Status { ingress, conditions: Vec::new(), reached: None }
}

/// The status of a Service whose claim has a verdict.
pub(super) fn of_claim(
    service: &ServiceSource,
    request: &ServiceRequest,
    claim: &OwnedClaim,
    now: Timestamp,
) -> Status {
    let copied = claim.status.conditions.iter().map(copied);
    Status {
        ingress: ingress(claim),
        conditions: copied.chain(unhonoured(service, request, now)).collect(),
        reached: transitions::reached(&claim.status),
    }
}

/// The status of a Service whose claim cannot be written, or must not exist.
pub(super) fn refused(
    service: &ServiceSource,
    request: &ServiceRequest,
    problem: &Problem,
    claim: Option<&OwnedClaim>,
    now: Timestamp,
) -> Status {
    let condition = |kind: ConditionType| {
        let finding = ("False", problem.reason.as_str(), problem.message.as_str());
        condition(service, &qualified(kind.as_str()), finding, now)
    };
    let programmed = claim.and_then(|claim| conditions::find(&claim.status.conditions, ConditionType::Programmed));
    let programmed = programmed.map(copied);
    let conditions = [Some(condition(ConditionType::Allocated)), programmed, Some(condition(ConditionType::Ready))];
    Status {
        ingress: match claim {
            None => Vec::new(),
            // Its status is not written yet, or can't be parsed.
            Some(claim) if claim.status.observed_generation.is_none() => service.ingress.clone(),
            Some(claim) => ingress(claim),
        },
        conditions: conditions.into_iter().flatten().chain(unhonoured(service, request, now)).collect(),
        reached: None,
    }
}

/// The status of a Service that waits for its claim: there is none yet, or it is being
/// deleted. In the latter case its ports are given back already, however long a finalizer
/// keeps it.
pub(super) fn waiting(
    service: &ServiceSource,
    request: &ServiceRequest,
    claim: Option<&OwnedClaim>,
    now: Timestamp,
) -> Status {
    let problem = match claim {
        None => Problem { reason: Reason::Pending, message: "its SharedLB is being created".to_owned() },
        Some(claim) => claim.kept_by_others().unwrap_or_else(|| Problem {
            reason: Reason::Pending,
            message: format!("SharedLB {} is being deleted, and then recreated", claim.meta.key.name),
        }),
    };
    refused(service, request, &problem, None, now)
}

/// Until when the verdict on a claim need not be copied to its Service: the claim waits for
/// something that comes by itself, the Service says no more than that or nothing yet, and
/// its addresses are those of the claim. `None`: copy it now.
pub(super) fn may_wait_until(service: &ServiceSource, claim: &OwnedClaim, now: Timestamp) -> Option<Timestamp> {
    let ready = conditions::find(&service.conditions, qualified(ConditionType::Ready.as_str()));
    let is_waiting = match ready {
        Some(ready) => ready.reason == Reason::Pending.as_str(),
        None => !service.has_our_conditions(),
    };
    transitions::passes_until(&claim.status, now).filter(|_| is_waiting && ingress(claim) == service.ingress)
}

/// Advice in the messages of a claim, and the corresponding advice for its Service.
const ADVICE: [&str; 2] = [
    "leave port out to have one assigned",
    "annotate the Service with sharedlb.dev/assign-ports: \"true\" to have one assigned",
];

/// Converts a condition of a claim to a condition of its Service.
fn copied(condition: &Condition) -> Condition {
    Condition {
        type_: qualified(&condition.type_),
        message: condition.message.replace(ADVICE[0], ADVICE[1]),
        last_transition_time: Time(conditions::whole_seconds(condition.last_transition_time.0)),
        // The generation is that of the claim.
        observed_generation: None,
        ..condition.clone()
    }
}

fn qualified(kind: &str) -> String {
    format!("{GROUP}/{kind}")
}

fn unhonoured(service: &ServiceSource, request: &ServiceRequest, now: Timestamp) -> Option<Condition> {
    let (reason, message) = request.unhonoured.as_ref()?;
    Some(condition(service, HONOURED, ("False", reason, message), now))
}

/// A condition, with the time of its last transition kept if it did not change.
fn condition(
    service: &ServiceSource,
    kind: &str,
    (status, reason, message): (&str, &str, &str),
    now: Timestamp,
) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: text::message(message),
        last_transition_time: conditions::last_transition(&service.conditions, kind, status, now),
        observed_generation: None,
    }
}

/// The addresses of the Service, from the status of its claim.
fn ingress(claim: &OwnedClaim) -> Vec<LoadBalancerIngress> {
    let port = |port: &IngressPort| PortStatus {
        error: None,
        port: port.port.get().into(),
        protocol: port.protocol.as_str().to_owned(),
    };
    let entry = |ingress: &Ingress| LoadBalancerIngress {
        hostname: ingress.hostname.clone(),
        ip: ingress.ip.clone(),
        ip_mode: ingress.ip.as_ref().map(|_| PROXY.to_owned()),
        ports: (!ingress.ports.is_empty()).then(|| ingress.ports.iter().map(port).collect()),
    };
    claim.status.load_balancer.iter().flat_map(|found| &found.ingress).map(entry).collect()
}

/// The write that sets [`PROXY`] on addresses that an earlier version wrote without it.
///
/// An address in a status with our conditions is ours if no other controller may write the
/// status of such a Service, or if it lists ports: our addresses always do, and those of
/// controllers that give each Service an address of its own do not.
pub(super) fn to_proxy(service: &ServiceSource) -> Option<ObjectChange> {
    let ours_beside = service.has_our_address();
    let captured = |entry: &LoadBalancerIngress| {
        let ours =
            ours_beside && (service.class_is_ours || entry.ports.as_ref().is_some_and(|ports| !ports.is_empty()));
        ours && entry.ip.is_some() && entry.ip_mode.as_deref() != Some(PROXY)
    };
    let mut ingress = service.ingress.clone();
    let mut edits: Vec<Value> = Vec::new();
    for (index, entry) in ingress.iter_mut().enumerate().filter(|(_, entry)| captured(entry)) {
        entry.ip_mode = Some(PROXY.to_owned());
        let path = format!("/status/loadBalancer/ingress/{index}/ipMode");
        edits.push(json!({"op": "add", "path": path, "value": PROXY}));
    }
    let key = &service.meta.key;
    (!edits.is_empty()).then(|| ObjectChange {
        what: "status",
        status: true,
        patch: json!({"status": {"loadBalancer": {"ingress": ingress}}}),
        notices: Vec::new(),
        workaround: Some(format!(
            "kube-proxy may send traffic for other tenants' ports of its address to it: kubectl patch service {} -n {} --subresource=status --type=json -p '{}'",
            key.name,
            key.namespace,
            Value::from(edits)
        )),
    })
}

impl Status {
    /// The same with a message about ports of the Service that are left out of its claim:
    /// the Service is then neither allocated nor ready.
    pub(super) fn leaving_out(mut self, service: &ServiceSource, message: Option<&str>, now: Timestamp) -> Self {
        let Some(message) = message else { return self };
        for kind in [ConditionType::Allocated, ConditionType::Ready].map(|kind| qualified(kind.as_str())) {
            match self.conditions.iter_mut().find(|condition| condition.type_ == kind) {
                Some(found) if found.status == "True" => {
                    *found = condition(service, &kind, ("False", Reason::Unsupported.as_str(), message), now);
                }
                Some(found) => found.message = text::message(&format!("{}; {message}", found.message)),
                None => {}
            }
        }
        self
    }

    /// The write of this status; `None`: the Service has it.
    pub(super) fn write(&self, service: &ServiceSource) -> Option<ObjectChange> {
        let before: Vec<Condition> = of_ours(&service.conditions).cloned().collect();
        if self.ingress == service.ingress && self.conditions == before {
            return None;
        }
        let foreign = service.conditions.iter().filter(|condition| !before.contains(condition));
        let conditions: Vec<&Condition> = foreign.chain(&self.conditions).collect();
        Some(ObjectChange {
            what: "status",
            status: true,
            patch: json!({"status": {"loadBalancer": {"ingress": self.ingress}, "conditions": conditions}}),
            notices: transitions::transitions(&before, &self.conditions, self.reached.as_deref()),
            workaround: None,
        })
    }
}
