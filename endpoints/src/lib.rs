#![doc = include_str!("../README.md")]

mod changes;
mod config;
mod load_balancer;
mod pool;
mod select;
#[cfg(feature = "tower")]
mod tower;

pub use k8s_openapi;
pub use kube;

pub use self::changes::{Change, Changes};
pub use self::config::{Config, Families, Policy};
pub use self::load_balancer::{LoadBalancer, SyncError};
pub use self::pool::InFlight;
pub use self::select::{Endpoint, NoEndpoint};
