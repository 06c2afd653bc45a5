//! One of several controllers, and the Lease that they share.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Api;
use kube::api::DeleteParams;
use sharedlb_testbed::{Cluster, eventually};

use crate::harness::{Controller, LIMIT, controller_kubeconfig};
use crate::proxy::Proxy;

/// Shorter than those of `deploy/`, for tests that wait for a lease to run out and
/// do not ask how long that takes. A busy machine must not end a leader, nor who looks
/// at what is so between two leaders come too late.
pub(crate) const SHORT: &[&str] =
    &["--leader-elect-lease-duration=8s", "--leader-elect-renew-deadline=5s", "--leader-elect-retry-period=500ms"];

/// The status with which a process ends that lost the lease.
const LOST: i32 = 3;

/// A controller behind a proxy.
pub(crate) struct Replica {
    name: String,
    pub(crate) proxy: Proxy,
    pub(crate) controller: Controller,
}

impl Replica {
    /// Starts it. Its number is in its name and in its ports.
    pub(crate) async fn start(cluster: &Cluster, number: u16, flags: &[&str]) -> anyhow::Result<Self> {
        let name = format!("replica-{number}");
        let proxy = Proxy::start_at(&controller_kubeconfig(cluster).await?, 7070 + number)?;
        let named = format!("--leader-elect-name={name}");
        let flags = [&[named.as_str()], flags].concat();
        let controller = Controller::start_at(cluster, &proxy.kubeconfig()?, 18080 + number, &flags, &[])?;
        Ok(Self { name, proxy, controller })
    }

    /// Waits until it leads and has caught up.
    pub(crate) async fn leads(&self) -> anyhow::Result<()> {
        let what = format!("{} to lead", self.name);
        eventually(&what, LIMIT, async || Ok(self.is_leader().await?.then_some(()))).await?;
        self.controller.until_ready().await
    }

    /// What its metrics say.
    pub(crate) async fn is_leader(&self) -> anyhow::Result<bool> {
        Ok(self.controller.metrics().await?.sum("sharedlb_leader", &[]) == 1.0)
    }

    /// Waits until it is ready, and requires that it does not lead.
    pub(crate) async fn stands_by(&self) -> anyhow::Result<()> {
        self.controller.until_ready().await?;
        let (code, text) = self.controller.get("/healthz").await?;
        ensure!(code == 200, "{}: /healthz answers {code}: {text}", self.name);
        ensure!(!self.is_leader().await?, "{} leads", self.name);
        ensure!(self.proxy.faults.acts() == 0, "{} wrote something", self.name);
        Ok(())
    }

    /// Whether the Lease is its own.
    pub(crate) async fn holds(&self, cluster: &Cluster) -> anyhow::Result<bool> {
        let holder = lease(cluster).await?.holder_identity.unwrap_or_default();
        Ok(holder.starts_with(&format!("{}_", self.name)))
    }

    /// Waits until it has ended because it is no longer the leader.
    pub(crate) async fn deposed(&mut self) -> anyhow::Result<()> {
        let ended = self.controller.ended().await?;
        ensure!(ended.code() == Some(LOST), "{} ended with {ended}", self.name);
        let log = self.controller.log()?;
        ensure!(log.contains("no longer the leader"), "the log does not say why {} ended", self.name);
        Ok(())
    }
}

/// What the Lease says.
pub(crate) async fn lease(cluster: &Cluster) -> anyhow::Result<LeaseSpec> {
    leases(cluster).get("sharedlb").await?.spec.context("the Lease has a spec")
}

/// Deletes the Lease.
pub(crate) async fn forget_lease(cluster: &Cluster) -> anyhow::Result<()> {
    leases(cluster).delete("sharedlb", &DeleteParams::default()).await?;
    Ok(())
}

fn leases(cluster: &Cluster) -> Api<Lease> {
    Api::namespaced(cluster.admin(), "sharedlb-system")
}

/// One that leads, and one that stands by.
pub(crate) async fn two(cluster: &Arc<Cluster>, flags: &[&str]) -> anyhow::Result<(Replica, Replica)> {
    let leader = Replica::start(cluster, 1, flags).await?;
    leader.leads().await?;
    let standby = Replica::start(cluster, 2, flags).await?;
    standby.stands_by().await?;
    Ok((leader, standby))
}

/// Ends all that is left of a test.
pub(crate) async fn clear(cluster: &Cluster, left: impl IntoIterator<Item = Replica>) -> anyhow::Result<()> {
    for replica in left {
        replica.controller.kill().await?;
    }
    forget_lease(cluster).await
}
