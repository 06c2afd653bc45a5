//! The leader's side: the next version of a plan, and who holds a port back.

use std::collections::{BTreeMap, BTreeSet};

use sharedlb_providers::model::fnv1a;
use sharedlb_providers::{FrontPort, ListenerKey, Owner};

use super::{AgentName, Closing, Plan, PlannedListener, Report};

/// What a plan shall be: the confirmed slots of a part of a load balancer, and the agents that can
/// be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// The listeners. No two have a front port in common. Their number of [`PlannedListener::opened`]
    /// does not matter
    pub listeners: BTreeMap<ListenerKey, PlannedListener>,
    /// The agents of the class that are heard
    pub heard: BTreeSet<AgentName>,
    /// Agents that are not heard and certainly serve nothing: their host is off
    pub off: BTreeSet<AgentName>,
}

/// The next version of a plan; `None`: it stays as it is. Before the first one, it is
/// [`Plan::default`]. `reports` are those about this plan.
///
/// A listener whose port another claim had, and which an agent may still serve for that, is left
/// out until it is free.
///
/// The result is written on the version of `before` that was read, so that no other write is lost.
#[must_use]
pub fn next(before: &Plan, reports: &BTreeMap<AgentName, Report>, wanted: &Wanted) -> Option<Plan> {
    let highest = reports.values().map(|report| report.number).max().unwrap_or_default();
    let number = 1 + before.number.max(highest);
    if number == 1 && wanted.listeners.is_empty() {
        return None;
    }
    let mut after = before.clone();
    if is_unknown_to(before, reports) {
        after.unknown_before = number;
    }
    after.closing.retain(|port, _| !holders(before, reports, &wanted.off, *port).is_empty());
    change_peers(&mut after, wanted);
    change_listeners(&mut after, reports, wanted, number);
    after.digest = digest(&after.listeners);
    (after != *before).then_some(Plan { number, ..after })
}

fn digest(listeners: &BTreeMap<ListenerKey, PlannedListener>) -> u64 {
    let text = serde_json::to_string(listeners).expect("listeners are plain data");
    fnv1a([text.as_bytes()])
}

/// The agents that may serve a front port for a claim that has it no more. Until there are none, no
/// other claim can have it.
#[must_use]
pub fn holders(
    plan: &Plan,
    reports: &BTreeMap<AgentName, Report>,
    off: &BTreeSet<AgentName>,
    port: FrontPort,
) -> BTreeSet<AgentName> {
    let closing = plan.closing.get(&port);
    let reported = |agent: &AgentName| reports.get(agent).map_or(0, |report| report.number);
    let holds = |agent: &AgentName, last: u64| {
        let serves = closing.is_some_and(|closing| last >= closing.opened && reported(agent) < closing.closed);
        serves || reported(agent) < plan.unknown_before
    };
    let peers = plan.peers.iter().map(|agent| (agent, plan.number));
    let departed = plan.departed.iter().map(|(agent, last)| (agent, *last));
    let all = peers.chain(departed).filter(|(agent, _)| !off.contains(*agent));
    all.filter(|(agent, last)| holds(agent, *last)).map(|(agent, _)| agent.clone()).collect()
}

/// Whether an agent has taken a plan that is not known: the API was restored from a backup since.
fn is_unknown_to(plan: &Plan, reports: &BTreeMap<AgentName, Report>) -> bool {
    let is_another = |report: &Report| report.number == plan.number && report.digest != plan.digest;
    reports.values().any(|report| report.number > plan.number || is_another(report))
}

/// Agents that are not heard depart, and those that are heard become peers.
fn change_peers(plan: &mut Plan, Wanted { heard, off, .. }: &Wanted) {
    for agent in &plan.peers - heard {
        plan.departed.insert(agent, plan.number);
    }
    plan.peers.clone_from(heard);
    plan.departed.retain(|agent, _| !heard.contains(agent) && !off.contains(agent));
}

