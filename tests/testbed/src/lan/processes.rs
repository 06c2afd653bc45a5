//! A process and all that it started.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, ensure};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// A process with its children, theirs, and so on. It is that of the time when it was looked up.
#[derive(Clone, Debug)]
pub struct ProcessTree(Vec<Pid>);

impl ProcessTree {
    /// Looks up the tree below a process of this process namespace.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of(root: u32) -> anyhow::Result<Self> {
        let parents = parents()?;
        ensure!(parents.iter().any(|(process, _)| *process == root), "there is no process {root}");
        let mut found = BTreeSet::from([root]);
        // A child may come before its parent in the list, where numbers began anew.
        loop {
            let before = found.len();
            found.extend(
                parents
                    .iter()
                    .filter(|(_, parent)| found.contains(parent))
                    .map(|(process, _)| *process)
                    .collect::<Vec<_>>(),
            );
            if found.len() == before {
                break;
            }
        }
        let pids = found.into_iter().map(|process| Pid::from_raw(process.cast_signed()).context("a process is not 0"));
        Ok(Self(pids.collect::<Result<_, _>>()?))
    }

    /// Looks up what a process of this process namespace has started, without the process itself.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn below(root: u32) -> anyhow::Result<Self> {
        let Self(mut tree) = Self::of(root)?;
        tree.retain(|process| process.as_raw_pid().cast_unsigned() != root);
        Ok(Self(tree))
    }

    /// Stops all of them where they are.
    ///
    /// # Errors
    /// If a signal cannot be sent.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// If a signal cannot be sent.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills all of them. None can react to the end of another one.
    ///
    /// # Errors
    /// If a signal cannot be sent.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.freeze()?;
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        for &pid in &self.0 {
            match kill_process(pid, signal) {
                // It ended in between.
                Err(Errno::SRCH) | Ok(()) => {}
                Err(error) => return Err(error).with_context(|| format!("sending {signal:?} to {pid:?}")),
            }
        }
        Ok(())
    }
}

/// All processes, each with its parent.
fn parents() -> anyhow::Result<Vec<(u32, u32)>> {
    let numbers = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    Ok(numbers.filter_map(|process| Some((process, parent(process)?))).collect())
}

/// The parent of a process, if that has not ended. See proc_pid_stat(5): the name, in parentheses,
/// may have spaces and parentheses itself.
fn parent(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(1)?.parse().ok()
}
