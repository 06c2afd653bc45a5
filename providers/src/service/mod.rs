//! The `service` provider: a load balancer is one ordinary Service of type LoadBalancer, and
//! the cloud's own controller, or MetalLB, assigns its address.
//!
//! The Service has no selector. It has one port for each front port, and EndpointSlices of
//! ours with each claim's pods. A listener opens with its own backends only: slices are
//! written before the Service's ports, and deleted after them; slices that an interrupted
//! apply has left at a port are deleted before the port opens again. Ports close in a write
//! of their own before any port opens, so that no closing waits for an opening (see `apply`).
//! Every write sets all of our part and can be repeated, so the next apply completes an
//! interrupted one. An observation takes no call: two watches and the replies to our writes
//! fill a cache.
//!
//! Fields that other clients add to the Service are foreign: our writes do not change them,
//! and their ports are reported as foreign. The Service itself is written by merge patches of
//! the version that was observed, since a list of many ports makes server-side apply slow
//! (see `front::merge_patch`).

mod api;
mod apply;
mod cache;
mod front;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod golden_tests;
mod marks;
mod plan;
mod slices;
mod view;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt as _};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use sharedlb_kubernetes::names::FIELD_MANAGER;

use self::api::{What, call};
use self::cache::Entry;
use self::front::{Fixed, Front, Wanted, attribute};
use self::marks::Marks;
use self::plan::SliceId;
use self::slices::Slice;
use self::watch::{Watched, Watches, entry};
use crate::model::{Attributes, Capabilities, FrontPort, IpFamily, LbName, Observed};
use crate::{Applied, ChangeSet, Error, Provider};

/// The most listeners of a Service. They keep the object, of which a port takes up some
/// 200 bytes with its managed fields, far below etcd's limit of 1.5 MiB.
const MAX_LISTENERS: u32 = 1000;

/// The settings of the Services of a class.
#[derive(Clone)]
pub struct Settings {
    /// The API server
    pub client: Client,
    /// The namespace of the Services, which must exist
    pub namespace: String,
    /// The id of this cluster, in the labels of its objects
    pub cluster_id: String,
    /// The class
    pub class: String,
    /// Annotations of every Service, by which a cloud's controller is configured
    pub annotations: BTreeMap<String, String>,
    /// The `loadBalancerClass` of the Services; `None`: the cluster's default. A Service keeps
    /// the one that it was created with.
    pub load_balancer_class: Option<String>,
    /// Whether each port has a node port too, for clouds that send traffic there
    pub allocate_load_balancer_node_ports: bool,
    /// `SingleStack`, `PreferDualStack` or `RequireDualStack`; `None`: the API
    /// server's default
    pub ip_family_policy: Option<String>,
    /// The preferred one first; none: the API server's default. A Service keeps those
    /// that it was created with.
    pub ip_families: Vec<IpFamily>,
    /// Addresses to request, one for each load balancer by its index
    pub addresses: Vec<IpAddr>,
}

/// The provider of a class.
pub struct ServiceProvider {
    settings: Settings,
    marks: Marks,
    watches: Watches,
}

impl ServiceProvider {
    /// A provider that watches its Services and EndpointSlices from now on, until it is
    /// dropped. Must be called within a Tokio runtime.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let marks = Marks::new(&settings.namespace, &settings.class, &settings.cluster_id);
        let watches = Watches::start(&settings.client, &marks);
        Self { settings, marks, watches }
    }
}

