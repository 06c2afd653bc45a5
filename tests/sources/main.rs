//! Sources: Services and ConfigMaps share a load balancer without knowing of
//! SharedLB. With the real kube-proxy, MetalLB beside it, real traffic from outside
//! and from inside of the cluster, and the controller under the roles of `deploy/`.
//!
//! There are two rounds. In the first, one controller serves all tests, which
//! run side by side. In the second, each test has a controller of its own, that
//! it kills or starts with other flags, and so they run one at a time.

mod asking;
mod config_maps;
mod edits;
mod flags;
mod killed;
mod newcomer;
mod sharing;
mod telling;
mod tenant;

use sharedlb_harness::{AtOnce, Program, World, start_installed};
use sharedlb_testbed::Parts;

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

/// How many tests of the first round run at once. They wait more than they work.
const THREADS: usize = 4;

fn main() -> anyhow::Result<()> {
    let (mut program, testbed) = Program::enter(Parts::ALL)?;
    let cluster = program.block_on(start_installed(testbed))?;
    tenant::lead_to_load_balancers()?;

    let world = program.block_on(World::start(SHAREDLB, cluster))?;
    let world = program.round(AtOnce::UpTo(THREADS), world, |test| {
        let trials = [
            asking::trials(test),
            sharing::trials(test),
            edits::trials(test),
            telling::trials(test),
            config_maps::trials(test),
        ];
        trials.into_iter().flatten().collect()
    });
    let cluster = program.block_on(world.into_cluster())?;

    let cluster = program.round(AtOnce::One, cluster, |test| {
        let trials =
            [killed::trials(test), config_maps::trials_of_their_own(test), flags::trials(test), newcomer::trials(test)];
        trials.into_iter().flatten().collect()
    });
    program.exit(cluster)
}
