//! FRR, the routing software, as Debian builds it: zebra and bgpd in network namespaces.
//!
//! Its packages are unpacked into the cache folder and not installed, so nothing on the host
//! changes. It is an optional part, since that takes Debian.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::Testbed;
use crate::building::{lock, run_showing_progress};
use crate::cluster::Cluster;
use crate::component::Component;
use crate::control_plane::READY_LIMIT;
use crate::isolation::{self, ends_with_us};

/// FRR, and the libraries of it that a small system does not have.
const PACKAGES: [&str; 3] = ["frr", "libyang2", "libjson-c5"];

/// The group that FRR's user must be in, whichever user that is.
const GROUP: &str = "frrvty";

/// Unpacks FRR, if it is not there yet, and returns where its files are. Where that fails, the
/// reason is shown.
pub(crate) fn prepare(caches: &Path) -> Option<PathBuf> {
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let version = system.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let files = caches.join(format!("frr-{}", version.unwrap_or("unknown")));
    if !files.is_dir() && !isolation::is_inside() {
        unpack(&files).unwrap_or_else(|reason| eprintln!("testbed: there is no FRR: {reason:#}"));
    }
    files.is_dir().then_some(files)
}

fn unpack(files: &Path) -> anyhow::Result<()> {
    let work = files.with_extension("work");
    let _lock = lock(&work)?;
    if files.is_dir() {
        return Ok(());
    }
    eprintln!("testbed: fetching Debian's FRR: some seconds, once per machine");
    download(&work).or_else(|_| {
        // The package lists of a fresh image are empty, and those of an old one name packages
        // that are gone.
        let mut update = ends_with_us("apt-get");
        update.arg("update");
        run_showing_progress(update, "the lists of packages")?;
        download(&work)
    })?;
    let root = work.join("root");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for entry in fs::read_dir(&work)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let mut extract = ends_with_us("dpkg-deb");
            extract.arg("--extract").args([&path, &root]);
            run_showing_progress(extract, "FRR")?;
            fs::remove_file(path)?;
        }
    }
    fs::rename(&root, files).with_context(|| format!("moving FRR to {}", files.display()))
}

fn download(folder: &Path) -> anyhow::Result<()> {
    let mut download = ends_with_us("apt-get");
    download.arg("download").args(PACKAGES).current_dir(folder);
    run_showing_progress(download, "FRR")
}

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
            let mut command: Vec<String> = Vec::new();
            if let Some(namespace) = namespace {
                command.extend(["ip", "netns", "exec", namespace].map(str::to_owned));
            }
            let libraries = files.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
            let libraries = format!("LD_LIBRARY_PATH={0}:{0}/frr", libraries.display());
            command.extend(["env".to_owned(), libraries]);
            command.push(files.join("usr/lib/frr").join(daemon).display().to_string());
            command.extend(["-u", "root", "-g", "root", "-P", "0", "--log", "stdout"].map(str::to_owned));
            command.extend(["-f".to_owned(), file.display().to_string()]);
            command.extend(["-i".to_owned(), path(&format!("{daemon}.pid")), "--vty_socket".to_owned(), path("")]);
            command.extend(["-z".to_owned(), path("zserv")]);
            command.extend(arguments.iter().map(|&argument| argument.to_owned()));
            Ok(command)
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
