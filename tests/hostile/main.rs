//! Tenants who may edit their own namespace, and want more: on the real API
//! server, with the rights that Kubernetes' own role `edit` gives once `deploy/`
//! is applied. What each attempt runs into is said in SECURITY.md.
//!
//! In each test a tenant shares a class with a victim, whose claim must stay as
//! it is to the last byte. Where packets go in the end is asked in `capture`,
//! which is a test program of its own: with kube-proxy, and pods that answer.

mod external_ips;
mod far;
mod flood;
mod pods;
mod sight;
mod take;
mod tenant;
mod words;

use sharedlb_harness::{AtOnce, World, add_cloud, run_tests, start_installed};
use sharedlb_testbed::{Parts, Testbed};

/// How many tests run at once. They wait more than they work.
const THREADS: usize = 6;

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

fn main() -> anyhow::Result<()> {
    run_tests(AtOnce::UpTo(THREADS), Parts { controller_manager: true, ..Parts::API_ONLY }, start, |test| {
        let trials = [
            take::trials(test),
            flood::trials(test),
            sight::trials(test),
            far::trials(test),
            pods::trials(test),
            words::trials(test),
            external_ips::trials(test),
        ];
        trials.into_iter().flatten().collect()
    })
}

async fn start(testbed: Testbed) -> anyhow::Result<World> {
    let cluster = start_installed(testbed).await?;
    add_cloud(&cluster).await?;
    World::start(SHAREDLB, cluster).await
}
