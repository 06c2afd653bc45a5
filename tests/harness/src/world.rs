//! What tests begin with: a cluster, and in most of them one controller for all.

use std::sync::Arc;

use sharedlb_testbed::{Cluster, Testbed};

use crate::cloud::serve_addresses;
use crate::controller::{Controller, Launch};
use crate::install::{controller_kubeconfig, install};
use crate::pods::add_node;

/// Starts the cluster, and installs everything of `deploy/`.
///
/// # Errors
/// If the cluster does not start.
pub async fn start_installed(testbed: Testbed) -> anyhow::Result<Arc<Cluster>> {
    let cluster = Arc::new(Cluster::start(testbed).await?);
    install(&cluster).await?;
    Ok(cluster)
}

/// Gives a cluster without a node what stands in for a cloud: a node for pods, and
/// addresses for load balancers.
///
/// # Errors
/// If the node cannot be made.
pub async fn add_cloud(cluster: &Cluster) -> anyhow::Result<()> {
    add_node(cluster.admin()).await?;
    tokio::spawn(serve_addresses(cluster.admin()));
    Ok(())
}

/// A cluster with a controller in it.
pub struct World {
    /// The cluster
    pub cluster: Arc<Cluster>,
    /// The controller, with the rights that `deploy/` gives its service account
    pub controller: Controller,
}

impl World {
    /// Starts the controller in a cluster where everything of `deploy/` is installed.
    ///
    /// # Errors
    /// If the controller does not get ready.
    pub async fn start(binary: &str, cluster: Arc<Cluster>) -> anyhow::Result<Self> {
        let kubeconfig = controller_kubeconfig(&cluster).await?;
        let controller = Launch::new(binary, kubeconfig, &cluster).alone().verbose().ready().await?;
        Ok(Self { cluster, controller })
    }
}
