//! Nodes: the one that kube-proxy and the pods are on, and further ones that
//! are objects with addresses.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::Testbed;
use crate::assets::Binary;
use crate::cluster::Cluster;
use crate::component::{Component, http_ok};
use crate::control_plane::READY_LIMIT;
use crate::network::{MAX_NODES, NODE_RANGES, POD_RANGES};

/// The node that kube-proxy and all pods are on.
pub const NODE: &str = "node-1";

const KUBE_PROXY_HEALTH_PORT: u16 = 10256;

impl Cluster {
    /// Adds a node that is ready, and returns its addresses, IPv4 first.
    ///
    /// Pods run on [`NODE`] only, but the node ports of all nodes answer.
    pub async fn node(&self, name: &str) -> anyhow::Result<Vec<IpAddr>> {
        let number = self.next_node.fetch_add(1, Ordering::Relaxed);
        ensure!(number <= MAX_NODES, "there can be {MAX_NODES} nodes");
        let addresses = self.network().node_addresses(number);
        add_node(self.admin(), name, &addresses).await?;
        Ok(addresses)
    }
}

/// Makes a Node object that is ready.
pub(crate) async fn add_node(client: Client, name: &str, addresses: &[IpAddr]) -> anyhow::Result<()> {
    let nodes = Api::<Node>::all(client);
    let mut node = Node::default();
    node.metadata.name = Some(name.to_owned());
    nodes.create(&PostParams::default(), &node).await?;
    let internal: Vec<_> = addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    let status = Patch::Merge(json!({"status": {
        "addresses": internal,
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
    }}));
    let params = PatchParams::default();
    nodes.patch_status(name, &params, &status).await?;
    // The API server taints new nodes until they are ready.
    let untainted = Patch::Merge(json!({"spec": {"taints": null}}));
    nodes.patch(name, &params, &untainted).await?;
    Ok(())
}

/// kube-proxy of [`NODE`], which must exist.
pub(crate) fn kube_proxy(testbed: &Testbed, kubeconfig: &Path) -> anyhow::Result<Component> {
    let arguments = [format!("--config={}", kube_proxy_config(testbed, NODE, kubeconfig)?.display())];
    Component::new(Binary::KubeProxy, &testbed.assets, &testbed.logs, arguments)
}

/// Writes the configuration of the kube-proxy of a node to a file.
pub(crate) fn kube_proxy_config(testbed: &Testbed, node: &str, kubeconfig: &Path) -> anyhow::Result<PathBuf> {
    let config = testbed.dir.join(format!("kube-proxy-{node}.yaml"));
    let pods = testbed.network.families(POD_RANGES).join(",");
    let nodes = testbed.network.families(NODE_RANGES);
    // It changes nothing that is not this namespace's own: the conntrack
    // limits are the host's. And changes take effect at once, where the
    // default, which 0s stands for as well, gathers them for a second.
    let text = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: {node}
clientConnection: {{kubeconfig: {}}}
clusterCIDR: {pods}
nodePortAddresses: {nodes:?}
healthzBindAddress: 127.0.0.1:{KUBE_PROXY_HEALTH_PORT}
metricsBindAddress: 127.0.0.1:10249
conntrack: {{maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
nftables: {{minSyncPeriod: 1ms, syncPeriod: 30s}}
",
        kubeconfig.display()
    );
    std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    Ok(config)
}

/// Waits until kube-proxy has programmed what there is.
pub(crate) async fn kube_proxy_ready(kube_proxy: &Component) -> anyhow::Result<()> {
    let ask = async || http_ok(KUBE_PROXY_HEALTH_PORT, "/healthz").await;
    kube_proxy.until_ready(READY_LIMIT, ask).await
}
