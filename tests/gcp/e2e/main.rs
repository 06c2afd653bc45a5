//! The controller with classes of the provider `gcp`, against the stand-in for Google Compute
//! Engine: packets of clients outside of the cluster, which pass what the controller has made of
//! forwarding rules and firewall rules.

mod load_balancer;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::SharedLB;
use sharedlb_harness::{
    AtOnce, Controller, LIMIT, Launch, Site, Tests, controller_kubeconfig, run_tests, slots, start_installed,
};
use sharedlb_testbed::{
    Client, Cluster, GcpLayout, GcpPeer, GcpProject, NODE, Parts, PodPort, PodSpec, Testbed, eventually,
};

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

/// The zone of the node.
const ZONE: &str = "europe-west9-a";

/// The number of attempts where no answer is expected.
const SILENT_QUESTIONS: usize = 5;

fn main() -> anyhow::Result<()> {
    let parts = Parts { gcp: true, metallb: false, ..Parts::ALL };
    // The project and its data path are those of all tests.
    run_tests(AtOnce::One, parts, World::start, |test: &Tests<World>| {
        vec![
            test.test("a client reaches the ports of claims, and no other port of the address", reached),
            test.test("a firewall rule that is deleted by hand is created again", repaired),
            test.test("a load balancer without claims goes, and its address with it", released),
        ]
    })
}

/// A cluster whose node is an instance of a project, and its controller.
struct World {
    cluster: Arc<Cluster>,
    project: GcpProject,
    _controller: Controller,
}

impl World {
    async fn start(testbed: Testbed) -> anyhow::Result<Self> {
        let project = GcpPeer::start(&testbed)?.project(GcpLayout::default()).await?;
        let cluster = start_installed(testbed).await?;
        project.add_instance(ZONE, NODE, IpAddr::from([10, 99, 8, 1]));
        let nodes: Api<Node> = Api::all(cluster.admin());
        let id = format!("gce://{}/{ZONE}/{NODE}", project.layout().project);
        let patch = Patch::Merge(json!({"spec": {"providerID": id}}));
        nodes.patch(NODE, &PatchParams::default(), &patch).await?;
        let kubeconfig = controller_kubeconfig(&cluster).await?;
        let launch = Launch::new(SHAREDLB, kubeconfig, &cluster).alone().verbose();
        let launch = launch.flags(["--resync-seconds", "10"]).environment(&project.environment());
        let controller = launch.ready().await?;
        Ok(Self { cluster, project, _controller: controller })
    }

    /// A namespace and a class of this name, and a pod that answers by TCP and UDP.
    async fn site(&self, name: &str) -> anyhow::Result<Site> {
        let provider = json!({
            "project": "test-project", "region": "europe-west9", "network": "net", "subnetwork": "nodes",
        });
        let site = Site::open(&self.cluster, name, json!({"provider": {"gcp": provider}})).await?;
        let ports = [PodPort::tcp("dns-tcp", 5353), PodPort::udp("dns", 5353)];
        let spec = PodSpec::new(&site.namespace, "web-0").label("app", "web");
        self.cluster.pod(ports.into_iter().fold(spec, PodSpec::port)).await?;
        Ok(site)
    }

    fn client(&self) -> anyhow::Result<Client> {
        self.cluster.client()
    }

    /// Waits until the pod answers by both protocols.
    async fn answers(&self, at: SocketAddr) -> anyhow::Result<()> {
        let client = self.client()?;
        eventually(&format!("an answer at {at}"), LIMIT, async || {
            load_balancer::program(&self.project)?;
            client.tcp(at.ip(), at.port()).await?;
            client.udp(at.ip(), at.port()).await?;
            Ok(Some(()))
        })
        .await
    }

