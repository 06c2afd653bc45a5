//! Dry runs: the real binary with `--dry-run`.

use std::time::Duration;

use anyhow::Context;

use crate::controller::Launch;

/// The longest that one may take, beyond its own limit.
const DRY_RUN_LIMIT: Duration = Duration::from_secs(150);

/// What a dry run said.
#[derive(Debug)]
pub struct DryRun {
    /// Its exit status
    pub code: Option<i32>,
    /// What it printed
    pub text: String,
    /// What it logged
    pub log: String,
}

impl DryRun {
    /// Makes one, with what a controller would be started with.
    ///
    /// # Errors
    /// If it does not end, or what it prints is not UTF-8. Any exit status is a result.
    pub async fn make(launch: &Launch) -> anyhow::Result<Self> {
        let mut command = launch.command();
        let output = command.args(["--dry-run", "--log-level", "info,sharedlb=debug"]).output();
        let output = tokio::time::timeout(DRY_RUN_LIMIT, output).await.context("the dry run does not end")??;
        let (text, log) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr).into_owned());
        Ok(Self { code: output.status.code(), text, log })
    }

    /// Whether nothing would change.
    pub fn is_nothing(&self) -> bool {
        self.code == Some(0) && self.text == "Nothing would change.\n"
    }

    /// What it says of one object.
    ///
    /// # Errors
    /// If it says nothing of that object.
    pub fn block(&self, title: &str) -> anyhow::Result<String> {
        let is_title = |line: &&str| !line.starts_with(' ') && line.get(2..) == Some(title);
        let lines: Vec<&str> = self.text.lines().skip_while(|line| !is_title(line)).collect();
        let (first, rest) = lines.split_first().with_context(|| format!("{title} is not in\n{}", self.text))?;
        let rest = rest.iter().take_while(|line| line.starts_with(' '));
        Ok([first].into_iter().chain(rest).map(|line| format!("{line}\n")).collect())
    }
}
