//! A segment with two clients, a host that is a load balancer, and three pods.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use anyhow::anyhow;
use sharedlb_agent::Program;
use sharedlb_agent::nftables::conntrack::Connections;
use sharedlb_agent::nftables::{DataPath, Engine, Programs, ServedLoadBalancer};
use sharedlb_providers::{Backend, LbName, Listener, ListenerKey, ListenerOptions, Owner};
use sharedlb_testbed::{Lan, Testbed, in_namespace};

/// The addresses of the load balancer.
pub(crate) const VIPS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 99, 20, 100)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x99, 0x20, 0, 0, 0, 0, 0x100))];

/// The port of the pods.
pub(crate) const POD_PORT: u16 = 8080;

/// A port on which the host itself listens, at all of its addresses.
pub(crate) const HOST_PORT: u16 = 2222;

/// How long a client waits for an answer that it does not expect.
const PATIENCE: Duration = Duration::from_millis(500);

/// The machines of the network: a process has one.
static MACHINES: OnceLock<Vec<sharedlb_testbed::Machine>> = OnceLock::new();

/// A machine of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machine {
    /// The host that serves the load balancer
    Host,
    /// A client
    Client,
    /// Another one
    OtherClient,
    /// A pod, by its number from 1 to 3
    Pod(u8),
}

impl Machine {
    const ALL: [Self; 6] = [Self::Host, Self::Client, Self::OtherClient, Self::Pod(1), Self::Pod(2), Self::Pod(3)];

    /// Its name.
    fn name(self) -> String {
        match self {
            Self::Host => "host".into(),
            Self::Client => "client".into(),
            Self::OtherClient => "other-client".into(),
            Self::Pod(number) => format!("pod-{number}"),
        }
    }

    fn machine(self) -> &'static sharedlb_testbed::Machine {
        let name = self.name();
        let mut machines = MACHINES.get().into_iter().flatten();
        machines.find(|machine| machine.name() == name).expect("the network is set up")
    }

    /// Its IPv4 and its IPv6 address.
    pub(crate) fn addresses(self) -> [IpAddr; 2] {
        self.machine().addresses()
    }

    /// Its address of the same family as another one.
    pub(crate) fn address_like(self, other: IpAddr) -> IpAddr {
        let [v4, v6] = self.addresses();
        if other.is_ipv4() { v4 } else { v6 }
    }

    /// Runs something on a thread of this machine.
    fn run<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        in_namespace(self.machine().name(), work).expect("its namespace")
    }

    /// Connects by TCP.
    pub(crate) fn connect(self, to: IpAddr, port: u16) -> std::io::Result<Connection> {
        let stream = self.run(|| TcpStream::connect_timeout(&SocketAddr::new(to, port), PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let reader = BufReader::new(stream.try_clone()?);
        Ok(Connection { stream, reader })
    }

    /// The answer of the pod that a new connection by TCP reaches.
    pub(crate) fn ask(self, to: IpAddr, port: u16) -> std::io::Result<Answer> {
        self.connect(to, port)?.ask()
    }

    /// A socket for datagrams to this port.
    pub(crate) fn flow(self, to: IpAddr, port: u16) -> Flow {
        self.flow_from(0, to, port)
    }

    /// The same from this port; 0: any.
    pub(crate) fn flow_from(self, from: u16, to: IpAddr, port: u16) -> Flow {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = self.run(|| UdpSocket::bind((any, from)).expect("a free port"));
        socket.connect((to, port)).expect("there is a route");
        socket.set_read_timeout(Some(PATIENCE)).expect("any timeout");
        Flow(socket)
    }
}

/// What a pod answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The number of the pod
    pub(crate) pod: u8,
    /// The source address that it saw
    pub(crate) source: IpAddr,
}

impl Answer {
    fn parse(text: &str) -> std::io::Result<Self> {
        let parts = text.trim().split_once(' ');
        let answer =
            parts.and_then(|(pod, source)| Some(Self { pod: pod.parse().ok()?, source: source.parse().ok()? }));
        answer.ok_or_else(|| std::io::Error::new(ErrorKind::UnexpectedEof, format!("no answer: {text:?}")))
    }
}

