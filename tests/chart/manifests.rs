//! What is in the chart's folder, and what is generated from it.

use std::path::Path;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use sharedlb_harness::{Tests, repository};
use sharedlb_testbed::Cluster;
use tokio::process::Command;

use crate::release;

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("the manifests for kubectl are those of the chart", |cluster| async move {
            let folder = tempfile::tempdir()?;
            let generate = Command::new(repository("deploy/generate")?)
                .arg(folder.path())
                .env("HELM", cluster.helm_path()?)
                .output()
                .await?;
            ensure!(generate.status.success(), "{}", String::from_utf8_lossy(&generate.stderr));
            same_files(folder.path(), Path::new(&repository("deploy")?))?;
            let chart = repository("deploy/chart/files/crds")?;
            same_files(Path::new(&chart), Path::new(&repository("crds")?))
        }),
        test.test("the chart has the version of the controller", |cluster| async move {
            let printed = cluster.helm(&["show", "chart", &release::chart()?]).await?;
            let version = Command::new(env!("CARGO_BIN_EXE_sharedlb")).arg("version").output().await?;
            let version = String::from_utf8(version.stdout)?;
            let version =
                version.lines().next().and_then(|line| line.strip_prefix("sharedlb ")).context("a version")?;
            for key in ["version", "appVersion"] {
                ensure!(printed.lines().any(|line| line == format!("{key}: {version}")), "not {version}: {printed}");
            }
            Ok(())
        }),
    ]
}

/// Requires that each file of a folder, and of the folders in it, is in the other one, and the
/// same.
fn same_files(folder: &Path, other: &Path) -> anyhow::Result<()> {
    for file in std::fs::read_dir(folder)? {
        let file = file?;
        let other = other.join(file.file_name());
        if file.file_type()?.is_dir() {
            same_files(&file.path(), &other)?;
            continue;
        }
        let same = std::fs::read(file.path())? == std::fs::read(&other).unwrap_or_default();
        ensure!(same, "{} is not what is generated: run make generate", other.display());
    }
    Ok(())
}
