//! The process around the controller: its tasks, metrics, health and readiness.

pub(crate) mod counted_provider;
pub(crate) mod due;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod queue;
pub(crate) mod readiness;
pub(crate) mod tasks;
