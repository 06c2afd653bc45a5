//! Data paths for tests.

use std::net::Ipv4Addr;

use sharedlb_providers::{Backend, BackendSet, LbName, Listener, ListenerKey, Owner};

use super::{DataPath, ServedLoadBalancer};

/// One load balancer at 10.0.0.10 with these listeners.
pub(super) fn data_path(listeners: impl IntoIterator<Item = (ListenerKey, Listener)>) -> DataPath {
    let served = ServedLoadBalancer {
        addresses: [Ipv4Addr::new(10, 0, 0, 10).into()].into(),
        listeners: listeners.into_iter().collect(),
        ..ServedLoadBalancer::default()
    };
    let name = LbName::new("default", 0, "cluster", "uid");
    DataPath { seed: 7, load_balancers: [(name, served)].into() }
}

/// A listener of this key with these backends.
pub(super) fn listener(key: &str, backends: impl IntoIterator<Item = Backend>) -> (ListenerKey, Listener) {
    let owner = Owner { namespace: "team-a".into(), claim: "redis".into(), port: "".into() };
    (key.parse().unwrap(), Listener::new(owner, backends.into_iter().collect::<BackendSet>()))
}

/// The pod at 10.244.0.x.
pub(super) fn backend(host: u8) -> Backend {
    Backend {
        address: Ipv4Addr::new(10, 244, 0, host).into(),
        port: 8080.try_into().unwrap(),
        pod: None,
        node: None,
        provider_id: None,
        transport: None,
    }
}
