//! The process is killed, and started again.

use std::sync::Arc;

use anyhow::{bail, ensure};
use kube::api::{DeleteParams, ListParams};
use libtest_mimic::Trial;
use sharedlb_testbed::{Cluster, eventually};

use crate::harness::Tests;
use crate::setting::{BURST_LIMIT, Setting, create, ready};

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
        test.test("killed again and again in a burst, it moves no port, loses none and gives none twice", in_a_burst),
        test.test(
            "killed again and again while claims go, it releases each port and disturbs no other",
            in_a_clearance,
        ),
        test.test("killed while the class grows, it makes no load balancer twice", growing),
    ]
}

/// Kills the controller each time it has made so many writes, the last of
/// which it never learns of, until `done`. It begins with nothing to be done:
/// `cause` makes it.
async fn kill_again_and_again(
    setting: &mut Setting,
    writes: &[u64],
    cause: impl Future<Output = anyhow::Result<()>>,
    done: impl AsyncFn() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let [first, ..] = writes else { bail!("it is never to be killed") };
    setting.proxy.faults.hold_after(*first);
    cause.await?;
    let mut kills = 0;
    while setting.proxy.faults.until_held(BURST_LIMIT, &done).await? {
        setting.take_controller()?.kill().await?;
        kills += 1;
        setting.proxy.faults.release();
        if let Some(next) = writes.get(kills) {
            setting.proxy.faults.hold_after(*next);
        }
        setting.start_controller()?;
    }
    setting.proxy.faults.release();
    ensure!(kills >= writes.len() / 2, "it was done after {kills} kills, so that little was tried");
    Ok(())
}

async fn in_a_burst(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let mut setting = Setting::start(&cluster, "burst").await?;
    let site = setting.site.clone();
    let done = async || Ok(ready(&site).await? == BURST);
    kill_again_and_again(&mut setting, &IN_A_BURST, create(&site, 0..BURST), done).await?;
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
    let done = async || Ok(ready(&site).await? == 34);
    kill_again_and_again(&mut setting, &GROWING, create(&site, 24..34), done).await?;
    setting.all_ready(34).await?;
    setting.nobody_wronged(34).await?;
    site.fronts(2).await?;
    setting.clear().await
}
