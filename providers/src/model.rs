//! A load balancer as data: what is wanted of one, and what one was seen to be.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

/// The name of a load balancer: readable, unique among clusters and classes,
/// and at most 32 characters of lower-case letters, digits and hyphens. (32 is
/// the shortest limit there is: `Name` of AWS' CreateLoadBalancer.)
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LbName(Arc<str>);

impl LbName {
    /// The longest name, in characters.
    pub const MAX_LEN: usize = 32;

    /// `slb-<class>-<index>-<hash>`, the class name cut to fit. The hash is of
    /// the cluster id and the class' uid, so that neither another cluster with
    /// the same class nor a class deleted and created again gets the same name.
    #[must_use]
    pub fn new(class: &str, index: u32, cluster_id: &str, class_uid: &str) -> Self {
        let identity = fnv1a([cluster_id.as_bytes(), class_uid.as_bytes()]);
        // 40 bits are plenty to tell clusters and classes apart, and short.
        let tail = format!("-{index}-{:010x}", identity >> 24);
        let class: String = class
            .chars()
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
            .take(Self::MAX_LEN - "slb-".len() - tail.len())
            .collect();
        Self(format!("slb-{}{tail}", class.trim_end_matches('-')).into())
    }

    /// A name read back from where it was written.
    #[must_use]
    pub fn from_recorded(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LbName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LbName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// FNV-1a, 64 bits, over the parts with a zero byte between each two. It is
/// written down here because results must be the same in every build for ever:
/// names of load balancers and preferred ports are made of it.
/// (Offset basis and prime: the FNV specification, draft-eastlake-fnv.)
#[must_use]
pub fn fnv1a<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut step = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    for (i, part) in parts.into_iter().enumerate() {
        if i > 0 {
            step(0);
        }
        part.iter().copied().for_each(&mut step);
    }
    hash
}

/// What a packet carries its port in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A version of the Internet Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl IpFamily {
    /// The one that an address is of.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The one of this name, as in `spec.ipFamilies` of a Service.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::V4, Self::V6].into_iter().find(|family| family.to_string() == name)
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What a listener accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP only
    Tcp,
    /// UDP only
    Udp,
    /// Both, on one port number
    TcpUdp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::TcpUdp];

    /// Whether listeners of the two on one number cannot both be open.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.transports().iter().any(|transport| other.transports().contains(transport))
    }

    /// The transports that it takes up.
    #[must_use]
    pub fn transports(self) -> &'static [Transport] {
        match self {
            Self::Tcp => &[Transport::Tcp],
            Self::Udp => &[Transport::Udp],
            Self::TcpUdp => &[Transport::Tcp, Transport::Udp],
        }
    }
}

impl From<Transport> for Protocol {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp,
            Transport::Udp => Self::Udp,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::TcpUdp => "TCP_UDP",
        })
    }
}

/// A port number of one transport, as a stranger may hold it: `22/TCP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontPort {
    /// 1 to 65535
    pub port: NonZeroU16,
    /// TCP or UDP
    pub transport: Transport,
}

impl fmt::Display for FrontPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.transport)
    }
}

/// Which listener of a load balancer: `20417/TCP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerKey {
    /// The front port, 1 to 65535
    pub port: NonZeroU16,
    /// What it accepts there
    pub protocol: Protocol,
}

impl ListenerKey {
    /// The ports that this listener takes up: two for `TCP_UDP`.
    pub fn front_ports(self) -> impl Iterator<Item = FrontPort> {
        self.protocol.transports().iter().map(move |&transport| FrontPort { port: self.port, transport })
    }

    /// The listeners that there can be on this number.
    #[must_use]
    pub fn of_number(port: NonZeroU16) -> [Self; 3] {
        Protocol::ALL.map(|protocol| Self { port, protocol })
    }

    /// Whether this listener takes up this port.
    #[must_use]
    pub fn has(self, port: FrontPort) -> bool {
        self.port == port.port && self.protocol.transports().contains(&port.transport)
    }

    /// Whether the two take up a port in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.port == other.port && self.protocol.overlaps(other.protocol)
    }
}

impl From<FrontPort> for ListenerKey {
    fn from(FrontPort { port, transport }: FrontPort) -> Self {
        Self { port, protocol: transport.into() }
    }
}

impl fmt::Display for ListenerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// Whom a listener is for. Providers write it beside the listener (a tag, an
/// annotation), so that a person who looks at the load balancer sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// Namespace of the claim
    pub namespace: Arc<str>,
    /// Name of the claim
    pub claim: Arc<str>,
    /// Name of the claim's port; empty where there is just one
    pub port: Arc<str>,
}

