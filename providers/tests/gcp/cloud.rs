//! A project of the stand-in for Google Compute Engine and a namespace of the API server, as the
//! suite sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use http::Method;
use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use sharedlb_kubernetes::events::Events;
use sharedlb_providers::conformance::Peer;
use sharedlb_providers::gcp::{
    Affinity, Clients, Firewall, Gcp, HealthCheck, Managed, NetworkTier, Rates, Reference, Scheme, Settings,
};
use sharedlb_providers::{Error, FrontPort, LbName, ListenerKey, Provider, SecretData, Secrets, vip};
use sharedlb_testbed::{GcpCall, GcpFault, GcpFaultKind, GcpLayout, GcpPeer, GcpProject};
use tokio::sync::watch;

use crate::api_server::{ApiServer, dying_when};

/// The name of the fault that stands for a killed process.
const DEAD: &str = "dead";
/// The name of the Secret with the credentials.
const SECRET: &str = "google";

/// The ids of nodes, as in their `spec.providerID`.
pub(crate) type Ids = Option<Arc<BTreeSet<Arc<str>>>>;

/// A custom role of IAM, as in its file for gcloud.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Role {
    included_permissions: Vec<String>,
}

/// A project and a namespace of their own for each test.
pub(crate) struct Cloud {
    pub(crate) server: ApiServer,
    pub(crate) project: GcpProject,
    pub(crate) key: Arc<Value>,
    nodes: watch::Sender<Ids>,
}

impl Cloud {
    /// With two nodes in the first zone, and one in the second. The controller has the permissions
    /// of the role that the documentation gives it.
    pub(crate) async fn new(
        peer: &GcpPeer,
        layout: GcpLayout,
        server: ApiServer,
        key: Arc<Value>,
    ) -> anyhow::Result<Self> {
        let project = peer.project(layout).await?;
        let role: Role = serde_saphyr::from_str(include_str!("../../../deploy/gcp/role.yaml"))?;
        project.grant_only(role.included_permissions);
        let (nodes, _) = watch::channel(None);
        let cloud = Self { server, project, key, nodes };
        cloud.add_nodes(&[("europe-west9-a", "node-1"), ("europe-west9-a", "node-2"), ("europe-west9-b", "node-3")]);
        Ok(cloud)
    }

    /// Instances that are nodes from now on.
    pub(crate) fn add_nodes(&self, nodes: &[(&str, &str)]) {
        let mut ids: BTreeSet<Arc<str>> = self.nodes.borrow().iter().flat_map(|ids| ids.iter().cloned()).collect();
        for (zone, name) in nodes {
            let host = u8::try_from(100 + ids.len()).expect("there are few nodes");
            self.project.add_instance(zone, name, IpAddr::from([10, 128, 1, host]));
            ids.insert(format!("gce://test-project/{zone}/{name}").into());
        }
        self.nodes.send_replace(Some(Arc::new(ids)));
    }

    /// These are no nodes from now on, and their instances are gone.
    pub(crate) fn remove_nodes(&self, nodes: &[(&str, &str)]) {
        for (zone, name) in nodes {
            self.project.remove_instance(zone, name);
        }
        self.forget_nodes(nodes);
    }

    /// These instances, which stay, are no nodes from now on.
    pub(crate) fn forget_nodes(&self, nodes: &[(&str, &str)]) {
        let mut ids: BTreeSet<Arc<str>> = self.nodes.borrow().iter().flat_map(|ids| ids.iter().cloned()).collect();
        for (zone, name) in nodes {
            ids.remove(&*format!("gce://test-project/{zone}/{name}"));
        }
        self.nodes.send_replace(Some(Arc::new(ids)));
    }

    /// A provider whose process cannot reach the API server while this holds.
    pub(crate) fn provider_cut_off_when(&self, is_cut_off: impl Fn() -> bool + Clone + Send + 'static) -> Gcp {
        let client = dying_when(self.server.client.clone(), is_cut_off);
        self.provider_of(client, self.settings(), &self.clients(&self.key))
    }

    /// As the smallest class has them.
    pub(crate) fn settings(&self) -> Settings {
        let layout = self.project.layout();
        let of_network = |name: &str| Reference { project: layout.network_project.clone(), name: name.to_owned() };
        Settings {
            network: of_network(&layout.network),
            subnetwork: of_network(&layout.subnetwork),
            project: layout.project,
            region: layout.region,
            scheme: Scheme::External,
            network_tier: NetworkTier::Premium,
            address_names: Vec::new(),
            labels: [("team".to_owned(), "network".to_owned())].into(),
            global_access: false,
            session_affinity: Affinity::None,
            entry_nodes: 250,
            firewall: Firewall {
                manage: Managed::Ports,
                source_ranges: vec!["0.0.0.0/0".parse().expect("it is a range")],
                target_tags: vec!["nodes".to_owned()],
                target_service_accounts: Vec::new(),
                priority: 900,
                deny_rest: true,
            },
            health_check: HealthCheck {
                port: 10_256,
                path: "/healthz".to_owned(),
                interval_seconds: 8,
                unhealthy_threshold: 3,
            },
            secret_name: Some(SECRET.to_owned()),
            cluster_id: "cluster".to_owned(),
            class: "conformance".to_owned(),
        }
    }

