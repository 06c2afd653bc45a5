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
mod cables;
mod capture;
mod edits;
mod families;
mod in_use;
mod keepalived;
mod nodes;
mod options;
mod parked;
mod protocols;
mod shared_address;
mod sharing;
mod sources;
mod vip;

use sharedlb_harness::{AtOnce, Program, World, start_installed};
use sharedlb_testbed::{Parts, ip};

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

/// How many tests of one controller run at once. They wait more than they work.
const THREADS: usize = 4;

fn main() -> anyhow::Result<()> {
    let (mut program, testbed) = Program::enter(Parts { frr: true, keepalived: true, ..Parts::ALL })?;
    let cluster = program.block_on(start_installed(testbed))?;
    lead_to_load_balancers()?;

    let cluster = program.round(AtOnce::One, cluster, |test| {
        let trials = [
            sources::trials_of_their_own(test),
            capture::trials(test),
            vip::trials_of_their_own(test),
            bgp::trials_of_their_own(test),
            keepalived::trials_of_their_own(test),
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
            options::trials(test),
            parked::trials(test),
            addresses::trials(test),
            in_use::trials(test),
        ];
        trials.into_iter().flatten().collect()
    });
    program.exit(world)
}

/// Gives the addresses of load balancers and Services a route from the node, as any has that
/// is connected to the world. (What is not captured on the way gets lost there.)
fn lead_to_load_balancers() -> anyhow::Result<()> {
    // Those of MetalLB, those of classes with addresses of one's own, and ClusterIPs.
    let addresses = ["10.99.0.0/24", "203.0.113.0/24", "10.0.0.0/16"];
    ip(&[], &addresses.map(|addresses| format!("route add {addresses} via 10.99.9.2\n")).concat())
}
