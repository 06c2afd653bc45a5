//! What a person would type, and what comes back.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::bail;
use sharedlb_testbed::eventually;
use tokio::process::Command;

/// How long anything may take to come true.
const LIMIT: Duration = Duration::from_secs(30);

/// A shell in the repository's root that shows what it does.
pub(crate) struct Terminal {
    /// Where the shell starts: the files in the lines are relative to it.
    pub(crate) folder: PathBuf,
    /// What the shell's environment has beside our own.
    pub(crate) environment: Vec<(&'static str, PathBuf)>,
}

impl Terminal {
    /// A headline of the story.
    pub(crate) fn headline(&self, text: &str) {
        println!("\n{}", bold(&format!("== {text}")));
    }

    /// Something that has to be known to understand what is shown.
    pub(crate) fn note(&self, text: &str) {
        println!("{text}");
    }

    /// Types a line and returns what came back. It has to succeed.
    pub(crate) async fn run(&self, line: &str) -> anyhow::Result<String> {
        println!("{}", bold(&format!("$ {line}")));
        let (succeeded, printed) = self.run_quietly(line).await?;
        print!("{printed}");
        if !succeeded {
            bail!("`{line}` failed");
        }
        Ok(printed)
    }

    /// Types a line again and again, until what comes back is as promised,
    /// and shows it once.
    pub(crate) async fn run_until(
        &self,
        line: &str,
        promise: &str,
        is_kept: impl Fn(&str) -> bool,
    ) -> anyhow::Result<String> {
        println!("{}", bold(&format!("$ {line}")));
        let printed = eventually(promise, LIMIT, async || {
            let (_, printed) = self.run_quietly(line).await?;
            if !is_kept(&printed) {
                bail!("`{line}` says:\n{printed}");
            }
            Ok(Some(printed))
        })
        .await?;
        print!("{printed}");
        Ok(printed)
    }

    /// A program with this terminal's folder and environment.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.folder);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.kill_on_drop(true);
        command
    }

    /// Whether the line succeeded, and all that it printed.
    async fn run_quietly(&self, line: &str) -> anyhow::Result<(bool, String)> {
        let output = self
            .command("bash")
            .args(["-c", &format!("exec 2>&1; {line}")])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .await?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    }
}

/// The text, so that it stands out where that is possible.
fn bold(text: &str) -> String {
    if std::io::stdout().is_terminal() { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}
