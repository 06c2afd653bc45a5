//! What every part of the bench plays on: a cluster with SharedLB installed, and
//! a watch of the claims.

use std::path::PathBuf;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use sharedlb_crds::{SharedLB, SharedLBClass};
use sharedlb_harness::{controller_kubeconfig, install};
use sharedlb_testbed::{Cluster, eventually};

use crate::sightings::Sightings;

/// How many requests are made at once, where many are made.
pub(crate) const CONNECTIONS: usize = 16;

/// How long one thing may take on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How many listeners a load balancer has, unless said otherwise.
const LISTENERS: u32 = 1000;

/// The cluster and what is needed to act in it.
pub(crate) struct Stage {
    /// The cluster itself
    pub(crate) cluster: Cluster,
    /// A client with all rights
    pub(crate) admin: Client,
    /// The controller's own rights
    pub(crate) kubeconfig: PathBuf,
    /// Shows when a claim has its ports, and when it is ready; see [`port_of`]
    /// and [`readiness_of`]
    pub(crate) claims: Sightings<SharedLB>,
}

impl Stage {
    /// Installs SharedLB as its README says; the controller is not started.
    pub(crate) async fn set(cluster: Cluster) -> anyhow::Result<Self> {
        install(&cluster).await?;
        let admin = cluster.admin();
        let kubeconfig = controller_kubeconfig(&cluster).await?;
        let claims = Sightings::start(Api::all(admin.clone()), shown_by).await?;
        Ok(Self { cluster, admin, kubeconfig, claims })
    }

    /// Makes a namespace.
    pub(crate) async fn namespace(&self, name: &str) -> anyhow::Result<()> {
        let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        Api::all(self.admin.clone()).create(&PostParams::default(), &namespace).await?;
        Ok(())
    }

    /// Makes a class that has room for every claim.
    pub(crate) async fn create_class(&self, name: &str) -> anyhow::Result<()> {
        Api::all(self.admin.clone()).create(&PostParams::default(), &roomy_class(name, LISTENERS)?).await?;
        Ok(())
    }

    /// Makes a class that has room for every claim, and returns when its first
    /// load balancer has an address. It needs a controller that runs.
    pub(crate) async fn class(&self, name: &str) -> anyhow::Result<SharedLBClass> {
        self.class_of(name, LISTENERS).await
    }

    /// The same with so many listeners on each load balancer.
    pub(crate) async fn class_of(&self, name: &str, listeners: u32) -> anyhow::Result<SharedLBClass> {
        self.add_class(roomy_class(name, listeners)?).await
    }

    /// The same with this class.
    pub(crate) async fn add_class(&self, class: SharedLBClass) -> anyhow::Result<SharedLBClass> {
        let classes: Api<SharedLBClass> = Api::all(self.admin.clone());
        classes.create(&PostParams::default(), &class).await?;
        let name = class.name_any();
        eventually(&format!("class {name} to have an address"), PATIENCE, async || {
            let class = classes.get(&name).await?;
            Ok(address_of(&class).is_some().then_some(class))
        })
        .await
    }
}

/// The address of the first load balancer of a class.
pub(crate) fn address_of(class: &SharedLBClass) -> Option<&str> {
    class.status.as_ref()?.load_balancers.first()?.address.as_deref()
}

fn roomy_class(name: &str, listeners: u32) -> anyhow::Result<SharedLBClass> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "sharedlb.dev/v1alpha1",
        "kind": "SharedLBClass",
        "metadata": {"name": name},
        "spec": {
            "provider": {"service": {"allocateLoadBalancerNodePorts": false}},
            "ports": {"dynamic": [{"min": 20000, "max": 39999}]},
            "loadBalancers": {"min": 1, "max": 20, "listenersPerLoadBalancer": listeners},
            "portsPerNamespace": 1_000_000,
        },
    }))?)
}

/// What is to be expected when a claim gets its ports.
pub(crate) fn port_of(namespace: &str, name: &str) -> String {
    format!("the ports of claim {namespace}/{name}")
}

/// What is to be expected when a claim gets ready.
pub(crate) fn readiness_of(namespace: &str, name: &str) -> String {
    format!("claim {namespace}/{name} to be ready")
}

fn shown_by(claim: &SharedLB) -> Vec<String> {
    let Some(status) = &claim.status else { return Vec::new() };
    let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
    let ready = status.conditions.iter().any(|each| each.type_ == "Ready" && each.status == "True");
    let port = (!status.ports.is_empty()).then(|| port_of(&namespace, &name));
    port.into_iter().chain(ready.then(|| readiness_of(&namespace, &name))).collect()
}

/// Does something for each of these, so many at once.
pub(crate) async fn for_all<T>(
    items: impl IntoIterator<Item = T>,
    connections: usize,
    act: impl AsyncFn(T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    stream::iter(items).map(|item| act(item)).buffer_unordered(connections).try_collect().await
}
