//! The fence: a host says that it has the addresses of a load balancer only while it says so by VRRP
//! too.
//!
//! A host whose keepalived was killed, or stands still, still has the addresses, and its kernel goes
//! on to answer ARP requests and neighbor solicitations for them, while another host has taken them
//! over. So what it says depends on a set in the kernel whose elements time out before another host
//! takes over. Each advert that leaves this host adds the element of its virtual router, or renews
//! it, by a rule of nftables. No process has a part in that: a fence opens with the first advert,
//! stays open while the agent is busy, and closes whatever ended the adverts: the death of
//! keepalived, a frozen virtual machine, an advert with priority 0.
//!
//! Packets are forwarded whether the fence is open or closed, so that a client which still sends to
//! this host is served until it has learned of the other one.
//!
//! The agent has what is not urgent: it puts the rules back where another program has removed them,
//! and has the kernel forget the connections to addresses that another host has by then. See
//! `docs/decisions/039-fence-and-ownership-of-addresses.md`.

mod absences;
mod changes;
mod listing;
mod rules;

use std::io;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::timeout;

use crate::nftables::Programs;
use crate::nftables::conntrack::Connections;
use crate::program::ProgramError;
use crate::virtual_router::{Interface, VirtualRouter};
use absences::Absences;
use changes::Changes;
use listing::Listing;

/// How often the rules are checked if the kernel reports no change of them.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The fence of one interface, in the kernel of this network namespace. When this is dropped, the
/// fence stays there.
#[derive(Debug)]
pub struct Fence {
    programs: Programs,
    interface: Interface,
    routers: Vec<VirtualRouter>,
    /// The rules, as they were listed when they were made
    made: Vec<Value>,
    absences: Absences,
    changes: Changes,
}

impl Fence {
    /// Fences the addresses of these virtual routers, which are those of one interface. It is
    /// closed until their first advert leaves, so keepalived is started after it.
    ///
    /// It needs Linux 5.16 with `CONFIG_NETFILTER_EGRESS`, and the capability `NET_ADMIN`.
    ///
    /// # Errors
    /// If one of these is missing, a program fails, or there is no such interface.
    pub async fn close(programs: Programs, interface: Interface, routers: Vec<VirtualRouter>) -> Result<Self, Error> {
        let changes = Changes::open().map_err(Error::Changes)?;
        let absences = Absences::default();
        let mut fence = Self { programs, interface, routers, made: Vec::new(), absences, changes };
        fence.make().await?;
        Ok(fence)
    }

    /// Fences the addresses of these virtual routers in place of the former ones. What is open
    /// stays open.
    ///
    /// # Errors
    /// If `nft` fails. Then the former rules are there still.
    pub async fn update(&mut self, routers: Vec<VirtualRouter>) -> Result<(), Error> {
        self.load(&rules::changed(&self.interface, &routers)).await?;
        self.routers = routers;
        self.made = self.list().await?.definition;
        Ok(())
    }

    /// Keeps the fence as it was made, and what the kernel remembers of connections in step with it.
    /// What fails is logged, and tried again within a second.
    pub async fn keep(&mut self) -> ! {
        let table = rules::table(&self.interface);
        loop {
            // Without reports, the rules are checked as often as without changes.
            if let Ok(Err(error)) = timeout(CHECK_EVERY, self.changes.of_table(&table)).await {
                tracing::error!(%error, "changes of nftables are not reported");
                tokio::time::sleep(CHECK_EVERY).await;
            }
            if let Err(error) = self.check().await {
                tracing::error!(%error, interface = self.interface.as_str(), "the fence cannot be kept");
            }
        }
    }

    /// Repairs the fence, and forgets the connections to addresses that another host has.
    async fn check(&mut self) -> Result<(), Error> {
        let listing = self.list().await?;
        if listing.definition != self.made {
            tracing::warn!(interface = self.interface.as_str(), "another program has altered or removed the fence");
            return self.make().await;
        }
        for router in self.absences.due(&self.routers, &listing.open, Instant::now()) {
            for address in router.addresses.iter() {
                self.programs.forget(Connections::To(address)).await?;
            }
            self.absences.set_forgotten(router.id);
        }
        Ok(())
    }

    /// Makes the rules in place of what is there. It is closed until the next advert.
    async fn make(&mut self) -> Result<(), Error> {
        self.load(&rules::closed(&self.interface, &self.routers)).await?;
        self.made = self.list().await?.definition;
        Ok(())
    }

    /// Loads rules, all of them or none.
    async fn load(&self, rules: &str) -> Result<(), Error> {
        self.programs.nft.run(&["--file", "-"].map(str::to_owned), rules).await?;
        Ok(())
    }

    /// The table. An empty one: it is not there.
    async fn list(&self) -> Result<Listing, Error> {
        let table = rules::table(&self.interface);
        let arguments = ["--json", "list", "table", "netdev", &table].map(str::to_owned);
        match self.programs.nft.run(&arguments, "").await {
            Ok(output) => Listing::parse(&output).map_err(Error::Listing),
            Err(ProgramError::Failed { output, .. }) if output.contains("No such file or directory") => {
                Ok(Listing::default())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Why there is no fence, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program has failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The rules cannot be read back.
    #[error("reading the rules of the fence")]
    Listing(#[source] serde_json::Error),
    /// The kernel does not report changes of nftables.
    #[error("opening a socket for changes of nftables")]
    Changes(#[source] io::Error),
}
