//! Waits for a time or an event.

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::tasks;

/// Waits until this time, or for ever if there is none. Meanwhile the current task is
/// registered to wake at this time (see [`tasks::Tasks::next_wake`]).
pub(crate) async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => {
            let _wakes = tasks::wakes_at(time);
            tokio::time::sleep_until(time).await;
        }
        None => std::future::pending().await,
    }
}

/// Waits for an event or until this time, and returns all events that have come; `None`: all
/// senders are gone.
pub(crate) async fn happened<T>(inputs: &mut UnboundedReceiver<T>, due: Option<Instant>) -> Option<Vec<T>> {
    let first = tokio::select! {
        input = inputs.recv() => Some(input?),
        () = wait_until(due) => None,
    };
    Some(first.into_iter().chain(std::iter::from_fn(|| inputs.try_recv().ok())).collect())
}
