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

use libtest_mimic::Arguments;
use sharedlb_testbed::{Parts, enter};
use tokio::runtime::Runtime;

use harness::{Tests, World, add_node, serve_addresses};

/// How many tests run at once. They wait more than they work.
const THREADS: usize = 6;

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts { controller_manager: true, ..Parts::API_ONLY })?;
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let runtime = Runtime::new()?;
    let world = runtime.block_on(async {
        let world = World::start(testbed).await?;
        add_node(world.cluster.admin()).await?;
        tokio::spawn(serve_addresses(world.cluster.admin()));
        anyhow::Ok(world)
    })?;
    let test = Tests::new(world, runtime.handle().clone());
    let trials = [
        life::trials(&test),
        release::trials(&test),
        refusals::trials(&test),
        boundaries::trials(&test),
        changes::trials(&test),
        backends::trials(&test),
        classes::trials(&test),
        scaling::trials(&test),
        tampering::trials(&test),
        telling::trials(&test),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials.into_iter().flatten().collect());
    // The cluster ends before the process does, whatever the tests said.
    drop(test);
    drop(runtime);
    conclusion.exit()
}
