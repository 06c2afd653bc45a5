//! An LB loop with a load balancer in memory, in simulated time.

mod addresses;
mod closing;
mod drift;
mod families;
mod limits;
mod nodes;
mod options;
mod success;
mod unserved;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Event;
use serde_json::json;
use sharedlb_crds::{Reason, TargetKind};
use sharedlb_providers::memory::{Cloud, Memory};
use sharedlb_providers::{Applied, Decorator, FrontPort, Protocol, Provider, Transport};

use super::faulty_provider::{Answers, FaultyProvider};
use super::state::BACKOFF_MAX;
use super::*;
use crate::api::claim::ClaimObject;
use crate::api::companion_name;
use crate::backends::{Reach, ServiceObject, SliceObject};
use crate::class::companion;
use crate::fixtures::{ClaimFixture, claim};
use crate::load_balancer::desired::Planned;
use crate::load_balancer::outcome::Failure;

const RESYNC: Duration = Duration::from_secs(600);

/// A running loop, and all that it deals with.
struct Running {
    cloud: Cloud,
    provider: Arc<dyn Provider>,
    plans: watch::Sender<Arc<Plan>>,
    backends: Arc<Backends>,
    signal: Arc<Signal>,
    reported: Arc<Mutex<Vec<Outcome>>>,
    metrics: Arc<Metrics>,
    /// Of objects, ever higher ones
    versions: AtomicU64,
}

impl Running {
    async fn start() -> Self {
        Self::with(|cloud| Arc::new(Memory::new(cloud))).await
    }

    async fn with(provider: impl FnOnce(Cloud) -> Arc<dyn Provider>) -> Self {
        Self::existing(false, provider).await
    }

    /// A loop whose load balancer was there before, or not.
    async fn existing(existed: bool, provider: impl FnOnce(Cloud) -> Arc<dyn Provider>) -> Self {
        let cloud = Cloud::default();
        let provider = provider(cloud.clone());
        let (plans, receiver) = watch::channel(Arc::new(Plan::new(provider.clone(), 0, Some(Vec::new()))));
        let (backends, reported) = (Arc::new(Backends::default()), Arc::new(Mutex::new(Vec::new())));
        let (outcomes, signal) = (reported.clone(), Arc::new(Signal::default()));
        let metrics = Arc::new(Metrics::default());
        let lb_loop = LbLoop {
            name: name(),
            existed,
            address_overdue: false,
            address_within: Some(ADDRESS_WITHIN),
            class: "default".into(),
            plans: receiver,
            signal: signal.clone(),
            backends: backends.clone(),
            on_outcome: Box::new(move |outcome| outcomes.lock().unwrap().push(outcome)),
            resync: RESYNC,
            metrics: metrics.clone(),
        };
        tokio::spawn(lb_loop.run());
        let versions = AtomicU64::new(1);
        let running = Self { cloud, provider, plans, backends, signal, reported, metrics, versions };
        running.settle().await;
        running
    }

    /// Lets everything happen that can happen now: simulated time goes on by a
    /// millisecond only when every task waits.
    async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn plan(&self, claims: &[ClaimFixture]) {
        self.plan_by(claims, Reach::default()).await;
    }

    async fn plan_by(&self, claims: &[ClaimFixture], reach: Reach) {
        let planned = claims.iter().map(|claim| {
            let claim = claim.build();
            Planned::of(&claim, claim.request.held.clone().unwrap().slots)
        });
        let plan = Plan::new(self.provider.clone(), 0, Some(planned.collect())).by(reach);
        self.plans.send_replace(Arc::new(plan));
        self.settle().await;
    }

    /// The load balancer reports that it has changed by itself.
    async fn changes(&self) {
        self.signal.observe_again();
        self.settle().await;
    }

    fn version(&self) -> String {
        self.versions.fetch_add(1, Ordering::Relaxed).to_string()
    }

