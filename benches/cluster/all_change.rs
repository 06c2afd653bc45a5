//! `all_change`: all claims of a class wait for it, and it is created.
//!
//! The time runs until all have ports. Then, with the controller stopped, a bare client
//! makes as many writes of the same kinds.

use std::time::{Duration, Instant};

use anyhow::Context;

use crate::claims::{Tenant, add_pods};
use crate::controller::Controller;
use crate::figures::{print, progress};
use crate::stage::{CONNECTIONS, Stage, for_all};
use crate::{bare, census};

const CLASS: &str = "late";

/// How long all claims may take.
const LIMIT: Duration = Duration::from_secs(900);

/// How often the controller's connections are counted.
const COUNT_EVERY: Duration = Duration::from_millis(50);

/// Measures so many claims. The controller that is given back is another one than before.
pub(crate) async fn measure(stage: &Stage, controller: Controller, count: usize) -> anyhow::Result<Controller> {
    progress(&format!("{count} claims wait for their class"));
    let tenants: Vec<Tenant> = (0..count).map(|number| Tenant::new(CLASS, number)).collect();
    // Every claim has a pod, so that what follows a port is written as well.
    add_pods(stage, &tenants).await?;
    let ports: Vec<_> = tenants.iter().map(|tenant| tenant.port(stage)).collect();
    for_all(&tenants, CONNECTIONS, async |tenant: &Tenant| tenant.create(stage).await.map(drop)).await?;
    controller.until_quiet().await?;

    progress("their class is created");
    let census = census::start(&stage.admin).await?;
    let started = Instant::now();
    stage.create_class(CLASS).await?;
    let all = async {
        let mut ended = started;
        for port in ports {
            ended = ended.max(port.wait(LIMIT).await?.at);
        }
        anyhow::Ok(ended - started)
    };
    tokio::pin!(all);
    let (mut most, mut ticks) = (0, tokio::time::interval(COUNT_EVERY));
    let took = loop {
        tokio::select! {
            took = &mut all => break took?,
            _ = ticks.tick() => most = most.max(controller.connections()?),
        }
    };
    let writes = census.counts();
    controller.until_quiet().await?;

    progress(&format!("{:.2} s; the same writes by a bare client: {writes:?}", took.as_secs_f64()));
    controller.kill().await?;
    let bare = bare::time_of(&stage.admin, &writes, tenants.first().context("a claim")?).await?;
    print("all_change_s", took.as_secs_f64(), "s");
    print("all_change_ratio", took.as_secs_f64() / bare.as_secs_f64(), "ratio");
    print("all_change_connections", most as f64, "connections");
    let controller = Controller::start(stage).await?;
    controller.until_quiet().await?;
    Ok(controller)
}
