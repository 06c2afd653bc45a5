//! A packet socket that sees the VRRP adverts of one interface, and nothing else.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{LinkAddr, bind, recvfrom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::sightings::{Advert, Sender, VRRP, virtual_router_of};
use crate::virtual_router::Interface;

/// How much of an advert is read, in bytes. An IPv6 header and the fixed part of an advert are 48.
const SNAP_BYTES: u32 = 128;

/// The socket.
pub(super) struct Tap(Socket);

impl Tap {
    /// Opens it. Needs the capability `NET_RAW`.
    pub(super) fn open(interface: &Interface) -> io::Result<Self> {
        let link = getifaddrs()?
            .filter(|link| link.interface_name == interface.as_str())
            .find_map(|link| link.address.and_then(|address| address.as_link_addr().copied()))
            .ok_or_else(|| io::Error::new(ErrorKind::NotFound, "there is no such interface"))?;
        // Packets that leave are seen by sockets for all protocols alone. In a datagram, a packet
        // begins with its IP header.
        let all = Protocol::from(i32::from(filter::ETH_P_ALL.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(all))?;
        socket.attach_filter(&filter::adverts())?;
        bind(socket.as_raw_fd(), &link)?;
        socket.set_nonblocking(true)?;
        let tap = Self(socket);
        // What came before it was bound may be of another interface.
        while tap.read(&mut [])?.is_some() {}
        Ok(tap)
    }

    /// Waits for adverts by which hosts keep addresses, and returns them in their order. None:
    /// there was no advert for this time.
    pub(super) fn wait(&self, limit: Duration) -> io::Result<Vec<Advert>> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout)?;
        let mut buffer = [0; SNAP_BYTES as usize];
        let mut seen = Vec::new();
        while let Some((length, sender)) = self.read(&mut buffer)? {
            let id = buffer.get(..length).and_then(virtual_router_of);
            seen.extend(id.map(|id| Advert { id, sender }));
        }
        Ok(seen)
    }

    /// Reads the next packet that is there: its length, and where it comes from.
    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, Sender)>> {
        match recvfrom::<LinkAddr>(self.0.as_raw_fd(), buffer) {
            Ok((length, from)) => {
                let leaves = from.is_some_and(|from| from.pkttype() == filter::PACKET_OUTGOING);
                Ok(Some((length, if leaves { Sender::ThisHost } else { Sender::AnotherHost })))
            }
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The socket's filter, which the kernel runs for every packet of the interface: a program for the
/// classic BPF machine, as in the kernel's `Documentation/networking/filter.rst`.
mod filter {
    use super::{SNAP_BYTES, SockFilter, VRRP};

    // Of linux/if_ether.h.
    pub(super) const ETH_P_ALL: u16 = 0x0003;
    const ETH_P_IP: u32 = 0x0800;
    const ETH_P_IPV6: u32 = 0x86dd;
    // Of linux/if_packet.h.
    pub(super) const PACKET_OUTGOING: u8 = 4;
    // Of linux/filter.h: where a load finds the protocol of a packet.
    const PROTOCOL: u32 = 0xffff_f000;
    // Of linux/bpf_common.h.
    const LOAD_WORD: u16 = 0x20;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;

    /// Where the headers of IP have the number of the protocol in them.
    const IPV4_PROTOCOL: u32 = 9;
    const IPV6_NEXT_HEADER: u32 = 6;

    pub(super) fn adverts() -> [SockFilter; 9] {
        let load = |code, offset| SockFilter::new(code, 0, 0, offset);
        // How many instructions to skip: if it is equal, and if not.
        let jump = |value, equal, other| SockFilter::new(JUMP_IF_EQUAL, equal, other, value);
        let keep = |bytes| SockFilter::new(RETURN, 0, 0, bytes);
        [
            load(LOAD_WORD, PROTOCOL),
            jump(ETH_P_IP, 0, 2),
            load(LOAD_BYTE, IPV4_PROTOCOL),
            jump(VRRP.into(), 3, 4),
            jump(ETH_P_IPV6, 0, 3),
            load(LOAD_BYTE, IPV6_NEXT_HEADER),
            jump(VRRP.into(), 0, 1),
            keep(SNAP_BYTES),
            keep(0),
        ]
    }
}
