//! A leader that is frozen in the middle of its work, and wakes when another one
//! leads.

use std::sync::Arc;

use anyhow::{Context, ensure};
use jiff::{SignedDuration, Timestamp};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::{LIMIT, Ledger, Site, Tests};
use sharedlb_testbed::{Cluster, eventually};

use super::candidate::{Candidate, SHORT, clear, lease, two};

/// How many claims a burst has: more than are served before the leader is frozen.
const BURST: usize = 30;

/// After how many writes in a burst the leader is frozen, one time after another.
const FROZEN_AFTER: [u64; 3] = [3, 17, 50];

/// How long after a renewal the next one is missed: longer than the retry period of
/// `deploy/`, and by far shorter than its deadline, since whoever looks at the clock
/// here may be late.
const MISSED: SignedDuration = SignedDuration::from_secs(3);

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("a leader that wakes after its lease ran out sends nothing, and ends", wakes_late),
        test.test("a leader that is frozen while it waits for answers does not retry when it wakes", wakes_refused),
        test.test("a leader that is frozen for a moment continues", wakes_early),
    ]
}

/// A burst of claims, and what they were ever seen to hold.
struct Burst {
    site: Site,
    ledger: Ledger,
}

impl Burst {
    async fn open(cluster: &Arc<Cluster>, name: &str) -> anyhow::Result<Self> {
        let class = json!({"loadBalancers": {"max": 5, "listenersPerLoadBalancer": 50}});
        let site = Site::with_pod(cluster, name, class).await?;
        let ledger = Ledger::open(&site.claims);
        Ok(Self { site, ledger })
    }

    /// More claims.
    async fn more(&self, from: usize) -> anyhow::Result<()> {
        for number in from..from + BURST {
            self.site.claim(&format!("web-{number}"), json!([{"targetPort": "http"}])).await?;
        }
        Ok(())
    }

    /// Waits until all of them are ready, and requires that none was ever wronged.
    async fn served(&self, claims: usize) -> anyhow::Result<()> {
        self.site.all_ready(claims).await?;
        let slots = self.ledger.clean().await?;
        ensure!(slots.len() == claims, "{} of {claims} have ports", slots.len());
        Ok(())
    }
}

/// Freezes the leader in a burst, once it has made so many writes; returns when
/// the other one leads.
async fn freeze(leader: &Candidate, standby: &mut Candidate, writes: u64) -> anyhow::Result<()> {
    let before = leader.replica.proxy.faults.acts();
    eventually("the leader to be at work", LIMIT, async || {
        Ok((leader.replica.proxy.faults.acts() >= before + writes).then_some(()))
    })
    .await?;
    leader.replica.controller()?.freeze()?;
    standby.leads().await
}

/// The same, and the answers to the last of these writes come while it is frozen:
/// they ask it to try again.
async fn freeze_unanswered(leader: &Candidate, standby: &mut Candidate, writes: u64) -> anyhow::Result<()> {
    let faults = &leader.replica.proxy.faults;
    faults.hold_after(writes);
    ensure!(faults.until_held(LIMIT, async || Ok(false)).await?, "nothing is held back");
    leader.replica.controller()?.freeze()?;
    faults.release();
    standby.leads().await
}

/// Wakes the one that led, and requires that it sends nothing and ends.
async fn wake(cluster: &Cluster, former: &mut Candidate, leader: &Candidate) -> anyhow::Result<()> {
    let (acts, before) = (former.replica.proxy.faults.acts(), lease(cluster).await?);
    former.replica.controller()?.wake()?;
    former.deposed().await?;
    let sent = former.replica.proxy.faults.acts() - acts;
    ensure!(sent == 0, "it made {sent} writes after it woke");
    let now = lease(cluster).await?;
    ensure!(now.holder_identity == before.holder_identity, "the Lease was {before:?} and is {now:?}");
    ensure!(leader.is_leader().await?, "no replica leads");
    Ok(())
}

async fn wakes_late(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let burst = Burst::open(&cluster, "wakes-late").await?;
    let (mut leader, mut standby) = two(&cluster, SHORT).await?;
    let mut claims = 0;
    for (number, writes) in (3..).zip(FROZEN_AFTER) {
        tokio::try_join!(burst.more(claims), freeze(&leader, &mut standby, writes))?;
        claims += BURST;
        wake(&cluster, &mut leader, &standby).await?;
        burst.served(claims).await?;
        leader = std::mem::replace(&mut standby, Candidate::start(&cluster, number, SHORT).await?);
        standby.stands_by().await?;
    }
    burst.site.clear().await?;
    clear(&cluster, [leader, standby]).await
}

async fn wakes_refused(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let burst = Burst::open(&cluster, "wakes-refused").await?;
    let (mut leader, mut standby) = two(&cluster, SHORT).await?;
    tokio::try_join!(burst.more(0), freeze_unanswered(&leader, &mut standby, 10))?;
    wake(&cluster, &mut leader, &standby).await?;
    burst.served(BURST).await?;
    burst.site.clear().await?;
    clear(&cluster, [standby]).await
}

async fn wakes_early(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let burst = Burst::open(&cluster, "wakes-early").await?;
    let (leader, mut standby) = two(&cluster, &[]).await?;
    leader.replica.controller()?.freeze()?;
    eventually("a renewal to be missed", LIMIT, async || {
        let renewed = lease(&cluster).await?.renew_time.context("it was renewed")?.0;
        Ok((Timestamp::now().duration_since(renewed) > MISSED).then_some(()))
    })
    .await?;
    leader.replica.controller()?.wake()?;
    burst.more(0).await?;
    burst.served(BURST).await?;
    ensure!(leader.is_leader().await?, "it leads no longer");
    standby.stands_by().await?;
    burst.site.clear().await?;
    clear(&cluster, [leader, standby]).await
}
