//! The stand-in for Google Compute Engine: a server in this process, with a project of its own
//! for each test.
//!
//! There is no emulator of it. What calls may look like is taken from Google's discovery
//! document, which comes with Google's Python client; what they do is written here, each rule
//! with its source. It has what one passthrough load balancer needs: addresses, health checks,
//! network endpoint groups of instances, backend services, forwarding rules, firewall rules,
//! their operations, quotas, and the places where Google's libraries get tokens.

mod calls;
mod client;
mod discovery;
mod faults;
mod kinds;
mod operations;
mod path;
mod permissions;
mod refusal;
mod schema;
mod server;
mod state;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use axum::Router;
use axum::http::Method as Verb;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::Testbed;
use discovery::Discovery;
use path::ObjectPath;
use server::{ApiRequest, Inner, Outcome, Shared};
use state::State;

pub use client::{GoogleClient, GoogleError};
pub use faults::{GcpCall, GcpFault, GcpFaultKind};
pub use tokens::GoogleUser;

/// The stand-in for Google Compute Engine.
pub struct GcpPeer {
    discovery: Arc<Discovery>,
    python: PathBuf,
}

impl GcpPeer {
    /// Reads Google's discovery document. The testbed must have been entered with
    /// [`Parts::gcp`](crate::Parts::gcp).
    pub fn start(testbed: &Testbed) -> anyhow::Result<Self> {
        let python = testbed.assets.google_python()?.to_owned();
        let environment = python.parent().and_then(|bin| bin.parent()).context("Python is in no environment")?;
        Ok(Self { discovery: Arc::new(Discovery::read(environment)?), python })
    }

    /// Starts a project of its own, on the present runtime.
    pub async fn project(&self, layout: GcpLayout) -> anyhow::Result<GcpProject> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let inner = Mutex::new(Inner::new(State::new(layout)));
        let shared = Arc::new(Shared { discovery: self.discovery.clone(), inner });
        let router = Router::new().fallback(server::serve).with_state(shared.clone());
        let serving = tokio::spawn(async move { _ = axum::serve(listener, router).await });
        Ok(GcpProject { address, shared, serving })
    }

    /// A new key of the service account of the program under test, as Google hands it out.
    ///
    /// # Errors
    /// If Python cannot make one.
    pub async fn service_account_key(&self) -> anyhow::Result<Value> {
        client::service_account_key(&self.python).await
    }

    /// Starts Google's own Python client.
    pub fn client(&self) -> anyhow::Result<GoogleClient> {
        GoogleClient::start(&self.python)
    }
}

/// What a project has from the start.
#[derive(Clone, Debug)]
pub struct GcpLayout {
    /// The id of the project.
    pub project: String,
    /// The id of the project of network, subnetwork and firewall rules: another one with Shared
    /// VPC.
    pub network_project: String,
    /// The one region.
    pub region: String,
    /// The zones of the region.
    pub zones: Vec<String>,
    /// The name of the one network.
    pub network: String,
    /// The name of the one subnetwork.
    pub subnetwork: String,
    /// The external addresses that can be reserved.
    pub external: Vec<IpAddr>,
    /// The addresses of the subnetwork that can be reserved.
    pub internal: Vec<IpAddr>,
}

impl Default for GcpLayout {
    fn default() -> Self {
        let pool = |network: [u8; 3]| {
            let [a, b, c] = network;
            (1..=50).map(|host| IpAddr::from([a, b, c, host])).collect()
        };
        Self {
            project: "test-project".to_owned(),
            network_project: "test-project".to_owned(),
            region: "europe-west9".to_owned(),
            zones: ["a", "b", "c"].map(|zone| format!("europe-west9-{zone}")).into(),
            network: "net".to_owned(),
            subnetwork: "nodes".to_owned(),
            external: pool([203, 0, 113]),
            internal: pool([10, 128, 0]),
        }
    }
}

/// One project of the stand-in, and what a test does with it. It ends when this is dropped.
pub struct GcpProject {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Drop for GcpProject {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl GcpProject {
    /// The root of the API, instead of `https://compute.googleapis.com`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The host and port of the metadata server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The environment of a process that finds the stand-in, and no other place of Google's.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE", format!("{}/compute/v1", self.url())),
            ("GCE_METADATA_HOST", self.address.to_string()),
            // Credentials of the developer are in there.
            ("HOME", "/nonexistent".to_owned()),
        ]
    }

    /// What it had from the start.
    pub fn layout(&self) -> GcpLayout {
        self.shared.inner.lock().state.layout.clone()
    }

    /// A token of a user.
    pub fn token(&self, user: GoogleUser) -> String {
        match user {
            GoogleUser::Controller => self.shared.inner.lock().tokens.issue(),
            GoogleUser::Observer => tokens::OBSERVER.to_owned(),
        }
    }

