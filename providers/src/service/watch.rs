//! The Services and EndpointSlices of a class, as two watches and our own writes
//! know them: looking at a load balancer costs no call.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backon::ExponentialBuilder;
use futures::channel::mpsc::{self, UnboundedReceiver, UnboundedSender};
use futures::stream::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::serde::{Serialize, de::DeserializeOwned};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::api::What;
use super::cache::{Cache, Entry, Event};
use super::front::Front;
use super::marks::Marks;
use super::slices::SeenSlice;
use crate::Error;
use crate::model::LbName;

/// How soon a watch that broke off is begun again, and how long that may take in
/// the end: a server that comes back is found within the longest wait. (kube's
/// own choice, up to 30 s, would leave by-hand changes unseen for as long, and
/// our writes to what has changed in vain.)
const WATCH_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How long the first lists may take.
const FILLED_WITHIN: Duration = Duration::from_secs(30);

/// A kind of object that is watched.
pub(super) trait Watched:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + 'static
{
    /// What is kept of it.
    type Seen: PartialEq + Send;

    /// Its name in a role.
    const RESOURCE: &'static str;

    /// What it says, if it is ours.
    fn read(&self, load_balancer: &LbName, marks: &Marks) -> Option<Self::Seen>;

    /// The cache of its kind.
    fn cache(caches: &mut Caches) -> &mut Cache<Self::Seen>;

    /// Whether a change of one says anything new of its load balancer.
    fn matters(caches: &Caches, load_balancer: &LbName) -> bool;
}

impl Watched for Service {
    type Seen = Front;

    const RESOURCE: &'static str = "services";

    fn read(&self, load_balancer: &LbName, _marks: &Marks) -> Option<Front> {
        (self.metadata.name.as_deref() == Some(load_balancer.as_str())).then(|| Front::read(self))
    }

    fn cache(caches: &mut Caches) -> &mut Cache<Front> {
        &mut caches.services
    }

    fn matters(_: &Caches, _: &LbName) -> bool {
        true
    }
}

impl Watched for EndpointSlice {
    type Seen = SeenSlice;

    const RESOURCE: &'static str = "endpointslices";

    fn read(&self, load_balancer: &LbName, marks: &Marks) -> Option<SeenSlice> {
        SeenSlice::read(self, load_balancer, marks)
    }

    fn cache(caches: &mut Caches) -> &mut Cache<SeenSlice> {
        &mut caches.slices
    }

    /// The slices of a Service that was deleted go one by one, which is no news.
    fn matters(caches: &Caches, load_balancer: &LbName) -> bool {
        caches.services.get(load_balancer.as_str()).is_some()
    }
}

/// All that is known.
#[derive(Default)]
pub(super) struct Caches {
    pub(super) services: Cache<Front>,
    pub(super) slices: Cache<SeenSlice>,
    /// Who wants to know what others changed.
    subscribers: Vec<UnboundedSender<LbName>>,
    /// Why a watch is not getting on at present, by what it watches.
    trouble: BTreeMap<&'static str, Error>,
}

impl Caches {
    fn tell<K: Watched>(&mut self, changed: impl IntoIterator<Item = LbName>) {
        for load_balancer in changed {
            if K::matters(self, &load_balancer) {
                self.subscribers.retain(|subscriber| subscriber.unbounded_send(load_balancer.clone()).is_ok());
            }
        }
    }
}

/// The two watches, which end when it is dropped.
pub(super) struct Watches {
    shared: Arc<Shared>,
    tasks: [AbortHandle; 2],
}

struct Shared {
    marks: Marks,
    caches: Mutex<Caches>,
    /// Woken whenever `is_filled` or `trouble` may have changed.
    progress: Notify,
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Watches {
    /// Begins to watch. Must be called within a Tokio runtime.
    pub(super) fn start(client: &Client, marks: &Marks) -> Self {
        let shared = Arc::new(Shared { marks: marks.clone(), caches: Mutex::default(), progress: Notify::new() });
        let tasks = [
            tokio::spawn(follow::<Service>(client.clone(), shared.clone())).abort_handle(),
            tokio::spawn(follow::<EndpointSlice>(client.clone(), shared.clone())).abort_handle(),
        ];
        Self { shared, tasks }
    }

    /// All that is known, for as long as it takes to look.
    pub(super) fn caches(&self) -> MutexGuard<'_, Caches> {
        self.shared.caches()
    }

    /// What others change from now on.
    pub(super) fn changes(&self) -> UnboundedReceiver<LbName> {
        let (sender, receiver) = mpsc::unbounded();
        self.caches().subscribers.push(sender);
        receiver
    }