#[async_trait]
impl Provider for ServiceProvider {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            // A Service has a port for each transport.
            listeners_for_tcp_udp: 2,
            backends_by_transport: true,
            // Node ports would be those of this Service itself.
            node_targets: false,
            // The lowest limit of the load balancers of clouds: an AWS NLB has 50 listeners.
            default_listeners: 50,
            ..Capabilities::new(MAX_LISTENERS)
        }
    }

    fn attributes(&self, index: u32) -> Attributes {
        let Settings { annotations, allocate_load_balancer_node_ports, ip_family_policy, addresses, .. } =
            &self.settings;
        let address = usize::try_from(index).ok().and_then(|index| addresses.get(index));
        let annotations =
            annotations.iter().map(|(key, value)| (format!("{}{key}", attribute::ANNOTATION), value.clone()));
        let optional = [
            (attribute::IP_FAMILY_POLICY, ip_family_policy.clone()),
            (attribute::LOAD_BALANCER_IP, address.map(IpAddr::to_string)),
        ];
        let always = [
            (attribute::TYPE, front::TYPE.to_owned()),
            (attribute::EXTERNAL_TRAFFIC_POLICY, "Cluster".to_owned()),
            (attribute::ALLOCATE_NODE_PORTS, allocate_load_balancer_node_ports.to_string()),
        ];
        let optional = optional.into_iter().filter_map(|(key, value)| Some((key, value?)));
        optional.chain(always).map(|(key, value)| (key.to_owned(), value)).chain(annotations).collect()
    }

    fn object(&self, name: &LbName) -> String {
        format!("Service {}/{name}", self.settings.namespace)
    }

    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        let Some(service) = self.service(name).await? else { return Ok(None) };
        let caches = self.watches.caches();
        let slices = caches.slices.of(name).map(|slice| &slice.seen);
        Ok(Some(view::observed(&service.seen, &service.meta.uid, slices)))
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        self.carry_out(name, set).await
    }

    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        let going = self.delete_service(name).await?;
        let slices: Api<EndpointSlice> = self.api();
        let which = ListParams::default().labels(&self.marks.selector_of_slices(name));
        // Kubernetes' garbage collector would delete them too, if it runs.
        call(
            self.what::<EndpointSlice>("deletecollection", name.as_str()),
            slices.delete_collection(&DeleteParams::default(), &which),
        )
        .await?;
        if going { Err(self.still_going(name)) } else { Ok(()) }
    }

    fn changes(&self) -> BoxStream<'static, LbName> {
        self.watches.changes().boxed()
    }
}

impl ServiceProvider {
    /// The Service of a load balancer, if it exists and is ours.
    async fn service(&self, name: &LbName) -> Result<Option<Arc<Entry<Front>>>, Error> {
        self.watches.filled().await?;
        let known = self.watches.caches().services.get(name.as_str()).cloned();
        let service = match known {
            Some(service) => Some(service),
            // A foreign one is not in the cache, and must not be taken over. (One that is
            // created between this read and our write would be; but no client chooses a name
            // with this hash by accident.)
            None => match self.get_service(name).await? {
                Some(service) => Some(Arc::new(entry(&service, &self.marks).ok_or_else(|| self.not_ours(name))?)),
                None => None,
            },
        };
        match service {
            Some(service) if service.seen.deleting => Err(self.still_going(name)),
            service => Ok(service),
        }
    }

    async fn get_service(&self, name: &LbName) -> Result<Option<Service>, Error> {
        let services: Api<Service> = self.api();
        call(self.what::<Service>("get", name.as_str()), services.get_opt(name.as_str())).await
    }

