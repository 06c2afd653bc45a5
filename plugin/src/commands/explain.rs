//! `explain`: where a claim is, why there or why not, and what would help.

use std::num::NonZeroU16;
use std::str::FromStr;

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde::Serialize;
use sharedlb_crds::{
    ConditionType, LoadBalancerStatus, Protocol, Reason, SharedLB, SharedLBClass, SharedLBPort, SharedLBStatus,
};
use sharedlb_kubernetes::{ObjectKey, conditions};

use crate::advice::advice;
use crate::commands::ports::next_free;
use crate::occupancy::{Holder, LoadBalancer, class_of, default_class, is_ready, occupants};
use crate::output::{Cell, Column, Document, Outcome, Report, Table, Tone};
use crate::snapshot::Snapshot;

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The claim: its name, or its namespace, a slash and its name.
    pub(crate) claim: ClaimName,
}

/// The name of a claim, with its namespace if that is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimName {
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
}

impl FromStr for ClaimName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // As kubectl prints it, and with the name of the kind.
        let text = text.strip_prefix("slb/").or_else(|| text.strip_prefix("sharedlb/")).unwrap_or(text);
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, text),
        };
        if name.is_empty() || name.contains('/') || namespace.as_deref() == Some("") {
            return Err("a claim is NAME, or NAMESPACE/NAME");
        }
        Ok(Self { namespace, name: name.to_owned() })
    }
}

/// Where a claim is, and why.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    claim: String,
    ready: bool,
    class: ClassOfClaim,
    load_balancer: Option<u32>,
    addresses: Vec<String>,
    ports: Vec<Port>,
    conditions: Vec<Finding>,
    /// What else is known about it
    facts: Vec<String>,
    help: Option<Help>,
    events: Vec<Told>,
}

/// The class of the claim, and why it is that one.
#[derive(Debug, Serialize)]
struct ClassOfClaim {
    name: Option<String>,
    why: &'static str,
}

/// A port of the spec, and what it has.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: String,
    protocol: Protocol,
    /// The number in the spec
    requested: Option<NonZeroU16>,
    /// The number in the status
    port: Option<NonZeroU16>,
    opened: bool,
}

/// A condition of the claim.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
    since: Timestamp,
}

/// What helps, and who can do it.
#[derive(Debug, Serialize)]
struct Help {
    who: &'static str,
    what: &'static str,
}

/// An Event.
#[derive(Debug, Serialize)]
struct Told {
    time: Option<Timestamp>,
    reason: String,
    note: String,
}

impl Explanation {
    /// What the snapshot shows of this claim.
    ///
    /// # Errors
    /// If the claim is not in it.
    pub(crate) fn of(snapshot: &Snapshot, key: &ObjectKey) -> anyhow::Result<Self> {
        let Some(claim) = snapshot.claims.items.iter().find(|claim| ObjectKey::of(*claim) == *key) else {
            let unseen: Vec<String> = snapshot.unseen.iter().map(ToString::to_string).collect();
            bail!("there is no SharedLB {key} that can be seen\n{}", unseen.join("\n"));
        };
        let status = claim.status.clone().unwrap_or_default();
        Ok(Self {
            claim: key.to_string(),
            ready: is_ready(Some(&status)),
            class: ClassOfClaim::of(claim, snapshot),
            load_balancer: status.load_balancer_index,
            addresses: status.all_addresses().map(str::to_owned).collect(),
            ports: claim.spec.ports.iter().map(|port| Port::of(port, &status)).collect(),
            conditions: status.conditions.iter().map(Finding::of).collect(),
            facts: facts(claim, &status, snapshot),
            help: help(&status.conditions),
            events: told(snapshot),
        })
    }
}

impl ClassOfClaim {
    fn of(claim: &SharedLB, snapshot: &Snapshot) -> Self {
        let default = || default_class(snapshot).map(ResourceExt::name_any);
        match (&claim.spec.class_name, class_of(claim)) {
            (Some(name), _) => Self { name: Some(name.clone()), why: "spec.className names it" },
            (None, Some(name)) => {
                Self { name: Some(name.to_owned()), why: "it was the default class when the claim got its ports" }
            }
            (None, None) => Self { name: default(), why: "it is the default class" },
        }
    }
}

impl Port {
    fn of(port: &SharedLBPort, status: &SharedLBStatus) -> Self {
        let has = status.ports.iter().find(|has| has.name == port.name);
        Self {
            name: port.name.clone(),
            protocol: port.protocol,
            requested: port.port,
            port: has.map(|has| has.port),
            opened: has.is_some_and(|has| has.opened),
        }
    }

