//! How the agents of hosts learn what to serve, and how it is known that they serve it no more.
//!
//! The leader of the controller writes plans, agents take them and report. A port that was one
//! claim's may be another one's only when no host serves it for the first one any more, also not a
//! host that is cut off, and whose kernel goes on. That is what the numbers in here are for; no
//! clock has a part in it.
//!
//! - A [`Plan`] is about a part of the ports of a load balancer ([`Part`]). Each version has a
//!   higher number than anything that an agent has ever reported.
//! - An agent takes a plan that names it as a peer, with a higher number than the one before, and
//!   reports it when the listeners that are not in it are closed ([`agent`]).
//! - A plan remembers the front ports that are closing: with which number they were opened, and
//!   with which they were closed. The leader opens such a port for another claim when all agents
//!   that may serve it have reported the latter ([`leader`]).
//! - An agent that is not heard is no peer any more. The plan remembers up to which number it may
//!   have taken plans: it holds back the ports that were open then, and no others. When it is heard
//!   again it becomes a peer again, and only then takes plans.
//!
//! All of it is pure. See `docs/decisions/043-plans-and-reports.md`.

pub mod agent;
pub mod leader;
#[cfg(test)]
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sharedlb_providers::{FrontPort, ListenerKey, ListenerOptions, Owner};

/// How many port numbers a part has. Each is at most two listeners (TCP and UDP), so that a plan
/// has at most 250.
const NUMBERS_IN_A_PART: u16 = 125;

/// The name of an agent: that of its node or host.
pub type AgentName = Arc<str>;

/// A part of the port numbers of a load balancer. All listeners of a number are in the same one,
/// and never change to another one. So a plan is small and changes in one write, whatever becomes
/// of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Part(u16);

impl Part {
    /// The part of a port number.
    #[must_use]
    pub fn of(port: NonZeroU16) -> Self {
        Self(port.get() / NUMBERS_IN_A_PART)
    }

    /// Its index, from 0 to 524.
    #[must_use]
    pub fn index(self) -> u16 {
        self.0
    }
}

/// What agents serve of a part of a load balancer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Plan {
    /// Higher than that of any earlier version
    pub number: u64,
    /// A hash of the listeners, by which a report tells which plan of this number it is about. There
    /// are two after the API was restored from a backup
    pub digest: u64,
    /// The agents that take it
    pub peers: BTreeSet<AgentName>,
    /// Agents that were peers and may still serve what they have taken: each with the highest
    /// number that it may have taken
    pub departed: BTreeMap<AgentName, u64>,
    /// What is served
    pub listeners: BTreeMap<ListenerKey, PlannedListener>,
    /// Front ports that agents may still serve for a former claim
    pub closing: BTreeMap<FrontPort, Closing>,
    /// Reports below this number do not tell what an agent serves: when it was written, agents had
    /// taken plans of which the API knew nothing any more, since it was restored from a backup
    pub unknown_before: u64,
}

/// A listener of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedListener {
    /// The claim and port that it is for
    pub owner: Owner,
    /// The Service whose endpoints get its traffic, in the namespace of its owner
    pub service: Arc<str>,
    /// The port of these: a number or a name
    pub target_port: Arc<str>,
    /// Which clients it serves, and how it distributes them
    #[serde(default, skip_serializing_if = "ListenerOptions::is_default")]
    pub options: ListenerOptions,
    /// The number of the plan by which its claim got it
    pub opened: u64,
}

/// A front port that is no more in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Closing {
    /// The claim and port that it was for
    pub owner: Owner,
    /// The number of the first plan with it
    pub opened: u64,
    /// The number of the first plan without it
    pub closed: u64,
}

/// What an agent has taken of a part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// The number of the plan
    pub number: u64,
    /// Its digest
    pub digest: u64,
    /// Listeners of the plan that are not open, each with the reason for users
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<ListenerKey, String>,
}

impl Plan {
    /// The listener that has a front port.
    fn listener_of(&self, port: FrontPort) -> Option<&PlannedListener> {
        self.listeners.iter().find(|(key, _)| key.has(port)).map(|(_, listener)| listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_at_most_250_listeners() {
        let mut numbers: BTreeMap<Part, usize> = BTreeMap::new();
        (1..=u16::MAX).filter_map(NonZeroU16::new).for_each(|port| *numbers.entry(Part::of(port)).or_default() += 1);
        assert!(numbers.values().all(|count| 2 * count <= 250));
        assert_eq!(numbers.keys().map(|part| part.index()).max(), Some(524));
    }
}
