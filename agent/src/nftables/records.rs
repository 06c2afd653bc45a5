//! What is recorded in the tables besides what packets need: which load balancers there are, for
//! which claims their listeners are, and their options as they were requested. A new process
//! reads it, and so knows what an earlier one has left. Pure.
//!
//! A record is a line of words, in pieces that are the comments of elements of a set:
//!
//! | about | key | record |
//! |---|---|---|
//! | a load balancer | `10.0.0.10 . tcp . 0` | `slb-default-0-44d0a5b833 VIP 10.0.0.10 fd00::10` |
//! | a listener | `10.0.0.10 . tcp . 20417` | `TCP_UDP team-a/redis/main ClientIP 10.0.0.0/8` |
//! | the rules | `0.0.0.0 . tcp . 0` | two numbers, of which [`super::tables`] makes use |
//!
//! The address is the first one of the load balancer, and the transport the first one of the
//! listener. The backends of a listener are in its slots, and not recorded once more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sharedlb_providers::{
    IpFamily, LbName, Listener, ListenerKey, ListenerOptions, Owner, Protocol, SessionAffinity, Transport,
};

use super::elements::{Elements, Set, transport_named};
use super::{ServedLoadBalancer, SourceAddress};

/// The longest comment that `nft` takes, in bytes: `NFTNL_UDATA_COMMENT_MAXLEN` of libnftnl.
const LONGEST_COMMENT: usize = 128;

/// What is encoded in names. Those of Kubernetes consist of other characters.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// Session affinity, in Kubernetes' word.
const CLIENT_IP: &str = "ClientIP";

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RecordKey {
    pub(super) address: IpAddr,
    pub(super) transport: Transport,
    /// 0: the record is about no listener
    pub(super) port: u16,
}

impl RecordKey {
    /// The load balancer of this first address.
    pub(super) fn of_load_balancer(address: IpAddr) -> Self {
        Self { address, transport: Transport::Tcp, port: 0 }
    }

    /// This listener of the load balancer of this first address.
    pub(super) fn of_listener(address: IpAddr, key: ListenerKey) -> Self {
        let [transport, ..] = *key.protocol.transports() else { return Self::of_load_balancer(address) };
        Self { address, transport, port: key.port.get() }
    }

    /// The rules of the table of this family.
    pub(super) fn of_rules(family: IpFamily) -> Self {
        Self::of_load_balancer(match family {
            IpFamily::V4 => Ipv4Addr::UNSPECIFIED.into(),
            IpFamily::V6 => Ipv6Addr::UNSPECIFIED.into(),
        })
    }

    /// The record that a key of an element is of, and the number of its piece.
    pub(super) fn of_piece(key: &str) -> Option<(Self, u32)> {
        let mut parts = key.split(" . ");
        let address = parts.next()?.parse().ok()?;
        let transport = transport_named(parts.next()?)?;
        let port = parts.next()?.parse().ok()?;
        let number = parts.next()?.parse().ok()?;
        Some((Self { address, transport, port }, number))
    }
}

/// As the first parts of a key of an element.
impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} . {} . {}", self.address, self.transport.lower_case(), self.port)
    }
}

/// The pieces of a record, which are short enough for comments.
pub(super) fn pieces(record: &str) -> impl Iterator<Item = &str> {
    // All of it is ASCII, so that no character is cut.
    record.as_bytes().chunks(LONGEST_COMMENT).map(|piece| str::from_utf8(piece).unwrap_or_default())
}

/// The records in these elements.
pub(super) fn all(elements: &Elements) -> BTreeMap<RecordKey, String> {
    let mut pieces: BTreeMap<(RecordKey, u32), &str> = BTreeMap::new();
    pieces.extend(elements.in_set(Set::Records).filter_map(|(key, piece)| Some((RecordKey::of_piece(key)?, piece))));
    let mut records: BTreeMap<RecordKey, String> = BTreeMap::new();
    for ((key, _), piece) in pieces {
        records.entry(key).or_default().push_str(piece);
    }
    records
}

/// The record of a load balancer.
pub(super) fn of_load_balancer(name: &LbName, served: &ServedLoadBalancer) -> String {
    let addresses = served.addresses.iter().map(|address| format!(" {address}"));
    format!("{} {}{}", encoded(name.as_str()), served.source_address, addresses.collect::<String>())
}

/// The load balancer of a record, without listeners; `None`: the record is damaged.
pub(super) fn load_balancer(record: &str) -> Option<(LbName, ServedLoadBalancer)> {
    let mut words = record.split(' ');
    let name = LbName::from_recorded(&decoded(words.next()?)?);
    let source_address = words.next()?.parse().ok()?;
    let addresses = words.map(|word| word.parse().ok()).collect::<Option<BTreeSet<IpAddr>>>()?;
    Some((name, ServedLoadBalancer { addresses, source_address, ..ServedLoadBalancer::default() }))
}

/// The record of a listener.
pub(super) fn of_listener(protocol: Protocol, Listener { owner, options, .. }: &Listener) -> String {
    let Owner { namespace, claim, port } = owner;
    let [namespace, claim, port] = [namespace, claim, port].map(|name| encoded(name).into());
    let owner = Owner { namespace, claim, port };
    let affinity = options.session_affinity.map(|_| format!(" {CLIENT_IP}"));
    let ranges = options.source_ranges.iter().map(|range| format!(" {range}"));
    format!("{protocol} {owner}{}{}", affinity.unwrap_or_default(), ranges.collect::<String>())
}

