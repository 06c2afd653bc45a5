//! The process is killed, and started again.

use std::sync::Arc;

use anyhow::ensure;
use kube::api::{DeleteParams, ListParams};
use libtest_mimic::Trial;
use sharedlb_harness::{BURST_LIMIT, Tests};
use sharedlb_testbed::{Cluster, eventually};

use crate::setting::Setting;

/// How many claims a burst has.
const BURST: usize = 60;

/// How many writes each run of the controller is granted before it is killed:
/// few enough that all of it happens within what is to be done, and of many
/// remainders, so that every kind of write is once the last.
const IN_A_BURST: [u64; 14] = [1, 2, 3, 5, 8, 13, 21, 34, 4, 7, 11, 18, 29, 6];
const IN_A_CLEARANCE: [u64; 12] = [1, 1, 2, 3, 1, 4, 6, 2, 5, 3, 4, 3];
const GROWING: [u64; 8] = [1, 1, 1, 2, 1, 1, 3, 1];

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("killed repeatedly in a burst, the controller moves, loses and duplicates no port", in_a_burst),
        test.test(
            "killed repeatedly while claims are deleted, the controller releases each port and disturbs no other",
            in_a_clearance,
        ),
        test.test("killed while the class grows, the controller creates no load balancer twice", growing),
    ]
}

/// Kills the controller each time it has made so many writes: see
/// [`kill_after`](sharedlb_harness::Replica::kill_after).
async fn kill_again_and_again(
    setting: &mut Setting,
    writes: &[u64],
    cause: impl Future<Output = anyhow::Result<()>>,
    done: impl AsyncFn() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let kills = setting.replica.kill_after(writes.iter().copied(), cause, done).await?;
    ensure!(kills >= writes.len() / 2, "it was done after {kills} kills, so that little was tried");
    Ok(())
}

async fn in_a_burst(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut setting = Setting::start(&cluster, "burst").await?;
    let site = setting.site.clone();
    let done = async || Ok(site.count_ready().await? == BURST);
    kill_again_and_again(&mut setting, &IN_A_BURST, site.create_burst(0..BURST), done).await?;
    setting.site.all_ready(BURST).await?;
    setting.nobody_wronged(BURST).await?;
    setting.clear().await
}

async fn in_a_clearance(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut setting = Setting::start(&cluster, "clearance").await?;
    setting.site.create_burst(0..BURST).await?;
    setting.site.all_ready(BURST).await?;
    let site = setting.site.clone();
    let doomed = 20..BURST;
    let go = async {
        for number in doomed.clone() {
            site.claims.delete(&format!("web-{number}"), &DeleteParams::default()).await?;
        }
        Ok(())
    };
    let left = async || anyhow::Ok(site.claims.list(&ListParams::default()).await?.items.len());
    kill_again_and_again(&mut setting, &IN_A_CLEARANCE, go, async || Ok(left().await? == doomed.start)).await?;
    eventually(
        "the deleted claims to be gone",
        BURST_LIMIT,
        async || Ok((left().await? == doomed.start).then_some(())),
    )
    .await?;
    setting.site.all_ready(doomed.start).await?;
    setting.nobody_wronged(doomed.start).await?;
    // Each gets back its port, which cools down for it.
    let released = site
        .class_status("all released ports", |status| {
            let released: Vec<_> = status.load_balancers.iter().flat_map(|each| each.released.clone()).collect();
            (released.len() == doomed.len()).then_some(released)
        })
        .await?;
    site.create_burst(doomed).await?;
    setting.site.all_ready(BURST).await?;
    let slots = setting.ledger.clean().await?;
    for released in released {
        let claim = released.claim.rsplit('/').next().unwrap_or_default().to_owned();
        let now = slots.get(&(claim.clone(), String::new()));
        ensure!(now.is_some_and(|slot| slot.2 == released.port.get()), "{claim} had {released:?} and has {now:?}");
    }
    setting.clear().await
}

async fn growing(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut setting = Setting::start(&cluster, "growing").await?;
    let site = setting.site.clone();
    setting.site.create_burst(0..24).await?;
    setting.site.all_ready(24).await?;
    // These fill the first load balancer, and begin the second one.
    let done = async || Ok(site.count_ready().await? == 34);
    kill_again_and_again(&mut setting, &GROWING, site.create_burst(24..34), done).await?;
    setting.site.all_ready(34).await?;
    setting.nobody_wronged(34).await?;
    site.fronts(2).await?;
    setting.clear().await
}
