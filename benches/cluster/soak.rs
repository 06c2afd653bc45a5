//! `soak`: many claims in many namespaces, of which 100 a second change.
//!
//! `SOAK_CLAIMS` (10,000) claims in a twentieth as many namespaces, for
//! `SOAK_SECONDS` (300). The time is cut into slices of at most 10 s, of four
//! kinds in turn, so that what the machine does besides falls on all alike:
//!
//! - *calm*: the changes alone;
//! - *noisy*: one claim, and all claims of one namespace, are edited besides by
//!   two tenants as fast as the API server answers them;
//! - *spread*: the same two edit many claims of many namespaces. What that does to
//!   the others comes of how many edits there are; what the noisy do beyond it, of
//!   the edits all being theirs;
//! - *failing*: there are claims besides whose Service the API server refuses,
//!   for ever.
//!
//! A change counts for the slice in which it was begun. Beside all of them runs
//! the echo, the floor under every latency.
//!
//! It fails if the changes could not be made at their rate, if one is not seen
//! within a minute (so that no claim starves), if the queue is not drained within a minute
//! of the last change, or if the memory is not flat: the median of the last quarter
//! of the time must not be more than [`GROWTH_MAX`] times that of the second
//! quarter. The first is for warming up.

mod changes;
mod trouble;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use self::changes::{Changes, Sample};
use self::trouble::Trouble;
use crate::claims::{Tenant, populate, prepare_namespaces};
use crate::controller::Controller;
use crate::echo::Echo;
use crate::figures::{median, percentile_ms, print, progress};
use crate::stage::{PATIENCE, Stage};

/// The class of all claims.
const CLASS: &str = "soak";
/// The claims that a namespace has.
const PER_NAMESPACE: usize = 20;
/// From one change to the next.
const EVERY: Duration = Duration::from_millis(10);
/// From one look at the memory to the next.
const WEIGH_EVERY: Duration = Duration::from_secs(1);
/// From one echo to the next.
const ECHO_EVERY: Duration = Duration::from_millis(100);
/// By what factor the memory may grow.
const GROWTH_MAX: f64 = 1.05;
/// What part of the rate is to be kept up at least.
const RATE_MIN: f64 = 0.95;

/// What else goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Calm,
    Noisy,
    Spread,
    Failing,
}

/// What is now; `None`: it is over.
type Phase = Option<Kind>;

/// The kinds of slices, in turn. What one leaves to be done is done in a calm one.
const SLICES: [Kind; 6] = [Kind::Calm, Kind::Noisy, Kind::Calm, Kind::Spread, Kind::Calm, Kind::Failing];

/// How large it is.
struct Scale {
    claims: usize,
    time: Duration,
    slice: Duration,
}

impl Scale {
    fn asked_for() -> anyhow::Result<Self> {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse::<u64>().with_context(|| format!("{name} must be a number")),
            Err(_) => Ok(default),
        };
        let (claims, seconds) = (number("SOAK_CLAIMS", 10_000)?, number("SOAK_SECONDS", 300)?);
        ensure!((200..=15_000).contains(&claims), "SOAK_CLAIMS must be 200 to 15000");
        ensure!(seconds >= 20, "SOAK_SECONDS must be at least 20");
        let time = Duration::from_secs(seconds);
        // Some of each kind, also in a short one.
        Ok(Self { claims: usize::try_from(claims)?, time, slice: (time / 12).min(Duration::from_secs(10)) })
    }

    fn kind(&self, elapsed: Duration) -> Kind {
        let number = elapsed.as_millis() / self.slice.as_millis();
        SLICES[usize::try_from(number).unwrap_or_default() % SLICES.len()]
    }
}

/// What was measured.
#[derive(Default)]
struct Measured {
    samples: Vec<(Kind, Sample)>,
    echoes: Vec<(Kind, Duration)>,
    /// When, and how many MB
    memory: Vec<(Duration, f64)>,
    changes: usize,
    /// Edits besides
    noise: usize,
    spread: usize,
    /// From the last change until the last sight of one
    drain: Duration,
}

