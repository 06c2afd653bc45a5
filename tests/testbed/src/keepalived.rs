//! keepalived, as Debian builds it, in network namespaces.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::cluster::Cluster;
use crate::component::Component;
use crate::debian::{self, Debian};

pub(crate) const KEEPALIVED: Debian = Debian {
    name: "keepalived",
    packages: &[
        "keepalived",
        "libglib2.0-0",
        "libnl-3-200",
        "libnl-genl-3-200",
        "libpci3",
        "libsensors5",
        "libsnmp40",
        "libwrap0",
    ],
};

/// keepalived in one network namespace. It ends when this is dropped.
pub struct Keepalived(Component);

impl Keepalived {
    /// Kills it. What is left of it takes its addresses away.
    ///
    /// # Errors
    /// If it has ended before.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.0.stop().await
    }
}

impl Cluster {
    /// Starts keepalived with the text of a `keepalived.conf`, in a network namespace that
    /// `ip netns` knows, or in that of the cluster. `None`: it could not be unpacked on this
    /// machine. Needs [`keepalived`](crate::Parts::keepalived).
    ///
    /// # Errors
    /// If keepalived does not take the configuration, or does not start.
    pub fn keepalived(&self, namespace: Option<&str>, config: &str) -> anyhow::Result<Option<Keepalived>> {
        let testbed = self.testbed();
        let Some(files) = testbed.assets.keepalived() else { return Ok(None) };
        let name = namespace.unwrap_or("node");
        let folder = testbed.dir.join("keepalived");
        fs::create_dir_all(&folder)?;
        let path = |extension: &str| folder.join(format!("{name}.{extension}")).display().to_string();
        fs::write(path("conf"), config)?;
        let command = |arguments: &[&str]| {
            let with = arguments.iter().map(|&argument| argument.to_owned());
            let with = with.chain([format!("--use-file={}", path("conf"))]);
            debian::command(files, namespace, "usr/sbin/keepalived", with)
        };
        check(&command(&["--config-test"]))?;
        let (pid, pid_of_vrrp) = (format!("--pid={}", path("pid")), format!("--vrrp_pid={}", path("vrrp.pid")));
        let run = command(&["--dont-fork", "--log-console", "--no-syslog", "--vrrp", &pid, &pid_of_vrrp]);
        let (program, arguments) = run.split_first().context("a command")?;
        let component = Component::of_program(
            format!("keepalived-{name}"),
            Path::new(program),
            &testbed.logs,
            arguments.iter().cloned(),
        );
        component.start()?;
        Ok(Some(Keepalived(component)))
    }
}

/// Requires that keepalived takes its configuration.
fn check(command: &[String]) -> anyhow::Result<()> {
    let (program, arguments) = command.split_first().context("a command")?;
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "keepalived does not take its configuration:\n{said}");
    Ok(())
}