/// The listener of a record, without backends, and its protocol; `None`: the record is damaged.
pub(super) fn listener(record: &str) -> Option<(Protocol, Listener)> {
    let mut words = record.split(' ').peekable();
    let protocol = words.next()?.parse().ok()?;
    let owner = owner(words.next()?)?;
    let affinity = words.next_if(|word| *word == CLIENT_IP).map(|_| SessionAffinity::default());
    let ranges = words.map(|word| word.parse().ok()).collect::<Option<Vec<_>>>()?;
    let options = ListenerOptions::new(ranges, affinity);
    Some((protocol, Listener { options, ..Listener::new(owner, []) }))
}

fn owner(word: &str) -> Option<Owner> {
    let Owner { namespace, claim, port } = Owner::parse(word)?;
    let name = |encoded: &str| Some(decoded(encoded)?.into());
    Some(Owner { namespace: name(&namespace)?, claim: name(&claim)?, port: name(&port)? })
}

/// A name without spaces, quotes, and anything else that means something to `nft`.
fn encoded(name: &str) -> String {
    utf8_percent_encode(name, ENCODED).to_string()
}

fn decoded(name: &str) -> Option<String> {
    percent_decode_str(name).decode_utf8().ok().map(Into::into)
}

impl fmt::Display for SourceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vip => "VIP",
            Self::Host => "Host",
        })
    }
}

impl FromStr for SourceAddress {
    type Err = UnknownSourceAddress;

    fn from_str(text: &str) -> Result<Self, UnknownSourceAddress> {
        let found = [Self::Vip, Self::Host].into_iter().find(|source| source.to_string() == text);
        found.ok_or(UnknownSourceAddress)
    }
}

/// A text that is no [`SourceAddress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the source address of connections to pods is VIP or Host")]
pub struct UnknownSourceAddress;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nftables::fixtures::{backend, listener as listener_of};

    fn with(owner: [&str; 3], options: ListenerOptions) -> Listener {
        let [namespace, claim, port] = owner.map(Into::into);
        Listener { options, ..Listener::new(Owner { namespace, claim, port }, []) }
    }

    #[test]
    fn a_listener_is_recorded_in_words_that_an_admin_reads() {
        let ranges = ["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"].map(|range| range.parse().unwrap());
        let options = ListenerOptions::new(ranges, Some(SessionAffinity::default()));
        let listener = with(["team-a", "redis", "main"], options);
        assert_eq!(
            of_listener(Protocol::TcpUdp, &listener),
            "TCP_UDP team-a/redis/main ClientIP 10.0.0.0/8 10.1.0.0/16 fd00::/8"
        );
        let (_, plain) = listener_of("1/TCP", [backend(1)]);
        assert_eq!(of_listener(Protocol::Tcp, &plain), "TCP team-a/redis");
    }

    #[test]
    fn what_was_recorded_reads_back_the_same_whatever_its_names_are() {
        for names in [["a", "b", ""], ["a", "b", "c"], ["a/b", "c d", "%2F"], ["\" } \n ; flush ruleset #", "ü", "\\"]]
        {
            let written = with(names, ListenerOptions::default());
            let record = of_listener(Protocol::Udp, &written);
            assert!(record.chars().all(|c| c.is_ascii_alphanumeric() || " -._/%".contains(c)), "{record}");
            assert_eq!(listener(&record), Some((Protocol::Udp, written)));
        }
        let served = ServedLoadBalancer {
            addresses: ["10.0.0.10", "fd00::10"].map(|address| address.parse().unwrap()).into(),
            source_address: SourceAddress::Host,
            ..ServedLoadBalancer::default()
        };
        let name = LbName::new("default", 0, "cluster", "uid");
        assert_eq!(load_balancer(&of_load_balancer(&name, &served)), Some((name, served)));
    }

    #[test]
    fn a_damaged_record_is_none() {
        for record in ["", "TCP", "TCP /", "SCTP a/b", "TCP a/b 10.0.0.0/", "TCP a/%FF"] {
            assert_eq!(listener(record), None, "{record}");
        }
        for record in ["", "slb-default-0-44d0a5b833", "slb-default-0-44d0a5b833 VIP 10.0."] {
            assert_eq!(load_balancer(record), None, "{record}");
        }
    }

    /// The longest names of Kubernetes do not fit into one comment, nor do many source ranges.
    #[test]
    fn a_long_record_is_in_several_pieces() {
        let ranges = (0..100).map(|n| format!("2001:db8:{n:x}::/48").parse().unwrap());
        let listener = with([&"n".repeat(63), &"c".repeat(253), &"p".repeat(63)], ListenerOptions::new(ranges, None));
        let record = of_listener(Protocol::Tcp, &listener);
        let mut elements = Elements::default();
        let key = RecordKey { address: "fd00::10".parse().unwrap(), transport: Transport::Tcp, port: 20417 };
        elements.add_record(key, &record);
        assert!(elements.in_set(Set::Records).all(|(_, piece)| piece.len() <= LONGEST_COMMENT));
        assert_eq!(all(&elements), [(key, record)].into());
    }
}
