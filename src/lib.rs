//! The SharedLB controller. ARCHITECTURE.md has the bird's-eye view.
//!
//! Pure functions decide: [`allocation`] gives ports, [`class`] words what claims are
//! told, [`load_balancer`] says what a load balancer should be. Two loops carry that
//! out: the class loop writes to the Kubernetes API, and an LB loop programs one load
//! balancer.

pub mod allocation;
pub mod api;
pub mod backends;
pub mod class;
pub mod controller;
pub mod dry_run;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod fuzz;
pub mod leader;
pub mod load_balancer;
pub mod process;
mod provider;
pub mod sources;
pub mod version;
pub mod watches;

pub use sharedlb_kubernetes as kubernetes;
