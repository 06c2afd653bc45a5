//! Who answers for an address on the segment: ARP for IPv4, neighbor discovery for IPv6.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use etherparse::{ArpEthIpv4Packet, ArpOperation, LinkSlice, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::bind;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};

use super::machine::Machine;
use crate::network::enter_namespace;

/// `ETH_P_ALL` of linux/if_ether.h.
const ALL_PROTOCOLS: u16 = 3;

// Types of ICMPv6 messages, and of an option in them (RFC 4861).
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;

/// In a neighbor advertisement: it answers a solicitation.
const SOLICITED: u8 = 0x40;

/// The link-layer address of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An answer to the question who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborAnswer {
    /// Which question it answers, counted from 1. All addresses are asked for at once.
    pub question: u64,
    /// When it came.
    pub at: Instant,
    /// The address.
    pub address: IpAddr,
    /// Who says to have it.
    pub from: MacAddress,
}

/// A machine that asks all the time who has some addresses.
#[derive(Debug)]
pub struct NeighborQuestions {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    answers: Mutex<Vec<NeighborAnswer>>,
    failed: Mutex<Option<anyhow::Error>>,
    ends: AtomicBool,
}

impl NeighborQuestions {
    pub(super) fn start(machine: &Machine, addresses: &[IpAddr], every: Duration) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let namespace = machine.name().to_owned();
        let questions = addresses.iter().map(|&address| question(machine, address)).collect::<Result<Vec<_>, _>>()?;
        let thread = std::thread::spawn(move || {
            if let Err(error) = ask(&namespace, &questions, every, &of_thread) {
                *of_thread.failed.lock() = Some(error);
            }
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Ends the questions, and returns all answers, in the order in which they came.
    ///
    /// # Errors
    /// If the machine could not ask or listen.
    pub fn finish(mut self) -> anyhow::Result<Vec<NeighborAnswer>> {
        self.end()?;
        match self.shared.failed.lock().take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut self.shared.answers.lock())),
        }
    }

    /// The last answers for an address, up to that many, the oldest first.
    pub fn last(&self, address: IpAddr, number: usize) -> Vec<NeighborAnswer> {
        let answers = self.shared.answers.lock();
        let mut last: Vec<_> =
            answers.iter().rev().filter(|answer| answer.address == address).take(number).copied().collect();
        last.reverse();
        last
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.shared.ends.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        ended.map_err(|_| anyhow!("the thread that asks the neighbors panicked"))
    }
}

impl Drop for NeighborQuestions {
    fn drop(&mut self) {
        // Whoever wants to know of a failure has called `finish`.
        _ = self.end();
    }
}

/// Asks, and listens until it is time for the next question.
fn ask(namespace: &str, questions: &[Vec<u8>], every: Duration, shared: &Shared) -> anyhow::Result<()> {
    enter_namespace(namespace)?;
    let mut socket = open()?;
    let mut frame = [0; 2048];
    let mut number = 0;
    while !shared.ends.load(Ordering::Relaxed) {
        number += 1;
        let next = Instant::now() + every;
        for question in questions {
            socket.write_all(question).context("asking the neighbors")?;
        }
        loop {
            // All that has come answers this question, however late it is read.
            while let Some(length) = read(&mut socket, &mut frame)? {
                let answer = frame.get(..length).and_then(answer);
                let at = Instant::now();
                shared.answers.lock().extend(answer.map(|(address, from)| NeighborAnswer {
                    question: number,
                    at,
                    address,
                    from,
                }));
            }
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Whole milliseconds, and not none of them, which would be to spin.
            let timeout = PollTimeout::try_from(left.max(Duration::from_millis(1)))?;
            poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout)?;
        }
    }
    Ok(())
}

/// Reads the next frame that is there, and returns its length.
fn read(socket: &mut Socket, frame: &mut [u8]) -> anyhow::Result<Option<usize>> {
    match socket.read(frame) {
        Ok(length) => Ok(Some(length)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("listening to the neighbors"),
    }
}

fn open() -> anyhow::Result<Socket> {
    let mut links = getifaddrs()?.filter(|link| link.interface_name == "eth0");
    let link = links.find_map(|link| link.address.and_then(|address| address.as_link_addr().copied()));
    let protocol = Protocol::from(i32::from(ALL_PROTOCOLS.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).context("opening a packet socket")?;
    bind(socket.as_raw_fd(), &link.context("the machine has no eth0")?)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The frame by which a machine asks everybody on the segment for an address.
fn question(machine: &Machine, address: IpAddr) -> anyhow::Result<Vec<u8>> {
    let mut frame = Vec::new();
    match (address, machine.addresses()) {
        (IpAddr::V4(address), [IpAddr::V4(own), _]) => {
            let request = ArpEthIpv4Packet {
                operation: ArpOperation::REQUEST,
                sender_mac: machine.mac().0,
                sender_ipv4: own.octets(),
                target_mac: [0; 6],
                target_ipv4: address.octets(),
            };
            PacketBuilder::ethernet2(machine.mac().0, [0xff; 6]).arp(request.into()).write(&mut frame)?;
        }
        (IpAddr::V6(address), [_, IpAddr::V6(own)]) => {
            let (group, group_mac) = solicited_node(address);
            let solicitation = [
                &address.octets()[..],
                // The length of an option is in units of 8 bytes.
                &[SOURCE_LINK_LAYER_ADDRESS, 1],
                &machine.mac().0,
            ]
            .concat();
            PacketBuilder::ethernet2(machine.mac().0, group_mac)
                .ipv6(own.octets(), group.octets(), 255)
                .icmpv6_raw(NEIGHBOR_SOLICITATION, 0, [0; 4])
                .write(&mut frame, &solicitation)?;
        }
        (address, own) => return Err(anyhow!("{own:?} cannot ask for {address}")),
    }
    Ok(frame)
}

/// The group that the owner of an IPv6 address listens to, and its link-layer address.
fn solicited_node(address: Ipv6Addr) -> (Ipv6Addr, [u8; 6]) {
    let [.., a, b, c] = address.octets();
    let group = u128::from_be_bytes([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    (Ipv6Addr::from_bits(group), [0x33, 0x33, 0xff, a, b, c])
}

/// Reads a frame as an answer: the address, and who says to have it.
fn answer(frame: &[u8]) -> Option<(IpAddr, MacAddress)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(LinkSlice::Ethernet2(ethernet)) = packet.link else { return None };
    let address = match (packet.net, packet.transport) {
        (Some(NetSlice::Arp(arp)), _) if arp.operation() == ArpOperation::REPLY => {
            let address: [u8; 4] = arp.sender_protocol_addr().try_into().ok()?;
            IpAddr::V4(Ipv4Addr::from(address))
        }
        (_, Some(TransportSlice::Icmpv6(message))) if message.type_u8() == NEIGHBOR_ADVERTISEMENT => {
            let (flags, address) = (message.slice().get(4)?, message.slice().get(8..24)?);
            let address: [u8; 16] = address.try_into().ok()?;
            (flags & SOLICITED != 0).then(|| IpAddr::V6(Ipv6Addr::from(address)))?
        }
        _ => return None,
    };
    Some((address, MacAddress(ethernet.source())))
}
