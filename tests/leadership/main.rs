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

use libtest_mimic::Arguments;
use sharedlb_testbed::{Cluster, Parts, enter};
use tokio::runtime::Runtime;

use harness::{Tests, add_node, install, serve_addresses};

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts { controller_manager: true, ..Parts::API_ONLY })?;
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let runtime = Runtime::new()?;
    let cluster = runtime.block_on(async {
        let cluster = Cluster::start(testbed).await?;
        install(&cluster).await?;
        add_node(cluster.admin()).await?;
        tokio::spawn(serve_addresses(cluster.admin()));
        anyhow::Ok(cluster)
    })?;
    let test = Tests::new(cluster, runtime.handle().clone());
    let trials = [succession::trials(&test), frozen::trials(&test)];
    let conclusion = libtest_mimic::run(&arguments, trials.into_iter().flatten().collect());
    // The cluster ends before the process does, whatever the tests said.
    drop(test);
    drop(runtime);
    conclusion.exit()
}
