//! Listeners that are as planned and get no traffic.

use sharedlb_providers::Unserved;

use super::*;

/// A loop with two listeners, the first of which gets no traffic.
async fn unserved(why: Unserved) -> Running {
    let running = Running::start().await;
    running.cloud.leave_unserved(tcp(20001), Some(why));
    running.plan(&[claim("a").holds(0, 20001), claim("b").holds(0, 20002)]).await;
    running.changes().await;
    running
}

/// Why these listeners get no traffic.
fn reported(running: &Running) -> BTreeMap<u16, (Reason, String)> {
    let listeners = running.last().listeners;
    let unserved = listeners.iter().filter_map(|(key, listener)| {
        let Failure { reason, message } = listener.unserved.clone()?;
        Some((key.port.get(), (reason, message.to_string())))
    });
    unserved.collect()
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_gets_no_traffic_yet_is_observed_until_it_does() {
    let running = unserved(Unserved::Pending("its rule is being made".into())).await;
    let expected = (Reason::Pending, "its rule is being made".to_owned());
    assert_eq!(reported(&running), BTreeMap::from([(20001, expected)]));
    assert!(running.last().listeners[&tcp(20001)].open, "it counts as open");
    assert_eq!(running.last().failure, None, "the others are served");
    let before = running.cloud.calls();
    tokio::time::sleep(RESYNC / 2).await;
    let calls = running.cloud.calls() - before;
    assert!((2..20).contains(&calls), "{calls} calls in five minutes");
    running.cloud.leave_unserved(tcp(20001), None);
    tokio::time::sleep(BACKOFF_MAX).await;
    assert_eq!(reported(&running), BTreeMap::new());
    let before = running.cloud.calls();
    tokio::time::sleep(BACKOFF_MAX * 2).await;
    assert_eq!(running.cloud.calls(), before, "it is served, and that is all");
}

#[tokio::test(start_paused = true)]
async fn a_listener_whose_traffic_is_refused_is_reported_and_observed_after_the_next_change() {
    let running = unserved(Unserved::Refused("a quota of rules is used up".into())).await;
    let expected = (Reason::ProviderRefused, "a quota of rules is used up".to_owned());
    assert_eq!(reported(&running), BTreeMap::from([(20001, expected)]));
    let before = running.cloud.calls();
    tokio::time::sleep(RESYNC / 2).await;
    assert_eq!(running.cloud.calls(), before);
    running.cloud.leave_unserved(tcp(20001), None);
    running.plan(&[claim("a").holds(0, 20001)]).await;
    assert_eq!(reported(&running), BTreeMap::new());
}
