//! The wiring: leadership, watches, the class loop, sources and the web pages.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use sharedlb_providers::Provider;
use tracing::{info, warn};

use crate::backends::Backends;
use crate::class::{ClassLoop, ClassLoopSettings};
use crate::kubernetes::events::Events;
use crate::leader::{self, Candidate, Fence, Leader, LeaseOptions};
use crate::load_balancer::ADDRESS_WITHIN;
use crate::process::health;
use crate::process::metrics::Metrics;
use crate::process::readiness::Readiness;
use crate::process::tasks::Tasks;
use crate::provider;
use crate::sources::{self, Common, EnabledSources};
use crate::watches::watch_all;

/// How long to wait between two attempts to reach the API server at start.
const START_RETRY: Duration = Duration::from_secs(2);

/// The options of the controller.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address of the web pages
    pub listen: SocketAddr,
    /// The kubeconfig of the API server; `None`: that of `KUBECONFIG`, of the home folder,
    /// or of the cluster that this process runs in
    pub kubeconfig: Option<PathBuf>,
    /// The id of this cluster, in the names and tags of everything that is created; `None`:
    /// the uid of the namespace kube-system
    pub cluster_id: Option<String>,
    /// How often a load balancer is observed although no change is known
    pub resync: Duration,
    /// The rate of calls to AWS, as a fraction of the documented rates
    pub aws_call_rate: f64,
    /// The sources
    pub sources: EnabledSources,
    /// The lease for leader election; `None`: there is only one replica
    pub lease: Option<LeaseOptions>,
}

/// Runs until `stop` completes: stands by until this process is the leader, and then acts. A
/// process that loses its leadership ends with the status 3.
///
/// # Errors
/// When it cannot start: there is no kubeconfig, or the port of the web pages is in use. If
/// the API server cannot be reached, it waits.
pub async fn run(options: Options, stop: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
    let config = config(options.kubeconfig.as_deref()).await?;
    let metrics = Arc::new(Metrics::default());
    let readiness = Arc::new(Readiness::default());
    let tasks = Arc::new(Tasks::default());
    let listener = tokio::net::TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {}: choose another address with --listen", options.listen))?;
    info!(address = %options.listen, "serving /healthz, /readyz and /metrics");
    let router = health::router(metrics.clone(), readiness.clone(), tasks.clone());
    let pages = tokio::spawn(axum::serve(listener, router).into_future());

    tokio::select! {
        result = lead(config, options, Process { metrics, readiness, tasks }, stop) => result,
        result = pages => result?.context("the web pages are no longer served"),
    }
}

/// The state that the web pages of this process report.
pub(crate) struct Process {
    pub metrics: Arc<Metrics>,
    pub readiness: Arc<Readiness>,
    pub tasks: Arc<Tasks>,
}

/// Waits until this process is the leader, and acts until `stop` completes.
async fn lead(
    config: Config,
    options: Options,
    process: Process,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let stop = stop.map(|()| info!("stopping: load balancers stay as they are")).shared();
    let mut leader = None;
    if let Some(lease) = options.lease.clone() {
        // Renewals have connections of their own, so that they wait for no other request.
        let candidate = Candidate::new(Client::try_from(config.clone())?, lease, process.metrics.clone());
        leader = tokio::select! {
            leader = candidate.elected(process.readiness.part()) => Some(leader),
            () = stop.clone() => return Ok(()),
        };
    }
    process.metrics.leads(true);
    let fence = leader.as_ref().map_or_else(Fence::open, |leader| leader.fence().clone());
    let unacknowledged = options.lease.as_ref().map(|lease| lease.terms.unacknowledged());
    let clients = Clients::new(|| leader::fenced_client(config.clone(), &fence, unacknowledged))?;
    let environment = Environment {
        clients,
        fence: fence.clone(),
        provider_fence: fence,
        address_within: Some(ADDRESS_WITHIN),
        adapt: Box::new(|provider| provider),
    };
    tokio::select! {
        // In this order, so that the process is not ready between standing by and acting.
        biased;
        result = work(environment, options, process) => result,
        result = keep(leader, stop) => Ok(result?),
    }
}

