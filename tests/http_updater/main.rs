//! The controller with classes of the provider `httpUpdater`: the stand-in for the updater writes
//! the configuration of a real NGINX, and clients outside of the cluster connect to its ports.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, Reason, SharedLB};
use sharedlb_harness::front::{Front, front};
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{
    AtOnce, Controller, LIMIT, Launch, Site, Tests, controller_kubeconfig, repository, run_tests, start_installed,
};
use sharedlb_testbed::{Cluster, Nginx, Parts, Protocol, Testbed, Updater, eventually};
use tokio::sync::Mutex;

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

/// The address of the updater, which is one of those of nodes: a loopback address is refused.
const UPDATER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 8, 1));

/// How often the load balancers are observed: as often as the controller lets them be.
const RESYNC: [&str; 2] = ["--resync-seconds", "10"];

fn main() -> anyhow::Result<()> {
    let parts = Parts { nginx: true, metallb: false, ..Parts::ALL };
    // NGINX is that of all tests: a file of one that is bad is bad for all.
    run_tests(AtOnce::One, parts, World::start, |test: &Tests<World>| {
        vec![
            test.test("a client reaches the ports of claims by TCP and UDP, and no port that is closed", reached),
            test.test("a port without pods is refused, and NGINX is never given a backend without servers", empty),
            test.test("with node targets, traffic goes to nodes, and a node that goes gets none", nodes),
            test.test("while a foreign file is bad, open ports stay and new ones are not Programmed", blocked),
            test.test("a port of a deleted claim goes to no other claim while NGINX refuses to reload", stale),
            test.test("files that are deleted by hand are written again at the next resync", repaired),
            test.test("a controller that was killed continues, and calls nothing that is not needed", killed),
            test.test("of two classes with one host, the newer gives no ports", shared_host),
            test.test("a class that is deleted leaves neither files nor a journal", deleted),
        ]
    })
}

/// A cluster with a host of NGINX, and the controller.
struct World {
    cluster: Arc<Cluster>,
    /// `None`: it could not be unpacked on this machine
    nginx: Option<Host>,
    launch: Launch,
    controller: Mutex<Option<Controller>>,
}

/// NGINX, and the updater that writes its files.
struct Host {
    updater: Updater,
    _nginx: Nginx,
}

impl World {
    async fn start(testbed: Testbed) -> anyhow::Result<Self> {
        let cluster = start_installed(testbed).await?;
        cluster.kubectl_output(&["apply", "-f", &repository("deploy/http-updater/rbac.yaml")?]).await?;
        let nginx = match cluster.nginx().await? {
            Some(nginx) => Some(Host { updater: Updater::start_at(UPDATER, nginx.folder()).await?, _nginx: nginx }),
            None => None,
        };
        let kubeconfig = controller_kubeconfig(&cluster).await?;
        let launch = Launch::new(SHAREDLB, kubeconfig, &cluster).alone().verbose().flags(RESYNC);
        let controller = Mutex::new(Some(launch.ready().await?));
        Ok(Self { cluster, nginx, launch, controller })
    }

    /// The updater; `None`, and a message: there is no NGINX on this machine.
    fn updater(&self) -> Option<&Updater> {
        if self.nginx.is_none() {
            eprintln!("skipped: NGINX could not be unpacked on this machine");
        }
        self.nginx.as_ref().map(|host| &host.updater)
    }
}

/// A namespace and a class, whose host has the address 10.99.8.N (one of a node, which leads to
/// the NGINX of all tests) and the ports from N × 1000 + 10000 on.
async fn open(world: &World, name: &str, number: u8, class: Value) -> anyhow::Result<Tenant> {
    let updater = world.updater().context("there is no NGINX")?;
    let address = IpAddr::from([10, 99, 8, number]);
    let first = 10_000 + u16::from(number) * 1000;
    let mut spec = json!({
        "provider": {"httpUpdater": {"url": updater.url(), "address": address, "verification": "Connect"}},
        "loadBalancers": {"max": 1},
        "targets": "Pod",
        "ports": {"dynamic": [{"min": first, "max": first + 999}]},
    });
    sharedlb_harness::merge(&mut spec, class);
    let tenant = Tenant::open(&world.cluster, name, spec).await?;
    updater.take_calls();
    Ok(tenant)
}

/// Ends the class of a test, so that the next one may have the updater.
async fn close(tenant: Tenant, claims: &[&str]) -> anyhow::Result<()> {
    for claim in claims {
        tenant.site.delete(claim).await?;
    }
    tenant.site.delete_class().await?;
    tenant.site.class_gone().await
}

/// A claim of one port, as soon as it is ready.
async fn claim(site: &Site, name: &str) -> anyhow::Result<Front> {
    front(&site.assigned(name).await?, "")
}

