//! Adverts of VRRP, and packets that are almost adverts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;
use sharedlb_testbed::in_namespace;
use socket2::{Domain, Protocol, Socket, Type};

/// Of VRRP, by IANA.
const PROTOCOL: i32 = 112;

/// Where adverts go (RFC 9568).
const GROUPS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18)), IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12))];

/// A packet of VRRP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    /// Where it goes
    pub(crate) to: IpAddr,
    /// Its TTL, or hop limit
    pub(crate) hops: u8,
    /// The version in the upper half of the octet, and the type in the lower one
    pub(crate) kind: u8,
    /// The number of the virtual router
    pub(crate) id: u8,
    pub(crate) priority: u8,
}

impl Packet {
    /// The advert of a virtual router whose adverts are of IPv4.
    pub(crate) fn advert(id: u8) -> Self {
        let [to, _] = GROUPS;
        Self { to, hops: 255, kind: 0x31, id, priority: 100 }
    }

    /// The advert of a virtual router whose adverts are of IPv6.
    pub(crate) fn advert_v6(id: u8) -> Self {
        let [_, to] = GROUPS;
        Self { to, ..Self::advert(id) }
    }

    /// Sends it from an interface of a network namespace.
    pub(crate) fn send(self, namespace: &str, interface: &str) -> anyhow::Result<()> {
        in_namespace(namespace, || self.send_from_here(interface))?.with_context(|| format!("sending {self:?}"))
    }

    fn send_from_here(self, interface: &str) -> std::io::Result<()> {
        let domain = if self.to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(PROTOCOL)))?;
        socket.bind_device(Some(interface.as_bytes()))?;
        if self.to.is_ipv4() {
            socket.set_multicast_ttl_v4(self.hops.into())?;
            socket.set_ttl_v4(self.hops.into())?;
        } else {
            socket.set_multicast_hops_v6(self.hops.into())?;
            socket.set_unicast_hops_v6(self.hops.into())?;
        }
        let advert = [self.kind, self.id, self.priority, 1, 0, 100, 0, 0, 10, 99, 20, 200];
        socket.send_to(&advert, &SocketAddr::new(self.to, 0).into()).map(drop)
    }
}
