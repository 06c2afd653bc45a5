//! The readable form of the model.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::arbitrary::observations;
use super::{
    Address, AffinitySupport, Backend, Capabilities, Capacity, FrontPort, IpFamily, LbName, Listener, ListenerKey,
    ListenerOptions, LoadBalancer, Observed, Owner, Protocol, SessionAffinity, Transport, Unserved,
};

proptest! {
    #[test]
    fn what_was_written_reads_back_the_same(observed in observations()) {
        let text = serde_json::to_string(&observed).unwrap();
        prop_assert_eq!(serde_json::from_str::<Observed>(&text).unwrap(), observed);
    }
}

/// Other programs and golden files rely on every name and every format in it.
#[test]
fn the_form_of_a_load_balancer_is_stable() {
    let key = |text: &str| text.parse::<ListenerKey>().unwrap();
    let pod = Backend {
        address: "10.244.0.7".parse().unwrap(),
        port: 6379.try_into().unwrap(),
        pod: Some("redis-0".into()),
        node: Some("node-1".into()),
        provider_id: None,
        transport: None,
    };
    let node = Backend {
        address: "fd00::2".parse().unwrap(),
        port: 30417.try_into().unwrap(),
        pod: None,
        node: Some("node-2".into()),
        provider_id: Some("aws:///eu-central-1a/i-0123456789abcdef0".into()),
        transport: Some(Transport::Udp),
    };
    let redis = Owner { namespace: "team-a".into(), claim: "redis".into(), port: "main".into() };
    let dns = Owner { namespace: "team-b".into(), claim: "dns".into(), port: "".into() };
    let options = ListenerOptions {
        source_ranges: ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()].into(),
        session_affinity: Some(SessionAffinity { timeout: Some(Duration::from_secs(10800)) }),
    };
    let observed = Observed {
        load_balancer: LoadBalancer {
            attributes: [("type".into(), "LoadBalancer".into())].into(),
            listeners: [
                (key("20417/TCP"), Listener::new(redis, [pod])),
                (key("20001/TCP_UDP"), Listener { options, ..Listener::new(dns, [node]) }),
            ]
            .into(),
        },
        addresses: vec![Address::Ip("192.0.2.1".parse().unwrap()), Address::Hostname("lb.example.com".into())],
        families: [IpFamily::V4, IpFamily::V6].into(),
        capacity: Capacity { listeners: Some(50), targets: None },
        foreign: BTreeSet::from(["22/TCP".parse::<FrontPort>().unwrap()]),
        drift: [(20003.try_into().unwrap(), "a target group serves no listener".into())].into(),
        unserved: [
            (key("20417/TCP"), Unserved::Pending("its firewall rule is being made".into())),
            (key("20001/TCP_UDP"), Unserved::Refused("its firewall rule is refused".into())),
        ]
        .into(),
        not_ready: Some("it is being set up".into()),
    };
    let expected = json!({
        "loadBalancer": {
            "attributes": {"type": "LoadBalancer"},
            "listeners": {
                "20001/TCP_UDP": {
                    "owner": {"namespace": "team-b", "claim": "dns"},
                    "backends": [{
                        "address": "fd00::2",
                        "port": 30417,
                        "node": "node-2",
                        "providerId": "aws:///eu-central-1a/i-0123456789abcdef0",
                        "transport": "UDP",
                    }],
                    "options": {
                        "sourceRanges": ["10.0.0.0/8", "fd00::/8"],
                        "sessionAffinity": {"timeoutSeconds": 10800},
                    },
                },
                "20417/TCP": {
                    "owner": {"namespace": "team-a", "claim": "redis", "port": "main"},
                    "backends": [{"address": "10.244.0.7", "port": 6379, "pod": "redis-0", "node": "node-1"}],
                },
            },
        },
        "addresses": ["192.0.2.1", "lb.example.com"],
        "families": ["IPv4", "IPv6"],
        "capacity": {"listeners": 50},
        "foreign": ["22/TCP"],
        "drift": {"20003": "a target group serves no listener"},
        "unserved": {
            "20001/TCP_UDP": {"refused": "its firewall rule is refused"},
            "20417/TCP": {"pending": "its firewall rule is being made"},
        },
        "notReady": "it is being set up",
    });
    assert_eq!(serde_json::to_value(&observed).unwrap(), expected);
    assert_eq!(serde_json::from_value::<Observed>(expected).unwrap(), observed);
}

#[test]
fn the_form_of_capabilities_is_stable() {
    let capabilities = Capabilities {
        protocols: [Protocol::Tcp, Protocol::TcpUdp].into(),
        tcp_and_udp_share_a_number: true,
        listeners_for_tcp_udp: 2,
        backends_by_transport: true,
        pod_targets: true,
        node_targets: false,
        source_ranges: true,
        session_affinity: AffinitySupport::FixedTimeout,
        reserved: vec!["22/TCP".parse().unwrap()],
        address_families: [IpFamily::V4].into(),
        default_listeners: 50,
        max_listeners: 100,
        default_targets: None,
        max_targets_per_listener: Some(1000),
        coalesce: Duration::from_millis(1500),
    };
    let expected = json!({
        "protocols": ["TCP", "TCP_UDP"],
        "tcpAndUdpShareANumber": true,
        "listenersForTcpUdp": 2,
        "backendsByTransport": true,
        "podTargets": true,
        "nodeTargets": false,
        "addressFamilies": ["IPv4"],
        "sourceRanges": true,
        "sessionAffinity": "FixedTimeout",
        "reserved": ["22/TCP"],
        "defaultListeners": 50,
        "maxListeners": 100,
        "maxTargetsPerListener": 1000,
        "coalesceMilliseconds": 1500,
    });
    assert_eq!(serde_json::to_value(&capabilities).unwrap(), expected);
    assert_eq!(serde_json::from_value::<Capabilities>(expected).unwrap(), capabilities);
}

#[test]
fn a_name_is_a_string() {
    let name = LbName::new("default", 0, "cluster", "uid");
    assert_eq!(serde_json::to_value(&name).unwrap(), json!(name.as_str()));
    assert_eq!(serde_json::from_value::<LbName>(json!(name.as_str())).unwrap(), name);
}

/// As it is where an older version wrote it.
#[test]
fn what_is_left_out_has_a_default_and_what_is_not_known_is_ignored() {
    let observed: Observed = serde_json::from_value(json!({"addresses": ["192.0.2.1"], "fromTheFuture": 1})).unwrap();
    let addresses = vec![Address::Ip("192.0.2.1".parse().unwrap())];
    assert_eq!(observed, Observed { addresses, ..Observed::default() });
}
