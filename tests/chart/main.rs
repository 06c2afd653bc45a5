//! The Helm chart with the real Helm, on a real API server: what it installs, upgrades,
//! rolls back and leaves behind, and that its arguments and rights are those that the
//! real controller needs.

mod lifecycle;
mod manifests;
mod release;
mod values;

use sharedlb_harness::{AtOnce, add_cloud, run_tests};
use sharedlb_testbed::{Cluster, Parts, Testbed};

/// Where the values `ci/full-values.yaml` have load balancers.
const OTHER_NAMESPACE: &str = "load-balancers";

fn main() -> anyhow::Result<()> {
    let parts = Parts { controller_manager: true, helm: true, ..Parts::API_ONLY };
    // One after the other, since SharedLB is installed once in a cluster.
    run_tests(AtOnce::One, parts, start, |test| {
        let trials = [manifests::trials(test), values::trials(test), lifecycle::trials(test)];
        trials.into_iter().flatten().collect()
    })
}

async fn start(testbed: Testbed) -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(testbed).await?;
    cluster.install_prometheus_crds().await?;
    for namespace in [release::NAMESPACE, OTHER_NAMESPACE] {
        cluster.kubectl_output(&["create", "namespace", namespace]).await?;
    }
    add_cloud(&cluster).await?;
    Ok(cluster)
}