    /// Why it has this number, or that it has none.
    fn why(&self) -> Cell {
        match (self.port, self.requested) {
            (Some(port), Some(requested)) if port == requested => "requested".into(),
            (Some(_), Some(requested)) => {
                Cell::new(format!("{requested} is requested, and not there yet"), Tone::Warning)
            }
            (Some(_), None) => "assigned".into(),
            (None, Some(requested)) => Cell::new(format!("{requested} is requested"), Tone::Bad),
            (None, None) => Cell::new("any number is requested", Tone::Bad),
        }
    }
}

impl Finding {
    fn of(condition: &Condition) -> Self {
        Self {
            kind: condition.type_.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            since: condition.last_transition_time.0,
        }
    }
}

/// What helps against the first condition that is not True, or against the reason of one that is
/// True and still says that something is amiss.
fn help(all: &[Condition]) -> Option<Help> {
    let in_order = [ConditionType::Allocated, ConditionType::Programmed, ConditionType::Ready];
    let found: Vec<&Condition> = in_order.iter().filter_map(|kind| conditions::find(all, kind)).collect();
    let failing = found.iter().filter(|condition| condition.status != "True");
    let advice = failing.chain(&found).find_map(|condition| advice(&condition.reason))?;
    Some(Help { who: advice.who, what: advice.what })
}

/// What the objects around the claim say about it.
fn facts(claim: &SharedLB, status: &SharedLBStatus, snapshot: &Snapshot) -> Vec<String> {
    let mut facts = Vec::new();
    if let Some(deleted) = &claim.metadata.deletion_timestamp {
        let finalizers = claim.finalizers().join(", ");
        facts.push(format!("it is being deleted since {}; finalizers that keep it: {finalizers}", deleted.0));
    }
    match (claim.metadata.generation, status.observed_generation) {
        (_, None) => facts.push("the controller has not written a status: does it run?".to_owned()),
        (Some(spec), Some(observed)) if spec > observed => {
            facts.push(format!("the status is about generation {observed}, and the spec is generation {spec} by now"));
        }
        _ => {}
    }
    let class = class_of(claim).map(str::to_owned).or_else(|| default_class(snapshot).map(ResourceExt::name_any));
    let Some(class) = class else { return facts };
    match snapshot.classes.items.iter().find(|found| found.name_any() == class) {
        Some(class) => facts.extend(facts_of_class(claim, status, class, snapshot)),
        None if snapshot.classes.is_complete => facts.push(format!("class {class} does not exist")),
        None => {}
    }
    facts
}

fn facts_of_class(
    claim: &SharedLB,
    status: &SharedLBStatus,
    class: &SharedLBClass,
    snapshot: &Snapshot,
) -> Vec<String> {
    let mut facts = Vec::new();
    let name = class.name_any();
    let class_status = class.status.clone().unwrap_or_default();
    if let Some(ready) =
        conditions::find(&class_status.conditions, ConditionType::Ready).filter(|one| one.status != "True")
    {
        facts.push(format!("class {name} is not ready ({}): {}", ready.reason, ready.message));
    }
    let allocated = conditions::find(&status.conditions, ConditionType::Allocated);
    let refused = |reason: Reason| allocated.is_some_and(|one| one.status == "False" && one.reason == reason.as_str());
    if refused(Reason::PortTaken) {
        facts.extend(taken(claim, status, class, snapshot));
    }
    if refused(Reason::PoolExhausted) || refused(Reason::PortTaken) {
        facts.extend(class_status.load_balancers.iter().map(filled));
        let (count, max) = (class_status.load_balancers.len(), class.spec.load_balancers.max);
        facts.push(format!("class {name} has {count} of at most {max} load balancers"));
    }
    if refused(Reason::QuotaExceeded) {
        facts.push(quota(claim, class, snapshot));
    }
    facts
}

