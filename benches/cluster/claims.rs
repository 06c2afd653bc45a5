//! Claims by the thousand, each with a pod of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::Context;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use sharedlb_crds::SharedLB;
use sharedlb_harness::{Backend, add_node, next_addresses};
use sharedlb_testbed::{PodPort, PodSpec};

use crate::sightings::Sighting;
use crate::stage::{CONNECTIONS, PATIENCE, Stage, for_all, port_of, readiness_of};

/// The claims are spread over so many namespaces.
const NAMESPACES: usize = 20;

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
    pub(crate) async fn pod(&self, stage: &Stage, name: &str, address: Ipv4Addr) -> anyhow::Result<Backend> {
        let (client, addresses) = (stage.admin.clone(), vec![address.into()]);
        Backend::create_at(client, &self.namespace, (name, &self.name), &[], addresses).await
    }

    /// The pod with the name of its other objects, which exists.
    pub(crate) async fn own_pod(&self, stage: &Stage) -> anyhow::Result<Backend> {
        Backend::existing(stage.admin.clone(), &self.namespace, &self.name).await
    }
}

/// Makes the namespaces, and the node.
pub(crate) async fn prepare(stage: &Stage) -> anyhow::Result<()> {
    prepare_namespaces(stage, NAMESPACES).await
}

/// The same for so many namespaces.
pub(crate) async fn prepare_namespaces(stage: &Stage, namespaces: usize) -> anyhow::Result<()> {
    add_node(stage.admin.clone()).await?;
    for number in 0..namespaces {
        stage.namespace(&format!("load-{number}")).await?;
    }
    Ok(())
}

/// Gives each of these a pod.
pub(crate) async fn add_pods(stage: &Stage, tenants: &[Tenant]) -> anyhow::Result<()> {
    let pods = tenants.iter().map(|tenant| (tenant, next_addresses().0));
    for_all(pods, CONNECTIONS, async |(tenant, address): (&Tenant, _)| {
        tenant.pod(stage, &tenant.name, address).await.map(drop)
    })
    .await
}

/// Makes a namespace with a pod that answers at 8080/TCP, and returns the address of that.
pub(crate) async fn answering_pod(stage: &Stage, namespace: &str) -> anyhow::Result<Ipv4Addr> {
    stage.namespace(namespace).await?;
    let pod = PodSpec::new(namespace, "pod").port(PodPort::tcp("main", 8080));
    let addresses = stage.cluster.pod(pod).await?.addresses;
    let v4 = addresses.iter().find_map(|address| match address {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    });
    v4.context("the pod has an IPv4 address")
}

/// Gives each of these a pod. All pods have the address of one that answers: nothing on the way
/// to them depends on how many processes there are.
pub(crate) async fn add_pods_at(stage: &Stage, tenants: &[Tenant], address: Ipv4Addr) -> anyhow::Result<()> {
    for_all(tenants, CONNECTIONS, async |tenant: &Tenant| tenant.pod(stage, &tenant.name, address).await.map(drop))
        .await
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

/// Where a claim is reached.
pub(crate) fn endpoint_of(claim: &SharedLB) -> Option<(IpAddr, u16)> {
    let status = claim.status.as_ref()?;
    Some((status.address.as_ref()?.parse().ok()?, status.ports.first()?.port.get()))
}

/// How many claims a small class has before it is measured.
pub(crate) const FEW: usize = 10;

/// Classes of [`FEW`] claims each. A class that has few claims has soon more of them by
/// being measured, so there are many such classes.
pub(crate) struct SmallClasses(Vec<String>);

impl SmallClasses {
    /// So many classes with this prefix, which do not exist yet.
    pub(crate) fn new(prefix: &str, count: usize) -> Self {
        Self((0..count).map(|number| format!("{prefix}-{number}")).collect())
    }

    /// The names of the classes.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Makes so many classes with this prefix, and waits until all their claims are ready.
    pub(crate) async fn make(stage: &Stage, prefix: &str, count: usize) -> anyhow::Result<Self> {
        let classes = Self::new(prefix, count);
        for class in classes.names() {
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
