//! `completion`: scripts for shells, and for kubectl's own completion.

use std::ffi::OsString;

use clap::{Args, Command, ValueEnum};
use clap_complete::aot;
use clap_complete::engine::{CompletionCandidate, complete};

/// The name of the binary, which kubectl finds as `kubectl sharedlb`.
pub(crate) const BINARY: &str = "kubectl-sharedlb";

/// The script by which kubectl completes a plugin: `kubectl plugin --help` describes it. It
/// must be an executable with the name `kubectl_complete-sharedlb`.
const FOR_KUBECTL: &str = "#!/bin/sh\nexec kubectl-sharedlb complete -- \"$@\"\n";

/// What kubectl does with the words: it offers no files (`ShellCompDirectiveNoFileComp` of
/// cobra, in its shell_completions.md).
const NO_FILES: &str = ":4";

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell. With kubectl: a script that is to be saved as
    /// kubectl_complete-sharedlb in a folder of the PATH, and made executable, so that
    /// `kubectl sharedlb` is completed like kubectl's own commands.
    #[arg(value_enum)]
    shell: Completer,
}

/// What completes the words.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Completer {
    Bash,
    Elvish,
    Fish,
    Kubectl,
    #[value(name = "powershell")]
    PowerShell,
    Zsh,
}

#[derive(Debug, Args)]
pub(crate) struct CompleteArgs {
    /// The words after `kubectl sharedlb`; the last one is to be completed.
    #[arg(last = true)]
    words: Vec<OsString>,
}

/// The script for a shell.
pub(crate) fn script(command: &mut Command, args: &CompletionArgs) -> String {
    let shell = match args.shell {
        Completer::Bash => aot::Shell::Bash,
        Completer::Elvish => aot::Shell::Elvish,
        Completer::Fish => aot::Shell::Fish,
        Completer::PowerShell => aot::Shell::PowerShell,
        Completer::Zsh => aot::Shell::Zsh,
        Completer::Kubectl => return FOR_KUBECTL.to_owned(),
    };
    let mut script = Vec::new();
    aot::generate(shell, command, BINARY, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The candidates for the last word, as kubectl reads them: a word and its description a line,
/// and a directive.
///
/// # Errors
/// If the words cannot be completed.
pub(crate) fn candidates(command: &mut Command, args: CompleteArgs) -> std::io::Result<String> {
    let mut words = vec![OsString::from(BINARY)];
    words.extend(args.words);
    let last = words.len() - 1;
    let found = complete(command, words, last, None)?;
    let mut lines: Vec<String> = found.iter().filter(|candidate| !candidate.is_hide_set()).map(line).collect();
    lines.push(NO_FILES.to_owned());
    Ok(lines.join("\n") + "\n")
}

fn line(candidate: &CompletionCandidate) -> String {
    let word = candidate.get_value().to_string_lossy();
    let help = candidate.get_help().map(ToString::to_string);
    match help.as_deref().and_then(|help| help.lines().next()) {
        Some(help) => format!("{word}\t{help}"),
        None => word.into_owned(),
    }
}
