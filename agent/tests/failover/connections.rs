//! Long-lived TCP connections, each of which says something all the time and waits for the echo.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use futures::future::join_all;
use sharedlb_testbed::Machine;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often each connection says something.
const TALK_EVERY: Duration = Duration::from_millis(100);

/// How long an echo may take. TCP sends again after 0.2 s, 0.6 s, 1.4 s, 3 s, 6.2 s, 12.6 s and
/// 25.4 s, so a connection that has not recovered by then hangs.
const ECHO_LIMIT: Duration = Duration::from_secs(40);

/// How long connections may take to end before it is reported that they hang.
const HANGS_AFTER: Duration = Duration::from_secs(10);

/// How long those of which most break may take to end.
const SHARED_LIMIT: Duration = Duration::from_secs(2);

/// After which time of silence a client shows that it is there. Where the first host had its
/// request acknowledged and was lost with the answer, the client would wait for ever otherwise: the
/// second host hears of the connection from the client alone.
pub(crate) fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(Duration::from_secs(1)).with_interval(Duration::from_secs(1))
}

/// The next source port that no connection has had, of those that are one client's alone.
static NEXT_OWN_PORT: AtomicU16 = AtomicU16::new(20_000);

/// The next one of those that several clients have. The kernel changes a port below 1024 to another
/// one below 1024, and so not to the port of a connection that has one of its own.
static NEXT_SHARED_PORT: AtomicU16 = AtomicU16::new(600);

/// How many connections there are to an address, of either kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number {
    /// With a source port of their own
    pub(crate) own: u16,
    /// With a source port that a connection of each client has
    pub(crate) shared: u16,
}

/// Connections of several clients to one address.
pub(crate) struct Connections {
    /// With a source port of its own each. To the pod, it is the same connection whichever host
    /// forwards it
    own: Vec<Talk>,
    /// With equal source ports. Where two go to the same pod, the first host changes the port of
    /// one of them, and another host cannot know to what
    shared: Vec<Talk>,
    stop: watch::Sender<bool>,
}

/// How long the slowest echo of a connection took, or why it is dead.
type Talk = JoinHandle<anyhow::Result<Duration>>;

impl Connections {
    /// Opens so many connections, of each client by turns.
    pub(crate) async fn open(clients: &[Machine], to: SocketAddr, number: Number) -> anyhow::Result<Self> {
        let stop = watch::Sender::new(false);
        let own = (0..number.own).map(|_| NEXT_OWN_PORT.fetch_add(1, Ordering::Relaxed)).collect::<Vec<_>>();
        let own = open_all(clients, &own, to, &stop).await?;
        let mut shared = Vec::new();
        while shared.len() < usize::from(number.shared) {
            let port = NEXT_SHARED_PORT.fetch_add(1, Ordering::Relaxed);
            shared.extend(clients.iter().map(|_| port));
        }
        let shared = open_all(clients, &shared, to, &stop).await?;
        Ok(Self { own, shared, stop })
    }

    /// Requires one more echo of each connection, ends those that live, and returns what became of
    /// all of them. It reports that some of those with a source port of their own hang, before they
    /// are given up.
    pub(crate) async fn finish(self, report_hanging: impl FnOnce()) -> Survey {
        self.stop.send_replace(true);
        let mut own = pin!(join_all(self.own));
        let own = match timeout(HANGS_AFTER, &mut own).await {
            Ok(own) => own,
            Err(_) => {
                report_hanging();
                own.await
            }
        };
        let shared = join_all(self.shared.into_iter().map(|talk| timeout(SHARED_LIMIT, talk))).await;
        let shared = shared.into_iter().map(|ended| ended.unwrap_or_else(|_| Ok(Err(anyhow!("it hangs")))));
        Survey { own: Outcome::of(own), shared: Outcome::of(shared) }
    }
}

/// What became of connections of both kinds.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) own: Outcome,
    shared: Outcome,
}

/// What became of connections.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    alive: usize,
    /// The slowest echo of those that live
    slowest: Duration,
    /// Why the others are dead
    pub(crate) dead: Vec<String>,
}

impl Outcome {
    fn of(ended: impl IntoIterator<Item = Result<anyhow::Result<Duration>, JoinError>>) -> Self {
        let mut outcome = Self::default();
        for talk in ended {
            match talk.map_err(anyhow::Error::from).flatten() {
                Ok(slowest) => {
                    outcome.alive += 1;
                    outcome.slowest = outcome.slowest.max(slowest);
                }
                Err(error) => outcome.dead.push(format!("{error:#}")),
            }
        }
        outcome
    }
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |outcome: &Outcome| format!("{}/{}", outcome.alive, outcome.alive + outcome.dead.len());
        write!(
            f,
            "alive {} with a source port of their own (slowest echo {} ms), {} of the others",
            count(&self.own),
            self.own.slowest.as_millis(),
            count(&self.shared)
        )
    }
}

/// Opens a connection from each of these ports, of the clients by turns.
async fn open_all(
    clients: &[Machine],
    ports: &[u16],
    to: SocketAddr,
    stop: &watch::Sender<bool>,
) -> anyhow::Result<Vec<Talk>> {
    let opening: Vec<_> = clients
        .iter()
        .cycle()
        .zip(ports)
        .map(|(client, &from)| client.spawn(open(from, to, stop.subscribe())))
        .collect();
    let mut open = Vec::new();
    for each in opening {
        open.push(each.await?.with_context(|| format!("connecting to {to}"))?);
    }
    Ok(open)
}

async fn open(from: u16, to: SocketAddr, stop: watch::Receiver<bool>) -> anyhow::Result<Talk> {
    let (socket, any): (_, IpAddr) = match to {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (TcpSocket::new_v6()?, Ipv6Addr::UNSPECIFIED.into()),
    };
    socket.set_reuseaddr(true)?;
    SockRef::from(&socket).set_tcp_keepalive(&keepalive())?;
    socket.bind(SocketAddr::new(any, from))?;
    let mut stream =
        BufReader::new(timeout(ECHO_LIMIT, socket.connect(to)).await.context("connecting took too long")??);
    stream.get_ref().set_nodelay(true)?;
    line(&mut stream).await.context("the greeting")?;
    let name = format!("from {}", stream.get_ref().local_addr()?);
    Ok(tokio::spawn(async move { talk(stream, stop).await.context(name) }))
}

/// Talks until it is stopped, with one more echo from then on.
async fn talk(mut stream: BufReader<TcpStream>, mut stop: watch::Receiver<bool>) -> anyhow::Result<Duration> {
    let mut slowest = Duration::ZERO;
    let mut turns = interval(TALK_EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0_u64;
    loop {
        let stopped = *stop.borrow_and_update();
        number += 1;
        let asked = Instant::now();
        stream.write_all(format!("{number}\n").as_bytes()).await?;
        let echo = line(&mut stream).await?;
        ensure!(echo == number.to_string(), "{number} came back as {echo:?}");
        slowest = slowest.max(asked.elapsed());
        if stopped {
            return Ok(slowest);
        }
        tokio::select! {
            _ = turns.tick() => {}
            // The sender lives until it has said so.
            _ = stop.changed() => {}
        }
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let mut line = String::new();
    let read = timeout(ECHO_LIMIT, stream.read_line(&mut line)).await;
    let length = read.with_context(|| format!("no echo within {ECHO_LIMIT:?}"))??;
    ensure!(length > 0, "the connection was closed");
    Ok(line.trim_end().to_owned())
}
