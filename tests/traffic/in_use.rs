//! Addresses of the provider `vip` that something else has too: a node, a Service as its
//! ClusterIP, or a tenant's Service as one of its `externalIPs`.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::front::{Front, front};
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{LIMIT, Tests, World, editor, repository};
use sharedlb_testbed::eventually;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The name that a process of the node answers with.
pub(crate) const PROCESS: &str = "process";

/// A port of a process of the node.
pub(crate) const PROCESS_PORT: u16 = 2222;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a class with an address of a node is refused, and the node's processes are reached", of_a_node),
        test.test("a node that gets the address of a class loses no port but those of claims", of_a_later_node),
        test.test("a class with a ClusterIP is refused, and the Service is reached", of_a_service),
        test.test("a Service whose status has an address of a class takes no port but its own", of_a_foreign_service),
        test.test("externalIPs capture the ports of claims, until the policy of deploy/ denies them", external_ips),
    ]
}

/// A process of the node that answers as pods do. It ends when this is dropped.
pub(crate) struct Process(JoinHandle<()>);

impl Process {
    pub(crate) async fn start(at: Front) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((at.address, at.port)).await?;
        Ok(Self(tokio::spawn(async move {
            while let Ok((mut stream, peer)) = listener.accept().await {
                // The client may have gone.
                _ = stream.write_all(format!("{PROCESS} {}\n", peer.ip()).as_bytes()).await;
            }
        })))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Requires that these alone answer, from outside and from inside.
async fn only_answer(tenant: &Tenant, front: Front, names: &[&str]) -> anyhow::Result<()> {
    tenant.only_answer(front, names).await?;
    tenant.only_answer_inside(front, names).await
}

async fn of_a_node(world: Arc<World>) -> anyhow::Result<()> {
    let address = IpAddr::from([10, 99, 8, 1]);
    let of_node = Front::tcp(address, PROCESS_PORT);
    let _process = Process::start(of_node).await?;
    let tenant = Tenant::at(&world.cluster, "vip-of-node", &[&address.to_string()]).await?;
    tenant.pod("web-0", "web").await?;
    let words = "10.99.8.1 is an address of node node-1";
    let message = tenant.site.class_verdict(ConditionType::Accepted, ("False", Reason::Unsupported)).await?;
    ensure!(message.contains(words), "{message}");
    tenant.site.claim("web", json!([{"port": PROCESS_PORT, "targetPort": "http"}])).await?;
    tenant.site.refused("web", Reason::Unsupported, &[words]).await?;
    tenant.site.fronts(0).await?;
    only_answer(&tenant, of_node, &[PROCESS]).await
}

async fn of_a_later_node(world: Arc<World>) -> anyhow::Result<()> {
    let cluster = &world.cluster;
    // The machine has it from the start, as the last of the nodes' addresses.
    let address = IpAddr::from([10, 99, 8, 16]);
    let of_node = Front::tcp(address, PROCESS_PORT);
    let _process = Process::start(of_node).await?;
    let tenant = Tenant::at(cluster, "vip-later-node", &[&address.to_string()]).await?;
    tenant.pod("web-0", "web").await?;
    let before = front(&tenant.site.assigned("web").await?, "")?;
    only_answer(&tenant, before, &["web-0"]).await?;
    only_answer(&tenant, of_node, &[PROCESS]).await?;

    let nodes = Api::<Node>::all(cluster.admin());
    let node: Node = serde_json::from_value(json!({"metadata": {"name": "vip-later-node"}}))?;
    nodes.create(&PostParams::default(), &node).await?;
    let addresses = json!({"status": {"addresses": [{"type": "ExternalIP", "address": address}]}});
    nodes.patch_status("vip-later-node", &PatchParams::default(), &Patch::Merge(addresses)).await?;
    let words = "10.99.8.16 is an address of node vip-later-node";
    let message = tenant.site.class_verdict(ConditionType::Accepted, ("False", Reason::Unsupported)).await?;
    ensure!(message.contains(words), "{message}");
    tenant.site.claim("late", json!([{"port": PROCESS_PORT, "targetPort": "http"}])).await?;
    tenant.site.refused("late", Reason::Unsupported, &[words]).await?;
    only_answer(&tenant, before, &["web-0"]).await?;
    only_answer(&tenant, of_node, &[PROCESS]).await?;

    nodes.delete("vip-later-node", &DeleteParams::default()).await?;
    tenant.site.class_verdict(ConditionType::Accepted, ("True", Reason::Accepted)).await?;
    tenant.site.ready("late").await?;
    only_answer(&tenant, of_node, &["web-0"]).await
}

async fn of_a_service(world: Arc<World>) -> anyhow::Result<()> {
    // The one of the API server, one that a Service has, and one that no Service has yet.
    let of_api_server = IpAddr::from([10, 0, 0, 1]);
    let taken = IpAddr::from([10, 0, 250, 1]);
    let free = IpAddr::from([10, 0, 250, 2]);
    let owner = Tenant::in_class(&world.cluster, "vip-cluster-ip", "vip-cluster-ip").await?;
    owner.pod("web-0", "web").await?;
    create(&owner, "web", json!({"clusterIP": taken, "ports": [{"port": 80, "targetPort": "http"}]})).await?;
    let at = Front::tcp(taken, 80);
    owner.only_answer_inside(at, &["web-0"]).await?;
    for (name, address) in [("vip-api-server", of_api_server), ("vip-taken", taken), ("vip-free", free)] {
        let tenant = Tenant::at(&world.cluster, name, &[&address.to_string()]).await?;
        tenant.pod("other-0", "web").await?;
        let words = format!("{address} is in 10.0.0.0/16");
        let message = tenant.site.class_verdict(ConditionType::Accepted, ("False", Reason::Unsupported)).await?;
        ensure!(message.contains(&words), "{message}");
        tenant.site.claim("web", json!([{"port": 80, "targetPort": "http"}])).await?;
        tenant.site.refused("web", Reason::Unsupported, &[&words]).await?;
        tenant.site.fronts(0).await?;
        owner.only_answer_inside(at, &["web-0"]).await?;
    }
    Ok(())
}

/// Creates a Service of type ClusterIP for the pods labelled `app: <name>`.
async fn create(tenant: &Tenant, name: &str, mut spec: Value) -> anyhow::Result<()> {
    spec["selector"] = json!({"app": name});
    let service: Service = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
    tenant.services.create(&PostParams::default(), &service).await?;
    Ok(())
}

async fn of_a_foreign_service(world: Arc<World>) -> anyhow::Result<()> {
    let address = IpAddr::from([203, 0, 113, 51]);
    let victim = Tenant::at(&world.cluster, "vip-foreign", &[&address.to_string()]).await?;
    victim.pod("bank-0", "web").await?;
    victim.site.claim("bank", json!([{"port": BEFORE, "targetPort": "http"}])).await?;
    let front = front(&victim.site.ready("bank").await?, "")?;
    only_answer(&victim, front, &["bank-0"]).await?;

    // As a controller does whose pool has the address too.
    let other = victim.neighbour("vip-foreign-other").await?;
    other.pod("evil-0", "evil").await?;
    let port = |port: u16| json!({"name": format!("p-{port}"), "port": port, "targetPort": "http"});
    let spec = json!({
        "type": "LoadBalancer", "loadBalancerClass": "example.com/other", "allocateLoadBalancerNodePorts": false,
        "ports": [port(OF_NO_CLAIM)],
    });
    create(&other, "evil", spec).await?;
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}}});
    other.services.patch_status("evil", &PatchParams::default(), &Patch::Merge(status)).await?;
    only_answer(&other, front.at(OF_NO_CLAIM), &["evil-0"]).await?;
    only_answer(&victim, front, &["bank-0"]).await?;

    other.change("evil", json!({"spec": {"ports": [port(BEFORE)]}})).await?;
    create(&other, "other", json!({"ports": [port(80)]})).await?;
    captured(&other, front).await?;
    victim.closed(front.at(OF_NO_CLAIM)).await?;
    other.delete("evil").await?;
    only_answer(&victim, front, &["bank-0"]).await?;
    victim.site.ready("bank").await.map(drop)
}

