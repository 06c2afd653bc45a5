//! `ports`: a map of the ports of load balancers, what they are taken by, and which are free.

use std::num::NonZeroU16;

use clap::Args;
use kube::ResourceExt as _;
use serde::Serialize;
use sharedlb_crds::{LoadBalancerStatus, PortRange, PortRanges, Protocol, SharedLBClass, Transport};

use crate::occupancy::{Holder, LoadBalancer, Occupant, State, occupants};
use crate::output::{Cell, Column, Document, Outcome, Report, Table, Tone};
use crate::snapshot::Snapshot;

#[derive(Debug, Default, Args)]
pub(crate) struct PortsArgs {
    /// Only the load balancers of this class.
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// Only the load balancer with this index in its class.
    #[arg(long, value_name = "INDEX")]
    load_balancer: Option<u32>,
    /// Only ports in these states.
    #[arg(long, value_enum, value_delimiter = ',')]
    state: Vec<State>,
}

/// The map of all load balancers that can be seen.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortMap {
    load_balancers: Vec<LoadBalancerMap>,
}

/// The map of one load balancer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LoadBalancerMap {
    #[serde(flatten)]
    load_balancer: LoadBalancer,
    addresses: Vec<String>,
    /// Whether no claim gets new ports on it
    cordoned: bool,
    /// How many listeners it has for claims
    listeners: Option<u32>,
    /// How many listeners it can have
    listeners_capacity: Option<u32>,
    ports: Vec<Entry>,
}

/// Consecutive numbers in one state.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    first: NonZeroU16,
    last: NonZeroU16,
    protocol: Protocol,
    state: State,
    /// By what it is taken
    #[serde(skip_serializing_if = "Option::is_none")]
    taken_by: Option<Holder>,
    /// How claims get it, if it is free
    #[serde(skip_serializing_if = "Option::is_none")]
    given: Option<Given>,
}

/// How claims get a free port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Given {
    /// It is assigned to claims that request no number; it is in `ports.dynamic`.
    Assigned,
    /// By its number alone; it is in `ports.requestable` only.
    OnRequest,
}

impl PortMap {
    /// The map that the snapshot shows.
    pub(crate) fn of(snapshot: &Snapshot, args: &PortsArgs) -> Self {
        let mut taken = occupants(snapshot);
        for class in &snapshot.classes {
            for status in class.status.iter().flat_map(|status| &status.load_balancers) {
                taken.entry(LoadBalancer { class: class.name_any(), index: status.index }).or_default();
            }
        }
        let is_asked = |load_balancer: &LoadBalancer| {
            args.class.as_ref().is_none_or(|class| *class == load_balancer.class)
                && args.load_balancer.is_none_or(|index| index == load_balancer.index)
        };
        let maps = taken.into_iter().filter(|(load_balancer, _)| is_asked(load_balancer));
        let mut load_balancers: Vec<_> =
            maps.map(|(load_balancer, taken)| LoadBalancerMap::of(load_balancer, taken, snapshot)).collect();
        for map in &mut load_balancers {
            map.ports.retain(|entry| args.state.is_empty() || args.state.contains(&entry.state));
        }
        Self { load_balancers }
    }
}

impl LoadBalancerMap {
    fn of(load_balancer: LoadBalancer, taken: Vec<Occupant>, snapshot: &Snapshot) -> Self {
        let class = snapshot.classes.items.iter().find(|class| class.name_any() == load_balancer.class);
        let status = class.and_then(|class| status_of(class, load_balancer.index));
        let mut ports: Vec<Entry> = taken.iter().cloned().map(Entry::taken).collect();
        let cordoned = class.is_some_and(|class| class.spec.load_balancers.cordoned.contains(&load_balancer.index));
        if let Some(class) = class.filter(|_| !cordoned) {
            let state = if snapshot.claims.is_complete { State::Free } else { State::Unknown };
            ports.extend(free(&class.spec.ports, &taken, state));
        }
        ports.sort_by_key(|entry| (entry.first, entry.protocol));
        Self {
            addresses: status.map_or_else(
                || addresses_of(&load_balancer, snapshot),
                |status| status.all_addresses().map(str::to_owned).collect(),
            ),
            cordoned,
            listeners: status.map(|status| status.listeners),
            listeners_capacity: status.and_then(|status| Some(status.capacity.as_ref()?.listeners)),
            load_balancer,
            ports,
        }
    }
}

