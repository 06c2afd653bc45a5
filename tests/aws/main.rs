//! The controller with classes of the provider `aws`, against a stand-in that
//! enforces AWS' rules: what it makes of claims, what that costs in calls, and
//! its behaviour when calls fail, others change things, or it is killed.
//!
//! Each test has a region of its own, with a class and a namespace. What it
//! finds there is read by boto3, and compared with what claims were promised.

mod cost;
mod dry_run;
mod edits;
mod failing;
mod growth;
mod killed;
mod meddling;
mod nodes;
mod seen;
mod setting;

use sharedlb_harness::{AtOnce, add_node, run_tests};
use sharedlb_testbed::{Parts, Testbed};

use setting::World;

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

fn main() -> anyhow::Result<()> {
    // There is one controller, and some tests kill it.
    run_tests(AtOnce::One, Parts { controller_manager: true, aws: true, ..Parts::API_ONLY }, start, |test| {
        let trials = [
            growth::trials(test),
            cost::trials(test),
            dry_run::trials(test),
            edits::trials(test),
            failing::trials(test),
            meddling::trials(test),
            nodes::trials(test),
            killed::trials(test),
        ];
        trials.into_iter().flatten().collect()
    })
}

async fn start(testbed: Testbed) -> anyhow::Result<World> {
    let world = World::start(testbed).await?;
    add_node(world.cluster.admin()).await?;
    Ok(world)
}