    /// Waits until everything there is has been listed.
    pub(super) async fn filled(&self) -> Result<(), Error> {
        let filled = async {
            loop {
                let progress = self.shared.progress.notified();
                {
                    let caches = self.caches();
                    if caches.services.is_filled() && caches.slices.is_filled() {
                        return Ok(());
                    }
                    // No use waiting for a permission that is not there.
                    if let Some(refused) = caches.trouble.values().find(|error| matches!(error, Error::Refused(_))) {
                        return Err(refused.clone());
                    }
                }
                progress.await;
            }
        };
        tokio::time::timeout(FILLED_WITHIN, filled).await.unwrap_or_else(|_| {
            let last = self.caches().trouble.values().next().map_or("no answer".into(), Error::to_string);
            Err(Error::Transient(format!(
                "waited {} s for the lists of services and endpointslices in namespace {}: {last}",
                FILLED_WITHIN.as_secs(),
                self.shared.marks.namespace
            )))
        })
    }

    /// Announces that we begin to write an object.
    pub(super) fn write<K: Watched>(&self, name: &str) -> Writing<'_, K> {
        let name: Arc<str> = name.into();
        K::cache(&mut self.caches()).begin_write(&name);
        Writing { shared: &self.shared, name, kind: std::marker::PhantomData }
    }
}

impl Shared {
    fn caches(&self) -> MutexGuard<'_, Caches> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object in compact form; `None` if it is not ours.
    fn entry<K: Watched>(&self, object: &K) -> Option<Entry<K::Seen>> {
        entry(object, &self.marks)
    }

    fn take<K: Watched>(&self, event: watcher::Event<K>) {
        let mut caches = self.caches();
        let cache = K::cache(&mut caches);
        let changed: Vec<_> = match event {
            watcher::Event::Init => {
                cache.begin_list();
                return;
            }
            watcher::Event::InitDone => cache.end_list(),
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                let event = match self.entry(&object) {
                    Some(entry) => Event::Present(entry),
                    None => Event::Gone { version: version(&object) },
                };
                cache.take(&name(&object), event).into_iter().collect()
            }
            watcher::Event::Delete(object) => {
                cache.take(&name(&object), Event::Gone { version: version(&object) }).into_iter().collect()
            }
        };
        caches.tell::<K>(changed);
        caches.trouble.remove(K::RESOURCE);
        drop(caches);
        self.progress.notify_waiters();
    }

    fn trouble<K: Watched>(&self, error: watcher::Error) {
        let (verb, namespace) = ("list or watch", self.marks.namespace.as_str());
        tracing::warn!(namespace, resource = K::RESOURCE, %error, "the watch is interrupted and is tried again");
        let what = What { verb, resource: K::RESOURCE, namespace, name: "*" };
        let error = match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => what.failed(error),
            watcher::Error::WatchError(status) => what.refused(&status),
            error @ watcher::Error::NoResourceVersion => Error::Transient(error.to_string()),
        };
        self.caches().trouble.insert(K::RESOURCE, error);
        self.progress.notify_waiters();
    }
}

/// Watches one kind of object for ever.
async fn follow<K: Watched>(client: Client, shared: Arc<Shared>) {
    let api: Api<K> = Api::namespaced(client, &shared.marks.namespace);
    let config = watcher::Config::default().labels(&shared.marks.selector());
    let (soon, at_most) = WATCH_AGAIN;
    let backoff =
        ExponentialBuilder::default().with_min_delay(soon).with_max_delay(at_most).with_jitter().without_max_times();
    let mut events = Box::pin(watcher(api, config).backoff(watcher::ExponentialBackoff::from(backoff)));
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => shared.take(event),
            Err(error) => shared.trouble::<K>(error),
        }
    }
}

/// A write of ours that is under way. Dropping it ends it, with or without a
/// reply.
pub(super) struct Writing<'a, K: Watched> {
    shared: &'a Shared,
    name: Arc<str>,
    kind: std::marker::PhantomData<fn() -> K>,
}

impl<K: Watched> Writing<'_, K> {
    /// The object as the API server has it now.
    pub(super) fn written(self, reply: &K) {
        if let Some(entry) = self.shared.entry(reply) {
            K::cache(&mut self.shared.caches()).written(&self.name, entry);
        }
    }

    /// The object that had this uid and version is gone.
    pub(super) fn deleted(self, uid: Arc<str>, version: u64) {
        K::cache(&mut self.shared.caches()).deleted(&self.name, uid, version);
    }
}

impl<K: Watched> Drop for Writing<'_, K> {
    fn drop(&mut self) {
        let mut caches = self.shared.caches();
        let changed = K::cache(&mut caches).end_write(&self.name);
        caches.tell::<K>(changed);
    }
}

/// An object in compact form; `None` if it is not ours.
pub(super) fn entry<K: Watched>(object: &K, marks: &Marks) -> Option<Entry<K::Seen>> {
    let load_balancer = marks.load_balancer(object.meta())?;
    let seen = object.read(&load_balancer, marks)?;
    let uid = object.meta().uid.as_deref().unwrap_or_default().into();
    Some(Entry { load_balancer, uid, version: version(object), seen })
}

fn name<K: Watched>(object: &K) -> Arc<str> {
    object.meta().name.as_deref().unwrap_or_default().into()
}

/// Versions of one object are numbers, of which the newer is the greater.
fn version<K: Watched>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}
