//! Builds somebody else's Go programs from a folder with nothing but a
//! `go.mod` and a `go.sum`, once per machine, showing progress.

use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::assets::Binary;
use crate::building::{lock, run_showing_progress};
use crate::isolation::ends_with_us;

/// A folder with a `go.mod`, and the folder in the cache for what is built
/// from it.
pub(crate) struct Module {
    folder: PathBuf,
    go_mod: String,
    /// Named by a hash of the versions, so that other versions are built again.
    pub(crate) cache: PathBuf,
}

impl Module {
    /// Reads the module's versions.
    pub(crate) fn open(folder: &Path, caches: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let go_mod = read("go.mod")?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let mut hash = std::hash::DefaultHasher::new();
        (&go_mod, read("go.sum")?).hash(&mut hash);
        Ok(Self { cache: caches.join(format!("{name}-{:016x}", hash.finish())), folder: folder.to_owned(), go_mod })
    }

    /// Where the binary is once it is built.
    pub(crate) fn built(&self, binary: Binary) -> PathBuf {
        self.cache.join(binary.name())
    }

    /// The first word after this one, on a line of the `go.mod`.
    fn version_after(&self, word: &str) -> anyhow::Result<&str> {
        self.go_mod
            .lines()
            .find_map(|line| {
                let mut words = line.split_whitespace().skip_while(|each| *each == "require");
                (words.next() == Some(word)).then(|| words.next())?
            })
            .with_context(|| format!("{}/go.mod names no {word}", self.folder.display()))
    }

    /// What tells the Kubernetes binaries their own version: clients cannot
    /// parse the one that they have otherwise.
    fn linker_flags(&self, binary: Binary) -> anyhow::Result<String> {
        let mut flags = "-s -w".to_owned();
        if !binary.package().starts_with("k8s.io/kubernetes/") {
            return Ok(flags);
        }
        let version = self.version_after("k8s.io/kubernetes")?;
        let mut numbers = version.trim_start_matches('v').split('.');
        let values = [
            ("gitVersion", version),
            ("gitMajor", numbers.next().unwrap_or_default()),
            ("gitMinor", numbers.next().unwrap_or_default()),
            ("gitCommit", version),
            ("gitTreeState", "clean"),
        ];
        for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
            for (name, value) in values {
                flags += &format!(" -X {package}.{name}={value}");
            }
        }
        Ok(flags)
    }

    fn build(&self, binary: Binary) -> anyhow::Result<()> {
        // Built under another name first, so that what is in the cache is whole.
        let unfinished = self.cache.join(format!(".{}", binary.name()));
        let mut go = self.go();
        go.args(["build", "-trimpath", "-ldflags", &self.linker_flags(binary)?, "-o"])
            .args([unfinished.as_os_str(), binary.package().as_ref()]);
        run_showing_progress(go, binary.name())?;
        fs::rename(&unfinished, self.built(binary))?;
        Ok(())
    }

    /// Copies a folder of files out of one of the module's dependencies.
    pub(crate) fn copy_folder(&self, dependency: &str, folder: &str, to: &Path) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Download {
            #[serde(rename = "Dir")]
            dir: PathBuf,
        }
        let _lock = lock(&self.cache)?;
        if to.is_dir() {
            return Ok(());
        }
        let output = self.go().args(["mod", "download", "-json", dependency]).output()?;
        if !output.status.success() {
            bail!("go mod download {dependency}: {}", String::from_utf8_lossy(&output.stdout));
        }
        let download: Download = serde_json::from_slice(&output.stdout)?;
        let unfinished = to.with_extension("unfinished");
        fs::create_dir_all(&unfinished)?;
        for file in fs::read_dir(download.dir.join(folder))? {
            let file = file?;
            // Read and written, since a copy would be read-only like its original.
            fs::write(unfinished.join(file.file_name()), fs::read(file.path())?)?;
        }
        fs::rename(&unfinished, to)?;
        Ok(())
    }

    fn go(&self) -> Command {
        let mut go = ends_with_us("go");
        go.current_dir(&self.folder)
            // Another Go than the installed one is never fetched silently.
            .env("GOTOOLCHAIN", "local")
            .env("GOWORK", "off");
        go
    }
}

/// Builds the binaries one by one; the later ones reuse most of the earlier.
pub(crate) fn build(missing: &[(&Module, Binary)]) -> anyhow::Result<()> {
    for (position, (module, binary)) in missing.iter().enumerate() {
        if position == 0 {
            require_go(module)?;
        }
        let _lock = lock(&module.cache)?;
        if module.built(*binary).is_file() {
            continue;
        }
        eprintln!(
            "testbed: building {} ({} of {}; all of the cluster takes about 5 minutes on 2 cores, \
             once per machine)",
            binary.name(),
            position + 1,
            missing.len()
        );
        module.build(*binary)?;
    }
    Ok(())
}

/// Fails if there is no Go, or one older than the module needs.
fn require_go(module: &Module) -> anyhow::Result<()> {
    let needed = module.version_after("go")?;
    // Asked outside of any module: inside, a Go that is too old refuses to answer.
    let output = Command::new("go").args(["env", "GOVERSION"]).current_dir("/").env("GOTOOLCHAIN", "local").output();
    let installed = match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => bail!(
            "Go {needed} or newer is needed to build the cluster's binaries (https://go.dev/dl); \
             running `go`: {error}"
        ),
    };
    if numbers(installed.trim_start_matches("go")) < numbers(needed) {
        bail!(
            "Go {needed} or newer is needed to build the cluster's binaries (https://go.dev/dl); \
             this one is {installed}"
        );
    }
    Ok(())
}

/// The leading numbers of a version: `1.26rc1` is `[1, 26]`.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map_while(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..digits].parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(numbers("1.9.1") < numbers("1.26.0"));
        assert!(numbers("1.26.8") >= numbers("1.26.0"));
        assert_eq!(numbers("1.26rc1"), [1, 26]);
    }

    #[test]
    fn the_modules_name_the_versions_that_the_build_needs() {
        let sources = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let module = Module::open(&sources.join("control-plane"), Path::new("/cache"));
        let module = module.expect("the module is in the repository");
        assert!(numbers(module.version_after("go").expect("go")) >= vec![1, 26]);
        let flags = module.linker_flags(Binary::ApiServer).expect("flags");
        assert!(flags.contains("k8s.io/component-base/version.gitMajor=1 "));
    }
}
