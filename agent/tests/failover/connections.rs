//! Long-lived TCP connections, each of which says something all the time and waits for the echo.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sharedlb_testbed::Machine;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often each connection says something.
const TALK_EVERY: Duration = Duration::from_millis(100);

/// How long an echo may take. TCP sends again after 0.2 s, 0.6 s, 1.4 s, 3 s, 6.2 s, 12.6 s and
/// 25.4 s, so a connection that has not recovered by then hangs.
const ECHO_LIMIT: Duration = Duration::from_secs(40);

/// The next source port that no connection has had.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);

/// Connections of several clients to one address, with equal source ports.
pub(crate) struct Connections {
    open: Vec<Open>,
    stop: watch::Sender<bool>,
}

struct Open {
    /// The pod that it goes to, and its source port at the client
    at: (u8, u16),
    /// How long its slowest echo took, or why it is dead
    talk: JoinHandle<anyhow::Result<Duration>>,
}

impl Connections {
    /// Opens that many connections of the clients by turns, so that each source port is that of as
    /// many connections as there are clients.
    pub(crate) async fn open(clients: &[Machine], to: SocketAddr, number: u16) -> anyhow::Result<Self> {
        let clients_number = u16::try_from(clients.len())?;
        let ports = number.div_ceil(clients_number);
        let first_port = NEXT_PORT.fetch_add(ports, Ordering::Relaxed);
        let stop = watch::Sender::new(false);
        let mut opening = Vec::new();
        for index in 0..number {
            let client = clients.get(usize::from(index % clients_number)).context("there are clients")?;
            opening.push(client.spawn(open(first_port + index / clients_number, to, stop.subscribe())));
        }
        let mut open = Vec::new();
        for each in opening {
            open.push(each.await?.with_context(|| format!("connecting to {to}"))?);
        }
        Ok(Self { open, stop })
    }

    /// Requires one more echo of each connection, ends those that live, and returns what became of
    /// all of them.
    pub(crate) async fn finish(self) -> anyhow::Result<Survey> {
        self.stop.send_replace(true);
        let mut users: HashMap<(u8, u16), usize> = HashMap::new();
        self.open.iter().for_each(|open| *users.entry(open.at).or_default() += 1);
        let mut survey = Survey::default();
        for Open { at, talk } in self.open {
            let kind = if users.get(&at) == Some(&1) { &mut survey.alone } else { &mut survey.sharing };
            kind.all += 1;
            match talk.await? {
                Ok(slowest) => {
                    kind.alive += 1;
                    survey.slowest = survey.slowest.max(slowest);
                }
                Err(error) => survey.errors.push(format!("{error:#}")),
            }
        }
        Ok(survey)
    }
}

/// What became of connections.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Those whose source port no other connection to the same pod has. To the pod, each of them is
    /// the same connection whichever host forwards it
    pub(crate) alone: Count,
    /// The others. With one source address for all clients, their source ports are changed by the
    /// first host, and another host cannot know to what
    pub(crate) sharing: Count,
    /// The slowest echo of a connection that lives
    pub(crate) slowest: Duration,
    /// Why connections are dead
    pub(crate) errors: Vec<String>,
}

/// Some connections.
#[derive(Debug, Default)]
pub(crate) struct Count {
    pub(crate) alive: usize,
    pub(crate) all: usize,
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { alone, sharing, slowest, .. } = self;
        write!(
            f,
            "alive {}/{} with a source port of their own at their pod, {}/{} of the others; slowest echo {} ms",
            alone.alive,
            alone.all,
            sharing.alive,
            sharing.all,
            slowest.as_millis()
        )
    }
}

async fn open(from: u16, to: SocketAddr, stop: watch::Receiver<bool>) -> anyhow::Result<Open> {
    let (socket, any): (_, IpAddr) = match to {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (TcpSocket::new_v6()?, Ipv6Addr::UNSPECIFIED.into()),
    };
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(any, from))?;
    let mut stream =
        BufReader::new(timeout(ECHO_LIMIT, socket.connect(to)).await.context("connecting took too long")??);
    stream.get_ref().set_nodelay(true)?;
    let greeting = line(&mut stream).await.context("the greeting")?;
    let (pod, _) = greeting.split_once(' ').context("a greeting has two words")?;
    let at = (pod.parse()?, from);
    Ok(Open { at, talk: tokio::spawn(talk(stream, stop)) })
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
