//! The faults: to the controller, to the API server and etcd, and to what is
//! between them.

use std::time::Duration;

use anyhow::Context;
use sharedlb_harness::proxy::{Ending, Faults};
use sharedlb_testbed::{AwsFault, AwsRegion, FaultKind, eventually};
use tokio::time::sleep;

use crate::cloud::WRITES;
use crate::plan::{Fault, Step};
use crate::replica::Replica;
use crate::report::Became;
use crate::stage::{Stage, Times};

/// How long one waits for writes and calls that are to be the last.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The name of the fault that holds a call.
const KILL: &str = "kill";
/// How often ended replicas are looked for.
const AGAIN: Duration = Duration::from_millis(200);

/// Lets the faults strike, one after the other: whoever leads, and what is
/// between it and the API server.
pub(crate) async fn strikes(
    stage: &Stage,
    times: Times,
    replicas: &mut [Replica],
    steps: &[Step<Fault>],
) -> anyhow::Result<()> {
    for step in steps {
        if !times.come(step).await {
            break;
        }
        revive(replicas).await?;
        let leader = stage.observer.leader();
        // If no replica leads just now, the first one is hit.
        let leads = replicas.iter().position(|replica| replica.is_called(&leader)).unwrap_or(0);
        strike(stage, &mut replicas[leads], step.act).await.with_context(|| format!("{:?}", step.act))?;
        stage.report.count("fault", step.act, Became::Done);
    }
    Ok(())
}

/// Starts those again that lost the Lease and so ended.
async fn revive(replicas: &mut [Replica]) -> anyhow::Result<()> {
    for replica in replicas {
        replica.revive().await?;
    }
    Ok(())
}

/// Does so until the end of something else.
pub(crate) async fn keeping<T>(
    replicas: &mut [Replica],
    other: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let keep = async {
        loop {
            if let Err(error) = revive(replicas).await {
                return error;
            }
            sleep(AGAIN).await;
        }
    };
    tokio::select! {
        done = other => done,
        error = keep => Err(error),
    }
}

async fn strike(stage: &Stage, replica: &mut Replica, fault: Fault) -> anyhow::Result<()> {
    let cluster = &stage.cluster;
    match fault {
        Fault::Kill { down } => replica.kill(millis(down)).await?,
        Fault::KillAtWrite { writes, down } => replica.kill_at_write(writes, PATIENCE, millis(down)).await?,
        Fault::KillAtCall { calls, done, down } => {
            let kind = if done { FaultKind::Hold } else { FaultKind::Stall };
            kill_at_call(&stage.region, replica, kind, calls, millis(down)).await?;
        }
        Fault::Stop { down } => replica.stop(millis(down)).await?,
        Fault::Freeze { lasting } => replica.freeze(millis(lasting)).await?,
        Fault::CutOff { lasting } => replica.cut_off(millis(lasting)).await?,
        Fault::RestartApiServer { down } => {
            cluster.stop_apiserver().await?;
            sleep(millis(down)).await;
            cluster.start_apiserver().await?;
        }
        Fault::RestartEtcd { down } => {
            cluster.stop_etcd().await?;
            sleep(millis(down)).await;
            cluster.start_etcd().await?;
        }
        Fault::ExpireWatches => replica.proxy().faults.end_watches(Ending::Expired),
        Fault::BreakWatches => replica.proxy().faults.end_watches(Ending::Broken),
        Fault::Compact => stage.observer.compact().await?,
        Fault::Delay { by, lasting } => {
            replica.proxy().faults.delay(millis(by));
            sleep(millis(lasting)).await;
            replica.proxy().faults.delay(Duration::ZERO);
        }
        Fault::StaleLists { lasting } => {
            replica.proxy().faults.serve_stale_lists(true);
            replica.proxy().faults.end_watches(Ending::Expired);
            sleep(millis(lasting)).await;
            replica.proxy().faults.serve_stale_lists(false);
        }
        Fault::LoseAnswers { every, lasting } => {
            for_a_while(&replica.proxy().faults, lasting, Faults::lose_answer_every, every).await;
        }
        Fault::Conflicts { every, lasting } => {
            for_a_while(&replica.proxy().faults, lasting, Faults::conflict_every, every).await;
        }
    }
    Ok(())
}

/// Lets it make so many calls of AWS that change something, and kills it before it
/// knows what became of the next one.
async fn kill_at_call(
    region: &AwsRegion,
    replica: &mut Replica,
    kind: FaultKind,
    calls: u64,
    down: Duration,
) -> anyhow::Result<()> {
    region.fault(&AwsFault::new(KILL, kind, &WRITES).after(usize::try_from(calls)?)).await?;
    let hit = eventually("a call", PATIENCE, async || Ok((region.hits(KILL).await? > 0).then_some(())));
    // Where there is nothing to call, it is killed for nothing.
    drop(hit.await);
    let killed = replica.kill(down).await;
    region.release(KILL).await?;
    killed
}

async fn for_a_while(faults: &Faults, lasting: u64, set: fn(&Faults, u64), every: u64) {
    set(faults, every);
    sleep(millis(lasting)).await;
    set(faults, 0);
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}
