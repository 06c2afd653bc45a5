//! What the tests of the running controller share: the cluster with everything
//! of `deploy/` in it, the controller's process under the rights that `deploy/`
//! gives it, and a namespace and a class for each test.

#![allow(dead_code, reason = "each of the test programs uses a part of this")]
#![allow(unused_imports, reason = "each of the test programs uses a part of this")]

mod claims;
mod class;
mod cloud;
mod controller;
mod dry_run;
mod install;
mod metrics;
mod pods;
mod site;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use sharedlb_testbed::{Cluster, Parts, Testbed, enter};
use tokio::runtime::{Handle, Runtime};

pub(crate) use claims::{Slot, condition, slots};
pub(crate) use class::{addresses, port_names};
pub(crate) use cloud::{WITHHELD, serve_addresses};
pub(crate) use controller::Controller;
pub(crate) use dry_run::DryRun;
pub(crate) use install::{controller_kubeconfig, install, install_without_definitions};
pub(crate) use pods::{Backend, add_node};
pub(crate) use site::{Neighbour, Site};
pub(crate) use writes::{Writes, at_most};

/// How long anything may take before a test says that it does not happen. It
/// is much more than anything takes, since many tests share two cores.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A cluster with a controller in it.
pub(crate) struct World {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) controller: Controller,
}

impl World {
    /// Starts the cluster, installs everything of `deploy/`, and starts the
    /// controller as its service account.
    pub(crate) async fn start(testbed: Testbed) -> anyhow::Result<Self> {
        let cluster = Arc::new(Cluster::start(testbed).await?);
        install(&cluster).await?;
        let kubeconfig = controller_kubeconfig(&cluster).await?;
        let controller = Controller::start(&cluster, &kubeconfig)?;
        controller.until_ready().await?;
        Ok(Self { cluster, controller })
    }

    /// The same with what stands in for a cloud: a node for pods, and addresses for
    /// load balancers.
    pub(crate) async fn start_with_cloud(testbed: Testbed) -> anyhow::Result<Self> {
        let world = Self::start(testbed).await?;
        add_node(world.cluster.admin()).await?;
        tokio::spawn(serve_addresses(world.cluster.admin()));
        Ok(world)
    }
}

/// How many tests run at once.
pub(crate) enum AtOnce {
    /// One, whatever the command line says
    One,
    /// So many, unless the command line says otherwise
    UpTo(usize),
}

/// The `main` of a test program: enters the testbed, starts the world in it, and
/// runs the tests of it.
///
/// # Errors
/// When the world does not start. Tests that fail end the process.
pub(crate) fn run_tests<W, F>(
    at_once: AtOnce,
    parts: Parts,
    start: impl FnOnce(Testbed) -> F,
    trials: impl FnOnce(&Tests<W>) -> Vec<Trial>,
) -> anyhow::Result<()>
where
    W: Send + Sync + 'static,
    F: Future<Output = anyhow::Result<W>>,
{
    let testbed = enter(parts)?;
    let mut arguments = Arguments::from_args();
    match at_once {
        AtOnce::One => arguments.test_threads = Some(1),
        AtOnce::UpTo(threads) => _ = arguments.test_threads.get_or_insert(threads),
    }
    let runtime = Runtime::new()?;
    let test = Tests::new(runtime.block_on(start(testbed))?, runtime.handle().clone());
    let conclusion = libtest_mimic::run(&arguments, trials(&test));
    // The cluster ends before the process does, whatever the tests said.
    drop(test);
    drop(runtime);
    conclusion.exit()
}

/// Makes tests that all work on one thing.
pub(crate) struct Tests<W> {
    world: Arc<W>,
    handle: Handle,
}

impl<W: Send + Sync + 'static> Tests<W> {
    /// Tests that get `world` and run on this runtime.
    pub(crate) fn new(world: W, handle: Handle) -> Self {
        Self::of(Arc::new(world), handle)
    }

    /// The same with a world that others have too.
    pub(crate) fn of(world: Arc<W>, handle: Handle) -> Self {
        Self { world, handle }
    }

    /// A test named by a sentence.
    pub(crate) fn test<F>(&self, name: &str, run: impl FnOnce(Arc<W>) -> F + Send + 'static) -> Trial
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let (world, handle) = (self.world.clone(), self.handle.clone());
        Trial::test(name, move || {
            let result = handle.block_on(run(world));
            result.map_err(|error| Failed::from(format!("{error:#}")))
        })
    }
}
