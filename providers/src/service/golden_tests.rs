//! The Services and EndpointSlices of load balancers, as golden files.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ServiceProvider, Settings};
use crate::golden;
use crate::model::{FrontPort, IpFamily};

/// The settings of a class.
#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Class {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_balancer_class: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    allocate_load_balancer_node_ports: bool,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    parked: BTreeSet<FrontPort>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_family_policy: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ip_families: Vec<IpFamily>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<std::net::IpAddr>,
}

/// An API server that stores objects as they are written.
#[derive(Default)]
pub(crate) struct ApiServer {
    objects: BTreeMap<String, Value>,
    pub(crate) written: Vec<Value>,
    version: u64,
}

impl ApiServer {
    fn write(&mut self, verb: &str, resource: &str, path: &str, object: &Value) -> (u16, Value) {
        self.version += 1;
        let mut written = object.clone();
        // The version is not rendered.
        let metadata = written["metadata"].as_object_mut().expect("it has metadata");
        metadata.retain(|field, _| field != "resourceVersion" && field != "uid");
        self.written.push(json!({verb: resource, "object": written}));
        let stored = self.objects.entry(path.to_owned()).or_default();
        json_patch::merge(stored, object);
        let name = path.rsplit('/').next().unwrap_or_default();
        stored["metadata"]["uid"] = json!(format!("uid-of-{name}"));
        stored["metadata"]["resourceVersion"] = json!(self.version.to_string());
        stored["metadata"]["namespace"] = json!("lbs");
        (200, stored.clone())
    }

    fn answer(&mut self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        let what: Vec<&str> = path.rsplitn(3, '/').collect();
        let (name, resource) = (what[0], what[1]);
        match *method {
            // A list
            Method::GET if !name.starts_with("slb-") => {
                (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []}))
            }
            Method::GET => match self.objects.get(path) {
                Some(object) => (200, object.clone()),
                None => (404, json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"})),
            },
            Method::POST => {
                let object: Value = serde_json::from_slice(body).expect("an object");
                let name = object["metadata"]["name"].as_str().expect("it has a name").to_owned();
                self.write("create", path.rsplit('/').next().unwrap_or_default(), &format!("{path}/{name}"), &object)
            }
            Method::PATCH => {
                let object: Value = serde_json::from_slice(body).expect("an object");
                match path.strip_suffix("/status") {
                    Some(of) => self.write("mergeStatus", "services", of, &object),
                    None if ["services", "configmaps"].contains(&resource) => {
                        self.write("merge", resource, path, &object)
                    }
                    None => self.write("apply", resource, path, &object),
                }
            }
            // A collection
            Method::DELETE if !name.starts_with("slb-") => {
                self.written.push(json!({"deletecollection": name}));
                (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            }
            Method::DELETE => {
                self.objects.remove(path);
                self.written.push(json!({"delete": resource, "name": name}));
                (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            }
            _ => panic!("{method} {path} is not expected"),
        }
    }
}

pub(crate) fn client(server: &Arc<Mutex<ApiServer>>) -> Client {
    let server = server.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = server.clone();
        async move {
            let (parts, body) = request.into_parts();
            if parts.uri.query().is_some_and(|query| query.contains("watch=true")) {
                // Other requests change nothing.
                return std::future::pending().await;
            }
            let body = body.collect_bytes().await.expect("a body");
            let (code, answer) = server.lock().unwrap().answer(&parts.method, parts.uri.path(), &body);
            let response = Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
            Ok::<_, Infallible>(response.expect("a response"))
        }
    });
    Client::new(service, "default")
}

#[tokio::test]
async fn services_and_endpoint_slices_are_as_in_the_golden_files() {
    golden::check("service", |class: &Class| {
        let server = Arc::<Mutex<ApiServer>>::default();
        let settings = Settings {
            client: client(&server),
            namespace: "lbs".into(),
            cluster_id: "cluster".into(),
            class: "default".into(),
            annotations: class.annotations.clone(),
            load_balancer_class: class.load_balancer_class.clone(),
            allocate_load_balancer_node_ports: class.allocate_load_balancer_node_ports,
            parked: class.parked.clone(),
            ip_family_policy: class.ip_family_policy.clone(),
            ip_families: class.ip_families.clone(),
            addresses: class.addresses.clone(),
        };
        (ServiceProvider::new(settings), move || std::mem::take(&mut server.lock().unwrap().written))
    })
    .await;
}
