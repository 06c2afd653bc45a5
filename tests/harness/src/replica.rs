//! A controller behind a proxy of its own, that is ended and started again.

use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, ensure};
use sharedlb_testbed::Cluster;

use crate::controller::{Controller, Launch, PORT};
use crate::install::controller_kubeconfig;
use crate::proxy::{self, Proxy};

/// How long it may take in which the controller is killed all the time.
const KILLED_LIMIT: Duration = Duration::from_secs(90);

/// With this status a process ends that is no longer the leader.
pub const LOST_LEASE: i32 = 3;

/// A controller, or the place of one that has ended, behind a proxy.
pub struct Replica {
    name: String,
    /// What stands between the controller and the API server
    pub proxy: Proxy,
    launch: Launch,
    controller: Option<Controller>,
}

impl Replica {
    /// A proxy with the rights that `launch` has, and nothing behind it yet. The
    /// number, from 0, is in the ports of both, so that several can run at once, and in
    /// the name by which the controller takes part in leader election.
    ///
    /// # Errors
    /// If the proxy cannot listen.
    pub fn new(number: u16, launch: Launch) -> anyhow::Result<Self> {
        let proxy = Proxy::start_at(launch.kubeconfig(), proxy::PORT + number)?;
        let name = format!("replica-{number}");
        let launch = launch.behind(proxy.kubeconfig()?).port(PORT + number).named(&name);
        Ok(Self { name, proxy, launch, controller: None })
    }

    /// Its name, by its number.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this is how the controller calls itself in the Lease.
    pub fn is_called(&self, identity: &str) -> bool {
        identity.strip_prefix(&self.name).is_some_and(|rest| rest.starts_with('_'))
    }

    /// The only controller of a cluster in which SharedLB is installed, with these
    /// flags. It is ready.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn alone(binary: &str, cluster: &Cluster, flags: &[&str]) -> anyhow::Result<Self> {
        let launch = Launch::new(binary, controller_kubeconfig(cluster).await?, cluster);
        let mut replica = Self::new(0, launch.alone().verbose().flags(flags))?;
        replica.ready().await?;
        Ok(replica)
    }

    /// Starts a controller, and does not wait for it. None may run.
    ///
    /// # Errors
    /// If one runs, or the process cannot be created.
    pub fn start(&mut self) -> anyhow::Result<()> {
        ensure!(self.controller.is_none(), "the controller runs already");
        self.proxy.forget_lists();
        self.controller = Some(self.launch.start()?);
        Ok(())
    }

    /// Starts a controller, and returns when it is ready. None may run.
    ///
    /// # Errors
    /// If one runs, or the new one does not get ready.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        self.start()?;
        self.controller_mut()?.until_ready().await
    }

    /// The same with other flags than the one before.
    ///
    /// # Errors
    /// As those of [`ready`](Self::ready).
    pub async fn ready_with(&mut self, flags: &[&str]) -> anyhow::Result<()> {
        self.launch = self.launch.clone().flags(flags);
        self.ready().await
    }

    /// The controller that runs, or has ended by itself.
    ///
    /// # Errors
    /// If there is none.
    pub fn controller(&self) -> anyhow::Result<&Controller> {
        self.controller.as_ref().context("no controller runs")
    }

    /// The same, to wait for its result.
    ///
    /// # Errors
    /// If there is none.
    pub fn controller_mut(&mut self) -> anyhow::Result<&mut Controller> {
        self.controller.as_mut().context("no controller runs")
    }

    /// Takes the controller out, such that another one can be started.
    ///
    /// # Errors
    /// If there is none.
    pub fn take(&mut self) -> anyhow::Result<Controller> {
        self.controller.take().context("no controller runs")
    }

    /// Kills the controller.
    ///
    /// # Errors
    /// If there is none, or it had ended by itself.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.take()?.kill().await
    }

    /// Asks the controller to end, and waits until it has.
    ///
    /// # Errors
    /// If there is none, or it does not end.
    pub async fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.take()?.terminate().await
    }

    /// Kills the controller each time it has made so many writes, the last of which it
    /// never learns of, until `done` or until all these times are over; waits until
    /// `done`, and returns how often it was killed. It begins with nothing to be done:
    /// `cause` makes it.
    ///
    /// # Errors
    /// If `cause` fails, or `done` is not reached.
    pub async fn kill_after(
        &mut self,
        writes: impl IntoIterator<Item = u64>,
        cause: impl Future<Output = anyhow::Result<()>>,
        done: impl AsyncFn() -> anyhow::Result<bool>,
    ) -> anyhow::Result<usize> {
        let mut writes = writes.into_iter();
        self.proxy.faults.hold_after(writes.next().context("it is never to be killed")?);
        cause.await?;
        let mut kills = 0;
        while self.proxy.faults.until_held(KILLED_LIMIT, &done).await? {
            self.kill().await?;
            kills += 1;
            self.proxy.faults.release();
            if let Some(next) = writes.next() {
                self.proxy.faults.hold_after(next);
            }
            self.start()?;
        }
        self.proxy.faults.release();
        Ok(kills)
    }
}
