//! The watches of the controller, and the events that they pass on.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use sharedlb_crds::{LOAD_BALANCER_LABEL, SharedLB, SharedLBClass};
use tracing::warn;

use crate::api::claim::ClaimObject;
use crate::api::class::ClassObject;
use crate::backends::nodes::NodeObject;
use crate::backends::{BackendChanges, Backends, ServiceCidrObject, ServiceObject, SliceObject};
use crate::kubernetes::ObjectKey;
use crate::kubernetes::ObjectMeta;
use crate::kubernetes::cache::{Cached, Changed};
use crate::kubernetes::watch::{map, watch_kind};
use crate::process::metrics::Metrics;
use crate::process::tasks;

/// The parts of a Namespace that classes depend on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NamespaceObject {
    meta: ObjectMeta,
    /// Its labels, by which classes select it
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

/// A watch event for the class loop.
#[derive(Debug)]
pub(crate) enum ClusterEvent {
    /// Of claims
    Claim(Event<ClaimObject>),
    /// Of classes
    Class(Event<ClassObject>),
    /// Of namespaces
    Namespace(Event<NamespaceObject>),
    /// Of Services, which [`Backends`] caches
    Services(Vec<Changed<ServiceObject>>),
    /// Of EndpointSlices, nodes and ServiceCIDRs, which [`Backends`] caches
    Endpoints(BackendChanges),
}

/// Handles events of one kind.
pub(crate) type EventHandler<T> = Box<dyn Fn(&T) + Send + Sync>;

/// The handlers of watch events of the sources.
#[derive(Default)]
pub(crate) struct EventHandlers {
    pub claims: Vec<EventHandler<Event<DynamicObject>>>,
    pub services: Vec<EventHandler<Event<Service>>>,
    /// Of changes of Services that [`Backends`] has cached
    pub changed_services: Vec<EventHandler<[Changed<ServiceObject>]>>,
}

/// Runs all watches for ever, and passes their events on.
pub(crate) async fn watch_all(
    client: Client,
    backends: Arc<Backends>,
    metrics: Arc<Metrics>,
    handlers: EventHandlers,
    report: impl Fn(ClusterEvent) + Clone + Send + 'static,
) {
    let EventHandlers { claims: of_claims, services: of_services, changed_services } = handlers;
    let all = watcher::Config::default();
    // EndpointSlices of load balancers are no backends.
    let slices = watcher::Config::default().labels(&format!("!{LOAD_BALANCER_LABEL}"));
    let claims: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<SharedLB>(&()));
    let classes: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<SharedLBClass>(&()));
    let (on_claim, on_class, on_namespace, on_service) =
        (report.clone(), report.clone(), report.clone(), report.clone());
    let (services, nodes) = (backends.clone(), backends.clone());
    let on_nodes = report.clone();
    let all_nodes = Api::<Node>::all(client.clone());
    let of_nodes = watch_one("Node", all_nodes, all.clone(), &metrics, move |event| {
        let changes = nodes.apply_node_event(map(event, |object| NodeObject::parse(&object)));
        if changes != BackendChanges::default() {
            on_nodes(ClusterEvent::Endpoints(changes));
        }
    });
    let service_cidrs = watch_service_cidrs(client.clone(), backends.clone(), metrics.clone(), report.clone());
    let needed = backends.clone();
    tokio::join!(
        async move {
            needed.nodes_needed().await;
            of_nodes.await;
        },
        service_cidrs,
        watch_one("SharedLB", claims, all.clone(), &metrics, move |event| {
            of_claims.iter().for_each(|handle| handle(&event));
            let parse = |object: DynamicObject| {
                tasks::at("SharedLB", &ObjectKey::of(&object));
                ClaimObject::parse(&object)
            };
            on_claim(ClusterEvent::Claim(map(event, parse)));
        }),
        watch_one("SharedLBClass", classes, all.clone(), &metrics, move |event| {
            on_class(ClusterEvent::Class(map(event, |object| ClassObject::parse(&object))));
        }),
        watch_one("Namespace", Api::<Namespace>::all(client.clone()), all.clone(), &metrics, move |event| {
            on_namespace(ClusterEvent::Namespace(map(event, |object| NamespaceObject::parse(&object))));
        }),
        watch_one("Service", Api::<Service>::all(client.clone()), all, &metrics, move |event| {
            of_services.iter().for_each(|handle| handle(&event));
            let done = matches!(event, Event::InitDone);
            let changes = services.apply_service_event(map(event, |object| ServiceObject::parse(&object)));
            if done || !changes.is_empty() {
                changed_services.iter().for_each(|handle| handle(&changes));
                on_service(ClusterEvent::Services(changes));
            }
        }),
        watch_one("EndpointSlice", Api::<EndpointSlice>::all(client), slices, &metrics, move |event| {
            let done = matches!(event, Event::InitDone);
            let changes = backends.apply_slice_event(map(event, |object| SliceObject::parse(&object)));
            if done || changes != BackendChanges::default() {
                report(ClusterEvent::Endpoints(changes));
            }
        }),
    );
}

/// Watches ServiceCIDRs, once they are needed. Where the API server does not have this kind, or
/// the controller must not read it, there are none: the controller has to work without them.
async fn watch_service_cidrs(
    client: Client,
    backends: Arc<Backends>,
    metrics: Arc<Metrics>,
    report: impl Fn(ClusterEvent) + Clone + Send + 'static,
) {
    backends.service_cidrs_needed().await;
    let cached = backends.clone();
    let apply = move |event: Event<ServiceCidrObject>| {
        let changes = cached.apply_service_cidr_event(event);
        if changes != BackendChanges::default() {
            report(ClusterEvent::Endpoints(changes));
        }
    };
    let all = watcher::Config::default();
    let apply_none = apply.clone();
    let on_event = move |event| apply(map(event, |object| ServiceCidrObject::parse(&object)));
    watch_kind(Api::<ServiceCIDR>::all(client), all, on_event, move |error| {
        let (_, filled) = backends.cluster_addresses_filled();
        let cannot_be_read = status_code(&error).is_some_and(|code| [403, 404].contains(&code));
        if filled && cannot_be_read {
            return;
        }
        metrics.watch_error("ServiceCIDR");
        if cannot_be_read {
            warn!(%error, "ServiceCIDRs cannot be read: addresses of classes are not compared with ClusterIPs");
            apply_none(Event::Init);
            apply_none(Event::InitDone);
        } else {
            warn!(kind = "ServiceCIDR", %error, "watch failed, and is started again");
        }
    })
    .await;
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
            warn!(kind, %error, "watch failed, and is started again");
        }
    })
}

/// Whether the API server does not know this kind of object.
fn missing(error: &watcher::Error) -> bool {
    status_code(error) == Some(404)
}

/// The HTTP status of the API server's answer by which a list or a watch was refused.
fn status_code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}