/// Closes listeners, and opens those whose ports are free.
fn change_listeners(plan: &mut Plan, reports: &BTreeMap<AgentName, Report>, wanted: &Wanted, number: u64) {
    let before = plan.clone();
    plan.listeners.clear();
    for (key, listener) in &wanted.listeners {
        let free = key.front_ports().all(|port| is_free(&before, reports, wanted, port, &listener.owner));
        if free {
            let opened = opened(&before, *key, &listener.owner).unwrap_or(number);
            plan.listeners.insert(*key, PlannedListener { opened, ..listener.clone() });
        }
    }
    for (key, former) in &before.listeners {
        for port in key.front_ports() {
            let stays = plan.listener_of(port).is_some_and(|listener| listener.owner.is_same_claim(&former.owner));
            if !stays {
                let closing = Closing { owner: former.owner.clone(), opened: former.opened, closed: number };
                plan.closing.insert(port, closing);
            }
        }
    }
    let open: Vec<FrontPort> = plan.listeners.keys().flat_map(|key| key.front_ports()).collect();
    open.iter().for_each(|port| _ = plan.closing.remove(port));
}

/// Whether a claim can have a front port now: it has or had it, or no agent may serve it for another
/// claim.
fn is_free(
    plan: &Plan,
    reports: &BTreeMap<AgentName, Report>,
    wanted: &Wanted,
    port: FrontPort,
    claim: &Owner,
) -> bool {
    if let Some(listener) = plan.listener_of(port) {
        return listener.owner.is_same_claim(claim);
    }
    let was_its_own = plan.closing.get(&port).is_some_and(|closing| closing.owner.is_same_claim(claim));
    was_its_own || holders(plan, reports, &wanted.off, port).is_empty()
}

/// The lowest number with which the claim got one of the front ports of a listener.
fn opened(plan: &Plan, key: ListenerKey, claim: &Owner) -> Option<u64> {
    let of_port = |port| {
        let open = plan.listener_of(port).filter(|listener| listener.owner.is_same_claim(claim));
        let closing = plan.closing.get(&port).filter(|closing| closing.owner.is_same_claim(claim));
        open.map(|listener| listener.opened).or(closing.map(|closing| closing.opened))
    };
    key.front_ports().filter_map(of_port).min()
}

#[cfg(test)]
mod tests {
    use sharedlb_providers::ListenerOptions;

    use super::*;

    fn key(text: &str) -> ListenerKey {
        text.parse().unwrap()
    }

    fn listener(claim: &str) -> PlannedListener {
        PlannedListener {
            owner: Owner { namespace: "team".into(), claim: claim.into(), port: "".into() },
            service: claim.into(),
            target_port: "80".into(),
            options: ListenerOptions::default(),
            opened: 0,
        }
    }

