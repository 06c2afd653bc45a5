//! The API server as the suite sees it, and what strangers do there.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, Request};
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::{Api, Client};
use serde_json::{Value, json};
use sharedlb_providers::conformance::Peer;
use sharedlb_providers::service::{ServiceProvider, Settings};
use sharedlb_providers::{FrontPort, LbName, ListenerKey, Provider, Transport};
use sharedlb_testbed::eventually;

use crate::LIMIT;

/// The most characters that a label of Kubernetes has.
const LONGEST_LABEL: usize = 63;

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

    /// Makes a namespace for a test, with a name made of its kind and its name.
    pub(crate) async fn for_test(client: Client, kind: &str, name: &str) -> Self {
        let namespace: String = format!("{kind}-{name}").replace('_', "-").chars().take(LONGEST_LABEL).collect();
        Self::with_namespace(client, namespace.trim_matches('-')).await
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
            parked: BTreeSet::new(),
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
    pub(crate) async fn apply_foreign(&self, name: &LbName, part: Value) {
        let mut object = part;
        object["apiVersion"] = json!("v1");
        object["kind"] = json!("Service");
        object["metadata"]["name"] = json!(name.as_str());
        let params = PatchParams::apply("another-client").force();
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

    async fn open_foreign(&self, name: &LbName, port: FrontPort) {
        let theirs = json!({"name": "theirs", "port": port.port, "protocol": port.transport.to_string()});
        self.apply_foreign(name, json!({"spec": {"ports": [theirs]}})).await;
    }

    async fn has_foreign(&self, name: &LbName, port: FrontPort) -> bool {
        let ports = self.service(name).await.spec.and_then(|spec| spec.ports).unwrap_or_default();
        let protocol = port.transport.to_string();
        ports.iter().any(|found| {
            found.name.as_deref() == Some("theirs")
                && found.port == i32::from(port.port.get())
                && found.protocol.as_ref() == Some(&protocol)
        })
    }

    async fn refuse(&self, listener: ListenerKey) {
        let transports = listener.protocol.transports();
        let has = |transport: &Transport| {
            format!("object.spec.ports.exists(p, p.port == {} && p.protocol == '{transport}')", listener.port)
        };
        let refused = transports.iter().map(has).collect::<Vec<_>>().join(" && ");
        self.admit_only(&format!("!({refused})")).await;
    }

    async fn accept_all(&self) {
        self.admit_only("true").await;
    }
}

impl ApiServer {
    /// From now on the namespace has this quota, of which so much is used. (No
    /// controller counts here.)
    pub(crate) async fn quota(&self, resource: &str, limit: u32, used: u32) {
        let object = |part: &str, value: Value| {
            let mut object = json!({
                "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "quota"},
                "spec": {"hard": {resource: limit.to_string()}},
            });
            object[part] = value;
            object
        };
        let params = PatchParams::apply("test").force();
        let quotas: Api<ResourceQuota> = Api::namespaced(self.client.clone(), &self.namespace);
        let hard = json!({"hard": {resource: limit.to_string()}});
        quotas.patch("quota", &params, &Patch::Apply(object("spec", hard.clone()))).await.expect("the quota is made");
        let status = json!({"hard": hard["hard"], "used": {resource: used.to_string()}});
        let written = quotas.patch_status("quota", &params, &Patch::Apply(object("status", status))).await;
        written.expect("what is used is written");
        let what = format!("the quota of {resource} to be in force");
        eventually(&what, LIMIT, async || Ok((self.is_admitted(resource).await? == (used < limit)).then_some(())))
            .await
            .expect("the quota is in force");
    }

    /// Whether one more of what a quota counts would be admitted.
    async fn is_admitted(&self, resource: &str) -> anyhow::Result<bool> {
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let metadata = json!({"name": "probe"});
        let refusal = if resource.contains("endpointslices") {
            let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &self.namespace);
            let probe = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": []});
            slices.create(&params, &serde_json::from_value(probe)?).await.err()
        } else {
            let kind = if resource == "services.nodeports" { "NodePort" } else { "LoadBalancer" };
            let probe = json!({
                "metadata": metadata,
                "spec": {"type": kind, "ports": [{"port": 1}]},
            });
            self.services().create(&params, &serde_json::from_value(probe)?).await.err()
        };
        match refusal {
            None => Ok(true),
            Some(error) if error.to_string().contains("exceeded quota") => Ok(false),
            Some(error) => Err(error.into()),
        }
    }

    /// From now on the API server refuses Services of this namespace for which
    /// this CEL expression is false.
    pub(crate) async fn admit_only(&self, expression: &str) {
        self.admit(&["services"], expression).await;
    }

    /// From now on the API server refuses writes of the status of Services of this namespace
    /// for which this CEL expression is false.
    pub(crate) async fn admit_statuses_only(&self, expression: &str) {
        let of_status = format!("!has(request.subResource) || request.subResource != 'status' || ({expression})");
        self.admit(&["services", "services/status"], &of_status).await;
    }

    async fn admit(&self, resources: &[&str], expression: &str) {
        let name = format!("{}.example.com", self.namespace);
        // A Service whose refusal tells that this version of the policy is in force.
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed).to_string();
        let told = format!("refused on demand by version {generation} of the policy");
        let marked = format!("object.metadata.name != 'probe-{generation}' && ({expression})");
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"],
                    "resources": resources,
                }]},
                "validations": [{"expression": marked, "message": told}],
            },
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {
                "policyName": name, "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": {
                    "matchLabels": {"kubernetes.io/metadata.name": self.namespace},
                }},
            },
        });
        let params = PatchParams::apply("test").force();
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(self.client.clone());
        policies.patch(&name, &params, &Patch::Apply(policy)).await.expect("the policy is made");
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.client.clone());
        bindings.patch(&name, &params, &Patch::Apply(binding)).await.expect("the binding is made");

        let probe: Service = serde_json::from_value(json!({
            "metadata": {"name": format!("probe-{generation}")}, "spec": {"ports": [{"port": 1}]},
        }))
        .expect("it is a Service");
        let params = PostParams { dry_run: true, ..PostParams::default() };
        eventually("the admission policy to be in force", LIMIT, async || {
            let refusal = self.services().create(&params, &probe).await.err();
            Ok(refusal.filter(|error| error.to_string().contains(&told)).map(drop))
        })
        .await
        .expect("the policy is in force");
    }
}

/// Counts the versions of policies.
static GENERATION: AtomicUsize = AtomicUsize::new(0);

/// A client whose process dies after so many calls.
pub(crate) fn dying_after(client: Client, calls: usize) -> Client {
    let made = Arc::new(AtomicUsize::new(0));
    dying_when(client, move || made.fetch_add(1, Ordering::Relaxed) >= calls)
}

/// A client whose process has died at a call if it is so. It is asked once for each call, except
/// for lists and watches: they go on by themselves, and change nothing.
pub(crate) fn dying_when(client: Client, is_dead: impl Fn() -> bool + Clone + Send + 'static) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, is_dead) = (client.clone(), is_dead.clone());
        async move {
            let of_many = ["/services", "/endpointslices"].iter().any(|all| request.uri().path().ends_with(all));
            let counted = request.method() != Method::GET || !of_many;
            if counted && is_dead() {
                return Err("the process has died".into());
            }
            client.send(request).await.map_err(tower::BoxError::from)
        }
    });
    Client::new(service, "default")
}
