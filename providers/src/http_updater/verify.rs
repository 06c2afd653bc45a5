//! Whether ports are open, by connections to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use crate::model::{Address, FrontPort, Transport};

/// How long one connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How many connections are tried at once.
const AT_ONCE: usize = 32;

/// Which of these TCP ports are open at an address. Those of which it is not known by the
/// deadline are not among them, and neither are ports of UDP.
pub(super) async fn open(
    address: &Address,
    ports: BTreeSet<FrontPort>,
    deadline: Instant,
) -> BTreeMap<FrontPort, bool> {
    let tcp = ports.into_iter().filter(|port| port.transport == Transport::Tcp);
    let connecting = tcp.map(|port| async move { (port, connects(address, port).await) });
    let mut results = stream::iter(connecting).buffer_unordered(AT_ONCE);
    let mut known = BTreeMap::new();
    while let Ok(Some((port, is_open))) = timeout_at(deadline, results.next()).await {
        known.insert(port, is_open);
    }
    known
}

async fn connects(address: &Address, port: FrontPort) -> bool {
    let number = port.port.get();
    let connecting = async {
        match address {
            Address::Ip(ip) => TcpStream::connect(SocketAddr::new(*ip, number)).await.map(drop),
            Address::Hostname(name) => {
                let all: Vec<SocketAddr> = lookup_host((name.as_str(), number)).await?.collect();
                TcpStream::connect(all.as_slice()).await.map(drop)
            }
        }
    };
    matches!(timeout(CONNECT_WITHIN, connecting).await, Ok(Ok(())))
}