    /// Gives the claim's Service so many ready pods.
    async fn endpoints(&self, claim: &ClaimFixture, pods: u8) {
        let claim = claim.build();
        let service: Service = companion::desired(&claim, TargetKind::Pod, None).unwrap().unwrap();
        self.backends.apply_service_event(Event::Apply(ServiceObject::parse(&service)));
        self.pods(&claim, pods).await;
    }

    /// The claim's Service finds so many ready pods.
    async fn pods(&self, claim: &ClaimObject, pods: u8) {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {
                "name": format!("slice-{}", claim.meta.key.name), "namespace": "team", "uid": "s",
                "resourceVersion": self.version(),
                "labels": {
                    "kubernetes.io/service-name": &*companion_name::key(&claim.meta).name,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
            },
            "addressType": "IPv4",
            "ports": [{"name": "x-tcp", "protocol": "TCP", "port": 6379}],
            "endpoints": (0..pods).map(|n| {
                json!({"addresses": [format!("10.244.0.{n}")], "targetRef": {"kind": "Pod", "name": format!("pod-{n}")}})
            }).collect::<Vec<_>>(),
        }))
        .unwrap();
        self.backends.apply_slice_event(Event::Apply(SliceObject::parse(&slice)));
        self.settle().await;
    }

    fn last(&self) -> Outcome {
        self.reported.lock().unwrap().last().unwrap().clone()
    }

    async fn open(&self) -> BTreeMap<u16, usize> {
        let observed = Memory::new(self.cloud.clone()).observe(&name()).await.unwrap().unwrap();
        let listeners = observed.load_balancer.listeners;
        listeners.into_iter().map(|(key, listener)| (key.port.get(), listener.backends.len())).collect()
    }
}

fn name() -> LbName {
    LbName::new("default", 0, "cluster", "uid-of-class")
}

fn tcp(port: u16) -> ListenerKey {
    ListenerKey { port: port.try_into().unwrap(), protocol: Protocol::Tcp }
}

#[tokio::test(start_paused = true)]
async fn it_makes_what_is_planned_and_then_makes_no_calls_until_the_resync() {
    let running = Running::start().await;
    running.plan(&[claim("a").holds(0, 20001)]).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 0)]));
    let calls = running.cloud.calls();
    tokio::time::sleep(RESYNC - Duration::from_secs(1)).await;
    assert_eq!(running.cloud.calls(), calls);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(running.cloud.calls(), calls + 1, "one look");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_endpoints_is_applied_and_reported_only_if_the_outcome_changes() {
    let running = Running::start().await;
    let a = claim("a").holds(0, 20001);
    running.plan(std::slice::from_ref(&a)).await;
    assert!(!running.last().listeners[&tcp(20001)].backends);

    running.endpoints(&a, 1).await;
    assert!(running.last().listeners[&tcp(20001)].backends, "the first backend is there");

    let reported = running.reported.lock().unwrap().len();
    running.endpoints(&a, 3).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 3)]));
    assert_eq!(running.reported.lock().unwrap().len(), reported, "further ones change no outcome");

    running.backends.apply_slice_event(Event::Init);
    running.backends.apply_slice_event(Event::InitDone);
    running.settle().await;
    assert!(!running.last().listeners[&tcp(20001)].backends, "no backend is left");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_comes_back_has_the_backends_of_the_moment() {
    let running = Running::start().await;
    let (a, b) = (claim("a").holds(0, 20001), claim("b").holds(0, 20002));
    running.endpoints(&a, 1).await;
    running.endpoints(&b, 1).await;
    running.plan(&[a.clone(), b.clone()]).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 1), (20002, 1)]));
    running.plan(std::slice::from_ref(&b)).await;
    // Of changes of this Service the loop hears nothing now.
    running.pods(&a.build(), 3).await;
    running.plan(&[a, b]).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 3), (20002, 1)]));
}

