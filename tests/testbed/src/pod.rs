//! Pods, as tests see them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Context;
use k8s_openapi::api::core::v1 as api;
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, PostParams};

use crate::cluster::Cluster;
use crate::control_plane::READY_LIMIT;
use crate::kubelet::{FAMILIES, Health, Kubelet};
use crate::wait::eventually;

/// What a port of a pod speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Answers when a connection is made, and closes it.
    Tcp,
    /// Answers every datagram.
    Udp,
}

impl Protocol {
    /// Its name in Kubernetes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// IP families: those of a pod, or of a whole cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// All that there are: those of the cluster, or of the machine.
    #[default]
    All,
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
}

/// A port that a pod listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// The name that Services can use for it.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// What it speaks.
    pub protocol: Protocol,
}

impl PodPort {
    /// A TCP port.
    pub fn tcp(name: &str, number: u16) -> Self {
        Self::new(name, number, Protocol::Tcp)
    }

    /// A UDP port.
    pub fn udp(name: &str, number: u16) -> Self {
        Self::new(name, number, Protocol::Udp)
    }

    fn new(name: &str, number: u16, protocol: Protocol) -> Self {
        Self { name: name.to_owned(), number, protocol }
    }
}

/// A pod to be run. Its namespace must be there.
#[derive(Clone, Debug, Default)]
pub struct PodSpec {
    /// The namespace.
    pub namespace: String,
    /// The pod's name, and how it answers.
    pub name: String,
    /// What Services select it by.
    pub labels: BTreeMap<String, String>,
    /// Where it listens.
    pub ports: Vec<PodPort>,
    /// Which addresses it has.
    pub families: Families,
}

impl PodSpec {
    /// A pod without labels and ports.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned(), ..Self::default() }
    }

    /// The same with a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The same with a port.
    pub fn port(mut self, port: PodPort) -> Self {
        self.ports.push(port);
        self
    }

    /// The same with addresses of these families only.
    pub fn families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    fn object(&self) -> api::Pod {
        let families = match self.families {
            Families::All => None,
            Families::V4 => Some("IPv4"),
            Families::V6 => Some("IPv6"),
        };
        api::Pod {
            metadata: ObjectMeta {
                annotations: families.map(|each| [(FAMILIES.to_owned(), each.to_owned())].into()),
                ..metadata(&self.namespace, &self.name, &self.labels)
            },
            spec: Some(pod_spec(&self.ports)),
            ..api::Pod::default()
        }
    }
}

/// A running pod. Dropping the handle does nothing to the pod.
#[derive(Clone)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    pods: Api<api::Pod>,
    kubelet: Kubelet,
}

impl Pod {
    /// Kills the pod's process, as a crash would: its ports refuse, and the
    /// pod is no longer ready.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.kubelet.kill(&self.namespace, &self.name).await?;
        self.report(Health::Crashed).await
    }

    /// Says whether the pod is ready, as a readiness probe would. Its process
    /// answers either way.
    pub async fn set_ready(&self, ready: bool) -> anyhow::Result<()> {
        self.report(if ready { Health::Ready } else { Health::Unready }).await
    }

    async fn report(&self, health: Health) -> anyhow::Result<()> {
        let object = self.pods.get(&self.name).await?;
        self.kubelet.report(&object, &self.addresses, health).await
    }

    /// Asks the pod to end, and lets it go on serving until
    /// [`Pod::delete`]: its endpoints are "terminating".
    pub async fn terminate(&self) -> anyhow::Result<()> {
        self.kubelet.let_linger(&self.namespace, &self.name)?;
        let params = DeleteParams::default().grace_period(3600);
        self.pods.delete(&self.name, &params).await?;
        Ok(())
    }

    /// Removes the pod, its process and its addresses at once.
    pub async fn delete(&self) -> anyhow::Result<()> {
        let params = DeleteParams::default().grace_period(0);
        self.pods.delete(&self.name, &params).await?;
        let what = format!("the process of pod {} to end", self.name);
        eventually(&what, READY_LIMIT, async || {
            let runs = self.kubelet.runs(&self.namespace, &self.name);
            Ok((!runs).then_some(()))
        })
        .await
    }
}

impl Cluster {
    /// Makes a pod and returns when it is ready. Needs
    /// [`node`](crate::Parts::node).
    pub async fn pod(&self, spec: PodSpec) -> anyhow::Result<Pod> {
        let pods = Api::namespaced(self.admin(), &spec.namespace);
        pods.create(&PostParams::default(), &spec.object())
            .await
            .with_context(|| format!("making pod {}", spec.name))?;
        self.running_pod(&spec.namespace, &spec.name).await
    }

    /// A pod that was made in another way, as soon as it runs.
    pub async fn running_pod(&self, namespace: &str, name: &str) -> anyhow::Result<Pod> {
        let pods = Api::<api::Pod>::namespaced(self.admin(), namespace);
        let kubelet = self.kubelet()?.clone();
        let what = format!("pod {namespace}/{name} to run");
        let addresses = eventually(&what, READY_LIMIT, async || {
            pods.get_status(name).await?;
            Ok(kubelet.addresses(namespace, name))
        })
        .await?;
        // Its process listens; now the status has to say so.
        eventually(&what, READY_LIMIT, async || {
            let status = pods.get_status(name).await?.status.unwrap_or_default();
            Ok((status.phase.as_deref() == Some("Running")).then_some(()))
        })
        .await?;
        Ok(Pod { namespace: namespace.to_owned(), name: name.to_owned(), addresses, pods, kubelet })
    }
}

fn metadata(namespace: &str, name: &str, labels: &BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        labels: Some(labels.clone()),
        ..ObjectMeta::default()
    }
}

fn pod_spec(ports: &[PodPort]) -> api::PodSpec {
    let ports = ports.iter().map(|port| api::ContainerPort {
        name: Some(port.name.clone()),
        container_port: port.number.into(),
        protocol: Some(port.protocol.as_str().to_owned()),
        ..api::ContainerPort::default()
    });
    api::PodSpec {
        containers: vec![api::Container {
            name: "main".to_owned(),
            image: Some("testbed".to_owned()),
            ports: Some(ports.collect()),
            ..api::Container::default()
        }],
        ..api::PodSpec::default()
    }
}
