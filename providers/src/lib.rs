//! Providers: the code that programs load balancers.
//!
//! The core of this crate, [`model`], [`diff()`] and the [`Provider`] trait, knows load
//! balancers, listeners and backends, and nothing of Kubernetes. Each kind of load balancer
//! is one implementation of [`Provider`] behind a Cargo feature of its own; [`memory`] is
//! the reference, and [`conformance`] the suite of tests that each of them passes.

#[cfg(feature = "aws")]
pub mod aws;
#[cfg(any(feature = "aws", feature = "http"))]
mod budget;
#[cfg(feature = "conformance")]
pub mod conformance;
mod decorator;
pub mod diff;
mod error;
#[cfg(feature = "gcp")]
pub mod gcp;
#[cfg(all(test, any(feature = "aws", feature = "service")))]
mod golden;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http-updater")]
pub mod http_updater;
pub mod memory;
pub mod model;
#[cfg(all(test, any(feature = "aws", feature = "service")))]
#[path = "../../tests/fuzz/mutate.rs"]
mod mutate;
#[cfg(feature = "service")]
#[cfg_attr(not(feature = "vip"), allow(dead_code, reason = "the provider `vip` uses more of it"))]
pub mod service;
pub mod share;
#[cfg(any(feature = "aws", feature = "http"))]
mod text;
#[cfg(feature = "vip")]
pub mod vip;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};

#[cfg(any(feature = "aws", feature = "http"))]
pub use budget::Rate;
pub use decorator::Decorator;
pub use diff::{Change, diff, replay};
pub use error::{Details, Error};
#[cfg(feature = "http")]
pub use http::{SecretData, Secrets};
pub use model::{
    Address, AffinitySupport, Attributes, Backend, BackendSet, Capabilities, Capacity, FrontPort, IpFamily, LbName,
    Listener, ListenerKey, ListenerOptions, LoadBalancer, Observed, Owner, Protocol, SessionAffinity, Transport,
    Unserved, port_number,
};

/// The providers that this build has, by the names of their Cargo features.
/// [`memory`] is always there.
pub const FEATURES: &[&str] = &[
    #[cfg(feature = "aws")]
    "aws",
    #[cfg(feature = "gcp")]
    "gcp",
    #[cfg(feature = "http-updater")]
    "http-updater",
    #[cfg(feature = "service")]
    "service",
    #[cfg(feature = "vip")]
    "vip",
];

