//! What a host runs: the parts of the agent that addresses and the data path need.

use std::path::Path;

use anyhow::Context;
use sharedlb_agent::fence::Fence;
use sharedlb_agent::keepalived::Keepalived;
use sharedlb_agent::kernel_parameters;
use sharedlb_agent::nftables::{Engine, Programs};
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
        Engine::new(Programs::default()).apply(&scenario::data_path()?).await?;
        let interface = scenario::interface()?;
        kernel_parameters::set(&interface)?;
        let mut fence = Fence::close(Programs::default(), interface, routers.clone()).await?;
        let _keepalived = Keepalived::start(Path::new(&folder), &routers)?;
        tokio::select! {
            _ = terminated.recv() => Ok(()),
            never = fence.keep() => never,
        }
    })
}
