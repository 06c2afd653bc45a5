//! A machine on the segment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinHandle;

use super::neighbors::{MacAddress, NeighborQuestions};
use crate::namespace::{NamespaceThread, in_namespace};
use crate::network::ip;

/// A machine in the network namespace of the same name. Its only interface is `eth0`.
#[derive(Debug)]
pub struct Machine {
    name: String,
    number: u8,
    thread: NamespaceThread,
}

impl Machine {
    /// The prefixes of the segment.
    pub const SEGMENT: [&str; 2] = ["10.99.20.0/24", "fd00:99:20::/64"];

    pub(super) fn connect(name: &str, number: u8) -> anyhow::Result<Self> {
        let mac = mac(number);
        let [v4, v6] = addresses(number);
        ip(
            &[],
            &format!(
                "netns add {name}\n\
                 link add {name} type veth peer name eth0 address {mac} netns {name}\n\
                 link set {name} master lan up\n"
            ),
        )?;
        ip(
            &["-n", name],
            &format!("link set lo up\nlink set eth0 up\naddr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n"),
        )?;
        Ok(Self { name: name.to_owned(), number, thread: NamespaceThread::start(name)? })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The addresses of its interface: IPv4, then IPv6.
    pub fn addresses(&self) -> [IpAddr; 2] {
        addresses(self.number)
    }

    /// The link-layer address of its interface.
    pub fn mac(&self) -> MacAddress {
        mac(self.number)
    }

    /// Runs a future whose sockets are those of this machine.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.thread.runtime().spawn(future)
    }

    /// A command that runs on this machine. Its process is the program itself.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Configures its network, one command of `ip` a line.
    ///
    /// # Errors
    /// If a command fails.
    pub fn ip(&self, lines: &str) -> anyhow::Result<()> {
        ip(&["-n", &self.name], lines)
    }

    /// Sets kernel parameters of its network: `net/ipv4/ip_forward` to `1`.
    ///
    /// # Errors
    /// If there is no such parameter.
    pub fn sysctl(&self, parameters: &[(&str, &str)]) -> anyhow::Result<()> {
        // They are those of the namespace of the thread that opens their files.
        in_namespace(&self.name, || {
            for (name, value) in parameters {
                std::fs::write(Path::new("/proc/sys").join(name), value).with_context(|| (*name).to_owned())?;
            }
            Ok(())
        })?
    }

    /// Pulls its cable out of the switch. The machine itself sees no difference.
    ///
    /// # Errors
    /// If that fails.
    pub fn cut(&self) -> anyhow::Result<()> {
        ip(&[], &format!("link set {} nomaster\n", self.name))
    }

    /// Puts its cable back.
    ///
    /// # Errors
    /// If that fails.
    pub fn heal(&self) -> anyhow::Result<()> {
        ip(&[], &format!("link set {} master lan\n", self.name))
    }

    /// Has the machine ask who has these addresses, as often as that, until the result is dropped.
    ///
    /// # Errors
    /// If it has no packet socket.
    pub fn ask_neighbors(&self, addresses: &[IpAddr], every: Duration) -> anyhow::Result<NeighborQuestions> {
        NeighborQuestions::start(self, addresses, every)
    }
}

fn addresses(number: u8) -> [IpAddr; 2] {
    [Ipv4Addr::new(10, 99, 20, number).into(), Ipv6Addr::new(0xfd00, 0x99, 0x20, 0, 0, 0, 0, number.into()).into()]
}

fn mac(number: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, number])
}
