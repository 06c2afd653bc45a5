//! A host with a fence, another host, and a machine that asks all the time who has the addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use sharedlb_agent::Program;
use sharedlb_agent::fence::{self, Fence};
use sharedlb_agent::nftables::Programs;
use sharedlb_agent::virtual_router::{AdvertInterval, Interface, Priority, VirtualAddresses, VirtualRouter};
use sharedlb_testbed::{Lan, Machine, NeighborQuestions, Testbed, eventually, ip};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::adverts::Packet;

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// How often it is asked who has the addresses.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// How many questions show who has an address.
const QUESTIONS: usize = 20;

const V4: Ipv4Addr = Ipv4Addr::new(10, 99, 20, 200);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0x20, 0, 0, 0, 0, 0x200);
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x99, 0x20, 0, 0, 0, 0, 0x201);

/// The virtual router with addresses of both families.
pub(crate) const DUAL: u8 = 51;
/// Its addresses.
pub(crate) const OF_DUAL: [IpAddr; 2] = [IpAddr::V4(V4), IpAddr::V6(V6)];
/// The virtual router with an IPv6 address alone.
pub(crate) const V6_ALONE: u8 = 52;
/// Its address.
pub(crate) const OF_V6_ALONE: IpAddr = IpAddr::V6(OTHER_V6);
/// The virtual router whose address is on the other host.
pub(crate) const ELSEWHERE: u8 = 53;
/// Its address.
pub(crate) const OF_ELSEWHERE: Ipv4Addr = Ipv4Addr::new(10, 99, 20, 202);

/// An interval of adverts after which the fence closes while a test waits.
pub(crate) const SHORT: u16 = 100;
/// One that lasts longer than what a test does meanwhile.
pub(crate) const LONG: u16 = 1000;

/// A network namespace whose interface `mv0` is on that of the host, as that of a container can be.
const CONTAINER: &str = "container";

/// The segment with all its machines.
pub(crate) struct Segment {
    pub(crate) host: Machine,
    pub(crate) other: Machine,
    pub(crate) watcher: Machine,
    questions: NeighborQuestions,
    conntrack: Option<Vec<String>>,
    _lan: Lan,
}

impl Segment {
    pub(crate) async fn start(testbed: Testbed) -> anyhow::Result<Self> {
        let lan = Lan::start(testbed)?;
        let [host, other, watcher] = ["host", "other", "watcher"].map(|name| lan.machine(name));
        let (host, other, watcher) = (host?, other?, watcher?);
        for address in all() {
            host.ip(&format!("addr add {address} dev eth0{}\n", if address.is_ipv6() { " nodad" } else { "" }))?;
        }
        ip(&[], &format!("netns add {CONTAINER}\n"))?;
        host.ip(&format!("link add mv0 link eth0 netns {CONTAINER} type macvlan mode bridge\n"))?;
        ip(&["-n", CONTAINER], "link set mv0 up\naddr add 10.99.20.150/24 dev mv0\n")?;
        let mut asked = host.addresses().to_vec();
        asked.extend(all());
        let questions = watcher.ask_neighbors(&asked, ASK_EVERY)?;
        let conntrack = lan.conntrack(&host);
        Ok(Self { host, other, watcher, questions, conntrack, _lan: lan })
    }

    /// Fences the host, with adverts of so many milliseconds. It is closed.
    pub(crate) async fn fence(&self, advert_milliseconds: u16) -> anyhow::Result<Fenced> {
        let conntrack = self.conntrack.as_ref().map(|words| Program::new(words.iter().map(String::as_str)));
        let programs =
            Programs { conntrack: conntrack.unwrap_or(Programs::default().conntrack), ..Programs::default() };
        let (interface, routers) = (interface()?, routers(advert_milliseconds)?);
        let (updates, update) = mpsc::channel(1);
        let (closed, is_closed) = oneshot::channel();
        let task = self.host.spawn(async move {
            match Fence::close(programs, interface, routers).await {
                Ok(fence) => {
                    // The test waits for this.
                    _ = closed.send(Ok(()));
                    keep(fence, update).await;
                }
                Err(error) => _ = closed.send(Err(error)),
            }
        });
        let fenced = Fenced { task, updates };
        is_closed.await??;
        Ok(fenced)
    }

    /// Sends an advert of the host.
    pub(crate) fn advert(&self, packet: Packet) -> anyhow::Result<()> {
        packet.send(self.host.name(), "eth0")
    }

    /// Sends an advert of a container on the host.
    pub(crate) fn advert_of_container(&self, packet: Packet) -> anyhow::Result<()> {
        packet.send(CONTAINER, "mv0")
    }

