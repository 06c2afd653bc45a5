//! What every test begins with: the one controller, as the test wants it, and
//! a region of its own with a class, a namespace and a pod.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, SharedLBClass};
use sharedlb_harness::{Backend, Controller, LIMIT, Launch, Site, condition, controller_kubeconfig, start_installed};
use sharedlb_testbed::{AwsCall, AwsPeer, AwsRegion, Cluster, Testbed, eventually};
use tokio::sync::Mutex;

use crate::SHAREDLB;
use crate::seen::Seen;

/// What a controller is started with, unless a test says something else. Its own
/// budget of calls would have the tests wait, and is tried on its own.
pub(crate) const FLAGS: [&str; 2] = ["--aws-call-rate", "100"];

/// The same with resyncs as often as it lets them be.
pub(crate) const RESYNCING: [&str; 4] = ["--aws-call-rate", "100", "--resync-seconds", "10"];

/// The cluster, AWS, and the one controller.
pub(crate) struct World {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) peer: AwsPeer,
    kubeconfig: PathBuf,
    running: Mutex<Option<(Vec<String>, Controller)>>,
}

impl World {
    /// Starts both, and no controller yet.
    pub(crate) async fn start(testbed: Testbed) -> anyhow::Result<Self> {
        let peer = AwsPeer::start(&testbed).await?;
        let cluster = start_installed(testbed).await?;
        let kubeconfig = controller_kubeconfig(&cluster).await?;
        Ok(Self { cluster, peer, kubeconfig, running: Mutex::default() })
    }

    /// What starts the controller with these flags, as a user of this region.
    pub(crate) fn launch(&self, region: &AwsRegion, flags: &[&str]) -> Launch {
        let launch = Launch::new(SHAREDLB, &self.kubeconfig, &self.cluster).alone().verbose();
        launch.flags(flags).environment(&region.environment())
    }

    /// Sees to it that a controller with these flags runs.
    pub(crate) async fn controller(&self, region: &AwsRegion, flags: &[&str]) -> anyhow::Result<()> {
        let mut running = self.running.lock().await;
        if let Some((with, controller)) = running.as_mut()
            && with == flags
            && controller.is_running()?
        {
            return controller.until_ready().await;
        }
        if let Some((_, mut controller)) = running.take() {
            // The next one wants its port.
            if controller.is_running()? {
                controller.kill().await?;
            }
        }
        drop(running);
        self.start_controller(region, flags).await?;
        let mut running = self.running.lock().await;
        let (_, controller) = running.as_mut().context("no controller runs")?;
        controller.until_ready().await
    }

    /// Starts a controller, and does not wait for it. None may run.
    pub(crate) async fn start_controller(&self, region: &AwsRegion, flags: &[&str]) -> anyhow::Result<()> {
        let mut running = self.running.lock().await;
        ensure!(running.is_none(), "a controller runs already");
        let controller = self.launch(region, flags).start()?;
        *running = Some((flags.iter().map(ToString::to_string).collect(), controller));
        Ok(())
    }

    /// Kills the controller.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        let (_, controller) = self.running.lock().await.take().context("no controller runs")?;
        controller.kill().await
    }
}

/// A region, and a class and a namespace of one name.
pub(crate) struct Setting {
    pub(crate) world: Arc<World>,
    pub(crate) region: AwsRegion,
    pub(crate) site: Site,
    /// What the claims' traffic goes to.
    pub(crate) pods: Vec<Backend>,
}

impl Deref for Setting {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Setting {
    /// A class in a region of three zones, with one pod. `spec` is what the
    /// class has beside its provider.
    pub(crate) async fn start(world: &Arc<World>, name: &str, spec: Value) -> anyhow::Result<Self> {
        Self::with_flags(world, name, spec, &FLAGS).await
    }

    /// The same, and the controller has these flags.
    pub(crate) async fn with_flags(
        world: &Arc<World>,
        name: &str,
        spec: Value,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let mut setting = Self::without_class(world, name).await?;
        setting.create_class(spec, setting.provider()).await?;
        setting.pod().await?;
        world.controller(&setting.region, flags).await?;
        Ok(setting)
    }

    /// A region, a namespace with a pod, and the controller: for what must be
    /// so before the class makes its first load balancer.
    pub(crate) async fn before_class(world: &Arc<World>, name: &str) -> anyhow::Result<Self> {
        let mut setting = Self::without_class(world, name).await?;
        setting.pod().await?;
        world.controller(&setting.region, &FLAGS).await?;
        Ok(setting)
    }

