//! What other programs do to the tables, from `nft monitor`.

use std::io;
use std::time::Duration;

use futures::stream::{self, Stream};
use tracing::warn;

use super::program::{Output, Program};
use super::ruleset::TABLE;

/// How long after `nft monitor` has ended it is started again.
const RESTARTED_AFTER: Duration = Duration::from_secs(10);

/// Yields whenever a table of ours is deleted, by any program, and whenever that may have been
/// missed. A firewall that replaces all rules of the host deletes them.
pub(super) fn deleted_tables(nft: Program) -> impl Stream<Item = ()> + Send {
    let first = start(&nft);
    stream::unfold((nft, first), |(nft, mut running)| async move {
        loop {
            match deletion(running).await {
                Ok(output) => return Some(((), (nft, Ok(output)))),
                Err(error) => {
                    warn!(%error, "nft monitor is started again: until then, tables that are deleted are found late");
                    tokio::time::sleep(RESTARTED_AFTER).await;
                    running = start(&nft);
                    if running.is_ok() {
                        return Some(((), (nft, running)));
                    }
                }
            }
        }
    })
}

fn start(nft: &Program) -> io::Result<Output> {
    nft.start(&["monitor", "destroy", "tables"].map(str::to_owned))
}

/// Waits for the deletion of a table of ours, and returns what is monitored further.
async fn deletion(running: io::Result<Output>) -> io::Result<Output> {
    let mut output = running?;
    while let Some(line) = output.next_line().await? {
        if is_of_ours(&line) {
            return Ok(output);
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// Whether a line is about a table of ours: `delete table ip sharedlb`.
fn is_of_ours(line: &str) -> bool {
    line.starts_with("delete table ") && line.split_whitespace().any(|word| word == TABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_deletions_of_tables_of_ours_are_of_interest() {
        assert!(is_of_ours("delete table ip sharedlb"));
        assert!(is_of_ours("delete table ip6 sharedlb"));
        for other in ["delete table inet firewall", "add table ip sharedlb", "# new generation 7 by process 1 (nft)"] {
            assert!(!is_of_ours(other), "{other}");
        }
    }
}
