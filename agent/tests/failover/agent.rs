//! What a host runs: the parts of the agent that addresses and the data path need.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use sharedlb_agent::fence::Fence;
use sharedlb_agent::keepalived::Keepalived;
use tokio::signal::unix::{SignalKind, signal};

use crate::scenario;

/// The first argument that makes this program an agent. The second one is which host it is on, the
/// third one a folder for keepalived.
pub(crate) const ROLE: &str = "__agent";

/// Plays an agent if this program was started as one, until it gets SIGTERM.
pub(crate) fn play() -> Option<anyhow::Result<()>> {
    let mut arguments = std::env::args().skip(1);
    (arguments.next()? == ROLE).then(|| serve(arguments))
}

fn serve(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_ansi(false).init();
    let host = arguments.next().context("which host?")?.parse()?;
    let folder = arguments.next().context("which folder?")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        let routers = scenario::routers(host)?;
        load(&scenario::data_path())?;
        let _fence = Fence::start(&scenario::interface()?, &routers)?;
        let keepalived = Keepalived::start(Path::new(&folder), &routers)?;
        terminated.recv().await;
        // Before the fence goes, and with its adverts of priority 0.
        drop(keepalived);
        Ok(())
    })
}

/// Loads rules in place of those of an earlier agent.
fn load(rules: &str) -> anyhow::Result<()> {
    let mut nft = Command::new("nft").args(["--file", "-"]).stdin(Stdio::piped()).spawn().context("running nft")?;
    // An agent that was started again finds them there.
    let names = rules.lines().filter_map(|line| line.strip_prefix("table ")?.strip_suffix(" {"));
    let removal: String = names.map(|name| format!("add table {name}\ndelete table {name}\n")).collect();
    nft.stdin.take().context("it has an input")?.write_all((removal + rules).as_bytes())?;
    ensure!(nft.wait()?.success(), "nft does not take these rules:\n{rules}");
    Ok(())
}
