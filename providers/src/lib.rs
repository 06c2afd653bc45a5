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
pub mod memory;
pub mod model;
#[cfg(all(test, any(feature = "aws", feature = "service")))]
#[path = "../../tests/fuzz/mutate.rs"]
mod mutate;
#[cfg(feature = "service")]
pub mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};

pub use diff::{Change, diff, replay};
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
    /// `changes` say what differs, and in which order it is to be done; `desired` has the
    /// values. It is the whole that these changes lead to: what none of them is about
    /// is as it was observed, for providers that can only write the whole.
    ///
    /// # Errors
    /// When nothing, or an unknown part, was carried out: observe again.
    async fn apply(&self, name: &LbName, desired: &LoadBalancer, changes: &[Change]) -> Result<Applied, Error>;

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

/// What became of an [`Provider::apply`] that reached the load balancer.
#[derive(Debug, Default)]
pub struct Applied {
    /// The listeners whose change was not carried out, each with its cause.
    pub failed: BTreeMap<ListenerKey, Error>,
    /// The listeners whose change has not been begun yet, to be asked for again
    /// at once: what was done so far can be told meanwhile.
    pub postponed: BTreeSet<ListenerKey>,
    /// Why the settings of the load balancer could not be changed, if they were
    /// to be, and the listeners could be gone on with all the same.
    pub trouble: Option<Error>,
    /// Where the load balancer is reached, if that is known by now.
    pub addresses: Vec<Address>,
}

/// Why a load balancer or a listener is not as it should be, told apart by what
/// the caller should do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is on its way (a load balancer being provisioned): look again soon.
    #[error("{0}")]
    NotReady(String),
    /// The load balancer will not have it, however often it is asked: tell the
    /// user, and try again only when something changed.
    #[error("{0}")]
    Refused(String),
    /// A stranger holds the port: tell the user. A port that was assigned and
    /// never opened may be exchanged for another.
    #[error("{0}")]
    PortInUse(String),
    /// Somebody else used the room (listeners, targets) that there was thought to
    /// be: tell the user, and observe again for the limits that hold now. A slot
    /// that never opened may move to another load balancer.
    #[error("{0}")]
    NoRoom(String),
    /// Something that all load balancers share is used up (the node ports of the
    /// cluster, a quota of a namespace or an account): tell the user, and try again
    /// when something was closed. Another load balancer does not help.
    #[error("{0}")]
    Exhausted(String),
    /// Too many calls: wait at least `retry_after`.
    #[error("throttled, to be tried again in {} s: {message}", retry_after.as_secs())]
    Throttled {
        /// How long the load balancer asked us to wait.
        retry_after: Duration,
        /// What it said.
        message: String,
    },
    /// Somebody else changed it at the same time: observe, and try again at once.
    #[error("{0}")]
    Conflict(String),
    /// Unreachable or failing: try again with backoff.
    #[error("{0}")]
    Transient(String),
}

impl Error {
    /// Whether the load balancer will not have what it was given as it is: it may
    /// take a part of it. After other errors it is unknown what it would take.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::NoRoom(_) | Self::Exhausted(_))
    }
}
