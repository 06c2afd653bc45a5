//! Real traffic: clients outside and inside of the cluster reach the pods of claims
//! and of their sources, and no others, through addresses of MetalLB, or of one's own,
//! and the rules of kube-proxy.
//!
//! There are two rounds. In the first, each test has a controller of its own, that
//! it kills or starts with other flags, and so they run one at a time. Each finds
//! nothing of the others. In the second, one controller serves all tests, which run
//! side by side.

mod addresses;
mod backends;
mod bgp;
mod capture;
mod edits;
mod families;
mod front;
mod in_use;
mod nodes;
mod protocols;
mod shared_address;
mod sharing;
mod sources;
mod tenant;
mod vip;

use sharedlb_harness::{AtOnce, Program, World, start_installed};
use sharedlb_testbed::Parts;

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

/// How many tests of one controller run at once. They wait more than they work.
const THREADS: usize = 4;

fn main() -> anyhow::Result<()> {
    let (mut program, testbed) = Program::enter(Parts { frr: true, ..Parts::ALL })?;
    let cluster = program.block_on(start_installed(testbed))?;
    tenant::lead_to_load_balancers()?;

    let cluster = program.round(AtOnce::One, cluster, |test| {
        let trials = [
            sources::trials_of_their_own(test),
            capture::trials(test),
            vip::trials_of_their_own(test),
            bgp::trials_of_their_own(test),
        ];
        trials.into_iter().flatten().collect()
    });

    let world = program.block_on(World::start(SHAREDLB, cluster))?;
    let world = program.round(AtOnce::UpTo(THREADS), world, |test| {
        let trials = [
            protocols::trials(test),
            families::trials(test),
            backends::trials(test),
            edits::trials(test),
            sharing::trials(test),
            nodes::trials(test),
            shared_address::trials(test),
            sources::trials(test),
            vip::trials(test),
            addresses::trials(test),
            in_use::trials(test),
        ];
        trials.into_iter().flatten().collect()
    });
    program.exit(world)
}
