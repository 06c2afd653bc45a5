//! An agent's side: which plans it takes, what it serves by them, and what it reports.

use std::collections::{BTreeMap, BTreeSet};

use sharedlb_providers::{Backend, Error, Listener, ListenerKey, Transport};

use super::{Plan, PlannedListener, Report};

/// Whether an agent of this name takes a plan after it has reported, or was about to report, the
/// plan with the number `last`. A process that has just started reads its own report for it, and
/// its own object is there before it takes a plan.
#[must_use]
pub fn takes(name: &str, last: u64, plan: &Plan) -> bool {
    plan.peers.contains(name) && plan.number > last
}

/// The listeners of a load balancer by the plans that an agent has taken, one for each part.
/// `backends` are those of a listener at the moment.
pub fn listeners<'a>(
    plans: impl IntoIterator<Item = &'a Plan>,
    backends: impl Fn(&PlannedListener, Transport) -> BTreeSet<Backend>,
) -> BTreeMap<ListenerKey, Listener> {
    let listener = |(key, planned): (&ListenerKey, &PlannedListener)| {
        let backends = Backend::by_transport(key.protocol, |transport| backends(planned, transport));
        let listener = Listener { options: planned.options.clone(), ..Listener::new(planned.owner.clone(), backends) };
        (*key, listener)
    };
    plans.into_iter().flat_map(|plan| &plan.listeners).map(listener).collect()
}

/// The report about a plan that was applied; `open` is what the host serves of its part now, and
/// `failed` are the listeners that are not as they should be. `None`: it is not carried out, since a
/// listener is open that is not in the plan, or is another claim's there.
#[must_use]
pub fn report(
    plan: &Plan,
    open: &BTreeMap<ListenerKey, Listener>,
    failed: &BTreeMap<ListenerKey, Error>,
) -> Option<Report> {
    let is_planned = |(key, listener): (&ListenerKey, &Listener)| {
        plan.listeners.get(key).is_some_and(|planned| planned.owner.is_same_claim(&listener.owner))
    };
    let failed = failed.iter().filter(|(key, _)| plan.listeners.contains_key(key));
    let failed = failed.map(|(key, error)| (*key, format!("{error:#}"))).collect();
    open.iter().all(is_planned).then_some(Report { number: plan.number, digest: plan.digest, failed })
}

#[cfg(test)]
mod tests {
    use sharedlb_providers::{BackendSet, Owner};

    use super::*;

    fn owner(claim: &str) -> Owner {
        Owner { namespace: "team".into(), claim: claim.into(), port: "".into() }
    }

    fn plan(number: u64, claim: &str) -> Plan {
        let listener = PlannedListener {
            owner: owner(claim),
            service: claim.into(),
            target_port: "80".into(),
            options: sharedlb_providers::ListenerOptions::default(),
            opened: 1,
        };
        let listeners = [("1/TCP".parse().unwrap(), listener)].into();
        Plan { number, digest: 7, peers: ["lb-1".into()].into(), listeners, ..Plan::default() }
    }

    fn open(key: &str, claim: &str) -> BTreeMap<ListenerKey, Listener> {
        [(key.parse().unwrap(), Listener::new(owner(claim), BackendSet::default()))].into()
    }

    #[test]
    fn an_agent_takes_higher_numbers_of_plans_that_name_it() {
        assert!(takes("lb-1", 2, &plan(3, "a")));
        assert!(!takes("lb-1", 3, &plan(3, "a")));
        assert!(!takes("lb-1", 4, &plan(3, "a")));
        assert!(!takes("lb-2", 2, &plan(3, "a")), "it has departed");
    }

    #[test]
    fn the_listeners_of_all_parts_are_served_with_their_backends_of_the_moment() {
        let backend = Backend {
            address: [10, 244, 0, 1].into(),
            port: std::num::NonZeroU16::MIN,
            pod: None,
            node: None,
            provider_id: None,
            transport: None,
        };
        let mut of_another_part = plan(1, "b");
        of_another_part.listeners =
            of_another_part.listeners.into_values().map(|listener| ("20000/UDP".parse().unwrap(), listener)).collect();
        let backends = |planned: &PlannedListener, _| {
            if &*planned.service == "a" { [backend.clone()].into() } else { BTreeSet::new() }
        };
        let listeners = listeners([&plan(3, "a"), &of_another_part], backends);
        let expected = [
            ("1/TCP".parse().unwrap(), Listener::new(owner("a"), [backend.clone()])),
            ("20000/UDP".parse().unwrap(), Listener::new(owner("b"), [])),
        ];
        assert_eq!(listeners, expected.into());
    }

    #[test]
    fn a_plan_is_reported_when_nothing_is_open_that_it_does_not_have() {
        let done = Report { number: 3, digest: 7, ..Report::default() };
        let none = BTreeMap::new();
        assert_eq!(report(&plan(3, "a"), &open("1/TCP", "a"), &none), Some(done.clone()));
        assert_eq!(report(&plan(3, "a"), &BTreeMap::new(), &none), Some(done.clone()), "it could not be opened");
        assert_eq!(report(&plan(3, "a"), &open("1/TCP", "b"), &none), None, "another claim's");
        assert_eq!(report(&plan(3, "a"), &open("1/UDP", "a"), &none), None, "it could not be closed");
        let key = "1/TCP".parse().unwrap();
        let failed = [(key, Error::Refused("nftables refuses it".into()))].into();
        let with_failure = Report { failed: [(key, "nftables refuses it".into())].into(), ..done };
        assert_eq!(report(&plan(3, "a"), &BTreeMap::new(), &failed), Some(with_failure));
    }
}
