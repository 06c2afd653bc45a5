//! The `vip` provider: addresses of one's own, which every node serves.
//!
//! A load balancer is a Service of ours of type LoadBalancer, as with the provider
//! [`service`]; but we write its status ourselves, with `ipMode: VIP`, so that
//! kube-proxy (or what replaces it) on every node sends packets for the address and the ports
//! to the pods. How such packets reach a node is not our concern: a router has a route, or a
//! node the address.
//!
//! kube-proxy has source ranges and session affinity for a Service as a whole. So listeners
//! with other options than the default ones are in Services of their own, one for each group
//! of equal options (see `groups`), with the same addresses. Two Services with the same address
//! and port would be undefined: a port that goes from one group to another closes in the old
//! Service before it opens in the new one.
//!
//! The addresses in the status are settings of the load balancer: a status that another client
//! has altered is observed as different, and is written again (see `rewrites`).

#[cfg(test)]
mod golden_tests;
mod groups;
mod options;
mod rewrites;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt as _};
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use parking_lot::Mutex;
use sharedlb_kubernetes::events::{Events, Notice};
use sharedlb_kubernetes::names::FIELD_MANAGER;
use tokio::time::Instant;
use tracing::{info, warn};

use self::groups::{Distribution, ObservedServices, Step, Unavailable, Unwritten};
use self::rewrites::{FOUGHT_AFTER, Rewrites};
use crate::diff::{Change, diff};
use crate::model::{Address, AffinitySupport, Attributes, Capabilities, IpFamily, LbName, LoadBalancer, Observed};
use crate::service::front::{PARKED, attribute};
use crate::service::marks::Marks;
use crate::service::services::{Created, ObservedService, Services};
use crate::service::{self, ServiceName, status};
use crate::{Applied, ChangeSet, Error, Provider};

/// Before the name of a class: the `loadBalancerClass` of its Services. Other controllers leave
/// Services of a class alone that is not theirs.
const CLASS_PREFIX: &str = "vip.sharedlb.dev/";

/// How long an apply begins writes.
const BEGINS_FOR: Duration = Duration::from_secs(2);

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
    /// The uid of the class, by which its load balancers are named
    pub class_uid: String,
    /// The addresses of each load balancer by its index: one, or one of each family
    pub addresses: Vec<Vec<IpAddr>>,
    /// The recorder of Events
    pub events: Events,
}

/// The provider of a class.
pub struct Vip {
    settings: Settings,
    /// The IP families of the addresses
    families: Vec<IpFamily>,
    /// The addresses of all load balancers of the class; `None`: they are not known before the
    /// load balancers exist
    of_class: Option<BTreeSet<IpAddr>>,
    services: Services,
    rewrites: Rewrites,
    unwritten: Mutex<Unwritten>,
}

impl Vip {
    /// A provider that watches its Services and EndpointSlices from now on, until it is
    /// dropped. Must be called within a Tokio runtime.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let families = settings.addresses.first().into_iter().flatten().map(|address| IpFamily::of(*address)).collect();
        let of_class = settings.addresses.iter().flatten().copied().collect();
        Self::with(settings, families, Some(of_class))
    }

    /// The same for load balancers whose addresses, of these families, are not in the settings:
    /// the desired attributes of each have them.
    #[cfg(feature = "gcp")]
    pub(crate) fn with_families(settings: Settings, families: Vec<IpFamily>) -> Self {
        Self::with(settings, families, None)
    }

    fn with(settings: Settings, families: Vec<IpFamily>, of_class: Option<BTreeSet<IpAddr>>) -> Self {
        let Settings { client, namespace, cluster_id, class, .. } = &settings;
        let load_balancer_class = Some(format!("{CLASS_PREFIX}{class}"));
        let created = Created { load_balancer_class, ip_families: families.clone() };
        let services = Services::new(client.clone(), Marks::new(namespace, class, cluster_id), created);
        Self { settings, families, of_class, services, rewrites: Rewrites::default(), unwritten: Mutex::default() }
    }
}

