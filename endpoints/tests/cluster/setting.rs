//! A namespace for each test, with a Service `web` and pods behind it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use axum::Router;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use sharedlb_endpoints::{Config, LoadBalancer};
use sharedlb_harness::{LIMIT, next_addresses};
use sharedlb_testbed::{Cluster, eventually, ip};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The zones, each with a node of the same name.
pub(crate) const ZONES: [&str; 2] = ["zone-a", "zone-b"];

/// The port of pods, unless a test says otherwise.
pub(crate) const PORT: u16 = 8080;

/// Makes the nodes, and lets servers listen on any address that a pod may have.
pub(crate) async fn prepare(cluster: &Cluster) -> anyhow::Result<()> {
    let nodes = Api::<Node>::all(cluster.admin());
    for zone in ZONES {
        let labels = json!({"topology.kubernetes.io/zone": zone});
        let node = serde_json::from_value(json!({"metadata": {"name": zone, "labels": labels}}))?;
        nodes.create(&PostParams::default(), &node).await?;
    }
    ip(&[], "route add local 10.244.0.0/16 dev lo\n")?;
    if cluster.ipv6() {
        ip(&["-6"], "route add local fd00:10:244::/64 dev lo\n")?;
    }
    Ok(())
}

/// A namespace with a Service.
pub(crate) struct Place {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) namespace: String,
}

impl Place {
    /// Makes a namespace of this name, and in it a Service with the port `http`.
    pub(crate) async fn make(cluster: &Arc<Cluster>, name: &str) -> anyhow::Result<Self> {
        Self::make_with(cluster, name, json!({"ports": [{"name": "http", "port": 80, "targetPort": PORT}]})).await
    }

    /// The same with these fields in the Service.
    pub(crate) async fn make_with(cluster: &Arc<Cluster>, name: &str, mut spec: Value) -> anyhow::Result<Self> {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::all(cluster.admin()).create(&PostParams::default(), &namespace).await?;
        let place = Self { cluster: cluster.clone(), namespace: name.to_owned() };
        spec["selector"] = json!({"app": "web"});
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec}))?;
        place.services().create(&PostParams::default(), &service).await?;
        Ok(place)
    }

    pub(crate) fn services(&self) -> Api<Service> {
        Api::namespaced(self.cluster.admin(), &self.namespace)
    }

    /// The Service as a load balancer is told of it.
    pub(crate) fn config(&self) -> Config {
        Config::new("web").namespace(&self.namespace)
    }

    /// A load balancer that is kept up to date, with all rights.
    pub(crate) fn load_balancer(&self, config: Config) -> Arc<LoadBalancer> {
        synced(self.cluster.admin(), config)
    }

    /// A pod that is ready, with an HTTP server that answers with the pod's name.
    pub(crate) async fn pod(&self, name: &str) -> anyhow::Result<WebPod> {
        self.pod_on(name, ZONES[0], PORT).await
    }

    /// The same in this zone, with this port.
    pub(crate) async fn pod_on(&self, name: &str, zone: &str, port: u16) -> anyhow::Result<WebPod> {
        let (ipv4, ipv6) = next_addresses();
        let mut addresses: Vec<IpAddr> = vec![ipv4.into()];
        if self.cluster.ipv6() {
            addresses.push(ipv6.into());
        }
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {
                "nodeName": zone,
                "containers": [{"name": "main", "image": "test", "ports": [{"name": "http", "containerPort": port}]}],
            },
        }))?;
        let pods = Api::<Pod>::namespaced(self.cluster.admin(), &self.namespace);
        pods.create(&PostParams::default(), &pod).await.with_context(|| format!("making pod {name}"))?;
        let server = Server::start(name, addresses[0], port).await?;
        let pod = WebPod { pods, name: name.to_owned(), addresses, server };
        pod.set_ready(true).await?;
        Ok(pod)
    }
}

/// A load balancer that is kept up to date.
pub(crate) fn synced(client: Client, config: Config) -> Arc<LoadBalancer> {
    let load_balancer = LoadBalancer::new(client, config);
    load_balancer.start_background_sync();
    Arc::new(load_balancer)
}

/// A pod whose server is in this process. No kubelet ends it.
pub(crate) struct WebPod {
    pods: Api<Pod>,
    name: String,
    addresses: Vec<IpAddr>,
    server: Server,
}

impl WebPod {
    /// Says whether it is ready, as a kubelet would.
    pub(crate) async fn set_ready(&self, ready: bool) -> anyhow::Result<()> {
        let ready = if ready { "True" } else { "False" };
        let ips: Vec<Value> = self.addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let status = json!({"status": {
            "phase": "Running",
            "podIP": self.addresses[0],
            "podIPs": ips,
            "conditions": [{"type": "Ready", "status": ready}],
        }});
        self.pods.patch_status(&self.name, &PatchParams::default(), &Patch::Merge(status)).await?;
        Ok(())
    }

    /// Begins to delete it: until [`end`](Self::end) it terminates, and serves.
    pub(crate) async fn terminate(&self) -> anyhow::Result<()> {
        self.pods.delete(&self.name, &DeleteParams::default().grace_period(3600)).await?;
        Ok(())
    }

    /// Ends the server once it has answered the requests that it has, and removes the pod.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.server.drain().await?;
        self.pods.delete(&self.name, &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }
}

/// An HTTP server that ends in good order.
struct Server {
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn start(name: &str, address: IpAddr, port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::new(address, port)).await?;
        let (stop, stopped) = oneshot::channel();
        let name = name.to_owned();
        let answer = Router::new().fallback(async || name);
        let until_stopped = async { _ = stopped.await };
        let serving = axum::serve(listener, answer).with_graceful_shutdown(until_stopped);
        Ok(Self { stop, serving: tokio::spawn(async { serving.await }) })
    }

    async fn drain(self) -> anyhow::Result<()> {
        ensure!(self.stop.send(()).is_ok(), "the server has ended by itself");
        Ok(tokio::time::timeout(LIMIT, self.serving).await.context("waiting for a server to drain")???)
    }
}

/// The pods that get requests.
pub(crate) fn pods(load_balancer: &LoadBalancer) -> BTreeSet<String> {
    load_balancer.endpoints().iter().filter_map(|endpoint| endpoint.pod.as_deref()).map(str::to_owned).collect()
}

/// Waits until exactly these pods get requests.
pub(crate) async fn until_pods(load_balancer: &LoadBalancer, names: &[&str]) -> anyhow::Result<()> {
    let names: BTreeSet<String> = names.iter().map(|&name| name.to_owned()).collect();
    eventually(&format!("requests to go to {names:?}"), LIMIT, async || {
        let now = pods(load_balancer);
        ensure!(now == names, "they go to {now:?}");
        Ok(Some(()))
    })
    .await
}
