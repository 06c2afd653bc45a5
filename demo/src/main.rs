//! SharedLB's main job, shown for real on this machine: a whole cluster with
//! the real controller in it, and everything that a person would type.
//!
//! `sharedlb-demo` tells the story and fails if anything is not as promised;
//! `sharedlb-demo shell` opens a shell in the same cluster instead. The
//! `sharedlb` binary has to be in the same folder.

mod shell;
mod stage;
mod story;
mod terminal;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;
use sharedlb_testbed::{Parts, enter};
use tokio::runtime::Runtime;

use stage::Stage;

fn main() -> anyhow::Result<ExitCode> {
    let testbed = enter(Parts::ALL)?;
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let in_shell = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["shell"] => true,
        _ => bail!("usage: sharedlb-demo [shell]"),
    };
    Runtime::new()?.block_on(async {
        let started = Instant::now();
        let stage = Stage::set(testbed).await?;
        if in_shell {
            return shell::open(stage).await;
        }
        story::tell(&stage).await.map_err(|error| stage.explain(error))?;
        stage.clear().await?;
        println!("\nAll of it was as promised, in {:.0} s. Nothing is left behind.", started.elapsed().as_secs_f32());
        Ok(ExitCode::SUCCESS)
    })
}
