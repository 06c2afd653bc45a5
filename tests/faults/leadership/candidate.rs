//! One of several controllers that could lead, and the Lease that they share.

use anyhow::{Context, ensure};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Api;
use kube::api::DeleteParams;
use sharedlb_harness::{LIMIT, LOST_LEASE, Launch, Replica, controller_kubeconfig};
use sharedlb_testbed::{Cluster, eventually};

use crate::SHAREDLB;

/// Shorter than those of `deploy/`, for tests that wait for a lease to run out and
/// do not ask how long that takes. A busy machine must not end a leader, nor who looks
/// at what is so between two leaders come too late.
pub(crate) const SHORT: &[&str] =
    &["--leader-elect-lease-duration=8s", "--leader-elect-renew-deadline=5s", "--leader-elect-retry-period=500ms"];

/// A controller behind a proxy, that takes part in leader election.
pub(crate) struct Candidate {
    pub(crate) replica: Replica,
}

impl Candidate {
    /// Starts one. Its number is in its name and in its ports.
    pub(crate) async fn start(cluster: &Cluster, number: u16, flags: &[&str]) -> anyhow::Result<Self> {
        let launch = Launch::new(SHAREDLB, controller_kubeconfig(cluster).await?, cluster);
        let mut replica = Replica::new(number, launch.verbose().flags(flags))?;
        replica.start()?;
        Ok(Self { replica })
    }

    /// Waits until it leads and has caught up.
    pub(crate) async fn leads(&mut self) -> anyhow::Result<()> {
        let what = format!("{} to lead", self.replica.name());
        eventually(&what, LIMIT, async || Ok(self.is_leader().await?.then_some(()))).await?;
        self.replica.controller_mut()?.until_ready().await
    }

    /// What its metrics say.
    pub(crate) async fn is_leader(&self) -> anyhow::Result<bool> {
        Ok(self.replica.controller()?.metrics().await?.sum("sharedlb_leader", &[]) == 1.0)
    }

    /// How often the Lease changed hands, as its metrics say.
    pub(crate) async fn transitions(&self) -> anyhow::Result<f64> {
        Ok(self.replica.controller()?.metrics().await?.sum("sharedlb_lease_transitions", &[]))
    }

    /// Waits until it is ready, and requires that it does not lead.
    pub(crate) async fn stands_by(&mut self) -> anyhow::Result<()> {
        self.replica.controller_mut()?.until_ready().await?;
        let answer = self.replica.controller()?.get("/healthz").await?;
        ensure!(answer.status() == 200, "{}: /healthz answers {answer:?}", self.replica.name());
        ensure!(!self.is_leader().await?, "{} leads", self.replica.name());
        ensure!(self.replica.proxy.faults.acts() == 0, "{} wrote something", self.replica.name());
        Ok(())
    }

    /// Whether the Lease is its own.
    pub(crate) async fn holds(&self, cluster: &Cluster) -> anyhow::Result<bool> {
        Ok(self.replica.is_called(&lease(cluster).await?.holder_identity.unwrap_or_default()))
    }

    /// Waits until it has ended because it is no longer the leader.
    pub(crate) async fn deposed(&mut self) -> anyhow::Result<()> {
        let ended = self.replica.controller_mut()?.ended().await?;
        ensure!(ended.code() == Some(LOST_LEASE), "{} ended with {ended}", self.replica.name());
        let log = self.replica.controller()?.log()?;
        ensure!(log.contains("no longer the leader"), "the log does not say why {} ended", self.replica.name());
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
pub(crate) async fn two(cluster: &Cluster, flags: &[&str]) -> anyhow::Result<(Candidate, Candidate)> {
    let mut leader = Candidate::start(cluster, 1, flags).await?;
    leader.leads().await?;
    let mut standby = Candidate::start(cluster, 2, flags).await?;
    standby.stands_by().await?;
    Ok((leader, standby))
}

/// Ends all that is left of a test.
pub(crate) async fn clear(cluster: &Cluster, left: impl IntoIterator<Item = Candidate>) -> anyhow::Result<()> {
    for mut candidate in left {
        candidate.replica.kill().await?;
    }
    forget_lease(cluster).await
}
