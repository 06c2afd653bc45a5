//! Dry runs: the real binary with `--dry-run`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::process::Command;

/// The longest that one may take, beyond its own limit.
const DRY_RUN_LIMIT: Duration = Duration::from_secs(150);

/// What a dry run said.
#[derive(Debug)]
pub(crate) struct DryRun {
    /// Its exit status
    pub(crate) code: Option<i32>,
    /// What it printed
    pub(crate) text: String,
    /// What it logged
    pub(crate) log: String,
}

impl DryRun {
    /// Makes one with this kubeconfig, these flags and variables.
    pub(crate) async fn make(
        kubeconfig: &Path,
        flags: &[&str],
        environment: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let output = Command::new(env!("CARGO_BIN_EXE_sharedlb"))
            .args(["controller", "--dry-run", "--log-level", "info,sharedlb=debug", "--kubeconfig"])
            .arg(kubeconfig)
            .args(flags)
            .env_remove("KUBECONFIG")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(DRY_RUN_LIMIT, output).await.context("the dry run does not end")??;
        let (text, log) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr).into_owned());
        Ok(Self { code: output.status.code(), text, log })
    }

    /// Whether nothing would change.
    pub(crate) fn is_nothing(&self) -> bool {
        self.code == Some(0) && self.text == "Nothing would change.\n"
    }

    /// What it says of one object.
    pub(crate) fn block(&self, title: &str) -> anyhow::Result<String> {
        let is_title = |line: &&str| !line.starts_with(' ') && line.get(2..) == Some(title);
        let lines: Vec<&str> = self.text.lines().skip_while(|line| !is_title(line)).collect();
        let (first, rest) = lines.split_first().with_context(|| format!("{title} is not in\n{}", self.text))?;
        let rest = rest.iter().take_while(|line| line.starts_with(' '));
        Ok([first].into_iter().chain(rest).map(|line| format!("{line}\n")).collect())
    }
}