/// Fills the class, changes it, and says what was seen.
pub(crate) async fn run(stage: &Stage) -> anyhow::Result<()> {
    let scale = Scale::asked_for()?;
    let namespaces = (scale.claims / PER_NAMESPACE).max(1);
    prepare_namespaces(stage, namespaces).await?;
    let controller = Controller::start(stage).await?;
    stage.class(CLASS).await?;
    let tenants: Vec<_> = (0..scale.claims).map(|number| Tenant::among(namespaces, CLASS, number)).collect();
    progress(&format!("{} claims in {namespaces} namespaces", tenants.len()));
    populate(stage, &tenants).await?;
    let mut echo = Echo::start(stage).await?;
    let mut changes = Changes::open(stage, tenants).await?;
    let trouble = Trouble::prepare(stage, CLASS).await?;
    progress("until all Events are written");
    controller.until_quiet().await?;

    progress(&format!("100 changes a second for {:?}", scale.time));
    let refused = controller.metrics().await?.refused_services();
    let mut measured = Measured::default();
    let (phase, phases) = watch::channel(Some(Kind::Calm));
    let driven = drive(&scale, &mut changes, phase, &mut measured.samples);
    let troubles = (trouble.noise(phases.clone()), trouble.spread(phases.clone()), trouble.failing(phases.clone()));
    let (driven, memory, echoes, noise, spread, ()) = tokio::try_join!(
        driven,
        weigh(&controller, phases.clone()),
        listen(&mut echo, phases),
        troubles.0,
        troubles.1,
        troubles.2
    )?;
    (measured.changes, measured.drain) = driven;
    (measured.memory, measured.echoes, measured.noise, measured.spread) = (memory, echoes, noise, spread);
    controller.until_quiet().await.context("the queue to be drained")?;
    let refused = controller.metrics().await?.refused_services() - refused;
    report(&scale, &measured, refused)
}

/// Makes the changes, at their rate, without waiting for results, and waits until all
/// have been seen. Returns how many there were, and how long that wait was.
async fn drive(
    scale: &Scale,
    changes: &mut Changes<'_>,
    phase: watch::Sender<Phase>,
    samples: &mut Vec<(Kind, Sample)>,
) -> anyhow::Result<(usize, Duration)> {
    let (started, mut made) = (Instant::now(), 0);
    let mut under_way = FuturesUnordered::new();
    let mut ticks = interval(EVERY);
    // Late ones are made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while started.elapsed() < scale.time {
        tokio::select! {
            _ = ticks.tick() => {
                let kind = scale.kind(started.elapsed());
                phase.send_if_modified(|phase| phase.replace(kind) != Some(kind));
                let Some(change) = changes.next() else { continue };
                made += 1;
                under_way.push(async move { change.await.map(|sample| (kind, sample)) });
            }
            Some(done) = under_way.next() => {
                let (kind, sample) = done?;
                samples.extend(sample.map(|sample| (kind, sample)));
            }
        }
    }
    let last = Instant::now();
    phase.send_replace(None);
    let rest = async {
        while let Some(done) = under_way.next().await {
            let (kind, sample) = done?;
            samples.extend(sample.map(|sample| (kind, sample)));
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, rest).await.context("the queue was not drained within a minute")??;
    Ok((made, last.elapsed()))
}

/// Looks at the memory until it is over.
async fn weigh(controller: &Controller, phases: watch::Receiver<Phase>) -> anyhow::Result<Vec<(Duration, f64)>> {
    let (started, mut ticks, mut memory) = (Instant::now(), interval(WEIGH_EVERY), Vec::new());
    while phases.borrow().is_some() {
        ticks.tick().await;
        memory.push((started.elapsed(), controller.rss_mb()?));
    }
    Ok(memory)
}

