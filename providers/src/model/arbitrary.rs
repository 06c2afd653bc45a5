//! Values of the model for property tests.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::time::Duration;

use proptest::prelude::*;

use super::{
    Address, Backend, Capacity, FrontPort, IpFamily, Listener, ListenerKey, ListenerOptions, LoadBalancer, Observed,
    Owner, Protocol, SessionAffinity, Transport, Unserved,
};

/// Load balancers with few claims, ports and backends, so that two of them have much in
/// common.
pub(crate) fn load_balancers() -> impl Strategy<Value = LoadBalancer> {
    let attributes = prop::collection::btree_map("[ab]", "[xy]", 0..2);
    (attributes, prop::collection::btree_map(keys(), listeners(), 0..6))
        .prop_map(|(attributes, listeners)| LoadBalancer { attributes, listeners })
}

/// Load balancers as they may be observed.
pub(crate) fn observations() -> impl Strategy<Value = Observed> {
    let address = prop_oneof![
        any::<IpAddr>().prop_map(Address::Ip),
        "[a-z]{1,5}(\\.[a-z]{2,3}){1,2}".prop_map(Address::Hostname),
    ];
    let families = prop::sample::subsequence(vec![IpFamily::V4, IpFamily::V6], 0..=2);
    let limit = || prop::option::of(any::<u32>());
    let capacity = (limit(), limit()).prop_map(|(listeners, targets)| Capacity { listeners, targets });
    let unserved = prop_oneof![".{0,9}".prop_map(Unserved::Pending), ".{0,9}".prop_map(Unserved::Refused)];
    let foreign = (ports(), transports()).prop_map(|(port, transport)| FrontPort { port, transport });
    (
        load_balancers(),
        prop::collection::vec(address, 0..3),
        families,
        capacity,
        prop::collection::btree_set(foreign, 0..3),
        prop::collection::btree_map(ports(), ".{0,9}", 0..2),
        prop::collection::btree_map(keys(), unserved, 0..2),
        prop::option::of(".{0,9}"),
    )
        .prop_map(|(load_balancer, addresses, families, capacity, foreign, drift, unserved, not_ready)| Observed {
            load_balancer,
            addresses,
            families: families.into_iter().collect(),
            capacity,
            foreign,
            drift,
            unserved,
            not_ready,
        })
}

fn keys() -> impl Strategy<Value = ListenerKey> {
    (ports(), protocols()).prop_map(|(port, protocol)| ListenerKey { port, protocol })
}

fn ports() -> impl Strategy<Value = NonZeroU16> {
    (1u16..6).prop_map(|port| NonZeroU16::new(port).unwrap())
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop::sample::select(Protocol::ALL.to_vec())
}

fn transports() -> impl Strategy<Value = Transport> {
    prop::sample::select(vec![Transport::Tcp, Transport::Udp])
}

fn listeners() -> impl Strategy<Value = Listener> {
    let owner = prop_oneof![
        1 => Just(Owner::unknown()),
        3 => (0u8..3).prop_map(|n| Owner {
            namespace: "team".into(),
            claim: format!("claim-{n}").into(),
            port: "".into(),
        }),
    ];
    (owner, prop::collection::btree_set(backends(), 0..4), options())
        .prop_map(|(owner, backends, options)| Listener { options, ..Listener::new(owner, backends) })
}

pub(crate) fn options() -> impl Strategy<Value = ListenerOptions> {
    let ranges = prop::sample::subsequence(vec!["10.0.0.0/8", "192.0.2.0/24", "fd00::/8"], 0..=2);
    let timeout = prop::option::of((1u64..3).prop_map(Duration::from_secs));
    let affinity = prop::option::of(timeout.prop_map(|timeout| SessionAffinity { timeout }));
    (ranges, affinity).prop_map(|(ranges, session_affinity)| ListenerOptions {
        source_ranges: ranges.into_iter().map(|range| range.parse().unwrap()).collect(),
        session_affinity,
    })
}

fn backends() -> impl Strategy<Value = Backend> {
    (0u8..4, 1u16..3, prop::option::weighted(0.2, transports())).prop_map(|(host, port, transport)| Backend {
        address: IpAddr::V4(Ipv4Addr::new(10, 244, 0, host)),
        port: NonZeroU16::new(port).unwrap(),
        pod: Some(format!("pod-{host}").into()),
        node: None,
        provider_id: None,
        transport,
    })
}
