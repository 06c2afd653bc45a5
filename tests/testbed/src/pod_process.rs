//! What a pod's process does: it answers every TCP connection and every UDP
//! datagram with one line, its own name and the address that it saw.

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::pod::Protocol;

/// The first argument that makes this program play a pod.
const ROLE: &str = "__testbed-pod";

/// What the process says when it listens everywhere.
const LISTENING: &str = "listening";

const START_LIMIT: Duration = Duration::from_secs(10);

/// Starts the process of a pod, and returns when it listens.
pub(crate) async fn start(name: &str, sockets: &[(Protocol, SocketAddr)]) -> anyhow::Result<Child> {
    // Not by its path, which names another program after the next build.
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0(format!("pod {name}")).args([ROLE, name]);
    for (protocol, address) in sockets {
        command.args([protocol.as_str(), &address.to_string()]);
    }
    let mut child = Command::from(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting pod {name}"))?;
    let output = child.stdout.take().context("the pod has no output")?;
    let mut lines = BufReader::new(output).lines();
    match tokio::time::timeout(START_LIMIT, lines.next_line()).await {
        Ok(Ok(Some(line))) if line == LISTENING => Ok(child),
        _ => bail!("pod {name} does not listen on {sockets:?}"),
    }
}

/// Plays a pod if this program was started as one, until it is killed.
pub(crate) fn play() -> Option<anyhow::Result<()>> {
    let mut arguments = std::env::args_os().skip(1);
    (arguments.next()? == ROLE).then(|| serve(arguments))
}

fn serve(mut arguments: impl Iterator<Item = OsString>) -> anyhow::Result<()> {
    let mut text = || arguments.next().and_then(|each| each.into_string().ok());
    let name = text().context("a pod has a name")?;
    let mut threads = Vec::new();
    while let (Some(protocol), Some(address)) = (text(), text()) {
        let address: SocketAddr = address.parse()?;
        let name = name.clone();
        threads.push(if protocol == Protocol::Tcp.as_str() {
            let listener = TcpListener::bind(address)?;
            std::thread::spawn(move || answer_tcp(&name, &listener))
        } else {
            let socket = UdpSocket::bind(address)?;
            std::thread::spawn(move || answer_udp(&name, &socket))
        });
    }
    println!("{LISTENING}");
    for thread in threads {
        if thread.join().is_err() {
            bail!("pod {name}: a thread panicked");
        }
    }
    // Without ports there is nothing to answer, but the pod still runs.
    loop {
        std::thread::park();
    }
}

fn answer_tcp(name: &str, listener: &TcpListener) {
    loop {
        // A client that went away before it was answered is no trouble of ours.
        if let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(answer(name, peer.ip()).as_bytes());
        }
    }
}

fn answer_udp(name: &str, socket: &UdpSocket) {
    let mut datagram = [0; 2048];
    loop {
        match socket.recv_from(&mut datagram) {
            Ok((_, peer)) => {
                let _ = socket.send_to(answer(name, peer.ip()).as_bytes(), peer);
            }
            // The client of an earlier answer is gone.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => eprintln!("pod {name}: {error}"),
        }
    }
}

fn answer(name: &str, peer: IpAddr) -> String {
    format!("{name} {peer}\n")
}
