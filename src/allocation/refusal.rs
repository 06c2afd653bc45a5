//! Why a port was refused, and what to do about it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use sharedlb_crds::Reason;
use sharedlb_providers::{Address, FrontPort, ListenerKey, Protocol};

use super::{LackingOption, ListenerOption, Policy, PortRequest};

/// Why a port of a claim got no slot. Its text is for the claim's author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The class may not be used in this namespace.
    NotPermitted {
        /// The claim's namespace
        namespace: Arc<str>,
    },
    /// The provider has no such listeners.
    Unsupported {
        /// What was asked for
        protocol: Protocol,
    },
    /// The provider's listeners cannot have an option that the claim requests.
    UnsupportedOption(LackingOption),
    /// The number may not be requested.
    PortNotAllowed {
        /// What was asked for
        key: ListenerKey,
        /// Whether the provider reserves it
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
    /// The namespace has as many ports that cool down as it may; this passes.
    TooManyReleased {
        /// Ports that it holds
        held: u32,
        /// Ports that cool down
        cooling: u32,
        /// Ports that it may hold
        quota: u32,
    },
    /// No load balancer of the class has the requested address.
    AddressUnknown {
        /// What was asked for
        address: Address,
        /// The addresses of the class' load balancers
        known: Vec<Address>,
    },
    /// An adopted load balancer has not been observed yet; this passes.
    Unobserved {
        /// Its index
        index: u32,
    },
    /// A port that is served on one transport requests both, and the other one is taken. It
    /// stays as it is.
    HalfTaken {
        /// Index of the load balancer
        index: u32,
        /// What is taken
        taken: FrontPort,
        /// The listener that stays
        kept: ListenerKey,
        /// The claim's own port that has it; `None`: it is not the claim's
        by: Option<Arc<str>>,
    },
    /// The claim's own other port has the number.
    OwnPort {
        /// What was asked for
        key: ListenerKey,
        /// What the other port has or asks for
        other: ListenerKey,
        /// Name of the other port
        port: Arc<str>,
    },
    /// Every load balancer has an obstacle.
    NoRoom {
        /// The obstacle on each
        obstacles: Vec<Obstacle>,
        /// The limits of the class
        limits: ClassLimits,
    },
}

/// The limits of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassLimits {
    /// Load balancers
    pub load_balancers: u32,
    /// Listeners for each load balancer
    pub listeners: u32,
    /// The most listeners for each load balancer that its admin could allow
    pub max_listeners: u32,
}

/// An obstacle on one load balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The number is held, cools down after a release, or is foreign.
    Taken {
        /// Index of the load balancer
        index: u32,
        /// What was asked for
        key: ListenerKey,
    },
    /// The class gives no new ports on it.
    Cordoned {
        /// Index of the load balancer
        index: u32,
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
    /// No port is left that could be assigned.
    NoDynamicPort {
        /// Index of the load balancer
        index: u32,
        /// Ports of the claim that are to be assigned
        asked: u32,
        /// Ports of spec.ports.dynamic, free or not
        of: u32,
    },
}

impl Obstacle {
    /// Whether it would be an obstacle on an empty load balancer too.
    fn is_of_the_claim(&self) -> bool {
        match self {
            Self::Listeners { asked, limit, .. } => asked > limit,
            Self::NoDynamicPort { asked, of, .. } => asked > of,
            Self::Taken { .. } | Self::Cordoned { .. } | Self::Targets { .. } => false,
        }
    }
}

impl Refusal {
    /// The obstacles on load balancers of a class with this policy.
    pub(super) fn no_room(obstacles: Vec<Obstacle>, policy: &Policy) -> Self {
        let Policy { max: load_balancers, listeners, max_listeners, .. } = *policy;
        Self::NoRoom { obstacles, limits: ClassLimits { load_balancers, listeners, max_listeners } }
    }

    /// The refusal of every port for which no load balancer had room, with the obstacle on
    /// each.
    pub(super) fn of_all(
        ports: &[&PortRequest],
        misfits: Vec<Vec<(Arc<str>, Self)>>,
        policy: &Policy,
    ) -> Vec<(Arc<str>, Self)> {
        let mut merged: BTreeMap<Arc<str>, Self> = BTreeMap::new();
        for (name, refusal) in misfits.into_iter().flatten() {
            match (merged.get_mut(&name), refusal) {
                (Some(Self::NoRoom { obstacles, .. }), Self::NoRoom { obstacles: more, .. }) => obstacles.extend(more),
                // An obstacle of another kind passes or is the same everywhere: it is more useful than
                // that load balancers are full.
                (_, refusal) => _ = merged.insert(name, refusal),
            }
        }
        if merged.is_empty() {
            let none = Self::no_room(Vec::new(), policy);
            return ports.iter().map(|port| (port.name.clone(), none.clone())).collect();
        }
        ports.iter().filter_map(|port| merged.remove_entry(&port.name)).collect()
    }

