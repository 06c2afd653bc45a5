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
mod decorator;
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

pub use decorator::Decorator;
pub use diff::{Change, diff, replay};
pub use error::{Details, Error};
pub use model::{
    Address, Attributes, Backend, BackendSet, Capabilities, Capacity, FrontPort, IpFamily, LbName, Listener,
    ListenerKey, LoadBalancer, Observed, Owner, Protocol, Transport,
};

/// What programs one kind of load balancer. This page is the whole contract: a provider
/// that keeps it, and passes [`conformance`], is done.
///
/// A provider executes a plan. It allocates no port, compares nothing with what is desired
/// (only [`diff()`] does), knows no `SharedLB`, and decides nothing about retries.
///
/// # The calls
///
/// One task, the LB loop, makes all calls about one load balancer, one after the other.
/// Calls about different load balancers run at the same time.
///
/// | call | I/O | called |
/// |---|---|---|
/// | [`capabilities`](Self::capabilities), [`attributes`](Self::attributes), [`object`](Self::object), [`as_observed`](Self::as_observed) | none | at any time |
/// | [`observe`](Self::observe) | reads | at the start, on every resync, and whenever the state is in doubt |
/// | [`apply`](Self::apply) | writes | when something differs |
/// | [`delete`](Self::delete) | writes | until it succeeds, once the load balancer is no longer needed |
/// | [`changes`](Self::changes) | – | once |
///
/// The process may be killed between any two I/O calls, and the next process knows only
/// what [`observe`](Self::observe) returns. So every step can be done again, and each
/// leaves something from which the next one can go on.
///
/// # Ownership
///
/// What a provider creates carries a tag (or a name) with the id of the cluster, from the
/// call that creates it. What does not carry it is foreign: it is never changed, and its
/// ports are in [`Observed::foreign`]. The [`Owner`] of each listener is written beside it,
/// and is read back by [`observe`](Self::observe).
///
/// # Order
///
/// Changes come in the order in which they are to be carried out: what takes traffic away
/// from a wrong receiver first. No closing waits for an opening that fails. A listener
/// opens with its backends, and with no others. One change that fails holds up no other:
/// its listeners are in [`Applied::failed`].
///
/// # Time
///
/// - [`apply`](Self::apply) returns within about two seconds. What it has not begun by then
///   is in [`Applied::postponed`] and is asked for again at once, so that listeners that
///   are open are reported while others wait.
/// - Nothing polls or sleeps inside of a provider until something is ready. An operation of
///   a cloud that takes minutes is started, remembered in the provider's state by the name
///   of the load balancer, and looked at by the next call; until it is done, calls return
///   [`Error::NotReady`], or [`Observed::not_ready`] says why nothing is served yet.
/// - A single call of a cloud has a timeout, after which its answer counts as lost.
///
/// # Failures
///
/// [`Error`] has a variant for each thing that the LB loop does next. The loop alone
/// remembers failures and waits: 100 ms after the first one, doubling up to 60 s. It passes
/// on the listeners that wait ([`ChangeSet::waiting`]), so that what was prepared for them is
/// not taken for orphaned. A provider repeats a call by itself only where it was not
/// carried out for sure (it was throttled), and within its limits.
///
/// A message names what is wrong and what a user can do about it; the answer of the load
/// balancer is the error's cause ([`Details::caused_by`]).
///
/// # Leadership
///
/// [`apply`](Self::apply) and [`delete`](Self::delete) are called only while the process
/// leads. A provider whose calls wait (for a budget, for each other) checks that again
/// before each call that changes something, as `aws::Gate` does.
///
/// # The conformance suite
///
/// [`conformance`] asks for all of it: what does not exist is observed as none; listeners
/// open as asked, and applying twice is applying once; backends, owners and protocols
/// change; foreign listeners are seen and stay as they are; one listener fails alone, and
/// holds up nothing; load balancers are apart from each other; deleting twice is deleting
/// once; and after a crash between any two calls the next process ends where one that
/// lived would have. It runs against the real peer, or against one that enforces the peer's
/// documented rules.
#[async_trait]
pub trait Provider: Send + Sync {
    /// What this provider can do, known without asking the load balancer, with the source
    /// of each number beside it.
    fn capabilities(&self) -> Capabilities;

    /// The settings that the load balancer `index` of this class shall have, as
    /// [`diff()`] compares them with [`LoadBalancer::attributes`] of what was observed.
    /// Settings of the load balancer that are not in here are not in there either.
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

    /// Our part of the load balancer as it is now, its real limits, the ports that
    /// foreign listeners hold, and what has drifted. `None`: it does not exist. A
    /// listener whose owner cannot be read has [`Owner::unknown`].
    ///
    /// # Errors
    /// When the load balancer could not be asked; nothing is known of it then. When one of
    /// this name is foreign: [`Error::Refused`].
    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error>;

    /// Carries the changes out, creating the load balancer if it is missing. What is
    /// already as desired is success, whatever the change says.
    ///
    /// # Errors
    /// When nothing, or an unknown part, was carried out: observe again. What fails for one
    /// listener, or for the settings, is in [`Applied`] instead.
    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error>;

    /// Removes what we own, and nothing that is foreign. Succeeds if there is nothing.
    ///
    /// # Errors
    /// [`Error::NotReady`] while the load balancer is still going away, or the error that
    /// kept it from being asked.
    async fn delete(&self, name: &LbName) -> Result<(), Error>;

    /// Names of load balancers that were changed by others (an address came, a listener
    /// was altered), for providers that are notified of it. The others are observed
    /// again on every resync.
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
    /// The listeners whose change has not been begun yet. It is asked for again at once,
    /// after what was done so far is reported.
    pub postponed: BTreeSet<ListenerKey>,
    /// Why [`Change::Configure`] was not carried out, if it was asked for and failed.
    pub unconfigured: Option<Error>,
    /// Where the load balancer is reached; empty if that is not known yet.
    pub addresses: Vec<Address>,
}
