//! Real traffic: a client outside of the cluster reaches the pods of claims
//! through an address of MetalLB and the rules of kube-proxy.

mod backends;
mod edits;
mod families;
#[path = "../controller/harness/mod.rs"]
mod harness;
mod nodes;
mod place;
mod protocols;
mod shared_address;
mod sharing;

use sharedlb_testbed::Parts;

use harness::{AtOnce, World, run_tests};

/// How many tests run at once. They wait more than they work.
const THREADS: usize = 4;

fn main() -> anyhow::Result<()> {
    run_tests(AtOnce::UpTo(THREADS), Parts::ALL, World::start, |test| {
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
