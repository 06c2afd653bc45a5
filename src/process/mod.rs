//! The process around the controller: its tasks, metrics, health and readiness.

pub(crate) mod due;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod readiness;
pub(crate) mod tasks;
