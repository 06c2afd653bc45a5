//! The controller in bad times: killed, without an API server, with one that
//! refuses, forgets to answer or ends watches. Whatever happens, no port moves,
//! none is lost and none is given twice, and it recovers by itself.
//!
//! Each test has controllers of its own, one or (in `leadership`) several, each behind
//! a proxy of ours. They serve all classes of the cluster, so one test runs at a time.

mod away;
mod killed;
mod leadership;
mod node_ports;
mod restart;
mod setting;
mod writes;

use sharedlb_harness::{AtOnce, Program, add_cloud, install, install_without_definitions};
use sharedlb_testbed::{Cluster, Parts, Testbed};

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

fn main() -> anyhow::Result<()> {
    let (mut program, testbed) = Program::enter(Parts { controller_manager: true, ..Parts::API_ONLY })?;
    let cluster = program.block_on(start(testbed))?;
    let cluster = program.round(AtOnce::One, cluster, |test| {
        // The first of them wants a cluster without definitions.
        let trials = [
            restart::trials(test),
            killed::trials(test),
            writes::trials(test),
            away::trials(test),
            node_ports::trials(test),
        ];
        trials.into_iter().flatten().collect()
    });
    program.block_on(install(&cluster))?;
    let cluster = program.round(AtOnce::One, cluster, leadership::trials);
    program.exit(cluster)
}

/// A cluster in which the controller may run, and finds none of our kinds.
async fn start(testbed: Testbed) -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(testbed).await?;
    install_without_definitions(&cluster).await?;
    add_cloud(&cluster).await?;
    Ok(cluster)
}
