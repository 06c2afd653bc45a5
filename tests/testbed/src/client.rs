//! A client outside of the cluster: its sockets are in the clients' network
//! namespace, or in another one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};

use crate::cluster::Cluster;
use crate::namespace::NamespaceThread;
use crate::network::CLIENTS;

/// How long one attempt may take. Everything is on one machine, so an answer that is not there
/// by then was lost. It is less than the second after which Linux sends a SYN again, so that a
/// lost one is noticed, and long enough for a machine with much to do.
const ATTEMPT: Duration = Duration::from_millis(900);

/// What a pod answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The pod's name.
    pub name: String,
    /// The address that the pod saw the question come from.
    pub seen: IpAddr,
}

/// A client outside of the cluster.
///
/// It is a thread of this process in another network namespace, so that
/// asking costs no more than its own packets.
pub struct Client(NamespaceThread);

impl Client {
    /// Connects once, and reads the answer.
    pub async fn tcp(&self, address: IpAddr, port: u16) -> anyhow::Result<Answer> {
        let to = SocketAddr::new(address, port);
        let asking = async move {
            let mut stream = TcpStream::connect(to).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            Ok(text)
        };
        self.attempt(&format!("TCP to {to}"), asking).await
    }

    /// Connects by TCP, and keeps the connection open.
    ///
    /// # Errors
    /// If it is refused, or not answered in time.
    pub async fn connect(&self, address: IpAddr, port: u16) -> anyhow::Result<TcpStream> {
        let to = SocketAddr::new(address, port);
        // The socket stays in the namespace of the thread that made it.
        let connecting = async move { tokio::time::timeout(ATTEMPT, TcpStream::connect(to)).await };
        let connected = self.0.runtime().spawn(connecting).await?;
        connected
            .with_context(|| format!("TCP to {to}: no answer within {ATTEMPT:?}"))?
            .with_context(|| format!("TCP to {to}"))
    }

    /// Sends one datagram, and reads the answer.
    pub async fn udp(&self, address: IpAddr, port: u16) -> anyhow::Result<Answer> {
        let to = SocketAddr::new(address, port);
        let any: IpAddr = match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let asking = async move {
            let socket = UdpSocket::bind((any, source_port())).await?;
            socket.connect(to).await?;
            socket.send(b"who are you?\n").await?;
            let mut datagram = [0; 512];
            let length = socket.recv(&mut datagram).await?;
            Ok(String::from_utf8_lossy(&datagram[..length]).into_owned())
        };
        self.attempt(&format!("UDP to {to}"), asking).await
    }

    async fn attempt(
        &self,
        what: &str,
        asking: impl Future<Output = std::io::Result<String>> + Send + 'static,
    ) -> anyhow::Result<Answer> {
        // The timer is made on the client's thread, where it is to run.
        let limited = async { tokio::time::timeout(ATTEMPT, asking).await };
        let text = match self.0.runtime().spawn(limited).await? {
            Ok(answer) => answer.with_context(|| what.to_owned())?,
            Err(_) => bail!("{what}: no answer within {ATTEMPT:?}"),
        };
        parse(&text).with_context(|| format!("{what}: the answer is {text:?}"))
    }
}

/// The source port of the next datagram: one that none has had, until 16,384 have been sent. From
/// a port that was used within the last two minutes, a datagram would belong to the connection
/// that conntrack knows, and would go where that went. Linux itself gives out ports from 32768 on.
fn source_port() -> u16 {
    const PORTS: u16 = 16384;
    static SENT: AtomicU16 = AtomicU16::new(0);
    PORTS + SENT.fetch_add(1, Ordering::Relaxed) % PORTS
}

impl Cluster {
    /// A client outside of the cluster, from where load balancers are reached
    /// as users reach them. Needs [`node`](crate::Parts::node).
    pub fn client(&self) -> anyhow::Result<Client> {
        self.client_in(CLIENTS)
    }

    /// A client in another network namespace that `ip netns` knows.
    pub fn client_in(&self, namespace: &str) -> anyhow::Result<Client> {
        NamespaceThread::start(namespace).map(Client)
    }
}

fn parse(text: &str) -> Option<Answer> {
    let (name, seen) = text.trim_end().split_once(' ')?;
    Some(Answer { name: name.to_owned(), seen: seen.parse().ok()? })
}
