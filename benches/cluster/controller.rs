//! The controller, and what is measured of it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sharedlb_harness::{self as harness, Launch};
use sharedlb_testbed::eventually;

use crate::stage::Stage;

/// How often it is asked whether it is ready: the grain of what is measured.
const ASK_EVERY: Duration = Duration::from_millis(2);

/// How long it may take until it is ready, or until it has nothing left to do.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// For how long it does nothing when it has nothing left to do.
const QUIET: Duration = Duration::from_secs(2);

/// A controller that runs. It is killed when this is dropped.
pub(crate) struct Controller {
    process: harness::Controller,
    /// From its start until it said that it is ready
    pub(crate) ready_after: Duration,
}

impl Controller {
    /// Starts it, and waits until it says that it is ready.
    pub(crate) async fn start(stage: &Stage) -> anyhow::Result<Self> {
        Self::start_in(stage, &[]).await
    }

    /// The same with variables in its environment.
    pub(crate) async fn start_in(stage: &Stage, environment: &[(&'static str, String)]) -> anyhow::Result<Self> {
        let launch = Launch::new(env!("CARGO_BIN_EXE_sharedlb"), &stage.kubeconfig, &stage.cluster);
        // It is killed and started again, and would wait for its own lease.
        let launch = launch.alone().environment(environment);
        let started = Instant::now();
        let mut process = launch.start()?;
        until_ready(&mut process, started).await.with_context(|| process.log_tail())?;
        Ok(Self { process, ready_after: started.elapsed() })
    }

    /// Kills it, and waits for its end.
    pub(crate) async fn kill(self) -> anyhow::Result<()> {
        self.process.kill().await
    }

    /// What its metrics say now.
    pub(crate) async fn metrics(&self) -> anyhow::Result<Metrics> {
        self.process.metrics().await.map(Metrics).with_context(|| self.process.log_tail())
    }

    /// Waits until it has nothing left to do.
    pub(crate) async fn until_quiet(&self) -> anyhow::Result<()> {
        let what = "the controller to have nothing left to do";
        eventually(what, LIMIT, async || {
            let before = self.metrics().await?.work();
            // Quiet is what lasts, so this is the condition, not a guess at it.
            tokio::time::sleep(QUIET).await;
            Ok((self.metrics().await?.work() == before).then_some(()))
        })
        .await
    }

    /// Its resident memory now, in MB of 1,000,000 bytes.
    pub(crate) fn rss_mb(&self) -> anyhow::Result<f64> {
        let id = self.process.id()?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a line VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024.0 / 1e6)
    }

    /// Its established TCP connections now, watches included.
    pub(crate) fn connections(&self) -> anyhow::Result<usize> {
        let id = self.process.id()?;
        let mut own = HashSet::new();
        for entry in std::fs::read_dir(format!("/proc/{id}/fd"))? {
            // One may be closed between the listing and this.
            let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
            let target = target.to_string_lossy();
            own.extend(target.strip_prefix("socket:[").and_then(|inode| Some(inode.strip_suffix(']')?.to_owned())));
        }
        let table = std::fs::read_to_string(format!("/proc/{id}/net/tcp"))?;
        // Columns of proc(5): the state is the fourth, 01 being ESTABLISHED, and the inode the tenth.
        let established = table.lines().filter(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            columns.get(3) == Some(&"01") && columns.get(9).is_some_and(|inode| own.contains(*inode))
        });
        Ok(established.count())
    }
}

async fn until_ready(process: &mut harness::Controller, started: Instant) -> anyhow::Result<()> {
    let mut ask = tokio::time::interval(ASK_EVERY);
    loop {
        ask.tick().await;
        if !process.is_running()? {
            bail!("the controller ended by itself ({})", process.ended().await?);
        }
        match process.require_ready().await {
            Ok(()) => return Ok(()),
            Err(error) if started.elapsed() > LIMIT => {
                return Err(error.context(format!("waited {LIMIT:?} for the controller to be ready")));
            }
            Err(_) => {}
        }
    }
}

/// What the metrics say of the work that was done.
pub(crate) struct Metrics(harness::Metrics);

impl Metrics {
    /// All writes to the API since the start, but for those of providers.
    pub(crate) fn writes(&self) -> f64 {
        self.0.sum("sharedlb_api_writes_total", &[])
    }

    /// The writes since the start for claims, Services and ConfigMaps, Events included:
    /// all but those to classes.
    pub(crate) fn writes_for_users(&self) -> f64 {
        self.writes() - self.0.sum("sharedlb_api_writes_total", &[("kind", "SharedLBClass")])
    }

    /// All calls of providers since the start.
    pub(crate) fn provider_calls(&self) -> f64 {
        self.0.sum("sharedlb_provider_calls_total", &[])
    }

    /// The calls of providers since the start that were to change something.
    pub(crate) fn provider_changes(&self) -> f64 {
        ["apply", "delete"]
            .map(|operation| self.0.sum("sharedlb_provider_calls_total", &[("operation", operation)]))
            .iter()
            .sum()
    }

    /// The Services of claims that the API server would not have.
    pub(crate) fn refused_services(&self) -> f64 {
        self.0.sum("sharedlb_api_writes_total", &[("kind", "Service"), ("result", "refused")])
    }

    fn work(&self) -> f64 {
        self.writes() + self.provider_calls()
    }
}
