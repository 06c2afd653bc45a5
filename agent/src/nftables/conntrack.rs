//! The connections that the kernel has to forget, so that their packets go where they belong
//! now: pure.
//!
//! The kernel remembers for each connection where it goes, whatever the tables say later. A
//! connection that it has forgotten is led anew by its next packet. The pod that then gets it
//! does not know it, and resets it: a client of TCP finds out at once that its pod is gone. A UDP
//! client goes on with another pod.
//!
//! Debian's `conntrack` deletes them. Each call reads all connections of the host, but a call is
//! made only for a backend that is gone, and the program is in every distribution. Deleting by
//! netlink would read them once for several backends; crates for it are young.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use sharedlb_providers::{FrontPort, IpFamily, ListenerKey};

use super::DataPath;
use super::elements::{Elements, Served, Set, altered, transport_named};

/// Connections that are forgotten together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Connections {
    /// All to an address that another host has. They go on there, and what this host remembers of
    /// them is soon out of date
    To(IpAddr),
    /// Those to an address that were led nowhere, while the tables were not there
    Unled(IpAddr),
    /// Those to a front port that a backend serves
    Served {
        /// The address of the load balancer
        address: IpAddr,
        /// Its front port
        port: FrontPort,
        /// The backend, of the same family
        backend: SocketAddr,
    },
}

impl Connections {
    /// The arguments of `conntrack` that delete them.
    #[must_use]
    pub fn deletion(self) -> Vec<String> {
        let to = |address: IpAddr| {
            let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
            format!("--delete --family {family} --orig-dst {address}")
        };
        let arguments = match self {
            Self::To(address) => to(address),
            Self::Unled(address) => format!("{} --reply-src {address}", to(address)),
            Self::Served { address, port: FrontPort { port, transport }, backend } => format!(
                "{} --proto {} --orig-port-dst {port} --reply-src {} --reply-port-src {}",
                to(address),
                transport.lower_case(),
                backend.ip(),
                backend.port()
            ),
        };
        arguments.split(' ').map(str::to_owned).collect()
    }
}

/// Whether a deletion has failed by this output since there was nothing to delete.
pub(super) fn has_found_none(output: &str) -> bool {
    output.contains(" 0 flow entries have been deleted")
}

/// Whether a deletion has ended early by this output, since a connection had ended between its
/// listing and its deletion. `conntrack` up to 1.4.7 goes no further then.
pub(super) fn has_met_an_ended_one(output: &str) -> bool {
    output.contains("such conntrack doesn't exist")
}

/// The connections whose backends no longer serve their front ports after a change.
#[must_use]
pub fn orphaned(before: &DataPath, after: &DataPath) -> BTreeSet<Connections> {
    let altered = altered(before, after);
    let earlier: BTreeSet<_> = altered.iter().flat_map(|one| of_listener(one.key, one.before)).collect();
    let later: BTreeSet<_> = altered.iter().flat_map(|one| of_listener(one.key, one.after)).collect();
    &earlier - &later
}

/// The connections of a listener that there may be: a front port and a backend each.
fn of_listener(key: ListenerKey, served: Option<Served<'_>>) -> Vec<Connections> {
    let mut connections = Vec::new();
    if let Some(served) = served {
        for &address in served.addresses {
            let backends =
                served.backends(key).filter(|(_, backend)| IpFamily::of(backend.ip()) == IpFamily::of(address));
            connections.extend(backends.map(|(transport, backend)| {
                let port = FrontPort { port: key.port, transport };
                Connections::Served { address, port, backend }
            }));
        }
    }
    connections
}

/// The connections that there may be by these elements.
pub(super) fn served(elements: &Elements) -> BTreeSet<Connections> {
    let slots = elements.places().filter(|(place, _)| matches!(place.set, Set::Slots(_)));
    let slots = slots.flat_map(|(_, elements)| elements);
    slots.filter_map(|(key, data)| of_slot(key, data)).collect()
}

/// The connections that a slot leads to its backend, if the element is one of ours.
fn of_slot(key: &str, data: &str) -> Option<Connections> {
    let mut key = key.split(" . ");
    let address = key.next()?.parse().ok()?;
    let transport = transport_named(key.next()?)?;
    let port: NonZeroU16 = key.next()?.parse().ok()?;
    let (backend, backend_port) = data.split_once(" . ")?;
    let backend = SocketAddr::new(backend.parse().ok()?, backend_port.parse().ok()?);
    Some(Connections::Served { address, port: FrontPort { port, transport }, backend })
}

