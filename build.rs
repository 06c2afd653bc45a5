//! Puts the commit into the build: of the controller, and of `plugin/`, which has this
//! build script too.
//!
//! It is the value of `SHAREDLB_COMMIT`, if that is set, else what is checked out. In
//! a debug build it is `unknown`, since tests would be compiled anew with each commit;
//! and so it is where there is no git, or the sources are a part of another repository.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=SHAREDLB_COMMIT");
    let given = std::env::var("SHAREDLB_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(checked_out).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=SHAREDLB_COMMIT={commit}");
}

/// The commit of the repository that this package is a part of.
fn checked_out() -> Option<String> {
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return None;
    }
    let is_ours = matches!(git(&["rev-parse", "--show-prefix"])?.as_str(), "" | "plugin/");
    if !is_ours {
        return None;
    }
    // The first changes with each checkout of another branch, the second with each commit.
    for name in ["HEAD", "logs/HEAD"] {
        let file = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&file).exists() {
            println!("cargo::rerun-if-changed={file}");
        }
    }
    git(&["rev-parse", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
