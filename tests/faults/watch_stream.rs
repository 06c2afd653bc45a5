//! The answer to a watch, which can be ended from outside.

use axum::body::{BodyDataStream, Bytes};
use futures::{Stream, StreamExt, stream};
use serde_json::Value;
use tokio::sync::watch;

/// A stream of whole lines, one for each event.
struct Lines {
    source: BodyDataStream,
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
    expired: watch::Receiver<u64>,
    done: bool,
}

/// Passes whole lines on until `expired` changes; then `last` is the last one.
pub(crate) fn lines_until(
    source: BodyDataStream,
    expired: watch::Receiver<u64>,
    last: Value,
) -> impl Stream<Item = Result<Bytes, axum::Error>> {
    let lines = Lines { source, begun: Vec::new(), expired, done: false };
    stream::unfold((lines, last), async |(mut lines, last)| {
        if lines.done {
            return None;
        }
        let item = lines.next(&last).await?;
        Some((item, (lines, last)))
    })
}

impl Lines {
    async fn next(&mut self, last: &Value) -> Option<Result<Bytes, axum::Error>> {
        loop {
            tokio::select! {
                chunk = self.source.next() => match chunk? {
                    Ok(chunk) => self.begun.extend_from_slice(&chunk),
                    Err(error) => {
                        self.done = true;
                        return Some(Err(error));
                    }
                },
                // It fails only when the proxy is gone.
                _ = self.expired.changed() => {
                    self.done = true;
                    return Some(Ok(format!("{last}\n").into()));
                }
            }
            if let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') {
                let rest = self.begun.split_off(end + 1);
                return Some(Ok(std::mem::replace(&mut self.begun, rest).into()));
            }
        }
    }
}