#[tokio::test(start_paused = true)]
async fn one_failing_listener_holds_up_no_other_and_is_tried_again_ever_more_seldom() {
    let running = Running::start().await;
    running.cloud.refuse(tcp(20001));
    let (bad, good) = (claim("bad").holds(0, 20001), claim("good").holds(0, 20002));
    running.plan(&[bad.clone(), good.clone()]).await;
    assert_eq!(running.open().await.keys().collect::<Vec<_>>(), [&20002]);
    let outcome = running.last();
    let failed = outcome.listeners[&tcp(20001)].failure.clone().unwrap();
    assert_eq!(failed.reason, Reason::ProviderRefused);
    assert_eq!(outcome.listeners[&tcp(20002)].failure, None);

    let before = running.cloud.calls();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let tries = running.cloud.calls() - before;
    assert!(tries < 100, "{tries} calls in ten minutes");

    let mut claims = vec![bad, good];
    let before = running.cloud.calls();
    for port in 20003..20043 {
        claims.push(claim(&format!("new-{port}")).holds(0, port));
        running.plan(&claims).await;
        assert!(running.open().await.contains_key(&port), "a newcomer does not wait for it");
    }
    // A newcomer costs an apply and a change, and this test a look.
    let calls = running.cloud.calls() - before;
    assert!(calls < 40 * 3 + 10, "{calls} calls: the failing one is tried with every newcomer");

    running.cloud.accept_all();
    tokio::time::sleep(BACKOFF_MAX * 2).await;
    assert!(running.open().await.contains_key(&20001));
    assert_eq!(running.last().listeners[&tcp(20001)].failure, None);
}

/// A load balancer each change of which takes 10 ms, also one that is refused.
struct Slow(Memory);

#[async_trait]
impl Decorator for Slow {
    fn inner(&self) -> &dyn Provider {
        &self.0
    }

