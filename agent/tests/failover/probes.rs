//! A stream of datagrams, and one of new connections.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use sharedlb_testbed::Machine;
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval, timeout};

use crate::connections::keepalive;

/// How often a datagram is sent.
const DATAGRAM_EVERY: Duration = Duration::from_millis(10);

/// How often a connection is attempted, and how long it may take.
const ATTEMPT_EVERY: Duration = Duration::from_millis(50);
const ATTEMPT_LIMIT: Duration = Duration::from_secs(3);

/// Something that a client does again and again until it is stopped.
pub(crate) struct Probe<T> {
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<T>>,
}

impl<T> Probe<T> {
    pub(crate) async fn finish(self) -> anyhow::Result<T> {
        self.stop.send_replace(true);
        self.task.await?
    }
}

/// When each datagram was sent, and whether its echo came.
#[derive(Debug, Default)]
pub(crate) struct Datagrams(BTreeMap<u64, Datagram>);

#[derive(Debug)]
struct Datagram {
    sent: Instant,
    came_back: bool,
}

impl Datagrams {
    /// Sends datagrams from one socket of a client.
    pub(crate) fn start(client: &Machine, to: SocketAddr) -> Probe<Self> {
        let (stop, stopped) = watch::channel(false);
        Probe { stop, task: client.spawn(send_datagrams(to, stopped)) }
    }

    /// How many of those that were sent in this time were lost, and for how long at a stretch.
    pub(crate) fn lost_between(&self, from: Instant, to: Instant) -> Lost {
        let (mut lost, mut since) = (Lost::default(), None);
        for datagram in self.0.values().filter(|datagram| (from..to).contains(&datagram.sent)) {
            if datagram.came_back {
                let stretch = since.take().map_or(Duration::ZERO, |since| datagram.sent.duration_since(since));
                lost.longest = lost.longest.max(stretch);
            } else {
                lost.number += 1;
                since.get_or_insert(datagram.sent);
            }
        }
        lost
    }
}

/// Datagrams that were lost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lost {
    pub(crate) number: usize,
    /// From the first of a stretch of lost ones to the next one that was not lost
    pub(crate) longest: Duration,
}

async fn send_datagrams(to: SocketAddr, stopped: watch::Receiver<bool>) -> anyhow::Result<Datagrams> {
    let socket = match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?,
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await?,
    };
    socket.connect(to).await?;
    let mut datagrams = Datagrams::default();
    let mut turns = interval(DATAGRAM_EVERY);
    let mut buffer = [0; 64];
    while !*stopped.borrow() {
        tokio::select! {
            _ = turns.tick() => {
                let number = datagrams.0.len() as u64;
                datagrams.0.insert(number, Datagram { sent: Instant::now(), came_back: false });
                // Where the address is refused or cannot be reached, the datagram is lost.
                _ = socket.send(&number.to_be_bytes()).await;
            }
            received = socket.recv(&mut buffer) => {
                // An error is about an earlier datagram, which is lost.
                let number = received.ok().and_then(|length| buffer.get(..length)?.try_into().ok());
                let datagram = number.and_then(|number| datagrams.0.get_mut(&u64::from_be_bytes(number)));
                datagram.into_iter().for_each(|datagram| datagram.came_back = true);
            }
        }
    }
    Ok(datagrams)
}

/// What became of connections that were attempted.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    pub(crate) all: usize,
    /// Why the others failed
    pub(crate) failed: Vec<String>,
}

impl Attempts {
    /// Makes a connection again and again.
    pub(crate) fn start(client: &Machine, to: SocketAddr) -> Probe<Self> {
        let (stop, stopped) = watch::channel(false);
        Probe { stop, task: client.spawn(attempt_connections(to, stopped)) }
    }
}

async fn attempt_connections(to: SocketAddr, stopped: watch::Receiver<bool>) -> anyhow::Result<Attempts> {
    let mut attempts = JoinSet::new();
    let mut turns = interval(ATTEMPT_EVERY);
    while !*stopped.borrow() {
        turns.tick().await;
        attempts.spawn(async move {
            let greeted = async {
                let mut greeting = String::new();
                let stream = TcpStream::connect(to).await?;
                SockRef::from(&stream).set_tcp_keepalive(&keepalive())?;
                let length = BufReader::new(stream).read_line(&mut greeting).await?;
                if length == 0 { Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof)) } else { Ok(()) }
            };
            match timeout(ATTEMPT_LIMIT, greeted).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no greeting within {ATTEMPT_LIMIT:?}")),
            }
        });
    }
    let outcomes = attempts.join_all().await;
    Ok(Attempts { all: outcomes.len(), failed: outcomes.into_iter().flatten().collect() })
}
