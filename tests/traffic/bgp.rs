//! BGP, with the configurations of docs/vip.md: a router learns from two nodes that they take
//! packets for the addresses of a class, and spreads connections over both.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_harness::front::{Front, fronts};
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{LIMIT, Replica, Tests};
use sharedlb_testbed::{Client, Cluster, eventually};

use crate::SHAREDLB;
use crate::cables::{self, snippet};

/// The addresses of the class in docs/vip.md, as routes.
const IPV4: &str = "203.0.113.8/29";
const IPV6: &str = "2001:db8:0:1::8/125";

/// How many connections are made before it counts which nodes took them.
const CONNECTIONS: usize = 40;

pub(crate) fn trials_of_their_own(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![test.test("with the configurations of docs/vip.md, a router spreads connections over the nodes", spread)]
}

async fn spread(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    if !cluster.ipv6() {
        eprintln!("skipped: docs/vip.md has IPv6 addresses, and this machine has no IPv6");
        return Ok(());
    }
    cables::lay()?;
    let config = snippet("router bgp 65000")?;
    let Some(router) = cluster.frr(Some("router"), &config).await? else {
        eprintln!("skipped: FRR could not be unpacked on this machine");
        return cables::remove();
    };
    let mut replica = Replica::alone(SHAREDLB, &cluster, &[]).await?;
    let ranges = json!([
        {"min": "203.0.113.8", "max": "203.0.113.15"},
        {"min": "2001:db8:0:1::8", "max": "2001:db8:0:1::f"},
    ]);
    let tenant = Tenant::open(&cluster, "vip-bgp", json!({"provider": {"vip": {}}, "addresses": ranges})).await?;
    tenant.pod("web-0", "web").await?;
    let fronts = fronts(&tenant.site.assigned("web").await?, "")?;
    let second: [IpAddr; 2] = ["192.0.2.12".parse()?, "2001:db8::12".parse()?];
    let node_2 = cluster.remote_node("node-2", &second).await?;

    let config = snippet("router bgp 65010")?;
    let start = async |namespace: Option<&str>, address: &str| {
        let config = config.replace("192.0.2.11", address);
        cluster.frr(namespace, &config).await?.context("FRR was there before")
    };
    let on_node_1 = start(None, "192.0.2.11").await?;
    let on_node_2 = start(Some("node-2"), "192.0.2.12").await?;
    let client = cluster.client_in("far")?;
    let learned = async |count: usize| -> anyhow::Result<()> {
        for route in [IPV4, IPV6] {
            eventually(&format!("the router to have {count} next hops for {route}"), LIMIT, async || {
                let found = next_hops(route)?;
                ensure!(found == count, "it has {found}");
                Ok(Some(()))
            })
            .await?;
        }
        Ok(())
    };

    learned(2).await?;
    for front in &fronts {
        // A connection that the second node takes comes from that node's address.
        let through = through(&client, *front, 2).await?;
        ensure!(second.iter().any(|address| through.contains(address)), "{through:?}");
    }
    on_node_2.stop().await?;
    learned(1).await?;
    for front in &fronts {
        let through = through(&client, *front, 1).await?;
        ensure!(!second.iter().any(|address| through.contains(address)), "{through:?}");
    }
    let on_node_2 = start(Some("node-2"), "192.0.2.12").await?;
    learned(2).await?;
    for front in &fronts {
        through(&client, *front, 2).await?;
    }

    // Nothing of it is left for the tests after this one.
    for frr in [router, on_node_1, on_node_2] {
        frr.stop().await?;
    }
    node_2.delete().await?;
    cables::remove()?;
    tenant.site.delete("web").await?;
    tenant.site.delete_class().await?;
    tenant.site.class_gone().await?;
    replica.kill().await
}

/// Waits until so many connections in a row are answered by the pod, and that it has seen them
/// come from so many addresses, which are returned.
async fn through(client: &Client, front: Front, addresses: usize) -> anyhow::Result<BTreeSet<IpAddr>> {
    eventually(&format!("answers at {front:?} through {addresses} nodes"), LIMIT, async || {
        let mut seen = BTreeSet::new();
        for _ in 0..CONNECTIONS {
            let answer = client.tcp(front.address, front.port).await?;
            ensure!(answer.name == "web-0", "{} answers", answer.name);
            seen.insert(answer.seen);
        }
        ensure!(seen.len() == addresses, "the pod has seen {seen:?}");
        Ok(Some(seen))
    })
    .await
}

/// How many next hops the router has for a route.
fn next_hops(route: &str) -> anyhow::Result<usize> {
    let family = if route.contains(':') { "-6" } else { "-4" };
    let output =
        Command::new("ip").args(["-n", "router", "-json", family, "route", "show", "exact", route]).output()?;
    ensure!(output.status.success(), "ip route show {route}: {}", String::from_utf8_lossy(&output.stderr));
    let routes: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let hops = |route: &Value| match route["nexthops"].as_array() {
        Some(hops) => hops.len(),
        None => usize::from(route["gateway"].is_string() || route["via"].is_object()),
    };
    Ok(routes.iter().map(hops).sum())
}
