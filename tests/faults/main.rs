//! The controller in bad times: killed, without an API server, with one that
//! refuses, forgets to answer or ends watches. Whatever happens, no port moves,
//! none is lost and none is given twice, and it recovers by itself.
//!
//! Each test has a controller of its own behind a proxy of ours, so one runs
//! at a time.

mod away;
mod killed;
mod node_ports;
mod restart;
mod setting;
mod writes;

use sharedlb_harness::{AtOnce, add_cloud, install_without_definitions, run_tests};
use sharedlb_testbed::{Cluster, Parts, Testbed};

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

fn main() -> anyhow::Result<()> {
    // There is one cluster, and two controllers would share its classes.
    run_tests(AtOnce::One, Parts { controller_manager: true, ..Parts::API_ONLY }, start, |test| {
        // The first of them wants a cluster without definitions.
        let trials = [
            restart::trials(test),
            killed::trials(test),
            writes::trials(test),
            away::trials(test),
            node_ports::trials(test),
        ];
        trials.into_iter().flatten().collect()
    })
}

async fn start(testbed: Testbed) -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(testbed).await?;
    install_without_definitions(&cluster).await?;
    add_cloud(&cluster).await?;
    Ok(cluster)
}
