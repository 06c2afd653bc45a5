//! What the machines know of connections and neighbors, for a test that fails.

use std::ffi::OsStr;
use std::path::Path;

use sharedlb_testbed::Machine;

use crate::scenario::Segment;

/// To which hosts a machine sends what is for an address.
const NEIGHBORS: &str = "ip neighbor";

/// At the ends of connections: what was sent, acknowledged, and sent again.
const OF_ENDS: [&str; 2] = ["ss -tnoi", NEIGHBORS];

/// At the hosts: addresses, which fences are open, and where connections are led.
const OF_HOSTS: [&str; 5] = [
    "ip address show dev eth0",
    NEIGHBORS,
    "nft list table netdev sharedlb-fence-eth0",
    "conntrack --dump --proto tcp --state ESTABLISHED --family ipv4",
    "conntrack --dump --proto tcp --state ESTABLISHED --family ipv6",
];

/// Prints it.
pub(crate) fn print(segment: &Segment) {
    let path = segment.hosts[0].path();
    for host in &segment.hosts {
        OF_HOSTS.iter().for_each(|command| print_output(host.machine(), &path, command));
    }
    for end in segment.clients.iter().chain([&segment.pods]) {
        OF_ENDS.iter().for_each(|command| print_output(end, &path, command));
    }
}

fn print_output(machine: &Machine, path: &OsStr, command: &str) {
    let mut words = command.split(' ');
    let program = Path::new(words.next().unwrap_or_default());
    let output = machine.command(program).args(words).env("PATH", path).output();
    let text = output.map_or_else(
        |error| error.to_string(),
        |output| String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
    );
    eprintln!("--- {}: {command}\n{text}", machine.name());
}
