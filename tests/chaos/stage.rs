//! What everybody in the run works on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use sharedlb_harness::install;
use sharedlb_testbed::{AwsRegion, Client, Cluster, eventually};
use tokio::time::{Instant, sleep_until};

use crate::api::{Kind, Server};
use crate::cloud;
use crate::objects::{self, BYSTANDERS, CLOUD, FLEETING};
use crate::observer::Observer;
use crate::plan::{CLAIMS, CLASSES, SERVICES, Step, TEAMS};
use crate::report::Report;

/// How long things may take when nothing is in their way.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The cluster and the region of AWS, their observers, and the faults.
pub(crate) struct Stage {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) region: AwsRegion,
    pub(crate) server: Server,
    pub(crate) client: Client,
    pub(crate) observer: Observer,
    pub(crate) report: Report,
}

impl Stage {
    /// Installs everything, and makes all that the acts begin with.
    pub(crate) async fn set(cluster: Arc<Cluster>, region: AwsRegion) -> anyhow::Result<Self> {
        let feed = region.follow().await?;
        let observer = Observer::start(cluster.etcd_url(), feed, &cluster.logs().join("observed.log"))?;
        install(&cluster).await?;
        let (client, server) = (cluster.client()?, Server(cluster.admin()));
        let stage = Self { client, cluster, region, server, observer, report: Report::default() };
        cloud::make_foreign(&stage.region).await?;
        stage.server.create("", &objects::namespace(BYSTANDERS)).await?;
        for (namespace, object) in objects::foreign() {
            stage.server.create(namespace, &object).await?;
        }
        for class in 0..CLASSES {
            stage.server.create("", &stage.class(class, 1)).await?;
        }
        for team in 0..TEAMS {
            stage.settle_team(team).await?;
        }
        Ok(stage)
    }

    /// A class in one of its settings.
    pub(crate) fn class(&self, class: u64, setting: u64) -> Value {
        let provider = match class {
            CLOUD => cloud::provider(&self.region),
            _ => json!({"service": {"allocateLoadBalancerNodePorts": objects::has_node_ports(class)}}),
        };
        objects::class(class, setting, &provider)
    }

    /// Makes what a team's namespace begins with, as far as it is not there.
    pub(crate) async fn settle_team(&self, team: u64) -> anyhow::Result<()> {
        let namespace = objects::namespace_name(team);
        self.ensure("", &objects::namespace(&namespace)).await?;
        self.ensure(&namespace, &objects::service()).await?;
        for service in 0..SERVICES {
            self.ensure(&namespace, &objects::shared_service(team, service, service % 3)).await?;
        }
        for claim in 0..CLAIMS {
            self.ensure(&namespace, &objects::pod(team, claim, 0)).await?;
        }
        Ok(())
    }

    /// Waits until the Services with which the teams begin are told that their ports
    /// are open, and kube-proxy knows: so that there is something to lose from the
    /// first act on.
    pub(crate) async fn until_served(&self) -> anyhow::Result<()> {
        eventually("the Services to be served", LIMIT, async || {
            let claims = self.server.list(Kind::Claim, "", "").await?;
            ensure!(claims.len() as u64 == TEAMS * SERVICES, "there are {} claims", claims.len());
            let waiting = claims.iter().find(|claim| !objects::has_condition(claim, "Programmed", "True"));
            ensure!(waiting.is_none(), "{waiting:?}");
            Ok((self.observer.questions().len() > claims.len() / 2).then_some(()))
        })
        .await
    }

    /// Makes an object, and waits for the end of one of its name that is going.
    pub(crate) async fn ensure(&self, namespace: &str, object: &Value) -> anyhow::Result<()> {
        let (kind, name) = (Kind::of(object).unwrap_or(Kind::ConfigMap), crate::api::name(object));
        eventually(&format!("{kind:?} {namespace}/{name} to be there"), LIMIT, async || {
            match self.server.get(kind, namespace, name).await? {
                Some(found) => Ok(found["metadata"]["deletionTimestamp"].is_null().then_some(())),
                None => Ok(Some(self.server.create(namespace, object).await?)),
            }
        })
        .await
    }

    /// Waits until there is no object of this name.
    pub(crate) async fn gone(&self, kind: Kind, namespace: &str, name: &str) -> anyhow::Result<()> {
        eventually(&format!("{kind:?} {namespace}/{name} to be gone"), LIMIT, async || {
            Ok(self.server.get(kind, namespace, name).await?.is_none().then_some(()))
        })
        .await
    }

    /// Makes the class again that comes and goes. While it goes it is held by
    /// its claims, so they go first.
    pub(crate) async fn restore_fleeting(&self) -> anyhow::Result<()> {
        let name = objects::class_name(FLEETING);
        let found = self.server.get(Kind::Class, "", name).await?;
        if found.is_some_and(|class| class["metadata"]["deletionTimestamp"].is_string()) {
            for team in 0..TEAMS {
                for claim in (0..CLAIMS).filter(|claim| objects::class_of(*claim) == FLEETING) {
                    let (namespace, claim) = (objects::namespace_name(team), objects::claim_name(claim));
                    match self.server.delete(Kind::Claim, &namespace, &claim).await {
                        Err(kube::Error::Api(status)) if status.is_not_found() => {}
                        result => result?,
                    }
                }
            }
        }
        self.ensure("", &self.class(FLEETING, 0)).await
    }
}

/// When the acts began and when they are to end.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) began: Instant,
    pub(crate) end: Instant,
}

impl Times {
    /// Waits for the time of a step; false if the time for acts is over, since
    /// those before took longer than planned.
    pub(crate) async fn come<A>(&self, step: &Step<A>) -> bool {
        sleep_until((self.began + step.at).min(self.end)).await;
        Instant::now() < self.end
    }
}
