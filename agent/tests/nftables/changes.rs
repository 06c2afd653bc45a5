//! What happens to connections while ports and pods change.

use sharedlb_agent::nftables::DataPath;
use sharedlb_providers::{ListenerKey, ListenerOptions, Protocol};

use crate::Test;
use crate::network::{Connection, Machine, Network, VIPS, data_path, is_dropped, is_refused, listener, with_options};
use crate::tests;

pub(crate) const TESTS: &[(&str, Test)] = tests![
    clients_of_a_pod_that_goes_are_reset_and_datagrams_go_to_another,
    clients_of_a_pod_that_stays_notice_nothing,
    clients_of_a_port_that_closes_are_reset,
    clients_that_are_excluded_later_get_no_answer_on_open_connections,
    connections_that_the_kernel_does_not_know_go_on_with_the_same_pod,
    a_connection_is_not_reset_by_what_its_pod_says_first,
    a_flow_that_reached_the_host_before_its_address_goes_to_a_pod,
    a_new_process_takes_over_and_ends_what_went_meanwhile,
    a_new_seed_ends_no_connection,
    hundreds_of_listeners_are_served,
    nothing_is_left_when_it_is_removed,
];

/// Connections of a client, to each of these pods at least one.
fn connections(pods: &[u8], port: u16) -> Vec<(u8, Connection)> {
    let mut connections = Vec::new();
    for vip in VIPS {
        for &pod in pods {
            let connected = (0..200).map(|_| {
                let mut connection = Machine::Client.connect(vip, port).expect("it connects");
                (connection.ask().expect("a pod answers").pod, connection)
            });
            connections.extend(connected.filter(|(of, _)| *of == pod).take(1));
        }
    }
    assert_eq!(connections.len(), pods.len() * VIPS.len(), "each pod got a connection");
    connections
}

async fn clients_of_a_pod_that_goes_are_reset_and_datagrams_go_to_another(network: &Network) {
    let mut engine = network.serving([listener("20001/TCP_UDP", [1])]).await;
    let connections = connections(&[1], 20001);
    let flows = VIPS.map(|vip| Machine::Client.flow(vip, 20001));
    assert!(flows.iter().all(|flow| flow.ask().unwrap().pod == 1));
    engine.apply(&data_path([listener("20001/TCP_UDP", [2])])).await.unwrap();
    for (_, mut connection) in connections {
        let result = connection.ask();
        assert!(is_refused(&result), "{result:?}");
    }
    assert!(flows.iter().all(|flow| flow.ask().unwrap().pod == 2));
}

async fn clients_of_a_pod_that_stays_notice_nothing(network: &Network) {
    let mut engine = network.serving([listener("20001/TCP_UDP", [1, 2])]).await;
    let mut connections = connections(&[1, 2], 20001);
    let flows: Vec<_> = VIPS.iter().flat_map(|vip| (0..20).map(|_| Machine::Client.flow(*vip, 20001))).collect();
    let pods: Vec<u8> = flows.iter().map(|flow| flow.ask().unwrap().pod).collect();
    let options = ListenerOptions::new(["0.0.0.0/0", "::/0"].map(|range| range.parse().unwrap()), None);
    for listeners in [
        vec![listener("20001/TCP_UDP", [1, 2, 3])],
        vec![listener("20001/TCP_UDP", [1, 2, 3]), listener("20002/TCP", [2])],
        vec![with_options("20001/TCP_UDP", [1, 2], options)],
        vec![listener("20001/TCP", [1, 2]), listener("20001/UDP", [1, 2])],
    ] {
        engine.apply(&data_path(listeners)).await.unwrap();
        for (pod, connection) in &mut connections {
            assert_eq!(connection.ask().unwrap().pod, *pod);
        }
        let now: Vec<u8> = flows.iter().map(|flow| flow.ask().unwrap().pod).collect();
        assert_eq!(now, pods);
    }
}

async fn clients_of_a_port_that_closes_are_reset(network: &Network) {
    let mut engine = network.serving([listener("20001/TCP_UDP", [1, 2]), listener("20002/TCP", [1])]).await;
    let (closing, staying) = (connections(&[1, 2], 20001), connections(&[1], 20002));
    let flows = VIPS.map(|vip| Machine::Client.flow(vip, 20001));
    assert!(flows.iter().all(|flow| flow.ask().is_ok()));
    engine.apply(&data_path([listener("20002/TCP", [1])])).await.unwrap();
    for (_, mut connection) in closing {
        let result = connection.ask();
        assert!(is_refused(&result), "{result:?}");
    }
    for flow in flows {
        let result = flow.ask();
        assert!(is_refused(&result), "{result:?}");
    }
    for (_, mut connection) in staying {
        assert_eq!(connection.ask().unwrap().pod, 1, "another port of the same pod");
    }
}

async fn clients_that_are_excluded_later_get_no_answer_on_open_connections(network: &Network) {
    let mut engine = network.serving([listener("20001/TCP_UDP", [1])]).await;
    let connections = connections(&[1], 20001);
    let flows = VIPS.map(|vip| Machine::Client.flow(vip, 20001));
    assert!(flows.iter().all(|flow| flow.ask().is_ok()));
    let others = Machine::OtherClient.addresses().map(ipnet::IpNet::from);
    let options = ListenerOptions::new(others, None);
    engine.apply(&data_path([with_options("20001/TCP_UDP", [1], options)])).await.unwrap();
    for (_, mut connection) in connections {
        let result = connection.ask();
        assert!(is_dropped(&result), "{result:?}");
    }
    assert!(flows.iter().all(|flow| is_dropped(&flow.ask())));
    assert_eq!(Machine::OtherClient.ask(VIPS[0], 20001).unwrap().pod, 1);
}

