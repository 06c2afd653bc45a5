//! Claims by the thousand, each with a pod of its own.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sharedlb_crds::SharedLB;

use crate::sightings::Sighting;
use crate::stage::{CONNECTIONS, PATIENCE, Stage, for_all, port_of, readiness_of};

/// The claims are spread over so many namespaces.
const NAMESPACES: usize = 20;

/// The node that the pods are said to be on. Kubernetes gives no endpoints to
/// pods of a node that it does not know.
const NODE: &str = "bench";

/// How long many claims may take to become ready.
const SETTLING: Duration = Duration::from_secs(10 * 60);

/// A team with one claim that selects one pod.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    /// Of which class it is
    pub(crate) class: String,
    /// Where its objects are
    pub(crate) namespace: String,
    /// How its objects are named
    pub(crate) name: String,
}

impl Tenant {
    /// The tenant of a class with this number.
    pub(crate) fn new(class: &str, number: usize) -> Self {
        Self::among(NAMESPACES, class, number)
    }

    /// The same where there are so many namespaces.
    pub(crate) fn among(namespaces: usize, class: &str, number: usize) -> Self {
        Self {
            class: class.into(),
            namespace: format!("load-{}", number % namespaces),
            name: format!("{class}-{number}"),
        }
    }

    fn claim(&self) -> anyhow::Result<SharedLB> {
        Ok(serde_json::from_value(json!({
            "apiVersion": "sharedlb.dev/v1alpha1",
            "kind": "SharedLB",
            "metadata": {"namespace": self.namespace, "name": self.name},
            "spec": {"className": self.class, "selector": {"app": self.name}, "ports": [{"targetPort": 8080}]},
        }))?)
    }

    /// Creates the claim, and returns when that was replied to.
    pub(crate) async fn create(&self, stage: &Stage) -> anyhow::Result<Instant> {
        let claims = Api::namespaced(stage.admin.clone(), &self.namespace);
        claims.create(&PostParams::default(), &self.claim()?).await?;
        Ok(Instant::now())
    }

    /// Its ports, which are not there yet.
    pub(crate) fn port(&self, stage: &Stage) -> Sighting<SharedLB> {
        stage.claims.expect(port_of(&self.namespace, &self.name))
    }

    /// Its readiness, which is not there yet.
    pub(crate) fn readiness(&self, stage: &Stage) -> Sighting<SharedLB> {
        stage.claims.expect(readiness_of(&self.namespace, &self.name))
    }

    /// Adds a pod that is ready, without any process.
    pub(crate) async fn pod(&self, stage: &Stage, name: &str, address: Ipv4Addr) -> anyhow::Result<()> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": self.namespace, "name": name, "labels": {"app": self.name}},
            "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "bench"}]},
        }))?;
        Api::namespaced(stage.admin.clone(), &self.namespace).create(&PostParams::default(), &pod).await?;
        self.set_pod_ready(stage, name, address, true).await
    }

    /// Reports a pod's readiness, as the kubelet would.
    pub(crate) async fn set_pod_ready(
        &self,
        stage: &Stage,
        name: &str,
        address: Ipv4Addr,
        ready: bool,
    ) -> anyhow::Result<()> {
        let pods: Api<Pod> = Api::namespaced(stage.admin.clone(), &self.namespace);
        let status = Patch::Merge(pod_status(address, ready));
        pods.patch_status(name, &PatchParams::default(), &status).await?;
        Ok(())
    }
}

/// An address that no pod had before. The numbers do for all pods of a run.
pub(crate) fn next_address() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(10, 244, high, low)
}

fn pod_status(address: Ipv4Addr, ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    json!({"status": {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": Timestamp::now()}],
    }})
}

/// Makes the namespaces, and the node.
pub(crate) async fn prepare(stage: &Stage) -> anyhow::Result<()> {
    prepare_namespaces(stage, NAMESPACES).await
}

/// The same for so many namespaces.
pub(crate) async fn prepare_namespaces(stage: &Stage, namespaces: usize) -> anyhow::Result<()> {
    let metadata = ObjectMeta { name: Some(NODE.into()), ..ObjectMeta::default() };
    let node = Node { metadata, ..Node::default() };
    Api::all(stage.admin.clone()).create(&PostParams::default(), &node).await?;
    for number in 0..namespaces {
        stage.namespace(&format!("load-{number}")).await?;
    }
    Ok(())
}

/// Gives each of these a pod.
pub(crate) async fn add_pods(stage: &Stage, tenants: &[Tenant]) -> anyhow::Result<()> {
    for_all(tenants, CONNECTIONS, async |tenant: &Tenant| tenant.pod(stage, &tenant.name, next_address()).await).await
}

/// Gives each of these a pod and a claim, and waits until all claims are ready.
pub(crate) async fn populate(stage: &Stage, tenants: &[Tenant]) -> anyhow::Result<()> {
    add_pods(stage, tenants).await?;
    let ready: Vec<_> = tenants.iter().map(|tenant| tenant.readiness(stage)).collect();
    for_all(tenants, CONNECTIONS, async |tenant: &Tenant| tenant.create(stage).await.map(drop)).await?;
    for ready in ready {
        ready.wait(SETTLING).await?;
    }
    Ok(())
}

/// From the reply to the creation of a claim until the watch shows its port.
pub(crate) async fn time_to_port(stage: &Stage, tenant: &Tenant) -> anyhow::Result<Duration> {
    let port = tenant.port(stage);
    let replied = tenant.create(stage).await?;
    // The watch may be quicker than the reply.
    Ok(port.wait(PATIENCE).await?.at.saturating_duration_since(replied))
}

/// How many claims a small class has before it is measured.
pub(crate) const FEW: usize = 10;

/// Classes of [`FEW`] claims each. A class that has few claims has soon more of them by
/// being measured, so there are many such classes.
pub(crate) struct SmallClasses(Vec<String>);

impl SmallClasses {
    /// Makes so many classes with this prefix, and waits until all their claims are ready.
    pub(crate) async fn make(stage: &Stage, prefix: &str, count: usize) -> anyhow::Result<Self> {
        let classes = Self((0..count).map(|number| format!("{prefix}-{number}")).collect());
        for class in &classes.0 {
            stage.class(class).await?;
        }
        populate(stage, &classes.tenants(0)).await?;
        Ok(classes)
    }

    /// For each class, as many tenants as it began with: those of the round 0 are the first.
    pub(crate) fn tenants(&self, round: usize) -> Vec<Tenant> {
        let numbers = round * FEW..(round + 1) * FEW;
        numbers.flat_map(|number| self.0.iter().map(move |class| Tenant::new(class, number))).collect()
    }
}