fn status_of(class: &SharedLBClass, index: u32) -> Option<&LoadBalancerStatus> {
    class.status.as_ref()?.load_balancers.iter().find(|status| status.index == index)
}

/// The addresses of a load balancer whose class cannot be seen, from a claim on it.
fn addresses_of(load_balancer: &LoadBalancer, snapshot: &Snapshot) -> Vec<String> {
    let status = snapshot.claims.items.iter().filter_map(|claim| claim.status.as_ref()).find(|status| {
        status.class_name.as_ref() == Some(&load_balancer.class)
            && status.load_balancer_index == Some(load_balancer.index)
    });
    status.map(|status| status.all_addresses().map(str::to_owned).collect()).unwrap_or_default()
}

impl Entry {
    fn taken(Occupant { port, protocol, holder }: Occupant) -> Self {
        Self { first: port, last: port, protocol, state: holder.state(), taken_by: Some(holder), given: None }
    }
}

/// The numbers of the class that are not taken, as ranges in this state.
fn free(ranges: &PortRanges, taken: &[Occupant], state: State) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for port in (1..=u16::MAX).filter_map(NonZeroU16::new) {
        let Some(given) = given(ranges, port) else { continue };
        let Some(protocol) = free_protocol(taken, port) else { continue };
        match entries.last_mut() {
            Some(last) if last.continues_to(port) && last.protocol == protocol && last.given == Some(given) => {
                last.last = port;
            }
            _ => entries.push(Entry { first: port, last: port, protocol, state, taken_by: None, given: Some(given) }),
        }
    }
    entries
}

impl Entry {
    fn continues_to(&self, port: NonZeroU16) -> bool {
        self.last.checked_add(1) == Some(port)
    }
}

/// How claims get this number if it is free; `None`: they do not.
fn given(ranges: &PortRanges, port: NonZeroU16) -> Option<Given> {
    if is_in(&ranges.dynamic, port) {
        Some(Given::Assigned)
    } else {
        is_in(&ranges.requestable, port).then_some(Given::OnRequest)
    }
}

/// The next number after this one that may be requested with this protocol and is not taken.
pub(crate) fn next_free(
    ranges: &PortRanges,
    taken: &[Occupant],
    after: NonZeroU16,
    protocol: Protocol,
) -> Option<NonZeroU16> {
    let numbers = (after.get()..=u16::MAX).skip(1).filter_map(NonZeroU16::new);
    numbers
        .filter(|port| is_in(&ranges.requestable, *port))
        .find(|port| !taken.iter().any(|occupant| occupant.overlaps(*port, protocol)))
}

fn is_in(ranges: &[PortRange], port: NonZeroU16) -> bool {
    ranges.iter().any(|range| (range.min..=range.max).contains(&port))
}

/// With which protocols a number is free. `taken` is sorted by number.
fn free_protocol(taken: &[Occupant], port: NonZeroU16) -> Option<Protocol> {
    let from = taken.partition_point(|occupant| occupant.port < port);
    let is_free =
        |transport| !taken[from..].iter().take_while(|one| one.port == port).any(|one| one.takes(port, transport));
    match (is_free(Transport::Tcp), is_free(Transport::Udp)) {
        (true, true) => Some(Protocol::TcpUdp),
        (true, false) => Some(Protocol::Tcp),
        (false, true) => Some(Protocol::Udp),
        (false, false) => None,
    }
}

impl Report for PortMap {
    fn render(&self) -> Document {
        let mut document = Document::default();
        if self.load_balancers.is_empty() {
            document.line("no load balancer can be seen");
        }
        for map in &self.load_balancers {
            document.line(Cell::new(map.headline(), Tone::Strong));
            document.table(map.table());
        }
        document
    }

    fn outcome(&self) -> Outcome {
        if self.load_balancers.is_empty() { Outcome::Finding } else { Outcome::Fine }
    }
}

