//! The parts of the bench that are about packets.
//!
//! `open`: from the creation of a claim until a client outside of the cluster
//! has an answer through the load balancer.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use sharedlb_crds::SharedLB;
use sharedlb_testbed::{Client, PodPort, PodSpec};

use crate::burst_ready;
use crate::claims::prepare;
use crate::controller::Controller;
use crate::figures::{percentile_ms, print, progress};
use crate::parts::{Chosen, Part};
use crate::stage::{PATIENCE, Stage, address_of, port_of};

const NAMESPACE: &str = "traffic";
const CLASS: &str = "traffic";
const SAMPLES: usize = 100;

/// How often the client asks: the grain of what is measured. It does not wait
/// for the fate of one attempt before it makes the next, since a packet to a
/// port that is not open yet may get no answer at all.
const ASK_EVERY: Duration = Duration::from_millis(2);

/// Measures the chosen parts.
pub(crate) async fn run(stage: &Stage, chosen: &Chosen) -> anyhow::Result<()> {
    let (controller, client) = (Controller::start(stage).await?, stage.cluster.client()?);
    if chosen.has(Part::Open) {
        open(stage, &client).await?;
    }
    if chosen.has(Part::BurstReady) {
        prepare(stage).await?;
        burst_ready::measure(stage, controller, &client).await?;
    }
    Ok(())
}

/// Opens claims one after another, all of them for one pod.
async fn open(stage: &Stage, client: &Client) -> anyhow::Result<()> {
    stage.namespace(NAMESPACE).await?;
    let class = stage.class(CLASS).await?;
    let address = address_of(&class).context("the class has an address")?.parse()?;
    let pod = PodSpec::new(NAMESPACE, "pod").label("app", "pod").port(PodPort::tcp("main", 8080));
    stage.cluster.pod(pod).await?;

    progress(&format!("{SAMPLES} claims, until a client has an answer"));
    let mut times = Vec::new();
    for sample in 0..SAMPLES {
        times.push(time_to_answer(stage, client, address, &format!("open-{sample}")).await?);
    }
    print("open_p50_ms", percentile_ms(&times, 50), "ms");
    print("open_p99_ms", percentile_ms(&times, 99), "ms");
    Ok(())
}

async fn time_to_answer(stage: &Stage, client: &Client, address: IpAddr, name: &str) -> anyhow::Result<Duration> {
    let claim: SharedLB = serde_json::from_value(json!({
        "apiVersion": "sharedlb.dev/v1alpha1",
        "kind": "SharedLB",
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {"className": CLASS, "selector": {"app": "pod"}, "ports": [{"targetPort": 8080}]},
    }))?;
    let ports = stage.claims.expect(port_of(NAMESPACE, name));
    let created = Instant::now();
    Api::namespaced(stage.admin.clone(), NAMESPACE).create(&PostParams::default(), &claim).await?;
    let claim = ports.wait(PATIENCE).await?.object;
    let port = claim.status.and_then(|status| status.ports.first().map(|port| port.port)).context("a port")?;
    until_answered(client, address, port.get()).await?;
    Ok(created.elapsed())
}

/// Asks until there is an answer.
pub(crate) async fn until_answered(client: &Client, address: IpAddr, port: u16) -> anyhow::Result<()> {
    let answered = async {
        let mut attempts = FuturesUnordered::new();
        let mut ask = tokio::time::interval(ASK_EVERY);
        loop {
            tokio::select! {
                _ = ask.tick() => attempts.push(client.tcp(address, port)),
                Some(Ok(_)) = attempts.next() => return,
            }
        }
    };
    tokio::time::timeout(PATIENCE, answered)
        .await
        .with_context(|| format!("waited {PATIENCE:?} for an answer from {address}, port {port}"))
}
