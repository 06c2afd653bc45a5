//! The load balancer: it keeps the endpoints of a Service up to date, and chooses among them.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use backon::ExponentialBuilder;
use futures::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::runtime::watcher::{Event, ExponentialBackoff};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::changes::endpoints;
use crate::pool::{Choice, Pool};
use crate::select::select;
use crate::{Changes, Config, Endpoint, InFlight, NoEndpoint};

/// The label by which an EndpointSlice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The first wait before a watch that failed is started again; each further wait is twice as long.
const RETRY_MIN: Duration = Duration::from_millis(200);
/// The longest wait. (With kube's own limit of 30 s, requests would go to pods that are gone for
/// that long after the API server is back.)
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long a watch lasts before the next one continues it, in seconds. A connection that is cut
/// without notice is given up after as long and 5 seconds more (kube's default: 290).
const WATCH_SECONDS: u32 = 60;

/// What [`LoadBalancer::next`] chooses from.
pub(crate) type Snapshot = Result<Pool, NoEndpoint>;

/// A load balancer over the endpoints of one Service.
///
/// It is made for many threads: share it by an [`Arc`]. When it is dropped, its background task
/// ends.
#[derive(Debug)]
pub struct LoadBalancer {
    slices: Api<EndpointSlice>,
    state: Arc<State>,
    listing: Mutex<()>,
    background: TaskTracker,
    background_started: OnceLock<()>,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

/// The EndpointSlices of a Service could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("listing the EndpointSlices of Service {service}")]
pub struct SyncError {
    service: String,
    source: kube::Error,
}

impl LoadBalancer {
    /// A load balancer without endpoints: [`sync_endpoints`](Self::sync_endpoints) and
    /// [`start_background_sync`](Self::start_background_sync) get them.
    ///
    /// [`Client::try_default`] makes a client from a kubeconfig file, and in a pod from its
    /// service account. The client must be allowed to list and watch EndpointSlices.
    #[must_use]
    pub fn new(client: Client, config: Config) -> Self {
        let slices = match &config.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::default_namespaced(client),
        };
        let stop = CancellationToken::new();
        Self {
            slices,
            state: Arc::new(State::new(config)),
            listing: Mutex::new(()),
            background: TaskTracker::new(),
            background_started: OnceLock::new(),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Chooses an endpoint and begins a request to it. The request ends when the value is dropped.
    ///
    /// It takes no lock and never waits.
    ///
    /// # Errors
    /// If no endpoint takes traffic.
    pub fn next(&self) -> Result<InFlight, NoEndpoint> {
        match &**self.state.snapshot.load() {
            Ok(pool) => Ok(pool.next(&self.state.choice)),
            Err(reason) => Err(reason.clone()),
        }
    }

    /// The endpoints that take traffic now.
    #[must_use]
    pub fn endpoints(&self) -> BTreeSet<Endpoint> {
        endpoints(&self.state.snapshot.load())
    }

    /// The changes of the endpoints: first those that are there are added, then what changes.
    /// Changes in between two polls are reported as one.
    ///
    /// The stream ends with [`shutdown`](Self::shutdown), or when the load balancer is dropped.
    pub fn changes(&self) -> Changes {
        Changes::new(self.state.published.subscribe(), self.stop.clone().cancelled_owned())
    }

    /// Lists the endpoints once. If this is cancelled, nothing has changed.
    ///
    /// What the background task has seen meanwhile is not replaced by the list, which may be older.
    ///
    /// # Errors
    /// If the API server is not reached or refuses the list. The endpoints are the same as before.
    pub async fn sync_endpoints(&self) -> Result<(), SyncError> {
        let _one_at_a_time = self.listing.lock().await;
        let known = self.state.snapshot.load_full();
        let params = ListParams::default().labels(&self.state.selector());
        let slices = self.slices.list(&params).await.map_err(|source| self.sync_error(source))?;
        self.state.publish_after(&known, &slices.items);
        Ok(())
    }

    fn sync_error(&self, source: kube::Error) -> SyncError {
        SyncError { service: self.state.config.service.clone(), source }
    }

    /// Keeps the endpoints up to date from now on, by a task that watches the EndpointSlices. While
    /// the API server is away, the endpoints stay as they were last seen.
    ///
    /// It does nothing if the task runs already, or after a [`shutdown`](Self::shutdown).
    ///
    /// # Panics
    /// If it is called outside of a Tokio runtime.
    pub fn start_background_sync(&self) {
        self.background_started.get_or_init(|| {
            let watch = follow(self.slices.clone(), self.state.clone());
            let stop = self.stop.clone();
            self.background.spawn(async move { stop.run_until_cancelled(watch).await });
        });
    }

    /// Ends the background task, and returns when it has ended. It may be called again.
    ///
    /// [`next`](Self::next) goes on with the endpoints that were last seen.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.background.close();
        self.background.wait().await;
    }
}

/// What the background task shares with the load balancer.
#[derive(Debug)]
struct State {
    config: Config,
    choice: Choice,
    /// The value of `published`, to be read without a lock.
    snapshot: ArcSwap<Snapshot>,
    published: watch::Sender<Arc<Snapshot>>,
}

impl State {
    fn new(config: Config) -> Self {
        let nothing = Arc::new(Err(NoEndpoint::NotSynced));
        Self {
            choice: Choice::new(config.policy),
            config,
            snapshot: ArcSwap::new(nothing.clone()),
            published: watch::Sender::new(nothing),
        }
    }

