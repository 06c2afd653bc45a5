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
mod life;
mod refusals;
mod release;
mod scaling;
mod tampering;
mod telling;

use sharedlb_harness::{AtOnce, World, add_cloud, run_tests, start_installed};
use sharedlb_testbed::{Parts, Testbed};

/// How many tests run at once. They wait more than they work.
const THREADS: usize = 6;

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

fn main() -> anyhow::Result<()> {
    run_tests(AtOnce::UpTo(THREADS), Parts { controller_manager: true, ..Parts::API_ONLY }, start, |test| {
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
    })
}

async fn start(testbed: Testbed) -> anyhow::Result<World> {
    let cluster = start_installed(testbed).await?;
    add_cloud(&cluster).await?;
    World::start(SHAREDLB, cluster).await
}