/// What has the requested numbers on each load balancer, and which number is free instead.
fn taken(claim: &SharedLB, status: &SharedLBStatus, class: &SharedLBClass, snapshot: &Snapshot) -> Vec<String> {
    let missing = claim.spec.ports.iter().filter(|port| !status.ports.iter().any(|has| has.name == port.name));
    let numbers: Vec<(NonZeroU16, Protocol)> = missing.filter_map(|port| Some((port.port?, port.protocol))).collect();
    let mut facts = Vec::new();
    for (LoadBalancer { class: of, index }, occupants) in occupants(snapshot) {
        if of != class.name_any() {
            continue;
        }
        for (port, protocol) in &numbers {
            let on_number = occupants.iter().filter(|one| one.overlaps(*port, *protocol));
            facts.extend(on_number.map(|one| {
                let by = match &one.holder {
                    Holder::Held { claim, .. } => format!("held by {claim}"),
                    Holder::CoolingDown { claim, .. } => {
                        let note = one.holder.note().unwrap_or_default();
                        format!("cooling down after its release by {claim}, {note}")
                    }
                    Holder::Foreign => "taken by a foreign listener".to_owned(),
                };
                format!("{port}/{} is {by} on load balancer {index}", one.protocol)
            }));
            let is_cordoned = class.spec.load_balancers.cordoned.contains(&index);
            let free = next_free(&class.spec.ports, &occupants, *port, *protocol);
            if let Some(free) = free.filter(|_| snapshot.claims.is_complete && !is_cordoned) {
                facts.push(format!("{free}/{protocol} is free on load balancer {index}, and may be requested"));
            }
        }
    }
    facts
}

/// `load balancer 0: 50 of 50 listeners`
fn filled(status: &LoadBalancerStatus) -> String {
    let of = |used: u32, capacity: Option<u32>| {
        capacity.map_or_else(|| used.to_string(), |capacity| format!("{used} of {capacity}"))
    };
    let capacity = status.capacity.as_ref();
    let listeners = of(status.listeners, capacity.map(|capacity| capacity.listeners));
    let targets =
        status.targets.map(|targets| format!(", {} targets", of(targets, capacity.and_then(|one| one.targets))));
    format!("load balancer {}: {listeners} listeners{}", status.index, targets.unwrap_or_default())
}

/// How many ports the namespace holds.
fn quota(claim: &SharedLB, class: &SharedLBClass, snapshot: &Snapshot) -> String {
    let (namespace, name) = (claim.namespace().unwrap_or_default(), class.name_any());
    let of_namespace = snapshot.claims.items.iter().filter(|other| other.namespace() == claim.namespace());
    let statuses = of_namespace.filter_map(|other| other.status.as_ref());
    let held: usize =
        statuses.filter(|status| status.class_name.as_ref() == Some(&name)).map(|status| status.ports.len()).sum();
    format!("namespace {namespace} holds {held} of {} ports of class {name}", class.spec.ports_per_namespace)
}

/// The Events about the claim, the last one last.
fn told(snapshot: &Snapshot) -> Vec<Told> {
    let mut events: Vec<Told> = snapshot.events.items.iter().map(Told::of).collect();
    events.sort_by_key(|event| event.time);
    events
}

impl Told {
    fn of(event: &Event) -> Self {
        let time = event
            .series
            .as_ref()
            .map(|series| series.last_observed_time.0)
            .or(event.event_time.as_ref().map(|time| time.0));
        Self { time, reason: event.reason.clone().unwrap_or_default(), note: event.note.clone().unwrap_or_default() }
    }
}

impl Report for Explanation {
    fn render(&self) -> Document {
        let mut document = Document::default();
        document.line(Cell::new(format!("SharedLB {}", self.claim), Tone::Strong));
        match &self.class.name {
            Some(name) => document.line(format!("Class: {name} ({})", self.class.why)),
            None => document.line("Class: none is named, and no default class can be seen"),
        }
        if let Some(index) = self.load_balancer {
            let addresses =
                if self.addresses.is_empty() { "no address yet".to_owned() } else { self.addresses.join(", ") };
            document.line(format!("Load balancer: {index} ({addresses})"));
        }
        document.table(self.ports());
        document.table(self.conditions());
        for fact in &self.facts {
            document.line(format!("- {fact}"));
        }
        if let Some(Help { who, what }) = &self.help {
            document.line(Cell::new(format!("What helps ({who}): {what}"), Tone::Warning));
        }
        document.table(self.events());
        document
    }

    fn outcome(&self) -> Outcome {
        if self.ready { Outcome::Fine } else { Outcome::Finding }
    }
}