    fn wanted<'a>(listeners: impl IntoIterator<Item = (&'a str, &'a str)>, heard: &[&str]) -> Wanted {
        Wanted {
            listeners: listeners.into_iter().map(|(text, claim)| (key(text), listener(claim))).collect(),
            heard: heard.iter().map(|agent| AgentName::from(*agent)).collect(),
            off: BTreeSet::new(),
        }
    }

    /// All of these agents have taken a plan.
    fn taken(plan: &Plan, agents: &[&str]) -> BTreeMap<AgentName, Report> {
        let report = Report { number: plan.number, digest: plan.digest, ..Report::default() };
        agents.iter().map(|agent| (AgentName::from(*agent), report.clone())).collect()
    }

    fn claims(plan: &Plan) -> BTreeMap<ListenerKey, &str> {
        plan.listeners.iter().map(|(key, listener)| (*key, &*listener.owner.claim)).collect()
    }

    const BOTH: [&str; 2] = ["lb-1", "lb-2"];

    #[test]
    fn a_plan_that_is_as_it_should_be_is_not_written_again() {
        assert_eq!(next(&Plan::default(), &BTreeMap::new(), &wanted([], &BOTH)), None);
        let first = wanted([("1/TCP", "a")], &BOTH);
        let plan = next(&Plan::default(), &BTreeMap::new(), &first).unwrap();
        assert_eq!(plan.number, 1);
        assert_eq!(next(&plan, &BTreeMap::new(), &first), None);
        assert_eq!(next(&plan, &taken(&plan, &BOTH), &first), None);
    }

    #[test]
    fn a_port_passes_to_another_claim_once_every_agent_has_reported_a_plan_without_it() {
        let plan = next(&Plan::default(), &BTreeMap::new(), &wanted([("1/TCP", "a")], &BOTH)).unwrap();
        let of_another = wanted([("1/TCP_UDP", "b")], &BOTH);
        let closing = next(&plan, &taken(&plan, &BOTH), &of_another).unwrap();
        assert_eq!(claims(&closing), BTreeMap::new());
        let mut reports = taken(&closing, &["lb-1"]);
        reports.extend(taken(&plan, &["lb-2"]));
        assert_eq!(next(&closing, &reports, &of_another), None, "lb-2 may serve it");
        let port = "1/TCP".parse().unwrap();
        assert_eq!(holders(&closing, &reports, &BTreeSet::new(), port), ["lb-2".into()].into());
        let opened = next(&closing, &taken(&closing, &BOTH), &of_another).unwrap();
        assert_eq!(claims(&opened), [(key("1/TCP_UDP"), "b")].into());
        assert_eq!(opened.closing, BTreeMap::new());
    }

    #[test]
    fn a_claim_gets_its_own_port_back_at_once_and_changes_its_protocol_at_once() {
        let reports = BTreeMap::new();
        let plan = next(&Plan::default(), &reports, &wanted([("1/TCP", "a")], &BOTH)).unwrap();
        let closed = next(&plan, &reports, &wanted([], &BOTH)).unwrap();
        let back = next(&closed, &reports, &wanted([("1/TCP_UDP", "a")], &BOTH)).unwrap();
        assert_eq!(claims(&back), [(key("1/TCP_UDP"), "a")].into());
        assert_eq!(back.listeners[&key("1/TCP_UDP")].opened, 1, "agents may serve it since then");
        let udp = next(&back, &reports, &wanted([("1/UDP", "a")], &BOTH)).unwrap();
        assert_eq!(udp.closing.keys().map(ToString::to_string).collect::<Vec<_>>(), ["1/TCP"]);
    }

    #[test]
    fn an_agent_that_is_not_heard_holds_back_what_it_may_serve_and_nothing_else() {
        let plan = next(&Plan::default(), &BTreeMap::new(), &wanted([("1/TCP", "a")], &BOTH)).unwrap();
        let mut reports = taken(&plan, &BOTH);
        let one = |listeners: &[(&'static str, &'static str)]| wanted(listeners.iter().copied(), &["lb-1"]);
        let without = next(&plan, &reports, &one(&[("1/TCP", "a")])).unwrap();
        assert_eq!(without.departed, [("lb-2".into(), 1)].into());
        reports.extend(taken(&without, &["lb-1"]));
        let later = next(&without, &reports, &one(&[("1/TCP", "a"), ("2/TCP", "a")])).unwrap();
        reports.extend(taken(&later, &["lb-1"]));
        let both = one(&[("1/TCP", "b"), ("2/TCP", "b")]);
        let closing = next(&later, &reports, &both).unwrap();
        reports.extend(taken(&closing, &["lb-1"]));
        let opened = next(&closing, &reports, &both).unwrap();
        assert_eq!(claims(&opened), [(key("2/TCP"), "b")].into(), "it never had 2/TCP");
        // The host is off, as an admin or its node says.
        let off = Wanted { off: ["lb-2".into()].into(), ..both };
        let opened = next(&opened, &reports, &off).unwrap();
        assert_eq!(claims(&opened), [(key("1/TCP"), "b"), (key("2/TCP"), "b")].into());
        assert_eq!(opened.departed, BTreeMap::new());
    }

    #[test]
    fn a_number_is_higher_than_all_that_agents_have_reported() {
        let plan = Plan { number: 3, ..Plan::default() };
        let ahead = Plan { number: 7, digest: 7, ..Plan::default() };
        let same = wanted([], &[]);
        let next_plan = next(&plan, &taken(&ahead, &["lb-1"]), &same).unwrap();
        assert_eq!((next_plan.number, next_plan.unknown_before), (8, 8), "the API was restored");
        let another = Plan { number: 3, digest: 7, ..Plan::default() };
        assert_eq!(next(&plan, &taken(&another, &["lb-1"]), &same).unwrap().number, 4);
    }

    #[test]
    fn after_the_api_was_restored_no_port_opens_before_every_agent_has_reported_again() {
        let plan = Plan { number: 3, peers: BOTH.map(Into::into).into(), ..Plan::default() };
        let ahead = Plan { number: 7, digest: 7, ..plan.clone() };
        let mut reports = taken(&ahead, &BOTH);
        let with_port = wanted([("1/TCP", "a")], &BOTH);
        let written = next(&plan, &reports, &with_port).unwrap();
        reports.extend(taken(&written, &["lb-1"]));
        assert_eq!(next(&written, &reports, &with_port), None);
        reports.extend(taken(&written, &["lb-2"]));
        assert_eq!(claims(&next(&written, &reports, &with_port).unwrap()), [(key("1/TCP"), "a")].into());
    }
}
