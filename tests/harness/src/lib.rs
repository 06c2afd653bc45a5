//! The controller in the testbed's cluster: what integration tests, the demo and the
//! benches share.
//!
//! - [`install`] applies `deploy/`, and [`controller_kubeconfig`] gives the rights that
//!   it grants to the controller.
//! - [`Launch`] starts a controller, [`Controller`] is its process, [`Replica`] is one
//!   that is ended and started again behind a [`proxy::Proxy`], and [`DryRun`] is what
//!   `--dry-run` says.
//! - [`Program`] is the `main` of a test program, [`World`] what most tests run on, and
//!   [`Site`] a namespace and a class for one test. A [`Tenant`](tenant::Tenant) adds pods that
//!   answer, Services, and clients.
//!
//! It does not depend on the controller's library: what it knows of the controller are
//! the API, the command line and the metrics, as users know them.

mod burst;
mod claims;
mod class;
mod cloud;
mod controller;
mod dry_run;
mod editor;
pub mod front;
mod install;
mod ledger;
mod metrics;
mod pods;
mod program;
pub mod proxy;
mod replica;
mod site;
pub mod tenant;
mod world;
mod writes;

use std::time::Duration;

pub use burst::{BURST_LIMIT, is_ready};
pub use claims::{Slot, condition, slots};
pub use class::{addresses, port_names};
pub use cloud::WITHHELD;
pub use controller::{Controller, Launch};
pub use dry_run::DryRun;
pub use editor::{bind, editor};
pub use install::{controller_kubeconfig, definitions_established, install, install_without_definitions, repository};
pub use ledger::Ledger;
pub use metrics::Metrics;
pub use pods::{Backend, add_node, next_addresses};
pub use program::{AtOnce, Program, Tests, run_tests};
pub use replica::{LOST_LEASE, Replica};
pub use site::{Neighbour, Site, merge};
pub use world::{World, add_cloud, start_installed};
pub use writes::{Writes, at_most};

/// How long anything may take before a test says that it does not happen. It
/// is much more than anything takes, since many tests share two cores.
pub const LIMIT: Duration = Duration::from_secs(30);
