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

pub(crate) mod api;
mod apply;
mod cache;
pub(crate) mod front;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
pub(crate) mod golden_tests;
pub(crate) mod marks;
mod name;
mod plan;
pub(crate) mod services;
mod slices;
pub(crate) mod status;
mod view;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt as _};
use kube::Client;

use self::front::attribute;
use self::marks::Marks;
pub(crate) use self::name::ServiceName;
use self::services::{Created, Services};
use crate::model::{Attributes, Capabilities, FrontPort, IpFamily, LbName, Observed};
use crate::{Applied, ChangeSet, Error, Provider};

/// The most listeners of a Service. They keep the object, of which a port takes up some
/// 80 bytes, far below etcd's limit of 1.5 MiB.
const MAX_LISTENERS: u32 = 1000;

/// The capabilities of load balancers that are Services.
pub(crate) fn capabilities() -> Capabilities {
    Capabilities {
        // A Service has a port for each transport.
        listeners_for_tcp_udp: 2,
        backends_by_transport: true,
        // Node ports would be those of this Service itself.
        node_targets: false,
        ..Capabilities::new(MAX_LISTENERS)
    }
}

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
    /// The ports that each Service has also while no listener has them, without backends
    pub parked: BTreeSet<FrontPort>,
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
    services: Services,
}

impl ServiceProvider {
    /// A provider that watches its Services and EndpointSlices from now on, until it is
    /// dropped. Must be called within a Tokio runtime.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let marks = Marks::new(&settings.namespace, &settings.class, &settings.cluster_id);
        let created = Created {
            load_balancer_class: settings.load_balancer_class.clone(),
            ip_families: settings.ip_families.clone(),
        };
        let services = Services::new(settings.client.clone(), marks, created);
        Self { settings, services }
    }
}

#[async_trait]
impl Provider for ServiceProvider {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            // The lowest limit of the load balancers of clouds: an AWS NLB has 50 listeners.
            default_listeners: 50,
            ..capabilities()
        }
    }

    fn attributes(&self, index: u32) -> Attributes {
        let Settings { annotations, allocate_load_balancer_node_ports, parked, ip_family_policy, addresses, .. } =
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
        let parked = parked.iter().map(|port| (front::parked_attribute(*port), true.to_string()));
        let optional = optional.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let fields = optional.chain(always).map(|(key, value)| (key.to_owned(), value));
        fields.chain(annotations).chain(parked).collect()
    }

    fn object(&self, name: &LbName) -> String {
        format!("Service {}/{name}", self.settings.namespace)
    }

    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        Ok(self.services.observe(&ServiceName::main(name)).await?.map(|service| service.observed))
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        self.services.carry_out(&ServiceName::main(name), set).await
    }

    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        self.services.delete(&ServiceName::main(name)).await
    }

    fn changes(&self) -> BoxStream<'static, LbName> {
        self.services.changes().boxed()
    }
}
