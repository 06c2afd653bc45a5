//! Frames by which a machine says that it has an address, whether it was asked or not.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::Context;
use etherparse::{ArpEthIpv4Packet, ArpOperation, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::bind;
use parking_lot::Mutex;
use sharedlb_testbed::{Machine, in_namespace};
use socket2::{Domain, Protocol, Socket, Type};

/// `ETH_P_ALL` of linux/if_ether.h.
const ALL_PROTOCOLS: u16 = 3;

// Types of ICMPv6 messages (RFC 4861).
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// A frame that says who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Announcement {
    /// The address that its sender has
    pub(crate) address: IpAddr,
    /// The address that is looked for, or the same one
    pub(crate) target: IpAddr,
}

/// Sees the frames that reach a machine.
pub(crate) struct Sniffer {
    socket: Socket,
    announced: Mutex<BTreeSet<Announcement>>,
}

impl Sniffer {
    pub(crate) fn start(machine: &Machine) -> anyhow::Result<Self> {
        Ok(Self { socket: in_namespace(machine.name(), open)??, announced: Mutex::default() })
    }

    /// What machines have announced since it was started.
    pub(crate) fn announced(&self) -> anyhow::Result<BTreeSet<Announcement>> {
        let mut announced = self.announced.lock();
        let mut frame = [0; 2048];
        loop {
            match (&self.socket).read(&mut frame) {
                Ok(length) => announced.extend(frame.get(..length).and_then(announcement)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(announced.clone()),
                Err(error) => return Err(error).context("sniffing"),
            }
        }
    }
}

/// Has a machine announce an IPv4 address, with a gratuitous ARP request.
pub(crate) fn announce(machine: &Machine, address: Ipv4Addr) -> anyhow::Result<()> {
    let request = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: machine.mac().0,
        sender_ipv4: address.octets(),
        target_mac: [0; 6],
        target_ipv4: address.octets(),
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(machine.mac().0, [0xff; 6]).arp(request.into()).write(&mut frame)?;
    in_namespace(machine.name(), || open()?.write_all(&frame).context("announcing"))?
}

/// Has the kernel of a machine look for a neighbor, to send it a packet with this source. A request
/// for a neighbor announces its source.
pub(crate) fn look_for(machine: &Machine, neighbor: IpAddr, source: IpAddr) -> anyhow::Result<()> {
    in_namespace(machine.name(), || {
        let socket = UdpSocket::bind(SocketAddr::new(source, 0))?;
        socket.send_to(b"?", SocketAddr::new(neighbor, 9)).with_context(|| format!("sending from {source}"))?;
        Ok(())
    })?
}

/// A socket for all frames of `eth0`, in the namespace of this thread.
fn open() -> anyhow::Result<Socket> {
    let mut links = getifaddrs()?.filter(|link| link.interface_name == "eth0");
    let link = links.find_map(|link| link.address.and_then(|address| address.as_link_addr().copied()));
    let protocol = Protocol::from(i32::from(ALL_PROTOCOLS.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).context("opening a packet socket")?;
    bind(socket.as_raw_fd(), &link.context("the machine has no eth0")?)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Reads a frame as an announcement.
fn announcement(frame: &[u8]) -> Option<Announcement> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    match (packet.net?, packet.transport) {
        (NetSlice::Arp(arp), _) => {
            let v4 = |address: &[u8]| Some(IpAddr::from(<[u8; 4]>::try_from(address).ok()?));
            Some(Announcement { address: v4(arp.sender_protocol_addr())?, target: v4(arp.target_protocol_addr())? })
        }
        (NetSlice::Ipv6(ip), Some(TransportSlice::Icmpv6(message))) => {
            let target = IpAddr::from(<[u8; 16]>::try_from(message.slice().get(8..24)?).ok()?);
            match message.type_u8() {
                NEIGHBOR_SOLICITATION => Some(Announcement { address: ip.header().source_addr().into(), target }),
                NEIGHBOR_ADVERTISEMENT => Some(Announcement { address: target, target }),
                _ => None,
            }
        }
        _ => None,
    }
}
