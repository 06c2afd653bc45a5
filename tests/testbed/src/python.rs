//! Virtual environments of Python with what the stand-ins for clouds need, made once per
//! machine.

use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use crate::building::{lock, run_showing_progress};
use crate::isolation::ends_with_us;

/// What the pinned packages need.
const OLDEST: (u32, u32) = (3, 11);

/// Whether Python is here with all that a virtual environment is made from;
/// Debian has a part of it in a package of its own.
pub(crate) fn makes_environments() -> bool {
    let mut python = Command::new("python3");
    python.args(["-c", "import venv, ensurepip"]).stdin(Stdio::null()).stderr(Stdio::null());
    python.status().is_ok_and(|status| status.success())
}

/// The Python that has what a folder's `requirements.txt` names. It is made if
/// it is not there yet.
pub(crate) fn prepare(sources: &Path, caches: &Path) -> anyhow::Result<PathBuf> {
    let requirements = sources.join("requirements.txt");
    let packages = fs::read(&requirements).with_context(|| format!("reading {}", requirements.display()))?;
    let version = version()?;
    let mut hash = std::hash::DefaultHasher::new();
    (version, packages).hash(&mut hash);
    let name = sources.file_name().unwrap_or_default().to_string_lossy();
    let cache = caches.join(format!("{name}-{:016x}", hash.finish()));
    let environment = cache.join("environment");
    let python = environment.join("bin/python");
    // An environment can't be moved to its place once it is whole, as other
    // binaries are: its files name it.
    let whole = cache.join("whole");
    if whole.is_file() {
        return Ok(python);
    }
    let _lock = lock(&cache)?;
    if !whole.is_file() {
        eprintln!("testbed: fetching what {name} needs from PyPI: half a minute, once per machine");
        if environment.exists() {
            fs::remove_dir_all(&environment)?;
        }
        let mut make = ends_with_us("python3");
        make.args(["-m", "venv"]).arg(&environment);
        run_showing_progress(make, &format!("the environment of {name}"))?;
        let mut install = ends_with_us(&python.to_string_lossy());
        install.args(["-m", "pip", "install", "--disable-pip-version-check", "--require-hashes", "--requirement"]);
        install.arg(&requirements);
        run_showing_progress(install, &format!("the packages of {name}"))?;
        fs::write(&whole, "")?;
    }
    Ok(python)
}

/// The version of the installed Python, or why it does not do.
fn version() -> anyhow::Result<(u32, u32)> {
    let (major, minor) = OLDEST;
    let needed = format!("Python {major}.{minor} or newer is needed for the stand-ins for clouds");
    let output = Command::new("python3").arg("--version").output();
    let output = output.with_context(|| format!("{needed}; running `python3`"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text.trim().trim_start_matches("Python ").split('.').map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        bail!("{needed}; `python3 --version` says {text:?}");
    };
    if (major, minor) < OLDEST {
        bail!("{needed}; this one is {major}.{minor}");
    }
    Ok((major, minor))
}
