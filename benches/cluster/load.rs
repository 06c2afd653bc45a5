//! The parts of the bench that are about many claims.

use std::time::Instant;

use crate::claims::{FEW, SmallClasses, Tenant, populate, prepare};
use crate::controller::Controller;
use crate::echo::Echo;
use crate::figures::progress;
use crate::parts::{Chosen, Part};
use crate::scale::Scale;
use crate::stage::Stage;
use crate::{all_change, burst, endpoints, latency, other_class, services, steady, writes};

/// The class that has many claims.
const CLASS: &str = "bench";

/// The parts that are measured where the class has all claims.
const FULL: [Part; 5] = [Part::Full, Part::Endpoints, Part::OtherClass, Part::Steady, Part::AllChange];

/// Fills a class step by step, as far as the chosen parts need it, and measures them.
pub(crate) async fn run(stage: &Stage, chosen: &Chosen) -> anyhow::Result<()> {
    let scale = Scale::asked_for()?;
    prepare(stage).await?;
    let mut controller = Controller::start(stage).await?;
    let mut echo = Echo::start(stage).await?;
    if chosen.has(Part::Few) {
        where_there_are_few(stage, &controller, &mut echo, scale.samples).await?;
    }
    if chosen.has(Part::Services) {
        services::measure(stage, &mut echo, scale.samples).await?;
    }
    if chosen.has(Part::Writes) {
        writes::measure(stage, &controller).await?;
    }
    if chosen.has(Part::BurstServices) {
        writes::measure_burst(stage, &controller, scale.claims / 10).await?;
    }
    let (needs_tenth, needs_full) = (chosen.has_any(&[Part::Tenth, Part::Burst]), chosen.has_any(&FULL));
    if !needs_tenth && !needs_full {
        return Ok(());
    }
    stage.class(CLASS).await?;
    let mut class = Filling { stage, tenants: Vec::new() };
    if needs_tenth {
        controller = where_there_is_a_tenth(&mut class, controller, &mut echo, &scale, chosen).await?;
    }
    if needs_full {
        where_there_are_all(&mut class, controller, echo, &scale, chosen).await?;
    }
    Ok(())
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

/// Measures the class with a tenth of its claims. The controller that is given back is
/// another one than before.
async fn where_there_is_a_tenth(
    class: &mut Filling<'_>,
    controller: Controller,
    echo: &mut Echo,
    scale: &Scale,
    chosen: &Chosen,
) -> anyhow::Result<Controller> {
    let (stage, tenth) = (class.stage, scale.claims / 10);
    class.fill(tenth).await?;
    controller.until_quiet().await?;
    if chosen.has(Part::Tenth) {
        latency::measure(stage, echo, tenth, class.next(scale.samples)).await?;
    }
    if chosen.has(Part::Burst) {
        return burst::measure(stage, controller, class.next(burst::BURSTS * tenth), tenth).await;
    }
    Ok(controller)
}

/// Measures the class with all its claims.
async fn where_there_are_all(
    class: &mut Filling<'_>,
    mut controller: Controller,
    mut echo: Echo,
    scale: &Scale,
    chosen: &Chosen,
) -> anyhow::Result<()> {
    let stage = class.stage;
    class.fill(scale.claims).await?;
    progress("as many objects of the echo's kind");
    echo.surround(scale.claims).await?;
    progress("until all Events are written");
    controller.until_quiet().await?;
    if chosen.has(Part::Full) {
        latency::measure(stage, &mut echo, scale.claims, class.next(scale.samples)).await?;
    }
    if chosen.has(Part::Endpoints) {
        endpoints::measure(stage, &class.tenants[..FEW], scale.samples / 2).await?;
    }
    if chosen.has(Part::OtherClass) {
        let large = &class.tenants[..scale.claims];
        controller = other_class::measure(stage, controller, &mut echo, large, scale.samples / 2).await?;
    }
    drop(echo);
    if chosen.has(Part::Steady) {
        controller = steady::measure(stage, controller, scale.idle).await?;
    }
    if chosen.has(Part::AllChange) {
        all_change::measure(stage, controller, scale.claims).await?;
    }
    Ok(())
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
