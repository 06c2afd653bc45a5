//! The cached Services and EndpointSlices of a class, which two watches and our own writes
//! fill: an observation takes no call.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::mpsc::{self, UnboundedReceiver, UnboundedSender};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::serde::{Serialize, de::DeserializeOwned};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use parking_lot::{Mutex, MutexGuard};
use sharedlb_kubernetes::ObjectMeta;
use sharedlb_kubernetes::watch::watch_kind;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::api::What;
use super::cache::{Cache, Entry};
use super::front::Front;
use super::marks::Marks;
use super::name::ServiceName;
use super::slices::SeenSlice;
use crate::model::LbName;
use crate::{Details, Error};

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
    /// Its compact form.
    type Seen: Clone + PartialEq + Send + Sync;

    /// Its name in a role.
    const RESOURCE: &'static str;

    /// Parses it, if it is ours: the Service that it is or belongs to, and its compact form.
    fn read(&self, load_balancer: &LbName, marks: &Marks) -> Option<(ServiceName, Self::Seen)>;

    /// The cache of its kind.
    fn cache(caches: &mut Caches) -> &mut Cache<Self::Seen>;

    /// Whether a change of an object is reported as a change of its load balancer.
    fn matters(caches: &Caches, service: &ServiceName) -> bool;
}

impl Watched for Service {
    type Seen = Front;

    const RESOURCE: &'static str = "services";

    fn read(&self, load_balancer: &LbName, _marks: &Marks) -> Option<(ServiceName, Front)> {
        let (service, after) = ServiceName::split(self.metadata.name.as_deref()?, load_balancer)?;
        after.is_empty().then(|| (service, Front::read(self)))
    }

    fn cache(caches: &mut Caches) -> &mut Cache<Front> {
        &mut caches.services
    }

    fn matters(_: &Caches, _: &ServiceName) -> bool {
        true
    }
}

impl Watched for EndpointSlice {
    type Seen = SeenSlice;

    const RESOURCE: &'static str = "endpointslices";

    fn read(&self, load_balancer: &LbName, marks: &Marks) -> Option<(ServiceName, SeenSlice)> {
        SeenSlice::read(self, load_balancer, marks)
    }

    fn cache(caches: &mut Caches) -> &mut Cache<SeenSlice> {
        &mut caches.slices
    }

    /// The deletion of a slice after that of its Service is not reported.
    fn matters(caches: &Caches, service: &ServiceName) -> bool {
        caches.services.get(service.as_str()).is_some()
    }
}

/// The cached objects.
pub(super) struct Caches {
    pub(super) services: Cache<Front>,
    pub(super) slices: Cache<SeenSlice>,
    /// The receivers of changes by other clients.
    subscribers: Vec<UnboundedSender<LbName>>,
    /// The current error of each watch, by what it watches.
    errors: BTreeMap<&'static str, Error>,
}

impl Caches {
    fn new(namespace: &str) -> Self {
        let (services, slices) = (Cache::new(namespace), Cache::new(namespace));
        Self { services, slices, subscribers: Vec::new(), errors: BTreeMap::new() }
    }

