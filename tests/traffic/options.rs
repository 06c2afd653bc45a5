//! Source ranges and session affinity of claims and Services, on addresses of one's own.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::json;
use sharedlb_harness::front::front;
use sharedlb_harness::tenant::Tenant;
use sharedlb_harness::{LIMIT, Tests, World};
use sharedlb_testbed::{Protocol, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The clients' address, from which they connect.
const CLIENT: &str = "10.99.9.2/32";

/// A range without a client.
const OTHERS: &str = "192.0.2.0/24";

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a claim gets and loses source ranges and affinity, and its neighbour stays open", options_of_claims),
        test.test("a connection that is open goes on while source ranges and affinity change", established),
        test.test("the source ranges of a Service are in force on an address of one's own", options_of_services),
    ]
}

async fn options_of_claims(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::at(&world.cluster, "vip-claims", &["203.0.113.7"]).await?;
    tenant.pod("web-0", "web").await?;
    tenant.pod("web-1", "web").await?;
    let neighbour = front(&tenant.site.assigned("neighbour").await?, "")?;
    let ports = json!([{"protocol": "TCP_UDP", "targetPort": 5353}]);
    let spec = json!({"selector": {"app": "web"}, "ports": ports, "loadBalancerSourceRanges": [OTHERS]});
    tenant.site.claim_with("web", spec).await?;
    let front = front(&tenant.site.ready("web").await?, "")?;
    ensure!(front.address == neighbour.address, "{front:?}, {neighbour:?}");
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        tenant.silent(front.by(protocol)).await?;
    }
    tenant.only_answer(neighbour, &["web-0", "web-1"]).await?;
    // Clients inside of the cluster are outside of each of these ranges.
    for (edit, admitted, sticky, inside) in [
        (json!({"loadBalancerSourceRanges": [CLIENT, OTHERS]}), true, false, false),
        (json!({"loadBalancerSourceRanges": null}), true, false, true),
        (json!({"loadBalancerSourceRanges": [CLIENT]}), true, false, false),
        (json!({"sessionAffinity": "ClientIP"}), true, true, false),
        (json!({"loadBalancerSourceRanges": [OTHERS]}), false, true, false),
        (json!({"loadBalancerSourceRanges": null}), true, true, true),
    ] {
        tenant.site.change("web", json!({"spec": edit})).await?;
        tenant.site.ready("web").await?;
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let front = front.by(protocol);
            if !admitted {
                tenant.closed(front).await?;
                tenant.silent(front).await?;
            } else if sticky {
                tenant.one_answers(front).await?;
            } else {
                tenant.only_answer(front, &["web-0", "web-1"]).await?;
            }
        }
        let what = format!("an answer inside to be {inside}");
        eventually(&what, LIMIT, async || Ok((tenant.ask_inside(front).await.is_ok() == inside).then_some(()))).await?;
        tenant.only_answer(neighbour, &["web-0", "web-1"]).await?;
    }
    Ok(())
}

/// The port of a pod that keeps connections open.
const HOLDING: u16 = 9000;

async fn established(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::at(&world.cluster, "vip-established", &["203.0.113.5"]).await?;
    let pod = tenant.pod("web-0", "web").await?;
    let _echo = Echo::start(SocketAddr::new(pod.addresses[0], HOLDING)).await?;
    let ports = json!([{"targetPort": HOLDING}]);
    let spec = json!({"selector": {"app": "web"}, "ports": ports, "loadBalancerSourceRanges": [CLIENT]});
    tenant.site.claim_with("web", spec).await?;
    let at = front(&tenant.site.ready("web").await?, "")?;
    let connect = async || tenant.client.connect(at.address, at.port).await;
    let mut open = eventually("a connection", LIMIT, async || connect().await.map(Some)).await?;
    echoes(&mut open).await?;
    for (number, edit) in [
        json!({"sessionAffinity": "ClientIP"}),
        json!({"loadBalancerSourceRanges": [CLIENT, OTHERS]}),
        json!({"loadBalancerSourceRanges": null}),
        json!({"sessionAffinity": null}),
        json!({"loadBalancerSourceRanges": [OTHERS]}),
    ]
    .into_iter()
    .enumerate()
    {
        tenant.site.change("web", json!({"spec": edit})).await?;
        tenant.site.ready("web").await?;
        // kube-proxy takes in the Services in their order.
        let later = front(&tenant.site.assigned(&format!("later-{number}")).await?, "")?;
        tenant.answers(later, "web-0").await?;
        echoes(&mut open).await.with_context(|| format!("after {edit}"))?;
    }
    for _ in 0..5 {
        ensure!(connect().await.is_err(), "a client outside of the ranges has connected");
    }
    Ok(())
}

/// A process of a pod that sends back what it gets. It ends when this is dropped.
struct Echo(JoinHandle<()>);

impl Echo {
    async fn start(at: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        Ok(Self(tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    // The client may have gone.
                    _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        })))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Requires that a connection works in both directions.
async fn echoes(connection: &mut TcpStream) -> anyhow::Result<()> {
    let (sent, mut got) = (*b"are you there?", [0; 14]);
    connection.write_all(&sent).await?;
    tokio::time::timeout(LIMIT, connection.read_exact(&mut got)).await.context("no answer")??;
    ensure!(got == sent, "the answer is {got:?}");
    Ok(())
}

async fn options_of_services(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::at(&world.cluster, "vip-services", &["203.0.113.9"]).await?;
    tenant.pod("web-0", "web").await?;
    tenant.service("web", json!({"loadBalancerSourceRanges": [OTHERS]})).await?;
    let served = tenant.served("web", &[(80, Protocol::Tcp)]).await?;
    let front = *served.first().context("it is served")?;
    tenant.silent(front).await?;
    tenant.change("web", json!({"spec": {"loadBalancerSourceRanges": [CLIENT]}})).await?;
    tenant.answers(front, "web-0").await?;
    tenant.change("web", json!({"spec": {"loadBalancerSourceRanges": [OTHERS]}})).await?;
    tenant.closed(front).await?;
    tenant.silent(front).await
}
