//! Sources: Services and ConfigMaps share a load balancer without knowing of
//! SharedLB. With
//! the real kube-proxy, MetalLB beside it, real traffic from outside and from
//! inside of the cluster, and the controller under the roles of `deploy/`.
//!
//! There are two rounds. In the first, one controller serves all tests, which
//! run side by side. In the second, each test has a controller of its own, that
//! it kills or starts with other flags, and so they run one at a time.

mod asking;
mod config_maps;
mod edits;
#[allow(dead_code, reason = "only a part of the faults is needed here")]
#[path = "../faults/faults.rs"]
mod faults;
mod flags;
#[path = "../controller/harness/mod.rs"]
mod harness;
mod killed;
mod newcomer;
#[allow(dead_code, reason = "only a part of the proxy is needed here")]
#[path = "../faults/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "only a part of the setting is needed here")]
mod setting;
mod sharing;
mod telling;
mod tenant;
#[path = "../faults/watch_stream.rs"]
mod watch_stream;

use std::sync::Arc;

use anyhow::Context;
use libtest_mimic::Arguments;
use sharedlb_testbed::{Parts, enter};
use tokio::runtime::Runtime;

use harness::{Tests, World};

/// How many tests of the first round run at once. They wait more than they work.
const THREADS: usize = 4;

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts::ALL)?;
    let arguments = Arguments::from_args();
    let runtime = Runtime::new()?;
    let world = runtime.block_on(World::start(testbed))?;
    tenant::lead_to_load_balancers()?;
    let cluster = world.cluster.clone();
    let world = Arc::new(world);

    let test = Tests::of(world.clone(), runtime.handle().clone());
    let trials = [
        asking::trials(&test),
        sharing::trials(&test),
        edits::trials(&test),
        telling::trials(&test),
        config_maps::trials(&test),
    ];
    let mut first = arguments.clone();
    first.test_threads.get_or_insert(THREADS);
    let first = libtest_mimic::run(&first, trials.into_iter().flatten().collect());
    drop(test);
    let world = Arc::into_inner(world).context("no test uses the first controller any more")?;
    runtime.block_on(world.controller.kill())?;

    let test = Tests::of(cluster, runtime.handle().clone());
    let trials =
        [killed::trials(&test), config_maps::trials_of_their_own(&test), flags::trials(&test), newcomer::trials(&test)];
    let second = Arguments { test_threads: Some(1), ..arguments };
    let second = libtest_mimic::run(&second, trials.into_iter().flatten().collect());
    // The cluster ends before the process does, whatever the tests said.
    drop(test);
    drop(runtime);
    first.exit_if_failed();
    second.exit()
}
