//! A controller, with a proxy of its own between it and the API server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sharedlb_testbed::Cluster;

use crate::harness::Controller;
use crate::proxy::Proxy;

/// The ports of the first one, and its proxy's.
const PORT: u16 = 18080;
const PROXY: u16 = 7070;

/// One replica of the controller.
pub(crate) struct Replica {
    cluster: Arc<Cluster>,
    number: u16,
    pub(crate) proxy: Proxy,
    kubeconfig: PathBuf,
    controller: Option<Controller>,
}

impl Replica {
    /// Starts one, and does not wait for it.
    pub(crate) fn start(cluster: &Arc<Cluster>, rights: &Path, number: u16) -> anyhow::Result<Self> {
        let proxy = Proxy::start_at(rights, PROXY + number)?;
        let kubeconfig = proxy.kubeconfig()?;
        let mut replica = Self { cluster: cluster.clone(), number, proxy, kubeconfig, controller: None };
        replica.begin()?;
        Ok(replica)
    }

    /// Starts it again. It is told nothing of a time before.
    pub(crate) fn begin(&mut self) -> anyhow::Result<()> {
        self.proxy.forget_lists();
        let controller = Controller::start_at(&self.cluster, &self.kubeconfig, PORT + self.number, &[])?;
        self.controller = Some(controller);
        Ok(())
    }

    fn take(&mut self) -> anyhow::Result<Controller> {
        self.controller.take().context("no controller runs")
    }

    /// Kills it, and starts it again a while later.
    pub(crate) async fn kill(&mut self, down: Duration) -> anyhow::Result<()> {
        self.take()?.kill().await?;
        self.proxy.faults.release();
        tokio::time::sleep(down).await;
        self.begin()
    }

    /// Lets it make so many writes, and kills it before it knows of the last.
    pub(crate) async fn kill_at_write(&mut self, writes: u64, within: Duration, down: Duration) -> anyhow::Result<()> {
        self.proxy.faults.hold_after(writes);
        // Where there is nothing to write, it is killed for nothing.
        let held = self.proxy.faults.until_held(within, async || Ok(false)).await;
        drop(held);
        self.kill(down).await
    }

    /// Asks it to end, and starts it again a while later.
    pub(crate) async fn stop(&mut self, down: Duration) -> anyhow::Result<()> {
        // One that has just begun does not listen to signals yet, and ends by it.
        self.take()?.terminate().await?;
        tokio::time::sleep(down).await;
        self.begin()
    }

    /// Stops it for a while, in the middle of whatever it does.
    pub(crate) async fn freeze(&mut self, lasting: Duration) -> anyhow::Result<()> {
        let controller = self.controller.as_ref().context("no controller runs")?;
        controller.signal("STOP").await?;
        tokio::time::sleep(lasting).await;
        controller.signal("CONT").await
    }

    /// Cuts it off from the API server for a while.
    pub(crate) async fn cut_off(&mut self, lasting: Duration) -> anyhow::Result<()> {
        self.proxy.refuse();
        tokio::time::sleep(lasting).await;
        self.proxy.accept()
    }

    /// Waits until it works.
    pub(crate) async fn until_ready(&self) -> anyhow::Result<()> {
        self.controller.as_ref().context("no controller runs")?.until_ready().await
    }

    /// Requires that it did not end by itself.
    pub(crate) fn still_runs(&mut self) -> anyhow::Result<()> {
        let controller = self.controller.as_mut().context("no controller runs")?;
        anyhow::ensure!(controller.is_running()?, "controller {} has ended by itself", self.number);
        Ok(())
    }
}
