//! What is known of the cluster: watches, and the caches that they fill.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use sharedlb_crds::{LOAD_BALANCER_LABEL, SharedLB, SharedLBClass};
use tracing::warn;

use crate::api::claim::ClaimObject;
use crate::api::class::ClassObject;
use crate::backends::nodes::NodeObject;
use crate::backends::{Backends, EndpointNews, ServiceObject, SliceObject};
use crate::kubernetes::ObjectKey;
use crate::kubernetes::ObjectMeta;
use crate::kubernetes::cache::{Cached, Changed};
use crate::kubernetes::watch::{map, watch_kind};
use crate::process::metrics::Metrics;
use crate::process::tasks;

impl Cached for ClaimObject {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

/// What matters of a Namespace.
#[derive(Debug, Clone, PartialEq)]
pub struct NamespaceObject {
    meta: ObjectMeta,
    /// By which classes choose it
    pub labels: BTreeMap<String, String>,
}

impl NamespaceObject {
    fn parse(namespace: &Namespace) -> Self {
        Self { meta: ObjectMeta::of(namespace), labels: namespace.metadata.labels.clone().unwrap_or_default() }
    }
}

impl Cached for NamespaceObject {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

/// What a watch tells the class loop.
#[derive(Debug)]
pub enum Told {
    /// Of claims
    Claim(Event<ClaimObject>),
    /// Of classes
    Class(Event<ClassObject>),
    /// Of namespaces
    Namespace(Event<NamespaceObject>),
    /// Of Services; the cache of these is in [`Backends`]
    Services(Vec<Changed<ServiceObject>>),
    /// Of EndpointSlices and nodes; the caches of these are in [`Backends`] too
    Endpoints(EndpointNews),
}

/// Who listens to something.
pub type EventHandler<T> = Box<dyn Fn(&T) + Send + Sync>;

/// Who listens to the watches besides the class loop: the sources.
#[derive(Default)]
pub struct EventHandlers {
    /// To claims
    pub claims: Vec<EventHandler<Event<DynamicObject>>>,
    /// To Services
    pub services: Vec<EventHandler<Event<Service>>>,
    /// To changes of Services that [`Backends`] has taken in already
    pub changed_services: Vec<EventHandler<[Changed<ServiceObject>]>>,
}

/// Watches all that matters, for ever, and tells it.
pub async fn watch_all(
    client: Client,
    backends: Arc<Backends>,
    metrics: Arc<Metrics>,
    listeners: EventHandlers,
    tell: impl Fn(Told) + Clone + Send + 'static,
) {
    let EventHandlers { claims: of_claims, services: of_services, changed_services } = listeners;
    let all = watcher::Config::default();
    // What we write for load balancers is nobody's backend.
    let slices = watcher::Config::default().labels(&format!("!{LOAD_BALANCER_LABEL}"));
    let claims: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<SharedLB>(&()));
    let classes: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<SharedLBClass>(&()));
    let (told_claim, told_class, told_namespace, told_service) =
        (tell.clone(), tell.clone(), tell.clone(), tell.clone());
    let (services, nodes) = (backends.clone(), backends.clone());
    let told_nodes = tell.clone();
    let all_nodes = Api::<Node>::all(client.clone());
    let of_nodes = watch_one("Node", all_nodes, all.clone(), &metrics, move |event| {
        let news = nodes.watched_node(map(event, |object| NodeObject::parse(&object)));
        if news != EndpointNews::default() {
            told_nodes(Told::Endpoints(news));
        }
    });
    let needed = backends.clone();
    tokio::join!(
        async move {
            needed.nodes_needed().await;
            of_nodes.await;
        },
        watch_one("SharedLB", claims, all.clone(), &metrics, move |event| {
            of_claims.iter().for_each(|listener| listener(&event));
            let parse = |object: DynamicObject| {
                tasks::at("SharedLB", &key_of(&object));
                ClaimObject::parse(&object)
            };
            told_claim(Told::Claim(map(event, parse)));
        }),
        watch_one("SharedLBClass", classes, all.clone(), &metrics, move |event| {
            told_class(Told::Class(map(event, |object| ClassObject::parse(&object))));
        }),
        watch_one("Namespace", Api::<Namespace>::all(client.clone()), all.clone(), &metrics, move |event| {
            told_namespace(Told::Namespace(map(event, |object| NamespaceObject::parse(&object))));
        }),
        watch_one("Service", Api::<Service>::all(client.clone()), all, &metrics, move |event| {
            of_services.iter().for_each(|listener| listener(&event));
            let done = matches!(event, Event::InitDone);
            let changes = services.watched_service(map(event, |object| ServiceObject::parse(&object)));
            if done || !changes.is_empty() {
                changed_services.iter().for_each(|listener| listener(&changes));
                told_service(Told::Services(changes));
            }
        }),
        watch_one("EndpointSlice", Api::<EndpointSlice>::all(client), slices, &metrics, move |event| {
            let done = matches!(event, Event::InitDone);
            let news = backends.watched_slice(map(event, |object| SliceObject::parse(&object)));
            if done || news != EndpointNews::default() {
                tell(Told::Endpoints(news));
            }
        }),
    );
}

/// Watches one kind for ever. A failure is logged and counted.
pub(crate) fn watch_one<K>(
    kind: &'static str,
    api: Api<K>,
    config: watcher::Config,
    metrics: &Arc<Metrics>,
    apply: impl Fn(Event<K>) + Send,
) -> impl Future<Output = ()>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    K::DynamicType: Clone,
{
    let metrics = metrics.clone();
    watch_kind(api, config, apply, move |error| {
        metrics.watch_error(kind);
        if missing(&error) {
            warn!(kind, "its CustomResourceDefinition is not installed: kubectl apply -f crds/");
        } else {
            warn!(kind, %error, "watch failed, and is begun again");
        }
    })
}

/// Whether the API server does not know this kind of object.
fn missing(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

fn key_of(object: &DynamicObject) -> ObjectKey {
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    ObjectKey { namespace: text(&object.metadata.namespace), name: text(&object.metadata.name) }
}
