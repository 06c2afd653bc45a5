//! The commands that the testbed needs from the system, and how to get them.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, bail};

use crate::{Parts, python};

/// Makes sure that the commands are there. Root on Debian gets them
/// installed; other users get the command to type.
pub(crate) fn require(parts: Parts) -> anyhow::Result<()> {
    let mut wanted = vec![("ip", "iproute2")];
    if parts.node || parts.conntrack {
        wanted.push(("nft", "nftables"));
    }
    wanted.retain(|(command, _)| !is_installed(command));
    if (parts.aws || parts.gcp) && !python::makes_environments() {
        wanted.push(("python3", "python3-venv"));
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = wanted.iter().map(|(_, package)| *package).collect();
    let install = format!("apt-get install -y {}", packages.join(" "));
    if !is_root() || !is_installed("apt-get") {
        bail!("the testbed needs Debian's {packages:?}; install them with:\n  sudo {install}");
    }
    eprintln!("testbed: {install}");
    // The package lists of a fresh image are empty, and those of an old one
    // name packages that are gone: fetching them helps with both.
    if !apt_get(&["install", "-y"], &packages)? {
        apt_get(&["update"], &[])?;
        if !apt_get(&["install", "-y"], &packages)? {
            bail!("`{install}` failed");
        }
    }
    Ok(())
}

fn apt_get(arguments: &[&str], packages: &[&str]) -> anyhow::Result<bool> {
    let status = Command::new("apt-get")
        .args(arguments)
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("running apt-get")?;
    Ok(status.success())
}

fn is_installed(command: &str) -> bool {
    std::env::split_paths(&search_path()).any(|folder| folder.join(command).is_file())
}

/// `PATH` with the system folders, which a normal user's lacks on Debian.
pub(crate) fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
