//! `aws_burst_200_ratio`: many claims at once under the rates at which AWS lets
//! an account call it, over the least time that those rates allow.
//!
//! A port takes three writes: CreateTargetGroup and CreateListener come out of
//! the one bucket of an account and region, RegisterTargets out of another. So
//! with full buckets at the start, the least time is
//! `max((2 × claims - 20) / 3, (claims - 20) / 4)` seconds. What the load
//! balancers themselves take, four of them for 200 claims, is not in it.
//!
//! One claim more, whose listener AWS never makes, is tried all the while
//! (`aws_burst_200_failing_tries`): it costs the others next to nothing if the ratio
//! is near 1 all the same.
//!
//! The stand-in for AWS throttles as AWS does, in real time: what was throttled
//! all the same is `aws_burst_200_throttled`, and reads are counted too.

use std::time::{Duration, Instant};

use anyhow::Context;
use kube::Api;
use serde_json::json;
use sharedlb_crds::{SharedLB, SharedLBClass};
use sharedlb_testbed::{AwsFault, AwsPeer, AwsRegion, eventually};

use crate::claims::{Tenant, add_pods, prepare};
use crate::controller::Controller;
use crate::figures::{print, progress};
use crate::scale::Scale;
use crate::stage::{CONNECTIONS, PATIENCE, Stage, for_all};

/// How many claims there are.
const CLAIMS: usize = 200;

/// The buckets, tokens and tokens a second: as the stand-in has them, by the
/// page "Request throttling for the Elastic Load Balancing API".
const WRITES: (f64, f64) = (20.0, 3.0);
const REGISTRATIONS: (f64, f64) = (20.0, 4.0);

/// How long the burst may take: several times what it should.
const LIMIT: Duration = Duration::from_secs(10 * 60);

const CLASS: &str = "nlb";
/// The fault that one claim has for ever.
const FAILING: &str = "failing";

/// Measures the burst.
pub(crate) async fn run(stage: &Stage, peer: &AwsPeer) -> anyhow::Result<()> {
    let claims = Scale::asked_for()?.claims.min(CLAIMS);
    let region = peer.region(3).await?;
    let controller = Controller::start_in(stage, &region.environment()).await?;
    prepare(stage).await?;
    create_class(stage, &region).await?;
    let mut tenants: Vec<_> = (0..=claims).map(|number| Tenant::new(CLASS, number)).collect();
    add_pods(stage, &tenants).await?;
    controller.until_quiet().await?;
    let failing = tenants.pop().context("there is one more")?;
    fail_for_ever(stage, &region, &failing).await?;

    let least = least_time(claims);
    progress(&format!("{claims} claims at once, with the rates of AWS: at least {:.0} s", least.as_secs_f64()));
    region.forget().await?;
    region.set(json!({"throttled": true})).await?;
    let ready: Vec<_> = tenants.iter().map(|tenant| tenant.readiness(stage)).collect();
    let started = Instant::now();
    for_all(&tenants, CONNECTIONS, async |tenant: &Tenant| tenant.create(stage).await.map(drop)).await?;
    let mut ended = started;
    for ready in ready {
        ended = ended.max(ready.wait(LIMIT).await?.at);
    }
    let took = ended - started;
    let calls = region.log().await?;
    let reads = calls.iter().filter(|call| call.reads()).count();
    let tries = region.hits(FAILING).await?;
    let throttled = calls.iter().filter(|call| call.outcome != "ok").count().saturating_sub(tries);
    print(&format!("aws_burst_{claims}_s"), took.as_secs_f64(), "s");
    print(&format!("aws_burst_{claims}_ratio"), took.as_secs_f64() / least.as_secs_f64(), "ratio");
    print(&format!("aws_burst_{claims}_writes"), (calls.len() - reads) as f64, "calls");
    print(&format!("aws_burst_{claims}_reads"), reads as f64, "calls");
    print(&format!("aws_burst_{claims}_throttled"), throttled as f64, "calls");
    print(&format!("aws_burst_{claims}_failing_tries"), tries as f64, "calls");
    Ok(())
}

/// Makes a claim whose listener is never made, and returns once that has failed.
async fn fail_for_ever(stage: &Stage, region: &AwsRegion, tenant: &Tenant) -> anyhow::Result<()> {
    let refused = |name: &str| AwsFault::error(name, &["CreateListener"], "InternalFailure", "never").times(None);
    let (port, any) = (tenant.port(stage), "any");
    region.fault(&refused(any)).await?;
    tenant.create(stage).await?;
    port.wait(PATIENCE).await?;
    let claims: Api<SharedLB> = Api::namespaced(stage.admin.clone(), &tenant.namespace);
    let status = claims.get(&tenant.name).await?.status.unwrap_or_default();
    let port = status.ports.first().context("it has a port")?.port;
    eventually("the listener to be refused", PATIENCE, async || Ok((region.hits(any).await? > 0).then_some(())))
        .await?;
    region.fault(&refused(FAILING).with("Port", &port.to_string())).await?;
    region.release(any).await
}

/// The least time for so many new ports with one target each.
fn least_time(claims: usize) -> Duration {
    let time = |calls: usize, (size, a_second): (f64, f64)| ((calls as f64 - size) / a_second).max(0.0);
    Duration::from_secs_f64(time(2 * claims, WRITES).max(time(claims, REGISTRATIONS)))
}

/// Makes a class, and returns when it has its first load balancer.
async fn create_class(stage: &Stage, region: &AwsRegion) -> anyhow::Result<SharedLBClass> {
    let class = json!({
        "apiVersion": "sharedlb.dev/v1alpha1",
        "kind": "SharedLBClass",
        "metadata": {"name": CLASS},
        "spec": {
            "provider": {"aws": {
                "region": region.name, "vpcId": region.vpc, "subnets": region.subnets, "scheme": "internal",
            }},
            "portsPerNamespace": 1_000,
        },
    });
    stage.add_class(serde_json::from_value(class)?).await
}
