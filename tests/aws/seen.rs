//! The state of a region, read independently of the controller.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde::Deserialize;
use sharedlb_crds::SharedLB;
use sharedlb_testbed::{AwsPeer, AwsRegion};
use tokio::process::Command;

/// Everything that is in a region, as `tests/aws-peer/observe.py` tells it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Seen {
    pub(crate) balancers: Vec<Balancer>,
    /// Target groups that no listener sends traffic to.
    pub(crate) unused_groups: Vec<Group>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Balancer {
    pub(crate) arn: String,
    pub(crate) address: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) listeners: Vec<Listener>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Listener {
    pub(crate) arn: String,
    pub(crate) port: u16,
    pub(crate) protocol: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) group: Group,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Group {
    pub(crate) arn: String,
    pub(crate) protocol: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) tags: BTreeMap<String, String>,
    /// `<id>:<port>` of those that are registered.
    pub(crate) targets: Vec<String>,
}

/// The tag that a test gives what it makes, as a stranger.
pub(crate) const STRANGER: &str = "stranger";

impl Seen {
    /// Looks.
    pub(crate) async fn look(peer: &AwsPeer, region: &AwsRegion) -> anyhow::Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aws-peer/observe.py");
        let output = Command::new(peer.python())
            .arg(script)
            .args([peer.url(), region.name.clone()])
            .envs(region.environment())
            .env("PYTHONDONTWRITEBYTECODE", "yes")
            .stdin(Stdio::null())
            .output()
            .await?;
        ensure!(output.status.success(), "the observer: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("what the observer says")
    }

    /// All listeners that are not foreign, each with its load balancer.
    pub(crate) fn ours(&self) -> impl Iterator<Item = (&Balancer, &Listener)> {
        let all =
            self.balancers.iter().flat_map(|balancer| balancer.listeners.iter().map(move |each| (balancer, each)));
        all.filter(|(_, listener)| !listener.tags.contains_key(STRANGER))
    }

    /// Requires that our listeners are just those that the claims name in their
    /// status, with these targets each, and that no target group is orphaned.
    pub(crate) fn require(&self, claims: &[SharedLB], targets: &[String]) -> anyhow::Result<()> {
        let promised: BTreeSet<_> = claims.iter().flat_map(promises).collect();
        let found: BTreeSet<_> = self
            .ours()
            .map(|(balancer, listener)| (balancer.address.clone(), listener.port, listener.protocol.clone()))
            .collect();
        ensure!(found == promised, "promised is\n{promised:?}\nand there is\n{found:?}");
        let mut wanted = targets.to_vec();
        wanted.sort();
        for (_, listener) in self.ours() {
            let group = &listener.group;
            ensure!(group.targets == wanted, "{} has {:?} and not {wanted:?}", listener.port, group.targets);
            ensure!(group.protocol == listener.protocol, "{listener:?}");
            ensure!(!listener.tags.is_empty() && !group.tags.is_empty(), "without tags: {listener:?}");
        }
        let left: Vec<_> = self.unused_groups.iter().filter(|group| !group.tags.contains_key(STRANGER)).collect();
        ensure!(left.is_empty(), "left over: {left:?}");
        Ok(())
    }
}

/// What a claim's status promises: address, port and protocol of each port.
fn promises(claim: &SharedLB) -> Vec<(String, u16, String)> {
    let Some(status) = &claim.status else { return Vec::new() };
    let Some(address) = &status.address else { return Vec::new() };
    let promise =
        |port: &sharedlb_crds::PortStatus| (address.clone(), port.port.get(), port.protocol.as_str().to_owned());
    status.ports.iter().map(promise).collect()
}
