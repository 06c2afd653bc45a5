//! A dry run: what the controller would do now, without any of it being done.
//!
//! The controller itself runs, with two things beneath it exchanged. Its client of the
//! Kubernetes API has an overlay, which answers every write as the API server would,
//! and shows it to later reads and watches. Its providers observe, and record changes
//! instead of making them. So no write of any kind leaves the process, and every
//! decision is made on what the former ones would have led to.
//!
//! It ends when the controller would do nothing more unless something else happens:
//! every cache has filled, no task can go on, no call is under way, and no task waits
//! for a time that is near. A runtime of one thread says when no task can go on: its
//! thread is about to sleep.

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

/// The longest pause that the controller makes by itself before it goes on with what
/// it has begun, and a margin: a status that says no more than that a claim waits is held
/// back. An LB loop pauses, changes of backends are coalesced, and figures of a class are
/// delayed for 1 s at most. A task that waits for longer waits for something else: a
/// cool-down, an address, another try after failures.
const PAUSE_MAX: Duration = PASSING.saturating_add(Duration::from_secs(1));

/// Runs the controller dry for at most this long, and reports what it would change.
///
/// # Errors
/// When the API server can't be reached, a right is missing, or it is not over in time.
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

/// A dry run under way.
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
        info!("dry run: nothing of what the log reports is done");
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
            // No call of a cloud that changes anything passes it.
            provider_fence: Fence::until(Moment::now()),
            // Nothing gives an address to a load balancer that is not created.
            address_within: None,
            adapt: Box::new(move |provider| recorder.recorded(provider)),
        };
        tokio::select! {
            result = controller::work(environment, options, process) => result?,
            () = self.over.notified() => {}
            () = tokio::time::sleep(timeout) => bail!(
                "not over within {} s: {}; --dry-run-timeout gives it longer",
                timeout.as_secs(),
                self.awaited().unwrap_or_default()
            ),
        }
        if let Some(failure) = self.overlay.failure().or_else(|| self.load_balancers.failure()) {
            bail!("what the controller would do is not known: {failure}");
        }
        let load_balancers = self.load_balancers.all();
        Ok(self.overlay.objects(|objects| Report::new(objects, &load_balancers)))
    }

    fn client(&self, config: Config) -> kube::Result<Client> {
        let server = ClientBuilder::try_from(config)?.with_layer(&RequestLimits::default());
        Ok(server.with_layer(&self.overlay).build())
    }

    /// No task can go on at this moment.
    fn note_idle(&self) {
        if self.awaited().is_none() {
            self.over.notify_one();
        }
    }

    /// What the controller would go on with, given that no task can go on at this
    /// moment; `None`: nothing.
    fn awaited(&self) -> Option<String> {
        if let Some(missing) = self.readiness.missing() {
            return Some(missing);
        }
        let calls = self.calls.under_way();
        if calls > 0 {
            return Some(format!("{calls} calls are under way"));
        }
        if !self.overlay.watches_are_open() {
            return Some("a watch is being begun again".to_owned());
        }
        let (task, wakes_at) = self.tasks.next_wake()?;
        let near = wakes_at <= Instant::now() + PAUSE_MAX;
        near.then(|| format!("{task} pauses"))
    }
}
