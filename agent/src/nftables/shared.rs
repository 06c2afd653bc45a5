//! The engine of a host, as all its users have it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, mem};

use parking_lot::Mutex;
use sharedlb_providers::{Details, Error, LbName, Listener, ListenerKey};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::engine::{Engine, Observation};
use super::program::ProgramError;
use super::{Programs, ServedLoadBalancer, SourceAddress};

/// How long the changes of a load balancer that is not changed at once are begun.
const BEGINS_FOR: Duration = Duration::from_secs(2);

/// The one engine of a host. Its clones are the same engine.
///
/// Requests wait for the transaction that is under way. Those that came meanwhile are then carried
/// out together, in one transaction.
#[derive(Clone)]
pub struct SharedEngine(Arc<Shared>);

struct Shared {
    programs: Programs,
    seed: u32,
    engine: tokio::sync::Mutex<Engine>,
    waiting: Mutex<Vec<Request>>,
}

/// A request that waits for the engine.
enum Request {
    Observe(oneshot::Sender<Result<Arc<Observation>, Error>>),
    Change(Alteration, oneshot::Sender<Result<Altered, Error>>),
}

/// What is to be changed about a load balancer.
#[derive(Debug)]
pub(super) struct Alteration {
    pub(super) name: LbName,
    pub(super) desired: Desired,
}

/// What a load balancer shall be.
#[derive(Debug)]
pub(super) enum Desired {
    /// Not there
    Removed,
    /// There
    Served {
        /// Its addresses
        addresses: BTreeSet<IpAddr>,
        /// From where pods see connections come
        source_address: SourceAddress,
        /// The changes of its listeners, in their order
        steps: Vec<Step>,
    },
}

/// Listeners that are changed together, as they shall be. `None`: closed.
pub(super) type Step = BTreeMap<ListenerKey, Option<Listener>>;

/// What became of an alteration.
#[derive(Debug, Default)]
pub(super) struct Altered {
    /// The listeners that were not changed, with the cause
    pub(super) failed: BTreeMap<ListenerKey, Error>,
    /// The listeners for which there was no time
    pub(super) postponed: BTreeSet<ListenerKey>,
    /// Why connections to former backends still go on
    pub(super) unforgotten: Option<Error>,
}

impl SharedEngine {
    /// The engine of this network namespace, with this seed of the hashes by which connections get
    /// their backends: the same on all hosts.
    #[must_use]
    pub fn new(programs: Programs, seed: u32) -> Self {
        let engine = tokio::sync::Mutex::new(Engine::new(programs.clone()));
        Self(Arc::new(Shared { programs, seed, engine, waiting: Mutex::default() }))
    }

    /// The programs by which the kernel is configured.
    pub(super) fn programs(&self) -> &Programs {
        &self.0.programs
    }

    /// See [`DataPath::seed`](super::DataPath::seed).
    pub(super) fn seed(&self) -> u32 {
        self.0.seed
    }

    /// What the tables have.
    pub(super) async fn observe(&self) -> Result<Arc<Observation>, Error> {
        self.request(Request::Observe).await
    }

    /// Changes a load balancer.
    pub(super) async fn alter(&self, alteration: Alteration) -> Result<Altered, Error> {
        self.request(|answer| Request::Change(alteration, answer)).await
    }

    /// Waits for the engine, and carries out all requests that wait for it: this one too, unless an
    /// earlier one has taken it along.
    async fn request<T>(&self, request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        self.0.waiting.lock().push(request(answer));
        let mut engine = self.0.engine.lock().await;
        let requests = mem::take(&mut *self.0.waiting.lock());
        carry_out(&mut engine, self.0.seed, requests).await;
        drop(engine);
        answered.await.unwrap_or_else(|_| Err(Error::Transient("the change was broken off".into())))
    }
}

impl fmt::Debug for SharedEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedEngine").field("seed", &self.0.seed).finish_non_exhaustive()
    }
}

/// Carries requests out and answers them. Observations have what is changed.
async fn carry_out(engine: &mut Engine, seed: u32, requests: Vec<Request>) {
    let (mut changes, mut observers) = (Vec::new(), Vec::new());
    for request in requests {
        match request {
            Request::Change(alteration, answer) => changes.push((alteration, answer)),
            Request::Observe(answer) => observers.push(answer),
        }
    }
    // Who has asked may be gone; the answer is then dropped.
    if !changes.is_empty() {
        let (alterations, answers): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
        for (answer, altered) in answers.into_iter().zip(alter(engine, seed, &alterations).await) {
            _ = answer.send(altered);
        }
    }
    if !observers.is_empty() {
        let observed = engine.observe(seed).await.map(Arc::new).map_err(error);
        observers.into_iter().for_each(|answer| _ = answer.send(observed.clone()));
    }
}

