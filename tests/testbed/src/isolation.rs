//! Runs this program again in namespaces of its own, such that they, and all
//! that runs in them, end with it.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, bail};

use crate::assets::Assets;
use crate::packages;

/// Tells the inner program that it is the inner one. What the inner program
/// starts inherits the variable, but is not process 1.
const INSIDE: &str = "SHAREDLB_TESTBED_INSIDE";

/// Below `/run`, which is covered as a whole: that is the one folder which
/// every system has, and which holds nothing that matters in here.
const PRIVATE_FOLDER: &str = "/run/sharedlb-testbed";

/// What would make programs in here look for things outside.
const UNWANTED: [&str; 7] =
    ["KUBECONFIG", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];

/// Whether this program is already the inner one.
pub(crate) fn is_inside() -> bool {
    std::process::id() == 1 && std::env::var_os(INSIDE).is_some()
}

/// Runs this program again, with the same arguments, in fresh namespaces, and
/// returns its exit code.
pub(crate) fn run_again_inside(assets: &Assets) -> anyhow::Result<i32> {
    let program = std::env::current_exe().context("finding this program's own file")?;
    let mut inner = ends_with_us("unshare");
    inner
        .args(namespace_options()?)
        .arg("--")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "yes")
        .env("PATH", assets.search_path())
        // Else kubectl would take what it knows of the last cluster for this one's.
        .env("KUBECACHEDIR", format!("{PRIVATE_FOLDER}/kubectl"));
    for variable in UNWANTED {
        inner.env_remove(variable);
    }
    // Credentials of the developer must not reach the test.
    for (variable, _) in std::env::vars_os() {
        let name = variable.as_encoded_bytes();
        if [&b"AWS_"[..], b"GOOGLE_", b"GCE_"].iter().any(|prefix| name.starts_with(prefix)) {
            inner.env_remove(variable);
        }
    }
    let status = inner.status().context("running unshare (Debian package util-linux)")?;
    Ok(exit_code(status))
}

/// A command whose process is killed when the calling thread ends, whatever
/// ends it.
pub(crate) fn ends_with_us(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

/// The options of `unshare` that work here: with a user namespace where root
/// is not allowed, or not enough.
fn namespace_options() -> anyhow::Result<Vec<&'static str>> {
    // Process 1 of a process namespace takes every other one with it, and
    // `--kill-child` ends process 1 with `unshare` itself.
    let plain = vec!["--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"];
    let user = [vec!["--user", "--map-root-user"], plain.clone()].concat();
    let candidates = if packages::is_root() { vec![plain, user] } else { vec![user] };
    let mut reasons = String::new();
    for options in candidates {
        let trial = Command::new("unshare")
            .args(&options)
            .args(["--", "true"])
            .stdin(Stdio::null())
            .output()
            .context("running unshare (Debian package util-linux)")?;
        if trial.status.success() {
            return Ok(options);
        }
        reasons += &String::from_utf8_lossy(&trial.stderr);
    }
    bail!(
        "the testbed can make no namespaces here; run it as root, or allow user namespaces \
         (sysctl kernel.unprivileged_userns_clone=1, \
         kernel.apparmor_restrict_unprivileged_userns=0):\n{reasons}"
    )
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// A folder in memory that is invisible outside of the namespace.
pub(crate) fn private_folder() -> anyhow::Result<PathBuf> {
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "mode=755", "testbed", "/run"])
        .status()
        .context("running mount")?;
    if !status.success() {
        bail!("mounting a memory file system on /run: {status}");
    }
    let folder = Path::new(PRIVATE_FOLDER);
    std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder.to_owned())
}
