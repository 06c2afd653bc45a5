//! Where ports are open, and which pod answers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, ensure};
use sharedlb_crds::SharedLB;
use sharedlb_testbed::{Protocol, eventually};

use crate::{LIMIT, slots};

/// The number of attempts after which no other pod is expected to answer.
const QUESTIONS: usize = 20;

/// A port of a load balancer, at one of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    /// The address
    pub address: IpAddr,
    /// The number of the port
    pub port: u16,
    /// The protocol
    pub protocol: Protocol,
}

impl Front {
    /// A TCP port.
    pub fn tcp(address: IpAddr, port: u16) -> Self {
        Self { address, port, protocol: Protocol::Tcp }
    }

    /// The same port by another protocol.
    pub fn by(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// Another port at the same address.
    pub fn at(self, port: u16) -> Self {
        Self { port, ..self }
    }
}

/// Where a claim's port is reached first, by TCP.
pub fn front(claim: &SharedLB, port: &str) -> anyhow::Result<Front> {
    fronts(claim, port)?.into_iter().next().context("the claim has no address")
}

/// Where a claim's port is reached, IPv4 first, by TCP.
pub fn fronts(claim: &SharedLB, port: &str) -> anyhow::Result<Vec<Front>> {
    let (.., number) = *slots(claim).get(port).with_context(|| format!("no port {port:?} in {:?}", claim.status))?;
    let ingress = claim.status.as_ref().and_then(|status| status.load_balancer.as_ref()).context("no address")?;
    let mut addresses = Vec::new();
    for ingress in &ingress.ingress {
        let listed = ingress.ports.iter().any(|port| port.port.get() == number);
        ensure!(listed, "port {number} is not in {ingress:?}");
        addresses.push(ingress.ip.as_ref().context("an address")?.parse::<IpAddr>()?);
    }
    addresses.sort();
    Ok(addresses.into_iter().map(|address| Front::tcp(address, number)).collect())
}

/// Connects until these pods have answered, and requires that no other does. `ask` returns
/// the name of the pod that answered.
pub async fn only_answer(pods: &[&str], at: &str, ask: impl AsyncFn() -> anyhow::Result<String>) -> anyhow::Result<()> {
    let wanted: BTreeSet<_> = pods.iter().map(|&pod| pod.to_owned()).collect();
    eventually(&format!("{pods:?} alone to answer at {at}"), LIMIT, async || {
        let mut answered = BTreeSet::new();
        for _ in 0..QUESTIONS {
            answered.insert(ask().await?);
        }
        ensure!(answered == wanted, "{answered:?} have answered");
        Ok(Some(()))
    })
    .await
}

/// Connects until one pod gives all answers. `ask` returns the name of the pod that answered.
pub async fn one_answers(at: &str, ask: impl AsyncFn() -> anyhow::Result<String>) -> anyhow::Result<()> {
    eventually(&format!("one pod to give all answers at {at}"), LIMIT, async || {
        let first = ask().await?;
        for _ in 0..QUESTIONS {
            let next = ask().await?;
            ensure!(next == first, "{first} and {next} answer");
        }
        Ok(Some(()))
    })
    .await
}
