//! Machines on one Ethernet segment, each in a network namespace of its own. Cables can be pulled
//! out, and the processes of a machine be frozen and killed.

mod machine;
mod neighbors;
mod processes;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, ensure};

pub use machine::Machine;
pub use neighbors::{MacAddress, NeighborAnswer, NeighborQuestions};
pub use processes::ProcessTree;

use crate::Testbed;
use crate::debian::{self, Debian};
use crate::network::ip;

pub(crate) const CONNTRACK: Debian =
    Debian { name: "conntrack", packages: &["conntrack", "libmnl0", "libnetfilter-conntrack3", "libnfnetlink0"] };

/// The switch that the machines are connected to. It floods multicast, as a switch without IGMP
/// snooping does, and forwards at once.
const SWITCH: &str = "\
link add lan type bridge mcast_snooping 0 forward_delay 0
link set lan up
";

/// The network segment, with the switch in the testbed's own network namespace.
#[derive(Debug)]
pub struct Lan {
    testbed: Testbed,
    machines: AtomicU8,
}

impl Lan {
    /// Makes a segment without machines.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn start(testbed: Testbed) -> anyhow::Result<Self> {
        ip(&[], SWITCH)?;
        Ok(Self { testbed, machines: AtomicU8::new(0) })
    }

    /// Adds a machine with a name that no other one has, of up to 15 characters.
    ///
    /// # Errors
    /// If there are 99 machines, or it cannot be made.
    pub fn machine(&self, name: &str) -> anyhow::Result<Machine> {
        let number = self.machines.fetch_add(1, Ordering::Relaxed) + 1;
        ensure!(number < 100, "there can be 99 machines");
        Machine::connect(name, number)
    }

    /// A folder for the `PATH` of processes on a machine, with Debian's `keepalived` and
    /// `conntrack`. `None`: one of them could not be unpacked here. Needs
    /// [`keepalived`](crate::Parts::keepalived) and [`conntrack`](crate::Parts::conntrack).
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn programs(&self) -> anyhow::Result<Option<PathBuf>> {
        let assets = &self.testbed.assets;
        let (Some(keepalived), Some(conntrack)) = (assets.keepalived(), assets.conntrack()) else { return Ok(None) };
        let folder = self.testbed.dir.join("programs");
        fs::create_dir_all(&folder)?;
        write_starter(&folder, keepalived, "keepalived")?;
        write_starter(&folder, conntrack, "conntrack")?;
        Ok(Some(folder))
    }

    /// The command line of Debian's `conntrack` on a machine. `None`: it could not be unpacked here.
    /// Needs [`conntrack`](crate::Parts::conntrack).
    #[must_use]
    pub fn conntrack(&self, machine: &Machine) -> Option<Vec<String>> {
        let files = self.testbed.assets.conntrack()?;
        Some(debian::command(files, Some(machine.name()), "usr/sbin/conntrack", []))
    }

    /// Where the logs of processes on the machines go.
    pub fn logs(&self) -> &Path {
        &self.testbed.logs
    }
}

/// Writes a script that runs an unpacked program with its libraries.
fn write_starter(folder: &Path, files: &Path, name: &str) -> anyhow::Result<()> {
    let path = folder.join(name);
    let command = debian::command(files, None, &format!("usr/sbin/{name}"), []).join(" ");
    fs::write(&path, format!("#!/bin/sh\nexec {command} \"$@\"\n"))
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("writing {}", path.display()))
}
