//! Leadership: of several replicas one acts, by a `Lease` of Kubernetes, with
//! the rules of client-go's leader election.
//!
//! - Whether somebody else's lease has run out is judged by a clock of our own
//!   since its record was last *seen to change*, never by the times that are
//!   written in it: the clocks of two machines need not agree.
//! - A leader renews every two seconds. One that could not for ten stops acting,
//!   which is five before anybody else may start. It has a [`Fence`] before every
//!   byte to the API server and every call of a load balancer, and its process
//!   ends.
//! - Whoever ends in good order gives the lease back, once nothing of it is under
//!   way any more.
//!
//! Why none of the crates that exist: kube has none itself; `kube-lease-manager`
//! (0.13) compares the written times with the wall clock, and writes without a
//! resourceVersion; `kube-leader-election` (0.44), `kube-coordinate` (2.0) and
//! `kubert` (0.25) are made for kube 4, 2 and 1. And what must pass the fence is
//! ours, so half of this would be ours anyway.

mod connection;
mod election;
mod fence;
mod fenced;

use std::convert::Infallible;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use sharedlb_crds::FIELD_MANAGER;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{error, info, warn};

pub use connection::fenced_client;
pub use election::{InvalidTerms, Terms};
pub use fence::{Act, Fence, Moment};
pub use fenced::Fenced;

use crate::process::readiness::Part;
use election::{Election, Step};

/// The exit status of a process that was the leader, and is no longer.
pub const LOST: i32 = 3;

/// How long what is under way may take to end before the lease is given back.
/// Most of it takes milliseconds; the next leader shall be there within 5 s.
const DRAIN: Duration = Duration::from_secs(2);

/// Which lease, for whom, and for how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// The namespace of the Lease
    pub namespace: String,
    /// Its name
    pub name: String,
    /// Who asks for it: nobody else's, ever
    pub identity: String,
    /// How long it holds
    pub terms: Terms,
}

/// An identity that nobody else has: a name, and something random, since a
/// container that starts again has the name of the one before.
///
/// # Errors
/// When the kernel gives no random number.
pub fn identity(name: &str) -> std::io::Result<String> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(format!("{name}_{}", uuid.trim()))
}

/// One that wants to be the leader.
pub struct Candidate {
    leases: Api<Lease>,
    options: Options,
    election: Election,
    /// The Lease as it was last read or written; `None`: it is to be read
    known: Option<Lease>,
}

/// The leader. Its lease is renewed as long as [`Leader::keep`] runs.
pub struct Leader {
    candidate: Candidate,
    fence: Fence,
    readiness: Part,
}

/// What became of a try.
enum Tried {
    /// The lease is ours, for a renew deadline from this moment on
    Ours(Moment),
    /// It is somebody's until this moment, if nothing changes
    Theirs(Moment, String),
}

impl Candidate {
    /// One that knows nothing yet. The client must not be a fenced one.
    #[must_use]
    pub fn new(client: Client, options: Options) -> Self {
        let leases = Api::namespaced(client, &options.namespace);
        let election = Election::new(options.identity.clone(), options.terms);
        Self { leases, options, election, known: None }
    }

    /// Waits until the lease is ours. As soon as it is known whose it is, this
    /// process is ready to take over.
    pub async fn elected(mut self, readiness: Part) -> Leader {
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

    /// The time between two tries, and something random.
    fn retry_period(&self) -> Duration {
        self.options.terms.retry_period.mul_f64(1.0 + election::JITTER * fastrand::f64())
    }

    /// One try within its time, which leaves a leader time for another one.
    async fn tried(&mut self) -> Result<Tried, Untried> {
        let limit = self.options.terms.renew_deadline / 2;
        let tried = timeout(limit, self.try_once()).await.unwrap_or(Err(Untried::NoAnswer(limit)));
        if tried.is_err() {
            // Whatever it was: it may have happened or not, so it is read again.
            self.known = None;
        }
        tried
    }

    /// Reads the Lease, unless it is known and ours, and writes it if it is ours
    /// or may be.
    async fn try_once(&mut self) -> Result<Tried, Untried> {
        let begun = Moment::now();
        if self.known.is_none() {
            let found = self.leases.get_opt(&self.options.name).await?;
            self.election.saw(found.as_ref().map(|found| found.spec.clone().unwrap_or_default()), Moment::now());
            self.known = found;
        }
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = match self.election.next(Moment::now(), Timestamp::now()) {
            Step::Wait(until, holder) => {
                self.known = None;
                return Ok(Tried::Theirs(until, holder));
            }
            Step::Create(spec) => {
                let metadata = ObjectMeta { name: Some(self.options.name.clone()), ..ObjectMeta::default() };
                self.leases.create(&params, &Lease { metadata, spec: Some(spec) }).await?
            }
            // With the resourceVersion of what was read.
            Step::Write(spec) => {
                let lease = Lease { spec: Some(spec), ..self.known.clone().unwrap_or_default() };
                self.leases.replace(&self.options.name, &params, &lease).await?
            }
        };
        self.election.saw(written.spec.clone(), begun);
        self.known = Some(written);
        Ok(Tried::Ours(begun))
    }

    /// Gives the lease back if it is ours.
    async fn give_back(&mut self) -> Result<(), Untried> {
        // A renewal may have been broken off, so what is known may be old.
        let found = self.leases.get(&self.options.name).await?;
        self.election.saw(found.spec.clone(), Moment::now());
        if let Some(spec) = self.election.released(Timestamp::now()) {
            let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
            self.leases.replace(&self.options.name, &params, &Lease { spec: Some(spec), ..found }).await?;
        }
        Ok(())
    }

    fn lease(&self) -> String {
        format!("{}/{}", self.options.namespace, self.options.name)
    }
}

/// Why a try had no result.
#[derive(Debug, thiserror::Error)]
enum Untried {
    #[error("{0}")]
    Failed(#[from] kube::Error),
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
}

impl Leader {
    /// What everything that this process does must pass.
    #[must_use]
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Renews the lease until `stop` is done, and then gives it back. If the
    /// lease is lost, the process ends with the status [`LOST`].
    ///
    /// # Errors
    /// When there can be no further thread.
    pub async fn keep(mut self, stop: impl Future<Output = ()>) -> std::io::Result<()> {
        // From now on it is the work that says what is missing.
        self.readiness.clear();
        let (lease, deadline) = (self.candidate.lease(), self.candidate.options.terms.renew_deadline);
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
            // Too late is too late, also for a renewal.
            self.fence.pass().await;
            match self.candidate.tried().await {
                Ok(Tried::Ours(since)) => {
                    // If that was too late, the watchman has seen it as well.
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

    /// Lets nothing new begin, waits for what has begun, and gives the lease back.
    async fn give_back(&mut self) {
        let lease = self.candidate.lease();
        if timeout(DRAIN, self.fence.drain()).await.is_err() {
            warn!(lease, "not given back, since something is still under way: the next leader waits until it runs out");
            return self.fence.close();
        }
        self.fence.close();
        match timeout(DRAIN, self.candidate.give_back()).await.unwrap_or(Err(Untried::NoAnswer(DRAIN))) {
            Ok(()) => info!(lease, "given back"),
            Err(error) => warn!(lease, %error, "not given back: the next leader waits until it runs out"),
        }
    }
}

/// Ends the process at once, from whatever thread: nothing of it must go on.
fn end(lease: &str, why: &str) -> ! {
    error!(lease, "no longer the leader: {why}. This process ends");
    std::process::exit(LOST)
}
