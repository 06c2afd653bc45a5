//! `burst_ratio`: many claims at once, over what the same writes cost a bare client.
//!
//! The claims are created by 16 connections, and the time runs until all have
//! ports. What the controller wrote in that time is counted from outside. Then,
//! with the controller stopped, a bare client makes as many writes of the same
//! kinds by 16 connections. The two take turns [`BURSTS`] times, and each
//! figure is the median: a burst is over in seconds, and the machine has others
//! to serve.

use std::time::{Duration, Instant};

use anyhow::Context;
use sharedlb_harness::Writes;

use crate::bare;
use crate::census::{self, Counts, Write};
use crate::claims::{Tenant, add_pods};
use crate::controller::Controller;
use crate::figures::{median, print, progress};
use crate::stage::{CONNECTIONS, Stage, for_all};

/// How many bursts there are.
pub(crate) const BURSTS: usize = 3;

/// How long a burst may take.
const LIMIT: Duration = Duration::from_secs(200);

/// Measures [`BURSTS`] bursts of this many of these claims. The controller that
/// is given back is another one than before.
pub(crate) async fn measure(
    stage: &Stage,
    mut controller: Controller,
    tenants: &[Tenant],
    claims: usize,
) -> anyhow::Result<Controller> {
    let (mut seconds, mut bare_seconds, mut counts, mut ratios) = (vec![], vec![], vec![], vec![]);
    for tenants in tenants.chunks(claims) {
        progress(&format!("{claims} claims at once"));
        add_pods(stage, tenants).await?;
        controller.until_quiet().await?;
        let census = census::start(&stage.admin).await?;
        let (took, writes) = burst(stage, &census, tenants).await?;
        controller.until_quiet().await?;

        progress(&format!("{:.2} s; the same writes by a bare client: {writes:?}", took.as_secs_f64()));
        controller.kill().await?;
        let pattern = tenants.first().context("a claim")?;
        let bare = bare::time_of(&stage.admin, &writes, pattern).await?;
        progress(&format!("{:.2} s", bare.as_secs_f64()));
        drop(census);
        controller = Controller::start(stage).await?;

        seconds.push(took.as_secs_f64());
        bare_seconds.push(bare.as_secs_f64());
        counts.push(writes.values().sum::<usize>() as f64);
        ratios.push(took.as_secs_f64() / bare.as_secs_f64());
    }
    print(&format!("burst_{claims}_s"), median(seconds), "s");
    print(&format!("burst_{claims}_bare_s"), median(bare_seconds), "s");
    print(&format!("burst_{claims}_writes"), median(counts), "writes");
    print(&format!("burst_{claims}_ratio"), median(ratios), "ratio");
    Ok(controller)
}

/// Creates all claims. Returns how long it took until all had ports, and what
/// was written until then; all are ready when it returns.
async fn burst(stage: &Stage, census: &Writes<Write>, tenants: &[Tenant]) -> anyhow::Result<(Duration, Counts)> {
    let ready: Vec<_> = tenants.iter().map(|tenant| tenant.readiness(stage)).collect();
    let ports: Vec<_> = tenants.iter().map(|tenant| tenant.port(stage)).collect();
    let started = Instant::now();
    for_all(tenants, CONNECTIONS, async |tenant: &Tenant| tenant.create(stage).await.map(drop)).await?;
    let mut ended = started;
    for port in ports {
        ended = ended.max(port.wait(LIMIT).await?.at);
    }
    let writes = census.counts();
    for ready in ready {
        ready.wait(LIMIT).await?;
    }
    Ok((ended - started, writes))
}