    /// The reason of the claim's condition; `None`: the claim only waits.
    pub(crate) fn reason(&self) -> Option<Reason> {
        Some(match self {
            Self::NotPermitted { .. } => Reason::NotPermitted,
            Self::Unsupported { .. } | Self::UnsupportedOption(_) => Reason::Unsupported,
            Self::PortNotAllowed { .. } => Reason::PortNotAllowed,
            Self::QuotaExceeded { .. } | Self::TooManyReleased { .. } => Reason::QuotaExceeded,
            Self::AddressUnknown { .. } => Reason::AddressUnknown,
            Self::Unobserved { .. } => return None,
            Self::HalfTaken { .. } => Reason::PortTaken,
            // Elsewhere TCP and UDP would do side by side.
            Self::OwnPort { key, other, .. } if !key.overlaps(*other) => Reason::Unsupported,
            Self::OwnPort { .. } => Reason::PortTaken,
            Self::NoRoom { obstacles, .. } => {
                let cordoned = |obstacle: &&Obstacle| matches!(obstacle, Obstacle::Cordoned { .. });
                let taken = |obstacle: &Obstacle| matches!(obstacle, Obstacle::Taken { .. });
                let mut others = obstacles.iter().filter(|obstacle| !cordoned(obstacle)).peekable();
                // On a cordoned load balancer no number helps, and elsewhere another one does.
                if others.peek().is_some() && others.all(taken) { Reason::PortTaken } else { Reason::PoolExhausted }
            }
        })
    }

    /// The message for the author of a claim of this class.
    pub(crate) fn message(&self, class: &str) -> String {
        match self {
            Self::NotPermitted { namespace } => format!(
                "class {class} does not serve namespace {namespace}: choose another class, or ask its admin to allow the namespace in spec.allowedNamespaces"
            ),
            Self::Unsupported { protocol } => {
                format!("the load balancers of class {class} have no {protocol} listeners")
            }
            Self::UnsupportedOption(lacking) => format!("{}: {}", lacking.of_class(class), lacking.instead),
            Self::PortNotAllowed { key, reserved: true } => {
                format!("port {key} is kept by the load balancers of class {class} for themselves: ask for another")
            }
            Self::PortNotAllowed { key, reserved: false } => format!(
                "port {key} is outside spec.ports.requestable of class {class}: ask for another, or leave port out to have one assigned"
            ),
            Self::QuotaExceeded { asked, quota, .. } if asked > quota => format!(
                "{asked} ports are asked for, and a namespace may hold {quota} of class {class}: ask for fewer, or ask the admin to raise spec.portsPerNamespace"
            ),
            Self::QuotaExceeded { held, asked, quota } => format!(
                "the namespace holds {held} of {quota} ports of class {class}, and this needs {asked} more: delete a claim, or ask the admin to raise spec.portsPerNamespace"
            ),
            Self::TooManyReleased { held, cooling, quota } => format!(
                "the namespace holds {held} ports of class {class}, {cooling} released ports cool down, and both together may be twice its quota of {quota}: wait until the cool-down is over (spec.reclaimDelaySeconds), or ask the admin to raise spec.portsPerNamespace"
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
                format!("waiting until load balancer {index} of class {class} has been observed")
            }
            Self::HalfTaken { index, taken, kept, by } => {
                let by = by.as_ref().map_or_else(
                    || format!("taken on load balancer {index}"),
                    |port| format!("the claim's own port {port}"),
                );
                format!(
                    "port {taken} is {by}, so {kept} stays open as it is: set protocol to {}, or ask for a number of which both TCP and UDP are free",
                    kept.protocol
                )
            }
            Self::OwnPort { key, other, port } if key.overlaps(*other) => {
                format!(
                    "port {key} is the claim's own port {port} ({other}): ask for another port, or leave port out to have one assigned"
                )
            }
            Self::OwnPort { key, other, port } => format!(
                "port {key} is the claim's own port {port} ({other}), and a load balancer of class {class} has one listener for a number: use one port with protocol TCP_UDP (a Service: give both ports the same number as targetPort)"
            ),
            Self::NoRoom { obstacles, limits } => {
                let count = match limits.load_balancers {
                    1 => "1 load balancer".to_owned(),
                    max => format!("{max} load balancers"),
                };
                format!("{}; class {class} may have {count}: {}", summarise(obstacles), self.advice(obstacles, *limits))
            }
        }
    }