/// As on a host that takes an address over from another one.
async fn connections_that_the_kernel_does_not_know_go_on_with_the_same_pod(network: &Network) {
    let _engine = network.serving([listener("20001/TCP_UDP", [1, 2, 3])]).await;
    let connections = connections(&[1, 2, 3], 20001);
    let flows: Vec<_> = VIPS.iter().flat_map(|vip| (0..20).map(|_| Machine::Client.flow(*vip, 20001))).collect();
    let pods: Vec<u8> = flows.iter().map(|flow| flow.ask().unwrap().pod).collect();
    for vip in VIPS {
        network.forget(vip).await;
    }
    for (pod, mut connection) in connections {
        assert_eq!(connection.ask().unwrap().pod, pod);
    }
    let now: Vec<u8> = flows.iter().map(|flow| flow.ask().unwrap().pod).collect();
    assert_eq!(now, pods);
}

/// The host cannot know whose connection it is, but must not end it: the client's next packet
/// tells.
async fn a_connection_is_not_reset_by_what_its_pod_says_first(network: &Network) {
    let _engine = network.serving([listener("20001/TCP", [1])]).await;
    for (vip, (_, mut connection)) in VIPS.into_iter().zip(connections(&[1], 20001)) {
        network.forget(vip).await;
        connection.let_pod_speak();
        let result = connection.read();
        assert!(is_dropped(&result), "the answer is lost: {result:?}");
        assert_eq!(connection.ask().unwrap().pod, 1, "and comes with the client's next packet");
    }
}

/// As where a client goes on to send to a host that has given the address up, and that has it again
/// soon.
async fn a_flow_that_reached_the_host_before_its_address_goes_to_a_pod(network: &Network) {
    let _engine = network.serving([listener("20001/TCP_UDP", [1, 2])]).await;
    let flows = VIPS.map(|vip| Machine::Client.flow(vip, 20001));
    let before = network.without_addresses(|| flows.each_ref().map(|flow| flow.ask()));
    assert!(before.iter().all(is_dropped), "{before:?}");
    for flow in flows {
        let result = flow.ask();
        assert!(result.is_ok(), "{result:?}");
    }
}

async fn a_new_process_takes_over_and_ends_what_went_meanwhile(network: &Network) {
    drop(network.serving([listener("20001/TCP", [1, 2]), listener("20002/TCP", [1])]).await);
    let connections = connections(&[1, 2], 20001);
    let mut closing = connections_to(20002);
    let mut engine = network.engine();
    engine.apply(&data_path([listener("20001/TCP", [2, 3])])).await.unwrap();
    for (pod, mut connection) in connections {
        let result = connection.ask();
        if pod == 2 {
            assert_eq!(result.unwrap().pod, 2);
        } else {
            assert!(is_refused(&result), "{result:?}");
        }
    }
    assert!(is_refused(&closing.ask()));
}

fn connections_to(port: u16) -> Connection {
    let mut connection = Machine::Client.connect(VIPS[0], port).expect("it connects");
    connection.ask().expect("a pod answers");
    connection
}

async fn a_new_seed_ends_no_connection(network: &Network) {
    let mut engine = network.serving([listener("20001/TCP", [1, 2, 3])]).await;
    let connections = connections(&[1, 2, 3], 20001);
    engine.apply(&DataPath { seed: 8, ..data_path([listener("20001/TCP", [1, 2, 3])]) }).await.unwrap();
    for (pod, mut connection) in connections {
        assert_eq!(connection.ask().unwrap().pod, pod);
    }
    assert!(!engine.repair().await.unwrap());
}

async fn hundreds_of_listeners_are_served(network: &Network) {
    let listeners = |ports: std::ops::Range<u16>, pods: [u8; 2]| {
        data_path(ports.map(|port| {
            let key = ListenerKey { port: port.try_into().unwrap(), protocol: Protocol::Tcp };
            (key, listener("1/TCP", pods).1)
        }))
    };
    let mut engine = network.engine();
    for (ports, pods) in [(20000..20700, [1, 2]), (20000..20700, [2, 3]), (20400..21100, [3, 1])] {
        let (first, last) = (ports.start, ports.end - 1);
        engine.apply(&listeners(ports, pods)).await.unwrap();
        for port in [first, last] {
            let answer = Machine::Client.ask(VIPS[0], port).unwrap();
            assert!(pods.contains(&answer.pod), "{port}: {answer:?}");
        }
        assert!(!engine.repair().await.unwrap(), "the kernel has all of it");
    }
    assert!(is_refused(&Machine::Client.ask(VIPS[0], 20000)));
}

async fn nothing_is_left_when_it_is_removed(network: &Network) {
    let mut engine = network.serving([listener("20001/TCP", [1])]).await;
    engine.remove().await.unwrap();
    assert_eq!(Machine::Client.ask(VIPS[0], crate::network::HOST_PORT).unwrap().pod, 0, "it is an address of the host");
    engine.remove().await.expect("once more");
    engine.apply(&data_path([listener("20001/TCP", [2])])).await.unwrap();
    assert_eq!(Machine::Client.ask(VIPS[0], 20001).unwrap().pod, 2);
}
