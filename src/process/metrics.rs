//! Metrics for Prometheus.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use sharedlb_providers::{Applied, ChangeSet, Decorator, Error, LbName, Observed, Provider};

use crate::kubernetes::writes::WriteError;
use crate::version;

/// The values of the label `verdict` of `sharedlb_claims`.
pub(crate) const VERDICTS: [&str; 5] = ["ready", "programmed", "allocated", "refused", "waiting"];

/// Which build this is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
    commit: &'static str,
    features: String,
}

/// Labels of [`Metrics::claims`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClaimLabels {
    class: String,
    verdict: &'static str,
}

/// Labels of [`Metrics::slots`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SlotLabels {
    class: String,
    load_balancer: u32,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabel {
    class: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    provider: &'static str,
    operation: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    kind: &'static str,
    operation: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

type Durations = Family<ClassLabel, Histogram, fn() -> Histogram>;

/// All metrics. Values of labels are names of classes and constants, never a tenant's text.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    claims: Family<ClaimLabels, Gauge>,
    slots: Family<SlotLabels, Gauge>,
    class_runs: Durations,
    load_balancer_runs: Durations,
    provider_calls: Family<CallLabels, Counter>,
    api_writes: Family<WriteLabels, Counter>,
    watch_errors: Family<KindLabel, Counter>,
    leader: Gauge,
}

/// From 0.1 ms to 13 s.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 18))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("sharedlb"),
            claims: Family::default(),
            slots: Family::default(),
            class_runs: Family::new_with_constructor(durations),
            load_balancer_runs: Family::new_with_constructor(durations),
            provider_calls: Family::default(),
            api_writes: Family::default(),
            watch_errors: Family::default(),
            leader: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        let build = BuildLabels { version: version::VERSION, commit: version::COMMIT, features: version::features() };
        registry.register("build", "The build that this process runs", Info::new(build));
        registry.register("claims", "SharedLB objects, by verdict", metrics.claims.clone());
        registry.register(
            "slots",
            "Listeners of a load balancer: held, free, or released and cooling down",
            metrics.slots.clone(),
        );
        registry.register(
            "class_run_duration_seconds",
            "Duration of reconciles of a class",
            metrics.class_runs.clone(),
        );
        registry.register(
            "load_balancer_run_duration_seconds",
            "Duration of reconciles of the load balancers of a class",
            metrics.load_balancer_runs.clone(),
        );
        registry.register("provider_calls", "Calls to load balancers", metrics.provider_calls.clone());
        registry.register(
            "api_writes",
            "Writes to the Kubernetes API by the class loop and the sources",
            metrics.api_writes.clone(),
        );
        registry.register("watch_errors", "Failed watches of the Kubernetes API", metrics.watch_errors.clone());
        registry.register("leader", "1: this process acts; 0: it stands by", metrics.leader.clone());
        metrics
    }
}

impl Metrics {
    /// All metrics in the text format of OpenMetrics.
    ///
    /// # Errors
    /// Never, with these metrics.
    pub(crate) fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }

    /// Sets the number of claims of a class with each of [`VERDICTS`].
    pub(crate) fn claims(&self, class: &str, counts: [usize; VERDICTS.len()]) {
        for (verdict, count) in VERDICTS.into_iter().zip(counts) {
            let labels = ClaimLabels { class: class.to_owned(), verdict };
            self.claims.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Removes a class that was deleted.
    pub(crate) fn forget_class(&self, class: &str) {
        for verdict in VERDICTS {
            self.claims.remove(&ClaimLabels { class: class.to_owned(), verdict });
        }
        let label = ClassLabel { class: class.to_owned() };
        self.class_runs.remove(&label);
        self.load_balancer_runs.remove(&label);
    }

    /// Sets the numbers of slots of one load balancer.
    pub(crate) fn slots(&self, class: &str, load_balancer: u32, counts: [(&'static str, u32); 3]) {
        for (state, count) in counts {
            let labels = SlotLabels { class: class.to_owned(), load_balancer, state };
            self.slots.get_or_create(&labels).set(count.into());
        }
    }

    /// Removes a load balancer that was deleted.
    pub(crate) fn forget_slots(&self, class: &str, load_balancer: u32) {
        for state in ["held", "free", "released"] {
            self.slots.remove(&SlotLabels { class: class.to_owned(), load_balancer, state });
        }
    }

    /// Counts a reconcile of a class.
    pub(crate) fn class_run(&self, class: &str, took: Duration) {
        self.class_runs.get_or_create(&ClassLabel { class: class.to_owned() }).observe(took.as_secs_f64());
    }

    /// Counts a reconcile of a load balancer.
    pub(crate) fn load_balancer_run(&self, class: &str, took: Duration) {
        self.load_balancer_runs.get_or_create(&ClassLabel { class: class.to_owned() }).observe(took.as_secs_f64());
    }

    /// Counts a write to the API.
    pub(crate) fn api_write(&self, kind: &'static str, operation: &'static str, result: &'static str) {
        self.api_writes.get_or_create(&WriteLabels { kind, operation, result }).inc();
    }

    /// Sets whether this process acts.
    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// Counts a watch that failed, and is started again.
    pub(crate) fn watch_error(&self, kind: &'static str) {
        self.watch_errors.get_or_create(&KindLabel { kind }).inc();
    }
}

/// Carries out a write to the Kubernetes API, and counts it.
pub(crate) async fn count_write<T>(
    metrics: &Metrics,
    kind: &'static str,
    operation: &'static str,
    write: impl Future<Output = Result<T, WriteError>>,
) -> Result<T, WriteError> {
    let result = write.await;
    metrics.api_write(kind, operation, result.as_ref().map_or_else(WriteError::label, |_| "ok"));
    result
}

/// A provider whose calls are counted.
pub(crate) struct CountedProvider {
    /// The provider that carries out the calls
    pub provider: Box<dyn Provider>,
    /// Its kind, as in the API
    pub kind: &'static str,
    /// Counts its calls
    pub metrics: Arc<Metrics>,
}

impl CountedProvider {
    fn count<T>(&self, operation: &'static str, result: Result<T, Error>) -> Result<T, Error> {
        let label = match &result {
            Ok(_) => "ok",
            Err(Error::NotReady(_)) => "not_ready",
            Err(Error::Refused(_)) => "refused",
            Err(Error::PortInUse(_)) => "port_in_use",
            Err(Error::NoRoom(_)) => "no_room",
            Err(Error::Exhausted(_)) => "exhausted",
            Err(Error::Throttled { .. }) => "throttled",
            Err(Error::Conflict(_)) => "conflict",
            Err(_) => "transient",
        };
        let labels = CallLabels { provider: self.kind, operation, result: label };
        self.metrics.provider_calls.get_or_create(&labels).inc();
        result
    }
}

#[async_trait]
impl Decorator for CountedProvider {
    fn inner(&self) -> &dyn Provider {
        &*self.provider
    }

    async fn observe(&self, name: &LbName) -> Result<Option<Observed>, Error> {
        self.count("observe", self.provider.observe(name).await)
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        self.count("apply", self.provider.apply(name, set).await)
    }

    async fn delete(&self, name: &LbName) -> Result<(), Error> {
        self.count("delete", self.provider.delete(name).await)
    }
}
