//! FRR, the routing software, as [Debian](crate::debian) builds it: zebra and bgpd in network
//! namespaces.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::Testbed;
use crate::cluster::Cluster;
use crate::component::Component;
use crate::control_plane::READY_LIMIT;
use crate::debian::{self, Debian};

pub(crate) const FRR: Debian = Debian { name: "FRR", packages: &["frr", "libyang2", "libjson-c5"] };

/// The group that FRR's user must be in, whichever user that is.
const GROUP: &str = "frrvty";

/// FRR in one network namespace. It ends when this is dropped.
pub struct Frr {
    zebra: Component,
    bgpd: Component,
}

impl Frr {
    /// Kills it, as when its machine goes away: its neighbors lose their sessions, and the
    /// routes that it learned stay in its own namespace.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.bgpd.stop().await?;
        self.zebra.stop().await
    }
}

impl Cluster {
    /// Starts FRR with the text of an `frr.conf`, in a network namespace that `ip netns` knows,
    /// or in that of the cluster. `None`: FRR could not be unpacked on this machine. Needs
    /// [`frr`](crate::Parts::frr).
    ///
    /// # Errors
    /// If FRR does not take the configuration, or does not start.
    pub async fn frr(&self, namespace: Option<&str>, config: &str) -> anyhow::Result<Option<Frr>> {
        let testbed = self.testbed();
        let Some(files) = testbed.assets.frr() else { return Ok(None) };
        add_group(testbed)?;
        let name = namespace.unwrap_or("node");
        let folder = testbed.dir.join("frr").join(name);
        if folder.exists() {
            // Of one that was stopped.
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let daemon = |daemon: &str, config: &str, arguments: &[&str]| -> anyhow::Result<Vec<String>> {
            let file = folder.join(format!("{daemon}.conf"));
            fs::write(&file, config)?;
            let path = |name: &str| folder.join(name).display().to_string();
            let fixed = ["-u", "root", "-g", "root", "-P", "0", "--log", "stdout"].map(str::to_owned);
            let places = [
                ["-f".to_owned(), file.display().to_string()],
                ["-i".to_owned(), path(&format!("{daemon}.pid"))],
                ["--vty_socket".to_owned(), path("")],
                ["-z".to_owned(), path("zserv")],
            ];
            let further = arguments.iter().map(|&argument| argument.to_owned());
            let arguments = fixed.into_iter().chain(places.into_iter().flatten()).chain(further);
            Ok(debian::command(files, namespace, &format!("usr/lib/frr/{daemon}"), arguments))
        };
        check(&daemon("bgpd", config, &["--dryrun"])?)?;
        let component = |program: &str, command: Vec<String>| {
            let mut command = command.into_iter();
            let first = command.next().unwrap_or_default();
            Component::of_program(format!("{program}-{name}"), Path::new(&first), &testbed.logs, command)
        };
        let zebra = component("zebra", daemon("zebra", "", &[])?);
        zebra.start()?;
        let socket = folder.join("zserv");
        zebra.until_ready(READY_LIMIT, async || Ok(socket.exists().then_some(()))).await?;
        let bgpd = component("bgpd", daemon("bgpd", config, &[])?);
        bgpd.start()?;
        Ok(Some(Frr { zebra, bgpd }))
    }
}

/// Requires that a daemon takes its configuration. It reports a line that it does not take, and
/// succeeds.
fn check(command: &[String]) -> anyhow::Result<()> {
    let (program, arguments) = command.split_first().context("a command")?;
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && !said.contains("on config line"),
        "FRR does not take its configuration:\n{said}"
    );
    Ok(())
}

/// Adds FRR's group to the groups of this mount namespace.
fn add_group(testbed: &Testbed) -> anyhow::Result<()> {
    let groups = fs::read_to_string("/etc/group").context("reading /etc/group")?;
    if groups.lines().any(|line| line.starts_with(&format!("{GROUP}:"))) {
        return Ok(());
    }
    let file = testbed.dir.join("group");
    // Another name of root's group, so that root is in it, also in a user namespace.
    fs::write(&file, format!("{}\n{GROUP}:x:0:\n", groups.trim_end()))?;
    let status = Command::new("mount").arg("--bind").arg(&file).arg("/etc/group").status().context("running mount")?;
    if !status.success() {
        bail!("mounting {} on /etc/group: {status}", file.display());
    }
    Ok(())
}
