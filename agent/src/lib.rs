//! A host as a load balancer of SharedLB, without a cloud: the host answers for the addresses of
//! load balancers, and leads their ports to pods.
//!
//! Several hosts can serve one load balancer. One of them at a time answers for its addresses, and
//! all of them choose the same pod for a connection, so that a connection outlives its host.

pub mod fence;
pub mod keepalived;
pub mod kernel_parameters;
pub mod nftables;
pub mod plans;
mod program;
pub mod virtual_router;

pub use program::{Program, ProgramError};
