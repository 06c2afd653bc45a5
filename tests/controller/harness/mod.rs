//! What the tests of the running controller share: the cluster with everything
//! of `deploy/` in it, the controller's process under the rights that `deploy/`
//! gives it, and a namespace and a class for each test.

#![allow(dead_code, reason = "each of the test programs uses a part of this")]
#![allow(unused_imports, reason = "each of the test programs uses a part of this")]

mod claims;
mod class;
mod cloud;
mod controller;
mod install;
mod metrics;
mod pods;
mod site;

use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use sharedlb_testbed::{Cluster, Testbed};
use tokio::runtime::Handle;

pub(crate) use claims::{Slot, condition, slots};
pub(crate) use class::{addresses, port_names};
pub(crate) use cloud::{WITHHELD, serve_addresses};
pub(crate) use controller::Controller;
pub(crate) use install::{controller_kubeconfig, install, install_without_definitions};
pub(crate) use pods::{Backend, add_node};
pub(crate) use site::{Neighbour, Site};

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
