//! The process is killed, and started again.

use std::sync::Arc;

use anyhow::ensure;
use kube::api::{DeleteParams, ListParams};
use libtest_mimic::Trial;
use sharedlb_testbed::{Cluster, eventually};

use crate::harness::Tests;
use crate::setting::{BURST_LIMIT, Setting, create, ready};

/// How many claims a burst has.
const BURST: usize = 60;

/// How many writes each run of the controller is granted before it is killed:
/// so few that all of it happens within one burst, and of many remainders, so
/// that every kind of write is once the last.
const WRITES: [u64; 14] = [1, 2, 3, 5, 8, 13, 21, 34, 4, 7, 11, 18, 29, 6];

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("killed again and again in a burst, it moves no port, loses none and gives none twice", in_a_burst),
        test.test(
            "killed again and again while claims go, it releases each port and disturbs no other",
            in_a_clearance,
        ),
        test.test("killed while the class grows, it makes no load balancer twice", growing),
    ]
}

/// Kills the controller each time it has made so many writes, the last of
/// which it never learns of, until `done`.
async fn kill_again_and_again(
    setting: &mut Setting,
    done: impl AsyncFn() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let mut kills = 0;
    for writes in WRITES {
        setting.proxy.faults.hold_after(writes);
        if !setting.proxy.faults.until_held(BURST_LIMIT, &done).await? {
            break;
        }
        setting.take_controller()?.kill().await?;
        kills += 1;
        setting.proxy.faults.release();
        setting.start_controller()?;
    }
    setting.proxy.faults.release();
    ensure!(kills >= WRITES.len() / 2, "it was done after {kills} kills, so that little was tried");
    Ok(())
}

async fn in_a_burst(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut setting = Setting::start(&cluster, "burst").await?;
    setting.create(0..BURST).await?;
    let site = setting.site.clone();
    kill_again_and_again(&mut setting, async || Ok(ready(&site).await? == BURST)).await?;
    setting.all_ready(BURST).await?;
    setting.nobody_wronged(BURST).await?;
    setting.clear().await
}

async fn in_a_clearance(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut setting = Setting::start(&cluster, "clearance").await?;
    setting.create(0..BURST).await?;
    setting.all_ready(BURST).await?;
    let site = setting.site.clone();
    let doomed = 20..BURST;
    for number in doomed.clone() {
        site.claims.delete(&format!("web-{number}"), &DeleteParams::default()).await?;
    }
    let left = async || anyhow::Ok(site.claims.list(&ListParams::default()).await?.items.len());
    kill_again_and_again(&mut setting, async || Ok(left().await? == doomed.start)).await?;
    eventually(
        "the deleted claims to be gone",
        BURST_LIMIT,
        async || Ok((left().await? == doomed.start).then_some(())),
    )
    .await?;
    setting.all_ready(doomed.start).await?;
    setting.nobody_wronged(doomed.start).await?;
    // Each comes back to its port, which rests for it.
    let released = site
        .class_status("all released ports", |status| {
            let released: Vec<_> = status.load_balancers.iter().flat_map(|each| each.released.clone()).collect();
            (released.len() == doomed.len()).then_some(released)
        })
        .await?;
    create(&site, doomed).await?;
    setting.all_ready(BURST).await?;
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
    setting.create(0..24).await?;
    setting.all_ready(24).await?;
    // These fill the first load balancer, and begin the second one.
    setting.create(24..34).await?;
    for writes in [1, 1, 1, 2, 1, 1] {
        setting.proxy.faults.hold_after(writes);
        if !setting.proxy.faults.until_held(BURST_LIMIT, async || Ok(ready(&site).await? == 34)).await? {
            break;
        }
        setting.take_controller()?.kill().await?;
        setting.proxy.faults.release();
        setting.start_controller()?;
    }
    setting.proxy.faults.release();
    setting.all_ready(34).await?;
    setting.nobody_wronged(34).await?;
    site.fronts(2).await?;
    setting.clear().await
}
