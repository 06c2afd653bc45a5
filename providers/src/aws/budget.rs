//! How many calls may be made.

/// A token bucket: each call takes one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Tokens that it holds
    pub size: f64,
    /// Tokens that come back each second
    pub per_second: f64,
}

/// The token buckets of one account and region.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// What changes nothing (`Describe…`)
    pub reads: Rate,
    /// What registers and deregisters targets
    pub registrations: Rate,
    /// All other changes
    pub writes: Rate,
}

impl Rates {
    /// As AWS gives them to every account. (ELB user guide, "Request throttling
    /// for the Elastic Load Balancing API".)
    pub const DOCUMENTED: Self = Self {
        reads: Rate { size: 40.0, per_second: 10.0 },
        registrations: Rate { size: 20.0, per_second: 4.0 },
        writes: Rate { size: 20.0, per_second: 3.0 },
    };

    /// A share of them: less than 1 leaves room for others in the same account,
    /// more than 1 is for an account whose limits AWS has raised.
    #[must_use]
    pub fn times(self, share: f64) -> Self {
        let times = |rate: Rate| Rate { size: (rate.size * share).max(1.0), per_second: rate.per_second * share };
        Self { reads: times(self.reads), registrations: times(self.registrations), writes: times(self.writes) }
    }
}
