//! What closes, or is given to another claim, waits for nothing; and what was freed
//! goes to the listeners that wait for it.

use sharedlb_providers::Capacity;

use super::*;

fn ports(range: std::ops::Range<u16>) -> Vec<ClaimFixture> {
    range.map(|port| claim(&format!("c-{port}")).holds(0, port)).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_freed_opens_the_listener_that_has_waited_longest_at_once() {
    let running = Running::start().await;
    running.cloud.limit(Capacity { listeners: Some(2), targets: None });
    let mut claims = ports(20001..20003);
    running.plan(&claims).await;
    for port in [20009, 20008, 20007] {
        claims.push(claim(&format!("waits-{port}")).holds(0, port));
        running.plan(&claims).await;
        tokio::time::sleep(BACKOFF_MAX * 3).await;
    }
    // Neither is due for a while, by its backoff.
    claims.remove(0);
    running.plan(&claims).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(running.open().await.into_keys().collect::<Vec<_>>(), [20002, 20009]);
    claims.remove(0);
    running.plan(&claims).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(running.open().await.into_keys().collect::<Vec<_>>(), [20008, 20009]);
}

#[tokio::test(start_paused = true)]
async fn listeners_closed_before_a_failed_apply_are_reported() {
    let (running, asked) = {
        let mut running = Running::start().await;
        let asked = Arc::new(FaultyProvider::new(running.cloud.clone()));
        running.provider = asked.clone();
        running.plan(&ports(20001..20002)).await;
        (running, asked)
    };
    asked.answer(Answers::ClosesOnly);
    running.plan(&ports(20002..20003)).await;
    tokio::time::sleep(BACKOFF_MAX).await;
    assert_eq!(running.open().await, BTreeMap::new());
    assert!(running.last().is_closed(tcp(20001)), "it is known that it is closed, although the apply failed");
    assert_eq!(running.last().failure.as_ref().unwrap().reason, Reason::Unreachable);
}

#[tokio::test(start_paused = true)]
async fn the_backends_of_a_listener_that_another_claim_gets_are_not_coalesced() {
    let running = Running::start().await;
    running.cloud.coalesce(Duration::from_secs(10));
    let (a, b) = (claim("a").holds(0, 20001), claim("b").holds(0, 20001));
    running.plan(std::slice::from_ref(&a)).await;
    running.endpoints(&a, 2).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 2)]));
    running.plan(std::slice::from_ref(&b)).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 0)]), "the pods of a get nothing of b's traffic");
}

#[tokio::test(start_paused = true)]
async fn a_listener_whose_successor_is_refused_goes_on_with_the_pods_of_the_moment() {
    let running = Running::start().await;
    let before = claim("a").holds(0, 20001);
    running.plan(std::slice::from_ref(&before)).await;
    running.endpoints(&before, 2).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 2)]));
    let both = ListenerKey { protocol: Protocol::TcpUdp, ..tcp(20001) };
    running.cloud.refuse(both);
    let after = claim("a").ports(json!([{"name": "x", "protocol": "TCP_UDP", "targetPort": 6379}])).protected();
    let after = after.status(json!({
        "loadBalancerIndex": 0, "ports": [{"name": "x", "protocol": "TCP_UDP", "port": 20001}],
    }));
    running.plan(std::slice::from_ref(&after)).await;
    tokio::time::sleep(BACKOFF_MAX * 3).await;
    for pods in [3, 1, 0, 2] {
        running.endpoints(&after, pods).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(running.open().await, BTreeMap::from([(20001, pods.into())]));
        assert!(running.last().listeners[&both].failure.is_some());
    }
}
