//! A site with pods that answer, and a client outside of the cluster.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::Value;
use sharedlb_crds::SharedLB;
use sharedlb_harness::{LIMIT, Site, World, slots};
use sharedlb_testbed::{Answer, Client, Families, Pod, PodPort, PodSpec, Protocol, eventually};

/// How often somebody is asked before one believes that nobody else answers.
const QUESTIONS: usize = 20;

/// A site, and who asks it.
pub(crate) struct Place {
    pub(crate) site: Site,
    pub(crate) client: Client,
    world: Arc<World>,
}

/// A front port of a claim, at one of its addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Front {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

impl Place {
    /// A namespace and a class of this name.
    pub(crate) async fn open(world: Arc<World>, name: &str, class: Value) -> anyhow::Result<Self> {
        let site = Site::open(&world.cluster, name, class).await?;
        Self::at(world, site)
    }

    /// The place of a site that is there.
    pub(crate) fn at(world: Arc<World>, site: Site) -> anyhow::Result<Self> {
        Ok(Self { site, client: world.cluster.client()?, world })
    }

    /// A pod labelled `app: <app>` that answers on `http` (8080/TCP), and on
    /// `dns` by TCP and UDP (5353).
    pub(crate) async fn pod(&self, name: &str, app: &str) -> anyhow::Result<Pod> {
        let ports = [PodPort::tcp("http", 8080), PodPort::udp("dns", 5353), PodPort::tcp("dns-tcp", 5353)];
        self.pod_with(name, app, ports).await
    }

    /// A pod labelled `app: <app>` with these ports.
    pub(crate) async fn pod_with(
        &self,
        name: &str,
        app: &str,
        ports: impl IntoIterator<Item = PodPort>,
    ) -> anyhow::Result<Pod> {
        self.pod_of(Families::All, name, app, ports).await
    }

    /// A pod labelled `app: <app>` with these ports, and addresses of these families only.
    pub(crate) async fn pod_of(
        &self,
        families: Families,
        name: &str,
        app: &str,
        ports: impl IntoIterator<Item = PodPort>,
    ) -> anyhow::Result<Pod> {
        let spec = PodSpec::new(&self.site.namespace, name).label("app", app).families(families);
        self.world.cluster.pod(ports.into_iter().fold(spec, PodSpec::port)).await
    }

    /// Asks until this pod has answered.
    pub(crate) async fn answers(&self, front: Front, protocol: Protocol, pod: &str) -> anyhow::Result<Answer> {
        let what = format!("{pod} to answer at {front:?}");
        eventually(&what, LIMIT, async || {
            let answer = self.ask(front, protocol).await?;
            ensure!(answer.name == pod, "{} answers", answer.name);
            Ok(Some(answer))
        })
        .await
    }

    /// Asks until these pods have answered and nobody else does any more.
    pub(crate) async fn only_answer(&self, front: Front, protocol: Protocol, pods: &[&str]) -> anyhow::Result<()> {
        let wanted: BTreeSet<_> = pods.iter().map(|&pod| pod.to_owned()).collect();
        eventually(&format!("{pods:?} alone to answer at {front:?}"), LIMIT, async || {
            let mut answered = BTreeSet::new();
            for _ in 0..QUESTIONS {
                answered.insert(self.ask(front, protocol).await?.name);
            }
            ensure!(answered == wanted, "{answered:?} have answered");
            Ok(Some(()))
        })
        .await
    }

    /// Asks until nobody answers any more.
    pub(crate) async fn closed(&self, front: Front, protocol: Protocol) -> anyhow::Result<()> {
        eventually(&format!("nobody to answer at {front:?}"), LIMIT, async || {
            let answer = self.ask(front, protocol).await;
            Ok(answer.is_err().then_some(()))
        })
        .await
    }

    /// Asks once.
    pub(crate) async fn ask(&self, front: Front, protocol: Protocol) -> anyhow::Result<Answer> {
        match protocol {
            Protocol::Tcp => self.client.tcp(front.address, front.port).await,
            Protocol::Udp => self.client.udp(front.address, front.port).await,
        }
    }
}

/// Where a claim's port is reached first.
pub(crate) fn front(claim: &SharedLB, port: &str) -> anyhow::Result<Front> {
    fronts(claim, port)?.into_iter().next().context("the claim has no address")
}

/// Where a claim's port is reached, IPv4 first.
pub(crate) fn fronts(claim: &SharedLB, port: &str) -> anyhow::Result<Vec<Front>> {
    let (.., number) = *slots(claim).get(port).with_context(|| format!("no port {port:?} in {:?}", claim.status))?;
    let ingress = claim.status.as_ref().and_then(|status| status.load_balancer.as_ref()).context("no address")?;
    let mut addresses = Vec::new();
    for ingress in &ingress.ingress {
        let listed = ingress.ports.iter().any(|port| port.port.get() == number);
        ensure!(listed, "port {number} is not in {ingress:?}");
        addresses.push(ingress.ip.as_ref().context("an address")?.parse::<IpAddr>()?);
    }
    addresses.sort();
    Ok(addresses.into_iter().map(|address| Front { address, port: number }).collect())
}
