//! What is not as it should be and is no listener.

use std::num::NonZeroU16;

use super::*;

const PORT: NonZeroU16 = NonZeroU16::new(20001).unwrap();
const WHAT: &str = "a target group serves no listener";

async fn drift(running: &Running) -> BTreeMap<NonZeroU16, String> {
    running.provider.observe(&name()).await.unwrap().unwrap().drift
}

#[tokio::test(start_paused = true)]
async fn what_has_drifted_is_repaired_once_it_is_observed() {
    let running = Running::start().await;
    running.cloud.drifts(&name(), PORT, WHAT);
    running.changes().await;
    assert_eq!(drift(&running).await, BTreeMap::new());
    let calls = running.cloud.calls();
    tokio::time::sleep(BACKOFF_MAX).await;
    assert_eq!(running.cloud.calls(), calls, "and that is the end of it");
}

#[tokio::test(start_paused = true)]
async fn what_was_prepared_for_a_listener_that_waits_is_no_drift_until_nothing_waits() {
    let running = Running::start().await;
    running.cloud.refuse(tcp(20001));
    running.plan(&[claim("a").holds(0, 20001)]).await;
    running.cloud.drifts(&name(), PORT, WHAT);
    running.changes().await;
    tokio::time::sleep(BACKOFF_MAX).await;
    assert_eq!(drift(&running).await.len(), 1, "it is used when the listener is tried again");
    running.plan(&[]).await;
    assert_eq!(drift(&running).await, BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn drift_that_cannot_be_repaired_is_reported_with_the_reason() {
    let running = Running::start().await;
    running.cloud.repairs(false);
    running.cloud.drifts(&name(), PORT, WHAT);
    running.changes().await;
    let failure = running.last().failure.expect("it is reported");
    assert_eq!(&*failure.message, "port 20001: a target group serves no listener: it is not repaired on demand");
    running.cloud.repairs(true);
    tokio::time::sleep(BACKOFF_MAX).await;
    assert_eq!((running.last().failure, drift(&running).await), (None, BTreeMap::new()));
}