    /// A region and a namespace.
    pub(crate) async fn without_class(world: &Arc<World>, name: &str) -> anyhow::Result<Self> {
        let region = world.peer.region(3).await?;
        let site = Site::in_class(&world.cluster, name, name).await?;
        Ok(Self { world: world.clone(), region, site, pods: Vec::new() })
    }

    /// What load balancers that the controller makes are made with.
    pub(crate) fn provider(&self) -> Value {
        json!({"subnets": self.region.subnets, "scheme": "internal"})
    }

    /// Makes the class, with this beside its region and VPC in `provider.aws`.
    pub(crate) async fn create_class(&self, mut spec: Value, provider: Value) -> anyhow::Result<()> {
        let mut aws = json!({"region": self.region.name, "vpcId": self.region.vpc});
        for (key, value) in provider.as_object().into_iter().flatten() {
            aws[key] = value.clone();
        }
        spec["provider"] = json!({ "aws": aws });
        let class: SharedLBClass = serde_json::from_value(json!({
            "apiVersion": "sharedlb.dev/v1alpha1",
            "kind": "SharedLBClass",
            "metadata": {"name": self.class},
            "spec": spec,
        }))?;
        let classes: &Api<SharedLBClass> = &self.classes;
        classes.create(&PostParams::default(), &class).await.with_context(|| format!("making class {}", self.class))?;
        Ok(())
    }

    /// One more pod for all claims.
    pub(crate) async fn pod(&mut self) -> anyhow::Result<()> {
        let pod = self.site.pod(&format!("web-{}", self.pods.len()), "web").await?;
        self.pods.push(pod);
        Ok(())
    }

    /// What boto3 finds in the region.
    pub(crate) async fn seen(&self) -> anyhow::Result<Seen> {
        Seen::look(&self.world.peer, &self.region).await
    }

    /// Waits until AWS has exactly what the claims were promised, with all pods
    /// behind each port, and nothing else of ours.
    pub(crate) async fn as_promised(&self) -> anyhow::Result<Seen> {
        self.as_promised_with(&self.targets()).await
    }

    /// All pods, as targets.
    pub(crate) fn targets(&self) -> Vec<String> {
        self.pods.iter().map(|pod| format!("{}:8080", pod.addresses[0])).collect()
    }

    /// The same with these targets behind each port.
    pub(crate) async fn as_promised_with(&self, targets: &[String]) -> anyhow::Result<Seen> {
        eventually("AWS to have what was promised", LIMIT, async || {
            let claims = self.claims.list(&ListParams::default()).await?.items;
            let seen = self.seen().await?;
            seen.require(&claims, targets)?;
            Ok(Some(seen))
        })
        .await
    }

    /// The calls of the controller since they were last forgotten.
    pub(crate) async fn calls(&self) -> anyhow::Result<Vec<AwsCall>> {
        self.region.log().await
    }

    /// Their actions, in the order of the calls.
    pub(crate) async fn actions(&self) -> anyhow::Result<Vec<String>> {
        Ok(self.calls().await?.into_iter().map(|call| call.action).collect())
    }

    /// Waits until a fault has hit so many calls.
    pub(crate) async fn hit(&self, fault: &str, times: usize) -> anyhow::Result<()> {
        eventually(&format!("fault {fault} to hit {times} calls"), LIMIT, async || {
            let hits = self.region.hits(fault).await?;
            ensure!(hits >= times, "it has hit {hits}; the calls are {:?}", self.actions().await?);
            Ok(Some(()))
        })
        .await
    }

    /// Waits until the words are in the message of a claim's condition.
    pub(crate) async fn says(&self, claim: &str, kind: ConditionType, words: &[&str]) -> anyhow::Result<()> {
        eventually(&format!("claim {claim} to say {words:?} of {kind}"), LIMIT, async || {
            let claim = self.claims.get(claim).await?;
            let found = condition(&claim, kind).with_context(|| format!("nothing in {:?}", claim.status))?;
            ensure!(words.iter().all(|words| found.message.contains(words) || found.reason == *words), "{found:?}");
            Ok(Some(()))
        })
        .await
    }

    /// Waits until the load balancers were observed again, the targets last.
    pub(crate) async fn resynced(&self) -> anyhow::Result<()> {
        self.region.forget().await?;
        eventually("a resync", LIMIT, async || {
            let calls = self.actions().await?;
            Ok(calls.iter().any(|call| call == "DescribeTargetHealth").then_some(()))
        })
        .await
    }

    /// What tells this cluster's objects from another's.
    pub(crate) async fn cluster_id(&self) -> anyhow::Result<String> {
        let system = Api::<Namespace>::all(self.cluster.admin()).get("kube-system").await?;
        system.metadata.uid.context("kube-system has no uid")
    }
}