    /// Asserts that nothing answers, and nothing refuses.
    async fn silent(&self, at: SocketAddr) -> anyhow::Result<()> {
        load_balancer::program(&self.project)?;
        let client = self.client()?;
        for _ in 0..SILENT_QUESTIONS {
            let tcp = client.tcp(at.ip(), at.port()).await.err().context("it answers by TCP")?;
            let udp = client.udp(at.ip(), at.port()).await.err().context("it answers by UDP")?;
            for error in [tcp, udp] {
                ensure!(format!("{error:#}").contains("no answer within"), "{at}: {error:#}");
            }
        }
        Ok(())
    }
}

/// A claim on TCP and UDP of one number.
async fn claim(site: &Site, name: &str) -> anyhow::Result<SocketAddr> {
    let spec = json!({"selector": {"app": "web"}, "ports": [{"protocol": "TCP_UDP", "targetPort": 5353}]});
    site.claim_with(name, spec).await?;
    front(&site.ready(name).await?)
}

/// Where the only port of a claim is, at its only address.
fn front(claim: &SharedLB) -> anyhow::Result<SocketAddr> {
    let (.., port) = *slots(claim).values().next().context("it has no port")?;
    let status = claim.status.as_ref().context("it has no status")?;
    let [address] = &status.addresses[..] else { anyhow::bail!("{status:?}") };
    Ok(SocketAddr::new(address.parse()?, port))
}

async fn reached(world: Arc<World>) -> anyhow::Result<()> {
    let site = world.site("reached").await?;
    let (first, second) = (claim(&site, "first").await?, claim(&site, "second").await?);
    ensure!(first.ip() == second.ip() && first.ip().to_string().starts_with("203.0.113."), "{first} {second}");
    world.answers(first).await?;
    world.answers(second).await?;
    let other = (first.port()..).find(|port| ![first.port(), second.port()].contains(port)).context("no port")?;
    world.silent(SocketAddr::new(first.ip(), other)).await?;
    site.delete("first").await?;
    eventually("the firewall to deny the port", LIMIT, async || {
        Ok((!allows(&world.project, first.port())).then_some(()))
    })
    .await?;
    world.silent(first).await?;
    world.answers(second).await
}

/// Whether a firewall rule allows exactly this port, or a range that begins or ends with it.
fn allows(project: &GcpProject, port: u16) -> bool {
    let rules = project.objects("firewalls");
    let entries = rules.values().flat_map(|rule| rule["allowed"].as_array().cloned().unwrap_or_default());
    let mut ports = entries.flat_map(|entry| entry["ports"].as_array().cloned().unwrap_or_default());
    ports.any(|range| range.as_str().is_some_and(|range| range.split('-').any(|end| end == port.to_string())))
}

async fn repaired(world: Arc<World>) -> anyhow::Result<()> {
    let site = world.site("repaired").await?;
    let at = claim(&site, "dns").await?;
    world.answers(at).await?;
    let rules = world.project.objects("firewalls");
    let allow = rules.iter().find(|(path, rule)| path.ends_with("-allow") && is_of(rule, at.ip()));
    let (path, _) = allow.context("there is no firewall rule of the address")?;
    world.project.call(&http::Method::DELETE, path, Value::Null)?;
    world.silent(at).await?;
    world.answers(at).await
}

fn is_of(rule: &Value, address: IpAddr) -> bool {
    rule["destinationRanges"][0] == format!("{address}/32")
}

async fn released(world: Arc<World>) -> anyhow::Result<()> {
    let site = world.site("released").await?;
    let at = claim(&site, "dns").await?;
    world.answers(at).await?;
    site.delete("dns").await?;
    let address = at.ip().to_string();
    let uses = |object: &Value| object["address"] == address || object["IPAddress"] == address;
    site.delete_class().await?;
    eventually("nothing to be left of the load balancer", LIMIT, async || {
        let objects = ["addresses", "forwardingRules"].map(|kind| world.project.objects(kind));
        Ok((!objects.iter().flat_map(|objects| objects.values()).any(uses)).then_some(()))
    })
    .await
}
