//! All of it, model checked: a leader, two agents and one port that claims hold one after the
//! other. What is checked are the functions themselves, on every order of their steps.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use sharedlb_providers::{FrontPort, ListenerKey, ListenerOptions, Owner};
use stateright::{Checker, Model, Property};

use super::leader::{self, Wanted};
use super::{AgentName, Plan, PlannedListener, Report, agent};

/// The agents.
const AGENTS: [&str; 2] = ["lb-1", "lb-2"];
/// The claims.
const CLAIMS: [&str; 2] = ["a", "b"];

/// What the API has, but for leases, which have no part in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Api {
    /// The claim that holds the port
    holder: Option<&'static str>,
    plan: Plan,
    reports: BTreeMap<AgentName, Report>,
}

/// A host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Host {
    /// The plan that its agent has seen last, from a watch that may lag
    seen: Plan,
    /// The number of the plan that it has taken last
    taken: u64,
    /// What it reports, if the API does not have it
    report: Option<Report>,
    /// For which claim its kernel serves the port, whether or not an agent runs
    serves: Option<Owner>,
    /// Whether it is switched off
    off: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct State {
    api: Api,
    hosts: [Host; 2],
    /// The agents that the leader hears
    heard: BTreeSet<AgentName>,
    /// What was backed up
    backup: Option<Api>,
    /// Since the API was restored: the number that no plan had before
    restored: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Action {
    /// The leader gives the port to a claim, or takes it back
    Give(Option<&'static str>),
    /// The leader writes the next plan
    Write,
    /// The leader hears an agent no more, or again. Its Lease may have been deleted and created
    /// again meanwhile, and a clock may be wrong: it may be at any time
    Hear(usize, bool),
    /// An agent sees the plan of the API
    See(usize),
    /// It takes the plan that it has seen, and its kernel serves by it
    Take(usize),
    /// It reports
    Report(usize),
    /// Its process is started again: it knows what it has reported, and the kernel goes on
    Restart(usize),
    /// An admin switches the host off, and then deletes its object
    SwitchOff(usize),
    /// The host is there again, with an object without reports
    SwitchOn(usize),
    Backup,
    Restore,
}

#[derive(Clone)]
struct Protocol {
    /// The highest number of a plan
    numbers: u64,
    /// How many of the agents always run and are always heard
    steady: usize,
    with_restore: bool,
}

fn name(agent: usize) -> AgentName {
    AGENTS[agent].into()
}

fn key() -> ListenerKey {
    "20417/TCP".parse().unwrap()
}

fn owner(claim: &str) -> Owner {
    Owner { namespace: "team".into(), claim: claim.into(), port: "".into() }
}

impl Host {
    /// What it would not take makes no difference.
    fn see(&mut self, agent: usize, plan: &Plan) {
        if agent::takes(AGENTS[agent], self.taken, plan) {
            self.seen = plan.clone();
        }
    }

    fn take(&mut self, agent: usize) {
        if self.off || !agent::takes(AGENTS[agent], self.taken, &self.seen) {
            return;
        }
        let plan = mem::take(&mut self.seen);
        self.taken = plan.number;
        let open = agent::listeners([&plan], |_, _| BTreeSet::new());
        self.serves = open.get(&key()).map(|listener| listener.owner.clone());
        self.report = agent::report(&plan, &open, &BTreeMap::new());
    }
}

impl State {
    fn off(&self) -> BTreeSet<AgentName> {
        (0..AGENTS.len()).filter(|&agent| self.hosts[agent].off).map(name).collect()
    }

    fn next_plan(&self) -> Option<Plan> {
        let listener = |claim: &str| PlannedListener {
            owner: owner(claim),
            service: claim.into(),
            target_port: "80".into(),
            options: ListenerOptions::default(),
            opened: 0,
        };
        let listeners = self.api.holder.map(|claim| (key(), listener(claim))).into_iter().collect();
        let wanted = Wanted { listeners, heard: self.heard.clone(), off: self.off() };
        leader::next(&self.api.plan, &self.api.reports, &wanted)
    }

    fn report(&mut self, agent: usize) {
        if let Some(report) = &self.hosts[agent].report {
            self.api.reports.insert(name(agent), report.clone());
        }
    }

    /// Once all agents have taken a plan of this number, the API knows again what they serve.
    fn note_taken(&mut self) {
        if self.restored.is_some_and(|number| self.hosts.iter().all(|host| host.off || host.taken >= number)) {
            self.restored = None;
        }
    }

    /// Whether all hosts serve the holder of the port in the end, and nothing is held back.
    fn settles(&self) -> bool {
        let settled = self.settled();
        let holder = settled.api.holder.map(owner);
        let served = settled.hosts.iter().all(|host| host.off || host.serves == holder);
        served && settled.api.plan.closing.is_empty() && settled.api.plan.departed.is_empty()
    }

    /// Whether an agent that is not heard keeps the holder from being served.
    fn is_held_back(&self) -> bool {
        let ports: Vec<FrontPort> = key().front_ports().collect();
        let Api { holder, plan, reports } = &self.api;
        let holders = leader::holders(plan, reports, &self.off(), ports[0]);
        holder.is_some() && holders.iter().any(|agent| plan.departed.contains_key(agent))
    }

    /// What becomes of it if nothing but the leader and the agents acts, and all are heard.
    fn settled(&self) -> Self {
        let mut state = self.clone();
        (0..AGENTS.len()).for_each(|agent| state.report(agent));
        state.heard = (0..AGENTS.len()).filter(|&agent| !state.hosts[agent].off).map(name).collect();
        loop {
            let plan = state.next_plan();
            let mut moves = plan.is_some();
            state.api.plan = plan.unwrap_or(state.api.plan);
            for (agent, name) in AGENTS.into_iter().enumerate() {
                if agent::takes(name, state.hosts[agent].taken, &state.api.plan) {
                    state.hosts[agent].see(agent, &state.api.plan);
                    state.hosts[agent].take(agent);
                    state.report(agent);
                    moves = true;
                }
            }
            if !moves {
                return state;
            }
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State { heard: AGENTS.map(Into::into).into(), ..State::default() }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let next = state.next_plan();
        match state.api.holder {
            Some(_) => actions.push(Action::Give(None)),
            None => actions.extend(CLAIMS.map(|claim| Action::Give(Some(claim)))),
        }
        actions.extend(next.filter(|plan| plan.number <= self.numbers).map(|_| Action::Write));
        for (agent, host) in state.hosts.iter().enumerate() {
            if host.off {
                actions.push(Action::SwitchOn(agent));
                continue;
            }
            if host.seen != state.api.plan && agent::takes(AGENTS[agent], host.taken, &state.api.plan) {
                actions.push(Action::See(agent));
            }
            if agent::takes(AGENTS[agent], host.taken, &host.seen) {
                actions.push(Action::Take(agent));
            }
            if host.report.as_ref() != state.api.reports.get(&name(agent)) {
                actions.push(Action::Report(agent));
            }
            if agent < self.steady {
                continue;
            }
            actions.push(Action::Hear(agent, !state.heard.contains(&name(agent))));
            actions.push(Action::Restart(agent));
            actions.push(Action::SwitchOff(agent));
        }
        if self.with_restore && state.restored.is_none() {
            match state.backup {
                None if state.api.plan.number == 1 && state.api.reports.is_empty() => actions.push(Action::Backup),
                None => {}
                Some(_) => actions.push(Action::Restore),
            }
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Give(claim) => state.api.holder = claim,
            Action::Write => state.api.plan = state.next_plan()?,
            Action::Hear(agent, true) => _ = state.heard.insert(name(agent)),
            Action::Hear(agent, false) => _ = state.heard.remove(&name(agent)),
            Action::See(agent) => state.hosts[agent].see(agent, &before.api.plan),
            Action::Take(agent) => state.hosts[agent].take(agent),
            Action::Report(agent) => state.report(agent),
            Action::Restart(agent) => {
                // It asks the API server itself, not a cache.
                let report = state.api.reports.get(&name(agent)).cloned();
                let host = &mut state.hosts[agent];
                host.taken = report.as_ref().map_or(0, |report| report.number);
                host.report = report;
                host.seen = Plan::default();
                host.see(agent, &before.api.plan);
            }
            Action::SwitchOff(agent) => {
                state.hosts[agent] = Host { off: true, ..Host::default() };
                state.api.reports.remove(&name(agent));
                state.heard.remove(&name(agent));
            }
            Action::SwitchOn(agent) => state.hosts[agent].off = false,
            Action::Backup => state.backup = Some(state.api.clone()),
            Action::Restore => {
                let numbers = state.hosts.iter().map(|host| host.taken.max(host.seen.number));
                let highest = numbers.chain([state.api.plan.number]).max().unwrap_or_default();
                state.api = state.backup.take()?;
                state.restored = Some(1 + highest);
            }
        }
        state.note_taken();
        (state != *before).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("no two claims are served at the port", |_, state: &State| {
                let served: BTreeSet<&Owner> = state.hosts.iter().filter_map(|host| host.serves.as_ref()).collect();
                state.restored.is_some() || served.len() <= 1
            }),
            Property::always("in the end, all hosts serve the holder", |_, state: &State| state.settles()),
            Property::sometimes("the port passes from one claim to the other one", |_, state: &State| {
                state.api.plan.listeners.values().any(|listener| &*listener.owner.claim == "b" && listener.opened > 2)
            }),
        ];
        if self.steady < AGENTS.len() {
            let held_back = |_: &Self, state: &State| state.is_held_back();
            properties.push(Property::sometimes("an agent that is not heard holds the port back", held_back));
        }
        properties
    }
}

fn check(protocol: &Protocol) {
    let checker = protocol.clone().checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn a_port_is_served_for_one_claim_whatever_an_agent_does() {
    check(&Protocol { numbers: 3, steady: 1, with_restore: false });
}

#[test]
fn agents_agree_again_after_the_api_was_restored_from_a_backup() {
    check(&Protocol { numbers: 3, steady: 2, with_restore: true });
}
