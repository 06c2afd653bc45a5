//! A cluster whose only IP family is IPv6, with load balancers of the provider `vip`, and
//! clients outside of it.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::front::{Front, front};
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{AtOnce, LIMIT, Tests, World, run_tests, start_installed};
use sharedlb_testbed::{Families, Parts, Protocol, Testbed, eventually, ip};

/// The controller's binary.
const SHAREDLB: &str = env!("CARGO_BIN_EXE_sharedlb");

/// How many tests of one controller run at once. They wait more than they work.
const THREADS: usize = 4;

/// The address of the clients.
const CLIENT: &str = "fd00:99:9::2/128";

/// The protocols of the claims.
const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

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

/// Creates the claim `dns` on TCP and UDP, with further fields in its spec, and returns where
/// it is open once it is ready.
async fn claim(tenant: &Tenant, mut spec: Value) -> anyhow::Result<Front> {
    spec["selector"] = json!({"app": "web"});
    spec["ports"] = json!([{"protocol": "TCP_UDP", "targetPort": 5353}]);
    tenant.site.claim_with("dns", spec).await?;
    front(&tenant.site.ready("dns").await?, "")
}

/// Waits until no pod answers, by either protocol.
async fn closed(tenant: &Tenant, front: Front) -> anyhow::Result<()> {
    for protocol in BOTH {
        tenant.closed(front.by(protocol)).await?;
    }
    Ok(())
}

async fn reached(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::at(&world.cluster, "reached", &["2001:db8::10"]).await?;
    let pod = tenant.pod("web-0", "web").await?;
    ensure!(pod.addresses.iter().all(IpAddr::is_ipv6), "the cluster has IPv4: {:?}", pod.addresses);
    let front = claim(&tenant, json!({})).await?;
    ensure!(front.address.to_string() == "2001:db8::10", "{front:?}");
    for protocol in BOTH {
        tenant.answers(front.by(protocol), "web-0").await?;
    }
    tenant.only_answer_inside(front, &["web-0"]).await?;
    tenant.site.delete("dns").await?;
    closed(&tenant, front).await
}

async fn options(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::at(&world.cluster, "options", &["2001:db8::11"]).await?;
    for name in ["web-0", "web-1", "web-2"] {
        tenant.pod(name, "web").await?;
    }
    let ranges = |range: &str| json!({"loadBalancerSourceRanges": [range]});
    let front = claim(&tenant, ranges("2001:db8:ffff::/48")).await?;
    // The nodes may not know the port yet: the range holds from the first packet.
    for protocol in BOTH {
        tenant.silent(front.by(protocol)).await?;
    }
    tenant.site.change("dns", json!({"spec": ranges(CLIENT)})).await?;
    for protocol in BOTH {
        eventually(&format!("an answer at {front:?}"), LIMIT, async || tenant.ask(front.by(protocol)).await.map(Some))
            .await?;
    }
    // A range of the other family admits no client. (0.0.0.0/0 would stand for all clients.)
    tenant.site.change("dns", json!({"spec": ranges("192.0.2.0/24")})).await?;
    let words = ["IPv6 addresses only", "add the IPv6 ranges of its clients"];
    tenant.site.verdict_with("dns", ConditionType::Programmed, ("False", Reason::Unsupported), &words).await?;
    closed(&tenant, front).await?;
    let affinity = json!({"loadBalancerSourceRanges": null, "sessionAffinity": "ClientIP"});
    tenant.site.change("dns", json!({"spec": affinity})).await?;
    tenant.one_answers(front).await
}

async fn refused_without_backends(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::at(&world.cluster, "refused", &["2001:db8::12"]).await?;
    let pod = tenant.pod("web-0", "web").await?;
    let front = claim(&tenant, json!({})).await?;
    tenant.answers(front, "web-0").await?;
    pod.delete().await?;
    // By UDP: over a cable as short as this, the refusal of a TCP connection comes while the
    // kernel still holds the socket, and has no effect before it comes again after a second.
    let front = front.by(Protocol::Udp);
    eventually(&format!("{front:?} to refuse datagrams"), LIMIT, async || {
        let Err(error) = tenant.ask(front).await else { return Ok(None) };
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        ensure!(kind == Some(io::ErrorKind::ConnectionRefused), "{error:#}");
        Ok(Some(()))
    })
    .await
}

async fn of_ipv4(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::at(&world.cluster, "of-ipv4", &["2001:db8::13", "203.0.113.13"]).await?;
    tenant.pod("web-0", "web").await?;
    let words = "203.0.113.13 is an IPv4 address";
    let message = tenant.site.class_verdict(ConditionType::Accepted, ("False", Reason::Unsupported)).await?;
    ensure!(message.contains(words), "{message}");
    tenant.site.claim("dns", json!([{"targetPort": 5353}])).await?;
    tenant.site.refused("dns", Reason::Unsupported, &[words]).await?;

    let ranges = json!([{"min": "2001:db8::13", "max": "2001:db8::13"}]);
    tenant.site.change_class(json!({"spec": {"addresses": ranges}})).await?;
    let front = front(&tenant.site.ready("dns").await?, "")?;
    tenant.answers(front, "web-0").await.map(drop)
}

async fn of_the_cluster(world: Arc<World>) -> anyhow::Result<()> {
    for (name, address, words) in [
        ("of-node", "fd00:99:8::1", "fd00:99:8::1 is an address of node node-1"),
        ("of-service", "fd00:10::abc", "fd00:10::abc is in fd00:10::/108"),
    ] {
        let tenant = Tenant::at(&world.cluster, name, &[address]).await?;
        let message = tenant.site.class_verdict(ConditionType::Accepted, ("False", Reason::Unsupported)).await?;
        ensure!(message.contains(words), "{message}");
    }
    Ok(())
}
