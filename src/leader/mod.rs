//! Leadership: of several replicas one acts, by a `Lease` of Kubernetes, with the rules of
//! client-go's leader election.
//!
//! - Whether the lease of another process has expired is decided by the local clock, from
//!   the time at which its record was last *seen to change*, never by the times in the
//!   record: the clocks of two machines need not agree.
//! - A leader renews every two seconds. If it cannot for ten seconds, it stops acting, five
//!   seconds before another process may start: a [`Fence`] stands before every byte to the
//!   API server and every call of a load balancer, and the process ends.
//! - On graceful shutdown, the leader rejects new writes, drains those in flight, and
//!   releases the Lease.
//!
//! No existing crate is used: kube has none itself; `kube-lease-manager` (0.13) compares the
//! times in the record with the wall clock, and writes without a resourceVersion;
//! `kube-leader-election` (0.44), `kube-coordinate` (2.0) and `kubert` (0.25) are for kube
//! 4, 2 and 1. None of them has a fence.

mod connection;
mod election;
mod fence;
mod fenced;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ObjectMeta;
use kube::{Api, Client};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{error, info, warn};

pub(crate) use connection::fenced_client;
pub use election::{InvalidTerms, LeaseTerms};
pub(crate) use fence::{Fence, Moment};
pub(crate) use fenced::FencedProvider;

use crate::kubernetes::parameters;
use crate::process::metrics::Metrics;
use crate::process::readiness::Part;
use election::{Election, LeaseStep};

/// The exit status of a process that lost its leadership.
pub(crate) const LOST: i32 = 3;

/// How long requests in flight may take to end before the lease is released. Most take
/// milliseconds; the next leader must take over within 5 s.
const DRAIN: Duration = Duration::from_secs(2);

/// The lease, its holder and its terms.
#[derive(Debug, Clone)]
pub struct LeaseOptions {
    /// The namespace of the Lease
    pub namespace: String,
    /// Its name
    pub name: String,
    /// The identity of the holder, which no other process ever has
    pub identity: String,
    /// The durations
    pub terms: LeaseTerms,
}

/// A unique identity: a name and a random suffix, since a container that restarts has the
/// same name as before.
///
/// # Errors
/// When the kernel gives no random number.
pub fn unique_identity(name: &str) -> std::io::Result<String> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(format!("{name}_{}", uuid.trim()))
}

/// A process that may become the leader.
pub(crate) struct Candidate {
    leases: Api<Lease>,
    options: LeaseOptions,
    election: Election,
    /// The Lease as last read or written; `None`: it has to be read
    known: Option<Lease>,
    metrics: Arc<Metrics>,
}

/// The leader. [`Leader::keep`] renews its lease.
pub(crate) struct Leader {
    candidate: Candidate,
    fence: Fence,
    readiness: Part,
}

/// The result of an attempt.
enum Tried {
    /// The lease is ours, for the renew deadline from this moment on
    Ours(Moment),
    /// The lease is another process' until this moment, if it does not change
    Theirs(Moment, String),
}

impl Candidate {
    /// A candidate that has not read the Lease yet. The client must not be a fenced one.
    pub(crate) fn new(client: Client, options: LeaseOptions, metrics: Arc<Metrics>) -> Self {
        let leases = Api::namespaced(client, &options.namespace);
        let election = Election::new(options.identity.clone(), options.terms);
        Self { leases, options, election, known: None, metrics }
    }

    /// Waits until the lease is ours. This process is ready, to take over, as soon as it has
    /// read the Lease.
    pub(crate) async fn elected(mut self, readiness: Part) -> Leader {
        info!(lease = self.lease(), identity = self.options.identity, "waiting to be the leader");
        let mut holder = None;
        loop {
            let mut again = Moment::now().after(self.retry_period());
            match self.tried().await {
                Ok(Tried::Ours(since)) => {
                    info!(lease = self.lease(), "this process is the leader");
                    let fence = Fence::until(since.after(self.options.terms.renew_deadline));
                    return Leader { candidate: self, fence, readiness };
                }
                Ok(Tried::Theirs(until, theirs)) => {
                    readiness.clear();
                    if holder.as_ref() != Some(&theirs) {
                        info!(lease = self.lease(), leader = theirs, "standing by: another process is the leader");
                    }
                    holder = Some(theirs);
                    again = again.min(until);
                }
                Err(error) => {
                    warn!(lease = self.lease(), %error, "the Lease can't be read or written");
                    readiness.waiting(format!("Lease {} can't be read or written: {error}", self.lease()));
                }
            }
            sleep(Moment::now().until(again)).await;
        }
    }

    /// The time until the next attempt, with jitter.
    fn retry_period(&self) -> Duration {
        self.options.terms.retry_period.mul_f64(1.0 + election::JITTER * fastrand::f64())
    }