impl Explanation {
    fn ports(&self) -> Table {
        use Column::Usual;
        let mut table = Table::new([Usual("PORT"), Usual("NAME"), Usual("WHY"), Usual("OPENED")]);
        for port in &self.ports {
            let number = port.port.map_or_else(|| "none".to_owned(), |port| port.to_string());
            table.row([
                format!("{number}/{}", port.protocol).into(),
                Cell::or_dash(Some(&port.name).filter(|name| !name.is_empty())),
                port.why(),
                port.opened.to_string().into(),
            ]);
        }
        table
    }

    fn conditions(&self) -> Table {
        use Column::{Usual, Wide};
        let mut table =
            Table::new([Usual("CONDITION"), Usual("STATUS"), Usual("REASON"), Wide("SINCE"), Usual("MESSAGE")]);
        for condition in &self.conditions {
            let tone = if condition.status == "True" { Tone::Good } else { Tone::Bad };
            table.row([
                condition.kind.as_str().into(),
                Cell::new(&condition.status, tone),
                condition.reason.as_str().into(),
                condition.since.to_string().into(),
                condition.message.as_str().into(),
            ]);
        }
        table
    }

    fn events(&self) -> Table {
        use Column::Usual;
        let mut table = Table::new([Usual("EVENT"), Usual("TIME"), Usual("NOTE")]);
        for event in &self.events {
            table.row([
                event.reason.as_str().into(),
                Cell::or_dash(event.time.map(|time| time.to_string())),
                event.note.as_str().into(),
            ]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::{claim, class, condition, object, snapshot};

    fn refused(reason: &str) -> SharedLB {
        object(json!({
            "metadata": {"namespace": "team-c", "name": "db", "generation": 2},
            "spec": {"selector": {"app": "db"}, "ports": [{"port": 5432}]},
            "status": {"observedGeneration": 1, "conditions": [
                condition("Allocated", "False", reason, "the message"),
                condition("Programmed", "Unknown", "Pending", "there is no port to serve"),
                condition("Ready", "False", reason, "the message"),
            ]},
        }))
    }

    fn explained(snapshot: &Snapshot) -> Explanation {
        let key = ObjectKey { namespace: "team-c".into(), name: "db".into() };
        Explanation::of(snapshot, &key).expect("the claim is there")
    }

    fn default(mut class: SharedLBClass) -> SharedLBClass {
        class.annotations_mut().insert("sharedlb.dev/is-default-class".to_owned(), "true".to_owned());
        class
    }

    #[test]
    fn a_taken_port_is_explained_by_what_has_it_and_what_is_free() {
        let found = explained(&snapshot([refused("PortTaken")], [default(class("default", 0, &[]))]));
        assert_eq!(
            found.facts,
            [
                "the status is about generation 1, and the spec is generation 2 by now",
                "5432/TCP is cooling down after its release by team-b/postgres, for this claim alone until \
                 2026-01-01T00:05:00Z on load balancer 0",
                "5433/TCP is free on load balancer 0, and may be requested",
                "load balancer 0: 1 of 50 listeners",
                "class default has 1 of at most 10 load balancers",
            ]
        );
        assert_eq!(found.help.expect("there is help").who, "team");
    }

    #[test]
    fn a_quota_is_explained_by_what_the_namespace_holds() {
        let other = claim("team-c", "web", "default", 0, 80);
        let found = explained(&snapshot([refused("QuotaExceeded"), other], [default(class("default", 0, &[]))]));
        assert_eq!(found.facts[1..], ["namespace team-c holds 1 of 100 ports of class default"]);
    }

    #[test]
    fn a_class_that_is_not_there_is_named() {
        let mut claim = refused("NoClass");
        claim.spec.class_name = Some("gold".to_owned());
        let mut snapshot = snapshot([claim], [class("default", 0, &[])]);
        assert_eq!(explained(&snapshot).facts[1..], ["class gold does not exist"]);
        snapshot.classes = crate::snapshot::Seen::default();
        assert_eq!(explained(&snapshot).facts.len(), 1, "a class that may not be seen may exist");
    }

    #[test]
    fn a_claim_is_named_with_or_without_its_namespace() {
        let named =
            |namespace: Option<&str>| ClaimName { namespace: namespace.map(str::to_owned), name: "db".to_owned() };
        assert_eq!("db".parse(), Ok(named(None)));
        assert_eq!("slb/db".parse(), Ok(named(None)));
        assert_eq!("team-c/db".parse(), Ok(named(Some("team-c"))));
        for wrong in ["", "/db", "a/b/c", "team-c/"] {
            assert!(wrong.parse::<ClaimName>().is_err(), "{wrong}");
        }
    }
}