/// Programs one kind of load balancer. This page is the whole contract: a provider that keeps
/// it, and passes [`conformance`], is complete.
///
/// A provider executes a plan. It allocates no port, does not compare observed with desired
/// state (only [`diff()`] does), knows no `SharedLB`, and decides nothing about retries.
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
/// what [`observe`](Self::observe) returns. So every step can be repeated, and can continue
/// from whatever state the one before has left.
///
/// # Ownership
///
/// Objects that a provider creates have a tag (or a name) with the id of the cluster, from
/// the call that creates them. Objects without it are foreign: they are never changed, and
/// their ports are in [`Observed::foreign`] (where nothing foreign can be reached at the address of
/// a load balancer, there are none). The [`Owner`] of each listener is recorded
/// beside it, and is read by [`observe`](Self::observe).
///
/// # Order
///
/// Changes come in the order in which they are carried out: those that take traffic away from
/// a wrong receiver first. No closing waits for an opening that fails. A listener opens with
/// its backends, and with no others. One change that fails delays no other: its listeners
/// are in [`Applied::failed`].
///
/// # Time
///
/// - [`apply`](Self::apply) returns within about two seconds. What it has not begun by then
///   is in [`Applied::postponed`] and is requested again at once, so that listeners that are
///   open are reported while others wait.
/// - A provider neither polls nor sleeps until something is ready. An operation of a cloud
///   that takes minutes is started, remembered in the provider's state by the name of the
///   load balancer, and checked by the next call; until it is complete, calls return
///   [`Error::NotReady`], or [`Observed::not_ready`] says why nothing is served yet.
/// - A single call of a cloud has a timeout, after which its answer counts as lost.
///
/// # Failures
///
/// [`Error`] has a variant for each thing that the LB loop does next. The loop alone
/// remembers failures and waits: 100 ms after the first one, doubling up to 60 s. It passes
/// on the listeners that wait ([`ChangeSet::waiting`]), so that objects that were prepared for
/// them are not taken for orphaned. A provider itself repeats a call only if that was
/// certainly not carried out (it was throttled), and within its limits.
///
/// A listener may be as desired and get no traffic all the same: the firewall rule for its port
/// is refused, or its address is not where nodes look for it. [`Observed::unserved`] has such
/// listeners, since no further change of them helps. What they lack is a setting that differs,
/// or drift, so that [`Change::Configure`] is tried again. A listener that an apply opens and
/// that is not served yet is in [`Applied::failed`] too, by which it is observed at once.
///
/// A message names what is wrong and what a user can do about it; the answer of the load
/// balancer is the error's cause ([`Details::caused_by`]).
///
/// # Leadership
///
/// [`apply`](Self::apply) and [`delete`](Self::delete) are called only while the process
/// leads. A provider whose calls wait (for a budget, for each other) checks the leadership
/// again before each call that changes something, as [`Gate`] has it.
///
/// # The conformance suite
///
/// [`conformance`] checks all of this: a load balancer that does not exist is observed as
/// none; listeners open as desired, and applying twice has the effect of once; backends,
/// owners and protocols change; foreign listeners are observed and stay unchanged; one
/// listener fails alone, and delays nothing; load balancers do not affect each other;
/// deleting twice has the effect of once; and after a crash between any two calls, the next
/// process reaches the same state as one that did not crash. It runs against the real peer,
/// or against one that enforces the peer's documented rules.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The capabilities of this provider, known without a request, with the source of each
    /// number beside it.
    fn capabilities(&self) -> Capabilities;

    /// The desired settings of the load balancer `index` of this class, which [`diff()`]
    /// compares with the observed [`LoadBalancer::attributes`]. Those have no settings that
    /// are not in here.
    fn attributes(&self, index: u32) -> Attributes;

    /// The object in which an admin finds the state of a load balancer, for messages:
    /// `Service sharedlb-system/slb-default-0-…`, for example.
    fn object(&self, name: &LbName) -> String;

    /// A backend with only the fields that this provider's load balancers record, so that
    /// desired and observed backends can be compared (a load balancer of instances records no
    /// addresses of nodes, for example). `None`: it can be no backend there (it is of the
    /// other address family).
    fn as_observed(&self, backend: Backend) -> Option<Backend> {
        Some(backend)
    }

    /// Our part of the load balancer in its current state, its real limits, the ports of
    /// foreign listeners, drift, and which listeners get no traffic. `None`: it does not exist. A listener whose owner cannot
    /// be read has [`Owner::unknown`].
    ///
    /// # Errors
    /// When the load balancer could not be read; its state is unknown then. When one of this
    /// name is foreign: [`Error::Refused`].
    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error>;

    /// Carries the changes out, and creates the load balancer if it does not exist. A change
    /// whose result is there already succeeds.
    ///
    /// # Errors
    /// When nothing, or an unknown part, was carried out: observe again. The failure of one
    /// listener, or of the settings, is in [`Applied`] instead.
    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error>;

    /// Deletes what we own, and nothing that is foreign. Succeeds if there is nothing.
    ///
    /// # Errors
    /// [`Error::NotReady`] while the load balancer is still being deleted, or the error of the
    /// request.
    async fn delete(&self, name: &LbName) -> Result<(), Error>;

    /// The names of load balancers that other clients have changed (an address was assigned,
    /// a listener was altered), for providers that are notified of it. Load balancers of
    /// other providers are observed only on every resync.
    fn changes(&self) -> BoxStream<'static, LbName> {
        stream::pending().boxed()
    }
}

/// The gate of calls that may change something: each waits for it right before it is sent,
/// and keeps the returned value until it has ended. It is closed in a process that may no
/// longer act.
pub type Gate = Arc<dyn Fn() -> BoxFuture<'static, Box<dyn Send>> + Send + Sync>;

/// The argument of [`Provider::apply`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ChangeSet<'a> {
    /// The values: the whole load balancer after the changes. Where no change is about a
    /// value, it is the observed one, for providers that can only write the whole.
    pub desired: &'a LoadBalancer,
    /// The changes, in the order in which they are carried out.
    pub changes: &'a [Change],
    /// Listeners that failed and are tried again later. They are not in `desired` unless they
    /// are open. Objects that a provider has prepared for them stay.
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

/// The result of [`Provider::apply`].
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Applied {
    /// The listeners whose change was not carried out, each with its cause.
    pub failed: BTreeMap<ListenerKey, Error>,
    /// The listeners whose change has not been begun yet. It is requested again at once, after
    /// a report of what was done so far.
    pub postponed: BTreeSet<ListenerKey>,
    /// The error of [`Change::Configure`], if that was among the changes and failed.
    pub unconfigured: Option<Error>,
    /// The addresses of the load balancer; empty if not known yet.
    pub addresses: Vec<Address>,
}
