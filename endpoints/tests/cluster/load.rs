//! Requests that never stop, while pods come and go: none of them fails.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use libtest_mimic::Trial;
use sharedlb_endpoints::{LoadBalancer, Policy};
use sharedlb_harness::{LIMIT, Tests};
use sharedlb_testbed::{Cluster, eventually};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::setting::{Place, WebPod, pods, until_pods};
use crate::{http_proxy, hyper_client};

/// How many requests are under way at once.
const WORKERS: usize = 8;
/// How many pods there are, and how often one of them is replaced.
const PODS: usize = 3;
const REPLACEMENTS: usize = 10;

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    vec![
        test.test("no request of the hyper client fails while pods are replaced", direct),
        test.test("no request through the HTTP proxy fails while pods are replaced", proxied),
    ]
}

async fn direct(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let place = Place::make(&cluster, "direct").await?;
    let load_balancer = place.load_balancer(place.config());
    let used = load_balancer.clone();
    let send = move || {
        let load_balancer = used.clone();
        async move {
            let (_, status) = hyper_client::get(&load_balancer, "/").await?;
            ensure!(status.is_success(), "{status}");
            Ok(())
        }
    };
    replace_all(&place, &load_balancer, send).await
}

async fn proxied(cluster: Arc<Cluster>) -> anyhow::Result<()> {
    let place = Place::make(&cluster, "proxied").await?;
    let load_balancer = place.load_balancer(place.config().policy(Policy::RoundRobin));
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let url: http::Uri = format!("http://{}/", listener.local_addr()?).parse()?;
    let mut serving = JoinSet::new();
    let proxy = http_proxy::proxy(load_balancer.clone());
    serving.spawn(async { axum::serve(listener, proxy).await });
    let client: HttpClient<_, Empty<Bytes>> = HttpClient::builder(TokioExecutor::new()).build_http();
    let send = move || {
        let answer = client.get(url.clone());
        async {
            let answer = answer.await?;
            let status = answer.status();
            let body = answer.collect().await?.to_bytes();
            ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
            Ok(())
        }
    };
    replace_all(&place, &load_balancer, send).await
}

/// Replaces pod after pod while requests are sent. Fails with the first request that does.
async fn replace_all<S, F>(place: &Place, load_balancer: &LoadBalancer, send: S) -> anyhow::Result<()>
where
    S: Fn() -> F + Clone + Send + 'static,
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let mut running = Vec::new();
    for number in 0..PODS {
        running.push(place.pod(&format!("web-{number}")).await?);
    }
    eventually("all pods to get requests", LIMIT, async || Ok((pods(load_balancer).len() == PODS).then_some(())))
        .await?;

    let mut load = Load::start(send);
    let rounds = load.rounds.clone();
    for number in PODS..PODS + REPLACEMENTS {
        running.push(place.pod(&format!("web-{number}")).await?);
        let oldest = running.remove(0);
        load.during(replace(load_balancer, oldest, number, &rounds)).await?;
    }
    load.stop().await
}

/// Ends a pod as Kubernetes does: it terminates, gets no new requests, and drains.
async fn replace(
    load_balancer: &LoadBalancer,
    oldest: WebPod,
    newest: usize,
    rounds: &[AtomicU64],
) -> anyhow::Result<()> {
    oldest.terminate().await?;
    let remaining: Vec<String> = (newest + 1 - PODS..=newest).map(|number| format!("web-{number}")).collect();
    let remaining: Vec<&str> = remaining.iter().map(String::as_str).collect();
    until_pods(load_balancer, &remaining).await?;
    // A request may have chosen the pod before, and not have reached it yet: in Kubernetes, a
    // preStop hook gives it the time. In here, each worker has begun another request since.
    let read = || rounds.iter().map(|round| round.load(Ordering::Relaxed));
    let before: Vec<u64> = read().collect();
    eventually("requests to go on", LIMIT, async || {
        Ok(read().zip(&before).all(|(now, before)| now > before + 1).then_some(()))
    })
    .await?;
    oldest.end().await
}

/// Workers that each send one request after another.
struct Load {
    workers: JoinSet<anyhow::Result<()>>,
    stop: watch::Sender<bool>,
    /// How many requests of each worker have been answered.
    rounds: Arc<[AtomicU64]>,
}

impl Load {
    fn start<S, F>(send: S) -> Self
    where
        S: Fn() -> F + Clone + Send + 'static,
        F: Future<Output = anyhow::Result<()>> + Send,
    {
        let rounds: Arc<[AtomicU64]> = (0..WORKERS).map(|_| AtomicU64::new(0)).collect();
        let stop = watch::Sender::new(false);
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            let (send, rounds, stopped) = (send.clone(), rounds.clone(), stop.subscribe());
            workers.spawn(async move {
                while !*stopped.borrow() {
                    send().await.context("a request failed")?;
                    rounds[worker].fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        Self { workers, stop, rounds }
    }

    /// Does this while requests are sent. Fails with the first request that does.
    async fn during(&mut self, act: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
        tokio::select! {
            done = act => done,
            Some(failed) = self.workers.join_next() => failed?,
        }
    }

    /// Lets each worker end its last request.
    async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.workers.join_next().await {
            ended??;
        }
        Ok(())
    }
}
