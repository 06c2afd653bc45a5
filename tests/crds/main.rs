//! The API as the real API server has it: what it refuses and with which
//! words, what it fills in, what `kubectl` shows, and who may do what once
//! `deploy/` is applied.

mod access;
#[path = "../../crds/tests/cases/mod.rs"]
mod cases;
mod manifests;
mod rights;
mod rules;
mod status;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use libtest_mimic::{Arguments, Failed, Trial};
use sharedlb_testbed::{Cluster, Parts, enter};
use tokio::runtime::{Handle, Runtime};

fn main() -> anyhow::Result<()> {
    // Aggregated roles are put together by the controller manager.
    let testbed = enter(Parts { controller_manager: true, ..Parts::API_ONLY })?;
    let arguments = Arguments::from_args();
    let runtime = Runtime::new()?;
    let cluster = runtime.block_on(async {
        let cluster = Cluster::start(testbed).await?;
        manifests::install(&cluster).await?;
        anyhow::Ok(Arc::new(cluster))
    })?;
    let test = Tests { cluster, handle: runtime.handle().clone() };
    let mut trials = rules::trials(&test);
    trials.extend(status::trials(&test));
    trials.extend(manifests::trials(&test));
    trials.extend(access::trials(&test));
    trials.extend(rights::trials(&test));
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The cluster ends before the process does, whatever the tests said.
    drop(test);
    drop(runtime);
    conclusion.exit()
}

/// What every test is made with.
struct Tests {
    cluster: Arc<Cluster>,
    handle: Handle,
}

impl Tests {
    /// A test named by a sentence.
    fn test<F>(&self, name: impl Into<String>, run: impl FnOnce(Arc<Cluster>) -> F + Send + 'static) -> Trial
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let (cluster, handle) = (self.cluster.clone(), self.handle.clone());
        Trial::test(name, move || handle.block_on(run(cluster)).map_err(|error| Failed::from(format!("{error:?}"))))
    }
}

/// A file or folder of the repository, for `kubectl`.
fn repository(path: &str) -> anyhow::Result<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    path.into_os_string().into_string().ok().context("the repository's path is not UTF-8")
}
