//! keepalived, which decides by VRRP which host has the addresses of a load balancer, and adds them
//! to the host's interface.
//!
//! It is one child process, with a configuration and pid files in a folder of our own, so that a
//! keepalived of the host itself is not touched. It ends with this process, whatever ends that.

mod config;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use thiserror::Error;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep, timeout};

pub use config::render;

use crate::virtual_router::VirtualRouter;

/// How long a keepalived that ended by itself stays away: one that ends again and again must not
/// take addresses each time.
const RESTART_AFTER: Duration = Duration::from_secs(2);

/// How long keepalived may take to give its addresses up. It needs a few milliseconds.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A running keepalived. When this is dropped, it gives its addresses up to another host, and ends.
#[derive(Debug)]
pub struct Keepalived {
    folder: PathBuf,
    /// Each message asks for a reload. The supervisor ends when this is dropped.
    reloads: Option<UnboundedSender<()>>,
    supervisor: Option<JoinHandle<()>>,
}

impl Keepalived {
    /// Starts keepalived for these virtual routers. It is found on the `PATH`; Debian's needs to be
    /// 2.2 or newer. `folder` is for its files alone, and is created.
    ///
    /// # Errors
    /// If the folder cannot be written to, or keepalived cannot be started.
    pub fn start(folder: &Path, routers: &[VirtualRouter]) -> Result<Self, Error> {
        let folder = folder.to_owned();
        fs::create_dir_all(&folder).map_err(|source| Error::File { path: folder.clone(), source })?;
        write_config(&folder, routers)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Start)?;
        let (reloads, reload) = unbounded_channel();
        let (started, start) = std::sync::mpsc::channel();
        let of_supervisor = folder.clone();
        // A thread of its own, since the child ends with the thread that started it, and the
        // threads of a runtime come and go.
        let supervisor = thread::Builder::new().name("keepalived".to_owned()).spawn(move || {
            runtime.block_on(async {
                let first = spawn(&of_supervisor);
                let (child, result) = match first {
                    Ok(child) => (Some(child), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                // The receiver waits for exactly this.
                _ = started.send(result);
                if let Some(child) = child {
                    supervise(child, &of_supervisor, reload).await;
                }
            });
        });
        let supervisor = supervisor.map_err(Error::Start)?;
        let result = start.recv().unwrap_or_else(|_| Err(io::Error::other("its supervisor panicked")));
        result.map_err(Error::Start)?;
        Ok(Self { folder, reloads: Some(reloads), supervisor: Some(supervisor) })
    }

    /// Has keepalived serve these virtual routers in place of the former ones. Those that are in
    /// both lists keep their addresses where they are.
    ///
    /// # Errors
    /// If the configuration cannot be written.
    pub fn reload(&self, routers: &[VirtualRouter]) -> Result<(), Error> {
        write_config(&self.folder, routers)?;
        if let Some(reloads) = &self.reloads {
            // It fails only while the supervisor ends.
            _ = reloads.send(());
        }
        Ok(())
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        self.reloads = None;
        if let Some(supervisor) = self.supervisor.take() {
            // It panics only where this process is about to end anyway.
            _ = supervisor.join();
        }
    }
}

/// Why keepalived does not run, or not with the wanted configuration.
#[derive(Debug, Error)]
pub enum Error {
    /// A file of its folder cannot be written.
    #[error("writing {}", path.display())]
    File {
        /// The file, or the folder
        path: PathBuf,
        /// Why
        source: io::Error,
    },
    /// It cannot be started.
    #[error("starting keepalived")]
    Start(#[source] io::Error),
}

/// Replaces the configuration. keepalived never reads half of one.
fn write_config(folder: &Path, routers: &[VirtualRouter]) -> Result<(), Error> {
    let path = config_path(folder);
    let new = path.with_extension("new");
    let written = fs::write(&new, render(routers)).and_then(|()| fs::rename(&new, &path));
    written.map_err(|source| Error::File { path, source })
}

fn config_path(folder: &Path) -> PathBuf {
    folder.join("keepalived.conf")
}

/// Starts keepalived. It is killed when the calling thread ends.
fn spawn(folder: &Path) -> io::Result<Child> {
    let pid_files = [folder.join("keepalived.pid"), folder.join("vrrp.pid")];
    for stale in &pid_files {
        // Where another process has the number of one that was killed, keepalived would not start.
        match fs::remove_file(stale) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let [pid, vrrp_pid] = pid_files;
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "keepalived"])
        .args(["--dont-fork", "--log-console", "--no-syslog", "--vrrp"])
        .arg("--use-file")
        .arg(config_path(folder))
        .arg("--pid")
        .arg(pid)
        .arg("--vrrp_pid")
        .arg(vrrp_pid)
        .stdin(Stdio::null())
        .spawn()
}

/// Reloads keepalived when it is asked to, starts it again if it ends by itself, and stops it when
/// nobody can ask any more.
async fn supervise(first: Child, folder: &Path, mut reload: UnboundedReceiver<()>) {
    let mut running = Some(first);
    loop {
        let Some(child) = &mut running else {
            tokio::select! {
                () = sleep(RESTART_AFTER) => match spawn(folder) {
                    Ok(child) => running = Some(child),
                    Err(error) => tracing::error!(%error, "keepalived cannot be started"),
                },
                asked = reload.recv() => if asked.is_none() { return },
            }
            continue;
        };
        tokio::select! {
            ended = child.wait() => {
                let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                tracing::error!(how, "keepalived ended by itself; it is started again");
                running = None;
            }
            asked = reload.recv() => match asked {
                Some(()) => signal(child, Signal::HUP),
                None => return stop(child).await,
            },
        }
    }
}

/// Has keepalived give its addresses up, and waits for its end.
async fn stop(child: &mut Child) {
    signal(child, Signal::TERM);
    if timeout(STOP_LIMIT, child.wait()).await.is_err() {
        tracing::error!("keepalived did not end within {STOP_LIMIT:?}; it is killed");
        if let Err(error) = child.kill().await {
            tracing::error!(%error, "keepalived cannot be killed");
        }
    }
}

/// Sends a signal to a child that was not waited for yet, so that no other process can have its
/// number.
fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
        tracing::error!(%error, ?signal, "keepalived cannot be sent a signal");
    }
}
