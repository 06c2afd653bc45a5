//! The pods: three addresses of one machine, each with a server that greets and echoes. One of them
//! takes its time over TCP: its clients have their data acknowledged, and wait in silence for the
//! answer, whenever a host fails.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sharedlb_testbed::Machine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::sleep;

/// The numbers of the pods.
pub(crate) const PODS: [u8; 3] = [1, 2, 3];

/// The pod that takes its time, and how long: longer than TCP delays an acknowledgement.
const SLOW_POD: u8 = 3;
const SLOWNESS: Duration = Duration::from_millis(300);

/// Where each pod listens, by TCP and by UDP.
pub(crate) const PORT: u16 = 7000;

/// The addresses of pods.
pub(crate) const RANGES: [&str; 2] = ["10.244.1.0/24", "fd00:10:244:1::/64"];

/// The addresses of a pod: IPv4, then IPv6.
pub(crate) fn addresses(pod: u8) -> [IpAddr; 2] {
    [Ipv4Addr::new(10, 244, 1, pod).into(), Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, pod.into()).into()]
}

/// Starts all pods on a machine. When it returns, they listen.
pub(crate) async fn start(machine: &Machine) -> anyhow::Result<()> {
    for pod in PODS {
        for address in addresses(pod) {
            let at_once = if address.is_ipv6() { " nodad" } else { "" };
            machine.ip(&format!("addr add {address} dev lo{at_once}\n"))?;
            let socket = SocketAddr::new(address, PORT);
            machine.spawn(async move { serve(pod, socket).await }).await??;
        }
    }
    Ok(())
}

/// Serves at this address until the machine ends.
async fn serve(pod: u8, address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let datagrams = UdpSocket::bind(address).await?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // A client may end a connection in any way.
                _ = echo(stream, pod).await;
            });
        }
    });
    tokio::spawn(async move {
        let mut datagram = [0; 64];
        loop {
            // An error is that of an earlier datagram, whose client is gone.
            if let Ok((length, peer)) = datagrams.recv_from(&mut datagram).await {
                _ = datagrams.send_to(datagram.get(..length).unwrap_or_default(), peer).await;
            }
        }
    });
    Ok(())
}

async fn echo(mut stream: TcpStream, pod: u8) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{pod}\n").as_bytes()).await?;
    let mut received = [0; 64];
    loop {
        let length = stream.read(&mut received).await?;
        let Some(received @ [_, ..]) = received.get(..length) else { return Ok(()) };
        if pod == SLOW_POD {
            sleep(SLOWNESS).await;
        }
        stream.write_all(received).await?;
    }
}
