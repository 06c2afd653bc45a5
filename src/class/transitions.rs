//! Which changes of a status are published as Events, and which are written at once. Pure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use sharedlb_crds::{ConditionType, PortStatus, Reason, SharedLBStatus};

use crate::kubernetes::conditions;
use crate::kubernetes::events::Notice;

/// How long a claim may wait for its load balancer, an address or endpoints before its
/// status names what it waits for. Normally all of them come within this time, and the
/// status is written twice: with the ports, and once the claim is ready.
pub(crate) const PASSING: Duration = Duration::from_secs(5);

/// The Events by which changes of conditions are published. The one for Ready names the
/// ports and the address, `reached`.
///
/// A claim that opens is one Event, Ready. Allocated and Programmed come before it, and
/// are published only if they end a failure that was published.
pub(crate) fn transitions(before: &[Condition], after: &[Condition], reached: Option<&str>) -> Vec<Notice> {
    let mut notices: Vec<Notice> = Vec::new();
    for now in after {
        let then = conditions::find(before, &now.type_);
        if is_published(then, now) && !notices.iter().any(|notice| notice.reason == now.reason) {
            notices.push(notice_of(now, reached));
        }
    }
    // Ready names the ports, and that they are served.
    if notices.iter().any(|notice| notice.reason == Reason::Ready.as_str()) {
        notices.retain(|notice| !is_step(&notice.reason));
    }
    notices
}

/// Whether a change of a condition is published.
fn is_published(then: Option<&Condition>, now: &Condition) -> bool {
    if is_pending(now) {
        return false;
    }
    match then {
        // The message names the ports: other numbers are published too.
        Some(then) if (&then.status, &then.reason) == (&now.status, &now.reason) => {
            now.reason == Reason::Allocated.as_str() && then.message != now.message
        }
        // A step is published if it ends a failure.
        then if is_step(&now.reason) => then.is_some_and(|then| then.status == "False" && !is_pending(then)),
        _ => true,
    }
}

/// Whether the state is not known yet, or passes by itself.
fn is_pending(condition: &Condition) -> bool {
    condition.status == "Unknown" || condition.reason == Reason::Pending.as_str()
}

/// Whether this is the reason of a condition that comes before Ready.
fn is_step(reason: &str) -> bool {
    [Reason::Allocated, Reason::Programmed].iter().any(|step| step.as_str() == reason)
}

fn notice_of(condition: &Condition, reached: Option<&str>) -> Notice {
    let (reason, message) = (condition.reason.clone(), &condition.message);
    let names_ports = condition.status == "True" && condition.type_.ends_with(ConditionType::Ready.as_str());
    match (condition.status.as_str(), reached.filter(|_| names_ports)) {
        ("False", _) => Notice::warning(reason, message.clone()),
        (_, Some(reached)) => Notice::normal(reason, format!("{reached}: {message}")),
        (_, None) => Notice::normal(reason, message.clone()),
    }
}

/// The ports of a claim and their address: `20417/TCP→redis at 10.99.0.1`.
pub(crate) fn reached(status: &SharedLBStatus) -> Option<String> {
    Some(format!("{} at {}", status.summary.as_ref()?, status.address.as_ref()?))
}

/// Until when a claim with this status is expected to become ready by itself; `None`: it
/// is ready, or needs a change to become so.
pub(crate) fn passes_until(status: &SharedLBStatus, now: Timestamp) -> Option<Timestamp> {
    let ready = conditions::find(&status.conditions, ConditionType::Ready)?;
    // The clock of a former leader may have been ahead.
    let since = ready.last_transition_time.0.min(now);
    is_pending(ready).then(|| since.saturating_add(PASSING).unwrap_or(Timestamp::MAX))
}