    /// The addresses of virtual routers that the host answers for, in questions from now on.
    pub(crate) async fn answered(&self) -> anyhow::Result<BTreeSet<IpAddr>> {
        let [own, own_v6] = self.host.addresses();
        let newest = |address| self.questions.last(address, 1).last().map_or(0, |answer| answer.question);
        // The one after the newest may have been asked already.
        let since = newest(own).max(newest(own_v6)) + 2;
        eventually("the host to answer for its own addresses", LIMIT, async || {
            let is_enough = |address| {
                let last = self.questions.last(address, QUESTIONS);
                last.len() == QUESTIONS && last.iter().all(|answer| answer.question >= since)
            };
            Ok((is_enough(own) && is_enough(own_v6)).then_some(()))
        })
        .await?;
        Ok(all().into_iter().filter(|address| newest(*address) >= since).collect())
    }

    /// Waits until the host answers for these addresses and no others, and does something before it
    /// looks each time.
    pub(crate) async fn answers_for(
        &self,
        expected: impl IntoIterator<Item = IpAddr>,
        act: impl Fn() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let expected: BTreeSet<IpAddr> = expected.into_iter().collect();
        eventually(&format!("the host to answer for {expected:?}"), LIMIT, async || {
            act()?;
            let answered = self.answered().await?;
            ensure!(answered == expected, "it answers for {answered:?}");
            Ok(Some(()))
        })
        .await
    }

    /// Runs a program on the host, and returns what it prints.
    pub(crate) fn run(&self, command: &str) -> anyhow::Result<String> {
        let mut words = command.split(' ');
        let mut running = self.host.command(Path::new(words.next().context("a program")?));
        let output = running.args(words).output()?;
        ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The connections to an IPv4 address that the host remembers. `None`: there is no `conntrack`.
    pub(crate) fn connections_to(&self, address: IpAddr) -> anyhow::Result<Option<String>> {
        let Some([program, arguments @ ..]) = self.conntrack.as_deref() else { return Ok(None) };
        let arguments = arguments.iter().map(String::as_str);
        let listing = ["--dump", "--orig-dst", &address.to_string()].map(str::to_owned);
        let output =
            std::process::Command::new(program).args(arguments).args(listing).output().context("running conntrack")?;
        Ok(Some(String::from_utf8(output.stdout)?))
    }
}

/// The fence of the host. When this is dropped, nothing keeps it any more.
pub(crate) struct Fenced {
    task: JoinHandle<()>,
    updates: mpsc::Sender<Update>,
}

/// The virtual routers in place of the former ones, and where it is said that they are fenced.
type Update = (Vec<VirtualRouter>, oneshot::Sender<Result<(), fence::Error>>);

impl Fenced {
    /// Has the fence be for these virtual routers.
    pub(crate) async fn update(&self, routers: Vec<VirtualRouter>) -> anyhow::Result<()> {
        let (done, is_done) = oneshot::channel();
        self.updates.send((routers, done)).await.context("the fence is kept")?;
        Ok(is_done.await??)
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps a fence, as an agent does, and updates it when it is asked to.
async fn keep(mut fence: Fence, mut updates: mpsc::Receiver<Update>) {
    loop {
        tokio::select! {
            never = fence.keep() => never,
            update = updates.recv() => {
                let Some((routers, done)) = update else { return };
                // The test waits for this.
                _ = done.send(fence.update(routers).await);
            }
        }
    }
}

/// All virtual routers.
pub(crate) fn routers(advert_milliseconds: u16) -> anyhow::Result<Vec<VirtualRouter>> {
    let advert_interval = AdvertInterval::from_milliseconds(advert_milliseconds).context("an interval")?;
    let all = [
        (DUAL, VirtualAddresses::Dual(V4, V6)),
        (V6_ALONE, VirtualAddresses::V6(OTHER_V6)),
        (ELSEWHERE, VirtualAddresses::V4(OF_ELSEWHERE)),
    ];
    let router = |(id, addresses): (u8, VirtualAddresses)| {
        Ok(VirtualRouter {
            id: id.try_into()?,
            interface: interface()?,
            addresses,
            priority: Priority::new(100).context("a priority")?,
            advert_interval,
        })
    };
    all.into_iter().map(router).collect()
}

/// The addresses of virtual routers that are on the host.
fn all() -> [IpAddr; 3] {
    let [v4, v6] = OF_DUAL;
    [v4, v6, OF_V6_ALONE]
}

fn interface() -> anyhow::Result<Interface> {
    Ok(Interface::new("eth0")?)
}
