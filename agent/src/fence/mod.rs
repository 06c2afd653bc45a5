//! The fence: a host answers for the addresses of a load balancer only while it says by VRRP that it
//! has them.
//!
//! A host whose keepalived was killed, or stands still, still has the addresses, and its kernel goes
//! on to answer ARP requests and neighbor solicitations for them, while another host has taken them
//! over. So an answer depends on a set in the kernel whose elements time out, before another host
//! takes over:
//!
//! - The kernel itself keeps the fence *open* with every advert that leaves this host. No process
//!   has a part in that, so a fence stays open while the agent is busy, and closes whatever ended
//!   the adverts: the death of keepalived, a frozen virtual machine, an advert with priority 0.
//! - The agent opens a closed one. It sees the first advert after the gap, drops what conntrack
//!   remembers of the connections to the addresses, and opens the fence then: while another host had
//!   them, connections went on, and their packets would be out of the remembered window. For the
//!   same reason it drops them where another host turns out to have had the addresses at the same
//!   time, when a cut of the network segment heals.
//!
//! Packets are forwarded whether the fence is open or closed, so that a client which still sends to
//! this host is served until it has learned of the other one.

mod connections;
mod rules;
mod sightings;
mod tap;

use std::collections::HashSet;
use std::io;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use thiserror::Error;

use crate::command::{CommandError, run};
use crate::virtual_router::{Interface, VirtualRouter};
use sightings::{Advert, Meaning, Sightings};
use tap::Tap;

/// How often the thread checks whether it shall end, if there are no adverts.
const CHECK_EVERY: Duration = Duration::from_millis(200);

/// How late the thread must be for the adverts that wait for it to count for nothing: what they say
/// may be over, as after a freeze of the whole process.
const LATE_AFTER: Duration = Duration::from_millis(400);

/// The fence of one interface. When this is dropped, nothing opens it any more, and it closes with
/// the last advert.
#[derive(Debug)]
pub struct Fence {
    interface: Interface,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    routers: Mutex<Vec<VirtualRouter>>,
    ends: AtomicBool,
}

impl Fence {
    /// Fences the addresses of these virtual routers, which are those of one interface. It is
    /// closed until their first advert leaves, so keepalived is started after it.
    ///
    /// It needs Linux 5.16 with `CONFIG_NETFILTER_EGRESS`, the programs `nft` (1.0.1 or newer) and
    /// `conntrack`, and the capabilities `NET_ADMIN` and `NET_RAW`.
    ///
    /// # Errors
    /// If one of these is missing, or there is no such interface.
    pub fn start(interface: &Interface, routers: &[VirtualRouter]) -> Result<Self, Error> {
        let tap = Tap::open(interface).map_err(|source| Error::Tap { interface: interface.clone(), source })?;
        load(&rules::closed(interface, routers))?;
        let shared = Arc::new(Shared { routers: Mutex::new(routers.to_vec()), ends: AtomicBool::new(false) });
        let watch = Watch { interface: interface.clone(), tap, sightings: Sightings::default() };
        let of_thread = shared.clone();
        let thread = thread::Builder::new().name("fence".to_owned()).spawn(move || watch.run(&of_thread));
        Ok(Self { interface: interface.clone(), shared, thread: Some(thread.map_err(Error::Thread)?) })
    }

    /// Fences the addresses of these virtual routers in place of the former ones. What is open
    /// stays open.
    ///
    /// # Errors
    /// If `nft` fails; then the former rules are there still.
    pub fn update(&self, routers: &[VirtualRouter]) -> Result<(), Error> {
        let mut current = self.shared.routers.lock();
        load(&rules::changed(&self.interface, routers))?;
        *current = routers.to_vec();
        Ok(())
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked, that was reported then.
            _ = thread.join();
        }
    }
}

