//! Programs as Debian builds them.
//!
//! Packages are unpacked into the cache folder and not installed, so nothing on the host
//! changes. What comes from them is an optional part, since that takes Debian.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::building::{lock, run_showing_progress};
use crate::isolation::{self, ends_with_us};

/// A program, and the packages that have it.
pub(crate) struct Debian {
    /// Its name, for messages
    pub(crate) name: &'static str,
    /// The package of that name, and those of its libraries that a small system does not have
    pub(crate) packages: &'static [&'static str],
}

impl Debian {
    /// Unpacks it, if it is not there yet, and returns where its files are. Where that fails,
    /// the reason is shown.
    pub(crate) fn prepare(&self, caches: &Path) -> Option<PathBuf> {
        let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let version = system.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let folder = format!("{}-{}", self.name.to_lowercase(), version.unwrap_or("unknown"));
        let files = caches.join(folder);
        if !files.is_dir() && !isolation::is_inside() {
            let unpacked = self.unpack(&files);
            unpacked.unwrap_or_else(|reason| eprintln!("testbed: there is no {}: {reason:#}", self.name));
        }
        files.is_dir().then_some(files)
    }

    fn unpack(&self, files: &Path) -> anyhow::Result<()> {
        let work = files.with_extension("work");
        let _lock = lock(&work)?;
        if files.is_dir() {
            return Ok(());
        }
        eprintln!("testbed: fetching Debian's {}: some seconds, once per machine", self.name);
        self.download(&work).or_else(|_| {
            // The package lists of a fresh image are empty, and those of an old one name packages
            // that are gone.
            let mut update = ends_with_us("apt-get");
            update.arg("update");
            run_showing_progress(update, "the lists of packages")?;
            self.download(&work)
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
                run_showing_progress(extract, self.name)?;
                fs::remove_file(path)?;
            }
        }
        fs::rename(&root, files).with_context(|| format!("moving {} to {}", self.name, files.display()))
    }

    fn download(&self, folder: &Path) -> anyhow::Result<()> {
        let mut download = ends_with_us("apt-get");
        download.arg("download").args(self.packages).current_dir(folder);
        run_showing_progress(download, self.name)
    }
}

/// The command line of a program among these files, in a network namespace that `ip netns`
/// knows, or in that of the cluster.
pub(crate) fn command(
    files: &Path,
    namespace: Option<&str>,
    program: &str,
    arguments: impl IntoIterator<Item = String>,
) -> Vec<String> {
    let in_namespace = namespace.map(|namespace| ["ip", "netns", "exec", namespace].map(str::to_owned));
    let folder = format!("lib/{}-linux-gnu", std::env::consts::ARCH);
    let folders = [format!("usr/{folder}"), format!("usr/{folder}/frr"), folder];
    let libraries: Vec<String> = folders.iter().map(|folder| files.join(folder).display().to_string()).collect();
    let libraries = format!("LD_LIBRARY_PATH={}", libraries.join(":"));
    let started = ["env".to_owned(), libraries, files.join(program).display().to_string()];
    in_namespace.into_iter().flatten().chain(started).chain(arguments).collect()
}
