//! The Services and EndpointSlices of load balancers, as golden files.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ServiceProvider, Settings};
use crate::golden;
use crate::model::IpFamily;

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
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_family_policy: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ip_families: Vec<IpFamily>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<std::net::IpAddr>,
}

/// An API server that stores applied objects unchanged.
#[derive(Default)]
struct ApiServer {
    objects: BTreeMap<String, Value>,
    written: Vec<Value>,
    version: u64,
}

impl ApiServer {
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
            Method::PATCH => {
                let mut object: Value = serde_json::from_slice(body).expect("an object");
                self.version += 1;
                let mut applied = object.clone();
                // The version is not rendered.
                let metadata = applied["metadata"].as_object_mut().expect("it has metadata");
                metadata.retain(|field, _| field != "resourceVersion" && field != "uid");
                self.written.push(json!({"apply": resource, "object": applied}));
                object["metadata"]["uid"] = json!(format!("uid-of-{name}"));
                object["metadata"]["resourceVersion"] = json!(self.version.to_string());
                object["metadata"]["namespace"] = json!("lbs");
                self.objects.insert(path.to_owned(), object.clone());
                (200, object)
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

fn client(server: &Arc<Mutex<ApiServer>>) -> Client {
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
            ip_family_policy: class.ip_family_policy.clone(),
            ip_families: class.ip_families.clone(),
            addresses: class.addresses.clone(),
        };
        (ServiceProvider::new(settings), move || std::mem::take(&mut server.lock().unwrap().written))
    })
    .await;
}
