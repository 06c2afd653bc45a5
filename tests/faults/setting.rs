//! What every test of faults begins with: a controller behind a proxy, a site
//! with a pod, and a ledger of its claims.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, SharedLB};
use sharedlb_testbed::{Cluster, eventually};

use crate::harness::{Controller, Site, condition, controller_kubeconfig, install};
use crate::ledger::Ledger;
use crate::proxy::Proxy;

/// How long a burst may take, with everything that is done to it.
pub(crate) const BURST_LIMIT: Duration = Duration::from_secs(90);

/// Many claims on few load balancers.
const CLASS: &str = r#"{"loadBalancers": {"max": 5, "listenersPerLoadBalancer": 25}}"#;

/// How many requests a burst makes at once.
const CONNECTIONS: usize = 8;

/// A controller, and what is done to it and for it.
pub(crate) struct Setting {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) proxy: Proxy,
    pub(crate) site: Site,
    pub(crate) ledger: Ledger,
    kubeconfig: PathBuf,
    controller: Option<Controller>,
}

impl Setting {
    /// Installs what is not there yet, and starts a controller behind a proxy.
    pub(crate) async fn start(cluster: &Arc<Cluster>, name: &str) -> anyhow::Result<Self> {
        install(cluster).await?;
        let proxy = Proxy::start(&controller_kubeconfig(cluster).await?)?;
        let site = Site::with_pod(cluster, name, serde_json::from_str(CLASS)?).await?;
        let ledger = Ledger::open(&site.claims);
        let kubeconfig = proxy.kubeconfig()?;
        let mut setting = Self { cluster: cluster.clone(), proxy, site, ledger, kubeconfig, controller: None };
        setting.start_controller()?;
        setting.controller()?.until_ready().await?;
        Ok(setting)
    }

    /// Starts the controller, and does not wait for it.
    pub(crate) fn start_controller(&mut self) -> anyhow::Result<()> {
        ensure!(self.controller.is_none(), "the controller runs already");
        self.controller = Some(Controller::start(&self.cluster, &self.kubeconfig)?);
        Ok(())
    }

    pub(crate) fn controller(&mut self) -> anyhow::Result<&mut Controller> {
        self.controller.as_mut().context("no controller runs")
    }

    /// The controller, for who ends it.
    pub(crate) fn take_controller(&mut self) -> anyhow::Result<Controller> {
        self.controller.take().context("no controller runs")
    }

    /// Creates claims `web-<number>` by several connections at once.
    pub(crate) async fn create(&self, numbers: std::ops::Range<usize>) -> anyhow::Result<()> {
        create(&self.site, numbers).await
    }

    /// Waits until the site has this many claims and all are ready.
    pub(crate) async fn all_ready(&self, count: usize) -> anyhow::Result<()> {
        eventually(&format!("{count} claims to be ready"), BURST_LIMIT, async || {
            let ready = ready(&self.site).await?;
            ensure!(ready == count, "{ready} are");
            Ok(Some(()))
        })
        .await
    }

    /// Requires that no claim was ever wronged, and that this many have ports.
    pub(crate) async fn nobody_wronged(&self, count: usize) -> anyhow::Result<()> {
        let slots = self.ledger.clean().await?;
        ensure!(slots.len() == count, "{} of {count} have ports", slots.len());
        Ok(())
    }

    /// Removes the claims and the class, and ends the controller, so that the
    /// next test finds nothing of this one.
    pub(crate) async fn clear(mut self) -> anyhow::Result<()> {
        self.site.claims.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        eventually("all claims to be gone", BURST_LIMIT, async || {
            Ok(self.site.claims.list(&ListParams::default()).await?.items.is_empty().then_some(()))
        })
        .await?;
        self.site.delete_class().await?;
        self.site.class_gone().await?;
        self.take_controller()?.kill().await
    }
}

/// Creates claims `web-<number>` by several connections at once.
pub(crate) async fn create(site: &Site, numbers: std::ops::Range<usize>) -> anyhow::Result<()> {
    stream::iter(numbers)
        .map(async |number| site.claim(&format!("web-{number}"), ports()).await)
        .buffer_unordered(CONNECTIONS)
        .try_for_each(async |_| Ok(()))
        .await
}

fn ports() -> Value {
    json!([{"targetPort": "http"}])
}

/// How many claims of the site are ready.
pub(crate) async fn ready(site: &Site) -> anyhow::Result<usize> {
    let claims = site.claims.list(&ListParams::default()).await?;
    Ok(claims.iter().filter(|claim| is_ready(claim)).count())
}

fn is_ready(claim: &SharedLB) -> bool {
    condition(claim, ConditionType::Ready).is_some_and(|condition| condition.status == "True")
}
