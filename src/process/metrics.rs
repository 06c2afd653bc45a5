//! Metrics for Prometheus.

mod labels;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use sharedlb_crds::Price;
use sharedlb_providers::Error;

use self::labels::{
    BuildLabels, CallLabels, ChangeErrorLabels, ClaimLabels, ClassLabel, KindLabel, LoadBalancerLabels, LoopLabel,
    OperationLabels, ResourceLabels, SlotLabels, WriteLabels,
};
use crate::allocation::Usage;
use crate::kubernetes::writes::WriteError;
use crate::version;

/// The values of the label `verdict` of `sharedlb_claims`.
pub(crate) const VERDICTS: [&str; 5] = ["ready", "programmed", "allocated", "refused", "waiting"];

/// The values of the label `state` of `sharedlb_slots`.
pub(crate) const SLOT_STATES: [&str; 4] = ["held", "free", "released", "foreign"];

type Durations<Labels> = Family<Labels, Histogram, fn() -> Histogram>;

/// What the load balancers of a class cost in an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Those that there are
    pub(crate) shared: Price,
    /// One for each claim that holds ports
    pub(crate) unshared: Price,
}

/// All metrics. Values of labels are names of classes and constants, never a tenant's text.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    claims: Family<ClaimLabels, Gauge>,
    slots: Family<SlotLabels, Gauge>,
    capacity: Family<ResourceLabels, Gauge>,
    capacity_used: Family<ResourceLabels, Gauge>,
    quota_used: Family<ClassLabel, Gauge<f64, AtomicU64>>,
    cost: Family<ClassLabel, Gauge<f64, AtomicU64>>,
    unshared_cost: Family<ClassLabel, Gauge<f64, AtomicU64>>,
    class_runs: Durations<ClassLabel>,
    load_balancer_runs: Durations<ClassLabel>,
    load_balancer_successes: Family<LoadBalancerLabels, Gauge>,
    resync_interval: Gauge,
    loop_successes: Family<LoopLabel, Gauge>,
    loop_queues: Family<LoopLabel, Gauge>,
    provider_calls: Family<CallLabels, Counter>,
    provider_call_durations: Durations<OperationLabels>,
    provider_change_errors: Family<ChangeErrorLabels, Counter>,
    api_writes: Family<WriteLabels, Counter>,
    pending_writes: Family<KindLabel, Gauge>,
    watch_errors: Family<KindLabel, Counter>,
    leader: Gauge,
    lease_transitions: Gauge,
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
            capacity: Family::default(),
            capacity_used: Family::default(),
            quota_used: Family::default(),
            cost: Family::default(),
            unshared_cost: Family::default(),
            class_runs: Family::new_with_constructor(durations),
            load_balancer_runs: Family::new_with_constructor(durations),
            load_balancer_successes: Family::default(),
            resync_interval: Gauge::default(),
            loop_successes: Family::default(),
            loop_queues: Family::default(),
            provider_calls: Family::default(),
            provider_call_durations: Family::new_with_constructor(durations),
            provider_change_errors: Family::default(),
            api_writes: Family::default(),
            pending_writes: Family::default(),
            watch_errors: Family::default(),
            leader: Gauge::default(),
            lease_transitions: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        let build = BuildLabels { version: version::VERSION, commit: version::COMMIT, features: version::features() };
        registry.register("build", "The build that this process runs", Info::new(build));
        registry.register("claims", "SharedLB objects, by verdict", metrics.claims.clone());
        registry.register(
            "slots",
            "Listeners of a load balancer: held, free, released and cooling down, or foreign",
            metrics.slots.clone(),
        );
        registry.register(
            "class_capacity",
            "What a class can have, on the load balancers that exist and on those that it may still create",
            metrics.capacity.clone(),
        );
        registry.register("class_capacity_used", "What a class uses of its capacity", metrics.capacity_used.clone());
        registry.register(
            "quota_used_ratio",
            "The largest share of its port quota that a namespace holds, 0 to 1",
            metrics.quota_used.clone(),
        );
        registry.register(
            "cost_per_hour",
            "What the load balancers of a class cost in an hour, by its pricing and in its currency",
            metrics.cost.clone(),
        );
        registry.register(
            "unshared_cost_per_hour",
            "What the claims of a class would cost in an hour, if each had a load balancer of its own",
            metrics.unshared_cost.clone(),
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
        registry.register(
            "load_balancer_last_success_timestamp_seconds",
            "When a load balancer was last found or brought as planned, or its loop started",
            metrics.load_balancer_successes.clone(),
        );
        registry.register(
            "resync_interval_seconds",
            "How often each load balancer is observed although no change is known",
            metrics.resync_interval.clone(),
        );
        registry.register(
            "loop_last_success_timestamp_seconds",
            "When a loop had last handled all events that it had received",
            metrics.loop_successes.clone(),
        );
        registry.register("loop_queue_depth", "Events that a loop has not received yet", metrics.loop_queues.clone());
        registry.register("provider_calls", "Calls to load balancers", metrics.provider_calls.clone());
        registry.register(
            "provider_call_duration_seconds",
            "Duration of calls to load balancers",
            metrics.provider_call_durations.clone(),
        );
        registry.register(
            "provider_change_errors",
            "Changes of single listeners or settings that failed, in calls that went on",
            metrics.provider_change_errors.clone(),
        );
        registry.register(
            "api_writes",
            "Writes to the Kubernetes API by the class loop and the sources",
            metrics.api_writes.clone(),
        );
        registry.register(
            "pending_writes",
            "Writes to the Kubernetes API that are not answered yet, with those that wait for their turn",
            metrics.pending_writes.clone(),
        );
        registry.register("watch_errors", "Failed watches of the Kubernetes API", metrics.watch_errors.clone());
        registry.register("leader", "1: this process acts; 0: it stands by", metrics.leader.clone());
        registry.register(
            "lease_transitions",
            "How often the Lease went from one holder to another, by the Lease",
            metrics.lease_transitions.clone(),
        );
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

    /// Sets what a class uses of its capacity.
    pub(crate) fn usage(&self, class: &str, usage: &Usage) {
        for (resource, share) in usage.resources() {
            let labels = ResourceLabels { class: class.to_owned(), resource };
            let set = |family: &Family<ResourceLabels, Gauge>, value: Option<u64>| match value {
                Some(value) => _ = family.get_or_create(&labels).set(i64::try_from(value).unwrap_or(i64::MAX)),
                None => _ = family.remove(&labels),
            };
            set(&self.capacity, share.map(|share| share.capacity));
            set(&self.capacity_used, share.map(|share| share.used));
        }
        self.quota_used.get_or_create(&ClassLabel { class: class.to_owned() }).set(usage.quota.ratio());
    }

    /// Sets what the load balancers of a class cost; `None`: it has no prices.
    pub(crate) fn cost(&self, class: &str, cost: Option<Cost>) {
        let label = ClassLabel { class: class.to_owned() };
        let Some(Cost { shared, unshared }) = cost else {
            self.cost.remove(&label);
            self.unshared_cost.remove(&label);
            return;
        };
        self.cost.get_or_create(&label).set(shared.as_f64());
        self.unshared_cost.get_or_create(&label).set(unshared.as_f64());
    }

    /// Removes a class that was deleted.
    pub(crate) fn forget_class(&self, class: &str) {
        for verdict in VERDICTS {
            self.claims.remove(&ClaimLabels { class: class.to_owned(), verdict });
        }
        for resource in Usage::RESOURCES {
            let labels = ResourceLabels { class: class.to_owned(), resource };
            self.capacity.remove(&labels);
            self.capacity_used.remove(&labels);
        }
        let label = ClassLabel { class: class.to_owned() };
        self.quota_used.remove(&label);
        self.cost(class, None);
        self.class_runs.remove(&label);
        self.load_balancer_runs.remove(&label);
    }

    /// Sets the numbers of slots of one load balancer, in the order of [`SLOT_STATES`].
    pub(crate) fn slots(&self, class: &str, load_balancer: u32, counts: [u32; SLOT_STATES.len()]) {
        for (state, count) in SLOT_STATES.into_iter().zip(counts) {
            let labels = SlotLabels { class: class.to_owned(), load_balancer, state };
            self.slots.get_or_create(&labels).set(count.into());
        }
    }

    /// Removes a load balancer that was deleted.
    pub(crate) fn forget_slots(&self, class: &str, load_balancer: u32) {
        for state in SLOT_STATES {
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

    /// Records that a load balancer is as planned now, or that its LB loop starts.
    pub(crate) fn load_balancer_succeeded(&self, class: &str, load_balancer: u32) {
        let labels = LoadBalancerLabels { class: class.to_owned(), load_balancer };
        self.load_balancer_successes.get_or_create(&labels).set(Timestamp::now().as_second());
    }

    /// Records that the LB loop of a load balancer has ended.
    pub(crate) fn load_balancer_ended(&self, class: &str, load_balancer: u32) {
        self.load_balancer_successes.remove(&LoadBalancerLabels { class: class.to_owned(), load_balancer });
    }

    /// Sets how often each load balancer is observed although no change is known.
    pub(crate) fn resync_every(&self, interval: Duration) {
        self.resync_interval.set(i64::try_from(interval.as_secs()).unwrap_or(i64::MAX));
    }

    /// The metrics of the loop that handles objects of a kind.
    pub(crate) fn of_loop(&self, kind: &'static str) -> LoopMetrics {
        let label = LoopLabel { r#loop: kind };
        LoopMetrics {
            depth: self.loop_queues.get_or_create_owned(&label),
            last_success: self.loop_successes.get_or_create_owned(&label),
        }
    }

    /// Counts a call of a provider of this kind.
    pub(crate) fn provider_call<T>(
        &self,
        provider: &'static str,
        operation: &'static str,
        took: Duration,
        result: &Result<T, Error>,
    ) {
        let labels = CallLabels { provider, operation, result: result.as_ref().map_or_else(of_error, |_| "ok") };
        self.provider_calls.get_or_create(&labels).inc();
        let labels = OperationLabels { provider, operation };
        self.provider_call_durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a change that failed in a call of a provider which went on.
    pub(crate) fn provider_change_error(&self, provider: &'static str, error: &Error) {
        self.provider_change_errors.get_or_create(&ChangeErrorLabels { provider, result: of_error(error) }).inc();
    }

    /// Counts a write to the API.
    pub(crate) fn api_write(&self, kind: &'static str, operation: &'static str, result: &'static str) {
        self.api_writes.get_or_create(&WriteLabels { kind, operation, result }).inc();
    }

    /// Counts a write as pending, until the returned value is dropped.
    pub(crate) fn pending_write(&self, kind: &'static str) -> PendingWrite {
        let pending = self.pending_writes.get_or_create_owned(&KindLabel { kind });
        pending.inc();
        PendingWrite(pending)
    }

    /// Sets whether this process acts.
    pub(crate) fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// Sets how often the Lease went from one holder to another.
    pub(crate) fn lease_transitions(&self, transitions: i32) {
        self.lease_transitions.set(transitions.into());
    }

    /// Counts a watch that failed, and is started again.
    pub(crate) fn watch_error(&self, kind: &'static str) {
        self.watch_errors.get_or_create(&KindLabel { kind }).inc();
    }
}

/// The metrics of one loop.
#[derive(Debug, Clone, Default)]
pub(crate) struct LoopMetrics {
    /// Events that it has not received yet
    pub depth: Gauge,
    /// When it had last handled all events that it had received, in seconds since 1970
    pub last_success: Gauge,
}

/// A write that is not answered yet.
pub(crate) struct PendingWrite(Gauge);

impl Drop for PendingWrite {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The value of the label `result` for an error of a provider.
fn of_error(error: &Error) -> &'static str {
    match error {
        Error::NotReady(_) => "not_ready",
        Error::Refused(_) => "refused",
        Error::PortInUse(_) => "port_in_use",
        Error::NoRoom(_) => "no_room",
        Error::Exhausted(_) => "exhausted",
        Error::Throttled { .. } => "throttled",
        Error::Conflict(_) => "conflict",
        _ => "transient",
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::allocation::Share;

    /// The metrics of a process in which everything has happened once.
    fn all_metrics() -> Metrics {
        let (metrics, share, took) = (Metrics::default(), Share { used: 1, capacity: 2 }, Duration::from_millis(1));
        let usage = Usage { listeners: share, targets: Some(share), dynamic_ports: share, quota: share };
        metrics.claims("c", [1; VERDICTS.len()]);
        metrics.slots("c", 0, [1; SLOT_STATES.len()]);
        metrics.usage("c", &usage);
        metrics.cost("c", Some(Cost { shared: Price::default(), unshared: Price::default() }));
        metrics.class_run("c", took);
        metrics.load_balancer_run("c", took);
        metrics.load_balancer_succeeded("c", 0);
        metrics.of_loop("SharedLBClass");
        metrics.provider_call("aws", "apply", took, &Ok(()));
        metrics.provider_change_error("aws", &Error::Refused("no".into()));
        metrics.api_write("SharedLB", "status", "ok");
        metrics.pending_write("SharedLB");
        metrics.watch_error("Node");
        metrics
    }

    /// The type and the labels of each metric on the page, by its name.
    fn exported(page: &str) -> BTreeMap<String, (String, Vec<String>)> {
        let mut metrics = BTreeMap::new();
        for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (family, kind) = line.split_once(' ').unwrap();
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            let name = format!("{family}{suffix}");
            let sample =
                page.lines().find_map(|line| line.strip_prefix(&format!("{family}{suffix}"))?.strip_prefix('{'));
            let bucket = || page.lines().find_map(|line| line.strip_prefix(&format!("{family}_count{{")));
            let labels = sample.or_else(bucket).and_then(|sample| Some(sample.split_once('}')?.0)).unwrap_or_default();
            let labels = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            metrics.insert(name, (kind.to_owned(), labels.collect()));
        }
        metrics
    }

    #[test]
    fn the_reference_has_every_metric_with_its_type_and_labels() {
        let mut metrics = exported(&all_metrics().encode().unwrap());
        let page = include_str!("../../docs/reference.md");
        for row in page.lines().filter_map(|line| line.strip_prefix("| `sharedlb_")) {
            let mut cells = row.split(" | ");
            let name = format!("sharedlb_{}", cells.next().unwrap().trim_end_matches('`'));
            let (kind, labels) = metrics.remove(&name).unwrap_or_else(|| panic!("{name} is not exported"));
            let (documented_kind, documented) = (cells.next().unwrap(), cells.next().unwrap());
            assert!(documented_kind.starts_with(&kind), "{name} is a {kind}, not {documented_kind}");
            for label in labels {
                let same_as_above = documented == "the same";
                assert!(same_as_above || documented.contains(&format!("`{label}`")), "{name} has the label {label}");
            }
        }
        assert!(metrics.is_empty(), "not in docs/reference.md: {:?}", metrics.keys());
    }

    #[test]
    fn nothing_is_left_of_a_class_that_was_deleted() {
        let metrics = all_metrics();
        metrics.forget_class("c");
        metrics.forget_slots("c", 0);
        metrics.load_balancer_ended("c", 0);
        let page = metrics.encode().unwrap();
        let left: Vec<&str> = page.lines().filter(|line| line.contains("class=")).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn writes_are_pending_until_they_are_answered() {
        let metrics = Metrics::default();
        let pending = |count: u32| {
            let sample = format!("sharedlb_pending_writes{{kind=\"SharedLB\"}} {count}");
            metrics.encode().unwrap().lines().any(|line| line == sample)
        };
        let (first, second) = (metrics.pending_write("SharedLB"), metrics.pending_write("SharedLB"));
        assert!(pending(2));
        drop(first);
        assert!(pending(1));
        drop(second);
        assert!(pending(0));
    }
}
