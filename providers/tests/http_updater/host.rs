//! A host with the stand-in for the updater, and a namespace of the API server, as the suite sees
//! them.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use parking_lot::Mutex;
use sharedlb_providers::conformance::Peer;
use sharedlb_providers::http_updater::{Context, HttpUpdater, RATE, Settings, Timeouts, Verification};
use sharedlb_providers::{Address, Error, FrontPort, LbName, ListenerKey, Provider, SecretData, Secrets};
use sharedlb_testbed::{Updater, UpdaterFault};

use crate::api_server::{ApiServer, dying_when};
use crate::steps::lb;

/// The name of the Secret with the credentials.
pub(crate) const SECRET: &str = "updater";

/// The file of a backend of another client.
const FOREIGN: &str = "theirs.conf";

/// An updater and a namespace of their own for each test.
pub(crate) struct Host {
    pub(crate) server: ApiServer,
    pub(crate) updater: Updater,
    pub(crate) address: IpAddr,
    /// The values of the Secret
    pub(crate) secret: Arc<OneSecret>,
    foreign: Mutex<Vec<TcpListener>>,
    _folder: tempfile::TempDir,
}

impl Host {
    /// An updater without TLS, whose TCP ports are bound at this address at once.
    pub(crate) async fn start(server: ApiServer, address: IpAddr) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let updater = Updater::start(folder.path()).await?;
        updater.bind_ports(address)?;
        let secret = Arc::new(OneSecret(Mutex::default()));
        Ok(Self { server, updater, address, secret, foreign: Mutex::default(), _folder: folder })
    }

    /// As the smallest class has them, but for the verification.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            url: self.updater.url().to_owned(),
            address: Address::Ip(self.address),
            ca_bundle: String::new(),
            secret_name: None,
            reserved_ports: BTreeSet::new(),
            timeouts: Timeouts { proxy_timeout_seconds: 600, proxy_connect_timeout_seconds: 0 },
            verification: Verification::Connect,
            cluster_id: "cluster".to_owned(),
            class: "conformance".to_owned(),
        }
    }

    /// What a process has that posts nothing again, and that no budget holds back.
    pub(crate) fn context(&self) -> Context {
        Context {
            client: self.server.client.clone(),
            namespace: self.server.namespace.clone(),
            secrets: self.secret.clone(),
            gate: None,
            // The stand-in is at a loopback address.
            admits: |_| true,
            rate: RATE.times(1000.0),
            repeat_after: Duration::from_secs(3600),
        }
    }

    /// A provider of a process of its own.
    pub(crate) fn provider_with(&self, settings: Settings) -> HttpUpdater {
        HttpUpdater::new(settings, &self.context())
    }

    /// The same with another client of the API server.
    pub(crate) fn provider_by(&self, client: Client) -> HttpUpdater {
        HttpUpdater::new(self.settings(), &Context { client, ..self.context() })
    }

    /// A provider that posts everything again whenever a load balancer is observed.
    pub(crate) fn repeating(&self) -> HttpUpdater {
        HttpUpdater::new(self.settings(), &Context { repeat_after: Duration::ZERO, ..self.context() })
    }

    /// The requests that the updater got since the last call of this: `POST 20000-tcp`.
    pub(crate) fn calls(&self) -> Vec<String> {
        let calls = self.updater.take_calls().into_iter();
        calls.map(|call| format!("{} {}", call.method, call.backend.replace(&format!("{}-", lb(0)), ""))).collect()
    }

    /// The names of the files, without the part that all of one load balancer have.
    pub(crate) fn files(&self) -> Vec<String> {
        let files = self.updater.files().expect("they can be read").into_keys();
        files.map(|name| name.replace(&format!("{}-", lb(0)), "")).collect()
    }

    /// The text of the file of a backend.
    pub(crate) fn file(&self, port: &str) -> String {
        let mut files = self.updater.files().expect("they can be read");
        files.remove(&format!("{}-{port}.conf", lb(0))).unwrap_or_default()
    }

    /// Puts a folder where the file of a backend would be, so that it can be neither written nor
    /// deleted. Returns the folder.
    pub(crate) fn occupy(&self, port: &str) -> PathBuf {
        let path = self.updater.folder().join(format!("{}-{port}.conf", lb(0)));
        fs::remove_file(&path).expect("the backend is there");
        fs::create_dir_all(path.join("occupied")).expect("it can be made");
        path
    }

    pub(crate) fn journals(&self) -> Api<ConfigMap> {
        Api::namespaced(self.server.client.clone(), &self.server.namespace)
    }

    /// A process that is not of SharedLB's listens on a port, and another client has configured
    /// that.
    pub(crate) fn listen(&self, port: u16) {
        let path = self.updater.folder().join(FOREIGN);
        fs::write(path, foreign_text(port)).expect("it can be written");
        self.foreign.lock().push(TcpListener::bind((self.address, port)).expect("the port is free"));
    }

    /// The other processes end.
    pub(crate) fn stop_listening(&self) {
        self.foreign.lock().clear();
    }

    /// The keys of the journal.
    pub(crate) async fn journal_keys(&self) -> Vec<String> {
        let journal = self.journals().get(lb(0).as_str()).await.expect("it is there");
        journal.data.unwrap_or_default().into_keys().collect()
    }
}

/// A file that has no TCP port to be bound in the eyes of the stand-in: another process has it.
fn foreign_text(port: u16) -> String {
    format!("# theirs: port {port}\n")
}

/// The Secret with the credentials.
pub(crate) struct OneSecret(pub(crate) Mutex<SecretData>);

#[async_trait]
impl Secrets for OneSecret {
    async fn read(&self, name: &str) -> Result<SecretData, Error> {
        assert_eq!(name, SECRET);
        Ok(self.0.lock().clone())
    }
}

#[async_trait]
impl Peer for Host {
    async fn provider(&self) -> Box<dyn Provider> {
        self.updater.no_faults();
        Box::new(self.provider_with(self.settings()))
    }

    async fn provider_dying_after(&self, calls: usize) -> Box<dyn Provider> {
        // Those to both peers count, in the order in which they are made.
        let made = Arc::new(AtomicUsize::new(0));
        let is_dead = move || made.fetch_add(1, Ordering::SeqCst) >= calls;
        let of_updater = is_dead.clone();
        self.updater.faults(move |_| of_updater().then_some(UpdaterFault::Unreached));
        Box::new(self.provider_by(dying_when(self.server.client.clone(), is_dead)))
    }

    async fn open_foreign(&self, _name: &LbName, port: FrontPort) {
        self.listen(port.port.get());
    }

    fn shows_foreign(&self) -> bool {
        false
    }

    async fn has_foreign(&self, _name: &LbName, port: FrontPort) -> bool {
        let files = self.updater.files().expect("they can be read");
        files.get(FOREIGN) == Some(&foreign_text(port.port.get()))
    }

    async fn refuse(&self, listener: ListenerKey) {
        for port in listener.front_ports() {
            let transport = port.transport.to_string().to_lowercase();
            self.updater.deny_writing(&format!("{}-{}-{transport}", lb(0), port.port));
        }
    }

    async fn accept_all(&self) {
        self.updater.allow_writing();
    }
}
