//! Waits for a time.

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