    async fn apply(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        for _ in set.changes {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.0.apply(name, set).await
    }
}

/// How long each of 40 newcomers waits for its listener, the shortest first, beside
/// one whose listener fails for ever, or not.
async fn waits(one_fails: bool) -> Vec<Duration> {
    let running = Running::with(|cloud| Arc::new(Slow(Memory::new(cloud)))).await;
    let mut claims = vec![claim("first").holds(0, 20001)];
    if one_fails {
        running.cloud.refuse(tcp(20001));
    }
    running.plan(&claims).await;
    let mut waits = Vec::new();
    for port in 20002..20042 {
        // At all moments between two tries of the one that fails.
        tokio::time::sleep(Duration::from_millis(u64::from(port) * 37 % 1000)).await;
        claims.push(claim(&format!("new-{port}")).holds(0, port));
        let planned = Instant::now();
        running.plan(&claims).await;
        while !running.open().await.contains_key(&port) {
            running.settle().await;
        }
        waits.push(planned.elapsed());
    }
    waits.sort();
    waits
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_fails_for_ever_costs_the_others_no_time() {
    let (with, without) = (waits(true).await, waits(false).await);
    let p50 = |waits: &[Duration]| waits[waits.len() / 2];
    let ratio = p50(&with).as_secs_f64() / p50(&without).as_secs_f64();
    assert!(ratio < 1.05, "{ratio}: {:?} instead of {:?}", p50(&with), p50(&without));
    assert!(with.last().unwrap() < &(*without.last().unwrap() * 3), "{with:?}, and without it {without:?}");
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_could_not_be_closed_is_tried_again_before_the_resync() {
    let running = Running::start().await;
    running.plan(&[claim("gone").holds(0, 20001)]).await;
    running.cloud.refuse(tcp(20001));
    running.plan(&[]).await;
    assert!(running.open().await.contains_key(&20001));

    let before = running.cloud.calls();
    tokio::time::sleep(RESYNC / 2).await;
    let tries = running.cloud.calls() - before;
    assert!((2..100).contains(&tries), "{tries} calls in five minutes");
    running.cloud.accept_all();
    tokio::time::sleep(BACKOFF_MAX * 2).await;
    assert_eq!(running.open().await, BTreeMap::new());
    let before = running.cloud.calls();
    tokio::time::sleep(BACKOFF_MAX * 2).await;
    assert_eq!(running.cloud.calls(), before, "it is closed, and that is all");
}

#[tokio::test(start_paused = true)]
async fn a_foreign_port_is_reported_as_foreign_and_as_in_use() {
    let running = Running::start().await;
    let theirs = FrontPort { port: 20001.try_into().unwrap(), transport: Transport::Tcp };
    running.cloud.open_foreign(&name(), theirs);
    running.plan(&[claim("a").holds(0, 20001)]).await;
    let outcome = running.last();
    assert_eq!(outcome.listeners[&tcp(20001)].failure.as_ref().unwrap().reason, Reason::PortInUse);
    assert_eq!(outcome.foreign, BTreeSet::from([theirs]));
}

#[tokio::test(start_paused = true)]
async fn a_listener_closed_by_hand_is_reopened_after_an_observation() {
    let running = Running::start().await;
    running.plan(&[claim("a").holds(0, 20001)]).await;
    Memory::new(running.cloud.clone()).delete(&name()).await.unwrap();
    tokio::time::sleep(RESYNC * 2).await;
    assert_eq!(running.open().await, BTreeMap::from([(20001, 0)]));
}

#[tokio::test(start_paused = true)]
async fn the_listeners_of_a_claim_that_is_to_be_left_alone_stay_as_they_are() {
    let running = Running::start().await;
    let (a, b) = (claim("a").holds(0, 20001), claim("b").holds(0, 20002));
    running.plan(&[a.clone(), b]).await;
    let untouched = BTreeSet::from([a.build().meta.key.clone()]);
    let plan = Plan::new(running.provider.clone(), 0, Some(Vec::new())).leaving(&untouched);
    running.plans.send_replace(Arc::new(plan));
    running.settle().await;
    assert_eq!(running.open().await.keys().collect::<Vec<_>>(), [&20001]);
}

#[tokio::test(start_paused = true)]
async fn a_load_balancer_that_is_no_longer_desired_is_deleted_and_reported_as_gone() {
    let running = Running::start().await;
    running.plan(&[claim("a").holds(0, 20001)]).await;
    running.plans.send_replace(Arc::new(Plan::new(running.provider.clone(), 0, None)));
    running.settle().await;
    assert_eq!(Memory::new(running.cloud.clone()).observe(&name()).await, Ok(None));
    let outcome = running.last();
    assert_eq!(outcome.exists, Some(false));
    assert!(outcome.is_closed(tcp(20001)));
}

/// An LB loop whose plan has the listener of `a`, and whose load balancer then
/// answered like this.
async fn unsure(answers: Answers) -> (Running, Arc<FaultyProvider>) {
    let mut running = Running::start().await;
    let asked = Arc::new(FaultyProvider::new(running.cloud.clone()));
    running.provider = asked.clone();
    running.plan(&[]).await;
    asked.answer(answers);
    running.plan(&[claim("a").holds(0, 20001)]).await;
    (running, asked)
}

#[tokio::test(start_paused = true)]
async fn a_listener_as_planned_has_not_failed_even_if_an_error_names_it() {
    let (running, asked) = unsure(Answers::OneDenied).await;
    assert_eq!(running.last().listeners[&tcp(20001)].failure.as_ref().unwrap().reason, Reason::Unreachable);
    asked.answer(Answers::Fine);
    tokio::time::sleep(BACKOFF_MAX).await;
    assert_eq!(running.last().listeners[&tcp(20001)].failure, None, "it was opened all the same");
}

#[tokio::test(start_paused = true)]
async fn an_outcome_is_about_the_last_plan_of_which_it_is_known_what_became() {
    // The listener is opened, but the answer is lost, and then nothing is heard.
    let (running, asked) = unsure(Answers::LostAfter(1)).await;
    running.plan(&[]).await;
    tokio::time::sleep(BACKOFF_MAX).await;
    assert_eq!(running.open().await.keys().collect::<Vec<_>>(), [&20001]);
    let last = running.plans.borrow().clone();
    assert!(!Arc::ptr_eq(&running.last().plan, &last), "a plan that nobody could carry out has closed nothing");

    asked.answer(Answers::Fine);
    tokio::time::sleep(BACKOFF_MAX * 2).await;
    assert!(Arc::ptr_eq(&running.last().plan, &last));
    assert!(running.last().is_closed(tcp(20001)));
}

#[tokio::test(start_paused = true)]
async fn a_failed_first_observation_is_repeated_soon() {
    let mut made = None;
    let running = Running::with(|cloud| {
        let asked = Arc::new(FaultyProvider::new(cloud));
        asked.answer(Answers::ThenNone);
        made = Some(asked.clone());
        asked
    });
    let running = running.await;
    assert_eq!(running.last().exists, None);
    made.unwrap().answer(Answers::Fine);
    tokio::time::sleep(BACKOFF_MAX).await;
    assert_eq!(running.last().exists, Some(true), "long before the resync");
}

#[tokio::test(start_paused = true)]
async fn a_load_balancer_is_pending_and_observed_until_it_serves() {
    let (running, asked) = unsure(Answers::NotReady).await;
    asked.answer(Answers::NotReady);
    tokio::time::sleep(RESYNC * 2).await;
    let outcome = running.last();
    assert_eq!(outcome.failure.as_ref().unwrap().reason, Reason::Pending);
    assert_eq!(outcome.listeners[&tcp(20001)].failure.as_ref().unwrap().reason, Reason::Pending);
    assert!(!outcome.addresses.is_empty(), "its address is reported as soon as it is known");

    running.plan(&[claim("a").holds(0, 20001), claim("b").holds(0, 20002)]).await;
    assert!(running.open().await.contains_key(&20002), "it takes listeners meanwhile");

    asked.answer(Answers::Fine);
    tokio::time::sleep(BACKOFF_MAX).await;
    assert_eq!(running.last().failure, None);
    assert!(running.last().listeners.values().all(|listener| listener.failure.is_none()));
}

#[tokio::test(start_paused = true)]
async fn results_are_reported_before_postponed_work_continues() {
    let (running, asked) = unsure(Answers::OneAtATime).await;
    asked.answer(Answers::OneAtATime);
    running.plan(&(20001..20005).map(|port| claim(&format!("c-{port}")).holds(0, port)).collect::<Vec<_>>()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(running.open().await.len(), 4);
    let reported = running.reported.lock().unwrap();
    let open: BTreeSet<usize> = reported.iter().map(|outcome| outcome.listeners.len()).collect();
    assert_eq!(open, BTreeSet::from([0, 1, 2, 3, 4]), "each as it opened");
    assert!(reported.iter().flat_map(|outcome| outcome.listeners.values()).all(|listener| listener.failure.is_none()));
}

#[tokio::test(start_paused = true)]
async fn refused_settings_are_reported_and_delay_no_listener() {
    let (running, asked) = unsure(Answers::NoSettings).await;
    tokio::time::sleep(RESYNC).await;
    let outcome = running.last();
    assert_eq!(outcome.failure.as_ref().unwrap().reason, Reason::ProviderRefused);
    assert_eq!(outcome.listeners[&tcp(20001)].failure, None);

    let mut claims = vec![claim("a").holds(0, 20001)];
    let before = running.cloud.calls();
    for port in 20002..20032 {
        claims.push(claim(&format!("new-{port}")).holds(0, port));
        running.plan(&claims).await;
        assert!(running.open().await.contains_key(&port));
    }
    let calls = running.cloud.calls() - before;
    assert!(calls < 30 * 3 + 10, "{calls} calls: the settings are tried with every newcomer");

    asked.answer(Answers::Fine);
    tokio::time::sleep(BACKOFF_MAX * 2).await;
    assert_eq!(running.last().failure, None);
}
