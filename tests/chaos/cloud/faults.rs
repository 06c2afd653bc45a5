//! What goes wrong at AWS, for all of the controller's calls.

use std::time::Duration;

use serde_json::{Value, json};
use sharedlb_testbed::{AwsFault, AwsRegion, FaultKind};
use tokio::time::sleep;

use crate::plan::{CloudFault, Step};
use crate::report::Became;
use crate::stage::{Stage, Times};

/// All actions that change something.
pub(crate) const WRITES: [&str; 8] =
    ["Create*", "Delete*", "Register*", "Deregister*", "Modify*", "Set*", "AddTags", "RemoveTags"];

/// The name of whatever fault there is: there is one at a time.
const NAME: &str = "weather";

/// Lets calls go wrong, one way after the other.
pub(crate) async fn faults(stage: &Stage, times: Times, steps: &[Step<CloudFault>]) -> anyhow::Result<()> {
    for step in steps {
        if !times.come(step).await {
            break;
        }
        strike(&stage.region, step.act).await?;
        stage.report.count("AWS", step.act, Became::Done);
    }
    Ok(())
}

async fn strike(region: &AwsRegion, fault: CloudFault) -> anyhow::Result<()> {
    let of_kind = |kind, actions: &[&str]| AwsFault::new(NAME, kind, actions);
    match fault {
        CloudFault::Ration { lasting } => {
            set_for(region, lasting, json!({"throttled": true}), json!({"throttled": false})).await
        }
        CloudFault::Slow { by, lasting } => {
            set_for(region, lasting, json!({"latency": {"*": seconds(by)}}), json!({"latency": {}})).await
        }
        CloudFault::Provision { by, lasting } => {
            let set = |by| json!({"provisioning_seconds": by, "in_use_seconds": by / 4.0});
            set_for(region, lasting, set(seconds(by)), set(0.0)).await
        }
        CloudFault::Throttle { calls, lasting } => {
            let throttled = AwsFault::error(NAME, &["*"], "Throttling", "Rate exceeded");
            fail_for(region, lasting, throttled, calls).await
        }
        CloudFault::Deny { calls, lasting } => {
            let denied = AwsFault::error(NAME, &WRITES, "AccessDenied", "not for a while");
            fail_for(region, lasting, denied, calls).await
        }
        CloudFault::Fail { calls, lasting } => {
            fail_for(region, lasting, of_kind(FaultKind::Error, &["*"]), calls).await
        }
        CloudFault::LoseAnswers { calls, lasting } => {
            fail_for(region, lasting, of_kind(FaultKind::Lost, &WRITES), calls).await
        }
        CloudFault::Unreachable { calls, lasting } => {
            fail_for(region, lasting, of_kind(FaultKind::Unreached, &["*"]), calls).await
        }
    }
}

async fn set_for(region: &AwsRegion, lasting: u64, settings: Value, back: Value) -> anyhow::Result<()> {
    region.set(settings).await?;
    sleep(Duration::from_millis(lasting)).await;
    region.set(back).await
}

async fn fail_for(region: &AwsRegion, lasting: u64, fault: AwsFault, calls: u64) -> anyhow::Result<()> {
    region.fault(&fault.times(usize::try_from(calls).ok())).await?;
    sleep(Duration::from_millis(lasting)).await;
    region.release(NAME).await
}

fn seconds(millis: u64) -> f64 {
    Duration::from_millis(millis).as_secs_f64()
}
