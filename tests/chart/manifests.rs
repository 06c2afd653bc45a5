//! What is in the chart's folder, and what is generated from it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::{LIMIT, Site, Tests, repository};
use sharedlb_testbed::{Cluster, eventually};
use tokio::process::Command;

use crate::release::{self, Controller};

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
        test.test("alerts and dashboard use only metrics that the controller exports", |cluster| async move {
            metrics(&cluster).await
        }),
    ]
}

/// Requires that each file of a folder is in the other one, and the same.
fn same_files(folder: &Path, other: &Path) -> anyhow::Result<()> {
    for file in std::fs::read_dir(folder)? {
        let file = file?;
        let other = other.join(file.file_name());
        let same = std::fs::read(file.path())? == std::fs::read(&other).unwrap_or_default();
        ensure!(same, "{} is not what is generated: run make generate", other.display());
    }
    Ok(())
}

async fn metrics(cluster: &Arc<Cluster>) -> anyhow::Result<()> {
    let mut wanted = BTreeSet::new();
    for file in ["rules.yaml", "dashboard.json"] {
        let text = std::fs::read_to_string(format!("{}/files/{file}", release::chart()?))?;
        let words = text.split(|c: char| c != '_' && !c.is_ascii_alphanumeric());
        wanted.extend(words.filter(|word| word.starts_with("sharedlb_")).map(str::to_owned));
    }
    ensure!(wanted.len() > 5, "only {wanted:?}");

    release::install(cluster, &release::chart()?, &[]).await?;
    let controller = Controller::start(cluster).await?;
    let site = Site::with_pod(cluster, "metrics", json!({})).await?;
    site.assigned("web").await?;
    let found = names(&controller.page("/metrics").await?);
    let missing: BTreeSet<String> = wanted.difference(&found).cloned().collect();
    controller.terminate().await?;

    // A right that is missing makes the metric of failed watches.
    let role = "clusterrolebinding/sharedlb-source-configmaps";
    cluster.kubectl_output(&["delete", role]).await?;
    let controller = Controller::launch(cluster).await?;
    eventually("all metrics to be there", LIMIT, async || {
        let found = names(&controller.page("/metrics").await?);
        ensure!(missing.is_subset(&found), "{missing:?} are not all there");
        Ok(Some(()))
    })
    .await?;
    release::remove(cluster, controller).await
}

/// The names of the metrics on the page.
fn names(page: &str) -> BTreeSet<String> {
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}
