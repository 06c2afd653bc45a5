//! The Services and EndpointSlices of a class: each load balancer is one Service, or several.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use futures::channel::mpsc::UnboundedReceiver;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use sharedlb_kubernetes::names::FIELD_MANAGER;
use sharedlb_kubernetes::{ObjectMeta, parameters};

use super::api::{What, call};
use super::cache::Entry;
use super::front::{self, DesiredService, Fixed, Front};
use super::marks::Marks;
use super::name::ServiceName;
use super::plan::SliceId;
use super::slices::Slice;
use super::status;
use super::view;
use super::watch::{Watched, Watches, entry};
use crate::Error;
use crate::model::{Attributes, FrontPort, IpFamily, LbName, Observed};

/// What a Service is created with, and keeps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Created {
    /// `None`: the cluster's default
    pub(crate) load_balancer_class: Option<String>,
    /// The preferred one first; none: the API server's default
    pub(crate) ip_families: Vec<IpFamily>,
}

/// The Services and EndpointSlices of a class.
pub(crate) struct Services {
    client: Client,
    marks: Marks,
    created: Created,
    pub(super) watches: Watches,
}

/// A Service of ours as observed.
#[derive(Debug, Clone)]
pub(crate) struct ObservedService {
    /// The Service
    pub(crate) name: ServiceName,
    /// The uid and version of the Service
    pub(crate) meta: ObjectMeta,
    /// The observation of a load balancer that is this Service alone
    pub(crate) observed: Observed,
}

impl Services {
    /// Watches the objects from now on, until it is dropped. Must be called within a Tokio
    /// runtime.
    pub(crate) fn new(client: Client, marks: Marks, created: Created) -> Self {
        let watches = Watches::start(&client, &marks);
        Self { client, marks, created, watches }
    }

    /// The namespace of the Services.
    pub(crate) fn namespace(&self) -> &str {
        &self.marks.namespace
    }

    /// The load balancers that other clients change from now on.
    pub(crate) fn changes(&self) -> UnboundedReceiver<LbName> {
        self.watches.changes()
    }

    /// The observation of a Service; `None`: it does not exist.
    pub(crate) async fn observe(&self, name: &ServiceName) -> Result<Option<ObservedService>, Error> {
        Ok(self.find(name).await?.map(|service| self.observed(&service)))
    }

    /// The observation of a Service that may be about to be deleted. Traffic gets to the ports of
    /// such a one for as long as a finalizer keeps it, and no write of ours changes that: its
    /// ports count as foreign ones.
    pub(crate) async fn observe_also_deleting(&self, name: &ServiceName) -> Result<Option<ObservedService>, Error> {
        let Some(service) = self.find_also_deleting(name).await? else { return Ok(None) };
        let mut found = self.observed(&service);
        if service.seen.deleting {
            found.observed.load_balancer.listeners.clear();
            found.observed.foreign.extend(&service.seen.ours);
        }
        Ok(Some(found))
    }

    /// The known Services of a load balancer. One of that name that is not ours is none of
    /// them.
    pub(crate) async fn known(&self, load_balancer: &LbName) -> Result<Vec<ServiceName>, Error> {
        self.watches.filled().await?;
        let caches = self.watches.caches();
        Ok(caches.services.of_load_balancer(load_balancer).map(|service| service.service.clone()).collect())
    }

    /// The Services of all load balancers.
    pub(crate) async fn all(&self) -> Result<Vec<ServiceName>, Error> {
        self.watches.filled().await?;
        Ok(self.watches.caches().services.all().map(|service| service.service.clone()).collect())
    }

    fn observed(&self, Entry { service, meta, seen }: &Entry<Front>) -> ObservedService {
        let caches = self.watches.caches();
        let slices = caches.slices.of(service).map(|slice| &slice.seen);
        let observed = view::observed(seen, &meta.uid, slices);
        ObservedService { name: service.clone(), meta: meta.clone(), observed }
    }

    /// The Service, if it exists and is ours. One that is being deleted is an error, since it
    /// cannot be changed.
    pub(super) async fn find(&self, name: &ServiceName) -> Result<Option<Arc<Entry<Front>>>, Error> {
        match self.find_also_deleting(name).await? {
            Some(service) if service.seen.deleting => Err(self.still_going(name)),
            service => Ok(service),
        }
    }

    async fn find_also_deleting(&self, name: &ServiceName) -> Result<Option<Arc<Entry<Front>>>, Error> {
        self.watches.filled().await?;
        let known = self.watches.caches().services.get(name.as_str()).cloned();
        if known.is_some() {
            return Ok(known);
        }
        // A foreign one is not in the cache. (It is not taken over in any case: a Service that
        // exists cannot be created.)
        let Some(service) = self.get(name).await? else { return Ok(None) };
        entry(&service, &self.marks).map(|service| Some(Arc::new(service))).ok_or_else(|| self.not_ours(name))
    }