    fn selector(&self) -> String {
        format!("{SERVICE_NAME}={}", self.config.service)
    }

    /// Makes the endpoints of these slices those that requests go to.
    fn publish<'a>(&self, slices: impl IntoIterator<Item = &'a EndpointSlice>) {
        let selected = select(slices, &self.config.rules);
        self.published.send_modify(|published| self.replace(published, selected));
    }

    /// The same, unless others were published after these.
    fn publish_after<'a>(&self, known: &Arc<Snapshot>, slices: impl IntoIterator<Item = &'a EndpointSlice>) {
        let selected = select(slices, &self.config.rules);
        self.published.send_if_modified(|published| {
            let is_next = Arc::ptr_eq(published, known);
            if is_next {
                self.replace(published, selected);
            }
            is_next
        });
    }

    fn replace(&self, published: &mut Arc<Snapshot>, selected: Result<BTreeSet<Endpoint>, NoEndpoint>) {
        let before = published.as_ref().as_ref().ok();
        let next = selected.and_then(|endpoints| Pool::new(endpoints, before).ok_or(NoEndpoint::NoneReady));
        *published = Arc::new(next);
        self.snapshot.store(published.clone());
    }
}

/// Watches the EndpointSlices of the Service for ever. Where the watch fails, or is too old to be
/// continued (410), they are listed again.
async fn follow(slices: Api<EndpointSlice>, state: Arc<State>) {
    let service = &state.config.service;
    let (store, writer) = reflector::store();
    let config = watcher::Config::default().labels(&state.selector()).timeout(WATCH_SECONDS);
    let backoff = ExponentialBuilder::new()
        .with_min_delay(RETRY_MIN)
        .with_max_delay(RETRY_MAX)
        // Many clients lose the API server at the same time.
        .with_jitter()
        .without_max_times();
    let events = watcher(slices, config)
        .backoff(ExponentialBackoff::from(backoff))
        // Nothing reads them, and they may be larger than the rest.
        .modify(|slice| slice.managed_fields_mut().clear())
        .reflect(writer);
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init | Event::InitApply(_)) => {}
            Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) => {
                let slices = store.state();
                state.publish(slices.iter().map(Arc::as_ref));
                debug!(service, slices = slices.len(), "endpoints are updated");
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                warn!(service, error, "the watch of EndpointSlices failed, and is started again");
            }
        }
    }
}

#[cfg(test)]
mod tests;
