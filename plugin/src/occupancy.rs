//! Which ports of which load balancers are taken, and by what. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::num::NonZeroU16;

use clap::ValueEnum;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use serde::Serialize;
use sharedlb_crds::{
    ConditionType, DEFAULT_CLASS_ANNOTATION, PortStatus, Protocol, ReleasedPort, SharedLB, SharedLBClass,
    SharedLBStatus, Transport,
};
use sharedlb_kubernetes::{ObjectKey, conditions};

use crate::output::{Cell, Tone};
use crate::snapshot::Snapshot;

/// One load balancer of a class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LoadBalancer {
    /// The name of the class
    pub(crate) class: String,
    /// Its index in the class
    pub(crate) index: u32,
}

/// A port of a load balancer that is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Occupant {
    /// The number
    pub(crate) port: NonZeroU16,
    /// TCP, UDP or both
    pub(crate) protocol: Protocol,
    /// By what it is taken
    #[serde(flatten)]
    pub(crate) holder: Holder,
}

/// By what a port is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub(crate) enum Holder {
    /// A claim
    Held {
        /// Namespace, slash, name
        claim: String,
        /// The name of the port in the claim
        name: String,
        /// Whether the claim is ready
        ready: bool,
    },
    /// It was released, and cools down.
    CoolingDown {
        /// The claim that had it, and can get it again
        claim: String,
        /// When the cool-down is over; `None`: it is, and the listener has yet to close
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    /// A foreign listener
    Foreign,
}

/// The state of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum State {
    /// A claim has it
    Held,
    /// It was released, and only its former claim can get it
    CoolingDown,
    /// A foreign listener has it
    Foreign,
    /// Claims can get it
    Free,
    /// It is free, or held by a claim that the user may not see
    Unknown,
}

impl State {
    /// Its name in a table.
    pub(crate) fn cell(self) -> Cell {
        match self {
            Self::Held => Cell::new("held", Tone::Strong),
            Self::CoolingDown => Cell::new("cooling down", Tone::Warning),
            Self::Foreign => Cell::new("foreign", Tone::Bad),
            Self::Free => Cell::new("free", Tone::Good),
            Self::Unknown => Cell::new("free or not visible", Tone::Faint),
        }
    }
}

impl Holder {
    /// The state of its port.
    pub(crate) fn state(&self) -> State {
        match self {
            Self::Held { .. } => State::Held,
            Self::CoolingDown { .. } => State::CoolingDown,
            Self::Foreign => State::Foreign,
        }
    }

    /// The claim that has the port, or had it.
    pub(crate) fn claim(&self) -> Option<&str> {
        match self {
            Self::Held { claim, .. } | Self::CoolingDown { claim, .. } => Some(claim),
            Self::Foreign => None,
        }
    }

    /// The name of the port in the claim, if it has one.
    pub(crate) fn port_name(&self) -> Option<&str> {
        match self {
            Self::Held { name, .. } => Some(name.as_str()).filter(|name| !name.is_empty()),
            Self::CoolingDown { .. } | Self::Foreign => None,
        }
    }

    /// What else a person should know.
    pub(crate) fn note(&self) -> Option<String> {
        match self {
            Self::Held { ready, .. } => (!ready).then(|| "the claim is not ready".to_owned()),
            Self::CoolingDown { until: Some(until), .. } => Some(format!("for this claim alone until {until}")),
            Self::CoolingDown { until: None, .. } => Some("until its listener has closed".to_owned()),
            Self::Foreign => None,
        }
    }
}

impl Occupant {
    /// Whether it takes this number with this transport.
    pub(crate) fn takes(&self, port: NonZeroU16, transport: Transport) -> bool {
        self.port == port && has(self.protocol, transport)
    }

    /// Whether it takes a transport of this protocol at this number.
    pub(crate) fn overlaps(&self, port: NonZeroU16, protocol: Protocol) -> bool {
        [Transport::Tcp, Transport::Udp].into_iter().any(|one| has(protocol, one) && self.takes(port, one))
    }
}

/// Whether a protocol has this transport.
pub(crate) fn has(protocol: Protocol, transport: Transport) -> bool {
    match protocol {
        Protocol::Tcp => transport == Transport::Tcp,
        Protocol::Udp => transport == Transport::Udp,
        Protocol::TcpUdp => true,
    }
}

/// The taken ports of every load balancer that can be seen, lowest number first.
pub(crate) fn occupants(snapshot: &Snapshot) -> BTreeMap<LoadBalancer, Vec<Occupant>> {
    let mut all: BTreeMap<LoadBalancer, Vec<Occupant>> = BTreeMap::new();
    for class in &snapshot.classes {
        for (load_balancer, occupants) in of_class(class, snapshot.now) {
            all.entry(load_balancer).or_default().extend(occupants);
        }
    }
    for claim in &snapshot.claims {
        if let Some((load_balancer, occupants)) = of_claim(claim) {
            all.entry(load_balancer).or_default().extend(occupants);
        }
    }
    for occupants in all.values_mut() {
        occupants.sort_by_key(|occupant| (occupant.port, occupant.protocol));
    }
    all
}

