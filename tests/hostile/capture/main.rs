//! Attempts on the packets of other tenants, with the rights of Kubernetes' own
//! role `edit`: with the real kube-proxy, MetalLB, and real traffic from outside
//! and from inside of the cluster, while the controller runs, while it does not,
//! and just after it was started again.
//!
//! Each test has a controller of its own, and so they run one at a time.

#[path = "../editor.rs"]
mod editor;
mod endpoints;
#[allow(dead_code, reason = "only a part of the faults is needed here")]
#[path = "../../faults/faults.rs"]
mod faults;
#[path = "../../controller/harness/mod.rs"]
mod harness;
mod lingering;
mod place;
mod ports;
#[allow(dead_code, reason = "only a part of the proxy is needed here")]
#[path = "../../faults/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "only a part of the setting is needed here")]
#[path = "../../sources/setting.rs"]
mod setting;
#[allow(dead_code, reason = "only a part of what a tenant can do is needed here")]
#[path = "../../sources/tenant.rs"]
mod tenant;
mod upgrade;
#[path = "../../faults/watch_stream.rs"]
mod watch_stream;

use sharedlb_testbed::{Cluster, Parts, Testbed};

use harness::{AtOnce, install, run_tests};

fn main() -> anyhow::Result<()> {
    run_tests(AtOnce::One, Parts::ALL, start, |test| {
        let trials = [ports::trials(test), lingering::trials(test), endpoints::trials(test), upgrade::trials(test)];
        trials.into_iter().flatten().collect()
    })
}

async fn start(testbed: Testbed) -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(testbed).await?;
    install(&cluster).await?;
    tenant::lead_to_load_balancers()?;
    Ok(cluster)
}
