//! The rates of calls that AWS documents, and the budget of one region.

use crate::budget::{Bucket, Rate};

/// The token buckets of one account and region.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// For reads (`Describe…`)
    pub reads: Rate,
    /// For calls that register and deregister targets
    pub registrations: Rate,
    /// For all other changes
    pub writes: Rate,
}

impl Rates {
    /// The rates of every account. (ELB user guide, "Request throttling for the Elastic Load
    /// Balancing API".)
    pub const DOCUMENTED: Self = Self {
        reads: Rate { size: 40.0, per_second: 10.0 },
        registrations: Rate { size: 20.0, per_second: 4.0 },
        writes: Rate { size: 20.0, per_second: 3.0 },
    };

    /// A fraction of these rates: less than 1 leaves room for other clients of the account,
    /// more than 1 is for an account whose limits AWS has raised.
    #[must_use]
    pub fn times(self, share: f64) -> Self {
        let Self { reads, registrations, writes } = self;
        Self { reads: reads.times(share), registrations: registrations.times(share), writes: writes.times(share) }
    }
}

/// The buckets of one region.
pub(super) struct Budget {
    reads: Bucket,
    registrations: Bucket,
    writes: Bucket,
}

impl Budget {
    pub(super) fn new(rates: Rates) -> Self {
        let Rates { reads, registrations, writes } = rates;
        Self { reads: Bucket::new(reads), registrations: Bucket::new(registrations), writes: Bucket::new(writes) }
    }

    /// The bucket that a call of this action takes its token from.
    pub(super) fn of(&self, action: &str) -> &Bucket {
        match action {
            "RegisterTargets" | "DeregisterTargets" => &self.registrations,
            _ if action.starts_with("Describe") => &self.reads,
            _ => &self.writes,
        }
    }
}
