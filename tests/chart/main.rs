//! The Helm chart with the real Helm, on a real API server: what it installs, upgrades,
//! rolls back and leaves behind, that its arguments and rights are those that the real
//! controller needs, and that its alerts and dashboard work on the real Prometheus.

mod alerts;
mod lifecycle;
mod manifests;
mod monitoring;
mod release;
mod values;

use sharedlb_harness::{AtOnce, add_cloud, run_tests};
use sharedlb_testbed::{Cluster, Parts, Testbed};

/// Where the values `ci/full-values.yaml` have load balancers.
const OTHER_NAMESPACE: &str = "load-balancers";

/// The first and the last node port. They are few, so that a test can use them up.
const NODE_PORTS: (u16, u16) = (30000, 30007);

fn main() -> anyhow::Result<()> {
    let node_ports = Some(NODE_PORTS);
    let parts = Parts { controller_manager: true, helm: true, prometheus: true, node_ports, ..Parts::API_ONLY };
    // One after the other, since SharedLB is installed once in a cluster.
    run_tests(AtOnce::One, parts, start, |test| {
        let trials = [
            manifests::trials(test),
            values::trials(test),
            lifecycle::trials(test),
            alerts::trials(test),
            monitoring::trials(test),
        ];
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
