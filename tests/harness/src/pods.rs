//! Pods without processes, on a node that is an object: all that it takes for
//! Kubernetes to make endpoints of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// Pods whose node does not exist do not become endpoints. No kubelet of the testbed runs the
/// pods of this one.
const NODE: &str = "without-kubelet";

/// Addresses that no pod of this program has had.
pub fn next_addresses() -> (Ipv4Addr, Ipv6Addr) {
    static NUMBER: AtomicU16 = AtomicU16::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let [high, low] = number.to_be_bytes();
    (Ipv4Addr::new(10, 244, high, low), Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, number))
}

/// Makes the node that all these pods are on.
pub async fn add_node(client: Client) -> anyhow::Result<()> {
    let node: Node = serde_json::from_value(json!({"metadata": {"name": NODE}}))?;
    Api::<Node>::all(client).create(&PostParams::default(), &node).await.context("making a node")?;
    Ok(())
}

/// A pod that can take traffic, as far as its status shows.
pub struct Backend {
    pods: Api<Pod>,
    name: String,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
}

impl Backend {
    /// Makes a pod with the label `app` and these ports (name, number and
    /// protocol), that is ready.
    pub async fn create(
        client: Client,
        namespace: &str,
        name_and_app: (&str, &str),
        ports: &[(&str, u16, &str)],
    ) -> anyhow::Result<Self> {
        let (v4, v6) = next_addresses();
        Self::create_at(client, namespace, name_and_app, ports, vec![v4.into(), v6.into()]).await
    }

    /// The same with these addresses, IPv4 first.
    pub async fn create_at(
        client: Client,
        namespace: &str,
        (name, app): (&str, &str),
        ports: &[(&str, u16, &str)],
        addresses: Vec<IpAddr>,
    ) -> anyhow::Result<Self> {
        let ports: Vec<Value> = ports
            .iter()
            .map(|(name, number, protocol)| json!({"name": name, "containerPort": number, "protocol": protocol}))
            .collect();
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {
                "nodeName": NODE,
                // No kubelet ends it.
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": "test", "ports": ports}],
            },
        }))?;
        let pods = Api::<Pod>::namespaced(client, namespace);
        pods.create(&PostParams::default(), &pod).await.with_context(|| format!("making pod {namespace}/{name}"))?;
        let backend = Self { pods, name: name.to_owned(), addresses };
        backend.set_ready(true).await?;
        Ok(backend)
    }

    /// A pod that was made before.
    pub async fn existing(client: Client, namespace: &str, name: &str) -> anyhow::Result<Self> {
        let pods = Api::<Pod>::namespaced(client, namespace);
        let status = pods.get(name).await?.status.unwrap_or_default();
        let addresses = status.pod_ips.into_iter().flatten().map(|address| address.ip.parse());
        let addresses = addresses.collect::<Result<_, _>>()?;
        Ok(Self { pods, name: name.to_owned(), addresses })
    }

    /// Says whether it is ready, as a kubelet would.
    pub async fn set_ready(&self, ready: bool) -> anyhow::Result<()> {
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

    /// Removes it at once.
    pub async fn delete(&self) -> anyhow::Result<()> {
        self.pods.delete(&self.name, &DeleteParams::default().grace_period(0)).await?;
        Ok(())
    }
}
