//! `status_port`: how long a new claim waits for its port.

use std::time::Duration;

use crate::claims::{Tenant, add_pods, time_to_port};
use crate::echo::Echo;
use crate::figures::{percentile_ms, print, progress};
use crate::stage::Stage;

/// Measures new claims one after another, without a pause: the next is created
/// as soon as the port of the one before is seen. The echo is measured between
/// them, in the order claim, echo, echo, claim, so that either comes as often
/// after the one as after the other, and both bear what is still being done for
/// the claims before.
pub(crate) async fn measure(stage: &Stage, echo: &mut Echo, claims: usize, tenants: &[Tenant]) -> anyhow::Result<()> {
    progress(&format!("{} claims, one after another, where there are {claims}", tenants.len()));
    add_pods(stage, tenants).await?;
    let (ports, answers) = beside_echo(tenants, echo, async |tenant| time_to_port(stage, tenant).await).await?;
    report(claims, &ports, &answers);
    Ok(())
}

/// Measures something of each tenant, and as many answers of the echo: in the order tenant,
/// echo, echo, tenant.
pub(crate) async fn beside_echo(
    tenants: &[Tenant],
    echo: &mut Echo,
    mut time_of: impl AsyncFnMut(&Tenant) -> anyhow::Result<Duration>,
) -> anyhow::Result<(Vec<Duration>, Vec<Duration>)> {
    let (mut times, mut answers) = (Vec::new(), Vec::new());
    for (number, tenant) in tenants.iter().enumerate() {
        if number % 2 == 0 {
            times.push(time_of(tenant).await?);
            answers.push(echo.time_to_answer().await?);
        } else {
            answers.push(echo.time_to_answer().await?);
            times.push(time_of(tenant).await?);
        }
    }
    Ok((times, answers))
}

/// How many claims, and answers of the echo, follow each other without a pause.
const IN_A_ROW: usize = 10;

/// Measures claims in a closed loop: the next one is created as soon as the port of the
/// last one is seen. The echo takes turns with them in closed loops of its own.
pub(crate) async fn measure_closed_loop(stage: &Stage, echo: &mut Echo, tenants: &[Tenant]) -> anyhow::Result<()> {
    progress(&format!("{} claims in closed loops", tenants.len()));
    add_pods(stage, tenants).await?;
    let (mut ports, mut answers) = (Vec::new(), Vec::new());
    for tenants in tenants.chunks(IN_A_ROW) {
        for tenant in tenants {
            ports.push(time_to_port(stage, tenant).await?);
        }
        for _ in tenants {
            answers.push(echo.time_to_answer().await?);
        }
    }
    print("closed_loop_ratio", percentile_ms(&ports, 50) / percentile_ms(&answers, 50), "ratio");
    Ok(())
}

fn report(claims: usize, ports: &[Duration], answers: &[Duration]) {
    let (port, answer) = (percentile_ms(ports, 50), percentile_ms(answers, 50));
    print(&format!("status_port_p50_ms_{claims}"), port, "ms");
    print(&format!("status_port_p99_ms_{claims}"), percentile_ms(ports, 99), "ms");
    print(&format!("echo_p50_ms_{claims}"), answer, "ms");
    print(&format!("echo_p99_ms_{claims}"), percentile_ms(answers, 99), "ms");
    print(&format!("status_port_ratio_{claims}"), port / answer, "ratio");
}
