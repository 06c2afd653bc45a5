//! The controller's process: the real binary, with the rights that `deploy/`
//! gives it and no others.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sharedlb_testbed::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::stage::Stage;

const ADDRESS: &str = "127.0.0.1:8080";

/// How often it is asked whether it is ready: the grain of what is measured.
const ASK_EVERY: Duration = Duration::from_millis(2);

/// How long it may take until it is ready, or until it has nothing left to do.
const LIMIT: Duration = Duration::from_secs(5 * 60);

/// For how long it does nothing when it has nothing left to do.
const QUIET: Duration = Duration::from_secs(2);

/// How much of its log an error shows.
const LOG_TAIL: usize = 4000;

/// A controller that runs. It is killed when this is dropped.
pub(crate) struct Controller {
    process: Child,
    log: PathBuf,
    /// From its start until it said that it is ready
    pub(crate) ready_after: Duration,
}

impl Controller {
    /// Starts it, and waits until it says that it is ready.
    pub(crate) async fn start(stage: &Stage) -> anyhow::Result<Self> {
        Self::start_in(stage, &[]).await
    }

    /// The same with variables in its environment.
    pub(crate) async fn start_in(stage: &Stage, environment: &[(&str, String)]) -> anyhow::Result<Self> {
        let log = stage.cluster.logs().join("sharedlb.log");
        let output = File::options().create(true).append(true).open(&log)?;
        let started = Instant::now();
        let process = Command::new(env!("CARGO_BIN_EXE_sharedlb"))
            // It is killed and started again, and would wait for its own lease.
            .args(["controller", "--leader-elect=false", "--listen", ADDRESS, "--kubeconfig"])
            .arg(&stage.kubeconfig)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .context("starting the controller")?;
        let mut controller = Self { process, log, ready_after: Duration::ZERO };
        controller.until_ready(started).await.with_context(|| controller.log_tail())?;
        controller.ready_after = started.elapsed();
        Ok(controller)
    }

    async fn until_ready(&mut self, started: Instant) -> anyhow::Result<()> {
        let mut ask = tokio::time::interval(ASK_EVERY);
        loop {
            ask.tick().await;
            if let Some(status) = self.process.try_wait()? {
                bail!("the controller ended by itself ({status})");
            }
            match get("/readyz").await {
                Ok((200, _)) => return Ok(()),
                other if started.elapsed() > LIMIT => {
                    bail!("waited {LIMIT:?} for the controller to be ready; it last said {other:?}")
                }
                _ => {}
            }
        }
    }

    /// Kills it, and waits for its end.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.process.kill().await.context("killing the controller")
    }

    /// What its metrics say now.
    pub(crate) async fn metrics(&self) -> anyhow::Result<Metrics> {
        let (code, text) = get("/metrics").await.with_context(|| self.log_tail())?;
        if code != 200 {
            bail!("/metrics is answered with {code}: {text}");
        }
        Metrics::parse(&text)
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
        let id = self.process.id().context("the controller has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a line VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024.0 / 1e6)
    }

    /// Its established TCP connections now, watches included.
    pub(crate) fn connections(&self) -> anyhow::Result<usize> {
        let id = self.process.id().context("the controller has ended")?;
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

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let tail = log.char_indices().rev().nth(LOG_TAIL).map_or(0, |(start, _)| start);
        format!("the end of the controller's log:\n{}", &log[tail..])
    }
}

/// The values of `/metrics`.
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let values = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').with_context(|| format!("no metric: {line}"))?;
            Ok((name.to_owned(), value.parse()?))
        });
        values.collect::<anyhow::Result<_>>().map(Self)
    }

    /// The sum over all label values of one metric, as far as they contain all
    /// of these.
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let of_name = |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        let matching = self.0.iter().filter(|(key, _)| of_name(key) && labels.iter().all(|label| key.contains(label)));
        matching.map(|(_, value)| value).sum()
    }

    /// All writes to the API since the start, but for those of providers.
    pub(crate) fn writes(&self) -> f64 {
        self.sum("sharedlb_api_writes_total", &[])
    }

    /// The writes since the start for claims, Services and ConfigMaps, Events included:
    /// all but those to classes.
    pub(crate) fn writes_for_users(&self) -> f64 {
        self.writes() - self.sum("sharedlb_api_writes_total", &["kind=\"SharedLBClass\""])
    }

    /// All calls of providers since the start.
    pub(crate) fn provider_calls(&self) -> f64 {
        self.sum("sharedlb_provider_calls_total", &[])
    }

    /// The calls of providers since the start that were to change something.
    pub(crate) fn provider_changes(&self) -> f64 {
        ["apply", "delete"]
            .map(|operation| format!("operation=\"{operation}\""))
            .iter()
            .map(|operation| self.sum("sharedlb_provider_calls_total", &[operation]))
            .sum()
    }

    /// The Services of claims that the API server would not have.
    pub(crate) fn refused_services(&self) -> f64 {
        self.sum("sharedlb_api_writes_total", &["kind=\"Service\"", "result=\"refused\""])
    }

    fn work(&self) -> f64 {
        self.writes() + self.provider_calls()
    }
}

/// The status code and the body of a page of the controller.
async fn get(path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(ADDRESS).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let (head, body) = response.split_once("\r\n\r\n").context("a response with a body")?;
    let code = head.split_whitespace().nth(1).context("a status code")?.parse()?;
    Ok((code, body.to_owned()))
}
