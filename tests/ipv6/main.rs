//! A cluster whose only IP family is IPv6, with load balancers of the provider `vip`, and
//! clients outside of it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, Reason, SharedLB};
use sharedlb_harness::{AtOnce, LIMIT, Site, Tests, World, run_tests, slots, start_installed};
use sharedlb_testbed::{Answer, Client, Families, Parts, PodPort, PodSpec, Testbed, eventually, ip};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

/// How many tests of one controller run at once. They wait more than they work.
const THREADS: usize = 4;

/// The address of the clients.
const CLIENT: &str = "fd00:99:9::2/128";

/// The number of attempts where no answer is expected.
const SILENT_QUESTIONS: usize = 5;

/// How long one attempt may take from inside.
const ATTEMPT: Duration = Duration::from_millis(900);

fn main() -> anyhow::Result<()> {
    if !Path::new("/proc/net/if_inet6").exists() {
        eprintln!("skipped: this machine has no IPv6");
        return Ok(());
    }
    let parts = Parts { metallb: false, families: Families::V6, ..Parts::ALL };
    run_tests(AtOnce::UpTo(THREADS), parts, start, trials)
}

async fn start(testbed: Testbed) -> anyhow::Result<World> {
    let cluster = start_installed(testbed).await?;
    // As any node has a route to the world. What is not captured on the way gets lost there.
    ip(&["-6"], "route add 2001:db8::/32 via fd00:99:9::2\n")?;
    World::start(SHAREDLB, cluster).await
}

fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("an address is reached from outside and from inside, by TCP and by UDP", reached),
        test.test("source ranges and session affinity are in force", options),
        test.test("a port without backends refuses, and does not time out", refused_without_backends),
        test.test("a class with an IPv4 address is refused, since no node would serve it", of_ipv4),
        test.test("addresses of nodes and Services are refused", of_the_cluster),
    ]
}

/// A namespace with a class, and a client outside of the cluster.
struct Place {
    site: Site,
    client: Client,
}

impl Place {
    /// Of this name, with these addresses and no pods.
    async fn open(world: &World, name: &str, addresses: &[&str]) -> anyhow::Result<Self> {
        let ranges: Vec<Value> = addresses.iter().map(|address| json!({"min": address, "max": address})).collect();
        let class = json!({"provider": {"vip": {}}, "addresses": ranges});
        let site = Site::open(&world.cluster, name, class).await?;
        Ok(Self { client: world.cluster.client()?, site })
    }

    /// A pod labelled `app: web` that answers at 5353 by TCP and UDP.
    async fn pod(&self, name: &str) -> anyhow::Result<sharedlb_testbed::Pod> {
        let ports = [PodPort::tcp("dns-tcp", 5353), PodPort::udp("dns", 5353)];
        let spec = PodSpec::new(&self.site.namespace, name).label("app", "web");
        self.site.cluster.pod(ports.into_iter().fold(spec, PodSpec::port)).await
    }

    /// Creates the claim `dns` on TCP and UDP, with further fields in its spec, and returns it
    /// once it is ready.
    async fn claim(&self, mut spec: Value) -> anyhow::Result<SharedLB> {
        spec["selector"] = json!({"app": "web"});
        spec["ports"] = json!([{"protocol": "TCP_UDP", "targetPort": 5353}]);
        self.site.claim_with("dns", spec).await?;
        self.site.ready("dns").await
    }

    async fn tcp(&self, at: SocketAddr) -> anyhow::Result<Answer> {
        self.client.tcp(at.ip(), at.port()).await
    }

    /// Waits until a pod answers, by both protocols.
    async fn answers(&self, at: SocketAddr) -> anyhow::Result<()> {
        eventually(&format!("an answer at {at}"), LIMIT, async || {
            self.tcp(at).await?;
            self.client.udp(at.ip(), at.port()).await?;
            Ok(Some(()))
        })
        .await
    }

    /// Waits until no pod answers, by either protocol.
    async fn silent(&self, at: SocketAddr) -> anyhow::Result<()> {
        eventually(&format!("no answer at {at}"), LIMIT, async || {
            let answers = tokio::join!(self.tcp(at), self.client.udp(at.ip(), at.port()));
            Ok((answers.0.is_err() && answers.1.is_err()).then_some(()))
        })
        .await
    }
}

/// Where the only port of a claim is, at its only address.
fn front(claim: &SharedLB) -> anyhow::Result<SocketAddr> {
    let (.., port) = *slots(claim).values().next().context("a port")?;
    let status = claim.status.as_ref().context("a status")?;
    let [address] = &status.addresses[..] else { anyhow::bail!("{status:?}") };
    Ok(SocketAddr::new(address.parse()?, port))
}

