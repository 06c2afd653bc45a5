//! Real traffic: a client outside of the cluster reaches the pods of claims
//! through an address of MetalLB and the rules of kube-proxy.

mod backends;
#[path = "../controller/harness/mod.rs"]
mod harness;
mod nodes;
mod place;
mod protocols;
mod sharing;

use libtest_mimic::Arguments;
use sharedlb_testbed::{Parts, enter};
use tokio::runtime::Runtime;

use harness::{Tests, World};

/// How many tests run at once. They wait more than they work.
const THREADS: usize = 4;

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts::ALL)?;
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let runtime = Runtime::new()?;
    let world = runtime.block_on(World::start(testbed))?;
    let test = Tests::new(world, runtime.handle().clone());
    let trials = [protocols::trials(&test), backends::trials(&test), sharing::trials(&test), nodes::trials(&test)];
    let conclusion = libtest_mimic::run(&arguments, trials.into_iter().flatten().collect());
    // The cluster ends before the process does, whatever the tests said.
    drop(test);
    drop(runtime);
    conclusion.exit()
}