/// A connection by TCP to a pod.
pub(crate) struct Connection {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// Sends a line, and reads the answer.
    pub(crate) fn ask(&mut self) -> std::io::Result<Answer> {
        self.stream.write_all(b"who are you?\n")?;
        self.read()
    }

    /// Has the pod answer once more, without a question. (It sees the port of the client.)
    pub(crate) fn let_pod_speak(&self) {
        let port = self.stream.local_addr().expect("it is connected").port();
        let accepted = ACCEPTED.lock().expect("no panic");
        let of_client =
            |(number, stream): &(u8, TcpStream)| Some((*number, stream.peer_addr().ok()?, stream.try_clone().ok()?));
        let mut streams = accepted.iter().rev().filter_map(of_client);
        let (number, peer, mut stream) =
            streams.find(|(_, peer, _)| peer.port() == port).expect("a pod has the connection");
        stream.write_all(answer(number, peer).as_bytes()).expect("it is open for the pod");
    }

    /// Reads an answer.
    pub(crate) fn read(&mut self) -> std::io::Result<Answer> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        Answer::parse(&line)
    }
}

/// Datagrams from one socket.
pub(crate) struct Flow(UdpSocket);

impl Flow {
    /// Sends a datagram, and reads the answer.
    pub(crate) fn ask(&self) -> std::io::Result<Answer> {
        self.0.send(b"who are you?")?;
        let mut datagram = [0; 100];
        let length = self.0.recv(&mut datagram)?;
        Answer::parse(&String::from_utf8_lossy(&datagram[..length]))
    }
}

/// Whether it was refused, and not merely left unanswered.
pub(crate) fn is_refused<T>(result: &std::io::Result<T>) -> bool {
    result
        .as_ref()
        .is_err_and(|error| matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset))
}

/// Whether no answer came.
pub(crate) fn is_dropped<T>(result: &std::io::Result<T>) -> bool {
    result.as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock))
}

/// The network, with everything in it.
pub(crate) struct Network {
    programs: Programs,
    _lan: Lan,
}

impl Network {
    /// Makes the machines and what is on them. `None`: there is no conntrack.
    pub(crate) fn set_up(testbed: Testbed) -> anyhow::Result<Option<Self>> {
        let lan = Lan::start(testbed)?;
        let machines = Machine::ALL.iter().map(|machine| lan.machine(&machine.name())).collect::<Result<_, _>>()?;
        MACHINES.set(machines).map_err(|_| anyhow!("there is one network"))?;
        let host = Machine::Host.machine();
        add_addresses(host)?;
        host.sysctl(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            // By default a client gets one ICMP error in a second.
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
        ])?;
        for number in 1..=3 {
            Machine::Pod(number).serve(POD_PORT, number)?;
        }
        Machine::Host.serve(HOST_PORT, 0)?;
        let Some(conntrack) = lan.conntrack(host) else { return Ok(None) };
        let programs = Programs {
            nft: Program::new(["ip", "netns", "exec", host.name(), "nft"]),
            conntrack: Program::new(conntrack.iter().map(String::as_str)),
        };
        Ok(Some(Self { programs, _lan: lan }))
    }

    /// The programs of the host.
    pub(crate) fn programs(&self) -> &Programs {
        &self.programs
    }

    /// An engine as in a process that was just started.
    pub(crate) fn engine(&self) -> Engine {
        Engine::new(self.programs.clone())
    }

    /// An engine that has made the tables for these listeners.
    pub(crate) async fn serving(&self, listeners: impl IntoIterator<Item = (ListenerKey, Listener)>) -> Engine {
        let mut engine = self.engine();
        engine.apply(&data_path(listeners)).await.expect("the tables are made");
        engine
    }

    /// Has the host know of no connection to an address of the load balancer.
    pub(crate) async fn forget(&self, vip: IpAddr) {
        self.programs.conntrack.run(&Connections::To(vip).deletion(), "").await.expect("there are connections");
    }

    /// Runs something while the host does not have the addresses, and the client still sends there.
    pub(crate) fn without_addresses<T>(&self, work: impl FnOnce() -> T) -> T {
        let (host, client) = (Machine::Host.machine(), Machine::Client.machine());
        for vip in VIPS {
            let mac = host.mac();
            client.ip(&format!("neighbor replace {vip} lladdr {mac} dev eth0 nud permanent\n")).expect("ip takes it");
            host.ip(&format!("addr del {vip} dev eth0\n")).expect("the host has it");
        }
        let result = work();
        add_addresses(host).expect("the host does not have them");
        result
    }

    /// Another program changes the tables of the host.
    pub(crate) async fn nft(&self, commands: &str) {
        let arguments = ["-f", "-"].map(str::to_owned);
        self.programs.nft.run(&arguments, commands).await.expect("nft takes it");
    }
}