/// Measures the echo until it is over.
async fn listen(echo: &mut Echo, phases: watch::Receiver<Phase>) -> anyhow::Result<Vec<(Kind, Duration)>> {
    let (mut ticks, mut echoes) = (interval(ECHO_EVERY), Vec::new());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(kind) = *phases.borrow() else { return Ok(echoes) };
        let asked = Instant::now();
        echo.time_to_answer().await?;
        echoes.push((kind, asked.elapsed()));
    }
}

fn report(scale: &Scale, measured: &Measured, refused: f64) -> anyhow::Result<()> {
    let seconds = scale.time.as_secs_f64();
    let (rate, asked) = (measured.changes as f64 / seconds, EVERY.as_secs_f64().recip());
    print("soak_claims", scale.claims as f64, "claims");
    print("soak_changes_per_s", rate, "changes/s");
    print("soak_drain_s", measured.drain.as_secs_f64(), "s");

    let edits = |kind| of(&measured.samples, kind, Sample::edit);
    let created: Vec<Duration> = measured.samples.iter().filter_map(|(_, sample)| sample.create()).collect();
    let echoes = |kind| of(&measured.echoes, kind, |took| Some(*took));
    let (calm, calm_echo) = (edits(Kind::Calm), echoes(Kind::Calm));
    print("soak_edit_p50_ms", percentile_ms(&calm, 50), "ms");
    print("soak_edit_p99_ms", percentile_ms(&calm, 99), "ms");
    print("soak_create_port_p99_ms", percentile_ms(&created, 99), "ms");
    print("soak_echo_p50_ms", percentile_ms(&calm_echo, 50), "ms");
    print("soak_echo_p99_ms", percentile_ms(&calm_echo, 99), "ms");
    let over =
        |one: &[Duration], other: &[Duration], percent| percentile_ms(one, percent) / percentile_ms(other, percent);
    print("soak_edit_p50_ratio", over(&calm, &calm_echo, 50), "ratio");
    print("soak_edit_p99_ratio", over(&calm, &calm_echo, 99), "ratio");

    let each = seconds / SLICES.len() as f64;
    let (noisy, spread) = (edits(Kind::Noisy), edits(Kind::Spread));
    print("soak_noise_per_s", measured.noise as f64 / each, "changes/s");
    print("soak_spread_per_s", measured.spread as f64 / each, "changes/s");
    print("soak_noisy_p50_ratio", over(&noisy, &calm, 50), "ratio");
    print("soak_spread_p50_ratio", over(&spread, &calm, 50), "ratio");
    print("soak_noisy_p99_ratio", over(&noisy, &calm, 99), "ratio");
    print("soak_spread_p99_ratio", over(&spread, &calm, 99), "ratio");
    print("soak_noisy_echo_p99_ratio", over(&echoes(Kind::Noisy), &calm_echo, 99), "ratio");
    print("soak_failing_tries", refused, "writes");
    print("soak_failing_p50_ratio", over(&edits(Kind::Failing), &calm, 50), "ratio");

    let weight = |from: f64, to: f64| {
        let quarter = measured.memory.iter().filter(|(at, _)| (from..to).contains(&(at.as_secs_f64() / seconds)));
        median(quarter.map(|(_, mb)| *mb).collect())
    };
    let (warm, end) = (weight(0.25, 0.5), weight(0.75, 1.0));
    print("soak_rss_warm_mb", warm, "MB");
    print("soak_rss_end_mb", end, "MB");
    print("soak_rss_growth_ratio", end / warm, "ratio");
    ensure!(
        rate >= RATE_MIN * asked,
        "{rate:.0} of {asked:.0} changes a second: too many of the claims were still changing"
    );
    ensure!(end / warm <= GROWTH_MAX, "the memory is not flat: from {warm:.1} to {end:.1} MB");
    ensure!(refused > 0.0, "no claim failed, so that nothing was shown of failing ones");
    Ok(())
}

/// What was measured of one kind in the slices of one kind.
fn of<T>(all: &[(Kind, T)], kind: Kind, take: impl Fn(&T) -> Option<Duration>) -> Vec<Duration> {
    all.iter().filter(|(of, _)| *of == kind).filter_map(|(_, sample)| take(sample)).collect()
}
