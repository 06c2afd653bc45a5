//! What every test of faults begins with: a controller behind a proxy, a site
//! with a pod, and a ledger of its claims.

use std::sync::Arc;

use anyhow::ensure;
use sharedlb_harness::{Launch, Ledger, Replica, Site, controller_kubeconfig, install};
use sharedlb_testbed::Cluster;

use crate::SHAREDLB;

/// Many claims on few load balancers.
const CLASS: &str = r#"{"loadBalancers": {"max": 5, "listenersPerLoadBalancer": 25}}"#;

/// A controller, and what is done to it and for it.
pub(crate) struct Setting {
    pub(crate) replica: Replica,
    pub(crate) site: Site,
    pub(crate) ledger: Ledger,
}

impl Setting {
    /// Installs what is not there yet, and starts a controller behind a proxy.
    pub(crate) async fn start(cluster: &Arc<Cluster>, name: &str) -> anyhow::Result<Self> {
        install(cluster).await?;
        let launch = Launch::new(SHAREDLB, controller_kubeconfig(cluster).await?, cluster);
        let mut replica = Replica::new(0, launch.alone().verbose())?;
        let site = Site::with_pod(cluster, name, serde_json::from_str(CLASS)?).await?;
        let ledger = Ledger::open(&site.claims);
        replica.ready().await?;
        Ok(Self { replica, site, ledger })
    }

    /// Requires that no claim was ever wronged, and that this many have ports.
    pub(crate) async fn nobody_wronged(&self, count: usize) -> anyhow::Result<()> {
        let slots = self.ledger.clean().await?;
        ensure!(slots.len() == count, "{} of {count} have ports", slots.len());
        Ok(())
    }

    /// Removes the claims and the class, and ends the controller, so that the
    /// next test finds nothing of this one.
    pub(crate) async fn clear(mut self) -> anyhow::Result<()> {
        self.site.clear().await?;
        self.replica.kill().await
    }
}