#[async_trait]
impl Provider for Vip {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            address_families: self.families.iter().copied().collect(),
            source_ranges: true,
            session_affinity: AffinitySupport::Timeout,
            // A Service without listeners has this port.
            reserved: vec![PARKED.1],
            ..service::capabilities()
        }
    }

    fn attributes(&self, index: u32) -> Attributes {
        let addresses = usize::try_from(index).ok().and_then(|index| self.settings.addresses.get(index));
        let addresses = addresses.map(Vec::as_slice).unwrap_or_default();
        let policy = if addresses.len() > 1 { "RequireDualStack" } else { "SingleStack" };
        [
            (attribute::TYPE, "LoadBalancer".to_owned()),
            (attribute::EXTERNAL_TRAFFIC_POLICY, "Cluster".to_owned()),
            (attribute::ALLOCATE_NODE_PORTS, false.to_string()),
            (attribute::IP_FAMILY_POLICY, policy.to_owned()),
            (attribute::STATUS, status::text(addresses.iter().copied())),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    fn object(&self, name: &LbName) -> String {
        format!("Service {}/{name}", self.services.namespace())
    }

    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        let existing = self.observed_services(name).await?;
        Ok(groups::merge(&existing, self.of_class.as_ref(), &self.unwritten.lock()))
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        let began = Instant::now();
        let mut existing = self.observed_services(name).await?;
        if !existing.contains_key(&ServiceName::main(name)) {
            self.delete_former().await?;
        }
        let configures = set.changes.contains(&Change::Configure);
        let distribute = |existing: &ObservedServices, unavailable: &Unavailable| {
            groups::distribute(name, existing, set.desired, configures, unavailable)
        };
        let mut distribution = distribute(&existing, &Unavailable::new());
        let missing = groups::missing(&existing, &distribution.targets);
        if !missing.is_empty() {
            let unavailable = self.create(missing).await?;
            existing = self.observed_services(name).await?;
            distribution = distribute(&existing, &unavailable);
        }
        let Distribution { mut targets, failed } = distribution;
        let mut applied = Applied { failed, ..Applied::default() };
        let closings: Vec<(&ServiceName, Step)> = existing
            .iter()
            .filter_map(|(service, observed)| {
                let target = targets.get(service)?;
                Some((service, groups::closing(&observed.load_balancer, target)?))
            })
            .collect();
        let mut main_refuses = None;
        for (service, step) in &closings {
            match self.carry_out(service, step, &mut applied).await {
                Err(error) if error.is_refusal() => {
                    applied.failed.extend(step.failed(&error));
                    // What it serves opens nowhere else.
                    targets.remove(*service);
                    if service.is_main() {
                        main_refuses = Some(error);
                    }
                }
                done => done?,
            }
        }
        if let Some(error) = main_refuses {
            return Err(error);
        }
        let existing = if closings.is_empty() { existing } else { self.observed_services(name).await? };
        let blocked = groups::block(&existing, &mut targets);
        applied.failed.extend(blocked.failed);
        applied.postponed.extend(blocked.postponed);
        let missing = LoadBalancer::default();
        for (service, target) in &targets {
            let changes = diff(existing.get(service).map_or(&missing, |observed| &observed.load_balancer), target);
            if changes.is_empty() {
                continue;
            }
            if began.elapsed() > BEGINS_FOR {
                applied.postponed.extend(changes.iter().flat_map(Change::listeners));
                continue;
            }
            let step = Step { target: target.clone(), changes };
            match self.carry_out(service, &step, &mut applied).await {
                // The Service of a group delays no other one.
                Err(error) if (error.is_refusal() || matches!(error, Error::NotReady(_))) && !service.is_main() => {
                    applied.failed.extend(step.failed(&error));
                }
                done => done?,
            }
        }

        let existing = self.observed_services(name).await?;
        applied.failed.extend(groups::altered(&existing, set.desired, &applied));
        self.delete_unused(&existing, &mut applied).await?;
        let main = existing.get(&ServiceName::main(name));
        let addresses = main.map(|main| groups::addresses(&main.load_balancer.attributes, self.of_class.as_ref()));
        applied.addresses = addresses.into_iter().flatten().map(Address::Ip).collect();
        Ok(applied)
    }

    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        let main = ServiceName::main(name);
        let others = self.services.known(name).await?.into_iter().filter(|service| *service != main);
        // The one by which the load balancer is found goes last.
        for service in others.chain([main.clone()]) {
            self.delete_service(&service).await?;
        }
        Ok(())
    }

    fn changes(&self) -> BoxStream<'static, LbName> {
        self.services.changes().boxed()
    }
}

