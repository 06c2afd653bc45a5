//! What programs load balancers.
//!
//! The core of this crate — [`model`], [`diff()`] and the [`Provider`] trait —
//! knows load balancers, listeners and backends, and nothing of Kubernetes.
//! Each kind of load balancer is one implementation of [`Provider`] behind a
//! Cargo feature of its own; [`memory`] is the reference, and [`conformance`]
//! the suite of tests that every one of them passes.

#[cfg(feature = "aws")]
pub mod aws;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod diff;
mod error;
#[cfg(all(test, any(feature = "aws", feature = "service")))]
mod golden;
pub mod memory;
pub mod model;
#[cfg(all(test, any(feature = "aws", feature = "service")))]
#[path = "../../tests/fuzz/mutate.rs"]
mod mutate;
#[cfg(feature = "service")]
pub mod service;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};

pub use diff::{Change, diff, replay};
pub use error::{Details, Error};
pub use model::{
    Address, Attributes, Backend, Capabilities, Capacity, FrontPort, IpFamily, LbName, Listener, ListenerKey,
    LoadBalancer, Observed, Owner, Protocol, Transport,
};

/// What programs one kind of load balancer. It executes a plan: it never
/// allocates a port, never compares, and never sees a `SharedLB`.
#[async_trait]
pub trait Provider: Send + Sync {
    /// What this provider can do, known without asking the load balancer.
    fn capabilities(&self) -> Capabilities;

    /// The settings that the load balancer `index` of this class shall have, as
    /// [`diff()`] compares them with what was observed.
    fn attributes(&self, index: u32) -> Attributes;

    /// What a person should look at to see what became of a load balancer, in
    /// words: `Service sharedlb-system/slb-default-0-…`, for example.
    fn object(&self, name: &LbName) -> String;

    /// A backend with nothing but what this provider's load balancers know of
    /// one, so that what is wanted can be compared with what was observed (one
    /// that registers instances knows no addresses of nodes, for example).
    /// `None`: it can be no backend there (it is of the other address family).
    fn as_observed(&self, backend: Backend) -> Option<Backend> {
        Some(backend)
    }

    /// Our part of the load balancer as it is now, its real limits, and the
    /// ports that strangers hold. `None`: it does not exist.
    ///
    /// # Errors
    /// When the load balancer could not be asked; nothing is known of it then.
    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error>;

    /// Carries the changes out, creating the load balancer if it is missing. A
    /// listener that fails is in [`Applied::failed`], and the rest goes on. One
    /// that takes long may leave some for the next time, in [`Applied::postponed`].
    ///
    /// # Errors
    /// When nothing, or an unknown part, was carried out: observe again.
    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error>;

    /// Removes what we own. Succeeds if there is nothing.
    ///
    /// # Errors
    /// [`Error::NotReady`] while the load balancer is still going away, or
    /// whatever kept it from being asked.
    async fn delete(&self, name: &LbName) -> Result<(), Error>;

    /// Names of load balancers that changed without our doing (an address came,
    /// somebody altered a listener), for providers that are told of it.
    /// The others are looked at again on every resync.
    fn changes(&self) -> BoxStream<'static, LbName> {
        stream::pending().boxed()
    }
}

/// What one [`Provider::apply`] is to carry out.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ChangeSet<'a> {
    /// The values. It is the whole that the changes lead to: what none of them is about
    /// is as it was observed, for providers that can only write the whole.
    pub desired: &'a LoadBalancer,
    /// What differs, in the order in which it is to be carried out.
    pub changes: &'a [Change],
    /// Listeners that failed and are tried again later. They are not in `desired` unless
    /// they are open. What a provider has prepared for them stays.
    pub waiting: &'a BTreeSet<ListenerKey>,
}

impl<'a> ChangeSet<'a> {
    /// These changes, which lead to `desired`; no listener waits.
    #[must_use]
    pub fn new(desired: &'a LoadBalancer, changes: &'a [Change]) -> Self {
        static NONE: BTreeSet<ListenerKey> = BTreeSet::new();
        Self { desired, changes, waiting: &NONE }
    }

    /// Only these of the changes.
    #[must_use]
    pub fn with_changes(self, changes: &'a [Change]) -> Self {
        Self { changes, ..self }
    }

    /// The same while these listeners wait.
    #[must_use]
    pub fn while_waiting(self, waiting: &'a BTreeSet<ListenerKey>) -> Self {
        Self { waiting, ..self }
    }
}

/// What became of an [`Provider::apply`] that reached the load balancer.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Applied {
    /// The listeners whose change was not carried out, each with its cause.
    pub failed: BTreeMap<ListenerKey, Error>,
    /// The listeners whose change has not been begun yet, to be asked for again
    /// at once: what was done so far can be told meanwhile.
    pub postponed: BTreeSet<ListenerKey>,
    /// Why [`Change::Configure`] was not carried out, if it was asked for and failed.
    pub unconfigured: Option<Error>,
    /// Where the load balancer is reached, if that is known by now.
    pub addresses: Vec<Address>,
}