/// The ports that a class records as released, and the foreign ones, by load balancer.
fn of_class(class: &SharedLBClass, now: Timestamp) -> impl Iterator<Item = (LoadBalancer, Vec<Occupant>)> {
    let delay = SignedDuration::from_secs(class.spec.reclaim_delay_seconds.into());
    class.status.iter().flat_map(|status| &status.load_balancers).map(move |status| {
        let released = status.released.iter().map(|released| cooling_down(released, delay, now));
        let foreign = status.foreign_ports.iter().filter_map(|port| foreign(port));
        let load_balancer = LoadBalancer { class: class.name_any(), index: status.index };
        (load_balancer, released.chain(foreign).collect())
    })
}

fn cooling_down(released: &ReleasedPort, delay: SignedDuration, now: Timestamp) -> Occupant {
    let until = released.time.as_ref().and_then(|time| time.0.checked_add(delay).ok());
    let until = until.filter(|until| *until > now);
    let holder = Holder::CoolingDown { claim: released.claim.clone(), until };
    Occupant { port: released.port, protocol: released.protocol, holder }
}

/// A foreign port of the class's status: `22/TCP`.
fn foreign(text: &str) -> Option<Occupant> {
    let (number, protocol) = text.split_once('/')?;
    let protocol = match protocol {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => return None,
    };
    Some(Occupant { port: number.parse().ok()?, protocol, holder: Holder::Foreign })
}

/// The ports that a claim holds, and where.
fn of_claim(claim: &SharedLB) -> Option<(LoadBalancer, Vec<Occupant>)> {
    let status = claim.status.as_ref()?;
    let load_balancer = LoadBalancer { class: status.class_name.clone()?, index: status.load_balancer_index? };
    let held = |port: &PortStatus| Occupant {
        port: port.port,
        protocol: port.protocol,
        holder: Holder::Held {
            claim: ObjectKey::of(claim).to_string(),
            name: port.name.clone(),
            ready: is_ready(Some(status)),
        },
    };
    Some((load_balancer, status.ports.iter().map(held).collect()))
}

/// The class that a claim has, or asks for; `None`: it asks for the default one.
pub(crate) fn class_of(claim: &SharedLB) -> Option<&str> {
    let given = claim.status.as_ref().and_then(|status| status.class_name.as_deref());
    given.or(claim.spec.class_name.as_deref())
}

/// Whether the class is annotated as the default one.
pub(crate) fn is_default(class: &SharedLBClass) -> bool {
    class.annotations().get(DEFAULT_CLASS_ANNOTATION).is_some_and(|value| value == "true")
}

/// The class of claims that name none: of several that are annotated, the newest, as for the
/// controller.
pub(crate) fn default_class(snapshot: &Snapshot) -> Option<&SharedLBClass> {
    let classes = snapshot.classes.items.iter();
    let candidates = classes.filter(|class| is_default(class) && class.metadata.deletion_timestamp.is_none());
    candidates.max_by_key(|class| {
        let created = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created, Reverse(class.name_any()))
    })
}

/// Whether the status says that the claim is ready.
pub(crate) fn is_ready(status: Option<&SharedLBStatus>) -> bool {
    let ready = status.and_then(|status| conditions::find(&status.conditions, ConditionType::Ready));
    ready.is_some_and(|condition| condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{claim, class, snapshot};

    #[test]
    fn held_released_and_foreign_ports_are_taken_where_they_are() {
        let class = class("default", 0, &["22/TCP"]);
        let taken = occupants(&snapshot([claim("team-a", "redis", "default", 0, 6379)], [class]));
        let ports = &taken[&LoadBalancer { class: "default".into(), index: 0 }];
        let shown: Vec<_> = ports.iter().map(|occupant| (occupant.port.get(), occupant.holder.clone())).collect();
        let until = "2026-01-01T00:05:00Z".parse().ok();
        assert_eq!(
            shown,
            [
                (22, Holder::Foreign),
                (5432, Holder::CoolingDown { claim: "team-b/postgres".into(), until }),
                (6379, Holder::Held { claim: "team-a/redis".into(), name: String::new(), ready: true }),
            ]
        );
    }

    #[test]
    fn a_port_of_both_transports_takes_each() {
        let both = Occupant { port: NonZeroU16::MIN, protocol: Protocol::TcpUdp, holder: Holder::Foreign };
        assert!(both.takes(NonZeroU16::MIN, Transport::Tcp) && both.takes(NonZeroU16::MIN, Transport::Udp));
        let tcp = Occupant { protocol: Protocol::Tcp, ..both };
        assert!(tcp.takes(NonZeroU16::MIN, Transport::Tcp) && !tcp.takes(NonZeroU16::MIN, Transport::Udp));
    }
}
