//! Why a port was not given, in words that say what to do.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use sharedlb_crds::Reason;
use sharedlb_providers::{Address, ListenerKey, Protocol};

use super::PortRequest;

/// Why a port of a claim got no slot. Its text is for the claim's author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The class does not serve this namespace.
    NotPermitted {
        /// The claim's namespace
        namespace: Arc<str>,
    },
    /// The provider has no such listeners.
    Unsupported {
        /// What was asked for
        protocol: Protocol,
    },
    /// The number may not be asked for.
    PortNotAllowed {
        /// What was asked for
        key: ListenerKey,
        /// Whether the provider keeps it for itself
        reserved: bool,
    },
    /// The namespace has as many ports as it may have.
    QuotaExceeded {
        /// Ports that it holds
        held: u32,
        /// Ports that this claim adds
        asked: u32,
        /// Ports that it may hold
        quota: u32,
    },
    /// The namespace has given so many ports back that as many rest as it may
    /// hold besides; this passes.
    TooManyResting {
        /// Ports that it holds
        held: u32,
        /// Ports that rest
        resting: u32,
        /// Ports that it may hold
        quota: u32,
    },
    /// No load balancer of the class has the address that the claim insists on.
    AddressUnknown {
        /// What was asked for
        address: Address,
        /// The addresses that there are
        known: Vec<Address>,
    },
    /// An adopted load balancer has not been looked at yet; this passes.
    Unobserved {
        /// Its index
        index: u32,
    },
    /// Something stands in the way on every load balancer.
    NoRoom {
        /// What, on each
        obstacles: Vec<Obstacle>,
        /// How many load balancers the class may have
        max: u32,
    },
}

/// What stands in the way on one load balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The number is held, rests after a release, or is a stranger's.
    Taken {
        /// Index of the load balancer
        index: u32,
        /// What was asked for
        key: ListenerKey,
    },
    /// It has no room for as many listeners.
    Listeners {
        /// Index of the load balancer
        index: u32,
        /// Listeners that it has
        held: u32,
        /// Listeners that it may have
        limit: u32,
        /// Listeners that would be added
        asked: u32,
    },
    /// It has no room for as many targets.
    Targets {
        /// Index of the load balancer
        index: u32,
        /// Targets that it has
        held: u32,
        /// Targets that it may have
        limit: u32,
        /// Targets that would be added
        asked: u32,
    },
    /// No port is left to be handed out.
    NoDynamicPort {
        /// Index of the load balancer
        index: u32,
    },
}

impl Refusal {
    /// The refusal of every port for which no load balancer had room: what stood
    /// in the way on each.
    pub(super) fn of_all(
        ports: &[&PortRequest],
        misfits: Vec<Vec<(Arc<str>, Self)>>,
        max: u32,
    ) -> Vec<(Arc<str>, Self)> {
        let mut merged: BTreeMap<Arc<str>, Self> = BTreeMap::new();
        for (name, refusal) in misfits.into_iter().flatten() {
            match (merged.get_mut(&name), refusal) {
                (Some(Self::NoRoom { obstacles, .. }), Self::NoRoom { obstacles: more, .. }) => obstacles.extend(more),
                // Another kind passes or holds everywhere: it says more than what is full.
                (_, refusal) => _ = merged.insert(name, refusal),
            }
        }
        if merged.is_empty() {
            let none = Self::NoRoom { obstacles: Vec::new(), max };
            return ports.iter().map(|port| (port.name.clone(), none.clone())).collect();
        }
        ports.iter().filter_map(|port| merged.remove_entry(&port.name)).collect()
    }

