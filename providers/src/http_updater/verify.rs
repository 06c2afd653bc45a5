//! Whether something listens on ports, by connections to them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use crate::model::{Address, FrontPort, Transport};

/// How long one connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How many connections are tried at once.
const AT_ONCE: usize = 32;

/// What a connection to a port has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listening {
    /// Something listens there.
    Open,
    /// Nothing listens there: the host has refused the connection.
    Closed,
    /// Not known: there was no answer in time, or the host cannot be reached.
    Unknown,
}

/// What connections to these TCP ports of an address find, as far as its IP addresses are admitted.
/// Those that were not tried by the deadline are not in the result, and neither are ports of UDP.
pub(super) async fn listening(
    address: &Address,
    admits: fn(IpAddr) -> bool,
    ports: BTreeSet<FrontPort>,
    deadline: Instant,
) -> BTreeMap<FrontPort, Listening> {
    let tcp = ports.into_iter().filter(|port| port.transport == Transport::Tcp);
    let connecting = tcp.map(|port| async move { (port, connect(address, admits, port).await) });
    let mut results = stream::iter(connecting).buffer_unordered(AT_ONCE);
    let mut known = BTreeMap::new();
    while let Ok(Some((port, listening))) = timeout_at(deadline, results.next()).await {
        known.insert(port, listening);
    }
    known
}

async fn connect(address: &Address, admits: fn(IpAddr) -> bool, port: FrontPort) -> Listening {
    match timeout(CONNECT_WITHIN, connect_to_any(address, admits, port)).await {
        Ok(Ok(listening)) => listening,
        Ok(Err(_)) | Err(_) => Listening::Unknown,
    }
}

/// A port is closed only if each IPv4 address of the host refuses a connection to it. The files of
/// the updater have NGINX listen on IPv4 alone.
async fn connect_to_any(address: &Address, admits: fn(IpAddr) -> bool, port: FrontPort) -> io::Result<Listening> {
    let number = port.port.get();
    let all: Vec<SocketAddr> = match address {
        Address::Ip(ip) => vec![SocketAddr::new(*ip, number)],
        Address::Hostname(name) => lookup_host((name.as_str(), number)).await?.filter(SocketAddr::is_ipv4).collect(),
    };
    let admitted: Vec<SocketAddr> = all.into_iter().filter(|one| admits(one.ip())).collect();
    let mut refused = 0;
    for one in &admitted {
        match TcpStream::connect(one).await {
            Ok(_) => return Ok(Listening::Open),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => refused += 1,
            Err(_) => {}
        }
    }
    Ok(if refused > 0 && refused == admitted.len() { Listening::Closed } else { Listening::Unknown })
}
