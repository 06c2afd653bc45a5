//! Has the kernel forget connections, by Debian's `conntrack`.

use tracing::info;

use super::conntrack::{Connections, has_found_none, has_met_an_ended_one};
use super::engine::Programs;
use crate::program::ProgramError;

/// How often a deletion is begun again after it met a connection that had just ended. Each time
/// it gets further, unless hundreds of connections end in every millisecond.
const ATTEMPTS: usize = 20;

impl Programs {
    /// Has the kernel forget these connections. Those that go on are tracked anew with their next
    /// packet.
    ///
    /// # Errors
    /// If `conntrack` fails, or meets connections that have just ended again and again.
    pub(crate) async fn forget(&self, connections: Connections) -> Result<(), ProgramError> {
        let deletion = connections.deletion();
        for _ in 1..ATTEMPTS {
            match self.conntrack.run(&deletion, "").await {
                Err(ProgramError::Failed { output, .. }) if has_met_an_ended_one(&output) => {}
                ended => return done(connections, ended),
            }
        }
        done(connections, self.conntrack.run(&deletion, "").await)
    }
}

/// What became of a deletion.
fn done(connections: Connections, ended: Result<String, ProgramError>) -> Result<(), ProgramError> {
    match ended {
        Ok(_) => info!(?connections, "connections are forgotten"),
        Err(ProgramError::Failed { output, .. }) if has_found_none(&output) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Program;

    /// A `conntrack` whose calls each do one of these, in turn.
    fn conntrack(folder: &std::path::Path, calls: &[&str]) -> Programs {
        let counter = folder.join("calls");
        let cases: String = calls.iter().enumerate().map(|(call, does)| format!("{}) {does};; ", call + 1)).collect();
        let script = format!(
            "echo >>{0}; case $(wc -l <{0}) in {cases}*) echo unexpected >&2; exit 1;; esac",
            counter.display()
        );
        Programs { conntrack: Program::new(["sh", "-c", &script]), ..Programs::default() }
    }

    const ENDED: &str = "echo \"conntrack v1.4.7: Operation failed: such conntrack doesn't exist\" >&2; exit 1";
    const NONE: &str = "echo 'conntrack v1.4.7: 0 flow entries have been deleted.' >&2; exit 1";

    fn of_address() -> Connections {
        Connections::To("192.0.2.8".parse().unwrap())
    }

    #[tokio::test]
    async fn a_connection_that_ends_meanwhile_does_not_keep_others_remembered() {
        let folder = tempfile::tempdir().unwrap();
        conntrack(folder.path(), &[ENDED, ENDED, "exit 0"]).forget(of_address()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        conntrack(folder.path(), &[ENDED, NONE]).forget(of_address()).await.unwrap();
    }

    #[tokio::test]
    async fn another_failure_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let programs = conntrack(folder.path(), &["echo 'Operation not permitted' >&2; exit 1"]);
        let error = programs.forget(of_address()).await.unwrap_err();
        assert_eq!(error.to_string(), "sh failed: Operation not permitted");
    }
}