    /// The reason that the claim's condition gives; `None` while it just waits.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        Some(match self {
            Self::NotPermitted { .. } => Reason::NotPermitted,
            Self::Unsupported { .. } => Reason::Unsupported,
            Self::PortNotAllowed { .. } => Reason::PortNotAllowed,
            Self::QuotaExceeded { .. } | Self::TooManyResting { .. } => Reason::QuotaExceeded,
            Self::AddressUnknown { .. } => Reason::AddressUnknown,
            Self::Unobserved { .. } => return None,
            Self::NoRoom { obstacles, .. } => {
                let taken = |obstacle: &Obstacle| matches!(obstacle, Obstacle::Taken { .. });
                if !obstacles.is_empty() && obstacles.iter().all(taken) {
                    Reason::PortTaken
                } else {
                    Reason::PoolExhausted
                }
            }
        })
    }

    /// What the claim's author should know and do, for a claim of this class.
    #[must_use]
    pub fn message(&self, class: &str) -> String {
        match self {
            Self::NotPermitted { namespace } => format!(
                "class {class} does not serve namespace {namespace}: choose another class, or ask its admin to allow the namespace in spec.allowedNamespaces"
            ),
            Self::Unsupported { protocol } => {
                format!("the load balancers of class {class} have no {protocol} listeners")
            }
            Self::PortNotAllowed { key, reserved: true } => {
                format!("port {key} is kept by the load balancers of class {class} for themselves: ask for another")
            }
            Self::PortNotAllowed { key, reserved: false } => format!(
                "port {key} is outside spec.ports.requestable of class {class}: ask for another, or leave port out to have one assigned"
            ),
            Self::QuotaExceeded { held, asked, quota } => format!(
                "the namespace holds {held} of {quota} ports of class {class}, and this needs {asked} more: delete a claim, or ask the admin to raise spec.portsPerNamespace"
            ),
            Self::TooManyResting { held, resting, quota } => format!(
                "the namespace holds {held} ports of class {class}, {resting} that it gave back still rest, and both together may be twice its quota of {quota}: wait until they have rested (spec.reclaimDelaySeconds), or ask the admin to raise spec.portsPerNamespace"
            ),
            Self::AddressUnknown { address, known } if known.is_empty() => {
                format!(
                    "no load balancer of class {class} has the address {address}, or any address yet: leave address out"
                )
            }
            Self::AddressUnknown { address, known } => format!(
                "no load balancer of class {class} has the address {address}: ask for {}, or leave address out",
                join(known, " or ")
            ),
            Self::Unobserved { index } => {
                format!("waiting until load balancer {index} of class {class} has been looked at")
            }
            Self::NoRoom { obstacles, max } => {
                let advice = match self.reason() {
                    Some(Reason::PortTaken) => "ask for another port, or leave port out to have one assigned",
                    _ => "delete a claim, or ask the admin to raise spec.loadBalancers.max",
                };
                let count = if *max == 1 { "1 load balancer".to_owned() } else { format!("{max} load balancers") };
                format!("{}; class {class} may have {count}: {advice}", summarise(obstacles))
            }
        }
    }
}

/// "load balancers 0 and 1 hold 50 of 50 listeners, …": equal obstacles are
/// told once, and of many kinds the first three.
fn summarise(obstacles: &[Obstacle]) -> String {
    let mut kinds: Vec<(String, Vec<u32>)> = Vec::new();
    for obstacle in obstacles {
        let (index, text) = match obstacle {
            Obstacle::Taken { index, key } => (*index, format!("port {key} is taken on")),
            Obstacle::Listeners { index, held, limit, asked } if asked > limit => {
                (*index, format!("{asked} listeners are asked for, and at most {limit} fit on"))
            }
            Obstacle::Listeners { index, held, limit, .. } => {
                (*index, format!("{held} of {limit} listeners are held on"))
            }
            Obstacle::Targets { index, held, limit, asked } => {
                (*index, format!("{held} of {limit} targets are held, and {asked} more are needed, on"))
            }
            Obstacle::NoDynamicPort { index } => (*index, "no port of spec.ports.dynamic is free on".to_owned()),
        };
        match kinds.iter_mut().find(|(known, _)| *known == text) {
            Some((_, indices)) => indices.push(index),
            None => kinds.push((text, vec![index])),
        }
    }
    if kinds.is_empty() {
        return "there is no load balancer".to_owned();
    }
    let told: Vec<String> = kinds
        .iter()
        .take(3)
        .map(|(text, indices)| {
            let plural = if indices.len() == 1 { "" } else { "s" };
            format!("{text} load balancer{plural} {}", join(indices, " and "))
        })
        .collect();
    told.join(", ")
}

/// "0, 1 and 2"
fn join<T: fmt::Display>(items: &[T], last: &str) -> String {
    match items {
        [] => String::new(),
        [only] => only.to_string(),
        [init @ .., end] => format!("{}{last}{end}", init.iter().map(T::to_string).collect::<Vec<_>>().join(", ")),
    }
}
