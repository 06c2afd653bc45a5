//! The API server as the suite sees it, and what strangers do there.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, Request};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::{Api, Client};
use serde_json::{Value, json};
use sharedlb_providers::conformance::Peer;
use sharedlb_providers::service::{ServiceProvider, Settings};
use sharedlb_providers::{FrontPort, LbName, ListenerKey, Provider};

/// A namespace of the API server.
pub(crate) struct ApiServer {
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

impl ApiServer {
    /// Makes the namespace.
    pub(crate) async fn with_namespace(client: Client, namespace: &str) -> Self {
        let metadata = ObjectMeta { name: Some(namespace.into()), ..ObjectMeta::default() };
        let object = Namespace { metadata, ..Namespace::default() };
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.create(&PostParams::default(), &object).await.expect("the namespace is made");
        Self { client, namespace: namespace.into() }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            client: self.client.clone(),
            namespace: self.namespace.clone(),
            cluster_id: "cluster".into(),
            class: "conformance".into(),
            annotations: [("example.com/scheme".to_owned(), "internal".to_owned())].into(),
            load_balancer_class: None,
            allocate_load_balancer_node_ports: false,
            ip_family_policy: None,
            ip_families: Vec::new(),
            addresses: vec![IpAddr::from([192, 0, 2, 1])],
        }
    }

    pub(crate) fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) async fn service(&self, name: &LbName) -> Service {
        self.services().get(name.as_str()).await.expect("the Service is there")
    }

    pub(crate) async fn slices(&self) -> Vec<EndpointSlice> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
        slices.list(&ListParams::default()).await.expect("slices are listed").items
    }

    /// Somebody else applies a part of the Service as theirs.
    pub(crate) async fn stranger_applies(&self, name: &LbName, part: Value) {
        let mut object = part;
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("Service");
        object["metadata"]["name"] = json!(name.as_str());
        let params = PatchParams::apply("somebody-else").force();
        self.services().patch(name.as_str(), &params, &Patch::Apply(object)).await.expect("the stranger may");
    }

    /// The cloud's controller writes down the load balancer's address.
    pub(crate) async fn address_arrives(&self, name: &LbName, address: &str) {
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}});
        let written = self.services().patch_status(name.as_str(), &PatchParams::default(), &Patch::Merge(status)).await;
        written.expect("the status is written");
    }
}

#[async_trait::async_trait]
impl Peer for ApiServer {
    async fn provider(&self) -> Box<dyn Provider> {
        Box::new(ServiceProvider::new(self.settings()))
    }

    async fn provider_dying_after(&self, calls: usize) -> Box<dyn Provider> {
        let client = dying_after(self.client.clone(), calls);
        Box::new(ServiceProvider::new(Settings { client, ..self.settings() }))
    }

    async fn stranger_opens(&self, name: &LbName, port: FrontPort) {
        let theirs = json!({"name": "theirs", "port": port.port, "protocol": port.transport.to_string()});
        self.stranger_applies(name, json!({"spec": {"ports": [theirs]}})).await;
    }

    async fn stranger_has(&self, name: &LbName, port: FrontPort) -> bool {
        let ports = self.service(name).await.spec.and_then(|spec| spec.ports).unwrap_or_default();
        let protocol = port.transport.to_string();
        ports.iter().any(|found| {
            found.name.as_deref() == Some("theirs")
                && found.port == i32::from(port.port.get())
                && found.protocol.as_ref() == Some(&protocol)
        })
    }

    async fn refuse(&self, _: ListenerKey) {
        unreachable!("this provider does not isolate failures")
    }

    async fn accept_all(&self) {}
}

/// A client whose process dies after so many calls. Lists and watches are not
/// counted: they go on by themselves, and change nothing.
fn dying_after(client: Client, calls: usize) -> Client {
    let made = Arc::new(AtomicUsize::new(0));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, made) = (client.clone(), made.clone());
        async move {
            let of_many = ["/services", "/endpointslices"].iter().any(|all| request.uri().path().ends_with(all));
            let counted = request.method() != Method::GET || !of_many;
            if counted && made.fetch_add(1, Ordering::Relaxed) >= calls {
                return Err("the process has died".into());
            }
            client.send(request).await.map_err(tower::BoxError::from)
        }
    });
    Client::new(service, "default")
}
