//! What there is: two hosts, two load balancers of two classes, three clients, three pods, and a
//! machine that watches who answers for the load balancers' addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU8;

use anyhow::Context;
use sharedlb_agent::nftables::{DataPath, ServedLoadBalancer};
use sharedlb_agent::virtual_router::{AdvertInterval, Interface, Priority, VirtualAddresses, VirtualRouter};
use sharedlb_providers::{Backend, LbName, Listener, ListenerKey, Owner, Protocol};
use sharedlb_testbed::{Lan, Machine, Testbed};

use crate::hosts::Host;
use crate::pods::{self, PODS};

/// The port at which each load balancer has a TCP listener and a UDP listener.
pub(crate) const FRONT_PORT: u16 = 20417;

/// A load balancer of the tests. Each is of a class of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadBalancer {
    /// With addresses of both families. The first host is preferred, which the tests break
    Dual,
    /// With an IPv6 address alone. The second host is preferred, so it never moves
    V6,
}

impl LoadBalancer {
    pub(crate) const ALL: [Self; 2] = [Self::Dual, Self::V6];

    fn virtual_addresses(self) -> VirtualAddresses {
        let v6 = |host| Ipv6Addr::new(0xfd00, 0x99, 0x20, 0, 0, 0, 0, host);
        match self {
            Self::Dual => VirtualAddresses::Dual(Ipv4Addr::new(10, 99, 20, 200), v6(0x200)),
            Self::V6 => VirtualAddresses::V6(v6(0x201)),
        }
    }

    /// Its addresses, IPv4 first.
    pub(crate) fn addresses(self) -> Vec<IpAddr> {
        self.virtual_addresses().iter().collect()
    }

    /// The virtual router as one of the hosts, 0 or 1, is to serve it.
    fn router(self, host: usize) -> anyhow::Result<VirtualRouter> {
        let preferred = if self == Self::Dual { 0 } else { 1 };
        let priority = if host == preferred { 150 } else { 100 };
        Ok(VirtualRouter {
            id: NonZeroU8::new(if self == Self::Dual { 51 } else { 52 }).context("it is not 0")?,
            interface: interface()?,
            addresses: self.virtual_addresses(),
            priority: Priority::new(priority).context("it is between 1 and 254")?,
            advert_interval: AdvertInterval::DEFAULT,
        })
    }
}

/// The interface of every machine.
pub(crate) fn interface() -> anyhow::Result<Interface> {
    Ok(Interface::new("eth0")?)
}

/// What one of the hosts, 0 or 1, is to serve.
pub(crate) fn routers(host: usize) -> anyhow::Result<Vec<VirtualRouter>> {
    LoadBalancer::ALL.into_iter().map(|load_balancer| load_balancer.router(host)).collect()
}

/// What each host leads to the pods: the load balancers' port.
pub(crate) fn data_path() -> anyhow::Result<DataPath> {
    let key = ListenerKey { port: FRONT_PORT.try_into()?, protocol: Protocol::TcpUdp };
    let port = pods::PORT.try_into()?;
    let backend = |address| Backend { address, port, pod: None, node: None, provider_id: None, transport: None };
    let backends: BTreeSet<Backend> = PODS.into_iter().flat_map(pods::addresses).map(backend).collect();
    let served = |load_balancer: LoadBalancer| {
        let name = LbName::new(&format!("{load_balancer:?}"), 0, "cluster", "uid");
        let owner = Owner { namespace: "team".into(), claim: "echo".into(), port: "".into() };
        let served = ServedLoadBalancer {
            addresses: load_balancer.addresses().into_iter().collect(),
            listeners: [(key, Listener::new(owner, backends.clone()))].into(),
            ..ServedLoadBalancer::default()
        };
        (name, served)
    };
    Ok(DataPath { seed: 7, load_balancers: LoadBalancer::ALL.into_iter().map(served).collect() })
}

/// The segment with all its machines.
pub(crate) struct Segment {
    pub(crate) hosts: [Host; 2],
    pub(crate) clients: Vec<Machine>,
    pub(crate) watcher: Machine,
    pub(crate) pods: Machine,
    _lan: Lan,
}

impl Segment {
    /// Starts everything, with the agents on the hosts. `None`: keepalived or conntrack could not
    /// be unpacked on this machine.
    pub(crate) async fn start(testbed: Testbed) -> anyhow::Result<Option<Self>> {
        let lan = Lan::start(testbed)?;
        let Some(programs) = lan.programs()? else { return Ok(None) };
        let pods = lan.machine("pods")?;
        pods::start(&pods).await?;
        let host = |index: usize| {
            let machine = lan.machine(&format!("lb-{}", index + 1))?;
            Host::start(machine, index, &programs, lan.logs(), &pods)
        };
        let hosts = [host(0)?, host(1)?];
        let clients = (1..=3).map(|number| lan.machine(&format!("client-{number}"))).collect::<Result<_, _>>()?;
        let watcher = lan.machine("watcher")?;
        Ok(Some(Self { hosts, clients, watcher, pods, _lan: lan }))
    }
}
