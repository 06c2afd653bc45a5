//! The controller is killed between any two calls.

use std::sync::Arc;

use anyhow::ensure;
use kube::api::{DeleteParams, ListParams};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::{LIMIT, Tests, is_ready};
use sharedlb_testbed::{AwsFault, FaultKind, eventually};

use crate::setting::{FLAGS, Setting, World};

/// Everything that changes something.
const WRITES: [&str; 8] =
    ["Create*", "Delete*", "Register*", "Deregister*", "Modify*", "Set*", "AddTags", "RemoveTags"];

/// An upper limit of the writes for one load balancer.
const ENOUGH: usize = 12;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("killed after any call, the controller creates nothing twice and leaves nothing behind", after),
        test.test("killed before any call, it makes nothing twice and leaves nothing behind", before),
    ]
}

async fn after(world: Arc<World>) -> anyhow::Result<()> {
    killed(world, "killed-after", FaultKind::Hold).await
}

async fn before(world: Arc<World>) -> anyhow::Result<()> {
    killed(world, "killed-before", FaultKind::Stall).await
}

/// A claim comes, and the controller is killed at the first of the writes that
/// takes; another comes, and it is killed at the second; and so on. Then they
/// go, one after another, and last the class, in the same way.
async fn killed(world: Arc<World>, name: &str, kind: FaultKind) -> anyhow::Result<()> {
    let setting = Setting::start(&world, name, json!({})).await?;
    let promised = async |count: usize| {
        let claims = setting.claims.list(&ListParams::default()).await?.items;
        let all_there = claims.len() == count && claims.iter().all(is_ready);
        anyhow::Ok(all_there && setting.seen().await?.require(&claims, &setting.targets()).is_ok())
    };
    let mut claims = 0;
    loop {
        let create = setting.create_burst(claims..claims + 1);
        claims += 1;
        if !strike(&setting, kind, claims - 1, create, async || promised(claims).await).await? {
            break;
        }
        ensure!(claims < ENOUGH, "a port takes too many writes: {:?}", setting.actions().await?);
    }
    // The first of them made the load balancer, and a port takes three writes.
    ensure!(claims >= 4, "only {} kills while claims came", claims - 1);
    ensure!(setting.seen().await?.balancers.len() == 1);

    let mut writes = 0;
    loop {
        claims -= 1;
        let delete = async {
            setting.claims.delete(&format!("web-{claims}"), &DeleteParams::default()).await?;
            Ok(())
        };
        if !strike(&setting, kind, writes, delete, async || promised(claims).await).await? {
            break;
        }
        writes += 1;
    }
    ensure!(writes >= 2, "only {writes} kills while claims went");

    setting.claims.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    let gone = async || anyhow::Ok(setting.classes.get_opt(&setting.class).await?.is_none());
    ensure!(strike(&setting, kind, 0, setting.delete_class(), gone).await?, "the class went without a write");
    let seen = setting.seen().await?;
    ensure!(seen.balancers.is_empty() && seen.unused_groups.is_empty(), "{seen:?}");
    Ok(())
}

/// Does something, and kills the controller at one of the writes that come of it:
/// the one after so many. Waits until it is done all the same, and tells whether
/// there were as many writes.
async fn strike(
    setting: &Setting,
    kind: FaultKind,
    after: usize,
    cause: impl Future<Output = anyhow::Result<()>>,
    done: impl AsyncFn() -> anyhow::Result<bool>,
) -> anyhow::Result<bool> {
    setting.region.forget().await?;
    setting.region.fault(&AwsFault::new("kill", kind, &WRITES).after(after)).await?;
    cause.await?;
    let struck = eventually("a write, or the end", LIMIT, async || {
        // In this order: the last write may come while it is looked.
        let is_done = done().await?;
        let hits = setting.region.hits("kill").await?;
        Ok(if hits > 0 { Some(true) } else { is_done.then_some(false) })
    });
    let struck = struck.await?;
    if struck {
        setting.world.kill().await?;
        setting.region.release("kill").await?;
        setting.world.start_controller(&setting.region, &FLAGS).await?;
        let what = format!("all to be as promised after a kill at write {after}");
        let recovered = eventually(&what, LIMIT, async || Ok(done().await?.then_some(()))).await;
        if let Err(error) = recovered {
            return Err(error.context(format!("the calls were {:?}", setting.actions().await?)));
        }
    } else {
        setting.region.release("kill").await?;
    }
    Ok(struck)
}
