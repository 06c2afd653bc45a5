//! Waiting for what is due.

use tokio::time::Instant;

/// Waits until this time, or for ever if nothing is due.
pub(crate) async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
