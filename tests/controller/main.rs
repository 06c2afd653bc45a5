//! The controller against the real API server, with the rights of `deploy/`:
//! what becomes of claims and classes, of good ones and of bad ones. Pods are
//! objects here, and a stand-in for a cloud gives addresses; real traffic is
//! in `tests/traffic`, and bad times are in `tests/faults`.
//!
//! One controller serves all tests, which run side by side. Each has a
//! namespace and a class of its own. A bad claim must get its verdict, and a
//! neighbour of its class must not notice.

mod backends;
mod boundaries;
mod changes;
mod classes;
mod harness;
mod life;
mod refusals;
mod release;
mod scaling;
mod tampering;
mod telling;

use sharedlb_testbed::Parts;

use harness::{AtOnce, World, run_tests};

/// How many tests run at once. They wait more than they work.
const THREADS: usize = 6;

fn main() -> anyhow::Result<()> {
    run_tests(
        AtOnce::UpTo(THREADS),
        Parts { controller_manager: true, ..Parts::API_ONLY },
        World::start_with_cloud,
        |test| {
            let trials = [
                life::trials(test),
                release::trials(test),
                refusals::trials(test),
                boundaries::trials(test),
                changes::trials(test),
                backends::trials(test),
                classes::trials(test),
                scaling::trials(test),
                tampering::trials(test),
                telling::trials(test),
            ];
            trials.into_iter().flatten().collect()
        },
    )
}
