//! MetalLB's controller: somebody else's load balancer implementation, which
//! gives every Service of type LoadBalancer an address.

use std::path::Path;

use crate::Testbed;
use crate::assets::Binary;
use crate::cluster::Cluster;
use crate::component::{Component, http_ok};
use crate::control_plane::READY_LIMIT;
use crate::network::POOLS;
use crate::wait::eventually;

const METRICS_PORT: u16 = 7472;

/// It wants a Deployment that it could be, to own its secret.
const NAMESPACE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: metallb-system}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: controller, namespace: metallb-system}
spec:
  replicas: 0
  selector: {matchLabels: {app: metallb}}
  template:
    metadata: {labels: {app: metallb}}
    spec: {containers: [{name: controller, image: testbed}]}
";

/// MetalLB's controller, not running yet.
pub(crate) fn controller(testbed: &Testbed, kubeconfig: &Path) -> anyhow::Result<Component> {
    let arguments = [
        "--namespace=metallb-system".to_owned(),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--port={METRICS_PORT}"),
        "--webhook-mode=disabled".to_owned(),
        "--disable-cert-rotation".to_owned(),
    ];
    let environment = [("METALLB_ML_SECRET_NAME", "memberlist"), ("METALLB_DEPLOYMENT", "controller")];
    let binary = Binary::MetalLb;
    let controller = Component::new(binary, &testbed.assets, &testbed.logs, arguments)?;
    Ok(controller.with_environment(environment))
}

/// Makes what the controller needs, its pool of addresses included, then
/// starts it and waits until it runs.
pub(crate) async fn start(controller: &Component, cluster: &Cluster, crds: &Path) -> anyhow::Result<()> {
    let crds = crds.to_string_lossy();
    cluster.kubectl_output(&["apply", "--server-side", "-f", &crds]).await?;
    cluster.apply(NAMESPACE).await?;
    let pool = format!(
        "{{apiVersion: metallb.io/v1beta1, kind: IPAddressPool,
           metadata: {{name: testbed, namespace: metallb-system}},
           spec: {{addresses: {:?}}}}}",
        cluster.network().families(POOLS)
    );
    // Its CRD is served a moment after it was made.
    let what = "MetalLB's pool to be accepted";
    eventually(what, READY_LIMIT, async || Ok(Some(cluster.apply(&pool).await?))).await?;
    controller.start()?;
    let ask = async || http_ok(METRICS_PORT, "/metrics").await;
    controller.until_ready(READY_LIMIT, ask).await
}
