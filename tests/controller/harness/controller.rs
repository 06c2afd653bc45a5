//! The controller's process: the real binary.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, bail, ensure};
use sharedlb_testbed::{Cluster, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::LIMIT;
use super::metrics::Metrics;

/// The port where it answers. The network is the test program's own.
const PORT: u16 = 18080;

/// A running controller. It ends when this is dropped.
pub(crate) struct Controller {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Controller {
    /// Starts it with this kubeconfig. Its log is added to that of those before.
    pub(crate) fn start(cluster: &Cluster, kubeconfig: &Path) -> anyhow::Result<Self> {
        Self::start_with(cluster, kubeconfig, &[])
    }

    /// The same with further flags. It is alone, and begins without waiting for
    /// the lease of one that was killed.
    pub(crate) fn start_with(cluster: &Cluster, kubeconfig: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        Self::start_in(cluster, kubeconfig, flags, &[])
    }

    /// The same with variables in its environment.
    pub(crate) fn start_in(
        cluster: &Cluster,
        kubeconfig: &Path,
        flags: &[&str],
        environment: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        Self::start_at(cluster, kubeconfig, PORT, &[&["--leader-elect=false"], flags].concat(), environment)
    }

    /// One of several, each of which answers at a port of its own.
    pub(crate) fn start_at(
        cluster: &Cluster,
        kubeconfig: &Path,
        port: u16,
        flags: &[&str],
        environment: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let log = cluster.logs().join(format!("controller-{port}.log"));
        let file = open_log(&log)?;
        let child = Command::new(env!("CARGO_BIN_EXE_sharedlb"))
            .args(["controller", "--log-format", "json", "--log-level", "info,sharedlb=debug"])
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(flags)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .env_remove("KUBECONFIG")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .context("starting the controller")?;
        Ok(Self { child, port, log })
    }

    /// Asks it for a page: the status code and the text.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, text) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
        let code = head.split(' ').nth(1).context("the answer has no status code")?;
        Ok((code.parse()?, text.to_owned()))
    }

    /// What it counts.
    pub(crate) async fn metrics(&self) -> anyhow::Result<Metrics> {
        let (code, text) = self.get("/metrics").await?;
        ensure!(code == 200, "/metrics answers {code}: {text}");
        Ok(Metrics::parse(&text))
    }

    /// Waits until its caches are full and every class has been gone through.
    pub(crate) async fn until_ready(&self) -> anyhow::Result<()> {
        let ready = eventually("the controller to be ready", LIMIT, async || {
            let (code, text) = self.get("/readyz").await?;
            ensure!(code == 200, "/readyz answers {code}: {text}");
            Ok(Some(()))
        });
        ready.await.with_context(|| format!("the end of its log:\n{}", self.log_tail()))
    }

    /// Everything that it, and those before it, have logged.
    pub(crate) fn log(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(&self.log).with_context(|| format!("reading {}", self.log.display()))
    }

    fn log_tail(&self) -> String {
        let log = self.log().unwrap_or_else(|error| error.to_string());
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Whether its process is still there.
    pub(crate) fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Kills it without warning.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the controller had ended by itself ({status}); the end of its log:\n{}", self.log_tail());
        }
        self.child.kill().await.context("killing the controller")
    }

    /// Asks it to end, and waits until it has.
    pub(crate) async fn terminate(mut self) -> anyhow::Result<ExitStatus> {
        self.signal("TERM").await?;
        self.ended().await
    }

    /// Sends it a signal: `TERM`, `STOP`, `CONT`.
    pub(crate) async fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let pid = self.child.id().context("the controller had ended by itself")?;
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().await?;
        ensure!(sent.success(), "kill: {sent}");
        Ok(())
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let ended = tokio::time::timeout(LIMIT, self.child.wait()).await;
        let ended = ended.with_context(|| format!("waiting for the controller to end; its log:\n{}", self.log_tail()));
        Ok(ended??)
    }
}

fn open_log(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("opening {}", path.display()))
}