impl Owner {
    /// The owner of a listener whose record is missing or damaged. It differs from
    /// the owner of every desired listener.
    #[must_use]
    pub fn unknown() -> Self {
        Self { namespace: "".into(), claim: "".into(), port: "".into() }
    }

    /// Whether the record of the listener is missing or damaged.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.claim.is_empty()
    }

    /// Whether both are ports of one claim.
    #[must_use]
    pub fn is_same_claim(&self, other: &Self) -> bool {
        self.namespace == other.namespace && self.claim == other.claim
    }

    /// Reads what [`fmt::Display`] wrote; `None` if it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (namespace, claim, port) = match *parts.as_slice() {
            [namespace, claim] => (namespace, claim, ""),
            [namespace, claim, port] if !port.is_empty() => (namespace, claim, port),
            _ => return None,
        };
        let named = !namespace.is_empty() && !claim.is_empty();
        named.then(|| Self { namespace: namespace.into(), claim: claim.into(), port: port.into() })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.claim)?;
        if self.port.is_empty() { Ok(()) } else { write!(f, "/{}", self.port) }
    }
}

/// An address and port that traffic goes to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// IPv4 or IPv6; a listener may have both
    pub address: IpAddr,
    /// 1 to 65535
    pub port: NonZeroU16,
    /// The pod's name, in the namespace of the listener's owner; `None` for an
    /// address that is no pod's
    pub pod: Option<Arc<str>>,
    /// The node that it runs on, where known
    pub node: Option<Arc<str>>,
    /// For a node port: the node's id at its cloud, as in its `spec.providerID`
    /// (`aws:///eu-central-1a/i-0123456789abcdef0`)
    pub provider_id: Option<Arc<str>>,
    /// The transport whose traffic it gets, behind a listener of both that leads
    /// the other one elsewhere; `None`: that of every transport of the listener
    pub transport: Option<Transport>,
}

impl Backend {
    /// The backends of a listener of this protocol, from those that each of its
    /// transports leads to. What gets the traffic of both is one backend, so that
    /// the same listener is always the same set.
    #[must_use]
    pub fn by_transport(protocol: Protocol, of: impl Fn(Transport) -> BTreeSet<Self>) -> BTreeSet<Self> {
        let of_each: Vec<(Transport, BTreeSet<Self>)> =
            protocol.transports().iter().map(|&transport| (transport, of(transport))).collect();
        let of_all = |backend: &Self| of_each.iter().all(|(_, backends)| backends.contains(backend));
        let mark = |transport: Transport, backend: &Self| {
            let transport = (!of_all(backend)).then_some(transport);
            Self { transport, ..backend.clone() }
        };
        of_each
            .iter()
            .flat_map(|(transport, backends)| backends.iter().map(move |backend| mark(*transport, backend)))
            .collect()
    }

    /// Whether it gets the traffic of this transport.
    #[must_use]
    pub fn takes(&self, transport: Transport) -> bool {
        self.transport.is_none_or(|only| only == transport)
    }
}

/// A front port of a load balancer, with its backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Whom it is for
    pub owner: Owner,
    /// Where its traffic goes; none at all is allowed, and refuses connections
    pub backends: BTreeSet<Backend>,
}

impl Listener {
    /// Where the traffic of one of its transports goes: the reverse of
    /// [`Backend::by_transport`].
    #[must_use]
    pub fn backends_of(&self, transport: Transport) -> BTreeSet<Backend> {
        let backends = self.backends.iter().filter(|backend| backend.takes(transport));
        backends.map(|backend| Backend { transport: None, ..backend.clone() }).collect()
    }
}

/// Settings of a load balancer as a whole, by the names that its own API has
/// for them.
pub type Attributes = BTreeMap<String, String>;

/// All that we want of a load balancer, or our part of one as it was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadBalancer {
    /// Its settings; see [`crate::Provider::attributes`]
    pub attributes: Attributes,
    /// Its listeners. No two of them take up the same front port.
    pub listeners: BTreeMap<ListenerKey, Listener>,
}

/// A load balancer as it was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Our part of it
    pub load_balancer: LoadBalancer,
    /// Where clients reach it; empty until it is known
    pub addresses: Vec<Address>,
    /// The IP families of the backends that it sends traffic to; none: not known,
    /// or any. Where there are two, each of its addresses leads to backends of the
    /// address' own family.
    pub families: BTreeSet<IpFamily>,
    /// What fits on it
    pub capacity: Capacity,
    /// Ports that somebody else's listeners hold
    pub foreign: BTreeSet<FrontPort>,
    /// Why it serves nothing yet although it takes listeners (a cloud is still
    /// setting it up), in words for the user. It is looked at again until it does
    pub not_ready: Option<String>,
}