impl Vip {
    /// The Services of a load balancer.
    async fn observed_services(&self, name: &LbName) -> Result<ObservedServices, Error> {
        let mut existing = ObservedServices::new();
        let mut services = BTreeSet::from_iter(self.services.known(name).await?);
        // One of that name that is not ours is refused.
        services.insert(ServiceName::main(name));
        for service in services {
            // One of a group that something keeps from being deleted delays no other one.
            let found = if service.is_main() {
                self.services.observe(&service).await?
            } else {
                self.services.observe_also_deleting(&service).await?
            };
            existing.extend(found.map(|service| (service.name, service.observed)));
        }
        Ok(existing)
    }

    /// Creates these Services without ports. Returns those that cannot be created.
    async fn create(&self, missing: BTreeMap<ServiceName, LoadBalancer>) -> Result<Unavailable, Error> {
        let mut unavailable = Unavailable::new();
        for (service, target) in missing {
            let step = Step { target, changes: vec![Change::Configure] };
            match self.carry_out(&service, &step, &mut Applied::default()).await {
                Err(error) if error.is_refusal() || matches!(error, Error::NotReady(_)) => {
                    unavailable.insert(service, error);
                }
                done => done?,
            }
        }
        Ok(unavailable)
    }

    /// Carries out the changes of one Service, and writes its status if that is not as it
    /// should be.
    async fn carry_out(&self, name: &ServiceName, step: &Step, applied: &mut Applied) -> Result<(), Error> {
        let Step { target, changes } = step;
        let mut unconfigured = None;
        if !self.is_about_status(name, step).await? {
            let done = self.services.carry_out(name, ChangeSet::new(target, changes)).await?;
            applied.failed.extend(done.failed);
            applied.postponed.extend(done.postponed);
            unconfigured = done.unconfigured;
        }
        match self.write_status(name, &target.attributes).await {
            Err(error) if error.is_refusal() => {
                self.unwritten.lock().insert(name.clone(), error.clone());
                // Without its address in the status, the Service serves nothing.
                let opens = changes.iter().filter(|change| matches!(change, Change::Open(_) | Change::Replace { .. }));
                applied.failed.extend(opens.flat_map(Change::listeners).map(|key| (key, error.clone())));
                unconfigured.get_or_insert(error);
            }
            written => {
                written?;
                self.unwritten.lock().remove(name);
            }
        }
        applied.unconfigured = applied.unconfigured.take().or(unconfigured);
        Ok(())
    }

    /// Whether a step changes nothing but the status. The Service itself is not written then:
    /// that would remove the record of the client that has written the status.
    async fn is_about_status(&self, name: &ServiceName, Step { target, changes }: &Step) -> Result<bool, Error> {
        let Some(service) = self.services.observe(name).await? else { return Ok(false) };
        let mut attributes = service.observed.load_balancer.attributes;
        let status = attributes.get_mut(attribute::STATUS).zip(target.attributes.get(attribute::STATUS));
        let Some((found, wanted)) = status else { return Ok(false) };
        found.clone_from(wanted);
        Ok(*changes == [Change::Configure] && attributes == target.attributes)
    }