async fn reached(world: Arc<World>) -> anyhow::Result<()> {
    let Some(updater) = world.updater() else { return Ok(()) };
    let tenant = open(&world, "reached", 16, json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let ports = json!([{"protocol": "TCP_UDP", "targetPort": 5353}]);
    tenant.site.claim("dns", ports).await?;
    let dns: SharedLB = tenant.site.ready("dns").await?;
    let dns = front(&dns, "")?;
    tenant.answers(dns, "web-0").await?;
    tenant.answers(dns.by(Protocol::Udp), "web-0").await?;
    let web = claim(&tenant.site, "web").await?;
    tenant.answers(web, "web-0").await?;

    updater.take_calls();
    tenant.pod("web-1", "web").await?;
    tenant.only_answer(web, &["web-0", "web-1"]).await?;
    let calls = updater.take_calls();
    ensure!(calls.iter().all(|call| call.method == "POST"), "no port closes: {calls:?}");
    for call in &calls {
        // Kubernetes writes the pod's IPv4 and IPv6 addresses apart.
        let of_port = calls.iter().filter(|other| other.backend == call.backend).count();
        ensure!(of_port <= 2, "one for each port, at most for each of its addresses: {calls:?}");
    }

    tenant.site.delete("dns").await?;
    tenant.closed(dns).await?;
    tenant.only_answer(web, &["web-0", "web-1"]).await?;
    close(tenant, &["web"]).await
}

async fn empty(world: Arc<World>) -> anyhow::Result<()> {
    let Some(updater) = world.updater() else { return Ok(()) };
    let tenant = open(&world, "empty", 15, json!({})).await?;
    let pod = tenant.pod("web-0", "web").await?;
    let web = claim(&tenant.site, "web").await?;
    tenant.answers(web, "web-0").await?;
    pod.delete().await?;
    tenant.site.has_no_backends("web", &[]).await?;
    tenant.closed(web).await?;
    for call in updater.take_calls().iter().filter(|call| call.method == "POST") {
        let servers = call.body["upstreamServers"].as_array().map_or(0, Vec::len);
        ensure!(servers > 0, "NGINX would refuse this: {call:?}");
    }
    tenant.pod("web-1", "web").await?;
    tenant.answers(web, "web-1").await?;
    close(tenant, &["web"]).await
}

async fn nodes(world: Arc<World>) -> anyhow::Result<()> {
    let Some(updater) = world.updater() else { return Ok(()) };
    let tenant = open(&world, "nodes", 14, json!({"targets": "Node"})).await?;
    tenant.pod("web-0", "web").await?;
    let web = claim(&tenant.site, "web").await?;
    tenant.answers(web, "web-0").await?;
    let servers = async |what: &str, holds: &dyn Fn(&str) -> bool| {
        eventually(what, LIMIT, async || {
            let files = updater.files()?;
            let text = files.values().next().context("there is no file")?;
            ensure!(holds(text), "it is {text}");
            Ok(Some(()))
        })
        .await
    };
    let addresses = world.cluster.node("another").await?;
    let another = addresses.first().context("it has an address")?.to_string();
    servers("traffic to go to the new node too", &|text| text.contains(&format!("server {another}:"))).await?;
    world.cluster.kubectl_output(&["delete", "node", "another"]).await?;
    servers("no traffic to go to a node that is gone", &|text| !text.contains(&format!("server {another}:"))).await?;
    tenant.answers(web, "web-0").await?;
    close(tenant, &["web"]).await
}

async fn blocked(world: Arc<World>) -> anyhow::Result<()> {
    let Some(updater) = world.updater() else { return Ok(()) };
    let tenant = open(&world, "blocked", 13, json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let before = claim(&tenant.site, "before").await?;
    let bad = updater.folder().join("theirs.conf");
    std::fs::write(&bad, "upstream theirs {\n}\n")?;
    tenant.site.claim("after", json!([{"targetPort": "http"}])).await?;
    let pending = ("False", Reason::Pending);
    tenant.site.verdict_with("after", ConditionType::Programmed, pending, &["nginx -t"]).await?;
    tenant.answers(before, "web-0").await?;
    std::fs::remove_file(&bad)?;
    let after = front(&tenant.site.ready("after").await?, "")?;
    tenant.answers(after, "web-0").await?;
    close(tenant, &["before", "after"]).await
}

/// The port that the former claim had leads to its pods until NGINX has reloaded.
async fn stale(world: Arc<World>) -> anyhow::Result<()> {
    let Some(updater) = world.updater() else { return Ok(()) };
    let tenant = open(&world, "stale", 7, json!({"reclaimDelaySeconds": 0})).await?;
    tenant.pod("web-0", "web").await?;
    let before = claim(&tenant.site, "before").await?;
    let bad = updater.folder().join("theirs.conf");
    std::fs::write(&bad, "upstream theirs {\n}\n")?;
    tenant.site.delete("before").await?;
    let file = format!("-{}-tcp.conf", before.port);
    eventually("the file of the port to be deleted", LIMIT, async || {
        Ok((!updater.files()?.keys().any(|name| name.ends_with(&file))).then_some(()))
    })
    .await?;
    updater.take_calls();
    tenant.site.claim("after", json!([{"targetPort": "http", "port": before.port}])).await?;
    let taken = ("False", Reason::PortTaken);
    tenant.site.verdict_with("after", ConditionType::Allocated, taken, &[]).await?;
    tenant.answers(before, "web-0").await?;
    ensure!(updater.take_calls().iter().all(|call| call.method == "DELETE"), "nothing is posted for another claim");
    std::fs::remove_file(&bad)?;
    let after = front(&tenant.site.ready("after").await?, "")?;
    ensure!(after.port == before.port, "it gets the port once that is closed: {after:?}");
    tenant.answers(after, "web-0").await?;
    close(tenant, &["after"]).await
}

async fn repaired(world: Arc<World>) -> anyhow::Result<()> {
    let Some(updater) = world.updater() else { return Ok(()) };
    let tenant = open(&world, "repaired", 12, json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let web = claim(&tenant.site, "web").await?;
    for name in updater.files()?.keys() {
        std::fs::remove_file(updater.folder().join(name))?;
    }
    tenant.closed(web).await?;
    tenant.answers(web, "web-0").await?;
    close(tenant, &["web"]).await
}

async fn killed(world: Arc<World>) -> anyhow::Result<()> {
    let Some(updater) = world.updater() else { return Ok(()) };
    let tenant = open(&world, "killed", 11, json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let (stays, goes) = (claim(&tenant.site, "stays").await?, claim(&tenant.site, "goes").await?);
    let mut running = world.controller.lock().await;
    running.take().context("no controller runs")?.kill().await?;
    updater.take_calls();
    tenant.pod("web-1", "web").await?;
    *running = Some(world.launch.ready().await?);
    tenant.only_answer(stays, &["web-0", "web-1"]).await?;
    tenant.only_answer(goes, &["web-0", "web-1"]).await?;
    let calls = updater.take_calls();
    ensure!((2..=4).contains(&calls.len()), "one for each port whose pods have changed: {calls:?}");
    tenant.site.delete("goes").await?;
    tenant.closed(goes).await?;
    close(tenant, &["stays"]).await
}

async fn shared_host(world: Arc<World>) -> anyhow::Result<()> {
    let Some(updater) = world.updater() else { return Ok(()) };
    let tenant = open(&world, "first-of-host", 10, json!({})).await?;
    tenant.pod("web-0", "web").await?;
    let web = claim(&tenant.site, "web").await?;
    let second = open(&world, "second-of-host", 9, json!({})).await?;
    second
        .site
        .class_status("a message about the other class", |status| {
            let accepted = status.conditions.iter().find(|condition| condition.type_ == "Accepted")?;
            (accepted.status == "False" && accepted.message.contains("class first-of-host, which is older"))
                .then_some(())
        })
        .await?;
    second.pod("web-0", "web").await?;
    second.site.claim("web", json!([{"targetPort": "http"}])).await?;
    eventually("the claim of the newer class to be refused", LIMIT, async || {
        let claim = second.site.claims.get("web").await?;
        let allocated = sharedlb_harness::condition(&claim, ConditionType::Allocated).context("it has no verdict")?;
        Ok((allocated.status == "False").then_some(()))
    })
    .await?;
    ensure!(updater.take_calls().is_empty(), "nothing is opened for the newer one");
    tenant.answers(web, "web-0").await?;
    close(second, &["web"]).await?;
    close(tenant, &["web"]).await
}

async fn deleted(world: Arc<World>) -> anyhow::Result<()> {
    let Some(updater) = world.updater() else { return Ok(()) };
    let tenant = open(&world, "deleted", 8, json!({})).await?;
    tenant.pod("web-0", "web").await?;
    claim(&tenant.site, "web").await?;
    ensure!(!updater.files()?.is_empty(), "there is a file");
    close(tenant, &["web"]).await?;
    let of_class = |name: &&String| name.starts_with("slb-deleted-");
    ensure!(updater.files()?.keys().find(of_class).is_none(), "{:?}", updater.files()?.keys());
    let journals = ["-n", "sharedlb-system", "get", "configmaps", "-o", "name", "-l", "sharedlb.dev/class=deleted"];
    let left = world.cluster.kubectl_output(&journals).await?;
    ensure!(left.trim().is_empty(), "{left}");
    Ok(())
}
