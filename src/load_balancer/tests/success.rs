//! When a load balancer was last as planned, as a metric.

use super::*;

const METRIC: &str = r#"sharedlb_load_balancer_last_success_timestamp_seconds{class="default",load_balancer="0"} "#;

/// Whether there was a success since the last call. The time itself is that of the wall clock, which
/// no test can set.
fn succeeded(running: &Running) -> bool {
    let page = running.metrics.encode().unwrap();
    let exported = page.lines().any(|line| line.starts_with(METRIC));
    running.metrics.load_balancer_ended("default", 0);
    exported
}

#[tokio::test(start_paused = true)]
async fn it_is_exported_from_the_start_and_renewed_at_every_resync() {
    let running = Running::start().await;
    assert!(succeeded(&running));
    tokio::time::sleep(RESYNC - Duration::from_secs(1)).await;
    assert!(!succeeded(&running), "nothing is observed before");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(succeeded(&running));
}

#[tokio::test(start_paused = true)]
async fn it_stays_while_the_load_balancer_fails_as_a_whole() {
    for answers in [Answers::None, Answers::NoSettings, Answers::NotReady, Answers::LostAfter(0)] {
        let (running, asked) = unsure(answers).await;
        succeeded(&running);
        running.signal.observe_again();
        tokio::time::sleep(RESYNC * 3).await;
        assert!(!succeeded(&running), "{answers:?}");
        asked.answer(Answers::Fine);
        tokio::time::sleep(BACKOFF_MAX * 2).await;
        assert!(succeeded(&running), "{answers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_cannot_be_opened_is_no_failure_of_its_load_balancer() {
    let running = Running::start().await;
    running.cloud.refuse(tcp(20001));
    running.plan(&[claim("bad").holds(0, 20001)]).await;
    succeeded(&running);
    tokio::time::sleep(RESYNC * 2).await;
    assert!(succeeded(&running));
}

#[tokio::test(start_paused = true)]
async fn it_goes_with_the_loop() {
    let Running { metrics, plans, .. } = Running::start().await;
    drop(plans);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(!metrics.encode().unwrap().contains(METRIC));
}
