//! What clients reach, and what not.

use std::collections::BTreeSet;

use sharedlb_agent::nftables::SourceAddress;
use sharedlb_providers::{ListenerOptions, SessionAffinity};

use crate::Test;
use crate::network::{
    HOST_PORT, Machine, Network, VIPS, data_path, is_dropped, is_refused, listener, listener_at, with_options,
};
use crate::tests;

pub(crate) const TESTS: &[(&str, Test)] = tests![
    each_port_reaches_its_own_pods_by_every_protocol_and_family,
    connections_are_spread_over_the_pods,
    ports_that_nobody_holds_are_refused_whatever_the_host_listens_on,
    a_listener_without_backends_refuses,
    clients_outside_of_the_source_ranges_get_no_answer,
    a_client_keeps_its_pod_with_session_affinity,
    pods_see_the_address_of_the_load_balancer_or_of_the_host,
    the_host_itself_reaches_the_ports,
    an_address_that_the_host_does_not_have_is_left_alone,
    a_pod_is_a_client_as_any_other_and_may_reach_itself,
    an_answer_of_a_pod_never_reaches_the_pods_of_another_port,
    a_late_answer_of_a_pod_that_is_gone_reaches_no_other_port_either,
];

async fn each_port_reaches_its_own_pods_by_every_protocol_and_family(network: &Network) {
    let listeners = [
        listener("20001/TCP", [1]),
        listener("20001/UDP", [2]),
        listener("20002/TCP_UDP", [3]),
        listener("22/TCP", [2]),
    ];
    let _engine = network.serving(listeners).await;
    for vip in VIPS {
        let tcp = |port| Machine::Client.ask(vip, port).map(|answer| answer.pod).unwrap();
        let udp = |port| Machine::Client.flow(vip, port).ask().map(|answer| answer.pod).unwrap();
        assert_eq!([tcp(20001), udp(20001), tcp(20002), udp(20002), tcp(22)], [1, 2, 3, 3, 2], "{vip}");
    }
}

async fn connections_are_spread_over_the_pods(network: &Network) {
    let _engine = network.serving([listener("20001/TCP_UDP", [1, 2, 3])]).await;
    for vip in VIPS {
        let tcp: BTreeSet<u8> = (0..100).map(|_| Machine::Client.ask(vip, 20001).unwrap().pod).collect();
        let udp: BTreeSet<u8> = (0..100).map(|_| Machine::Client.flow(vip, 20001).ask().unwrap().pod).collect();
        assert_eq!((tcp, udp), ([1, 2, 3].into(), [1, 2, 3].into()), "{vip}");
    }
}

async fn ports_that_nobody_holds_are_refused_whatever_the_host_listens_on(network: &Network) {
    let _engine = network.serving([listener("20001/TCP", [1]), listener("20002/UDP", [1])]).await;
    for vip in VIPS {
        for port in [20002, 20003, HOST_PORT] {
            let result = Machine::Client.ask(vip, port);
            assert!(is_refused(&result), "{vip} {port}/TCP: {result:?}");
        }
        for port in [20001, 20003, HOST_PORT] {
            let result = Machine::Client.flow(vip, port).ask();
            assert!(is_refused(&result), "{vip} {port}/UDP: {result:?}");
        }
        let of_host = Machine::Host.address_like(vip);
        assert_eq!(Machine::Client.ask(of_host, HOST_PORT).unwrap().pod, 0, "it is reached at the host's own address");
        assert_eq!(Machine::Client.flow(of_host, HOST_PORT).ask().unwrap().pod, 0);
    }
}

async fn a_listener_without_backends_refuses(network: &Network) {
    let _engine = network.serving([listener("20001/TCP_UDP", [])]).await;
    for vip in VIPS {
        assert!(is_refused(&Machine::Client.ask(vip, 20001)));
        assert!(is_refused(&Machine::Client.flow(vip, 20001).ask()));
    }
}

async fn clients_outside_of_the_source_ranges_get_no_answer(network: &Network) {
    // The ranges overlap, and one of IPv6 is missing.
    let [v4, _] = Machine::Client.addresses();
    let ranges = ["10.78.0.0/16".to_owned(), "10.78.1.0/24".into(), format!("{v4}/32")];
    let options = ListenerOptions::new(ranges.map(|range| range.parse().unwrap()), None);
    let listeners = [with_options("20001/TCP_UDP", [1], options), listener("20002/TCP", [1])];
    let _engine = network.serving(listeners).await;
    let [vip, vip_v6] = VIPS;
    assert_eq!(Machine::Client.ask(vip, 20001).unwrap().pod, 1);
    assert_eq!(Machine::Client.flow(vip, 20001).ask().unwrap().pod, 1);
    for (client, vip) in [(Machine::OtherClient, vip), (Machine::Client, vip_v6)] {
        let result = client.ask(vip, 20001);
        assert!(is_dropped(&result), "{vip}: {result:?}");
        assert!(is_dropped(&client.flow(vip, 20001).ask()));
        assert_eq!(client.ask(vip, 20002).unwrap().pod, 1, "the other port has no ranges");
    }
}

