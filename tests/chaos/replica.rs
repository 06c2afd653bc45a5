//! The controller: two replicas, each with a proxy of its own between it and the
//! API server.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use sharedlb_harness::proxy::Proxy;
use sharedlb_harness::{self as harness, LOST_LEASE, Launch};
use tokio::time::{Instant, sleep};

use crate::SHAREDLB;
use crate::stage::{LIMIT, Stage};

/// How many there are.
pub(crate) const REPLICAS: u16 = 2;

/// Shorter than those of `deploy/`, so that there is time for many leaders.
const TERMS: [&str; 3] =
    ["--leader-elect-lease-duration=4s", "--leader-elect-renew-deadline=3s", "--leader-elect-retry-period=300ms"];

/// AWS does not say when somebody changes something there, so that it is to look
/// as often as it lets itself be told to. And it meets AWS' own throttling instead
/// of what it would spare itself.
const CLOUD: [&str; 2] = ["--resync-seconds=10", "--aws-call-rate=100"];

/// How often it is looked whether it is ready.
const AGAIN: Duration = Duration::from_millis(50);

/// One replica of the controller, which comes and goes.
pub(crate) struct Replica(harness::Replica);

impl Replica {
    /// Starts one, and does not wait for it.
    pub(crate) fn start(stage: &Stage, rights: &Path, number: u16) -> anyhow::Result<Self> {
        let launch = Launch::new(SHAREDLB, rights, &stage.cluster).verbose();
        let launch = launch.flags(TERMS.iter().chain(&CLOUD)).environment(&stage.region.environment());
        let mut replica = harness::Replica::new(number, launch)?;
        replica.start()?;
        Ok(Self(replica))
    }

    /// Whether this is what it calls itself in the Lease.
    pub(crate) fn is_called(&self, identity: &str) -> bool {
        self.0.is_called(identity)
    }

    /// What is between it and the API server.
    pub(crate) fn proxy(&self) -> &Proxy {
        &self.0.proxy
    }

    /// Starts it again if it has lost the Lease and so ended, and requires that
    /// it does not end for any other reason.
    pub(crate) async fn revive(&mut self) -> anyhow::Result<()> {
        let controller = self.0.controller_mut()?;
        if !controller.is_running()? {
            let ended = controller.ended().await?;
            ensure!(ended.code() == Some(LOST_LEASE), "{} has ended by itself: {ended}", self.0.name());
            self.0.take()?;
            self.0.start()?;
        }
        Ok(())
    }

    /// Kills it, and starts it again a while later.
    pub(crate) async fn kill(&mut self, down: Duration) -> anyhow::Result<()> {
        self.revive().await?;
        self.0.kill().await?;
        self.0.proxy.faults.release();
        sleep(down).await;
        self.0.start()
    }

    /// Lets it make so many writes, and kills it before it knows of the last.
    pub(crate) async fn kill_at_write(&mut self, writes: u64, within: Duration, down: Duration) -> anyhow::Result<()> {
        self.0.proxy.faults.hold_after(writes);
        // Where there is nothing to write, it is killed for nothing.
        let held = self.0.proxy.faults.until_held(within, async || Ok(false)).await;
        drop(held);
        self.kill(down).await
    }

    /// Asks it to end, and starts it again a while later.
    pub(crate) async fn stop(&mut self, down: Duration) -> anyhow::Result<()> {
        // One that has just begun does not listen to signals yet, and ends by it.
        self.0.terminate().await?;
        sleep(down).await;
        self.0.start()
    }

    /// Stops it for a while, in the middle of whatever it does.
    pub(crate) async fn freeze(&mut self, lasting: Duration) -> anyhow::Result<()> {
        let controller = self.0.controller()?;
        controller.freeze()?;
        sleep(lasting).await;
        controller.wake()
    }

    /// Cuts it off from the API server for a while.
    pub(crate) async fn cut_off(&mut self, lasting: Duration) -> anyhow::Result<()> {
        self.0.proxy.refuse();
        sleep(lasting).await;
        self.0.proxy.accept()
    }

    /// Waits until it works, and starts it again where it loses the Lease meanwhile.
    pub(crate) async fn until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.revive().await?;
            match self.0.controller()?.require_ready().await {
                Ok(()) => return Ok(()),
                Err(error) => ensure!(Instant::now() < deadline, "{} is not ready: {error:#}", self.0.name()),
            }
            sleep(AGAIN).await;
        }
    }
}
