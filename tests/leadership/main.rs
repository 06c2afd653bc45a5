//! Several controllers of one cluster: one of them acts. Real processes under the
//! rights of `deploy/`, each behind a proxy of its own, so that it is known what
//! each of them sent.
//!
//! They share one Lease, so one test runs at a time.

mod candidate;
mod frozen;
mod succession;

use std::sync::Arc;

use sharedlb_harness::{AtOnce, add_cloud, run_tests, start_installed};
use sharedlb_testbed::{Cluster, Parts, Testbed};

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

fn main() -> anyhow::Result<()> {
    run_tests(AtOnce::One, Parts { controller_manager: true, ..Parts::API_ONLY }, start, |test| {
        let trials = [succession::trials(test), frozen::trials(test)];
        trials.into_iter().flatten().collect()
    })
}

async fn start(testbed: Testbed) -> anyhow::Result<Arc<Cluster>> {
    let cluster = start_installed(testbed).await?;
    add_cloud(&cluster).await?;
    Ok(cluster)
}
