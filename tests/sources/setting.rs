//! A controller of a test's own, behind a proxy that holds its writes back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use sharedlb_testbed::Cluster;

use crate::harness::{Controller, controller_kubeconfig};
use crate::proxy::Proxy;

/// How long something may take in which the controller is killed all the time.
const KILLED_LIMIT: Duration = Duration::from_secs(90);

/// More writes than one change of one object takes.
const KILLS_MAX: usize = 60;

/// A controller, and what stands between it and the API server.
pub(crate) struct Setting {
    cluster: Arc<Cluster>,
    proxy: Proxy,
    kubeconfig: PathBuf,
    flags: &'static [&'static str],
    controller: Option<Controller>,
}

impl Setting {
    /// Starts a controller with these flags.
    pub(crate) async fn start(cluster: &Arc<Cluster>, flags: &'static [&'static str]) -> anyhow::Result<Self> {
        let proxy = Proxy::start(&controller_kubeconfig(cluster).await?)?;
        let kubeconfig = proxy.kubeconfig()?;
        let mut setting = Self { cluster: cluster.clone(), proxy, kubeconfig, flags, controller: None };
        setting.start_controller()?;
        setting.controller()?.until_ready().await?;
        Ok(setting)
    }

    pub(crate) fn start_controller(&mut self) -> anyhow::Result<()> {
        self.controller = Some(Controller::start_with(&self.cluster, &self.kubeconfig, self.flags)?);
        Ok(())
    }

    /// Starts a controller with other flags than the one before, which has ended.
    pub(crate) async fn replace(&mut self, flags: &'static [&'static str]) -> anyhow::Result<()> {
        ensure!(self.controller.is_none(), "a controller runs");
        self.flags = flags;
        self.start_controller()?;
        self.controller()?.until_ready().await
    }

    pub(crate) fn controller(&self) -> anyhow::Result<&Controller> {
        self.controller.as_ref().context("no controller runs")
    }

    /// How many writes the API server was given.
    pub(crate) fn writes(&self) -> u64 {
        self.proxy.faults.writes()
    }

    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.controller.take().context("no controller runs")?.kill().await
    }

    /// Ends the controller in good order: what it has begun to write is written.
    pub(crate) async fn terminate(&mut self) -> anyhow::Result<()> {
        let ended = self.controller.take().context("no controller runs")?.terminate().await?;
        ensure!(ended.success(), "it ended with {ended}");
        Ok(())
    }

    /// Kills the controller after each write, of which it never learns, until
    /// `done`. It begins with nothing to be done: `cause` makes it.
    pub(crate) async fn killed_after_each_write(
        &mut self,
        cause: impl Future<Output = anyhow::Result<()>>,
        done: impl AsyncFn() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        self.proxy.faults.hold_after(1);
        cause.await?;
        let mut kills = 0;
        while self.proxy.faults.until_held(KILLED_LIMIT, &done).await? {
            ensure!(kills < KILLS_MAX, "it was killed {kills} times, and is not done");
            self.kill().await?;
            kills += 1;
            self.proxy.faults.release();
            self.proxy.faults.hold_after(1);
            self.start_controller()?;
        }
        self.proxy.faults.release();
        ensure!(kills >= 2, "it was done after {kills} kills, so that little was tried");
        Ok(())
    }
}