/// Keeps the lease, if there is one, until `stop` completes.
async fn keep(leader: Option<Leader>, stop: impl Future<Output = ()>) -> std::io::Result<()> {
    let Some(leader) = leader else {
        stop.await;
        return Ok(());
    };
    leader.keep(stop).await
}

/// The configuration of the client of the API server.
pub(crate) async fn config(kubeconfig: Option<&std::path::Path>) -> anyhow::Result<Config> {
    let config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await.context("no API server is known: give --kubeconfig, or set KUBECONFIG")?,
    };
    info!(url = %config.cluster_url, "Kubernetes API");
    Ok(config)
}

/// The environment of the controller, which a dry run replaces.
pub(crate) struct Environment {
    pub clients: Clients,
    /// The fence for changes of the LB loops
    pub fence: Fence,
    /// The fence for each call of a provider that changes something
    pub provider_fence: Fence,
    /// How long a load balancer may have no address before that is reported as a failure;
    /// `None`: without limit
    pub address_within: Option<Duration>,
    /// Wraps every provider before it is used
    pub adapt: Adapt,
}

/// Wraps a provider.
pub(crate) type Adapt = Box<dyn Fn(Box<dyn Provider>) -> Box<dyn Provider> + Send + Sync>;

/// The clients of the API server. Each has its own limit of requests, so that neither load
/// balancers nor Events wait for the writes of thousands of claims.
pub(crate) struct Clients {
    /// For the watches, the class loop and the sources
    objects: Client,
    /// For providers whose load balancers are objects of the cluster
    providers: Client,
    /// For the writer of Events
    events: Client,
}

impl Clients {
    pub(crate) fn new(client: impl Fn() -> kube::Result<Client>) -> kube::Result<Self> {
        Ok(Self { objects: client()?, providers: client()?, events: client()? })
    }
}

/// Runs the controller in this environment, for ever.
pub(crate) async fn work(environment: Environment, options: Options, process: Process) -> anyhow::Result<()> {
    let Environment { clients, fence, provider_fence, address_within, adapt } = environment;
    let Clients { objects: client, providers, events } = clients;
    let Process { metrics, readiness, tasks: names } = process;
    metrics.resync_every(options.resync);
    let part = readiness.part();
    let cluster_id = match options.cluster_id {
        Some(id) => id,
        None => kube_system_uid(&client).await,
    };
    info!(cluster_id, "cluster");
    let backends = Arc::new(Backends::default());
    let of_events = metrics.clone();
    let count = move |result| of_events.api_write("Event", "create", result);
    let (events, write_events) = Events::new(events, count);
    let common = Common { client: client.clone(), events: events.clone(), metrics: metrics.clone() };
    let sources = sources::start(options.sources, &common, &backends, &readiness);
    let make = provider::maker(provider::Shared {
        client: providers,
        events: events.clone(),
        cluster_id: cluster_id.clone(),
        aws_call_rate: options.aws_call_rate,
        resync: options.resync,
        fence: provider_fence,
        backends: backends.clone(),
    });
    let (class_loop, inbox) = ClassLoop::new(ClassLoopSettings {
        make_provider: Box::new(move |class, spec, addresses| adapt(make(class, spec, addresses))),
        client: client.clone(),
        cluster_id,
        resync: options.resync,
        address_within,
        backends: backends.clone(),
        events,
        reporting_sources: options.sources.reporting(),
        metrics: metrics.clone(),
        readiness: part,
        tasks: names.clone(),
        fence,
    });
    let watches = watch_all(client, backends, metrics, sources.handlers, move |event| inbox.send(event));
    // Each is a task of its own; if one ends, the process ends.
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(names.named("the class loop".to_owned(), class_loop.run()));
    tasks.spawn(names.named("the watches".to_owned(), watches));
    tasks.spawn(names.named("the writer of Events".to_owned(), write_events));
    for task in sources.tasks {
        tasks.spawn(names.named(task.name.to_owned(), task.run));
    }
    match tasks.join_next().await {
        Some(Err(error)) => Err(error).context("a task of the controller failed"),
        _ => anyhow::bail!("a task of the controller ended"),
    }
}

/// The uid of the namespace kube-system, as the id of the cluster. Waits if the API server
/// cannot be reached yet.
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
