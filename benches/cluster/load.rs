//! The part of the bench that is about many claims.

use std::time::{Duration, Instant};

use crate::claims::{FEW, SmallClasses, Tenant, populate, prepare};
use crate::controller::Controller;
use crate::echo::Echo;
use crate::figures::progress;
use crate::stage::Stage;
use crate::{all_change, burst, endpoints, latency, other_class, services, steady, writes};

/// The class that has many claims.
const CLASS: &str = "bench";

/// How large the bench is.
struct Scale {
    /// The claims of a class that has many, and of one that has a tenth of them
    claims: usize,
    /// The claims that are measured one after another
    samples: usize,
    /// How long nothing happens
    idle: Duration,
}

impl Scale {
    /// The full load, or a smaller one for trials.
    fn asked_for() -> anyhow::Result<Self> {
        let claims = match std::env::var("BENCH_CLAIMS") {
            Ok(claims) => claims.parse::<usize>()?.max(200),
            Err(_) => 10_000,
        };
        let idle = Duration::from_secs(if claims < 10_000 { 10 } else { 60 });
        Ok(Self { claims, samples: (claims / 50).clamp(20, 200), idle })
    }
}

/// Fills a class step by step, and measures at each.
pub(crate) async fn run(stage: &Stage) -> anyhow::Result<()> {
    let scale = Scale::asked_for()?;
    prepare(stage).await?;
    let controller = Controller::start(stage).await?;
    let mut echo = Echo::start(stage).await?;
    where_there_are_few(stage, &controller, &mut echo, scale.samples).await?;
    services::measure(stage, &mut echo, scale.samples).await?;
    writes::measure(stage, &controller).await?;
    writes::measure_burst(stage, &controller, scale.claims / 10).await?;

    stage.class(CLASS).await?;
    let mut class = Filling { stage, tenants: Vec::new() };
    let tenth = scale.claims / 10;
    class.fill(tenth).await?;
    controller.until_quiet().await?;
    latency::measure(stage, &mut echo, tenth, class.next(scale.samples)).await?;
    let controller = burst::measure(stage, controller, class.next(burst::BURSTS * tenth), tenth).await?;

    class.fill(scale.claims).await?;
    progress("as many objects of the echo's kind");
    echo.surround(scale.claims).await?;
    progress("until all Events are written");
    controller.until_quiet().await?;
    latency::measure(stage, &mut echo, scale.claims, class.next(scale.samples)).await?;
    endpoints::measure(stage, &class.tenants[..FEW], scale.samples / 2).await?;
    let large = &class.tenants[..scale.claims];
    let controller = other_class::measure(stage, controller, &mut echo, large, scale.samples / 2).await?;
    drop(echo);
    let controller = steady::measure(stage, controller, scale.idle).await?;
    all_change::measure(stage, controller, scale.claims).await.map(drop)
}

/// Measures classes that have few claims.
async fn where_there_are_few(
    stage: &Stage,
    controller: &Controller,
    echo: &mut Echo,
    samples: usize,
) -> anyhow::Result<()> {
    progress(&format!("{} classes of {FEW} claims", samples / FEW));
    let classes = SmallClasses::make(stage, "few", samples / FEW).await?;
    controller.until_quiet().await?;
    latency::measure(stage, echo, FEW, &classes.tenants(1)).await?;
    controller.until_quiet().await?;
    latency::measure_closed_loop(stage, echo, &classes.tenants(2)).await
}

/// The class that has many claims, while it fills.
struct Filling<'a> {
    stage: &'a Stage,
    tenants: Vec<Tenant>,
}

impl Filling<'_> {
    /// So many further tenants.
    fn next(&mut self, count: usize) -> &[Tenant] {
        let first = self.tenants.len();
        self.tenants.extend((first..first + count).map(|number| Tenant::new(CLASS, number)));
        &self.tenants[first..]
    }

    /// Adds claims until there are so many, and waits until all are ready.
    async fn fill(&mut self, count: usize) -> anyhow::Result<()> {
        let (stage, started) = (self.stage, Instant::now());
        let new = self.next(count.saturating_sub(self.tenants.len()));
        progress(&format!("{} further claims, to have {count}", new.len()));
        populate(stage, new).await?;
        progress(&format!("all are ready after {:.0} s", started.elapsed().as_secs_f64()));
        Ok(())
    }
}
