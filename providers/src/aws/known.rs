//! The cached state of one load balancer: its last observation, and the changes since.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::time::Duration;

use tokio::time::Instant;

use super::config::{CROSS_ZONE, GroupAttributes, Probe};
use super::limits::Limits;
use super::names::{self, GROUP_ATTRIBUTES, Tags, Target};
use super::settings::Settings;
use crate::model::{
    Address, Capacity, FrontPort, LbName, ListenerKey, ListenerOptions, Owner, Protocol, SessionAffinity,
};

/// How long an observation is trusted while changes keep failing.
const TRUSTED: Duration = Duration::from_secs(60);
/// How long the capacity is taken for used up after AWS reported it. Then it is tried again,
/// since foreign listeners may be gone.
const FULL: Duration = Duration::from_secs(600);

/// One load balancer.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// `None`: it does not exist, though target groups of it may
    pub(super) nlb: Option<Nlb>,
    /// Our listeners and target groups, by port number
    pub(super) ports: BTreeMap<NonZeroU16, Port>,
    pub(super) foreign: Foreign,
    pub(super) limits: Limits,
    /// When it was observed; `None`: the state may be outdated
    pub(super) observed_at: Option<Instant>,
    /// Whether the next observation is answered from this state
    pub(super) stands: bool,
    pub(super) past: Past,
}

/// State that outlives an observation.
#[derive(Debug, Default, Clone)]
pub(super) struct Past {
    pub(super) no_listeners: Option<Full>,
    pub(super) no_targets: Option<Full>,
}

/// AWS reported that a limit is used up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Full {
    at: Instant,
    /// The numbers at the next observation: of all listeners, and of our targets
    held: Option<u32>,
}

impl Full {
    pub(super) fn now() -> Self {
        Self { at: Instant::now(), held: None }
    }

    fn limit(full: Option<Self>, limit: u32) -> u32 {
        let held = full.filter(|full| full.at.elapsed() < FULL).and_then(|full| full.held);
        held.map_or(limit, |held| held.min(limit))
    }
}

/// The load balancer itself.
#[derive(Debug)]
pub(super) struct Nlb {
    pub(super) arn: String,
    pub(super) hostname: Option<String>,
    pub(super) zones: usize,
    /// Why it serves nothing yet
    pub(super) not_ready: Option<String>,
    pub(super) security_groups: Vec<String>,
    pub(super) tags: Tags,
    pub(super) attributes: BTreeMap<String, String>,
}

/// The foreign objects on it.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    pub(super) ports: BTreeSet<FrontPort>,
    pub(super) listeners: usize,
    pub(super) targets: usize,
    /// The target groups that foreign listeners forward to, by ARN
    pub(super) groups: BTreeSet<String>,
    /// The names of foreign target groups, as far as they are known
    pub(super) names: BTreeSet<String>,
}

/// Our objects for one port number.
#[derive(Debug, Default)]
pub(super) struct Port {
    pub(super) listener: Option<ListenerState>,
    /// Its target groups: more than one only after an interrupted change
    pub(super) groups: Vec<Group>,
}

/// A listener.
#[derive(Debug)]
pub(super) struct ListenerState {
    pub(super) arn: String,
    /// `None`: a protocol that we never use
    pub(super) protocol: Option<Protocol>,
    /// The target group that it forwards to, by ARN
    pub(super) group: Option<String>,
    pub(super) tags: Tags,
}

/// A target group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) arn: String,
    pub(super) name: String,
    pub(super) targets: BTreeSet<Target>,
    pub(super) probe: Probe,
    pub(super) tags: Tags,
    /// Whether a load balancer uses it
    pub(super) used: bool,
    /// The summary of its attributes; `None`: it is not known whether it has them. Those of a
    /// target group that is in use are in the tag of its listener
    pub(super) attributes: Option<String>,
}

/// A complete listener, with its target group.
pub(super) struct Serving<'a> {
    pub(super) protocol: Protocol,
    pub(super) owner: Owner,
    pub(super) options: ListenerOptions,
    pub(super) group: &'a Group,
}

impl ListenerState {
    /// The summary of the attributes of its target group.
    pub(super) fn group_attributes(&self) -> &str {
        self.tags.get(GROUP_ATTRIBUTES).map_or(GroupAttributes::DEFAULT, String::as_str)
    }

