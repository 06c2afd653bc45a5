//! Several controllers of one cluster: one of them acts. Real processes under the
//! rights of `deploy/`, each behind a proxy of its own, so that it is known what
//! each of them sent.
//!
//! They share one Lease, so one test runs at a time.

#[allow(dead_code, reason = "only a part of the faults is needed here")]
#[path = "../faults/faults.rs"]
mod faults;
mod frozen;
#[path = "../controller/harness/mod.rs"]
mod harness;
#[path = "../faults/ledger.rs"]
mod ledger;
#[allow(dead_code, reason = "only a part of the proxy is needed here")]
#[path = "../faults/proxy.rs"]
mod proxy;
mod replica;
mod succession;
#[path = "../faults/watch_stream.rs"]
mod watch_stream;

use sharedlb_testbed::{Cluster, Parts, Testbed};

use harness::{AtOnce, add_node, install, run_tests, serve_addresses};

fn main() -> anyhow::Result<()> {
    run_tests(AtOnce::One, Parts { controller_manager: true, ..Parts::API_ONLY }, start, |test| {
        let trials = [succession::trials(test), frozen::trials(test)];
        trials.into_iter().flatten().collect()
    })
}

async fn start(testbed: Testbed) -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(testbed).await?;
    install(&cluster).await?;
    add_node(cluster.admin()).await?;
    tokio::spawn(serve_addresses(cluster.admin()));
    Ok(cluster)
}