impl LoadBalancerMap {
    /// `class default, load balancer 0 (10.99.0.1): 2 of 50 listeners`
    fn headline(&self) -> String {
        let LoadBalancer { class, index } = &self.load_balancer;
        let addresses = if self.addresses.is_empty() { "no address".to_owned() } else { self.addresses.join(", ") };
        let listeners = match (self.listeners, self.listeners_capacity) {
            (Some(listeners), Some(capacity)) => format!(": {listeners} of {capacity} listeners"),
            (Some(listeners), None) => format!(": {listeners} listeners"),
            (None, _) => String::new(),
        };
        let cordoned = if self.cordoned { ", cordoned: no new ports" } else { "" };
        format!("Class {class}, load balancer {index} ({addresses}){listeners}{cordoned}")
    }

    fn table(&self) -> Table {
        use Column::{Usual, Wide};
        let mut table = Table::new([Usual("PORT"), Usual("STATE"), Usual("CLAIM"), Wide("PORT NAME"), Usual("NOTE")]);
        for entry in &self.ports {
            table.row(entry.cells());
        }
        table
    }
}

impl Entry {
    fn cells(&self) -> [Cell; 5] {
        let holder = self.taken_by.as_ref();
        let note = match holder {
            Some(holder) => holder.note(),
            None => self.given.map(|given| given.words().to_owned()),
        };
        [
            self.numbers().into(),
            self.state.cell(),
            Cell::or_dash(holder.and_then(Holder::claim)),
            Cell::or_dash(holder.and_then(Holder::port_name)),
            Cell::or_dash(note),
        ]
    }

    /// `5432/TCP`, or `20000-29999/TCP_UDP`
    fn numbers(&self) -> String {
        let Self { first, last, protocol, .. } = self;
        if first == last { format!("{first}/{protocol}") } else { format!("{first}-{last}/{protocol}") }
    }
}

impl Given {
    fn words(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::OnRequest => "on request",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{claim, class, snapshot};
    use crate::output::Columns;

    fn shown(snapshot: &Snapshot) -> Vec<String> {
        let map = PortMap::of(snapshot, &PortsArgs::default());
        let text = anstream::adapter::strip_str(&map.render().to_text(Columns::Usual)).to_string();
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn every_port_of_the_class_is_in_the_map_once() {
        let snapshot = snapshot([claim("team-a", "redis", "default", 0, 20_003)], [class("default", 0, &["22/TCP"])]);
        assert_eq!(
            shown(&snapshot),
            [
                "Class default, load balancer 0 (10.99.0.1): 1 of 50 listeners",
                "",
                "PORT STATE CLAIM NOTE",
                "1-21/TCP_UDP free - on request",
                "22/TCP foreign - -",
                "22/UDP free - on request",
                "23-5431/TCP_UDP free - on request",
                "5432/TCP cooling down team-b/postgres for this claim alone until 2026-01-01T00:05:00Z",
                "5432/UDP free - on request",
                "5433-10000/TCP_UDP free - on request",
                "20000-20002/TCP_UDP free - assigned",
                "20003/TCP held team-a/redis -",
                "20003/UDP free - assigned",
                "20004-20009/TCP_UDP free - assigned",
            ]
        );
    }

    #[test]
    fn no_port_of_a_cordoned_load_balancer_is_free() {
        let mut class = class("default", 0, &[]);
        class.spec.load_balancers.cordoned = [0].into();
        let shown = shown(&snapshot([claim("team-a", "redis", "default", 0, 20_003)], [class]));
        assert_eq!(shown[0], "Class default, load balancer 0 (10.99.0.1): 1 of 50 listeners, cordoned: no new ports");
        assert_eq!(shown[4..], ["20003/TCP held team-a/redis -"]);
    }

    #[test]
    fn a_user_who_may_not_see_all_claims_is_not_told_that_a_port_is_free() {
        let mut snapshot = snapshot([], [class("default", 0, &[])]);
        snapshot.claims.is_complete = false;
        let shown = shown(&snapshot);
        assert!(shown.iter().any(|line| line == "20000-20009/TCP_UDP free or not visible - assigned"), "{shown:?}");
    }

    #[test]
    fn a_user_who_may_not_see_classes_sees_the_ports_of_claims() {
        let snapshot = snapshot([claim("team-a", "redis", "default", 0, 20_003)], []);
        assert_eq!(
            shown(&snapshot)[..],
            [
                "Class default, load balancer 0 (10.99.0.1)",
                "",
                "PORT STATE CLAIM NOTE",
                "20003/TCP held team-a/redis -"
            ]
        );
    }
}