/// Until when the second of two statuses need not be written after the first. Both have
/// the same ports, and say that the claim waits for something that comes by itself; they
/// differ only in what that is, and in which of the ports are open. `None`: write it now.
pub(crate) fn may_wait_until(before: &SharedLBStatus, after: &SharedLBStatus, now: Timestamp) -> Option<Timestamp> {
    let ports = |status: &SharedLBStatus| -> Vec<PortStatus> {
        status.ports.iter().map(|port| PortStatus { opened: false, ..port.clone() }).collect()
    };
    let is_same = ports(before) == ports(after) && before.observed_generation == after.observed_generation;
    passes_until(before, now).filter(|_| is_same && passes_until(after, now).is_some())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::api::claim::ClaimObject;
    use crate::class::render::{Programmed, Served, Verdict, status};
    use crate::fixtures::{claim, served};
    use crate::load_balancer::outcome::Failure;

    #[test]
    fn an_address_that_is_overdue_is_published_and_one_that_is_awaited_is_not() {
        let claim = claim("web").holds(0, 20001).build();
        let verdict = |no_address: Option<Failure>| Verdict {
            programmed: Programmed::Served(Served { no_address, ..Served::default() }),
            addresses: Some([].into()),
            open: BTreeSet::new(),
            ..served(&claim)
        };
        let failure =
            Failure { reason: Reason::AddressNotAssigned, message: "ask the admin to look at Service a/b".into() };
        let awaited = status(&claim, Some("default"), &verdict(None), Timestamp::UNIX_EPOCH);
        let overdue = status(&claim, Some("default"), &verdict(Some(failure)), Timestamp::UNIX_EPOCH);
        let published = |before: &[Condition], after: &SharedLBStatus| {
            transitions(before, &after.conditions, None).into_iter().map(|notice| notice.reason).collect::<Vec<_>>()
        };
        assert_eq!(published(&[], &awaited), [""; 0]);
        assert_eq!(published(&awaited.conditions, &overdue), ["AddressNotAssigned"]);
        let ready = conditions::find(&overdue.conditions, ConditionType::Ready).unwrap();
        assert_eq!((ready.status.as_str(), ready.message.as_str()), ("False", "ask the admin to look at Service a/b"));
    }

    #[test]
    fn a_claim_that_opens_is_one_event_with_its_port_and_address() {
        let claim = claim("web").holds(0, 20001).build();
        let verdict = |programmed| Verdict { programmed, open: BTreeSet::new(), ..served(&claim) };
        let at = Timestamp::UNIX_EPOCH;
        let given = status(&claim, Some("default"), &verdict(Programmed::Pending), at);
        let ready = status(&claim, Some("default"), &served(&claim), at);
        let reported = |before: &[Condition], after: &SharedLBStatus| {
            transitions(before, &after.conditions, reached(after).as_deref())
        };
        assert_eq!(reported(&[], &given), []);
        let opened = [Notice::normal("Ready", "20001/TCP→x at 10.0.0.1: every port is served, and has a backend")];
        assert_eq!(reported(&given.conditions, &ready), opened);
        assert_eq!(reported(&[], &ready), opened, "although it was not seen to be allocated");

        let refused = || Failure { reason: Reason::PortInUse, message: "no".into() };
        let failed = status(&claim, Some("default"), &verdict(Programmed::Failed(refused())), at);
        assert_eq!(reported(&given.conditions, &failed), [Notice::warning("PortInUse", "no")]);
        assert_eq!(reported(&failed.conditions, &ready), opened);
        let unknown = Served { without_backends: vec![("x".into(), None)], ..Served::default() };
        let unknown = Verdict { programmed: Programmed::Served(unknown), ..served(&claim) };
        let open = status(&claim, Some("default"), &unknown, at);
        assert_eq!(reported(&given.conditions, &open), [], "Programmed comes before Ready");
        let recovered: Vec<String> =
            reported(&failed.conditions, &open).into_iter().map(|notice| notice.reason).collect();
        assert_eq!(recovered, ["Programmed"], "the end of a failure that was published");
    }

    #[test]
    fn a_status_may_wait_only_while_all_that_changes_is_what_the_claim_waits_for() {
        let ports = serde_json::json!([{"name": "x", "protocol": "TCP", "port": 20001}]);
        let claim =
            claim("web").protected().status(serde_json::json!({"loadBalancerIndex": 0, "ports": ports})).build();
        let at = |verdict: &Verdict| status(&claim, Some("default"), verdict, Timestamp::UNIX_EPOCH);
        let open = |without_backends| {
            let served = Served { without_backends, ..Served::default() };
            at(&Verdict { programmed: Programmed::Served(served), ..self::served(&claim) })
        };
        let no_backends = Failure { reason: Reason::NoBackends, message: "no pod".into() };
        let given = Verdict { programmed: Programmed::Pending, open: BTreeSet::new(), ..served(&claim) };
        let (given, waiting) = (at(&given), open(vec![("x".into(), None)]));
        assert_eq!((given.ports[0].opened, waiting.ports[0].opened), (false, true));
        let (idle, ready) = (open(vec![("x".into(), Some(no_backends))]), open(Vec::new()));
        let may_wait =
            |before: &SharedLBStatus, after: &SharedLBStatus| may_wait_until(before, after, Timestamp::UNIX_EPOCH);
        assert_eq!(may_wait(&given, &waiting), Some(Timestamp::UNIX_EPOCH + PASSING));
        assert_eq!(may_wait(&given, &ready), None);
        assert_eq!(may_wait(&given, &idle), None);
        assert_eq!(may_wait(&ready, &waiting), None, "a claim that was ready");
        assert_eq!(may_wait(&SharedLBStatus::default(), &given), None, "a claim without a status");
        let edited = SharedLBStatus { observed_generation: Some(7), ..waiting.clone() };
        assert_eq!(may_wait(&given, &edited), None, "an edit is answered");
        let moved = SharedLBStatus { ports: Vec::new(), ..waiting };
        assert_eq!(may_wait(&given, &moved), None, "other ports");
    }

    #[test]
    fn a_clock_that_was_ahead_holds_back_no_status() {
        let claim = claim("web").protected().build();
        let verdict = Verdict { programmed: Programmed::Pending, open: BTreeSet::new(), ..served(&claim) };
        let now = Timestamp::UNIX_EPOCH;
        let ahead = status(&claim, Some("default"), &verdict, now + Duration::from_secs(3600));
        assert_eq!(passes_until(&ahead, now), Some(now + PASSING));
    }

    #[test]
    fn other_numbers_are_published_and_a_name_or_an_order_that_changes_is_not() {
        let ports = |ports: &[(&str, u16)]| {
            let ports = ports.iter().map(|(name, port)| serde_json::json!({"name": name, "port": port}));
            claim("web").status(serde_json::json!({"loadBalancerIndex": 0, "ports": ports.collect::<Vec<_>>()})).build()
        };
        let conditions = |claim: &ClaimObject| {
            let addresses = Some(Arc::default());
            let open = BTreeSet::new();
            let verdict = Verdict { programmed: Programmed::Pending, addresses, open, ..served(claim) };
            status(claim, Some("default"), &verdict, Timestamp::UNIX_EPOCH).conditions
        };
        let before = conditions(&ports(&[("a", 20001), ("b", 20002)]));
        assert_eq!(transitions(&before, &conditions(&ports(&[("c", 20002), ("a", 20001)])), None), []);
        let many: Vec<(String, u16)> = (20001..20007).map(|port| (format!("p{port}"), port)).collect();
        let many: Vec<(&str, u16)> = many.iter().map(|(name, port)| (name.as_str(), *port)).collect();
        let reported = transitions(&before, &conditions(&ports(&many)), None);
        let message =
            "20001/TCP, 20002/TCP, 20003/TCP, 20004/TCP, 20005/TCP, 20006/TCP on load balancer 0 of class default";
        assert_eq!(reported, [Notice::normal("Allocated", message)]);
    }
}