    /// Advice against these obstacles.
    fn advice(&self, obstacles: &[Obstacle], limits: ClassLimits) -> &'static str {
        if self.reason() == Some(Reason::PortTaken) {
            return "ask for another port, or leave port out to have one assigned";
        }
        let is_too_large = !obstacles.is_empty() && obstacles.iter().all(Obstacle::is_of_the_claim);
        let is_dynamic = |obstacle: &Obstacle| matches!(obstacle, Obstacle::NoDynamicPort { .. });
        let is_cordoned = |obstacle: &Obstacle| matches!(obstacle, Obstacle::Cordoned { .. });
        let would_fit = |obstacle: &Obstacle| match obstacle {
            Obstacle::Listeners { asked, limit, .. } => *limit == limits.listeners && *asked <= limits.max_listeners,
            _ => false,
        };
        if !obstacles.is_empty() && obstacles.iter().all(is_cordoned) {
            "ask the admin to take it out of spec.loadBalancers.cordoned, or raise spec.loadBalancers.max"
        } else if is_too_large && obstacles.iter().any(is_dynamic) {
            "ask for ports by number, or ask the admin to widen spec.ports.dynamic"
        } else if is_too_large && obstacles.iter().any(would_fit) {
            "split it, or ask the admin to raise spec.loadBalancers.listenersPerLoadBalancer"
        } else if is_too_large {
            "split it"
        } else if !obstacles.is_empty() && obstacles.iter().all(is_dynamic) {
            "delete a claim, or ask the admin to widen spec.ports.dynamic or raise spec.loadBalancers.max"
        } else {
            "delete a claim, or ask the admin to raise spec.loadBalancers.max"
        }
    }
}

impl LackingOption {
    /// The message for the author of a claim that holds its ports, and now requests the option.
    pub(crate) fn message_of_held(&self, class: &str) -> String {
        let consequence = if self.option.is_about_clients() {
            "so the ports of the claim are closed, and stay reserved for it"
        } else {
            "so connections of one client go to any pod"
        };
        format!("{}, {consequence}: {}", self.of_class(class), self.instead)
    }

    fn of_class(&self, class: &str) -> String {
        match self.option {
            ListenerOption::SourceRanges => {
                format!("the load balancers of class {class} cannot keep clients out by loadBalancerSourceRanges")
            }
            ListenerOption::SourceRangesBeside(family) => format!(
                "the load balancers of class {class} have {family} addresses only, and none of loadBalancerSourceRanges is {family}"
            ),
            ListenerOption::SessionAffinity => {
                format!("the load balancers of class {class} cannot have sessionAffinity ClientIP")
            }
        }
    }
}

/// "load balancers 0 and 1 hold 50 of 50 listeners, …": equal obstacles are listed once, and
/// of many kinds the first three.
fn summarise(obstacles: &[Obstacle]) -> String {
    let mut kinds: Vec<(String, Vec<u32>)> = Vec::new();
    for obstacle in obstacles {
        let (index, text) = match obstacle {
            Obstacle::Taken { index, key } => (*index, format!("port {key} is taken on")),
            Obstacle::Cordoned { index } => (*index, "no new ports are given on".to_owned()),
            Obstacle::Listeners { index, held, limit, asked } if asked > limit => {
                (*index, format!("{asked} listeners are asked for, and at most {limit} fit on"))
            }
            Obstacle::Listeners { index, held, limit, .. } => {
                (*index, format!("{held} of {limit} listeners are held on"))
            }
            Obstacle::Targets { index, held, limit, asked } => {
                (*index, format!("{held} of {limit} targets are held, and {asked} more are needed, on"))
            }
            Obstacle::NoDynamicPort { index, asked, of } if asked > of => {
                (*index, format!("{asked} ports are to be assigned, and spec.ports.dynamic has {of}, on"))
            }
            Obstacle::NoDynamicPort { index, .. } => (*index, "no port of spec.ports.dynamic is free on".to_owned()),
        };
        match kinds.iter_mut().find(|(known, _)| *known == text) {
            Some((_, indices)) => indices.push(index),
            None => kinds.push((text, vec![index])),
        }
    }
    if kinds.is_empty() {
        return "there is no load balancer".to_owned();
    }
    let listed: Vec<String> = kinds
        .iter()
        .take(3)
        .map(|(text, indices)| {
            let plural = if indices.len() == 1 { "" } else { "s" };
            format!("{text} load balancer{plural} {}", join(indices, " and "))
        })
        .collect();
    listed.join(", ")
}

/// "0, 1 and 2"
fn join<T: fmt::Display>(items: &[T], last: &str) -> String {
    match items {
        [] => String::new(),
        [only] => only.to_string(),
        [init @ .., end] => format!("{}{last}{end}", init.iter().map(T::to_string).collect::<Vec<_>>().join(", ")),
    }
}
