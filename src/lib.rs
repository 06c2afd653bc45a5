//! The SharedLB controller. ARCHITECTURE.md has the bird's-eye view.
//!
//! Pure functions decide: [`assign`] gives ports, [`render`] words the verdict,
//! [`desired`] says what a load balancer should be. Two loops carry that out:
//! [`class_loop`] writes to the Kubernetes API, [`lb_loop`] programs one load
//! balancer each.

pub mod assign;
pub mod claim;
pub mod class;
pub mod class_loop;
pub mod cluster;
pub mod controller;
pub mod desired;
mod due;
pub mod events;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod fuzz;
pub mod lb_loop;
pub mod lease;
pub mod metrics;
pub mod outcome;
pub mod own_service;
pub mod ports;
mod provider;
pub mod readiness;
pub mod render;
pub mod share;
pub mod sources;
pub mod tasks;
pub mod text;
pub mod usable;
pub mod web;
mod writes;
