//! The load balancer on a real cluster: real EndpointSlices, and HTTP servers in place of pods.

mod failures;
mod load;
mod selection;
mod setting;
mod tower;

// The examples are what a user begins with, so these tests send their requests with them.
#[path = "../../examples/http_proxy.rs"]
#[expect(dead_code, reason = "only its proxy is used")]
mod http_proxy;
#[path = "../../examples/hyper_client.rs"]
#[expect(dead_code, reason = "only its request is used")]
mod hyper_client;

use std::sync::Arc;

use sharedlb_harness::{AtOnce, Program};
use sharedlb_testbed::{Cluster, Parts};

/// How many tests run at once. They wait more than they work.
const THREADS: usize = 4;

fn main() -> anyhow::Result<()> {
    let (mut program, testbed) = Program::enter(Parts { controller_manager: true, ..Parts::API_ONLY })?;
    let cluster = program.block_on(async {
        let cluster = Cluster::start(testbed).await?;
        setting::prepare(&cluster).await?;
        anyhow::Ok(Arc::new(cluster))
    })?;
    let cluster = program.round(AtOnce::UpTo(THREADS), cluster, |test| {
        let trials = [selection::trials(test), load::trials(test), failures::trials(test), tower::trials(test)];
        trials.into_iter().flatten().collect()
    });
    let cluster = program.round(AtOnce::One, cluster, failures::trials_of_their_own);
    program.exit(cluster)
}
