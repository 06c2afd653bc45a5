//! The controller in bad times: killed, without an API server, with one that
//! refuses, forgets to answer or ends watches. Whatever happens, no port moves,
//! none is lost and none is given twice, and it recovers by itself.
//!
//! Each test has a controller of its own behind a proxy of ours, so one runs
//! at a time.

mod away;
#[allow(dead_code, reason = "other test programs use the rest")]
mod faults;
#[path = "../controller/harness/mod.rs"]
mod harness;
mod killed;
mod ledger;
#[allow(dead_code, reason = "each of the test programs uses a part of this")]
mod proxy;
mod restart;
mod setting;
mod watch_stream;
mod writes;

use libtest_mimic::Arguments;
use sharedlb_testbed::{Cluster, Parts, enter};
use tokio::runtime::Runtime;

use harness::{Tests, add_node, install_without_definitions, serve_addresses};

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts { controller_manager: true, ..Parts::API_ONLY })?;
    let mut arguments = Arguments::from_args();
    // There is one cluster, and two controllers would share its classes.
    arguments.test_threads = Some(1);
    let runtime = Runtime::new()?;
    let cluster = runtime.block_on(async {
        let cluster = Cluster::start(testbed).await?;
        install_without_definitions(&cluster).await?;
        add_node(cluster.admin()).await?;
        tokio::spawn(serve_addresses(cluster.admin()));
        anyhow::Ok(cluster)
    })?;
    let test = Tests::new(cluster, runtime.handle().clone());
    // The first of them wants a cluster without definitions.
    let trials = [restart::trials(&test), killed::trials(&test), writes::trials(&test), away::trials(&test)];
    let conclusion = libtest_mimic::run(&arguments, trials.into_iter().flatten().collect());
    // The cluster ends before the process does, whatever the tests said.
    drop(test);
    drop(runtime);
    conclusion.exit()
}
