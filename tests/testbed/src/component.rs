//! One process of the cluster, with its log.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use http::StatusCode;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::assets::{Assets, Binary};
use crate::http::http_get;
use crate::wait::{eventually, report_fallen};

/// How much of a log an error shows.
const TAIL_BYTES: u64 = 4000;

/// A program of the cluster: how it is started, and whether it runs.
pub(crate) struct Component {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
    log: PathBuf,
    running: Mutex<Option<Running>>,
}

struct Running {
    stop: oneshot::Sender<()>,
    watched: JoinHandle<()>,
}

impl Component {
    /// A program that is not running yet.
    pub(crate) fn new(
        binary: Binary,
        assets: &Assets,
        logs: &Path,
        arguments: impl IntoIterator<Item = String>,
    ) -> anyhow::Result<Self> {
        Ok(Self::of_program(binary.name(), assets.path(binary)?, logs, arguments))
    }

    /// The same for a program that is none of the binaries.
    pub(crate) fn of_program(
        name: impl Into<String>,
        program: &Path,
        logs: &Path,
        arguments: impl IntoIterator<Item = String>,
    ) -> Self {
        let name = name.into();
        Self {
            log: logs.join(format!("{name}.log")),
            name,
            program: program.to_owned(),
            arguments: arguments.into_iter().collect(),
            environment: Vec::new(),
            running: Mutex::new(None),
        }
    }

    /// The same with variables in its environment.
    pub(crate) fn with_environment(
        mut self,
        environment: impl IntoIterator<Item = (&'static str, &'static str)>,
    ) -> Self {
        self.environment.extend(environment);
        self
    }

    /// Starts the program. If it ends before [`Component::stop`], every wait
    /// of this process fails and says so.
    pub(crate) fn start(&self) -> anyhow::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_some() {
            bail!("{} runs already", self.name);
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("opening {}", self.log.display()))?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let (stop, stopped) = oneshot::channel();
        let watched = tokio::spawn(watch(child, stopped, self.name.clone(), self.log.clone()));
        *running = Some(Running { stop, watched });
        Ok(())
    }

    /// Kills the program and waits for its end.
    pub(crate) async fn stop(&self) -> anyhow::Result<()> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(running) = running else {
            bail!("{} does not run", self.name);
        };
        // An error means that it has ended already, and was reported.
        let _ = running.stop.send(());
        running.watched.await?;
        Ok(())
    }

    /// Waits until the program is ready, and shows its log if it is not in time.
    pub(crate) async fn until_ready<F>(&self, limit: Duration, is_ready: impl FnMut() -> F) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<Option<()>>>,
    {
        eventually(&format!("{} to be ready", self.name), limit, is_ready)
            .await
            .map_err(|error| anyhow!("{error:#}; {}", log_tail(&self.log)))
    }
}

/// Ends the program.
async fn watch(mut child: Child, stop: oneshot::Receiver<()>, name: String, log: PathBuf) {
    tokio::select! {
        ended = child.wait() => {
            let how = match ended {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            report_fallen(format!("{name} ended by itself ({how})"), &log_tail(&log));
        }
        _ = stop => {
            // It can fail only for a process that has ended.
            let _ = child.kill().await;
        }
    }
}

/// The last lines of a log, with where to find all of it.
fn log_tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(tail) => format!("the end of its log, {}:\n{tail}", log.display()),
        Err(error) => format!("its log, {}, cannot be read: {error}", log.display()),
    }
}

/// Whether a plain HTTP request to a port of this host is answered with 200.
pub(crate) async fn http_ok(port: u16, path: &str) -> anyhow::Result<Option<()>> {
    let answer = http_get(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path).await?;
    ensure!(answer.status() == StatusCode::OK, "{path} on port {port} is answered with {}", answer.status());
    Ok(Some(()))
}