    /// Reads the Service.
    pub(crate) async fn get(&self, name: &ServiceName) -> Result<Option<Service>, Error> {
        let services: Api<Service> = self.api();
        call(self.what::<Service>("get", name.as_str()), services.get_opt(name.as_str())).await
    }

    /// Writes our part of the Service: these ports and attributes. An existing Service must be
    /// as it was observed, since its ports are written as a whole.
    pub(super) async fn write_service(
        &self,
        name: &ServiceName,
        attributes: &Attributes,
        ports: &BTreeSet<FrontPort>,
        there: Option<&Entry<Front>>,
    ) -> Result<Arc<Entry<Front>>, Error> {
        let seen = there.map(|there| &there.seen);
        let wanted = DesiredService { attributes, ports, seen };
        let class = seen.and_then(|seen| seen.fixed.load_balancer_class.clone());
        let fixed = Fixed {
            load_balancer_class: class.or_else(|| Some(self.created.load_balancer_class.clone())),
            ip_families: match seen {
                Some(seen) => seen.fixed.ip_families.clone(),
                None => self.created.ip_families.iter().map(ToString::to_string).collect(),
            },
        };
        let service = front::render(&self.marks, name, &fixed, &wanted);
        let services: Api<Service> = self.api();
        let writing = self.watches.write::<Service>(name.as_str());
        let written = match there {
            None => {
                let params = parameters::post();
                call(self.what::<Service>("create", name.as_str()), services.create(&params, &service)).await?
            }
            Some(there) => {
                let patch = Patch::Merge(front::merge_patch(&service, &there.meta, &there.seen));
                let params = parameters::patch();
                let reply = services.patch(name.as_str(), &params, &patch);
                call(self.what::<Service>("patch", name.as_str()), reply).await?
            }
        };
        writing.written(&written);
        entry(&written, &self.marks).map(Arc::new).ok_or_else(|| self.not_ours(name))
    }

    /// Writes the addresses in the status of a Service, which must be as it was observed.
    pub(crate) async fn write_status(&self, service: &ObservedService, addresses: &[IpAddr]) -> Result<(), Error> {
        let name = service.name.as_str();
        let writing = self.watches.write::<Service>(name);
        let services: Api<Service> = self.api();
        let patch = Patch::Merge(status::merge_patch(&service.meta, addresses));
        let what = What { resource: "services/status", ..self.what::<Service>("patch", name) };
        let params = parameters::patch();
        let written = call(what, services.patch_status(name, &params, &patch)).await?;
        writing.written(&written);
        Ok(())
    }

    /// Applies the slice, and caches the reply.
    pub(super) async fn write_slice(&self, slice: Slice) -> Result<(), Error> {
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

    pub(super) async fn delete_slice(&self, SliceId { name, uid }: SliceId) -> Result<(), Error> {
        let slices: Api<EndpointSlice> = self.api();
        let writing = self.watches.write::<EndpointSlice>(&name);
        let params = DeleteParams::default();
        let reply = async { gone_is_none(slices.delete(&name, &params).await) };
        call(self.what::<EndpointSlice>("delete", &name), reply).await?;
        writing.deleted(&uid);
        Ok(())
    }

    /// Deletes a Service of ours, and its EndpointSlices. Succeeds if there is none.
    pub(crate) async fn delete(&self, name: &ServiceName) -> Result<(), Error> {
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

    /// Deletes the Service if it is ours. Returns whether a cloud's finalizer keeps it.
    async fn delete_service(&self, name: &ServiceName) -> Result<bool, Error> {
        let writing = self.watches.write::<Service>(name.as_str());
        let found = self.get(name).await?;
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
        Api::namespaced(self.client.clone(), &self.marks.namespace)
    }

    fn what<'a, K: Watched>(&'a self, verb: &'a str, name: &'a str) -> What<'a> {
        What { verb, resource: K::RESOURCE, namespace: &self.marks.namespace, name }
    }

    fn not_ours(&self, name: &ServiceName) -> Error {
        Error::Refused(
            format!(
                "Service {}/{name} exists and is not ours (its labels do not say so): rename or delete it",
                self.marks.namespace
            )
            .into(),
        )
    }

    fn still_going(&self, name: &ServiceName) -> Error {
        Error::NotReady(
            format!(
                "Service {}/{name} is being deleted: the cloud's controller has not released its load balancer yet",
                self.marks.namespace
            )
            .into(),
        )
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
