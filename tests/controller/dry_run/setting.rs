//! A cluster, and dry runs in it of which each must change nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use sharedlb_crds::{SharedLB, SharedLBClass};
use sharedlb_harness::proxy::Proxy;
use sharedlb_harness::{Controller, DryRun, LIMIT, Launch, Site, WITHHELD, controller_kubeconfig, repository};
use sharedlb_testbed::{Cluster, eventually};

use crate::SHAREDLB;

/// Other tests read all of the log of their controller, so that these have one of
/// their own.
const PORT: u16 = 18081;

/// A cluster, and what stands between dry runs and its API server.
pub(crate) struct World {
    pub(crate) cluster: Arc<Cluster>,
    /// The controller that acts
    controller: Launch,
    dry_run: Launch,
    /// Counts the writes of dry runs, and gives them their rights
    proxy: Proxy,
}

impl World {
    /// A cluster with everything of `deploy/`, and no controller yet.
    pub(crate) async fn start(cluster: Arc<Cluster>) -> anyhow::Result<Self> {
        let role = repository("deploy/dry-run.yaml")?;
        cluster.kubectl_output(&["apply", "--server-side", "-f", &role]).await?;
        let rights = cluster.kubeconfig_for_service_account("sharedlb-system", "sharedlb-dry-run").await?;
        let proxy = Proxy::start(&rights)?;
        let dry_run = Launch::new(SHAREDLB, proxy.kubeconfig()?, &cluster);
        let controller = Launch::new(SHAREDLB, controller_kubeconfig(&cluster).await?, &cluster);
        let controller = controller.alone().verbose().port(PORT);
        Ok(Self { cluster, controller, dry_run, proxy })
    }

    /// Starts a controller that acts.
    pub(crate) async fn controller(&self) -> anyhow::Result<Controller> {
        self.controller.ready().await
    }

    /// A dry run with the rights to read alone. Requires that it sends no write.
    pub(crate) async fn dry_run(&self) -> anyhow::Result<DryRun> {
        let before = self.proxy.faults.writes();
        let dry_run = DryRun::make(&self.dry_run).await?;
        let writes = self.proxy.faults.writes() - before;
        ensure!(writes == 0, "{writes} writes were sent");
        Ok(dry_run)
    }

    /// A dry run while no controller acts. Requires also that it changes no object.
    pub(crate) async fn dry_run_alone(&self) -> anyhow::Result<DryRun> {
        let before = self.versions().await?;
        let dry_run = self.dry_run().await?;
        let after = self.versions().await?;
        ensure!(before == after, "objects were changed: {before:?}\n{after:?}");
        Ok(dry_run)
    }

    /// Waits until the controller has nothing more to do.
    pub(crate) async fn settled(&self) -> anyhow::Result<()> {
        eventually("a dry run to find nothing", LIMIT, async || {
            let dry_run = self.dry_run().await?;
            ensure!(dry_run.is_nothing(), "it says\n{}{}", dry_run.text, dry_run.log);
            Ok(Some(()))
        })
        .await
    }

    /// Creates a Service of the site's class.
    pub(crate) async fn service(&self, site: &Site, name: &str) -> anyhow::Result<()> {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": {WITHHELD: ""}},
            "spec": {
                "type": "LoadBalancer",
                "loadBalancerClass": format!("sharedlb.dev/{}", site.class),
                "allocateLoadBalancerNodePorts": false,
                "selector": {"app": "web"},
                "ports": [{"port": 80, "targetPort": "http"}],
            },
        }))?;
        let services = Api::<Service>::namespaced(self.cluster.admin(), &site.namespace);
        services.create(&PostParams::default(), &service).await.with_context(|| format!("making Service {name}"))?;
        Ok(())
    }

    /// Creates a ConfigMap that asks for a port of the site's class, and a Service for
    /// it.
    pub(crate) async fn config_map(&self, site: &Site, name: &str) -> anyhow::Result<()> {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
        }))?;
        let services = Api::<Service>::namespaced(self.cluster.admin(), &site.namespace);
        services.create(&PostParams::default(), &service).await.with_context(|| format!("making Service {name}"))?;
        let map: ConfigMap = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app": "loadbalancer"}},
            "data": {"namespace": site.namespace, "target-service-name": name, "class": site.class},
        }))?;
        let maps = Api::<ConfigMap>::namespaced(self.cluster.admin(), &site.namespace);
        maps.create(&PostParams::default(), &map).await.with_context(|| format!("making ConfigMap {name}"))?;
        Ok(())
    }

    /// The resourceVersion of every object that the controller may write.
    async fn versions(&self) -> anyhow::Result<BTreeMap<String, Option<String>>> {
        let client = self.cluster.admin();
        let mut versions = versions_of(Api::<SharedLB>::all(client.clone())).await?;
        versions.extend(versions_of(Api::<SharedLBClass>::all(client.clone())).await?);
        versions.extend(versions_of(Api::<Service>::all(client.clone())).await?);
        versions.extend(versions_of(Api::<ConfigMap>::all(client.clone())).await?);
        versions.extend(versions_of(Api::<Event>::all(client.clone())).await?);
        // Kubernetes writes those of other namespaces at any time.
        versions.extend(versions_of(Api::<EndpointSlice>::namespaced(client, "sharedlb-system")).await?);
        Ok(versions)
    }
}

async fn versions_of<K>(api: Api<K>) -> anyhow::Result<BTreeMap<String, Option<String>>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let objects = api.list(&ListParams::default()).await?;
    let named = |object: K| {
        let namespace = object.namespace().unwrap_or_default();
        (format!("{} {namespace}/{}", K::kind(&()), object.name_any()), object.resource_version())
    };
    Ok(objects.into_iter().map(named).collect())
}
