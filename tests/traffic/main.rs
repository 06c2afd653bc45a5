//! Real traffic: a client outside of the cluster reaches the pods of claims
//! through an address of MetalLB and the rules of kube-proxy.

mod backends;
mod edits;
mod families;
mod nodes;
mod place;
mod protocols;
mod shared_address;
mod sharing;

use sharedlb_harness::{AtOnce, World, run_tests, start_installed};
use sharedlb_testbed::{Parts, Testbed};

/// How many tests run at once. They wait more than they work.
const THREADS: usize = 4;

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

fn main() -> anyhow::Result<()> {
    run_tests(AtOnce::UpTo(THREADS), Parts::ALL, start, |test| {
        let trials = [
            protocols::trials(test),
            families::trials(test),
            backends::trials(test),
            edits::trials(test),
            sharing::trials(test),
            nodes::trials(test),
            shared_address::trials(test),
        ];
        trials.into_iter().flatten().collect()
    })
}

async fn start(testbed: Testbed) -> anyhow::Result<World> {
    let cluster = start_installed(testbed).await?;
    World::start(SHAREDLB, cluster).await
}
