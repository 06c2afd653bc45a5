//! The SharedLB controller. ARCHITECTURE.md has the bird's-eye view.
//!
//! Pure functions decide: `allocation` assigns ports, `class` writes the messages of
//! conditions and Events, `load_balancer` computes the desired state of a load balancer. Two
//! loops carry that out: the class loop writes to the Kubernetes API, and an LB loop programs
//! one load balancer.

mod allocation;
mod api;
mod backends;
mod class;
mod controller;
mod dry_run;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod fuzz;
mod leader;
mod load_balancer;
mod process;
mod provider;
mod sources;
mod version;
mod watches;

use sharedlb_kubernetes as kubernetes;

pub use self::controller::{Options, run};
pub use self::dry_run::{Report, run as dry_run};
pub use self::leader::{InvalidTerms, LeaseOptions, LeaseTerms, unique_identity};
pub use self::process::tasks::end_on_panic;
pub use self::sources::EnabledSources;
pub use self::version::long_version;

// For benches/assign.rs.
pub use self::allocation::{
    Assignment, ClaimRequest, HeldSlot, LoadBalancerState, Policy, PortRequest, PortSet, assign,
};
