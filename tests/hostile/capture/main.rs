//! Attempts on the packets of other tenants, with the rights of Kubernetes' own
//! role `edit`: with the real kube-proxy, MetalLB, and real traffic from outside
//! and from inside of the cluster, while the controller runs, while it does not,
//! and just after it was started again.
//!
//! Each test has a controller of its own, and so they run one at a time.

mod endpoints;
mod lingering;
mod place;
mod ports;
#[allow(dead_code, reason = "only a part of what a tenant can do is needed here")]
#[path = "../../sources/tenant.rs"]
mod tenant;
mod upgrade;

use std::sync::Arc;

use sharedlb_harness::{AtOnce, run_tests, start_installed};
use sharedlb_testbed::{Cluster, Parts, Testbed};

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

fn main() -> anyhow::Result<()> {
    run_tests(AtOnce::One, Parts::ALL, start, |test| {
        let trials = [ports::trials(test), lingering::trials(test), endpoints::trials(test), upgrade::trials(test)];
        trials.into_iter().flatten().collect()
    })
}

async fn start(testbed: Testbed) -> anyhow::Result<Arc<Cluster>> {
    let cluster = start_installed(testbed).await?;
    tenant::lead_to_load_balancers()?;
    Ok(cluster)
}