    fn report<K: Watched>(&mut self, changed: impl IntoIterator<Item = ServiceName>) {
        for service in changed {
            if K::matters(self, &service) {
                let load_balancer = service.load_balancer();
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
    /// Woken whenever `is_filled` or `errors` may have changed.
    progress: Notify,
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Watches {
    /// Starts the watches. Must be called within a Tokio runtime.
    pub(super) fn start(client: &Client, marks: &Marks) -> Self {
        let shared = Arc::new(Shared {
            marks: marks.clone(),
            caches: Mutex::new(Caches::new(&marks.namespace)),
            progress: Notify::new(),
        });
        let tasks = [
            tokio::spawn(follow::<Service>(client.clone(), shared.clone())).abort_handle(),
            tokio::spawn(follow::<EndpointSlice>(client.clone(), shared.clone())).abort_handle(),
        ];
        Self { shared, tasks }
    }

    /// Locks the cached objects.
    pub(super) fn caches(&self) -> MutexGuard<'_, Caches> {
        self.shared.caches()
    }

    /// The load balancers that other clients change from now on.
    pub(super) fn changes(&self) -> UnboundedReceiver<LbName> {
        let (sender, receiver) = mpsc::unbounded();
        self.caches().subscribers.push(sender);
        receiver
    }

    /// Waits until the first lists are complete.
    pub(super) async fn filled(&self) -> Result<(), Error> {
        let filled = async {
            loop {
                let progress = self.shared.progress.notified();
                {
                    let caches = self.caches();
                    if caches.services.is_filled() && caches.slices.is_filled() {
                        return Ok(());
                    }
                    // A missing permission does not come by waiting.
                    if let Some(refused) = caches.errors.values().find(|error| matches!(error, Error::Refused(_))) {
                        return Err(refused.clone());
                    }
                }
                progress.await;
            }
        };
        tokio::time::timeout(FILLED_WITHIN, filled).await.unwrap_or_else(|_| {
            let last = self.caches().errors.values().next().cloned();
            let waited = Details::new(format!(
                "waited {} s for the lists of services and endpointslices in namespace {}",
                FILLED_WITHIN.as_secs(),
                self.shared.marks.namespace
            ));
            let last = last.unwrap_or_else(|| Error::Transient("no answer".into()));
            Err(Error::Transient(waited.caused_by(last)))
        })
    }

    /// Records that a write of an object is sent.
    pub(super) fn write<K: Watched>(&self, name: &str) -> Writing<'_, K> {
        K::cache(&mut self.caches()).begin_write(name);
        Writing { shared: &self.shared, name: name.to_owned(), kind: std::marker::PhantomData }
    }
}

impl Shared {
    fn caches(&self) -> MutexGuard<'_, Caches> {
        self.caches.lock()
    }

    /// An object in compact form; `None` if it is not ours.
    fn entry<K: Watched>(&self, object: &K) -> Option<Entry<K::Seen>> {
        entry(object, &self.marks)
    }

    fn take<K: Watched>(&self, event: Event<K>) {
        let mut caches = self.caches();
        let cache = K::cache(&mut caches);
        let is_listed = matches!(event, Event::InitApply(_));
        let changed = match event {
            Event::Init => cache.apply_event(Event::Init),
            Event::InitDone => cache.apply_event(Event::InitDone),
            Event::InitApply(object) | Event::Apply(object) => match self.entry(&object) {
                Some(entry) if is_listed => cache.apply_event(Event::InitApply(entry)),
                Some(entry) => cache.apply_event(Event::Apply(entry)),
                None => cache.apply_delete(&ObjectMeta::of(&object)),
            },
            Event::Delete(object) => cache.apply_delete(&ObjectMeta::of(&object)),
        };
        caches.report::<K>(changed);
        caches.errors.remove(K::RESOURCE);
        drop(caches);
        self.progress.notify_waiters();
    }

    fn failed<K: Watched>(&self, error: watcher::Error) {
        let (verb, namespace) = ("list or watch", self.marks.namespace.as_str());
        tracing::warn!(namespace, resource = K::RESOURCE, %error, "the watch is interrupted and is tried again");
        let what = What { verb, resource: K::RESOURCE, namespace, name: "*" };
        let error = match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => what.failed(error),
            watcher::Error::WatchError(status) => what.refused(*status),
            error @ watcher::Error::NoResourceVersion => {
                Error::Transient(Details::new(format!("{what} failed")).caused_by(error))
            }
        };
        self.caches().errors.insert(K::RESOURCE, error);
        self.progress.notify_waiters();
    }
}

/// Watches one kind of object for ever.
async fn follow<K: Watched>(client: Client, shared: Arc<Shared>) {
    let api: Api<K> = Api::namespaced(client, &shared.marks.namespace);
    let config = watcher::Config::default().labels(&shared.marks.selector());
    watch_kind(api, config, |event| shared.take(event), |error| shared.failed::<K>(error)).await;
}

/// A write of ours in flight. Dropping it ends it, with or without a reply.
pub(super) struct Writing<'a, K: Watched> {
    shared: &'a Shared,
    name: String,
    kind: std::marker::PhantomData<fn() -> K>,
}

impl<K: Watched> Writing<'_, K> {
    /// Takes in the reply with the object.
    pub(super) fn written(self, reply: &K) {
        if let Some(entry) = self.shared.entry(reply) {
            K::cache(&mut self.shared.caches()).apply_write(entry);
        }
    }

    /// Takes in that the object with this uid is gone.
    pub(super) fn deleted(self, uid: &Arc<str>) {
        K::cache(&mut self.shared.caches()).apply_own_delete(&self.name, uid);
    }
}

impl<K: Watched> Drop for Writing<'_, K> {
    fn drop(&mut self) {
        let mut caches = self.shared.caches();
        let changed = K::cache(&mut caches).end_write(&self.name);
        caches.report::<K>(changed);
    }
}

/// An object in compact form; `None` if it is not ours.
pub(super) fn entry<K: Watched>(object: &K, marks: &Marks) -> Option<Entry<K::Seen>> {
    let load_balancer = marks.load_balancer(object.meta())?;
    let (service, seen) = object.read(&load_balancer, marks)?;
    Some(Entry { service, meta: ObjectMeta::of(object), seen })
}
