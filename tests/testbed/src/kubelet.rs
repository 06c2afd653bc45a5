//! Stands in for the scheduler and the kubelet: every pod gets the one node,
//! addresses, and a process of ours that listens on its ports.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::process::Child;

use crate::network::{Network, add_address, remove_address};
use crate::node::NODE;
use crate::pod::Protocol;
use crate::pod_process;

/// The annotation that limits a pod to one address family.
pub(crate) const FAMILIES: &str = "testbed.sharedlb.dev/families";

/// How soon the pods are listed again after something went wrong.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// How a pod is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Ready,
    Unready,
    Crashed,
}

/// The pods that run.
#[derive(Clone)]
pub(crate) struct Kubelet {
    client: Client,
    network: Network,
    running: Arc<Mutex<HashMap<Key, Running>>>,
    next_number: Arc<AtomicU16>,
}

/// Namespace and name.
type Key = (String, String);

struct Running {
    uid: Option<String>,
    addresses: Vec<IpAddr>,
    /// None once it was killed.
    process: Option<Child>,
    /// Whether it goes on serving after it was asked to end.
    lingers: bool,
}

impl Kubelet {
    pub(crate) fn new(client: Client, network: Network) -> Self {
        Self { client, network, running: Arc::default(), next_number: Arc::new(AtomicU16::new(1)) }
    }

