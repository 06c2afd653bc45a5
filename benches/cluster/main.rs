//! The controller's figures against the real API server: `make bench`.
//!
//! On stdout is one figure a line, `name<TAB>value<TAB>unit`; on stderr is how
//! far it has got. There are four groups of parts, each in a cluster of its own:
//!
//! - *load*: many claims. No kube-proxy runs here, since where there are many
//!   claims it runs on other machines than the API server and the controller;
//!   the EndpointSlices of the claims' Services and the load balancers'
//!   addresses are the work of the real controller manager and MetalLB.
//! - *traffic*: few claims, with kube-proxy, pods that listen, and a client
//!   outside of the cluster.
//! - *vip*: the same for virtual addresses.
//! - *aws*: a burst of claims with the stand-in for AWS, which throttles.
//!
//! `cargo bench --bench cluster -- load` (or `traffic`, `vip`, `aws`) runs one of them
//! alone. A fifth one, *soak*, runs only if it is asked for: `make soak`.
//!
//! `BENCH_PARTS=other_class,steady` runs these parts alone, whose names are in [`parts::Part`],
//! and fills a class first if they need one with many claims.
//! `BENCH_CLAIMS=300` is a short version for trying: the sizes that figures have
//! in their names shrink with it.

mod all_change;
mod aws;
mod bare;
mod burst;
mod burst_ready;
mod census;
mod claims;
mod controller;
mod echo;
mod endpoints;
mod figures;
mod latency;
mod load;
mod other_class;
mod parts;
mod scale;
mod services;
mod sightings;
mod soak;
mod stage;
mod steady;
mod traffic;
mod vip;
mod writes;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum as _;
use sharedlb_testbed::{AwsPeer, Cluster, Parts, enter};
use tokio::runtime::Runtime;

use crate::parts::{Chosen, Group, name_of, named};
use crate::stage::Stage;

/// What Cargo passes to a bench, and not to the same program as a test.
const BENCH_FLAG: &str = "--bench";

/// How long a group of parts may take on a machine that is slow or busy.
const LIMIT: Duration = Duration::from_secs(45 * 60);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.is_empty() {
        eprintln!("this is a bench: run it with cargo bench --bench cluster");
        return Ok(());
    }
    if !arguments.iter().any(|argument| argument == BENCH_FLAG) {
        // Pods are played by this program too.
        return enter(Parts::ALL).map(drop);
    }
    let chosen = Chosen::from_environment()?;
    let Some(name) = arguments.iter().find(|argument| *argument != BENCH_FLAG) else {
        let groups = Group::value_variants().iter().filter(|group| chosen.has_any_of(**group));
        return groups.map(name_of).try_for_each(|group| run_again_for(&group));
    };
    let group: Group = named("group of parts", name)?;
    ensure!(group == Group::Soak || chosen.has_any_of(group), "no part of {name} is chosen");
    match group {
        Group::Load => run(Parts { node: false, ..Parts::ALL }, async |stage| load::run(stage, &chosen).await),
        Group::Traffic => run(Parts::ALL, async |stage| traffic::run(stage, &chosen).await),
        Group::Vip => run(Parts::ALL, async |stage| vip::run(stage, &chosen).await),
        Group::Aws => run_aws(),
        Group::Soak => run(Parts { node: false, ..Parts::ALL }, async |stage| soak::run(stage).await),
    }
}

/// Runs this program for one group of parts: a process has one cluster.
fn run_again_for(group: &str) -> anyhow::Result<()> {
    // It ends with us, whatever ends us.
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .arg(std::env::current_exe()?)
        .args([BENCH_FLAG, group])
        .status()
        .context("running setpriv (Debian package util-linux)")?;
    if !status.success() {
        bail!("the parts of {group} failed ({status})");
    }
    Ok(())
}

/// Runs a group of parts in a cluster with SharedLB installed.
fn run(parts: Parts, group: impl AsyncFnOnce(&Stage) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let testbed = enter(parts)?;
    Runtime::new()?.block_on(async {
        let stage = Stage::set(Cluster::start(testbed).await?).await?;
        tokio::time::timeout(LIMIT, group(&stage)).await.context("the parts to end")?
    })
}

/// Runs the part that is about AWS.
fn run_aws() -> anyhow::Result<()> {
    let testbed = enter(Parts { controller_manager: true, aws: true, ..Parts::API_ONLY })?;
    Runtime::new()?.block_on(async {
        let peer = AwsPeer::start(&testbed).await?;
        let stage = Stage::set(Cluster::start(testbed).await?).await?;
        tokio::time::timeout(LIMIT, aws::run(&stage, &peer)).await.context("the part to end")?
    })
}
