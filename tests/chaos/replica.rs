//! The controller: two replicas, each with a proxy of its own between it and the
//! API server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use sharedlb_testbed::Cluster;
use tokio::time::{Instant, sleep};

use crate::harness::Controller;
use crate::proxy::Proxy;
use crate::stage::{LIMIT, Stage};

/// How many there are.
pub(crate) const REPLICAS: u16 = 2;

/// The ports of the first one, and of its proxy.
const PORT: u16 = 18080;
const PROXY: u16 = 7070;

/// Shorter than those of `deploy/`, so that there is time for many leaders.
const TERMS: [&str; 3] =
    ["--leader-elect-lease-duration=4s", "--leader-elect-renew-deadline=3s", "--leader-elect-retry-period=300ms"];

/// AWS does not say when somebody changes something there, so that it is to look
/// as often as it lets itself be told to. And it meets AWS' own throttling instead
/// of what it would spare itself.
const CLOUD: [&str; 2] = ["--resync-seconds=10", "--aws-call-rate=100"];

/// How often it is looked whether it is ready.
const AGAIN: Duration = Duration::from_millis(50);

/// The status with which a process ends that lost the Lease.
const LOST: i32 = 3;

/// One replica of the controller.
pub(crate) struct Replica {
    cluster: Arc<Cluster>,
    number: u16,
    pub(crate) proxy: Proxy,
    kubeconfig: PathBuf,
    environment: Vec<(&'static str, String)>,
    controller: Option<Controller>,
}

impl Replica {
    /// Starts one, and does not wait for it.
    pub(crate) fn start(stage: &Stage, rights: &Path, number: u16) -> anyhow::Result<Self> {
        let proxy = Proxy::start_at(rights, PROXY + number)?;
        let kubeconfig = proxy.kubeconfig()?;
        let (cluster, environment) = (stage.cluster.clone(), stage.region.environment());
        let mut replica = Self { cluster, number, proxy, kubeconfig, environment, controller: None };
        replica.begin()?;
        Ok(replica)
    }

    /// Whether this is what it calls itself in the Lease.
    pub(crate) fn is_called(&self, identity: &str) -> bool {
        identity.starts_with(&format!("replica-{}_", self.number))
    }

    /// Starts it again. It is told nothing of a time before.
    fn begin(&mut self) -> anyhow::Result<()> {
        self.proxy.forget_lists();
        let name = format!("--leader-elect-name=replica-{}", self.number);
        let flags = [&[name.as_str()], TERMS.as_slice(), CLOUD.as_slice()].concat();
        let port = PORT + self.number;
        let controller = Controller::start_at(&self.cluster, &self.kubeconfig, port, &flags, &self.environment)?;
        self.controller = Some(controller);
        Ok(())
    }

    fn controller(&mut self) -> anyhow::Result<&mut Controller> {
        self.controller.as_mut().context("no controller runs")
    }

    /// Starts it again if it has lost the Lease and so ended, and requires that
    /// it does not end for any other reason.
    pub(crate) async fn revive(&mut self) -> anyhow::Result<()> {
        if !self.controller()?.is_running()? {
            let ended = self.controller()?.ended().await?;
            ensure!(ended.code() == Some(LOST), "controller {} has ended by itself: {ended}", self.number);
            self.begin()?;
        }
        Ok(())
    }

    /// Kills it, and starts it again a while later.
    pub(crate) async fn kill(&mut self, down: Duration) -> anyhow::Result<()> {
        self.revive().await?;
        self.controller.take().context("no controller runs")?.kill().await?;
        self.proxy.faults.release();
        sleep(down).await;
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
        self.controller.take().context("no controller runs")?.terminate().await?;
        sleep(down).await;
        self.begin()
    }

    /// Stops it for a while, in the middle of whatever it does.
    pub(crate) async fn freeze(&mut self, lasting: Duration) -> anyhow::Result<()> {
        let controller = self.controller()?;
        controller.signal("STOP").await?;
        sleep(lasting).await;
        controller.signal("CONT").await
    }

    /// Cuts it off from the API server for a while.
    pub(crate) async fn cut_off(&mut self, lasting: Duration) -> anyhow::Result<()> {
        self.proxy.refuse();
        sleep(lasting).await;
        self.proxy.accept()
    }

    /// Waits until it works, and starts it again where it loses the Lease meanwhile.
    pub(crate) async fn until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.revive().await?;
            match self.controller()?.get("/readyz").await {
                Ok((200, _)) => return Ok(()),
                other => ensure!(Instant::now() < deadline, "controller {} is not ready: {other:?}", self.number),
            }
            sleep(AGAIN).await;
        }
    }
}
