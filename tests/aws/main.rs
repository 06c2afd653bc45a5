//! The controller with classes of the provider `aws`, against a stand-in that
//! enforces AWS' rules: what it makes of claims, what that costs in calls, and
//! what becomes of it when calls fail, others meddle, or it is killed.
//!
//! Each test has a region of its own, with a class and a namespace. What it
//! finds there is read by boto3, and compared with what claims were promised.

mod cost;
mod failing;
mod growth;
#[path = "../controller/harness/mod.rs"]
mod harness;
mod killed;
mod meddling;
mod nodes;
mod seen;
mod setting;

use libtest_mimic::Arguments;
use sharedlb_testbed::{Parts, enter};
use tokio::runtime::Runtime;

use harness::{Tests, add_node};
use setting::World;

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts { controller_manager: true, aws: true, ..Parts::API_ONLY })?;
    let mut arguments = Arguments::from_args();
    // There is one controller, and some tests kill it.
    arguments.test_threads = Some(1);
    let runtime = Runtime::new()?;
    let world = runtime.block_on(async {
        let world = World::start(testbed).await?;
        add_node(world.cluster.admin()).await?;
        anyhow::Ok(world)
    })?;
    let test = Tests::new(world, runtime.handle().clone());
    let trials = [
        growth::trials(&test),
        cost::trials(&test),
        failing::trials(&test),
        meddling::trials(&test),
        nodes::trials(&test),
        killed::trials(&test),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials.into_iter().flatten().collect());
    // The cluster ends before the process does, whatever the tests said.
    drop(test);
    drop(runtime);
    conclusion.exit()
}
