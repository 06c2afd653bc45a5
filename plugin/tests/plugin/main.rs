//! `kubectl sharedlb` against a real API server and a real controller, as an administrator and
//! as an ordinary user.

mod adopt;
mod cost;
mod doctor;
mod drain;
mod output;
mod sight;
mod world;

use sharedlb_harness::{AtOnce, run_tests};
use sharedlb_testbed::Parts;

use crate::world::World;

/// How many tests run at once. They wait more than they work.
const THREADS: usize = 2;

fn main() -> anyhow::Result<()> {
    // Endpoints and aggregated roles are made by the controller manager.
    let parts = Parts { controller_manager: true, ..Parts::API_ONLY };
    run_tests(AtOnce::UpTo(THREADS), parts, World::start, |test| {
        [
            output::trials(test),
            sight::trials(test),
            doctor::trials(test),
            adopt::trials(test),
            cost::trials(test),
            drain::trials(test),
        ]
        .into_iter()
        .flatten()
        .collect()
    })
}
