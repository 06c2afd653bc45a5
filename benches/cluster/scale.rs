//! How large the bench is.

use std::time::Duration;

use anyhow::Context;

/// The claims of the full load.
const CLAIMS: usize = 10_000;

/// How large the bench is.
pub(crate) struct Scale {
    /// The claims of a class that has many; others have a tenth of them
    pub(crate) claims: usize,
    /// The claims that are measured one after another
    pub(crate) samples: usize,
    /// How long nothing happens
    pub(crate) idle: Duration,
}

impl Scale {
    /// The full load, or a smaller one for trials: `BENCH_CLAIMS`.
    ///
    /// # Errors
    /// If that is no number.
    pub(crate) fn asked_for() -> anyhow::Result<Self> {
        let claims = match std::env::var("BENCH_CLAIMS") {
            Ok(claims) => claims.parse::<usize>().context("BENCH_CLAIMS")?.max(200),
            Err(_) => CLAIMS,
        };
        let idle = Duration::from_secs(if claims < CLAIMS { 10 } else { 60 });
        Ok(Self { claims, samples: (claims / 50).clamp(20, 200), idle })
    }
}
