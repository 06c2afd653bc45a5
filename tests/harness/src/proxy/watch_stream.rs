//! The answer to a watch, which can be ended from outside.

use std::sync::Arc;

use axum::body::{BodyDataStream, Bytes};
use futures::{Stream, StreamExt, stream};
use serde_json::Value;
use tokio::sync::watch;

use super::faults::{Ending, Faults};

/// A stream of whole lines, one for each event.
struct Lines {
    source: BodyDataStream,
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
    faults: Arc<Faults>,
    ending: watch::Receiver<Ending>,
    done: bool,
}

/// Passes whole lines on until the watch is to end; if it is to expire, then
/// `last` is the last one. `ending` is from before the watch began.
pub(super) fn lines_until(
    source: BodyDataStream,
    faults: Arc<Faults>,
    ending: watch::Receiver<Ending>,
    last: Value,
) -> impl Stream<Item = Result<Bytes, axum::Error>> {
    let lines = Lines { source, begun: Vec::new(), faults, ending, done: false };
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
                _ = self.ending.changed() => {
                    self.done = true;
                    return Some(match *self.ending.borrow() {
                        Ending::Expired => Ok(format!("{last}\n").into()),
                        Ending::Broken => Err(axum::Error::new("the watch breaks off")),
                    });
                }
            }
            if let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') {
                self.faults.be_late().await;
                let rest = self.begun.split_off(end + 1);
                return Some(Ok(std::mem::replace(&mut self.begun, rest).into()));
            }
        }
    }
}
