//! Programs of the system that are run for one task each.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// Much more than `nft` takes for the largest data path (seconds).
const LIMIT: Duration = Duration::from_secs(30);

/// How much of what a failed program printed is in the error, in characters.
const SHOWN: usize = 1000;

/// A program, with the arguments that all its calls have.
#[derive(Debug, Clone)]
pub struct Program {
    name: String,
    arguments: Vec<String>,
}

/// Why a call of a program failed.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be started: it may not be installed.
    #[error("{program} cannot be run")]
    NotRun {
        /// Its name
        program: String,
        /// The answer of the system
        #[source]
        source: io::Error,
    },
    /// It took too long, and was killed.
    #[error("{program} was not done after {} s", LIMIT.as_secs())]
    TimedOut {
        /// Its name
        program: String,
    },
    /// It reported a failure.
    #[error("{program} failed: {output}")]
    Failed {
        /// Its name
        program: String,
        /// What it printed about it
        output: String,
    },
}

impl Program {
    /// A program that is found by its name, or one at a path. The first word is the program, and
    /// the others are its arguments: `["nft"]`, `["ip", "netns", "exec", "lb-a", "nft"]`.
    #[must_use]
    pub fn new<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut words = words.into_iter().map(str::to_owned);
        Self { name: words.next().unwrap_or_default(), arguments: words.collect() }
    }

    /// The program, and the arguments that all its calls have.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        [self.name.as_str()].into_iter().chain(self.arguments.iter().map(String::as_str))
    }

    /// Runs it with further arguments and this input, and returns what it printed.
    ///
    /// # Errors
    /// If it cannot be run, fails, or is not done in time.
    pub async fn run(&self, arguments: &[String], input: &str) -> Result<String, ProgramError> {
        let program = || self.name.clone();
        let running = async {
            let mut child = Command::new(&self.name)
                .args(&self.arguments)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            let stdin = child.stdin.take();
            let feeding = async {
                if let Some(mut stdin) = stdin {
                    // A program that ends before it has read everything says why in its output.
                    _ = stdin.write_all(input.as_bytes()).await;
                }
            };
            let ((), output) = tokio::join!(feeding, child.wait_with_output());
            output
        };
        let output = timeout(LIMIT, running).await.map_err(|_| ProgramError::TimedOut { program: program() })?;
        let output = output.map_err(|source| ProgramError::NotRun { program: program(), source })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(self.failed(&String::from_utf8_lossy(&output.stderr)))
    }

    /// Starts it with further arguments, and returns what it prints while it runs.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn start(&self, arguments: &[String]) -> io::Result<Output> {
        let mut child = Command::new(&self.name)
            .args(&self.arguments)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Output { lines: BufReader::new(stdout).lines(), _child: child })
    }

    /// The error about something that it printed.
    pub(crate) fn failed(&self, what: &impl ToString) -> ProgramError {
        let output = what.to_string().trim().chars().take(SHOWN).collect();
        ProgramError::Failed { program: self.name.clone(), output }
    }
}

/// What a program prints while it runs. The program ends when this is dropped.
#[derive(Debug)]
pub(super) struct Output {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Output {
    /// The next line; `None`: the program has ended.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) async fn next_line(&mut self) -> io::Result<Option<String>> {
        self.lines.next_line().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new(["sh", "-c", script])
    }

    #[tokio::test]
    async fn a_program_gets_its_input_and_returns_what_it_printed() {
        let large = "line\n".repeat(100_000);
        assert_eq!(shell("cat").run(&[], &large).await.unwrap(), large);
    }

    #[tokio::test]
    async fn a_failure_says_what_the_program_printed_about_it() {
        let error = shell("echo 'No such table' >&2; exit 1").run(&[], "").await.unwrap_err();
        assert_eq!(error.to_string(), "sh failed: No such table");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let error = Program::new(["no-such-program"]).run(&[], "").await.unwrap_err();
        assert_eq!(error.to_string(), "no-such-program cannot be run");
    }
}
