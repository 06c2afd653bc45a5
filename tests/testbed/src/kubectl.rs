//! Running kubectl, as the cluster's administrator.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::cluster::Cluster;

/// How long kubectl may take. What it is asked to wait for takes less.
const LIMIT: Duration = Duration::from_secs(120);

impl Cluster {
    /// Where kubectl is. Its folder comes first in this process's `PATH`.
    pub fn kubectl(&self) -> &Path {
        self.kubectl_path()
    }

    /// Runs kubectl as the administrator, with this text as its input.
    pub async fn kubectl_run(&self, arguments: &[&str], input: &str) -> anyhow::Result<Output> {
        let mut kubectl = Command::new(self.kubectl())
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("running kubectl")?;
        if let Some(mut stdin) = kubectl.stdin.take() {
            // One that does not read its input says more by its output.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = timeout(LIMIT, kubectl.wait_with_output()).await;
        Ok(output.with_context(|| format!("kubectl {} took longer than {LIMIT:?}", arguments.join(" ")))??)
    }

    /// What kubectl prints; an error, with what it complains about, if it
    /// fails.
    pub async fn kubectl_output(&self, arguments: &[&str]) -> anyhow::Result<String> {
        succeeded(arguments, self.kubectl_run(arguments, "").await?)
    }

    /// Applies manifests (server-side, so that it is safe to repeat).
    pub async fn apply(&self, manifests: &str) -> anyhow::Result<String> {
        let arguments = ["apply", "--server-side", "-f", "-"];
        succeeded(&arguments, self.kubectl_run(&arguments, manifests).await?)
    }
}

fn succeeded(arguments: &[&str], output: Output) -> anyhow::Result<String> {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("kubectl {}: {complaint}{printed}", arguments.join(" "));
    }
    Ok(printed)
}