/// The arguments of `conntrack` that list all connections of a family.
pub(super) fn listing(family: IpFamily) -> Vec<String> {
    let family = if family == IpFamily::V4 { "ipv4" } else { "ipv6" };
    ["--dump", "--family", family].map(str::to_owned).into()
}

/// The connections in a listing, as what they are forgotten by.
pub(super) fn listed(output: &str) -> BTreeSet<Connections> {
    output.lines().filter_map(of_line).collect()
}

/// A line has the protocol, and the addresses and ports of a packet and of its answer:
/// `tcp 6 300 ESTABLISHED src=… dst=… sport=… dport=… src=… dst=… sport=… dport=… [ASSURED]`.
fn of_line(line: &str) -> Option<Connections> {
    let transport = transport_named(line.split_whitespace().next()?)?;
    let field = |name: &'static str| line.split_whitespace().filter_map(move |word| word.strip_prefix(name));
    let address = field("dst=").next()?.parse().ok()?;
    let port = field("dport=").next()?.parse().ok()?;
    let backend = SocketAddr::new(field("src=").nth(1)?.parse().ok()?, field("sport=").nth(1)?.parse().ok()?);
    Some(Connections::Served { address, port: FrontPort { port, transport }, backend })
}

#[cfg(test)]
mod tests {
    use sharedlb_providers::Transport;

    use super::*;
    use crate::nftables::fixtures::{backend, data_path, listener};

    fn deletions(before: &DataPath, after: &DataPath) -> Vec<String> {
        orphaned(before, after).into_iter().map(|connections| connections.deletion().join(" ")).collect()
    }

    #[test]
    fn the_connections_of_a_backend_that_goes_are_forgotten_and_no_others() {
        let before = data_path([listener("20417/TCP_UDP", [backend(1), backend(2)]), listener("53/UDP", [backend(2)])]);
        let after = data_path([listener("20417/TCP_UDP", [backend(1), backend(3)]), listener("53/UDP", [backend(2)])]);
        let expected = ["tcp", "udp"].map(|transport| {
            format!(
                "--delete --family ipv4 --orig-dst 10.0.0.10 --proto {transport} --orig-port-dst 20417 \
                 --reply-src 10.244.0.2 --reply-port-src 8080"
            )
        });
        assert_eq!(deletions(&before, &after), expected);
        assert_eq!(deletions(&before, &before), [""; 0]);
    }

    #[test]
    fn the_connections_of_a_listener_that_closes_are_forgotten() {
        let before = data_path([listener("20417/TCP", [backend(1), backend(2)])]);
        assert_eq!(deletions(&before, &data_path([])).len(), 2);
        assert_eq!(deletions(&before, &DataPath::default()).len(), 2);
        assert_eq!(deletions(&data_path([]), &before).len(), 0);
    }

    #[test]
    fn the_connections_of_backends_of_either_family_are_forgotten() {
        let v6 = "[fd00:10:244::1]:8080".parse().unwrap();
        let address = "fd00::10".parse().unwrap();
        let port = FrontPort { port: NonZeroU16::MIN, transport: Transport::Udp };
        let deletion = Connections::Served { address, port, backend: v6 }.deletion().join(" ");
        let expected = "--delete --family ipv6 --orig-dst fd00::10 --proto udp --orig-port-dst 1 \
                        --reply-src fd00:10:244::1 --reply-port-src 8080";
        assert_eq!(deletion, expected);
        assert_eq!(
            of_slot("fd00::10 . udp . 1 . 127", "fd00:10:244::1 . 8080").unwrap().deletion().join(" "),
            expected
        );
    }

    #[test]
    fn connections_are_read_from_a_listing() {
        let output = "\
tcp      6 431999 ESTABLISHED src=10.0.0.7 dst=10.0.0.10 sport=41000 dport=20417 src=10.244.0.1 dst=10.0.0.10 \
sport=8080 dport=41000 [ASSURED] mark=0 use=1
udp      17 29 src=fd00::7 dst=fd00::10 sport=41000 dport=53 [UNREPLIED] src=fd00:10:244::1 dst=fd00::10 sport=8080 \
dport=41000 mark=0 use=1
icmp     1 29 src=10.0.0.7 dst=10.0.0.10 type=8 code=0 id=1 src=10.0.0.10 dst=10.0.0.7 type=0 code=0 id=1 mark=0 use=1
";
        let expected = [
            of_slot("10.0.0.10 . tcp . 20417", "10.244.0.1 . 8080"),
            of_slot("fd00::10 . udp . 53", "fd00:10:244::1 . 8080"),
        ];
        assert_eq!(listed(output), expected.into_iter().flatten().collect());
    }
}
