//! The network inside: one network namespace that is the cluster, a second
//! one that is the world outside of it, and a cable between them.

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::pod::Families;

/// The network namespace, as `ip netns` names it, that the clients are in.
///
/// They have to be in one of their own, since a load balancer's address has no
/// route on the node itself.
pub const CLIENTS: &str = "clients";

/// The pods' addresses.
pub(crate) const POD_RANGES: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/64"];
/// The Services' addresses.
pub(crate) const SERVICE_RANGES: [&str; 2] = ["10.0.0.0/16", "fd00:10::/108"];
/// The load balancers' addresses. They begin at 1, or 0 would be handed out.
pub(crate) const POOLS: [&str; 2] = ["10.99.0.1-10.99.0.250", "fd00:99::1-fd00:99::fa"];
/// The nodes' addresses.
pub(crate) const NODE_RANGES: [&str; 2] = ["10.99.8.0/24", "fd00:99:8::/64"];

/// How many nodes there can be. Their addresses are there from the start, since
/// kube-proxy looks for the addresses of node ports only now and then.
pub(crate) const MAX_NODES: u8 = 16;

/// What the clients' cable looks like from here, and from there.
const CABLE: &str = "\
link set lo up
netns add clients
link add clients type veth peer name eth0 netns clients
link set clients up
";
const CLIENTS_END: &str = "\
link set lo up
link set eth0 up
";
const CABLE_V4: &str = "addr add 10.99.9.1/24 dev clients\n";
const CLIENTS_END_V4: &str = "\
addr add 10.99.9.2/24 dev eth0
route add default via 10.99.9.1
";
// Without `nodad` an address is of no use for its first seconds.
const CABLE_V6: &str = "addr add fd00:99:9::1/64 dev clients nodad\n";
const CLIENTS_END_V6: &str = "\
addr add fd00:99:9::2/64 dev eth0 nodad
route add ::/0 via fd00:99:9::1
";

/// The network of the namespace that this program is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Network {
    ipv4: bool,
    /// Whether nodes, pods, Services and clients have IPv6 addresses.
    pub(crate) ipv6: bool,
}

impl Network {
    /// Connects the two namespaces.
    pub(crate) fn set_up(families: Families) -> anyhow::Result<Self> {
        ip(&[], CABLE)?;
        ip(&["-n", CLIENTS], CLIENTS_END)?;
        let ipv4 = families != Families::V6;
        if ipv4 {
            ip(&[], CABLE_V4)?;
            ip(&["-n", CLIENTS], CLIENTS_END_V4)?;
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("forwarding IPv4")?;
        // By default, a client gets one ICMP error in a second (icmp_ratelimit in the kernel's
        // ip-sysctl.rst), and the clients of all tests have one address.
        std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0").context("not limiting refusals by IPv4")?;
        // The loopback device, now up, has got its address iff there is IPv6.
        let has_ipv6 = std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|addresses| addresses.contains(" lo"));
        ensure!(has_ipv6 || families != Families::V6, "this machine has no IPv6");
        let ipv6 = has_ipv6 && families != Families::V4;
        if ipv6 {
            ip(&[], CABLE_V6)?;
            ip(&["-n", CLIENTS], CLIENTS_END_V6)?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").context("forwarding IPv6")?;
            std::fs::write("/proc/sys/net/ipv6/icmp/ratelimit", "0").context("not limiting refusals by IPv6")?;
        }
        let network = Self { ipv4, ipv6 };
        for number in 1..=MAX_NODES {
            network.node_addresses(number).into_iter().try_for_each(add_address)?;
        }
        Ok(network)
    }

    /// Those of an IPv4 and an IPv6 value that this network has a use for.
    pub(crate) fn families<T>(&self, both: [T; 2]) -> Vec<T> {
        both.into_iter().zip([self.ipv4, self.ipv6]).filter_map(|(value, used)| used.then_some(value)).collect()
    }

    /// The addresses of the pod with this number, counted from 1.
    pub(crate) fn pod_addresses(&self, number: u16) -> Vec<IpAddr> {
        let [high, low] = number.to_be_bytes();
        self.families([
            Ipv4Addr::new(10, 244, high, low).into(),
            Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, number).into(),
        ])
    }

    /// The addresses of the node with this number, counted from 1.
    pub(crate) fn node_addresses(&self, number: u8) -> Vec<IpAddr> {
        self.families([
            Ipv4Addr::new(10, 99, 8, number).into(),
            Ipv6Addr::new(0xfd00, 0x99, 8, 0, 0, 0, 0, number.into()).into(),
        ])
    }
}

/// Gives this namespace an address. It goes to the loopback device: all pods
/// and nodes are in here.
pub(crate) fn add_address(address: IpAddr) -> anyhow::Result<()> {
    // Else an IPv6 address cannot be listened on for a moment.
    let at_once = if address.is_ipv6() { "nodad" } else { "" };
    ip(&[], &format!("addr add {address} dev lo {at_once}\n"))
}

/// Takes an address away again.
pub(crate) fn remove_address(address: IpAddr) -> anyhow::Result<()> {
    ip(&[], &format!("addr del {address} dev lo\n"))
}

/// Moves the calling thread, and no other, to a network namespace.
pub(crate) fn enter_namespace(name: &str) -> anyhow::Result<()> {
    let path = Path::new("/run/netns").join(name);
    let namespace = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("entering {}", path.display()))
}

/// Runs `ip` with these options, and one command a line: `&["-n", "router"]` and
/// `link set lo up`.
///
/// # Errors
/// If a command fails: none after it is run.
pub fn ip(options: &[&str], lines: &str) -> anyhow::Result<()> {
    let mut process = Command::new("ip")
        .args(options)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running ip (Debian package iproute2)")?;
    if let Some(mut input) = process.stdin.take() {
        input.write_all(lines.as_bytes())?;
    }
    let output = process.wait_with_output()?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("ip {}: {reason}\nof\n{lines}", options.join(" "));
    }
    Ok(())
}
