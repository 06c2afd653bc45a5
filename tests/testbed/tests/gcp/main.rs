//! The stand-in for Google Compute Engine does what others rely on: Google's own Python client
//! drives it.

mod calls;
mod chain;
mod form;
mod operations;
mod rules;
mod setting;

use std::sync::Arc;

use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Trial};
use sharedlb_testbed::{GcpLayout, GcpPeer, GoogleClient, Parts, enter};
use tokio::runtime::Runtime;

use setting::Google;

/// A test with a project of its own.
pub(crate) type Test = for<'a> fn(&'a Google) -> BoxFuture<'a, anyhow::Result<()>>;

macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        &[$((stringify!($name), |google| Box::pin($name(google)))),+]
    };
}
pub(crate) use tests;

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts::GCP_ONLY)?;
    let runtime = Arc::new(Runtime::new()?);
    let peer = Arc::new(GcpPeer::start(&testbed)?);
    // It parses the document for each project, and does one call at a time.
    let client: Arc<GoogleClient> = Arc::new(runtime.block_on(async { peer.client() })?);
    let key = Arc::new(runtime.block_on(peer.service_account_key())?);
    let groups = [
        ("calls", calls::TESTS),
        ("chain", chain::TESTS),
        ("form", form::TESTS),
        ("operations", operations::TESTS),
        ("rules", rules::TESTS),
    ];
    let all = groups.iter().flat_map(|(group, tests)| tests.iter().map(move |test| (group, test)));
    let trials = all.map(|(group, &(name, test))| {
        let (runtime, peer, client, key) = (runtime.clone(), peer.clone(), client.clone(), key.clone());
        Trial::test(format!("{group}::{name}"), move || {
            let tried = runtime.block_on(async {
                let project = peer.project(GcpLayout::default()).await?;
                test(&Google { project, client, key }).await
            });
            Ok(tried.map_err(|error| format!("{error:#}"))?)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit()
}