    /// The configuration of workload identity federation with which the program under test gets
    /// tokens: `file` has the token of its own platform, which is written here.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn federation(&self, file: &Path) -> anyhow::Result<Value> {
        std::fs::write(file, tokens::FEDERATED).with_context(|| format!("writing {}", file.display()))?;
        let pool = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/cluster";
        Ok(json!({
            "type": "external_account",
            "audience": pool,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": format!("{}/token", self.url()),
            "credential_source": {"file": file},
        }))
    }

    /// All tokens of the program under test that there were.
    pub fn tokens(&self) -> Vec<String> {
        self.shared.inner.lock().tokens.all()
    }

    /// Ends the validity of all tokens of the program under test.
    pub fn expire_tokens(&self) {
        self.shared.inner.lock().tokens.expire();
    }

    /// Whether new tokens are refused from now on.
    pub fn refuse_tokens(&self, refused: bool) {
        self.shared.inner.lock().tokens.are_refused = refused;
    }

    /// From now on an operation takes so long, and a deletion so much longer. At first, each is
    /// done at the next call.
    pub fn operations_take(&self, time: Duration, deletion_time: Duration) {
        let mut inner = self.shared.inner.lock();
        inner.state.operations.time = time;
        inner.state.operations.deletion_time = deletion_time;
    }

    /// Whether an operation runs.
    pub fn has_running_operations(&self) -> bool {
        let mut inner = self.shared.inner.lock();
        inner.state.settle();
        inner.state.operations.are_running()
    }

    /// Makes calls of the program under test go wrong from now on.
    pub fn fault(&self, fault: GcpFault) {
        let mut inner = self.shared.inner.lock();
        if matches!(fault.kind, GcpFaultKind::OperationHeld) {
            inner.state.operations.held.insert(fault.name.clone());
        }
        inner.faults.add(fault);
    }

    /// Ends the fault of this name. Operations that it holds end.
    pub fn release(&self, fault: &str) {
        let mut inner = self.shared.inner.lock();
        inner.state.operations.held.remove(fault);
        inner.faults.release(fault);
    }

    /// How many calls the fault of this name has hit, if it was not released.
    pub fn hits(&self, fault: &str) -> usize {
        self.shared.inner.lock().faults.hits(fault)
    }

    /// From now on the program under test has these permissions only, less those that are
    /// withdrawn: `compute.firewalls.create`.
    pub fn grant_only(&self, permissions: impl IntoIterator<Item = String>) {
        self.shared.inner.lock().granted = Some(permissions.into_iter().collect());
    }

    /// Takes a permission away from the program under test: `compute.firewalls.create`.
    pub fn withdraw(&self, permission: &str) {
        self.shared.inner.lock().withdrawn.insert(permission.to_owned());
    }

    /// Gives back all permissions that were withdrawn.
    pub fn grant_all(&self) {
        self.shared.inner.lock().withdrawn.clear();
    }

    /// From now on there may be so many objects of a metric: `STATIC_ADDRESSES`.
    pub fn set_quota(&self, metric: &str, limit: u32) {
        self.shared.inner.lock().state.quotas.insert(metric.to_owned(), limit.into());
    }

    /// Starts an instance in a zone, with this address.
    pub fn add_instance(&self, zone: &str, name: &str, address: IpAddr) {
        let path = ObjectPath::within(&format!("zones/{zone}/instances"), name);
        let fields = json!({"status": "RUNNING", "networkInterfaces": [{"networkIP": address}]});
        self.shared.inner.lock().state.add(&path, "instance", fields);
    }

    /// Deletes an instance. No group has it any more.
    pub fn remove_instance(&self, zone: &str, name: &str) {
        self.shared.inner.lock().state.remove_instance(zone, name);
    }

    /// The calls of the program under test so far, in the order of their arrival.
    pub fn calls(&self) -> Vec<GcpCall> {
        self.shared.inner.lock().log.clone()
    }

    /// The same, and forgets them.
    pub fn take_calls(&self) -> Vec<GcpCall> {
        std::mem::take(&mut self.shared.inner.lock().log)
    }

    /// The objects of all collections of this name, by their paths: `addresses` and
    /// `regions/r/addresses/a`.
    pub fn objects(&self, collection: &str) -> BTreeMap<String, Value> {
        let mut inner = self.shared.inner.lock();
        inner.state.settle();
        let state = &inner.state;
        let paths = state.objects.keys().filter(|path| path.collection() == collection);
        paths.filter_map(|path| Some((path.to_string(), state.shown(path).ok()?))).collect()
    }

    /// The names of the instances in a group, by its path.
    pub fn instances(&self, group: &str) -> BTreeSet<String> {
        let mut inner = self.shared.inner.lock();
        inner.state.settle();
        let group = inner.state.objects.get(&ObjectPath::new(group));
        group.map(|group| group.instances.clone()).unwrap_or_default()
    }

    /// Does a call as another client, by its path behind the project: `global/firewalls`. The
    /// operation that it begins ends at once.
    ///
    /// # Errors
    /// What the API refuses.
    pub fn call(&self, verb: &Verb, path: &str, body: Value) -> anyhow::Result<Value> {
        let project = self.shared.inner.lock().state.project_of(path).to_owned();
        let path = format!("/compute/v1/projects/{project}/{path}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = ApiRequest { verb, path: &path, query: "", body: body.as_bytes() };
        let Outcome::Answered(answer) = self.shared.call(GoogleUser::Observer, &request) else {
            bail!("{verb} {path}: no answer");
        };
        let answer = answer.map_err(|refusal| anyhow!("{verb} {path}: {}: {}", refusal.reason, refusal.message))?;
        if answer["kind"] == "compute#operation" {
            let mut inner = self.shared.inner.lock();
            inner.state.operations.end_now(answer["name"].as_str().unwrap_or_default());
            inner.state.settle();
        }
        Ok(answer)
    }
}
