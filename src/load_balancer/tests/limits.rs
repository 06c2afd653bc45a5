//! Load balancers that take only so much, and whose calls are dear.

use sharedlb_providers::Capacity;

use super::super::state::failure;
use super::*;

const COALESCE: Duration = Duration::from_secs(1);

/// A loop of a load balancer whose calls are dear, with a listener that has a backend.
async fn dear() -> (Running, ClaimFixture) {
    let running = Running::start().await;
    running.cloud.coalesce(COALESCE);
    let a = claim("a").holds(0, 20001);
    running.plan(std::slice::from_ref(&a)).await;
    running.endpoints(&a, 1).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 1)]), "the first backend does not wait");
    (running, a)
}

#[tokio::test(start_paused = true)]
async fn where_calls_are_dear_changes_of_backends_are_coalesced_and_go_out_as_one() {
    let (running, a) = dear().await;
    let before = running.cloud.calls();
    for pods in [2, 3, 4] {
        running.endpoints(&a, pods).await;
        tokio::time::sleep(COALESCE / 5).await;
    }
    assert_eq!(running.cloud.calls(), before);
    tokio::time::sleep(COALESCE).await;
    assert_eq!(running.cloud.calls(), before + 2, "an apply, and one change");
    assert_eq!(running.open().await, BTreeMap::from([(20001, 4)]));
}

#[tokio::test(start_paused = true)]
async fn a_port_is_opened_at_once_while_changes_of_backends_are_coalesced() {
    let (running, a) = dear().await;
    running.endpoints(&a, 2).await;
    running.plan(&[a, claim("b").holds(0, 20002)]).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 1), (20002, 0)]));
    tokio::time::sleep(COALESCE).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 2), (20002, 0)]));
}

#[tokio::test(start_paused = true)]
async fn backends_beyond_the_limit_are_shared_fairly_and_reported() {
    let running = Running::start().await;
    running.cloud.limit(Capacity { listeners: None, targets: Some(10) });
    let (a, b) = (claim("a").holds(0, 20001), claim("b").holds(0, 20002));
    running.plan(&[a.clone(), b.clone()]).await;
    running.endpoints(&a, 2).await;
    running.endpoints(&b, 20).await;
    tokio::time::sleep(BACKOFF_MAX).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 2), (20002, 8)]));
    let outcome = running.last();
    assert_eq!(outcome.listeners[&tcp(20001)].left_out, None);
    let left_out = outcome.listeners[&tcp(20002)].left_out.unwrap();
    assert_eq!((left_out.served, left_out.all, left_out.limit, left_out.of_listener), (8, 20, 10, false));
    assert!(outcome.listeners.values().all(|listener| listener.failure.is_none()), "no listener failed for it");
}

#[tokio::test(start_paused = true)]
async fn room_used_by_others_is_known_after_the_first_refusal() {
    let running = Running::start().await;
    let a = claim("a").holds(0, 20001);
    running.plan(std::slice::from_ref(&a)).await;
    running.cloud.limit(Capacity { listeners: Some(1), targets: None });
    running.plan(&[a, claim("b").holds(0, 20002)]).await;
    let outcome = running.last();
    assert_eq!(outcome.listeners[&tcp(20002)].failure.as_ref().unwrap().reason, Reason::NoRoom);
    assert_eq!(outcome.no_room(), BTreeSet::from([tcp(20002)]));
    assert_eq!(outcome.capacity.listeners, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_missing_load_balancer_is_recreated_and_reported_once() {
    let running = Running::start().await;
    running.plan(&[claim("a").holds(0, 20001)]).await;
    assert_eq!(running.last().recreated, 0, "it was made for the first time");
    Memory::new(running.cloud.clone()).delete(&name()).await.unwrap();
    tokio::time::sleep(RESYNC * 3).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 0)]));
    assert_eq!(running.last().recreated, 1);

    running.plans.send_replace(Arc::new(Plan::new(running.provider.clone(), 0, None)));
    running.settle().await;
    running.plan(&[claim("a").holds(0, 20001)]).await;
    assert_eq!(running.last().recreated, 1, "it was to go");

    let restarted = Running::existing(true, |cloud| Arc::new(Memory::new(cloud))).await;
    assert_eq!(restarted.last().recreated, 1, "it was deleted before the first observation");
}

#[tokio::test(start_paused = true)]
async fn throttling_is_reported_with_the_time_of_the_retry() {
    let (error, wait) = (Error::Throttled { retry_after: Duration::from_secs(7), details: "Rate exceeded".into() }, 30);
    let reported = failure(&error, Instant::now() + Duration::from_secs(wait));
    assert_eq!(reported.reason, Reason::Throttled);
    let time = reported.message.strip_prefix("too many calls, to be tried again at ").unwrap();
    let time: jiff::Timestamp = time.strip_suffix(": Rate exceeded").unwrap().parse().unwrap();
    let until = time.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((wait - 2..=wait).contains(&u64::try_from(until).unwrap()), "{}", reported.message);
}