    /// Runs pods for as long as it is polled.
    ///
    /// After any failure it lists all pods again, which also repeats whatever
    /// failed.
    pub(crate) async fn run(self) {
        loop {
            if let Err(error) = self.follow_pods().await {
                eprintln!("testbed: running pods: {error:#}");
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    async fn follow_pods(&self) -> anyhow::Result<()> {
        let events = watcher(Api::<Pod>::all(self.client.clone()), watcher::Config::default());
        pin_mut!(events);
        let mut listed = BTreeSet::new();
        while let Some(event) = events.next().await {
            // The API server is away; once it is back, everything is listed again.
            let Ok(event) = event else { return Ok(()) };
            match event {
                Event::Init => listed.clear(),
                Event::InitApply(pod) => {
                    listed.insert(key(&pod));
                    self.sync(&pod).await?;
                }
                Event::InitDone => {
                    let gone = |each: &&Key| !listed.contains(*each);
                    let gone: Vec<_> = self.running().keys().filter(gone).cloned().collect();
                    for pod in gone {
                        self.forget(&pod)?;
                    }
                }
                Event::Apply(pod) => self.sync(&pod).await?,
                Event::Delete(pod) => self.forget(&key(&pod))?,
            }
        }
        Ok(())
    }

    /// Brings one pod a step further.
    async fn sync(&self, pod: &Pod) -> anyhow::Result<()> {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let done = match node {
            _ if pod.metadata.deletion_timestamp.is_some() => self.end(pod).await,
            None => self.bind(pod).await,
            Some(NODE) if !self.runs_as(&key(pod), pod.uid()) => self.start(pod).await,
            // A pod of another node is an object, whose status others write.
            Some(_) => Ok(()),
        };
        match done {
            // The pod went, or was replaced, in the meantime, or is about to go.
            Err(error) if is_outdated(&error) => Ok(()),
            other => other.with_context(|| format!("pod {}", pod.name_any())),
        }
    }

    async fn bind(&self, pod: &Pod) -> anyhow::Result<()> {
        let binding = Binding {
            metadata: ObjectMeta { name: Some(pod.name_any()), ..ObjectMeta::default() },
            target: ObjectReference {
                kind: Some("Node".to_owned()),
                name: Some(NODE.to_owned()),
                ..ObjectReference::default()
            },
        };
        let params = PostParams::default();
        let _: Value = self.api(pod).create_subresource("binding", &pod.name_any(), &params, &binding).await?;
        Ok(())
    }

    async fn start(&self, pod: &Pod) -> anyhow::Result<()> {
        self.forget(&key(pod))?;
        let addresses = match pod.annotations().get(FAMILIES).map(String::as_str) {
            Some("IPv4") => self.next_addresses(IpAddr::is_ipv4)?,
            Some("IPv6") => self.next_addresses(IpAddr::is_ipv6)?,
            _ => self.next_addresses(|_| true)?,
        };
        for address in &addresses {
            add_address(*address)?;
        }
        let process = pod_process::start(&pod.name_any(), &sockets(pod, &addresses)).await?;
        self.report(pod, &addresses, Health::Ready).await?;
        let running = Running { uid: pod.uid(), addresses, process: Some(process), lingers: false };
        self.running().insert(key(pod), running);
        Ok(())
    }

    /// Ends a pod that is to be deleted, and lets its object go.
    async fn end(&self, pod: &Pod) -> anyhow::Result<()> {
        let key = key(pod);
        if self.running().get(&key).is_some_and(|each| each.lingers) {
            return Ok(());
        }
        self.forget(&key)?;
        let params = DeleteParams::default()
            .grace_period(0)
            .preconditions(Preconditions { uid: pod.uid(), resource_version: None });
        self.api(pod).delete(&pod.name_any(), &params).await?;
        Ok(())
    }

    /// Ends the pod's process and takes its addresses away.
    fn forget(&self, key: &Key) -> anyhow::Result<()> {
        // Dropping the process kills it.
        let removed = self.running().remove(key);
        for address in removed.into_iter().flat_map(|each| each.addresses) {
            remove_address(address)?;
        }
        Ok(())
    }

    /// Writes how the pod is into its status.
    pub(crate) async fn report(&self, pod: &Pod, addresses: &[IpAddr], health: Health) -> anyhow::Result<()> {
        let patch = Patch::Merge(status(pod, addresses, health));
        self.api(pod).patch_status(&pod.name_any(), &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Kills the pod's process, and leaves everything else.
    pub(crate) async fn kill(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let process = self.with(namespace, name, |pod| pod.process.take())?;
        if let Some(mut process) = process {
            process.kill().await?;
        }
        Ok(())
    }

    /// Keeps the pod's process when its object is asked to go.
    pub(crate) fn let_linger(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        self.with(namespace, name, |pod| pod.lingers = true)
    }

    /// The addresses of the pod, if it runs.
    pub(crate) fn addresses(&self, namespace: &str, name: &str) -> Option<Vec<IpAddr>> {
        self.with(namespace, name, |pod| pod.addresses.clone()).ok()
    }

    /// Whether the pod has addresses and, unless it was killed, a process.
    pub(crate) fn runs(&self, namespace: &str, name: &str) -> bool {
        self.with(namespace, name, |_| ()).is_ok()
    }

    fn with<T>(&self, namespace: &str, name: &str, change: impl FnOnce(&mut Running) -> T) -> anyhow::Result<T> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut running = self.running();
        let pod = running.get_mut(&key);
        Ok(change(pod.with_context(|| format!("pod {namespace}/{name} does not run"))?))
    }

    fn runs_as(&self, key: &Key, uid: Option<String>) -> bool {
        self.running().get(key).is_some_and(|each| each.uid == uid)
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Key, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Addresses that no pod had before.
    pub(crate) fn next_addresses(&self, wanted: impl Fn(&IpAddr) -> bool) -> anyhow::Result<Vec<IpAddr>> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        if number == u16::MAX {
            bail!("there have been as many pods as there are addresses");
        }
        let mut addresses = self.network.pod_addresses(number);
        addresses.retain(wanted);
        if addresses.is_empty() {
            bail!("this machine has no IPv6, and so no address for the pod");
        }
        Ok(addresses)
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        let namespace = pod.namespace().unwrap_or_default();
        Api::namespaced(self.client.clone(), &namespace)
    }
}

fn key(pod: &Pod) -> Key {
    (pod.namespace().unwrap_or_default(), pod.name_any())
}

fn is_outdated(error: &anyhow::Error) -> bool {
    let status = match error.downcast_ref() {
        Some(kube::Error::Api(status)) => status,
        _ => return false,
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let namespace_goes = causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating");
    status.is_not_found() || status.is_conflict() || namespace_goes
}

/// Every port of the pod on every address.
fn sockets(pod: &Pod, addresses: &[IpAddr]) -> Vec<(Protocol, SocketAddr)> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|each| each.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = u16::try_from(port.container_port).ok()?;
            let protocol = match port.protocol.as_deref() {
                None | Some("TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some(_) => return None,
            };
            Some((protocol, number))
        })
        .flat_map(|(protocol, number)| {
            let socket = move |ip: &IpAddr| (protocol, SocketAddr::new(*ip, number));
            addresses.iter().map(socket)
        })
        .collect()
}

/// The status that a kubelet would write.
fn status(pod: &Pod, addresses: &[IpAddr], health: Health) -> Value {
    let now = Timestamp::now();
    let ready = health == Health::Ready;
    let condition = |kind: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        json!({"type": kind, "status": status, "lastTransitionTime": now})
    };
    let state = match health {
        Health::Crashed => json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        Health::Ready | Health::Unready => json!({"running": {"startedAt": now}}),
    };
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let container_statuses: Vec<_> = containers
        .map(|container| {
            json!({
                "name": container.name,
                "image": container.image,
                "imageID": "",
                "ready": ready,
                "restartCount": 0,
                "state": state,
            })
        })
        .collect();
    let pod_ips: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({"status": {
        "phase": "Running",
        "podIP": addresses.first(),
        "podIPs": pod_ips,
        "startTime": now,
        "conditions": [
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ],
        "containerStatuses": container_statuses,
    }})
}