    /// One attempt with a timeout, which leaves a leader time for another one.
    async fn tried(&mut self) -> Result<Tried, Untried> {
        let limit = self.options.terms.renew_deadline / 2;
        let tried = timeout(limit, self.try_once()).await.unwrap_or(Err(Untried::NoAnswer(limit)));
        if tried.is_err() {
            // The write may have succeeded or not, so the Lease is read again.
            self.known = None;
        }
        tried
    }

    /// Reads the Lease, unless it is known to be ours, and writes it if it is ours or free.
    async fn try_once(&mut self) -> Result<Tried, Untried> {
        let begun = Moment::now();
        if self.known.is_none() {
            let found = self.leases.get_opt(&self.options.name).await?;
            self.election.saw(found.as_ref().map(|found| found.spec.clone().unwrap_or_default()), Moment::now());
            self.known = found;
            self.count_transitions();
        }
        let params = parameters::post();
        let written = match self.election.next(Moment::now(), Timestamp::now()) {
            LeaseStep::Wait(until, holder) => {
                self.known = None;
                return Ok(Tried::Theirs(until, holder));
            }
            LeaseStep::Create(spec) => {
                let metadata = ObjectMeta { name: Some(self.options.name.clone()), ..ObjectMeta::default() };
                self.leases.create(&params, &Lease { metadata, spec: Some(spec) }).await?
            }
            // With the resourceVersion that was read.
            LeaseStep::Write(spec) => {
                let lease = Lease { spec: Some(spec), ..self.known.clone().unwrap_or_default() };
                self.leases.replace(&self.options.name, &params, &lease).await?
            }
        };
        self.election.saw(written.spec.clone(), begun);
        self.known = Some(written);
        self.count_transitions();
        Ok(Tried::Ours(begun))
    }

    /// Exports how often the Lease went from one holder to another, also while standing by.
    fn count_transitions(&self) {
        let record = self.known.as_ref().and_then(|lease| lease.spec.as_ref());
        if let Some(transitions) = record.and_then(|record| record.lease_transitions) {
            self.metrics.lease_transitions(transitions);
        }
    }

    /// Releases the lease, if it is ours.
    async fn give_back(&mut self) -> Result<(), Untried> {
        // A renewal may have been interrupted, so the cached Lease may be outdated.
        let found = self.leases.get(&self.options.name).await?;
        self.election.saw(found.spec.clone(), Moment::now());
        if let Some(spec) = self.election.released(Timestamp::now()) {
            self.leases.replace(&self.options.name, &parameters::post(), &Lease { spec: Some(spec), ..found }).await?;
        }
        Ok(())
    }

    fn lease(&self) -> String {
        format!("{}/{}", self.options.namespace, self.options.name)
    }
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum Untried {
    #[error("{0}")]
    Failed(#[from] kube::Error),
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
}

impl Leader {
    /// The fence that every act of this process must pass.
    pub(crate) fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Renews the lease until `stop` completes, and then releases it. If the lease is lost,
    /// the process ends with the status [`LOST`].
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) async fn keep(mut self, stop: impl Future<Output = ()>) -> std::io::Result<()> {
        // From now on, the loops report what they wait for.
        self.readiness.clear();
        let lease = self.candidate.lease();
        let deadline = self.candidate.options.terms.renew_deadline;
        self.fence.watch(move || end(&lease, &format!("it could not be renewed for {deadline:?}")))?;
        tokio::select! {
            () = stop => {}
            never = self.renew() => match never {},
        }
        self.give_back().await;
        Ok(())
    }

    /// Renews the lease for ever. The fence closes if that fails for too long.
    async fn renew(&mut self) -> Infallible {
        let mut tries = interval(self.candidate.options.terms.retry_period);
        tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tries.tick().await;
            // A renewal after the deadline does not count.
            self.fence.pass().await;
            match self.candidate.tried().await {
                Ok(Tried::Ours(since)) => {
                    // If that was too late, the thread that watches the fence ends the process.
                    self.fence.extend(since.after(self.candidate.options.terms.renew_deadline));
                }
                Ok(Tried::Theirs(_, holder)) => {
                    self.fence.close();
                    end(&self.candidate.lease(), &format!("{holder} has it"));
                }
                Err(error) => warn!(lease = self.candidate.lease(), %error, "the Lease was not renewed"),
            }
        }
    }

    /// Rejects new writes, drains those in flight, and releases the lease.
    async fn give_back(&mut self) {
        let lease = self.candidate.lease();
        if timeout(DRAIN, self.fence.drain()).await.is_err() {
            warn!(
                lease,
                "the Lease is not released, since requests are in flight: the next leader waits until it expires"
            );
            return self.fence.close();
        }
        self.fence.close();
        match timeout(DRAIN, self.candidate.give_back()).await.unwrap_or(Err(Untried::NoAnswer(DRAIN))) {
            Ok(()) => info!(lease, "given back"),
            Err(error) => warn!(lease, %error, "the Lease is not released: the next leader waits until it expires"),
        }
    }
}

/// Ends the process at once, from any thread: no other thread may act any more.
fn end(lease: &str, why: &str) -> ! {
    error!(lease, "no longer the leader: {why}. This process ends");
    std::process::exit(LOST)
}
