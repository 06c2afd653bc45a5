//! The controller's process: the real binary.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, anyhow, bail, ensure};
use http::{Response, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use sharedlb_testbed::{Cluster, eventually, http_get};
use tokio::process::{Child, Command};

use crate::LIMIT;
use crate::metrics::Metrics;

/// The port where a controller answers, unless another one is named. The network
/// is the program's own.
pub(crate) const PORT: u16 = 18080;

/// How many lines of the log an error shows.
const TAIL_LINES: usize = 20;

/// How a controller is started.
///
/// The binary is a parameter, since only the caller knows where it is: for a test
/// or a bench of its package, Cargo builds it and names it at compile time
/// (`env!("CARGO_BIN_EXE_sharedlb")`); the demo is installed beside it.
#[derive(Clone, Debug)]
pub struct Launch {
    binary: PathBuf,
    kubeconfig: PathBuf,
    logs: PathBuf,
    port: u16,
    alone: bool,
    name: Option<String>,
    verbose: bool,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Launch {
    /// This binary with the rights of this kubeconfig file. Its log is with those of
    /// the cluster.
    pub fn new(binary: impl Into<PathBuf>, kubeconfig: impl Into<PathBuf>, cluster: &Cluster) -> Self {
        Self {
            binary: binary.into(),
            kubeconfig: kubeconfig.into(),
            logs: cluster.logs().to_owned(),
            port: PORT,
            alone: false,
            name: None,
            verbose: false,
            flags: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// The same without leader election: it begins without waiting for the Lease of
    /// one that was killed.
    #[must_use]
    pub fn alone(self) -> Self {
        Self { alone: true, ..self }
    }

    /// The same with this name in leader election.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// The same with a log of JSON, and with what is logged for debugging.
    #[must_use]
    pub fn verbose(self) -> Self {
        Self { verbose: true, ..self }
    }

    /// The same at another port of 127.0.0.1. The port is in the log's name too.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// The same with these further flags, instead of those named before.
    #[must_use]
    pub fn flags<T: ToString>(self, flags: impl IntoIterator<Item = T>) -> Self {
        Self { flags: flags.into_iter().map(|flag| flag.to_string()).collect(), ..self }
    }

    /// The same with these variables in its environment, in the place of those named
    /// before.
    #[must_use]
    pub fn environment<'a>(self, variables: impl IntoIterator<Item = &'a (&'static str, String)>) -> Self {
        let environment = variables.into_iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Self { environment, ..self }
    }

    /// The same with another kubeconfig file.
    pub(crate) fn behind(self, kubeconfig: PathBuf) -> Self {
        Self { kubeconfig, ..self }
    }

    /// The kubeconfig file.
    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Starts it. The log is added to that of the controllers before it at this port.
    ///
    /// # Errors
    /// If the process or its log cannot be created.
    pub fn start(&self) -> anyhow::Result<Controller> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let log = self.logs.join(format!("controller-{}.log", self.port));
        let output = append_to(&log)?;
        let mut command = self.command();
        command.args(["--listen", &address.to_string()]);
        if self.alone {
            command.arg("--leader-elect=false");
        }
        if let Some(name) = &self.name {
            command.args(["--leader-elect-name", name]);
        }
        if self.verbose {
            command.args(["--log-format", "json", "--log-level", "info,sharedlb=debug"]);
        }
        let child = command
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        Ok(Controller::of(child, address, log))
    }

    /// Starts it, and returns when it is ready.
    ///
    /// # Errors
    /// If it ends, or is not ready within [`LIMIT`].
    pub async fn ready(&self) -> anyhow::Result<Controller> {
        let mut controller = self.start()?;
        controller.until_ready().await?;
        Ok(controller)
    }

    /// The command `controller` with what any way to start it has.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg("controller")
            .args(&self.flags)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .env_remove("KUBECONFIG")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

/// A running controller. It is killed when this is dropped.
pub struct Controller {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Controller {
    /// A process that was started in another way than by [`Launch`], where it answers, and
    /// the file of its log. It must be killed on drop.
    pub fn of(child: Child, address: SocketAddr, log: PathBuf) -> Self {
        Self { child, address, log }
    }

    /// Asks it for a page.
    ///
    /// # Errors
    /// If it does not answer. Any status code is an answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<Response<String>> {
        http_get(self.address, path).await
    }

    /// Its metrics now.
    ///
    /// # Errors
    /// If it does not answer, or not with metrics.
    pub async fn metrics(&self) -> anyhow::Result<Metrics> {
        let answer = self.get("/metrics").await?;
        ensure!(answer.status() == StatusCode::OK, "/metrics answers {answer:?}");
        Metrics::parse(answer.body())
    }

    /// Requires that it is ready now: its caches are full, and every class has been
    /// reconciled.
    ///
    /// # Errors
    /// If it is not; the error has what it answers instead.
    pub async fn require_ready(&self) -> anyhow::Result<()> {
        is_ready(self.address).await
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// If it ends, or is not ready within [`LIMIT`].
    pub async fn until_ready(&mut self) -> anyhow::Result<()> {
        let address = self.address;
        let ready = eventually("the controller to be ready", LIMIT, async || Ok(Some(is_ready(address).await?)));
        let result = tokio::select! {
            ready = ready => ready,
            ended = self.child.wait() => Err(anyhow!("the controller ended by itself ({})", ended?)),
        };
        result.with_context(|| self.log_tail())
    }

    /// The file of its log, and of those before it at this port.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// Everything that it, and those before it at this port, have logged.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn log(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(&self.log).with_context(|| format!("reading {}", self.log.display()))
    }

    /// The last lines of its log, for an error.
    pub fn log_tail(&self) -> String {
        let log = self.log().unwrap_or_else(|error| error.to_string());
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        format!("the end of the controller's log, {}:\n{}\n", self.log.display(), tail.join("\n"))
    }

    /// The id of its process.
    ///
    /// # Errors
    /// If it is known to have ended.
    pub fn id(&self) -> anyhow::Result<u32> {
        self.child.id().context("the controller has ended")
    }

    /// Whether its process is still there.
    ///
    /// # Errors
    /// If that cannot be found out.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Kills it without warning, and waits for its end.
    ///
    /// # Errors
    /// If it had ended by itself.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the controller had ended by itself ({status}); {}", self.log_tail());
        }
        self.child.kill().await.context("killing the controller")
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// If it had ended by itself, or does not end within [`LIMIT`].
    pub async fn terminate(mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended().await
    }

    /// Freezes it, in the middle of whatever it does.
    ///
    /// # Errors
    /// If it had ended by itself.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    ///
    /// # Errors
    /// If it had ended by itself.
    pub fn wake(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// If it does not end within [`LIMIT`].
    pub async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let ended = tokio::time::timeout(LIMIT, self.child.wait()).await;
        let ended = ended.with_context(|| format!("waiting for the controller to end; {}", self.log_tail()));
        Ok(ended??)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let process = Pid::from_raw(self.id()?.cast_signed()).context("a process has an id above 0")?;
        Ok(kill_process(process, signal)?)
    }
}

async fn is_ready(address: SocketAddr) -> anyhow::Result<()> {
    let answer = http_get(address, "/readyz").await?;
    ensure!(answer.status() == StatusCode::OK, "/readyz answers {}: {}", answer.status(), answer.body());
    Ok(())
}

fn append_to(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("opening {}", path.display()))
}