/// Why there is no fence, or not the wanted one.
#[derive(Debug, Error)]
pub enum Error {
    /// The adverts cannot be seen.
    #[error("opening a packet socket on {}", interface.as_str())]
    Tap {
        /// The interface
        interface: Interface,
        /// Why
        source: io::Error,
    },
    /// The rules cannot be loaded.
    #[error("loading the rules of the fence")]
    Rules(#[from] CommandError),
    /// There is no further thread.
    #[error("starting the thread of the fence")]
    Thread(#[source] io::Error),
}

/// What opens the fence of an interface.
struct Watch {
    interface: Interface,
    tap: Tap,
    sightings: Sightings,
}

impl Watch {
    fn run(mut self, shared: &Shared) {
        let mut waits_since = Instant::now();
        while !shared.ends.load(Ordering::Relaxed) {
            let seen = self.tap.wait(CHECK_EVERY);
            let is_late = waits_since.elapsed() >= LATE_AFTER;
            waits_since = Instant::now();
            match seen {
                // They may be older than the fence. The next one is not.
                Ok(_) if is_late => {}
                Ok(seen) => {
                    self.see(&seen, &shared.routers.lock());
                    waits_since = Instant::now();
                }
                Err(error) => {
                    tracing::error!(%error, interface = self.interface.as_str(), "the adverts cannot be seen");
                    thread::sleep(CHECK_EVERY);
                }
            }
        }
    }

    /// Takes in adverts, and does what follows for the addresses.
    fn see(&mut self, seen: &[Advert], routers: &[VirtualRouter]) {
        let now = Instant::now();
        let (mut after_gap, mut contested) = (Vec::new(), Vec::new());
        for advert in seen {
            let Some(router) = routers.iter().find(|router| router.id == advert.id) else { continue };
            match self.sightings.record(*advert, now, router.advert_interval.fence()) {
                Meaning::Nothing => {}
                Meaning::AfterGap => after_gap.push(router),
                Meaning::Contested => contested.push(router),
            }
        }
        if !after_gap.is_empty()
            && let Err(error) = self.open(&after_gap)
        {
            tracing::error!(%error, interface = self.interface.as_str(), "the fence cannot be opened");
            // The next advert is another try.
            after_gap.iter().for_each(|router| self.sightings.forget(router.id));
        }
        for router in contested {
            tracing::warn!(id = router.id, "another host had the same addresses at the same time");
            forget_connections(router);
        }
    }

    /// Opens the fence for these virtual routers, unless it never closed: a gap is also seen where
    /// this thread was late.
    fn open(&self, routers: &[&VirtualRouter]) -> Result<(), CommandError> {
        let open = self.open_ones()?;
        let closed: Vec<_> = routers.iter().copied().filter(|router| !open.contains(&router.id)).collect();
        if closed.is_empty() {
            return Ok(());
        }
        closed.iter().copied().for_each(forget_connections);
        load(&rules::opened(&self.interface, closed))
    }

    /// The virtual routers that the fence is open for.
    fn open_ones(&self) -> Result<HashSet<NonZeroU8>, CommandError> {
        let table = rules::table(&self.interface);
        let json = run("nft", &["--json", "list", "set", "netdev", &table, rules::OPEN], "")?;
        let listed: Value =
            serde_json::from_str(&json).map_err(|source| CommandError::Output { program: "nft", source })?;
        let objects = listed["nftables"].as_array().into_iter().flatten();
        let elements = objects.filter_map(|object| object["set"]["elem"].as_array()).flatten();
        Ok(elements
            .filter_map(|element| u8::try_from(element["elem"]["val"].as_u64()?).ok()?.try_into().ok())
            .collect())
    }
}

/// Has the kernel forget the connections to the addresses of a virtual router.
fn forget_connections(router: &VirtualRouter) {
    for address in router.addresses.iter() {
        if let Err(error) = connections::forget(address) {
            // Some connections may hang, where a closed fence would end all of them.
            tracing::error!(%error, %address, "the connections to an address are not forgotten");
        }
    }
}

/// Loads rules, all of them or none.
fn load(rules: &str) -> Result<(), CommandError> {
    run("nft", &["--file", "-"], rules).map(|_| ())
}
