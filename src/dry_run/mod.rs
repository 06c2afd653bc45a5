//! A dry run reports what the controller would do now, and does none of it.
//!
//! The controller itself runs, with two parts replaced. Its client of the Kubernetes API has
//! an overlay, which answers every write as the API server would, and includes it in later
//! reads and watches. Its providers observe, and record changes instead of carrying them
//! out. So no write of any kind leaves the process, and every decision depends on the
//! earlier ones as usual.
//!
//! It ends when the controller would do nothing more without a further event: every cache
//! has filled, no task can run, no call is in flight, and no task wakes soon. On a runtime
//! with one thread, no task can run when that thread is about to sleep.

mod calls;
mod load_balancers;
mod objects;
mod overlay;
mod report;
mod request;
mod watch_stream;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::client::ClientBuilder;
use kube::{Client, Config};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::info;

pub use self::report::Report;

use self::calls::Calls;
use self::load_balancers::LoadBalancers;
use self::overlay::Overlay;
use crate::class::transitions::PASSING;
use crate::controller::{self, Environment, Options, Process};
use crate::kubernetes::requests::RequestLimits;
use crate::leader::{Fence, Moment};
use crate::process::metrics::Metrics;
use crate::process::readiness::Readiness;
use crate::process::tasks::Tasks;

/// The longest time for which the controller delays work that could be done, and a margin:
/// that of the status of a claim that waits. The pause of an LB loop, the coalescing of
/// backends and the delay of the figures of a class are 1 s at most. A longer wait is for
/// something else: a cool-down, an address, a retry.
const PAUSE_MAX: Duration = PASSING.saturating_add(Duration::from_secs(1));

/// Runs the controller dry for at most `timeout`, and reports what it would change.
///
/// # Errors
/// When the API server can't be reached, a right is missing, or the timeout is over.
pub fn run(options: Options, timeout: Duration) -> anyhow::Result<Report> {
    let calls = Calls::default();
    let run = Arc::new(Run {
        overlay: Overlay::new(calls.clone()),
        load_balancers: LoadBalancers::new(calls.clone()),
        calls,
        readiness: Arc::default(),
        tasks: Arc::default(),
        over: Notify::new(),
    });
    let watched = run.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_park(move || watched.note_idle())
        .build()
        .context("the runtime does not start")?;
    runtime.block_on(run.until_over(options, timeout))
}

/// A running dry run.
struct Run {
    overlay: Overlay,
    load_balancers: LoadBalancers,
    calls: Calls,
    readiness: Arc<Readiness>,
    tasks: Arc<Tasks>,
    over: Notify,
}

impl Run {
    async fn until_over(&self, options: Options, timeout: Duration) -> anyhow::Result<Report> {
        info!("dry run: the log reports changes that are not carried out");
        let config = controller::config(options.kubeconfig.as_deref()).await?;
        let process = Process {
            metrics: Arc::new(Metrics::default()),
            readiness: self.readiness.clone(),
            tasks: self.tasks.clone(),
        };
        let recorder = self.load_balancers.clone();
        let environment = Environment {
            clients: controller::Clients::new(|| self.client(config.clone()))?,
            fence: Fence::open(),
            // No call that changes a cloud passes it.
            provider_fence: Fence::until(Moment::now()),
            // A load balancer that is not created gets no address.
            address_within: None,
            adapt: Box::new(move |provider| recorder.recorded(provider)),
        };
        tokio::select! {
            result = controller::work(environment, options, process) => result?,
            () = self.over.notified() => {}
            () = tokio::time::sleep(timeout) => bail!(
                "not finished within {} s: {}; raise --dry-run-timeout",
                timeout.as_secs(),
                self.awaited().unwrap_or_default()
            ),
        }
        if let Some(failure) = self.overlay.failure().or_else(|| self.load_balancers.failure()) {
            bail!("the dry run is incomplete: {failure}");
        }
        let load_balancers = self.load_balancers.all();
        Ok(self.overlay.objects(|objects| Report::new(objects, &load_balancers)))
    }

    fn client(&self, config: Config) -> kube::Result<Client> {
        let server = ClientBuilder::try_from(config)?.with_layer(&RequestLimits::default());
        Ok(server.with_layer(&self.overlay).build())
    }

    /// Records that no task can run at this moment.
    fn note_idle(&self) {
        if self.awaited().is_none() {
            self.over.notify_one();
        }
    }

    /// What the controller waits for before the dry run can end, given that no task can run
    /// at this moment; `None`: nothing.
    fn awaited(&self) -> Option<String> {
        if let Some(missing) = self.readiness.missing() {
            return Some(missing);
        }
        let calls = self.calls.under_way();
        if calls > 0 {
            return Some(format!("{calls} calls are in flight"));
        }
        if !self.overlay.watches_are_open() {
            return Some("a watch is being started again".to_owned());
        }
        let (task, wakes_at) = self.tasks.next_wake()?;
        let near = wakes_at <= Instant::now() + PAUSE_MAX;
        near.then(|| format!("{task} pauses"))
    }
}
