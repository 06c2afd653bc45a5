//! keepalived and the packet filter, with the configurations of docs/vip.md: the address of a
//! class moves between two nodes, and the processes of the node that has it are kept out.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use sharedlb_harness::front::{Front, front};
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{LIMIT, Replica, Tests};
use sharedlb_testbed::{Client, Cluster, eventually, ip};

use crate::SHAREDLB;
use crate::cables::{self, snippet};
use crate::in_use::{PROCESS, PROCESS_PORT, Process};

/// The address in docs/vip.md.
const ADDRESS: &str = "203.0.113.8";

/// The address of the second node, from which connections come that it takes.
const NODE_2: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 12));

/// What asks kube-proxy whether it works, by the configuration.
const CURL: &str = "/usr/bin/curl";

pub(crate) fn trials_of_their_own(test: &Tests<Cluster>) -> Vec<Trial> {
    let name = "with the configurations of docs/vip.md, an address moves, and keeps processes of the node out";
    vec![test.test(name, moves)]
}

async fn moves(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    if !cluster.ipv6() || !Path::new(CURL).exists() {
        eprintln!("skipped: this machine has no IPv6, or no {CURL}");
        return Ok(());
    }
    // Root alone is certain to be in the user namespace of the test.
    let config = snippet("vrrp_script kube_proxy {")?.replace("script_user nobody", "script_user root");
    let config = config.replace("interface eth0", "interface lan");
    cables::lay()?;
    ip(&["-n", "router"], &format!("route add {ADDRESS}/32 dev lan\n"))?;
    let Some(on_node_1) = cluster.keepalived(None, &config)? else {
        eprintln!("skipped: keepalived could not be unpacked on this machine");
        return cables::remove();
    };
    let mut replica = Replica::alone(SHAREDLB, &cluster, &[]).await?;
    let tenant = Tenant::at(&cluster, "vip-keepalived", &[ADDRESS]).await?;
    tenant.pod("web-0", "web").await?;
    let front = front(&tenant.site.assigned("web").await?, "")?;
    let node_2 = cluster.remote_node("node-2", &[NODE_2]).await?;
    let second = config.replace("priority 100", "priority 50");
    ensure!(second != config, "the configuration has no priority 100:\n{config}");
    let on_node_2 = cluster.keepalived(Some("node-2"), &second)?.context("keepalived was there before")?;
    let client = cluster.client_in("far")?;

    moves_to(&client, front, Node::First).await?;
    processes_are_kept_out(&client, front).await?;
    cluster.stop_kube_proxy().await?;
    moves_to(&client, front, Node::Second).await?;
    cluster.resume_kube_proxy().await?;
    moves_to(&client, front, Node::First).await?;
    on_node_1.stop().await?;
    moves_to(&client, front, Node::Second).await?;

    // Nothing of it is left for the tests after this one.
    on_node_2.stop().await?;
    node_2.delete().await?;
    cables::remove()?;
    tenant.site.delete("web").await?;
    tenant.site.delete_class().await?;
    tenant.site.class_gone().await?;
    replica.kill().await
}

/// A node that may have the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    /// The one with the cluster's own network namespace, where the pods are
    First,
    /// The one with the network namespace `node-2`
    Second,
}

impl Node {
    fn has_address(self) -> anyhow::Result<bool> {
        let namespace: &[&str] = if self == Self::First { &[] } else { &["-n", "node-2"] };
        let output = Command::new("ip").args(namespace).args(["-json", "address", "show", "dev", "lan"]).output()?;
        ensure!(output.status.success(), "ip address show: {}", String::from_utf8_lossy(&output.stderr));
        let links: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        let mut addresses = links.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
        Ok(addresses.any(|address| address["local"] == ADDRESS))
    }
}

/// Waits until this node alone has the address, and connections go through it.
async fn moves_to(client: &Client, front: Front, node: Node) -> anyhow::Result<()> {
    eventually(&format!("{ADDRESS} to be on the {node:?} node alone"), LIMIT, async || {
        for each in [Node::First, Node::Second] {
            let has_address = each.has_address()?;
            ensure!(has_address == (each == node), "{each:?} has it: {has_address}");
        }
        Ok(Some(()))
    })
    .await?;
    eventually(&format!("an answer at {front:?} through the {node:?} node"), LIMIT, async || {
        let answer = client.tcp(front.address, front.port).await?;
        let through = if answer.seen == NODE_2 { Node::Second } else { Node::First };
        ensure!(answer.name == "web-0" && through == node, "{answer:?}");
        Ok(Some(()))
    })
    .await
}

/// The first node has the address, so its processes are reached there, until the rules of
/// docs/vip.md are loaded.
async fn processes_are_kept_out(client: &Client, front: Front) -> anyhow::Result<()> {
    let _process = Process::start(Front::tcp(Ipv4Addr::UNSPECIFIED.into(), PROCESS_PORT)).await?;
    let of_process = front.at(PROCESS_PORT);
    let is_reached = async |reached: bool| {
        let what = format!("a process of the node to be reached at {of_process:?}: {reached}");
        eventually(&what, LIMIT, async || {
            let answer = client.tcp(of_process.address, of_process.port).await;
            let is_it = answer.as_ref().is_ok_and(|answer| answer.name == PROCESS);
            ensure!(is_it == reached && answer.is_ok() == reached, "{answer:?}");
            Ok(Some(()))
        })
        .await
    };
    is_reached(true).await?;
    nft(&snippet("table inet sharedlb_vips {")?)?;
    is_reached(false).await?;
    moves_to(client, front, Node::First).await?;
    nft("delete table inet sharedlb_vips\n")?;
    is_reached(true).await
}

/// Loads rules into the packet filter of the cluster's network namespace.
fn nft(rules: &str) -> anyhow::Result<()> {
    let mut process = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("running nft")?;
    process.stdin.take().context("it has an input")?.write_all(rules.as_bytes())?;
    let loaded = process.wait()?;
    ensure!(loaded.success(), "nft does not take these rules: {loaded}\n{rules}");
    Ok(())
}