/// Connects from the node, where all pods are.
async fn ask_inside(at: SocketAddr) -> anyhow::Result<String> {
    let asking = async {
        let mut text = String::new();
        TcpStream::connect(at).await?.read_to_string(&mut text).await?;
        anyhow::Ok(text)
    };
    tokio::time::timeout(ATTEMPT, asking).await.context("no answer")?
}

async fn reached(world: Arc<World>) -> anyhow::Result<()> {
    let place = Place::open(&world, "reached", &["2001:db8::10"]).await?;
    let pod = place.pod("web-0").await?;
    ensure!(pod.addresses.iter().all(IpAddr::is_ipv6), "the cluster has IPv4: {:?}", pod.addresses);
    let at = front(&place.claim(json!({})).await?)?;
    ensure!(at.ip().to_string() == "2001:db8::10", "{at}");
    place.answers(at).await?;
    eventually("an answer from inside", LIMIT, async || Ok(ask_inside(at).await?.starts_with("web-0").then_some(())))
        .await?;
    place.site.delete("dns").await?;
    place.silent(at).await
}

async fn options(world: Arc<World>) -> anyhow::Result<()> {
    let place = Place::open(&world, "options", &["2001:db8::11"]).await?;
    for name in ["web-0", "web-1", "web-2"] {
        place.pod(name).await?;
    }
    let ranges = |range: &str| json!({"loadBalancerSourceRanges": [range]});
    let at = front(&place.claim(ranges("2001:db8:ffff::/48")).await?)?;
    // The nodes may not know the port yet: the range holds from the first packet.
    for _ in 0..SILENT_QUESTIONS {
        let answers = tokio::join!(place.tcp(at), place.client.udp(at.ip(), at.port()));
        ensure!(answers.0.is_err() && answers.1.is_err(), "{answers:?}");
    }
    place.site.change("dns", json!({"spec": ranges(CLIENT)})).await?;
    place.answers(at).await?;
    // A range of the other family admits no client. (0.0.0.0/0 would stand for all clients.)
    place.site.change("dns", json!({"spec": ranges("192.0.2.0/24")})).await?;
    place.silent(at).await?;
    let affinity = json!({"loadBalancerSourceRanges": null, "sessionAffinity": "ClientIP"});
    place.site.change("dns", json!({"spec": affinity})).await?;
    eventually("one pod to give all answers", LIMIT, async || {
        let first = place.tcp(at).await?.name;
        for _ in 0..20 {
            let next = place.tcp(at).await?.name;
            ensure!(next == first, "{first} and {next} answer");
        }
        Ok(Some(()))
    })
    .await
}

async fn refused_without_backends(world: Arc<World>) -> anyhow::Result<()> {
    let place = Place::open(&world, "refused", &["2001:db8::12"]).await?;
    let pod = place.pod("web-0").await?;
    let at = front(&place.claim(json!({})).await?)?;
    place.answers(at).await?;
    pod.delete().await?;
    // By UDP: over a cable as short as this, the refusal of a TCP connection comes while the
    // kernel still holds the socket, and has no effect before it comes again after a second.
    eventually(&format!("{at} to refuse datagrams"), LIMIT, async || {
        let Err(error) = place.client.udp(at.ip(), at.port()).await else { return Ok(None) };
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        ensure!(kind == Some(io::ErrorKind::ConnectionRefused), "{error:#}");
        Ok(Some(()))
    })
    .await
}

async fn of_ipv4(world: Arc<World>) -> anyhow::Result<()> {
    let place = Place::open(&world, "of-ipv4", &["2001:db8::13", "203.0.113.13"]).await?;
    place.pod("web-0").await?;
    let words = "203.0.113.13 is an IPv4 address";
    let message = place.site.class_verdict(ConditionType::Accepted, ("False", Reason::Unsupported)).await?;
    ensure!(message.contains(words), "{message}");
    place.site.claim("dns", json!([{"targetPort": 5353}])).await?;
    place.site.refused("dns", Reason::Unsupported, &[words]).await?;

    let ranges = json!([{"min": "2001:db8::13", "max": "2001:db8::13"}]);
    place.site.change_class(json!({"spec": {"addresses": ranges}})).await?;
    let at = front(&place.site.ready("dns").await?)?;
    eventually(&format!("an answer at {at}"), LIMIT, async || Ok(place.tcp(at).await.ok())).await.map(drop)
}

async fn of_the_cluster(world: Arc<World>) -> anyhow::Result<()> {
    for (name, address, words) in [
        ("of-node", "fd00:99:8::1", "fd00:99:8::1 is an address of node node-1"),
        ("of-service", "fd00:10::abc", "fd00:10::abc is in fd00:10::/108"),
    ] {
        let place = Place::open(&world, name, &[address]).await?;
        let message = place.site.class_verdict(ConditionType::Accepted, ("False", Reason::Unsupported)).await?;
        ensure!(message.contains(words), "{message}");
    }
    Ok(())
}
