//! The usage of a load balancer.

use std::iter::Sum;
use std::ops::Add;

use super::Obstacle;

/// Listeners, and the targets that they have together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Room {
    pub listeners: u32,
    /// Targets: a backend of two listeners counts twice
    pub targets: u32,
}

impl Add for Room {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            listeners: self.listeners.saturating_add(other.listeners),
            targets: self.targets.saturating_add(other.targets),
        }
    }
}

impl Sum for Room {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// The usage and the capacity of a load balancer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filled {
    pub(super) used: Room,
    pub(super) limit: Room,
}

impl Filled {
    /// Whether certainly nothing more fits.
    pub(super) fn is_full(&self) -> bool {
        self.used.listeners >= self.limit.listeners || self.used.targets >= self.limit.targets
    }

    /// Whether there are more targets than its capacity.
    pub(super) fn is_overfull(&self) -> bool {
        self.used.targets > self.limit.targets
    }

    /// The room once `asked` has replaced `own`, which is part of the usage.
    pub(super) fn exchanged(self, asked: Room, own: Room) -> Self {
        let exchanged = |used: u32, asked: u32, own: u32| used.saturating_sub(own).saturating_add(asked);
        let used = Room {
            listeners: exchanged(self.used.listeners, asked.listeners, own.listeners),
            targets: exchanged(self.used.targets, asked.targets, own.targets),
        };
        Self { used, limit: self.limit }
    }

    /// The room once `asked` is added, of which `own` is part of the usage already; or the
    /// obstacle.
    ///
    /// A claim that needs more targets than a whole load balancer has gets one for itself: some
    /// of its backends are left out then.
    pub(super) fn with(self, index: u32, asked: Room, own: Room) -> Result<Self, Obstacle> {
        let used = self.used;
        let limit = self.limit;
        if used.listeners + asked.listeners > limit.listeners.saturating_add(own.listeners) {
            return Err(Obstacle::Listeners {
                index,
                held: used.listeners,
                limit: limit.listeners,
                asked: asked.listeners,
            });
        }
        let others = used.targets.saturating_sub(own.targets);
        if others > 0 && others.saturating_add(asked.targets) > limit.targets {
            return Err(Obstacle::Targets { index, held: used.targets, limit: limit.targets, asked: asked.targets });
        }
        let listeners = used.listeners.saturating_add(asked.listeners).saturating_sub(own.listeners);
        Ok(Self { used: Room { listeners, targets: others.saturating_add(asked.targets) }, limit })
    }
}
