//! Puts the parts together: watches, the class loop, the web pages.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tracing::{info, warn};

use crate::class_loop::{ClassLoop, Settings};
use crate::cluster::backends::Backends;
use crate::cluster::watch_all;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::provider;
use crate::readiness::Readiness;
use crate::sources;
use crate::web;

/// How long to wait between two tries to reach the API server at the start.
const START_RETRY: Duration = Duration::from_secs(2);

/// What the controller is given at its start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the web pages are served
    pub listen: SocketAddr,
    /// Where the API server is; `None`: from `KUBECONFIG`, the home folder, or
    /// the cluster that this process runs in
    pub kubeconfig: Option<PathBuf>,
    /// What tells this cluster's objects from another's; `None`: the uid of the
    /// namespace kube-system
    pub cluster_id: Option<String>,
    /// How often a load balancer is looked at although nothing is known to have
    /// changed
    pub resync: Duration,
    /// How many calls to AWS may be made, as a part of the rates that it documents
    pub aws_call_rate: f64,
    /// Which other kinds of objects claims are kept for
    pub sources: sources::Options,
}

/// Runs until `stop` is done.
///
/// # Errors
/// When it cannot start: no kubeconfig, or the port of the web pages is taken.
/// An API server that can't be reached is waited for.
pub async fn run(options: Options, stop: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
    let client = client(options.kubeconfig.as_deref()).await?;
    let (metrics, readiness) = (Arc::new(Metrics::default()), Arc::new(Readiness::default()));
    let listener = tokio::net::TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("{} can't be listened on: choose another address with --listen", options.listen))?;
    info!(address = %options.listen, "serving /healthz, /readyz and /metrics");
    let pages = tokio::spawn(axum::serve(listener, web::router(metrics.clone(), readiness.clone())).into_future());

    let work = work(client, options, metrics, readiness);
    tokio::select! {
        result = work => result?,
        result = pages => result?.context("the web pages are no longer served")?,
        () = stop => info!("stopping: load balancers stay as they are"),
    }
    Ok(())
}

async fn client(kubeconfig: Option<&std::path::Path>) -> anyhow::Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await.context("no API server is known: give --kubeconfig, or set KUBECONFIG")?,
    };
    info!(url = %config.cluster_url, "Kubernetes API");
    Ok(Client::try_from(config)?)
}

async fn work(
    client: Client,
    options: Options,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
) -> anyhow::Result<()> {
    let cluster_id = match options.cluster_id {
        Some(id) => id,
        None => kube_system_uid(&client).await,
    };
    info!(cluster_id, "cluster");
    let backends = Arc::new(Backends::default());
    let (events, write_events) = Events::new(client.clone(), metrics.clone());
    let part = readiness.part();
    let sources = sources::start(options.sources, &client, &backends, &events, &metrics, &readiness);
    let (class_loop, inbox) = ClassLoop::new(Settings {
        make_provider: provider::maker(client.clone(), cluster_id.clone(), options.aws_call_rate),
        client: client.clone(),
        cluster_id,
        resync: options.resync,
        backends: backends.clone(),
        events,
        metrics: metrics.clone(),
        readiness: part,
    });
    let watches = watch_all(client, backends, metrics, sources.listeners, move |told| inbox.tell(told));
    // Each on a task of its own; if one panics, the process ends.
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(class_loop.run());
    tasks.spawn(watches);
    tasks.spawn(write_events);
    sources.tasks.into_iter().for_each(|task| _ = tasks.spawn(task));
    match tasks.join_next().await {
        Some(Err(error)) => Err(error).context("a task of the controller failed"),
        _ => anyhow::bail!("a task of the controller ended"),
    }
}

/// The uid of the namespace kube-system, which stands for the cluster. Waits for
/// an API server that can't be reached yet.
async fn kube_system_uid(client: &Client) -> String {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    loop {
        match namespaces.get("kube-system").await {
            Ok(namespace) => return namespace.metadata.uid.unwrap_or_default(),
            Err(error) => warn!(%error, "waiting for the API server"),
        }
        tokio::time::sleep(START_RETRY).await;
    }
}