/// Changes load balancers, and has the kernel forget the connections that they do not lead any
/// more.
async fn alter(engine: &mut Engine, seed: u32, alterations: &[Alteration]) -> Vec<Result<Altered, Error>> {
    let mut altered = Vec::new();
    if together(engine, seed, alterations).await.is_ok() {
        altered.extend(alterations.iter().map(|_| Ok(Altered::default())));
    } else {
        for alteration in alterations {
            altered.push(apart(engine, seed, alteration).await);
        }
    }
    if let Err(error) = engine.forget_orphaned().await {
        let why = Details::new("the connections to former backends cannot be ended").caused_by(error);
        let why = Error::Transient(why);
        altered.iter_mut().flatten().for_each(|altered| altered.unforgotten = Some(why.clone()));
    }
    altered
}

/// Changes load balancers in one transaction, or not at all.
async fn together(engine: &mut Engine, seed: u32, alterations: &[Alteration]) -> Result<(), Error> {
    engine.take_over(seed).await.map_err(error)?;
    let mut load_balancers = engine.load_balancers();
    for alteration in alterations {
        alteration.check_addresses(&load_balancers)?;
        alteration.replay(&mut load_balancers, alteration.steps())?;
    }
    engine.change(load_balancers).await.map_err(error)
}

/// Changes a load balancer such that no step that is refused keeps another one from being carried
/// out: halves of the steps are tried, and halves of those that are refused.
async fn apart(engine: &mut Engine, seed: u32, alteration: &Alteration) -> Result<Altered, Error> {
    let began = Instant::now();
    let mut altered = Altered::default();
    let mut waiting = vec![alteration.steps()];
    while let Some(steps) = waiting.pop() {
        let listeners = steps.iter().flat_map(|step| step.keys().copied());
        if began.elapsed() > BEGINS_FOR {
            altered.postponed.extend(listeners);
            continue;
        }
        // What has failed is read from the kernel, and tables that are not as they were left are made.
        engine.take_over(seed).await.map_err(error)?;
        let mut load_balancers = engine.load_balancers();
        alteration.check_addresses(&load_balancers)?;
        let replayed = alteration.replay(&mut load_balancers, steps);
        let changed = match replayed {
            Ok(()) => engine.change(load_balancers).await.map_err(error),
            Err(error) => Err(error),
        };
        match changed {
            Ok(()) => {}
            Err(error @ (Error::Refused(_) | Error::PortInUse(_))) if !steps.is_empty() => match steps.len() {
                1 => altered.failed.extend(listeners.map(|key| (key, error.clone()))),
                count => {
                    let (first, second) = steps.split_at(count / 2);
                    waiting.extend([second, first]);
                }
            },
            Err(error) => return Err(error),
        }
    }
    Ok(altered)
}

impl Alteration {
    fn steps(&self) -> &[Step] {
        match &self.desired {
            Desired::Removed => &[],
            Desired::Served { steps, .. } => steps,
        }
    }

    /// Whether the load balancer can have its addresses beside these load balancers.
    fn check_addresses(&self, load_balancers: &BTreeMap<LbName, ServedLoadBalancer>) -> Result<(), Error> {
        let Desired::Served { addresses, .. } = &self.desired else { return Ok(()) };
        if addresses.is_empty() {
            return Err(Error::Refused(format!("load balancer {} has no address", self.name).into()));
        }
        for (other, served) in load_balancers.iter().filter(|(name, _)| **name != self.name) {
            if let Some(address) = served.addresses.intersection(addresses).next() {
                let message = format!("{address} is an address of load balancer {other}, which this host serves too");
                return Err(Error::Refused(message.into()));
            }
        }
        Ok(())
    }

    /// Carries some of the steps out on data.
    fn replay(&self, load_balancers: &mut BTreeMap<LbName, ServedLoadBalancer>, steps: &[Step]) -> Result<(), Error> {
        let Desired::Served { addresses, source_address, .. } = &self.desired else {
            load_balancers.remove(&self.name);
            return Ok(());
        };
        let served = load_balancers.entry(self.name.clone()).or_default();
        served.addresses.clone_from(addresses);
        served.source_address = *source_address;
        for step in steps {
            for (key, _) in step.iter().filter(|(_, listener)| listener.is_none()) {
                served.listeners.remove(key);
            }
            for (key, listener) in step.iter().filter_map(|(key, listener)| Some((*key, listener.as_ref()?))) {
                if let Some(other) = served.listeners.keys().find(|other| **other != key && other.overlaps(key)) {
                    return Err(Error::PortInUse(format!("listener {other} is still open").into()));
                }
                served.listeners.insert(key, listener.clone());
            }
        }
        Ok(())
    }
}

/// An error of a program, as a provider's.
fn error(error: ProgramError) -> Error {
    match error {
        ProgramError::Failed { .. } => Error::Refused(Details::new("nftables refuses it").caused_by(error)),
        _ => Error::Transient(Details::new("nftables cannot be programmed").caused_by(error)),
    }
}