async fn a_client_keeps_its_pod_with_session_affinity(network: &Network) {
    let options = ListenerOptions::new([], Some(SessionAffinity::default()));
    let _engine = network.serving([with_options("20001/TCP_UDP", [1, 2, 3], options)]).await;
    for vip in VIPS {
        for client in [Machine::Client, Machine::OtherClient] {
            let tcp = (0..40).map(|_| client.ask(vip, 20001).unwrap().pod);
            let udp = (0..40).map(|_| client.flow(vip, 20001).ask().unwrap().pod);
            let pods: BTreeSet<u8> = tcp.chain(udp).collect();
            assert_eq!(pods.len(), 1, "{vip}: {pods:?}");
        }
    }
}

async fn pods_see_the_address_of_the_load_balancer_or_of_the_host(network: &Network) {
    let mut engine = network.engine();
    let mut data_path = data_path([listener("20001/TCP_UDP", [1])]);
    for source_address in [SourceAddress::Vip, SourceAddress::Host, SourceAddress::Vip] {
        for served in data_path.load_balancers.values_mut() {
            served.source_address = source_address;
        }
        engine.apply(&data_path).await.unwrap();
        for vip in VIPS {
            let expected = match source_address {
                SourceAddress::Vip => vip,
                SourceAddress::Host => Machine::Host.address_like(vip),
            };
            assert_eq!(Machine::Client.ask(vip, 20001).unwrap().source, expected);
            assert_eq!(Machine::Client.flow(vip, 20001).ask().unwrap().source, expected);
        }
    }
}

async fn the_host_itself_reaches_the_ports(network: &Network) {
    let _engine = network.serving([listener("20001/TCP_UDP", [1])]).await;
    for vip in VIPS {
        assert_eq!(Machine::Host.ask(vip, 20001).unwrap().pod, 1);
        assert_eq!(Machine::Host.flow(vip, 20001).ask().unwrap().pod, 1);
        assert!(is_refused(&Machine::Host.ask(vip, HOST_PORT)), "what it listens on itself is no port of the address");
    }
}

/// Another host has it, and would get the answers of the pods.
async fn an_address_that_the_host_does_not_have_is_left_alone(network: &Network) {
    let mut data_path = data_path([listener("20001/TCP", [1])]);
    for served in data_path.load_balancers.values_mut() {
        served.addresses = Machine::OtherClient.addresses().into();
    }
    network.engine().apply(&data_path).await.unwrap();
    for address in Machine::OtherClient.addresses() {
        let result = Machine::Host.ask(address, 20001);
        assert!(is_refused(&result), "the other machine refuses it: {result:?}");
    }
}

async fn a_pod_is_a_client_as_any_other_and_may_reach_itself(network: &Network) {
    let _engine = network.serving([listener("20001/TCP_UDP", [1])]).await;
    for vip in VIPS {
        for pod in [1, 2] {
            assert_eq!(Machine::Pod(pod).ask(vip, 20001).unwrap().pod, 1);
            assert_eq!(Machine::Pod(pod).flow(vip, 20001).ask().unwrap().pod, 1);
        }
    }
}

/// Right after a host has taken an address over, it knows no connection. The first packet may be
/// the answer of a pod, to the port of a client, which may be the number of a listener.
async fn an_answer_of_a_pod_never_reaches_the_pods_of_another_port(network: &Network) {
    let port = 9999;
    let _engine = network.serving([listener_at("20001/UDP", [1], port), listener("20002/UDP", [2])]).await;
    for vip in VIPS {
        let result = Machine::Pod(1).flow_from(port, vip, 20002).ask();
        assert!(is_dropped(&result), "neither led nor refused: {result:?}");
        assert_eq!(Machine::Pod(1).flow(vip, 20002).ask().unwrap().pod, 2, "from another port it is a client");
    }
}

/// A pod may go on answering for a while. The host does not remember the connection by then.
async fn a_late_answer_of_a_pod_that_is_gone_reaches_no_other_port_either(network: &Network) {
    let port = 9998;
    let late = |what: &str| {
        for vip in VIPS {
            let result = Machine::Pod(1).flow_from(port, vip, 20002).ask();
            assert!(is_dropped(&result), "{what}, {vip}: {result:?}");
        }
    };
    let with = |pod| data_path([listener_at("20001/UDP", [pod], port), listener("20002/UDP", [2])]);
    let mut engine = network.engine();
    engine.apply(&with(1)).await.unwrap();
    engine.apply(&with(3)).await.unwrap();
    late("its place is taken");
    engine.apply(&with(1)).await.unwrap();
    engine.apply(&data_path([listener("20002/UDP", [2])])).await.unwrap();
    late("it came back, and its port is closed");
    let mut engine = network.engine();
    engine.apply(&data_path([listener("20002/UDP", [2])])).await.unwrap();
    network.nft("insert rule ip sharedlb guard drop").await;
    assert!(engine.repair().await.unwrap());
    late("a new process has made the tables again");
    for vip in VIPS {
        assert_eq!(Machine::Pod(1).flow(vip, 20002).ask().unwrap().pod, 2, "from another port it is a client");
    }
}
