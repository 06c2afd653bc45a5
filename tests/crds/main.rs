//! The API as the real API server has it: what it refuses and with which
//! words, what it fills in, what `kubectl` shows, and who may do what once
//! `deploy/` is applied.

mod access;
#[path = "../../crds/tests/cases/mod.rs"]
mod cases;
mod manifests;
mod rights;
mod rules;
mod status;

use sharedlb_harness::{AtOnce, run_tests};
use sharedlb_testbed::{Cluster, Parts, Testbed};

/// How many tests run at once. They wait more than they work.
const THREADS: usize = 2;

fn main() -> anyhow::Result<()> {
    // Aggregated roles are put together by the controller manager.
    let parts = Parts { controller_manager: true, ..Parts::API_ONLY };
    run_tests(AtOnce::UpTo(THREADS), parts, start, |test| {
        let trials = [
            rules::trials(test),
            status::trials(test),
            manifests::trials(test),
            access::trials(test),
            rights::trials(test),
        ];
        trials.into_iter().flatten().collect()
    })
}

async fn start(testbed: Testbed) -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(testbed).await?;
    manifests::install(&cluster).await?;
    Ok(cluster)
}
