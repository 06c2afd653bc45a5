//! Running Helm, as the cluster's administrator.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;
use tokio::time::timeout;

use crate::assets::Binary;
use crate::cluster::Cluster;
use crate::wait::eventually;

/// How long Helm may take. What it is asked to wait for takes less.
const LIMIT: Duration = Duration::from_secs(120);

impl Cluster {
    /// Where Helm is.
    ///
    /// # Errors
    /// If Helm is not among the testbed's parts.
    pub fn helm_path(&self) -> anyhow::Result<&Path> {
        self.testbed().assets.path(Binary::Helm)
    }

    /// Runs Helm as the administrator. What it keeps on disk ends with the cluster.
    ///
    /// # Errors
    /// If it cannot be run, or takes too long. That it fails is in the output.
    pub async fn helm_run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let files = self.testbed().dir.join("helm");
        let helm = Command::new(self.helm_path()?)
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HELM_CACHE_HOME", files.join("cache"))
            .env("HELM_CONFIG_HOME", files.join("config"))
            .env("HELM_DATA_HOME", files.join("data"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(LIMIT, helm).await;
        output
            .with_context(|| format!("helm {} took longer than {LIMIT:?}", arguments.join(" ")))?
            .context("running helm")
    }

    /// What Helm prints.
    ///
    /// # Errors
    /// If Helm fails, with what it complains about.
    pub async fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.helm_run(arguments).await?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            bail!("helm {}: {complaint}{printed}", arguments.join(" "));
        }
        Ok(printed)
    }

    /// Installs the CRDs of the Prometheus operator, and waits until they are served.
    ///
    /// # Errors
    /// If Helm is not among the testbed's parts, or the API server refuses them.
    pub async fn install_prometheus_crds(&self) -> anyhow::Result<()> {
        let folder = self.testbed().assets.prometheus_crds();
        for kind in ["servicemonitors", "prometheusrules"] {
            let file = folder.join(format!("monitoring.coreos.com_{kind}.yaml"));
            self.kubectl_output(&["apply", "--server-side", "-f", &file.to_string_lossy()]).await?;
            let crd = format!("crd/{kind}.monitoring.coreos.com");
            // kubectl fails while the CRD has no conditions at all.
            let wait = ["wait", "--for=condition=Established", "--timeout=60s", &crd];
            eventually(&format!("{crd} to be served"), LIMIT, async || self.kubectl_output(&wait).await.map(Some))
                .await?;
        }
        Ok(())
    }
}
