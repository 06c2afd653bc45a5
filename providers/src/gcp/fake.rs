//! A Compute Engine for tests: it stores objects as they are sent, completes operations at once
//! unless they are made slow, and records what changes. It checks nothing: the stand-in in
//! `tests/testbed/src/gcp` does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{Method, Request, Response};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::{Clients, Rates};
use crate::http::{Credentials, Unavailable};

/// The service.
#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<Compute>>);

/// Its state.
#[derive(Default)]
pub(super) struct Compute {
    /// The objects by their path
    pub(super) objects: BTreeMap<String, Value>,
    /// The instances in groups, by the path of the group
    pub(super) instances: BTreeMap<String, BTreeSet<String>>,
    /// The calls that change something, with their bodies
    pub(super) written: Vec<(String, Value)>,
    /// How many calls read something
    pub(super) reads: usize,
    /// The kind of objects that the caller has no permission for, and for what: to `write`, or
    /// anything
    pub(super) denied: Option<(&'static str, &'static str)>,
    /// Whether it answers every call that it is unavailable
    pub(super) is_down: bool,
    /// Whether it answers no call
    pub(super) is_silent: bool,
    /// Instances that cannot be attached
    pub(super) missing: BTreeSet<String>,
    /// Whether operations go on until this is false again
    pub(super) slow: bool,
    /// What they change then
    waiting: Vec<(Method, String, Value)>,
}

/// No credentials.
struct Anonymous;

#[async_trait]
impl Credentials for Anonymous {
    async fn headers(&self) -> Result<HeaderMap, Unavailable> {
        Ok(HeaderMap::new())
    }

    async fn renew(&self) {}
}

impl Fake {
    /// Starts it, within a Tokio runtime. Returns clients of it.
    pub(super) fn start(&self) -> Clients {
        // The binary installs it; tests have no `main`.
        _ = rustls::crypto::ring::default_provider().install_default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        listener.set_nonblocking(true).expect("a socket");
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        Clients::with(url, Rates::DEFAULT, None, |_| Arc::new(Anonymous))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, Compute> {
        self.0.lock().unwrap()
    }

    /// The calls that changed something since the last call of this, sorted: those that are made
    /// side by side arrive in any order.
    pub(super) fn take_written(&self) -> Vec<(String, Value)> {
        let mut written = std::mem::take(&mut self.state().written);
        written.sort_by(|a, b| a.0.cmp(&b.0));
        written
    }
}

async fn answer(State(fake): State<Fake>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("a body");
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let path = parts.uri.path().trim_start_matches('/').to_owned();
    if fake.state().is_silent {
        return std::future::pending().await;
    }
    let (status, answer) = fake.state().answer(&parts.method, &path, body);
    Response::builder().status(status).body(Body::from(answer.to_string())).expect("a response")
}

impl Compute {
    fn answer(&mut self, method: &Method, path: &str, body: Value) -> (u16, Value) {
        let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
        if !self.slow {
            for (method, path, body) in std::mem::take(&mut self.waiting) {
                self.carry_out(&method, &path, body);
            }
        }
        if self.is_down {
            return refusal(503, "backendError");
        }
        let is_denied = |(kind, to): (&str, &str)| {
            path.split('/').any(|part| part == kind) && (to != "write" || method != Method::GET)
        };
        if self.denied.is_some_and(is_denied) {
            return refusal(403, "forbidden");
        }
        match (method, last) {
            (&Method::POST, "wait") => {
                let status = if self.slow { "RUNNING" } else { "DONE" };
                (200, json!({"name": parent.rsplit('/').next(), "status": status}))
            }
            (&Method::POST, "listNetworkEndpoints") => {
                self.reads += 1;
                let item = |instance: &String| json!({"networkEndpoint": {"instance": instance}});
                let items: Vec<Value> = self.instances.get(parent).into_iter().flatten().map(item).collect();
                (200, json!({ "items": items }))
            }
            (&Method::GET, _) if parent.ends_with("/regions") => {
                self.reads += 1;
                let zones = ["a", "b", "c"].map(|zone| format!("https://compute/projects/p/zones/{last}-{zone}"));
                (200, json!({"name": last, "zones": zones}))
            }
            (&Method::GET, _) => {
                self.reads += 1;
                self.objects.get(path).map_or_else(|| refusal(404, "notFound"), |object| (200, object.clone()))
            }
            _ => self.change(method, path, body),
        }
    }

    fn change(&mut self, method: &Method, path: &str, body: Value) -> (u16, Value) {
        self.written.push((format!("{method} {path}"), body.clone()));
        if self.slow {
            self.waiting.push((method.clone(), path.to_owned(), body));
            return (200, json!({"name": "operation-1", "status": "RUNNING"}));
        }
        self.carry_out(method, path, body)
    }

    fn carry_out(&mut self, method: &Method, path: &str, body: Value) -> (u16, Value) {
        let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
        let instances = |body: &Value| -> BTreeSet<String> {
            let all = body["networkEndpoints"].as_array().into_iter().flatten();
            all.filter_map(|endpoint| endpoint["instance"].as_str().map(str::to_owned)).collect()
        };
        match (method, last) {
            (&Method::POST, "attachNetworkEndpoints") if !self.missing.is_disjoint(&instances(&body)) => {
                return refusal(404, "notFound");
            }
            (&Method::POST, "attachNetworkEndpoints") => {
                self.instances.entry(parent.to_owned()).or_default().extend(instances(&body));
            }
            (&Method::POST, "detachNetworkEndpoints") => {
                let going = instances(&body);
                self.instances.entry(parent.to_owned()).or_default().retain(|instance| !going.contains(instance));
            }
            (&Method::POST, "setLabels") => {
                self.objects.get_mut(parent).expect("it exists")["labels"] = body["labels"].clone()
            }
            (&Method::POST, _) => {
                let path = format!("{path}/{}", body["name"].as_str().expect("a name"));
                if self.objects.contains_key(&path) {
                    return refusal(409, "alreadyExists");
                }
                let mut object = body;
                if last == "addresses" {
                    object["address"] = json!("203.0.113.10");
                }
                self.objects.insert(path, object);
            }
            (&Method::PATCH, _) => {
                let Some(object) = self.objects.get_mut(path) else { return refusal(404, "notFound") };
                json_patch::merge(object, &body);
            }
            (&Method::DELETE, _) => {
                if self.objects.remove(path).is_none() {
                    return refusal(404, "notFound");
                }
                self.instances.remove(path);
            }
            _ => panic!("{method} {path} is not expected"),
        }
        (200, json!({"name": "operation-1", "status": "DONE"}))
    }
}

fn refusal(status: u16, reason: &str) -> (u16, Value) {
    (status, json!({"error": {"code": status, "message": "said Compute", "errors": [{"reason": reason}]}}))
}