    /// Writes the addresses of these attributes into the status of the Service, unless they
    /// are there.
    async fn write_status(&self, name: &ServiceName, attributes: &Attributes) -> Result<(), Error> {
        let Some((service, wanted)) = self.services.observe(name).await?.zip(attributes.get(attribute::STATUS)) else {
            return Ok(());
        };
        if service.observed.load_balancer.attributes.get(attribute::STATUS) == Some(wanted) {
            return Ok(());
        }
        let (uid, now) = (&service.meta.uid, Instant::now());
        let next = self.rewrites.next(uid, wanted, now);
        if !next.wait.is_zero() {
            return Err(self.fought(name));
        }
        if next.number == FOUGHT_AFTER {
            self.report_fight(&service).await?;
        }
        let addresses: Vec<IpAddr> = status::addresses(wanted).collect();
        self.services.write_status(&service, &addresses).await?;
        self.rewrites.record(uid, wanted, now);
        Ok(())
    }

    /// Publishes an Event on a Service of which another client alters the status.
    async fn report_fight(&self, service: &ObservedService) -> Result<(), Error> {
        let object = self.services.get(&service.name).await?;
        let writer = object.as_ref().and_then(last_writer_of_status);
        let writer = writer.map_or_else(|| "another client".to_owned(), |manager| format!("the client {manager:?}"));
        let note = format!(
            "{writer} (by the managedFields of the Service) has changed the addresses in the status {FOUGHT_AFTER} \
             times, each within a minute of the time before: keep it from doing so. They are written again, in \
             growing pauses"
        );
        warn!(service = %service.name, note, "the status of a Service is fought over");
        self.settings.events.publish::<Service>(&service.meta, &Notice::warning("StatusFought", note));
        Ok(())
    }

    fn fought(&self, name: &ServiceName) -> Error {
        Error::Refused(
            format!(
                "another client changes the addresses in the status of Service {}/{name} again and again, so they are \
                 written again in growing pauses: ask the admin to look at the Events of the Service",
                self.services.namespace()
            )
            .into(),
        )
    }

    /// Deletes the Services of a former class of this name, which was deleted although its load
    /// balancers existed (its finalizer was removed by force). They have the addresses of this
    /// one, and for a port that two Services have, nodes choose one of them at random.
    async fn delete_former(&self) -> Result<(), Error> {
        let Settings { class, cluster_id, class_uid, .. } = &self.settings;
        let is_former = |service: &ServiceName| !service.load_balancer().is_of(class, cluster_id, class_uid);
        let mut result = Ok(());
        for service in self.services.all().await?.into_iter().filter(is_former) {
            match self.delete_service(&service).await {
                Ok(()) => info!(class, %service, "deleted the Service of a former class of this name"),
                Err(error) => result = Err(error.within(format!("a former class {class} has the same addresses"))),
            }
        }
        result
    }

    async fn delete_service(&self, name: &ServiceName) -> Result<(), Error> {
        self.services.delete(name).await?;
        self.unwritten.lock().remove(name);
        Ok(())
    }

    /// Deletes the Services of groups that have no listeners any more.
    async fn delete_unused(&self, existing: &ObservedServices, applied: &mut Applied) -> Result<(), Error> {
        for (name, _) in existing.iter().filter(|(name, observed)| !name.is_main() && groups::is_unused(observed)) {
            match self.delete_service(name).await {
                Err(error @ Error::NotReady(_)) => _ = applied.unconfigured.get_or_insert(error),
                done => done?,
            }
        }
        Ok(())
    }
}

/// The field manager that last wrote a part of the status, apart from ours. The API server
/// records only clients that use server-side apply, since our Services have no `managedFields`
/// (docs/decisions/026).
fn last_writer_of_status(service: &Service) -> Option<&str> {
    let writes = service.metadata.managed_fields.iter().flatten();
    let of_status = writes.filter(|write| write.subresource.as_deref() == Some("status"));
    let others = of_status.filter(|write| write.manager.as_deref() != Some(FIELD_MANAGER));
    others.max_by_key(|write| write.time.as_ref().map(|time| time.0))?.manager.as_deref()
}
