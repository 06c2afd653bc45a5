//! Chaos: claims, Services, pods, namespaces and classes come, change and go all the
//! time, and teams turn on each other, while the controller is killed, frozen and cut
//! off, the API server and etcd restart, AWS fails, and the load balancers' owner
//! alters them by hand. An observer judges every state that there is on the way
//! (`observer`), the data path is asked all the time (`asker`), and in the end all
//! has to be well (`end`).
//!
//! `CHAOS_SECONDS` says for how long, and `CHAOS_SEED` what is done when (`plan`).
//! Without them it is a short run, always of the same plan.

mod api;
mod asker;
mod cloud;
mod end;
mod objects;
mod observer;
mod owner;
mod plan;
mod replica;
mod report;
mod reshape;
mod services;
mod stage;
mod strikes;
mod teams;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use libtest_mimic::{Arguments, Trial};
use sharedlb_harness::controller_kubeconfig;
use sharedlb_testbed::{AwsPeer, Cluster, Parts, Testbed, enter};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use asker::Canary;
use observer::Asked;
use plan::Plan;
use replica::{REPLICAS, Replica};
use stage::{Stage, Times};

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

/// How long a run takes that nobody asked to be longer, without the start, the
/// end, and how long the last fault takes.
const SHORT: u64 = 10;
/// What of its plan is done even where acts take longer than planned.
const LIKELY_DONE: Duration = Duration::from_secs(6);
/// Its plan.
const SEED: u64 = 158;

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts { aws: true, json_storage: true, node_ports: Some(objects::NODE_PORTS), ..Parts::ALL })?;
    let (seconds, seed) = (setting("CHAOS_SECONDS", SHORT)?, setting("CHAOS_SEED", SEED)?);
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let runtime = Runtime::new()?;
    let handle = runtime.handle().clone();
    let trials = vec![
        Trial::test("one seed gives one plan, and another seed another plan", || {
            let draw = |seed| Plan::draw(seed, Duration::from_secs(60));
            if draw(1) == draw(1) && draw(1) != draw(2) { Ok(()) } else { Err("it is not".into()) }
        }),
        Trial::test("a short run includes every attack of the teams", || {
            let lacking = Plan::draw(SEED, Duration::from_secs(SHORT)).lacks(LIKELY_DONE);
            if lacking.is_empty() { Ok(()) } else { Err(format!("it lacks {lacking:?}").into()) }
        }),
        Trial::test("a renamed or reordered port is judged only if it can be identified", || Ok(observer::try_rule()?)),
        Trial::test("no invariant is violated during faults, and everything converges at the end", move || {
            let run = handle.block_on(run(testbed, Duration::from_secs(seconds), seed));
            run.map_err(|error| format!("CHAOS_SEED={seed} CHAOS_SECONDS={seconds}: {error:#}").into())
        }),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The cluster ends before the process does, whatever the test said.
    drop(runtime);
    conclusion.exit()
}

fn setting(name: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{name} is {text:?}, which is no number")),
        _ => Ok(default),
    }
}

async fn run(testbed: Testbed, lasting: Duration, seed: u64) -> anyhow::Result<()> {
    let plan = Plan::draw(seed, lasting);
    let peer = AwsPeer::start(&testbed).await?;
    let cluster = Arc::new(Cluster::start(testbed).await?);
    let stage = Stage::set(cluster.clone(), peer.region(3).await?).await?;
    let rights = controller_kubeconfig(&cluster).await?;
    let mut replicas =
        (0..REPLICAS).map(|number| Replica::start(&stage, &rights, number)).collect::<Result<Vec<_>, _>>()?;
    for replica in &mut replicas {
        replica.until_ready().await?;
    }
    let canary = Canary::start(&stage).await?;
    let foreign = stage.observer.seal().await?;
    ensure!(foreign == objects::foreign().len(), "the observer has seen {foreign} foreign objects");
    let foreign = cloud::foreign_things(&stage.observer.at_aws());
    ensure!(foreign == cloud::FOREIGN_THINGS, "the observer has seen {foreign} foreign things at AWS");

    println!("chaos: seed {seed}, for {lasting:?}");
    let ran = async {
        strikes::keeping(&mut replicas, stage.until_served()).await?;
        let acted = act(&stage, &plan, &mut replicas, lasting).await?;
        anyhow::Ok((acted, strikes::keeping(&mut replicas, finish(&stage)).await))
    };
    let (acted, ended) = tokio::select! {
        ran = ran => ran?,
        never = asker::ask(&stage, &canary) => match never {},
    };
    let (events, wrongs) = stage.observer.judgement().await?;
    let asked = stage.observer.questions_asked();
    tell(&stage, seed, acted, (events, &wrongs), &asked);
    match &ended {
        Ok((took, asked)) => println!(
            "chaos: converged within {took:.1?} (at most {:?}), {asked} ports answered as they must, nothing was left",
            end::BOUND
        ),
        Err(error) => println!("chaos: {error:#}"),
    }
    if !wrongs.is_empty() {
        bail!("{} promises were broken, first:\n{}", wrongs.len(), wrongs[..wrongs.len().min(20)].join("\n"));
    }
    ended?;
    ensure!(asked.judged > 0, "no answer could be judged");
    Ok(())
}

/// Does everything that is planned; returns how long that took.
async fn act(stage: &Stage, plan: &Plan, replicas: &mut [Replica], lasting: Duration) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let times = Times { began, end: began + lasting };
    let teams = plan.teams.iter().zip(0..).map(|(steps, team)| teams::team(stage, times, team, steps));
    let (struck, failed, ..) = tokio::join!(
        strikes::strikes(stage, times, replicas, &plan.faults),
        cloud::faults(stage, times, &plan.cloud_faults),
        futures::future::join_all(teams),
        teams::admin(stage, times, &plan.admin),
        owner::owner(stage, times, &plan.owner),
        cloud::owner(stage, times, &plan.cloud_owner),
    );
    struck.context("what strikes the controller")?;
    failed.context("what fails at AWS")?;
    Ok(began.elapsed())
}

/// Says what was done, and how much of it was judged.
fn tell(stage: &Stage, seed: u64, acted: Duration, (events, wrongs): (u64, &[String]), asked: &Asked) {
    let kills = stage.report.done("fault: Kill");
    let faults = stage.report.done("fault: ");
    let claims = stage.report.done("team: Create");
    let leaders = stage.observer.leaders();
    println!("chaos: seed {seed}, {acted:.0?} of acts:\n{}", stage.report);
    println!(
        "chaos: {kills} kills, {faults} faults, {leaders} leaders, {claims} claims and Services, {events} events judged, {} wrong",
        wrongs.len()
    );
    println!("chaos: {} questions asked, {} answered, {} answers judged", asked.asked, asked.answered, asked.judged);
    println!("chaos: {} times the ports of an open claim were renamed or reordered", stage.observer.continued());
}

/// Returns how long it took to converge, and how many ports were asked.
async fn finish(stage: &Stage) -> anyhow::Result<(Duration, usize)> {
    end::linger(stage).await.context("before the end")?;
    end::calm(stage).await.context("before the end")?;
    end::cramp(stage).await.context("without node ports")?;
    end::make_room(stage).await.context("before the end")?;
    let took = end::converge(stage).await.context("in the end")?;
    let asked = end::traffic(stage).await.context("in the end")?;
    end::clear(stage).await.context("after the end")?;
    Ok((took, asked))
}
