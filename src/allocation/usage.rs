//! How much of a class is used.

use super::{Occupancy, Room, empty_space};

/// What a class uses of its capacity: of the load balancers that exist, and of those that it may
/// still create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Listeners, with foreign ones and with released ones that may still be open
    pub(crate) listeners: Share,
    /// Targets; `None`: the provider has no limit
    pub(crate) targets: Option<Share>,
    /// Numbers that are assigned to claims that request none. Of TCP and UDP, those of which
    /// fewer are left
    pub(crate) dynamic_ports: Share,
    /// Ports of the namespace that holds the largest share of its quota
    pub(crate) quota: Share,
}

/// A part of a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) used: u64,
    pub(crate) capacity: u64,
}

impl Share {
    /// The part of the whole, 0 to 1: above 1 if the capacity was reduced.
    pub(crate) fn ratio(self) -> f64 {
        // Precise up to 2^53.
        self.used as f64 / self.capacity as f64
    }
}

impl Usage {
    /// The names of what classes have, as in metrics.
    pub(crate) const RESOURCES: [&str; 3] = ["listeners", "targets", "dynamic_ports"];

    /// The share of each of [`Usage::RESOURCES`].
    pub(crate) fn resources(&self) -> impl Iterator<Item = (&'static str, Option<Share>)> {
        Self::RESOURCES.into_iter().zip([Some(self.listeners), self.targets, Some(self.dynamic_ports)])
    }
}

impl Occupancy {
    /// How much of the class is used.
    pub(crate) fn usage(&self) -> Usage {
        let policy = &self.policy;
        // One beyond the maximum exists since the class was narrowed, and gets no new slots. Nor
        // does one that is cordoned.
        let is_open = |index: &u32| !policy.cordoned.contains(index);
        let existing = || self.spaces.range(..policy.max).filter(|(index, _)| is_open(index)).map(|(_, lb)| lb);
        let max: u64 = (0..policy.max).filter(is_open).map(|_| 1).sum();
        let further = max.saturating_sub(existing().map(|_| 1).sum());
        let share = |amount: fn(Room) -> u32, of_each: u32| Share {
            used: existing().map(|lb| u64::from(amount(lb.filled.used))).sum(),
            capacity: existing().map(|lb| u64::from(amount(lb.filled.limit))).sum::<u64>()
                + further * u64::from(of_each),
        };
        let dynamic = empty_space(policy).free_dynamic();
        Usage {
            listeners: share(|room| room.listeners, policy.listeners),
            targets: policy.targets.map(|of_each| share(|room| room.targets, of_each)),
            dynamic_ports: Share {
                used: existing().map(|lb| dynamic.saturating_sub(lb.space.free_dynamic())).sum(),
                capacity: max * dynamic,
            },
            quota: Share { used: u64::from(self.quotas.most_held()), capacity: u64::from(policy.ports_per_namespace) },
        }
    }
}
