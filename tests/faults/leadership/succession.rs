//! Leader election: which replica leads, and which is next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::{LIMIT, Site, Tests};
use sharedlb_testbed::{Cluster, eventually};

use super::candidate::{Candidate, SHORT, clear, forget_lease, lease, two};

/// Until when another one leads after a leader stopped in good order.
const AFTER_A_STOP: Duration = Duration::from_secs(5);
/// The same after it was killed.
const AFTER_A_KILL: Duration = Duration::from_secs(20);

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("of two replicas that start at once, one acts and both are ready", at_once),
        test.test("when the leader is stopped, the other one acts within 5 seconds", stopped),
        test.test("when the leader is killed, the other one acts within 20 seconds", killed),
        test.test("a leader that is cut off from the API server ends before another one leads", cut_off),
        test.test("a leader that gets no answers from the API server ends before another one leads", unanswered),
        test.test("a deleted Lease is recreated by its holder", deleted),
        test.test("a standby that is stopped leaves the Lease alone", standby_stopped),
    ]
}

/// A site whose claim has its port.
async fn served(cluster: &Arc<Cluster>, name: &str) -> anyhow::Result<Site> {
    let site = Site::with_pod(cluster, name, json!({})).await?;
    site.assigned("first").await?;
    Ok(site)
}

/// Removes everything, while one leads.
async fn remove(site: &Site, claims: &[&str]) -> anyhow::Result<()> {
    for claim in claims {
        site.delete(claim).await?;
    }
    site.delete_class().await?;
    site.class_gone().await
}

async fn at_once(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let (one, two) = tokio::try_join!(Candidate::start(&cluster, 1, &[]), Candidate::start(&cluster, 2, &[]))?;
    eventually("one of two to lead", LIMIT, async || {
        Ok((one.is_leader().await? || two.is_leader().await?).then_some(()))
    })
    .await?;
    let (mut leader, mut standby) = if one.is_leader().await? { (one, two) } else { (two, one) };
    leader.leads().await?;
    let site = served(&cluster, "at-once").await?;
    standby.stands_by().await?;
    ensure!(leader.holds(&cluster).await?, "the Lease says {:?}", lease(&cluster).await?);
    remove(&site, &["first"]).await?;
    standby.stands_by().await?;
    clear(&cluster, [leader, standby]).await
}

async fn stopped(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let (mut leader, mut standby) = two(&cluster, &[]).await?;
    let site = served(&cluster, "stopped").await?;
    let transitions = lease(&cluster).await?.lease_transitions;
    let metric = (leader.transitions().await?, standby.transitions().await?);
    let expected = f64::from(transitions.unwrap_or_default());
    ensure!(metric == (expected, expected), "{transitions:?} transitions, and the metrics {metric:?}");
    let asked = Instant::now();
    let ended = leader.replica.terminate().await?;
    ensure!(ended.success(), "it ended with {ended}");
    takes_over(&cluster, &mut standby, asked, AFTER_A_STOP).await?;
    let now = lease(&cluster).await?.lease_transitions;
    ensure!(now == transitions.map(|before| before + 1), "{transitions:?} transitions before, {now:?} after");
    ensure!(standby.transitions().await? == expected + 1.0, "the metric is {}", standby.transitions().await?);
    site.assigned("second").await?;
    remove(&site, &["first", "second"]).await?;
    clear(&cluster, [standby]).await
}

async fn killed(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let (mut leader, mut standby) = two(&cluster, &[]).await?;
    let site = served(&cluster, "killed").await?;
    let killed = Instant::now();
    leader.replica.kill().await?;
    takes_over(&cluster, &mut standby, killed, AFTER_A_KILL).await?;
    site.assigned("second").await?;
    remove(&site, &["first", "second"]).await?;
    clear(&cluster, [standby]).await
}

/// Requires that this one is the leader, ready and at work, not later than this.
async fn takes_over(cluster: &Cluster, standby: &mut Candidate, since: Instant, limit: Duration) -> anyhow::Result<()> {
    standby.leads().await?;
    let took = since.elapsed();
    ensure!(took < limit, "it took {took:?}");
    ensure!(standby.holds(cluster).await?, "the Lease says {:?}", lease(cluster).await?);
    Ok(())
}

async fn cut_off(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let (mut leader, mut standby) = two(&cluster, SHORT).await?;
    let site = served(&cluster, "cut-off").await?;
    leader.replica.proxy.refuse();
    ends_first(&cluster, &mut leader, &mut standby).await?;
    site.assigned("second").await?;
    remove(&site, &["first", "second"]).await?;
    clear(&cluster, [standby]).await
}

async fn unanswered(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let (mut leader, mut standby) = two(&cluster, SHORT).await?;
    let site = served(&cluster, "unanswered").await?;
    leader.replica.proxy.faults.hold_after(0);
    ends_first(&cluster, &mut leader, &mut standby).await?;
    // What it sent last comes to nothing, even though it comes late.
    leader.replica.proxy.faults.release();
    site.assigned("second").await?;
    ensure!(standby.holds(&cluster).await?, "the Lease says {:?}", lease(&cluster).await?);
    remove(&site, &["first", "second"]).await?;
    clear(&cluster, [standby]).await
}

/// Requires that the leader ends by itself, that the Lease is still its own by
/// then, and that the other one leads afterwards.
async fn ends_first(cluster: &Cluster, leader: &mut Candidate, standby: &mut Candidate) -> anyhow::Result<()> {
    leader.deposed().await?;
    ensure!(leader.holds(cluster).await?, "another one came before it had ended: {:?}", lease(cluster).await?);
    ensure!(!standby.is_leader().await?, "another one led before it had ended");
    standby.leads().await
}

async fn deleted(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let (mut leader, mut standby) = two(&cluster, SHORT).await?;
    let before = lease(&cluster).await?.holder_identity;
    forget_lease(&cluster).await?;
    let again = eventually("the Lease to be there again", LIMIT, async || Ok(Some(lease(&cluster).await?))).await?;
    ensure!(again.holder_identity == before, "it was {before:?} who had it, and is {:?}", again.holder_identity);
    leader.leads().await?;
    standby.stands_by().await?;
    clear(&cluster, [leader, standby]).await
}

async fn standby_stopped(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let (leader, mut standby) = two(&cluster, SHORT).await?;
    let ended = standby.replica.terminate().await?;
    ensure!(ended.success(), "it ended with {ended}");
    ensure!(leader.holds(&cluster).await?, "the Lease says {:?}", lease(&cluster).await?);
    ensure!(leader.is_leader().await?, "the leader leads no longer");
    clear(&cluster, [leader]).await
}