    /// The options that its target group gives it.
    pub(super) fn options(&self) -> ListenerOptions {
        let is_sticky = GroupAttributes::are_sticky(self.group_attributes());
        let session_affinity = is_sticky.then_some(SessionAffinity { timeout: None });
        ListenerOptions::new([], session_affinity)
    }

    /// Whether it can be modified to this listener while it is open. Otherwise it closes
    /// first: a listener of another protocol and another claim, since traffic has to leave
    /// the wrong receiver before anything is created; and one of a protocol that we never
    /// use, such as TLS.
    pub(super) fn can_become(&self, key: ListenerKey, owner: &Owner) -> bool {
        let of_claim = || names::owner(&self.tags).is_some_and(|found| found.is_same_claim(owner));
        self.protocol.is_some_and(|protocol| protocol == key.protocol || of_claim())
    }
}

impl Port {
    /// The listener of this port, if it is complete: it forwards to its own target group, and
    /// has the tags of its owner.
    pub(super) fn serves(&self, settings: &Settings, name: &LbName) -> Option<Serving<'_>> {
        let listener = self.listener.as_ref()?;
        let protocol = listener.protocol?;
        let owner = names::owner(&listener.tags)?;
        let group = self.used_group()?;
        let expected = names::group_name(settings, name, ListenerKey { port: group.port()?, protocol });
        (group.name == expected).then(|| Serving { protocol, owner, group, options: listener.options() })
    }

    /// The target group that the listener forwards to, if it is ours.
    pub(super) fn used_group(&self) -> Option<&Group> {
        let used = self.listener.as_ref()?.group.as_ref()?;
        self.groups.iter().find(|group| group.arn == *used)
    }

    /// The same, mutable.
    pub(super) fn used_group_mut(&mut self) -> Option<&mut Group> {
        let used = self.listener.as_ref()?.group.as_ref()?;
        self.groups.iter_mut().find(|group| group.arn == *used)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.listener.is_none() && self.groups.is_empty()
    }
}

impl Group {
    /// The front port, which is in its name.
    pub(super) fn port(&self) -> Option<NonZeroU16> {
        port_in(&self.name)
    }
}

/// The front port in the name of a target group: the third of its parts.
pub(super) fn port_in(group_name: &str) -> Option<NonZeroU16> {
    group_name.split('-').nth(2)?.parse().ok()
}

impl Known {
    /// Records that a change failed with an answer of AWS. Such a failure leaves the state
    /// certain, so a failure that is repeated needs no observation each time, but one from
    /// time to time, for changes by other clients.
    pub(super) fn stands_after_failures(&mut self) {
        self.stands = self.observed_at.is_some_and(|at| at.elapsed() < TRUSTED);
    }

    /// The capacity: AWS' limits, or less if AWS reported that it is full.
    pub(super) fn capacity(&self) -> Capacity {
        let (zones, cross_zone) = self
            .nlb
            .as_ref()
            .map_or((1, false), |nlb| (nlb.zones, nlb.attributes.get(CROSS_ZONE).is_some_and(|value| value == "true")));
        let listeners = self.limits.listeners;
        let targets = self.limits.targets_of(zones, cross_zone).saturating_sub(count(self.foreign.targets));
        Capacity {
            listeners: Some(Full::limit(self.past.no_listeners, listeners)),
            targets: Some(Full::limit(self.past.no_targets, targets)),
        }
    }

    /// The same with the state that outlives an observation. Where AWS reported a limit, the
    /// current numbers are the capacity.
    pub(super) fn after(mut self, past: Past) -> Self {
        let used = self.ports.values().flat_map(|port| &port.groups).filter(|group| group.used);
        let targets = count(used.map(|group| group.targets.len()).sum());
        let ours = self.ports.values().filter(|port| port.listener.is_some()).count();
        let listeners = count(ours + self.foreign.listeners);
        self.past = past;
        let fill = |full: &mut Option<Full>, held| {
            if let Some(full) = full {
                full.held.get_or_insert(held);
            }
        };
        fill(&mut self.past.no_targets, targets);
        fill(&mut self.past.no_listeners, listeners);
        self
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl Nlb {
    pub(super) fn addresses(&self) -> Vec<Address> {
        self.hostname.iter().map(|name| Address::Hostname(name.clone())).collect()
    }
}