/// Numbers of claims, and one of no claim.
const BEFORE: u16 = 5432;
const AFTER: u16 = 5433;
const OF_NO_CLAIM: u16 = 5434;

async fn external_ips(world: Arc<World>) -> anyhow::Result<()> {
    let cluster = &world.cluster;
    let address = IpAddr::from([203, 0, 113, 50]);
    let victim = Tenant::at(cluster, "vip-external", &[&address.to_string()]).await?;
    victim.pod("bank-0", "web").await?;
    let claim = async |name: &str, port: u16| -> anyhow::Result<Front> {
        victim.site.claim(name, json!([{"port": port, "targetPort": "http"}])).await?;
        front(&victim.site.ready(name).await?, "")
    };
    let thief = victim.neighbour("vip-external-thief").await?;
    let client = editor(cluster, &thief.site.namespace).await?;
    let thief = Tenant { services: Api::namespaced(client, &thief.site.namespace), ..thief };
    thief.pod("evil-0", "evil").await?;

    // One claim is older than the tenant's Service, and one is newer.
    let before = claim("before", BEFORE).await?;
    only_answer(&victim, before, &["bank-0"]).await?;
    let port = |port: u16| json!({"name": format!("p-{port}"), "port": port, "targetPort": "http"});
    let ports = json!([port(BEFORE), port(AFTER), port(OF_NO_CLAIM)]);
    create(&thief, "evil", json!({"externalIPs": [address], "ports": ports})).await?;
    only_answer(&victim, before.at(OF_NO_CLAIM), &["evil-0"]).await?;
    let after = claim("after", AFTER).await?;
    create(&thief, "other", json!({"ports": [port(80)]})).await?;
    for front in [before, after] {
        captured(&thief, front).await?;
    }

    let policy = repository("deploy/deny-external-ips.yaml")?;
    cluster.kubectl_output(&["apply", "--validate=strict", "-f", &policy]).await?;
    eventually("the policy to be enforced", LIMIT, async || {
        let edit = Patch::Merge(json!({"spec": {"ports": [port(BEFORE), port(AFTER)]}}));
        let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
        let tried = thief.services.patch("evil", &dry_run, &edit).await;
        let Err(kube::Error::Api(status)) = tried else { return Ok(None) };
        ensure!(status.message.contains("externalIPs"), "{status:?}");
        Ok(Some(()))
    })
    .await?;
    thief.delete("evil").await?;
    create(&thief, "evil", json!({"externalIPs": [address], "ports": ports})).await.err().context("it is denied")?;
    create(&thief, "evil", json!({"ports": ports})).await?;
    let edit = Patch::Merge(json!({"spec": {"externalIPs": [address]}}));
    let added = thief.services.patch("evil", &PatchParams::default(), &edit).await;
    added.err().context("it is denied to a Service that exists")?;
    for front in [before, after] {
        only_answer(&victim, front, &["bank-0"]).await?;
    }
    victim.closed(before.at(OF_NO_CLAIM)).await?;
    victim.silent(before.at(OF_NO_CLAIM)).await?;
    cluster.kubectl_output(&["delete", "-f", &policy]).await.map(drop)
}

/// Edits another Service of the thief's again and again, which has kube-proxy compare its rules,
/// until the thief's pod answers at a port of the victim's. (Of two Services with one address
/// and port, kube-proxy's mode `nftables` serves the one that it comes to last, and it goes
/// through them in no order.)
async fn captured(thief: &Tenant, front: Front) -> anyhow::Result<()> {
    let mut edits = (6000..).map(|port: u16| json!({"spec": {"ports": [{"port": port}]}}));
    eventually(&format!("the thief to answer at {front:?}"), LIMIT, || {
        let edit = edits.next();
        async move {
            thief.change("other", edit.context("a further port")?).await?;
            Ok((thief.ask(front).await?.name == "evil-0").then_some(()))
        }
    })
    .await
}
