//! Waiting for conditions, never for time to pass.

use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{anyhow, bail};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

const POLL_EVERY: Duration = Duration::from_millis(25);

/// What ended by itself, and so makes further waiting pointless. It concerns
/// the process as a whole, since a process has one cluster.
static FALLEN: LazyLock<watch::Sender<Option<String>>> = LazyLock::new(|| watch::Sender::new(None));

/// Records that a part of the cluster ended by itself; every wait fails with
/// the first such report. The details are shown now, and once.
pub(crate) fn report_fallen(report: String, details: &str) {
    eprintln!("testbed: {report}; {details}");
    FALLEN.send_if_modified(|first| {
        let is_first = first.is_none();
        first.get_or_insert(report);
        is_first
    });
}

/// Returns when a part of the cluster has ended by itself, with the report.
async fn fallen() -> String {
    let mut reports = FALLEN.subscribe();
    let report = reports.wait_for(Option::is_some).await.ok().and_then(|report| report.clone());
    match report {
        Some(report) => report,
        // The sender is static, so it cannot go before a report comes.
        None => std::future::pending().await,
    }
}

/// Asks again and again until there is an answer, for as long as the limit
/// allows.
///
/// `Ok(None)` and `Err` both mean "not yet"; the last error is told when time
/// is up. It fails early when a part of the cluster has ended by itself.
///
/// (Not `AsyncFnMut`: with that, the compiler cannot see that the wait is
/// `Send`.)
pub async fn eventually<T, F>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let deadline = Instant::now() + limit;
    let mut last = anyhow!("no answer at all");
    let asking = async {
        loop {
            match timeout_at(deadline, ask()).await {
                Ok(Ok(Some(answer))) => return Ok(answer),
                Ok(Ok(None)) => last = anyhow!("not yet"),
                Ok(Err(error)) => last = error,
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                return Err(last.context(format!("waited {limit:?} for {what}")));
            }
            sleep(POLL_EVERY).await;
        }
    };
    tokio::select! {
        answer = asking => answer,
        report = fallen() => bail!("waiting for {what}: {report}"),
    }
}
