//! The controller: the real binary, as a process of this machine.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use sharedlb_testbed::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

const READY_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Where it answers for its health. The network is our own, so that the port
/// is free.
const ADDRESS: &str = "127.0.0.1:8080";

/// How many lines of the log an error shows.
const TAIL_LINES: usize = 20;

/// A running controller. It is killed when this is dropped.
pub(crate) struct Controller {
    process: Child,
    log: PathBuf,
}

impl Controller {
    /// Starts the binary that is in the folder of this one, with the rights
    /// that the kubeconfig gives, and returns when it is ready.
    pub(crate) async fn start(kubeconfig: &Path, log: PathBuf) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("sharedlb");
        let output = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let process = Command::new(&program)
            .args(["controller", "--listen", ADDRESS, "--kubeconfig"])
            .arg(kubeconfig)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}: build it first", program.display()))?;
        let mut controller = Self { process, log };
        let ready = tokio::select! {
            ready = eventually("the controller to be ready", READY_LIMIT, is_ready) => ready,
            ended = controller.process.wait() => Err(anyhow::anyhow!("the controller ended: {}", ended?)),
        };
        match ready {
            Ok(()) => Ok(controller),
            Err(error) => Err(error.context(controller.log_tail())),
        }
    }

    /// Asks it to stop, and waits until it has done so in good order.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let id = self.process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        kill_process(id.context("the controller ended by itself")?, Signal::TERM)?;
        let ended = timeout(STOP_LIMIT, self.process.wait()).await;
        let status = ended.with_context(|| format!("the controller has not stopped within {STOP_LIMIT:?}"))??;
        if !status.success() {
            bail!("the controller stopped with {status}; {}", self.log_tail());
        }
        Ok(())
    }

    /// Where its log is.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log, to go with an error.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!("the end of the controller's log:\n{}\n", tail.join("\n"))
    }
}

/// Whether the controller says that it is ready; if not, the error has what it
/// says instead.
async fn is_ready() -> anyhow::Result<Option<()>> {
    let mut stream = TcpStream::connect(ADDRESS).await?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    if !response.starts_with("HTTP/1.0 200") && !response.starts_with("HTTP/1.1 200") {
        bail!("it answers {response:?}");
    }
    Ok(Some(()))
}
