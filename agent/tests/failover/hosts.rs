//! The load balancer hosts, and what can happen to their processes.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use sharedlb_testbed::{MacAddress, Machine, ProcessTree, eventually};

use crate::agent;

const END_LIMIT: Duration = Duration::from_secs(10);

/// A host with an agent.
pub(crate) struct Host {
    machine: Machine,
    index: usize,
    programs: PathBuf,
    logs: PathBuf,
    agent: Mutex<Option<Child>>,
}

impl Host {
    /// Prepares a machine, with a route to the pods, and starts its agent.
    pub(crate) fn start(
        machine: Machine,
        index: usize,
        programs: &Path,
        logs: &Path,
        pods: &Machine,
    ) -> anyhow::Result<Self> {
        machine.sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            // The pods are on the clients' segment here: clients would be told to send to them.
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/eth0/send_redirects", "0"),
        ])?;
        let [v4, v6] = pods.addresses();
        machine.ip(&format!(
            "route add {} via {v4}\nroute add {} via {v6}\n",
            crate::pods::RANGES[0],
            crate::pods::RANGES[1]
        ))?;
        let host =
            Self { machine, index, programs: programs.to_owned(), logs: logs.to_owned(), agent: Mutex::new(None) };
        host.start_agent()?;
        Ok(host)
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(crate) fn mac(&self) -> MacAddress {
        self.machine.mac()
    }

    /// The `PATH` on which programs of a host are found.
    pub(crate) fn path(&self) -> OsString {
        let mut path = self.programs.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        path
    }

    /// Undoes whatever happened to the host.
    pub(crate) fn restore(&self) -> anyhow::Result<()> {
        self.machine.heal()?;
        let runs = self.agent.lock().is_some();
        if runs { self.processes()?.thaw() } else { self.start_agent() }
    }

    /// Starts the agent, which does not run.
    pub(crate) fn start_agent(&self) -> anyhow::Result<()> {
        let log = self.logs.join(format!("{}.log", self.machine.name()));
        let log = OpenOptions::new().create(true).append(true).open(&log)?;
        let folder = self.programs.join(self.machine.name());
        // Not by its path, which names another program after the next build. The test program is
        // process 1 of the testbed.
        let child = self
            .machine
            .command(Path::new("/proc/1/exe"))
            .args([agent::ROLE, &self.index.to_string()])
            .arg(folder)
            .env("PATH", self.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        *self.agent.lock() = Some(child);
        Ok(())
    }

    /// The agent with keepalived.
    pub(crate) fn processes(&self) -> anyhow::Result<ProcessTree> {
        ProcessTree::of(self.agent.lock().as_ref().context("the agent does not run")?.id())
    }

    /// keepalived without the agent.
    pub(crate) fn keepalived(&self) -> anyhow::Result<ProcessTree> {
        ProcessTree::below(self.agent.lock().as_ref().context("the agent does not run")?.id())
    }

    /// Kills the agent and keepalived at once, and starts nothing.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        self.processes()?.kill()?;
        self.ended().await
    }

    /// Asks the agent to end.
    pub(crate) async fn terminate(&self) -> anyhow::Result<()> {
        let id = self.agent.lock().as_ref().context("the agent does not run")?.id();
        kill_process(Pid::from_raw(id.cast_signed()).context("a process is not 0")?, Signal::TERM)?;
        self.ended().await
    }

    async fn ended(&self) -> anyhow::Result<()> {
        let what = format!("the agent of {} to end", self.machine.name());
        eventually(&what, END_LIMIT, async || {
            let mut agent = self.agent.lock();
            Ok(agent.as_mut().context("it does not run")?.try_wait()?.map(|_| ()))
        })
        .await?;
        *self.agent.lock() = None;
        Ok(())
    }
}