    /// Writes our part of the Service: these ports and attributes. An existing Service must be
    /// as it was observed, since its ports are written as a whole.
    async fn write_service(
        &self,
        name: &LbName,
        attributes: &Attributes,
        ports: &BTreeSet<FrontPort>,
        there: Option<&Entry<Front>>,
    ) -> Result<Arc<Entry<Front>>, Error> {
        let seen = there.map(|there| &there.seen);
        let wanted = Wanted { attributes, ports, seen };
        let class = seen.and_then(|seen| seen.fixed.load_balancer_class.clone());
        let fixed = Fixed {
            load_balancer_class: class.or_else(|| Some(self.settings.load_balancer_class.clone())),
            ip_families: match seen {
                Some(seen) => seen.fixed.ip_families.clone(),
                None => self.settings.ip_families.iter().map(ToString::to_string).collect(),
            },
        };
        let service = front::render(&self.marks, name, &fixed, &wanted);
        let services: Api<Service> = self.api();
        let writing = self.watches.write::<Service>(name.as_str());
        let written = match there {
            None => {
                let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
                call(self.what::<Service>("create", name.as_str()), services.create(&params, &service)).await?
            }
            Some(there) => {
                let patch = Patch::Merge(front::merge_patch(&service, &there.meta, &there.seen));
                let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
                let reply = services.patch(name.as_str(), &params, &patch);
                call(self.what::<Service>("patch", name.as_str()), reply).await?
            }
        };
        writing.written(&written);
        entry(&written, &self.marks).map(Arc::new).ok_or_else(|| self.not_ours(name))
    }

    /// Applies the slice, and caches the reply.
    async fn write_slice(&self, slice: Slice) -> Result<(), Error> {
        let name = slice.name();
        let writing = self.watches.write::<EndpointSlice>(&name);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let slices: Api<EndpointSlice> = self.api();
        let object = Patch::Apply(slice.object(&self.marks));
        let reply = slices.patch(&name, &params, &object);
        let written = call(self.what::<EndpointSlice>("patch", &name), reply).await?;
        writing.written(&written);
        Ok(())
    }

    async fn delete_slice(&self, SliceId { name, uid }: SliceId) -> Result<(), Error> {
        let slices: Api<EndpointSlice> = self.api();
        let writing = self.watches.write::<EndpointSlice>(&name);
        let params = DeleteParams::default();
        let reply = async { gone_is_none(slices.delete(&name, &params).await) };
        call(self.what::<EndpointSlice>("delete", &name), reply).await?;
        writing.deleted(&uid);
        Ok(())
    }

    /// Deletes the Service if it is ours. Returns whether a cloud's finalizer keeps it.
    async fn delete_service(&self, name: &LbName) -> Result<bool, Error> {
        let writing = self.watches.write::<Service>(name.as_str());
        let found = self.get_service(name).await?;
        let Some(service) = found.as_ref().and_then(|service| entry(service, &self.marks)) else {
            return Ok(false);
        };
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(service.meta.uid.to_string()), resource_version: None }),
            ..DeleteParams::background()
        };
        let services: Api<Service> = self.api();
        let reply = async { gone_is_none(services.delete(name.as_str(), &params).await) };
        let reply = call(self.what::<Service>("delete", name.as_str()), reply).await?;
        if let Some(held) = reply.and_then(|reply| reply.left()).filter(is_held) {
            writing.written(&held);
            return Ok(true);
        }
        writing.deleted(&service.meta.uid);
        Ok(false)
    }

    fn api<K: Watched>(&self) -> Api<K> {
        Api::namespaced(self.settings.client.clone(), &self.settings.namespace)
    }

    fn what<'a, K: Watched>(&'a self, verb: &'a str, name: &'a str) -> What<'a> {
        What { verb, resource: K::RESOURCE, namespace: &self.settings.namespace, name }
    }

    fn not_ours(&self, name: &LbName) -> Error {
        Error::refused(format!(
            "Service {}/{name} exists and is not ours (its labels do not say so): rename or delete it",
            self.settings.namespace
        ))
    }

    fn still_going(&self, name: &LbName) -> Error {
        Error::not_ready(format!(
            "Service {}/{name} is being deleted: the cloud's controller has not released its load balancer yet",
            self.settings.namespace
        ))
    }
}

/// Whether a deleted object is kept by finalizers.
fn is_held(service: &Service) -> bool {
    service.metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty())
}

/// The deletion of a missing object succeeds.
fn gone_is_none<T>(reply: kube::Result<T>) -> kube::Result<Option<T>> {
    match reply {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        reply => reply.map(Some),
    }
}