/// Adds the addresses of the load balancer to the host.
fn add_addresses(host: &sharedlb_testbed::Machine) -> anyhow::Result<()> {
    let [v4, v6] = VIPS;
    // With a lifetime as a preferred address, it would be the source of the host's own packets.
    host.ip(&format!("addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad valid_lft forever preferred_lft 0\n"))
}

impl Machine {
    /// Answers every line of TCP and every datagram with a number and the source address, at all
    /// addresses.
    fn serve(self, port: u16, number: u8) -> anyhow::Result<()> {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let listener = self.run(|| TcpListener::bind(any))?;
        let socket = self.run(|| UdpSocket::bind(any))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer_lines(&stream, number));
            }
        });
        std::thread::spawn(move || answer_datagrams(&socket, number));
        Ok(())
    }
}

/// The connections that pods have.
static ACCEPTED: Mutex<Vec<(u8, TcpStream)>> = Mutex::new(Vec::new());

fn answer_lines(mut stream: &TcpStream, number: u8) {
    let (Ok(peer), Ok(same)) = (stream.peer_addr(), stream.try_clone()) else { return };
    ACCEPTED.lock().expect("no panic").push((number, same));
    for line in BufReader::new(stream).lines() {
        // A client that is gone ends this.
        if line.and_then(|_| stream.write_all(answer(number, peer).as_bytes())).is_err() {
            return;
        }
    }
}

fn answer_datagrams(socket: &UdpSocket, number: u8) {
    let mut datagram = [0; 100];
    loop {
        // The client of an earlier answer may be gone.
        if let Ok((_, peer)) = socket.recv_from(&mut datagram) {
            _ = socket.send_to(answer(number, peer).as_bytes(), peer);
        }
    }
}

fn answer(number: u8, peer: SocketAddr) -> String {
    format!("{number} {}\n", peer.ip().to_canonical())
}

/// A load balancer at the host's two addresses, with these listeners.
pub(crate) fn data_path(listeners: impl IntoIterator<Item = (ListenerKey, Listener)>) -> DataPath {
    let served = ServedLoadBalancer {
        addresses: VIPS.into(),
        listeners: listeners.into_iter().collect(),
        ..ServedLoadBalancer::default()
    };
    DataPath { seed: 7, load_balancers: [(LbName::new("default", 0, "cluster", "uid"), served)].into() }
}

/// A listener that leads to these pods, by IPv4 and IPv6.
pub(crate) fn listener(key: &str, pods: impl IntoIterator<Item = u8>) -> (ListenerKey, Listener) {
    listener_at(key, pods, POD_PORT)
}

/// The same with options.
pub(crate) fn with_options(
    key: &str,
    pods: impl IntoIterator<Item = u8>,
    options: ListenerOptions,
) -> (ListenerKey, Listener) {
    let (key, listener) = listener(key, pods);
    (key, Listener { options, ..listener })
}

/// A listener that leads to another port of the pods.
pub(crate) fn listener_at(key: &str, pods: impl IntoIterator<Item = u8>, port: u16) -> (ListenerKey, Listener) {
    let backend = |address: IpAddr| Backend {
        address,
        port: port.try_into().expect("not zero"),
        pod: None,
        node: None,
        provider_id: None,
        transport: None,
    };
    let backends: BTreeSet<Backend> =
        pods.into_iter().flat_map(|pod| Machine::Pod(pod).addresses()).map(backend).collect();
    let owner = Owner { namespace: "team-a".into(), claim: "claim".into(), port: "".into() };
    (key.parse().expect("a key"), Listener::new(owner, backends))
}
