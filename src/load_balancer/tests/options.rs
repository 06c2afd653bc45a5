//! Source ranges and session affinity: they are in force when a listener opens, and a listener
//! never goes on to serve clients that its claim excludes.

use sharedlb_providers::ListenerOptions;

use super::*;

/// A loop whose load balancer changes the options of no listener that is open.
async fn refusing() -> Running {
    let running = Running::start().await;
    running.cloud.changes_options(false);
    running
}

/// A claim that serves these clients.
fn admits(ranges: &[&str]) -> ClaimFixture {
    let claim = claim("a").holds(0, 20001);
    if ranges.is_empty() { claim } else { claim.spec("loadBalancerSourceRanges", json!(ranges)) }
}

fn ranges(ranges: &[&str]) -> ListenerOptions {
    ListenerOptions::new(ranges.iter().map(|range| range.parse().unwrap()), None)
}

/// The listeners with their options.
async fn options(running: &Running) -> BTreeMap<ListenerKey, ListenerOptions> {
    let observed = Memory::new(running.cloud.clone()).observe(&name()).await.unwrap().unwrap();
    observed.load_balancer.listeners.into_iter().map(|(key, listener)| (key, listener.options)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_listener_opens_with_its_options_and_they_change_while_it_is_open() {
    let running = Running::start().await;
    for of in [&["10.0.0.0/8"][..], &["10.1.0.0/16", "fd00::/8"], &[]] {
        running.plan(&[admits(of)]).await;
        assert_eq!(options(&running).await, BTreeMap::from([(tcp(20001), ranges(of))]));
        assert_eq!(running.last().listeners[&tcp(20001)].options, ranges(of));
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_cannot_exclude_clients_in_place_closes_and_opens_again() {
    let running = refusing().await;
    running.plan(&[admits(&["10.0.0.0/8"])]).await;
    running.plan(&[admits(&["10.1.0.0/16"])]).await;
    let listener = running.last().listeners[&tcp(20001)].clone();
    let message = listener.failure.unwrap().message;
    assert!(message.contains("20001/TCP still serves clients outside of loadBalancerSourceRanges"), "{message}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(options(&running).await, BTreeMap::from([(tcp(20001), ranges(&["10.1.0.0/16"]))]));
    assert_eq!(running.last().listeners[&tcp(20001)].failure, None);
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_cannot_admit_further_clients_stays_open_and_says_so() {
    let running = refusing().await;
    running.plan(&[admits(&["10.0.0.0/8"])]).await;
    running.plan(&[admits(&[])]).await;
    tokio::time::sleep(BACKOFF_MAX * 3).await;
    assert_eq!(options(&running).await, BTreeMap::from([(tcp(20001), ranges(&["10.0.0.0/8"]))]));
    let message = running.last().listeners[&tcp(20001)].failure.clone().unwrap().message;
    assert!(message.contains("loadBalancerSourceRanges of port 20001/TCP is not in force yet"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_listener_has_the_backends_of_the_moment_while_its_options_cannot_change() {
    let running = refusing().await;
    let (narrow, wide) = (admits(&["10.0.0.0/8"]), admits(&[]));
    running.endpoints(&wide, 1).await;
    running.plan(std::slice::from_ref(&narrow)).await;
    running.plan(std::slice::from_ref(&wide)).await;
    tokio::time::sleep(BACKOFF_MAX * 3).await;
    let failure = running.last().listeners[&tcp(20001)].failure.clone();
    assert!(failure.is_some());
    for pods in [3, 0, 2] {
        running.endpoints(&wide, pods).await;
        assert_eq!(running.open().await, BTreeMap::from([(20001, pods.into())]));
        assert_eq!(running.last().listeners[&tcp(20001)].failure, failure, "the options still wait");
    }
    assert_eq!(options(&running).await[&tcp(20001)], ranges(&["10.0.0.0/8"]));
    running.cloud.changes_options(true);
    tokio::time::sleep(BACKOFF_MAX).await;
    assert_eq!(options(&running).await[&tcp(20001)], ranges(&[]));
    assert_eq!(running.last().listeners[&tcp(20001)].failure, None);
}

#[tokio::test(start_paused = true)]
async fn a_listener_gets_no_backends_of_another_claim_before_it_has_the_options_of_that() {
    let running = refusing().await;
    let (before, after) = (claim("a").holds(0, 20001), claim("b").holds(0, 20001));
    let after = after.spec("sessionAffinity", json!("ClientIP"));
    running.endpoints(&before, 1).await;
    running.endpoints(&after, 2).await;
    running.plan(&[before]).await;
    running.plan(std::slice::from_ref(&after)).await;
    running.endpoints(&after, 3).await;
    tokio::time::sleep(BACKOFF_MAX).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 1)]));
    running.cloud.changes_options(true);
    tokio::time::sleep(BACKOFF_MAX).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 3)]));
}

#[tokio::test(start_paused = true)]
async fn a_listener_whose_successor_excludes_clients_does_not_wait_for_it() {
    let running = Running::start().await;
    let both = ListenerKey { protocol: Protocol::TcpUdp, ..tcp(20001) };
    let becomes_both = |of: &[&str]| {
        admits(of).ports(json!([{"name": "x", "protocol": "TCP_UDP", "targetPort": 6379}])).status(json!({
            "loadBalancerIndex": 0, "ports": [{"name": "x", "protocol": "TCP_UDP", "port": 20001}],
        }))
    };
    running.plan(&[admits(&["10.0.0.0/8"])]).await;
    running.cloud.refuse(both);
    running.plan(&[becomes_both(&["10.0.0.0/8"])]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(options(&running).await, BTreeMap::from([(tcp(20001), ranges(&["10.0.0.0/8"]))]), "its successor waits");
    running.plan(&[becomes_both(&["10.1.0.0/16"])]).await;
    assert_eq!(options(&running).await, BTreeMap::new(), "although its successor cannot open");
    running.cloud.accept_all();
    tokio::time::sleep(BACKOFF_MAX).await;
    assert_eq!(options(&running).await, BTreeMap::from([(both, ranges(&["10.1.0.0/16"]))]));
}

#[tokio::test(start_paused = true)]
async fn a_listener_whose_claim_cannot_be_parsed_keeps_its_options_and_one_that_is_closed_stays_closed() {
    let running = Running::start().await;
    let unparsable = admits(&[]).spec("loadBalancerSourceRanges", json!("nonsense"));
    running.plan(std::slice::from_ref(&unparsable)).await;
    assert_eq!(options(&running).await, BTreeMap::new());
    running.plan(&[admits(&["10.0.0.0/8"])]).await;
    running.plan(&[unparsable]).await;
    assert_eq!(options(&running).await, BTreeMap::from([(tcp(20001), ranges(&["10.0.0.0/8"]))]));
}
