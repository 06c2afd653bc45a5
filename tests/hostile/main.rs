//! Tenants who may edit their own namespace, and want more: on the real API
//! server, with the rights that Kubernetes' own role `edit` gives once `deploy/`
//! is applied. What each attempt runs into is said in SECURITY.md.
//!
//! In each test a tenant shares a class with a victim, whose claim must stay as
//! it is to the last byte.

mod far;
mod flood;
#[path = "../controller/harness/mod.rs"]
mod harness;
mod pods;
mod sight;
mod take;
mod tenant;
mod words;

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
        take::trials(&test),
        flood::trials(&test),
        sight::trials(&test),
        far::trials(&test),
        pods::trials(&test),
        words::trials(&test),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials.into_iter().flatten().collect());
    // The cluster ends before the process does, whatever the tests said.
    drop(test);
    drop(runtime);
    conclusion.exit()
}
