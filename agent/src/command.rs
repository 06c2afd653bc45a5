//! Programs of the host that do one thing and end.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use thiserror::Error;

/// Runs a program with this input, and returns its output.
///
/// # Errors
/// If it cannot be run, or does not succeed.
pub(crate) fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<String, CommandError> {
    let outcome = run_with_input(program, arguments, input);
    let output = outcome.map_err(|source| CommandError::NotRun { program, source })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(CommandError::Failed { program, reason: text(&output.stderr) })
    }
}

fn run_with_input(program: &str, arguments: &[&str], input: &str) -> io::Result<std::process::Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // It ended before it had read everything, and says why.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    child.wait_with_output()
}

/// Why a program did not do what it was run for.
#[derive(Debug, Error)]
pub enum CommandError {
    /// It cannot be run.
    #[error("running {program}")]
    NotRun {
        /// Its name
        program: &'static str,
        /// Why
        source: io::Error,
    },
    /// It did not succeed.
    #[error("{program}: {reason}")]
    Failed {
        /// Its name
        program: &'static str,
        /// What it wrote to its standard error
        reason: String,
    },
    /// Its output is not what it is documented to be.
    #[error("reading the output of {program}")]
    Output {
        /// Its name
        program: &'static str,
        /// Why
        source: serde_json::Error,
    },
}
