//! The listeners, options and backends of the suite.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::time::Duration;

use crate::Provider;
use crate::model::{
    Backend, BackendSet, Capabilities, LbName, Listener, ListenerKey, ListenerOptions, Owner, Protocol,
    SessionAffinity, Transport,
};

/// One listener of every kind that the provider has.
pub(super) fn everything(provider: &dyn Provider) -> Vec<(ListenerKey, Listener)> {
    let capabilities = provider.capabilities();
    let mut all: Vec<_> = (20000..)
        .zip(&capabilities.protocols)
        .map(|(n, &protocol)| ListenerKey { port: port(n), protocol })
        .map(|key| (key, listener("claim", [v4(1), v4(2), v6(1)])))
        .collect();
    all.push((tcp(20100), listener("without-backends", [])));
    all.push((tcp(20400), Listener { options: wide(&capabilities), ..listener("with-options", [v4(1)]) }));
    if capabilities.backends_by_transport {
        let key = ListenerKey { port: port(20300), protocol: Protocol::TcpUdp };
        all.push((key, apart("claim", [v4(1), v4(2)], [v4(2), v6(1)])));
    }
    if capabilities.tcp_and_udp_share_a_number {
        all.push((tcp(20200), listener("tcp", [v4(1)])));
        all.push((ListenerKey { port: port(20200), protocol: Protocol::Udp }, listener("udp", [v4(2)])));
    }
    all
}

/// A listener with these options, one of the same options and another owner, and one with
/// none.
pub(super) fn with_options(options: &ListenerOptions) -> [(ListenerKey, Listener); 3] {
    let with = |listener: Listener| Listener { options: options.clone(), ..listener };
    [
        (tcp(20000), with(listener("changes", [v4(1)]))),
        (tcp(20001), with(listener("changes-too", []))),
        (tcp(20002), listener("stays", [v4(2)])),
    ]
}

/// Different options that the provider has.
pub(super) fn options_of(provider: &dyn Provider) -> BTreeSet<ListenerOptions> {
    let can = provider.capabilities();
    let ranges = ["192.0.2.0/24", "2001:db8::/32"];
    let all = [options(&can, &[], Some(60)), options(&can, &ranges[..1], None), options(&can, &ranges, Some(60))];
    all.into_iter().filter(|options| !options.is_default()).collect()
}

/// Options that the provider has; the default ones, if it has none.
pub(super) fn wide(can: &Capabilities) -> ListenerOptions {
    options(can, &["10.0.0.0/8", "fd00::/8"], Some(10_800))
}

/// Other options, which exclude clients that [`wide`] admits.
pub(super) fn narrow(can: &Capabilities) -> ListenerOptions {
    options(can, &["10.1.0.0/16"], Some(60))
}

pub(super) fn options(can: &Capabilities, ranges: &[&str], timeout_seconds: Option<u64>) -> ListenerOptions {
    let ranges = ranges.iter().filter(|_| can.source_ranges);
    let affinity = |seconds| SessionAffinity { timeout: Some(Duration::from_secs(seconds)) };
    let session_affinity = timeout_seconds.map(affinity);
    let source_ranges = ranges.map(|range| range.parse().expect("it is a range")).collect();
    ListenerOptions { source_ranges, session_affinity }.offered_by(can)
}

pub(super) fn lb(index: u32) -> LbName {
    LbName::new("conformance", index, "cluster", "class-uid")
}

pub(super) fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("the suite's ports are not zero")
}

pub(super) fn tcp(number: u16) -> ListenerKey {
    ListenerKey { port: port(number), protocol: Protocol::Tcp }
}

pub(super) fn listener(claim: &str, backends: impl IntoIterator<Item = Backend>) -> Listener {
    let owner = Owner { namespace: "team-a".into(), claim: claim.into(), port: "main".into() };
    Listener::new(owner, backends.into_iter().collect::<BackendSet>())
}

/// A listener of both transports, with these backends for TCP and for UDP.
pub(super) fn apart(
    claim: &str,
    tcp: impl IntoIterator<Item = Backend>,
    udp: impl IntoIterator<Item = Backend>,
) -> Listener {
    let (tcp, udp): (BTreeSet<_>, BTreeSet<_>) = (tcp.into_iter().collect(), udp.into_iter().collect());
    let of = |transport| if transport == Transport::Tcp { tcp.clone() } else { udp.clone() };
    listener(claim, Backend::by_transport(Protocol::TcpUdp, of))
}

pub(super) fn v4(host: u8) -> Backend {
    backend(IpAddr::V4(Ipv4Addr::new(10, 244, 0, host)), host)
}

pub(super) fn v6(host: u8) -> Backend {
    backend(IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, host.into())), host)
}

pub(super) fn backend(address: IpAddr, host: u8) -> Backend {
    let pod = Some(format!("pod-{host}").into());
    Backend { address, port: port(6379), pod, node: Some("node-1".into()), provider_id: None, transport: None }
}