/// Where clients reach a load balancer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// An IP address
    Ip(IpAddr),
    /// A DNS name
    Hostname(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Hostname(name) => name.fmt(f),
        }
    }
}

/// What fits on one load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Listeners, ours and strangers' together; `None`: no limit is known
    pub listeners: Option<u32>,
    /// Targets: backends of all listeners together, one that is behind two
    /// listeners counted twice; `None`: no limit is known
    pub targets: Option<u32>,
}

/// What a provider can do, known without asking any load balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// What a listener may accept
    pub protocols: &'static [Protocol],
    /// Whether a TCP and a UDP listener may have the same port number
    pub tcp_and_udp_share_a_number: bool,
    /// Listeners that a port of protocol `TCP_UDP` takes up: one, or two
    pub listeners_for_tcp_udp: u32,
    /// Whether TCP and UDP of a port of protocol `TCP_UDP` may lead to different
    /// backends (see [`Backend::transport`])
    pub backends_by_transport: bool,
    /// Whether traffic can go to pods' own addresses
    pub pod_targets: bool,
    /// Whether traffic can go to node ports
    pub node_targets: bool,
    /// Ports that are never handed out, not even when asked for
    pub reserved: Vec<FrontPort>,
    /// Listeners for each load balancer where the class does not say
    pub default_listeners: u32,
    /// The most listeners that a load balancer can ever have
    pub max_listeners: u32,
    /// Targets for each load balancer until one tells what fits on it (see
    /// [`Capacity::targets`]); `None`: nobody counts them
    pub default_targets: Option<u32>,
    /// The most targets that one listener can have; `None`: no limit
    pub max_targets_per_listener: Option<u32>,
    /// How long changes of backends are gathered, to go out as one. More than
    /// zero where calls are dear: there, what opens a port also goes ahead of
    /// what tidies up.
    pub gather: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_readable_and_never_longer_than_32_characters() {
        assert_eq!(LbName::new("default", 0, "cluster", "uid").as_str(), "slb-default-0-44d0a5b833");
        let long = LbName::new("a-class.with.a-very-long-name-indeed", 999, "cluster", "uid");
        assert!(long.as_str().len() <= LbName::MAX_LEN, "{long}");
        assert!(long.as_str().starts_with("slb-a-class-with-"), "{long}");
    }

    #[test]
    fn two_clusters_and_a_class_made_again_get_different_names() {
        let ours = LbName::new("default", 0, "cluster-a", "uid");
        assert_ne!(ours, LbName::new("default", 0, "cluster-b", "uid"));
        assert_ne!(ours, LbName::new("default", 0, "cluster-a", "another-uid"));
    }

    fn backends(ports: &[u16]) -> BTreeSet<Backend> {
        let backend = |port: &u16| Backend {
            address: [10, 244, 0, 1].into(),
            port: (*port).try_into().unwrap(),
            pod: None,
            node: None,
            provider_id: None,
            transport: None,
        };
        ports.iter().map(backend).collect()
    }

    #[test]
    fn each_transport_of_a_listener_reads_back_with_its_own_backends() {
        let of = |transport| backends(if transport == Transport::Tcp { &[1, 2] } else { &[2, 3] });
        let owner = Owner { namespace: "".into(), claim: "".into(), port: "".into() };
        let listener = Listener { owner, backends: Backend::by_transport(Protocol::TcpUdp, of) };
        let marks: Vec<_> = listener.backends.iter().map(|backend| (backend.port.get(), backend.transport)).collect();
        assert_eq!(marks, [(1, Some(Transport::Tcp)), (2, None), (3, Some(Transport::Udp))]);
        for transport in [Transport::Tcp, Transport::Udp] {
            assert_eq!(listener.backends_of(transport), of(transport));
        }
    }

    #[test]
    fn backends_that_get_the_traffic_of_every_transport_bear_no_mark() {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::TcpUdp] {
            assert_eq!(Backend::by_transport(protocol, |_| backends(&[1, 2])), backends(&[1, 2]), "{protocol}");
        }
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // Test vectors of the FNV reference implementation.
        assert_eq!(fnv1a([b"".as_slice()]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a([b"a".as_slice()]), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a([b"foobar".as_slice()]), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn an_owner_reads_back_as_it_was_written() {
        for text in ["team-a/redis", "team-a/redis/metrics"] {
            assert_eq!(Owner::parse(text).map(|o| o.to_string()).as_deref(), Some(text));
        }
        for nonsense in
            ["", "nonsense", "/", "//", "team/", "/redis", "team//main", "team/redis/", "team/redis/main/more"]
        {
            assert_eq!(Owner::parse(nonsense), None, "{nonsense}");
        }
    }
}
