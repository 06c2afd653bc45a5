//! The figures of the library: `make bench`.
//!
//! On stdout is one figure a line, `name<TAB>value<TAB>unit`: how long `next` takes by one thread
//! and by two, and how long after a write of an EndpointSlice the first request arrives at an
//! endpoint that is new in it, with a real API server.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sharedlb_endpoints::{Config, LoadBalancer, Policy};
use sharedlb_testbed::{Cluster, Parts, enter, eventually, ip};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// What Cargo passes to a bench, and not to the same program as a test.
const BENCH_FLAG: &str = "--bench";

const NAMESPACE: &str = "default";
const ENDPOINTS: u16 = 1000;
const PORT: u16 = 8080;

/// How often `next` is called in one run, which is short beside a time slice, and how many runs
/// each thread does. The one in the middle counts, on a machine that may have other things to do.
const CALLS: u32 = 10_000;
const RUNS: u32 = 1_000;

/// How often an endpoint is replaced.
const CHANGES: u8 = 50;

/// Much more than anything takes.
const LIMIT: Duration = Duration::from_secs(30);

fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == BENCH_FLAG) {
        eprintln!("this is a bench: run it with cargo bench --bench next");
        return Ok(());
    }
    let testbed = enter(Parts::API_ONLY)?;
    // As the addresses of pods are reached from the node.
    ip(&[], "route add local 10.244.0.0/16 dev lo\n")?;
    Runtime::new()?.block_on(async {
        let cluster = Cluster::start(testbed).await?;
        measure_next(&cluster).await?;
        measure_change(&cluster).await
    })
}

/// Prints a figure on a line of stdout.
fn print(name: &str, value: f64, unit: &str) {
    println!("{name}\t{value:.2}\t{unit}");
}

/// Creates an EndpointSlice of a Service.
async fn create_slice(cluster: &Cluster, service: &str, endpoints: &[Ipv4Addr]) -> anyhow::Result<()> {
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": with_addresses(endpoints),
        "ports": [{"port": PORT}],
    }))?;
    slices(cluster).create(&PostParams::default(), &slice).await?;
    Ok(())
}

fn slices(cluster: &Cluster) -> Api<EndpointSlice> {
    Api::namespaced(cluster.admin(), NAMESPACE)
}

fn with_addresses(endpoints: &[Ipv4Addr]) -> Vec<Value> {
    endpoints.iter().map(|address| json!({"addresses": [address]})).collect()
}

/// A pod's address.
fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 244, high, low)
}

async fn measure_next(cluster: &Cluster) -> anyhow::Result<()> {
    let addresses: Vec<Ipv4Addr> = (1..=ENDPOINTS).map(address).collect();
    create_slice(cluster, "many", &addresses).await?;
    for (name, policy) in [("p2c", Policy::PowerOfTwoChoices), ("round_robin", Policy::RoundRobin)] {
        let config = Config::new("many").namespace(NAMESPACE).policy(policy);
        let load_balancer = LoadBalancer::new(cluster.admin(), config);
        load_balancer.sync_endpoints().await?;
        ensure!(load_balancer.endpoints().len() == usize::from(ENDPOINTS), "endpoints are missing");
        for threads in [1, 2] {
            let nanoseconds = time_of_next(&load_balancer, threads).as_secs_f64() * 1e9 / f64::from(CALLS);
            print(&format!("endpoints_next_{name}_{ENDPOINTS}_threads_{threads}_ns"), nanoseconds, "ns");
        }
    }
    slices(cluster).delete("many", &DeleteParams::default()).await?;
    Ok(())
}

/// How long a run takes if so many threads do them at the same time.
fn time_of_next(load_balancer: &LoadBalancer, threads: usize) -> Duration {
    let start = Barrier::new(threads);
    let runs = || {
        start.wait();
        (0..RUNS).map(|_| time_of_run(load_balancer)).collect::<Vec<_>>()
    };
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(runs)).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    });
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Begins and ends requests.
fn time_of_run(load_balancer: &LoadBalancer) -> Duration {
    let started = Instant::now();
    for _ in 0..CALLS {
        black_box(load_balancer.next().is_ok());
    }
    started.elapsed()
}

async fn measure_change(cluster: &Cluster) -> anyhow::Result<()> {
    create_slice(cluster, "changing", &[address(1)]).await?;
    let load_balancer = LoadBalancer::new(cluster.admin(), Config::new("changing").namespace(NAMESPACE));
    load_balancer.start_background_sync();
    eventually("the first endpoint", LIMIT, async || Ok(load_balancer.next().is_ok().then_some(()))).await?;
    let mut times = Vec::new();
    for last in 2..2 + CHANGES {
        times.push(change(cluster, &load_balancer, address(last.into())).await?);
    }
    load_balancer.shutdown().await;
    times.sort_unstable();
    let median = times.get(times.len() / 2).context("no change was measured")?;
    let slowest = times.last().context("no change was measured")?;
    print("endpoints_change_to_request_p50_ms", median.as_secs_f64() * 1e3, "ms");
    print("endpoints_change_to_request_max_ms", slowest.as_secs_f64() * 1e3, "ms");
    Ok(())
}

/// Replaces the only endpoint by this one; returns how long after the write began the first
/// request arrives there.
async fn change(cluster: &Cluster, load_balancer: &LoadBalancer, next: Ipv4Addr) -> anyhow::Result<Duration> {
    let next = SocketAddr::from((next, PORT));
    let listener = TcpListener::bind(next).await?;
    let patch = json!({"endpoints": [{"addresses": [next.ip()]}]});
    let started = Instant::now();
    let (slices, params, patch) = (slices(cluster), PatchParams::default(), Patch::Merge(patch));
    let write = async { slices.patch("changing", &params, &patch).await.map_err(anyhow::Error::from) };
    let request = async {
        // A client that sends requests all the time.
        while load_balancer.next()?.address != next {
            tokio::task::yield_now().await;
        }
        TcpStream::connect(next).await?;
        Ok(())
    };
    let arrival = async {
        listener.accept().await?;
        Ok(started.elapsed())
    };
    let all = async { tokio::try_join!(write, request, arrival) };
    let (_, (), elapsed) = tokio::time::timeout(LIMIT, all).await.context("waiting for a request to arrive")??;
    Ok(elapsed)
}
