//! The calls to an updater and the writes of the journal, as golden files.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Context, HttpUpdater, RATE, Settings, Timeouts, Verification};
use crate::http::{SecretData, Secrets};
use crate::model::Address;
use crate::service::golden_tests::{ApiServer, client};
use crate::{Error, golden};

/// The settings of a class.
#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Class {
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy_timeout_seconds: Option<u32>,
}

/// There are no Secrets.
struct NoSecrets;

#[async_trait]
impl Secrets for NoSecrets {
    async fn read(&self, name: &str) -> Result<SecretData, Error> {
        Err(Error::Refused(format!("there is no Secret {name}").into()))
    }
}

/// Starts an updater that records calls among the writes of the API server, and checks nothing.
/// Returns its URL.
fn start(server: &Arc<Mutex<ApiServer>>) -> String {
    async fn answer(State(server): State<Arc<Mutex<ApiServer>>>, method: Method, body: Bytes) -> &'static str {
        let body: Value = serde_json::from_slice(&body).expect("it is JSON");
        server.lock().unwrap().written.push(json!({"call": method.as_str(), "body": body}));
        "{}"
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/api/v1/lb", listener.local_addr().expect("an address"));
    listener.set_nonblocking(true).expect("a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    let router = Router::new().fallback(answer).with_state(server.clone());
    tokio::spawn(axum::serve(listener, router).into_future());
    url
}

#[tokio::test]
async fn calls_and_journals_are_as_in_the_golden_files() {
    // The binary installs it; tests have no `main`.
    _ = rustls::crypto::ring::default_provider().install_default();
    golden::check("http-updater", |class: &Class| {
        let server = Arc::<Mutex<ApiServer>>::default();
        let settings = Settings {
            url: start(&server),
            address: Address::parse("lb1.example.com"),
            ca_bundle: String::new(),
            secret_name: None,
            reserved_ports: BTreeSet::new(),
            timeouts: Timeouts {
                proxy_timeout_seconds: class.proxy_timeout_seconds.unwrap_or(600),
                proxy_connect_timeout_seconds: 0,
            },
            verification: Verification::None,
            cluster_id: "cluster".to_owned(),
            class: "default".to_owned(),
        };
        let context = Context {
            client: client(&server),
            namespace: "lbs".to_owned(),
            secrets: Arc::new(NoSecrets),
            gate: None,
            admits: |_| true,
            rate: RATE,
            repeat_after: Duration::from_secs(300),
        };
        (HttpUpdater::new(settings, &context), move || std::mem::take(&mut server.lock().unwrap().written))
    })
    .await;
}
