//! What building has in common, whatever is built: one process at a time does
//! it, and it shows that it goes on.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

const PROGRESS_EVERY: Duration = Duration::from_secs(15);

/// Keeps other processes from building into the same folder until it is
/// dropped.
pub(crate) fn lock(folder: &Path) -> anyhow::Result<File> {
    fs::create_dir_all(folder)?;
    let lock = File::create(folder.join("lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("testbed: waiting for another process that builds the same");
            lock.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    Ok(lock)
}

/// Runs a command that takes long. Its output is shown only if it fails.
pub(crate) fn run_showing_progress(mut command: Command, what: &str) -> anyhow::Result<()> {
    let started = Instant::now();
    // Started here, on the main thread: the process ends with the thread that
    // started it.
    let process = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("building {what}"))?;
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || ended.send(process.wait_with_output()));
    let output = loop {
        match end.recv_timeout(PROGRESS_EVERY) {
            Ok(output) => break output?,
            Err(RecvTimeoutError::Timeout) => {
                let seconds = started.elapsed().as_secs();
                eprintln!("testbed: still building {what} ({seconds} s)");
            }
            Err(RecvTimeoutError::Disconnected) => bail!("building {what}: its thread is gone"),
        }
    };
    if !output.status.success() {
        bail!("building {what}:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