    /// What a process has whose Secret holds these credentials, and which no budget holds back.
    pub(crate) fn clients(&self, credentials: &Value) -> Clients {
        let endpoint = format!("{}/compute/v1", self.project.url());
        let secrets = Arc::new(OneSecret(credentials.to_string()));
        Clients::new(Some(endpoint), Rates::DEFAULT.times(1000.0), None, secrets)
    }

    /// The settings of the Services of this class.
    pub(crate) fn services(&self, client: Client, settings: &Settings) -> vip::Settings {
        let (events, write) = Events::new(client.clone(), |_| {});
        tokio::spawn(write);
        vip::Settings {
            client,
            namespace: self.server.namespace.clone(),
            cluster_id: settings.cluster_id.clone(),
            class: settings.class.clone(),
            class_uid: "class-uid".into(),
            addresses: Vec::new(),
            events,
        }
    }

    fn provider_of(&self, client: Client, settings: Settings, clients: &Clients) -> Gcp {
        let services = self.services(client, &settings);
        Gcp::new(settings, services, clients, self.nodes.subscribe())
    }

    /// A provider of a process of its own.
    pub(crate) fn provider_with(&self, settings: Settings) -> Gcp {
        self.provider_of(self.server.client.clone(), settings, &self.clients(&self.key))
    }

    /// The same with other credentials.
    pub(crate) fn provider_by(&self, credentials: &Value) -> Gcp {
        self.provider_of(self.server.client.clone(), self.settings(), &self.clients(credentials))
    }

    /// Calls of these methods, or of all for `*`, go wrong in this way.
    pub(crate) fn fault(&self, name: &str, kind: GcpFaultKind, methods: &[&str]) {
        self.project.fault(GcpFault::new(name, kind, methods));
    }

    /// The calls so far that change something, and forgets all.
    pub(crate) fn changes(&self) -> Vec<String> {
        let calls: Vec<GcpCall> = self.project.take_calls();
        calls.into_iter().filter(|call| !call.reads()).map(|call| call.method).collect()
    }

    /// A call of another client, by its path behind the project.
    pub(crate) fn by_hand(&self, verb: &Method, path: &str, body: Value) -> Value {
        self.project.call(verb, path, body).expect("the other client may")
    }

    /// The only object of a collection.
    pub(crate) fn only(&self, collection: &str) -> Value {
        let objects: Vec<Value> = self.project.objects(collection).into_values().collect();
        let [object] = objects.as_slice() else { panic!("{collection}: {objects:?}") };
        object.clone()
    }

    /// All objects of the kinds that the provider creates, by their paths, with the instances of
    /// groups.
    pub(crate) fn objects(&self) -> BTreeMap<String, Value> {
        const KINDS: [&str; 6] =
            ["addresses", "healthChecks", "networkEndpointGroups", "backendServices", "forwardingRules", "firewalls"];
        let mut all: BTreeMap<String, Value> = KINDS.iter().flat_map(|kind| self.project.objects(kind)).collect();
        for (path, object) in &mut all {
            object["instances"] = json!(self.project.instances(path));
        }
        all
    }

    /// The same without what a recreated object has another one of.
    pub(crate) fn settings_of_objects(&self) -> BTreeMap<String, Value> {
        let mut all = self.objects();
        for object in all.values_mut().filter_map(Value::as_object_mut) {
            let of_address = ["address", "IPAddress", "destinationRanges"];
            let own = ["id", "creationTimestamp", "fingerprint", "labelFingerprint"];
            for field in own.into_iter().chain(of_address) {
                object.remove(field);
            }
        }
        all
    }
}

/// A Secret with credentials.
struct OneSecret(String);

#[async_trait]
impl Secrets for OneSecret {
    async fn read(&self, name: &str) -> Result<SecretData, Error> {
        assert_eq!(name, SECRET);
        let values = [("credentials.json".to_owned(), self.0.clone().into())].into();
        Ok(SecretData { values, ..SecretData::default() })
    }
}

#[async_trait]
impl Peer for Cloud {
    async fn provider(&self) -> Box<dyn Provider> {
        self.project.release(DEAD);
        Box::new(self.provider_with(self.settings()))
    }

    async fn provider_dying_after(&self, calls: usize) -> Box<dyn Provider> {
        self.project.release(DEAD);
        // Those to both peers count, in the order in which they are made.
        let made = Arc::new(AtomicUsize::new(0));
        let is_dead = move || made.fetch_add(1, Ordering::SeqCst) >= calls;
        let dead = GcpFault::new(DEAD, GcpFaultKind::Unreached, &["*"]).times(None).when(is_dead.clone());
        self.project.fault(dead);
        let client = dying_when(self.server.client.clone(), is_dead);
        Box::new(self.provider_of(client, self.settings(), &self.clients(&self.key)))
    }

    async fn open_foreign(&self, name: &LbName, port: FrontPort) {
        self.server.open_foreign(name, port).await;
    }

    async fn has_foreign(&self, name: &LbName, port: FrontPort) -> bool {
        self.server.has_foreign(name, port).await
    }

    async fn refuse(&self, listener: ListenerKey) {
        self.server.refuse(listener).await;
    }

    async fn accept_all(&self) {
        self.server.accept_all().await;
    }
}
