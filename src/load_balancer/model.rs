//! One turn of the real LB loop, on states small enough to be compared and
//! hashed: the load balancers' half of the model in `class::model`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Event;
use serde_json::json;
use sharedlb_crds::Reason;
use sharedlb_providers::memory::{self, Memory};
use sharedlb_providers::{
    Backend, BackendSet, ChangeSet, Error, LbName, Listener, ListenerKey, ListenerOptions, LoadBalancer, Observed,
    Owner, Protocol, Provider,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::faulty_provider::{Answers, FaultyProvider};
use super::state::{Failed, Failing, LbState};
use super::{ADDRESS_WITHIN, LbLoop};
use crate::allocation::HeldSlot;
use crate::api::claim::ClaimObject;
use crate::backends::{Backends, ServiceObject, Signal, SliceObject};
use crate::load_balancer::desired::{Plan, Planned};
use crate::load_balancer::outcome::{Failure, ListenerOutcome, MaybeOpen, Outcome};
use crate::process::metrics::Metrics;

/// The claims of the model, all in namespace `team`. All prefer the same one of
/// three ports.
pub(crate) const CLAIMS: [&str; 3] = ["a", "c", "d"];
/// The first of the ports.
const FIRST_PORT: u16 = 20001;
/// The clients that a claim with source ranges serves.
const SOURCE_RANGE: &str = "10.0.0.0/8";

/// Something for each port of a load balancer.
pub(crate) type ByPort<T> = [Option<T>; 3];
/// The load balancer as it is; `None`: it does not exist.
pub(crate) type There = Option<ByPort<Open>>;
/// What each port is planned for; `None`: the load balancer is to be removed.
pub(crate) type Slots = Option<ByPort<PlannedPort>>;

/// The clients that a claim wants to be served, or that a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Clients {
    #[default]
    All,
    /// Those of one source range
    Few,
}

/// The claim that a port is planned for, and its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PlannedPort {
    pub claim: u8,
    pub clients: Clients,
}

/// A [`Plan`], with its place among those of its load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Numbered {
    pub number: u8,
    pub slots: Slots,
}

/// An open listener: the claim that its tag names, the claims whose pods get its
/// traffic (a bit for each), and the clients that it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Open {
    pub owner: u8,
    pub pods: u8,
    pub clients: Clients,
}

/// What the LB loop remembers between its runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Memories {
    pub observed: Option<There>,
    /// How often in a row it could not be reached, up to two: then that is reported
    unreachable: u8,
    /// Whether it is to be tried again although nothing happens
    pub again: bool,
    /// The failed listeners: the claim of each, and why
    failed: ByPort<(u8, Reason)>,
    pub last_reported: Option<Reported>,
}

/// An [`Outcome`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Reported {
    pub plan: Numbered,
    exists: Option<bool>,
    listeners: ByPort<ReportedListener>,
    failure: Option<Reason>,
}

/// A [`ListenerOutcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ReportedListener {
    owner: u8,
    open: bool,
    clients: Clients,
    backends: bool,
    failure: Option<Reason>,
}

/// One turn of the LB loop of load balancer `index`: what it remembers then, and
/// what the load balancer is then.
pub(crate) fn run(
    index: u32,
    before: &Memories,
    numbered: &Numbered,
    there: &There,
    answers: Answers,
) -> (Memories, There) {
    let cloud = cloud(index, there);
    let asked = Arc::new(FaultyProvider::new(cloud.clone()));
    asked.answer(answers);
    let plan = plan(asked, index, numbered);
    let mut kept = before.restore(index, &plan, numbered);
    let lb_loop = lb_loop(index, &plan);
    let again = lb_loop.run_once(&plan, &mut kept).now_or_never().expect("a load balancer in memory answers at once");
    lb_loop.report(plan.clone(), &mut kept);
    (Memories::of(&kept, again.is_some(), &plan, numbered, before), look(index, &cloud))
}

/// The key of a port, counted from zero.
pub(crate) fn key(port: usize) -> ListenerKey {
    let number = FIRST_PORT + u16::try_from(port).unwrap();
    ListenerKey { port: number.try_into().unwrap(), protocol: Protocol::Tcp }
}

/// The port with this key.
pub(crate) fn port_of(key: ListenerKey) -> usize {
    usize::from(key.port.get() - FIRST_PORT)
}

/// The claim of this name.
pub(crate) fn claim_of(name: &str) -> u8 {
    u8::try_from(CLAIMS.iter().position(|claim| *claim == name).unwrap()).unwrap()
}

/// An object of a claim with these clients, as far as it is the same whatever becomes of it.
pub(crate) fn claim_json(claim: u8, clients: Clients) -> serde_json::Value {
    let name = CLAIMS[usize::from(claim)];
    let ranges: &[&str] = match clients {
        Clients::All => &[],
        Clients::Few => &[SOURCE_RANGE],
    };
    json!({
        "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLB",
        "metadata": {"namespace": "team", "name": name, "uid": name, "resourceVersion": "1", "generation": 1},
        "spec": {
            "className": "default", "serviceName": name, "ports": [{"name": "x", "targetPort": 6379}],
            "loadBalancerSourceRanges": ranges,
        },
    })
}

/// The clients of a listener with these options.
pub(crate) fn clients_of(options: &ListenerOptions) -> Clients {
    if options.source_ranges.is_empty() { Clients::All } else { Clients::Few }
}

fn options(clients: Clients) -> ListenerOptions {
    ListenerOptions::new((clients == Clients::Few).then(|| SOURCE_RANGE.parse().unwrap()), None)
}

/// Every claim, with all clients and with few.
static OBJECTS: LazyLock<[[ClaimObject; 2]; 3]> = LazyLock::new(|| {
    let object = |claim, clients| ClaimObject::parse(&serde_json::from_value(claim_json(claim, clients)).unwrap());
    [0, 1, 2].map(|claim| [Clients::All, Clients::Few].map(|clients| object(claim, clients)))
});

/// Every claim's Service has one pod, `10.244.0.<claim>`.
pub(crate) static BACKENDS: LazyLock<Arc<Backends>> = LazyLock::new(|| {
    let backends = Backends::default();
    for (n, name) in CLAIMS.iter().enumerate() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"namespace": "team", "name": name, "uid": name, "resourceVersion": "1"},
            "spec": {"selector": {"app": name}, "ports": [{"port": 6379}]},
        }))
        .unwrap();
        backends.apply_service_event(Event::Apply(ServiceObject::parse(&service)));
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {
                "namespace": "team", "name": name, "uid": name, "resourceVersion": "1",
                "labels": {
                    "kubernetes.io/service-name": name,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
            },
            "addressType": "IPv4", "ports": [{"name": "", "protocol": "TCP", "port": 6379}],
            "endpoints": [{
                "addresses": [format!("10.244.0.{n}")], "targetRef": {"kind": "Pod", "name": name},
            }],
        }))
        .unwrap();
        backends.apply_slice_event(Event::Apply(SliceObject::parse(&slice)));
    }
    Arc::new(backends)
});
static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(Arc::default);
static UNREPORTED: LazyLock<Arc<dyn Provider>> = LazyLock::new(|| Arc::new(Memory::default()));

fn lb_loop(index: u32, plan: &Arc<Plan>) -> LbLoop {
    LbLoop {
        name: name(index),
        existed: false,
        address_overdue: false,
        address_within: Some(ADDRESS_WITHIN),
        class: "default".into(),
        plans: watch::channel(plan.clone()).1,
        signal: Arc::new(Signal::default()),
        backends: BACKENDS.clone(),
        on_outcome: Box::new(|_| {}),
        resync: Duration::from_secs(600),
        metrics: METRICS.clone(),
    }
}

fn name(index: u32) -> LbName {
    LbName::new("default", index, "cluster", "uid-of-class")
}

/// The plan itself, without anything that carries it out.
pub(crate) fn plan_of(index: u32, numbered: &Numbered) -> Arc<Plan> {
    plan(UNREPORTED.clone(), index, numbered)
}

fn plan(provider: Arc<dyn Provider>, index: u32, Numbered { number, slots }: &Numbered) -> Arc<Plan> {
    let planned = slots.as_ref().map(|slots| {
        let planned = |(port, planned): (usize, &Option<PlannedPort>)| {
            let PlannedPort { claim, clients } = (*planned)?;
            let object = &OBJECTS[usize::from(claim)][clients as usize];
            let slots = [HeldSlot { name: "x".into(), key: key(port), opened: false, target: None }];
            Some(Planned::of(object, slots.into()))
        };
        slots.iter().enumerate().filter_map(planned).collect()
    });
    let mut plan = Plan::new(provider, index, planned);
    plan.number = u64::from(*number);
    Arc::new(plan)
}

fn owner(claim: u8) -> Owner {
    Owner { namespace: "team".into(), claim: CLAIMS[usize::from(claim)].into(), port: "x".into() }
}

fn listener(open: Open) -> Listener {
    let pods = (0..3).filter(|claim| open.pods & (1 << claim) != 0);
    let backend = |claim: u8| Backend {
        address: [10, 244, 0, claim].into(),
        port: 6379.try_into().unwrap(),
        pod: None,
        node: None,
        provider_id: None,
        transport: None,
    };
    let listener = Listener::new(owner(open.owner), pods.map(backend).collect::<BackendSet>());
    Listener { options: options(open.clients), ..listener }
}

fn open(listener: &Listener) -> Open {
    let pod = |backend: &Backend| match backend.address {
        std::net::IpAddr::V4(address) => 1 << address.octets()[3],
        std::net::IpAddr::V6(_) => unreachable!("there are none"),
    };
    Open {
        owner: claim_of(&listener.owner.claim),
        pods: listener.backends.iter().map(pod).fold(0, |a, b| a | b),
        clients: clients_of(&listener.options),
    }
}

fn load_balancer(index: u32, ports: &ByPort<Open>) -> LoadBalancer {
    let listeners = ports.iter().enumerate().filter_map(|(port, open)| Some((key(port), listener((*open)?))));
    LoadBalancer { attributes: Memory::default().attributes(index), listeners: listeners.collect() }
}

fn ports(load_balancer: &LoadBalancer) -> ByPort<Open> {
    by_port(load_balancer.listeners.iter().map(|(key, listener)| (*key, open(listener))))
}

fn by_port<T>(all: impl IntoIterator<Item = (ListenerKey, T)>) -> ByPort<T> {
    let mut ports = [None, None, None];
    all.into_iter().for_each(|(key, each)| ports[port_of(key)] = Some(each));
    ports
}

fn cloud(index: u32, there: &There) -> memory::Cloud {
    let cloud = memory::Cloud::default();
    if let Some(ports) = there {
        let all = load_balancer(index, ports);
        let changes = sharedlb_providers::diff(&LoadBalancer::default(), &all);
        let made = Memory::new(cloud.clone()).apply(&name(index), ChangeSet::new(&all, &changes)).now_or_never();
        assert!(made.unwrap().unwrap().failed.is_empty());
    }
    cloud
}

fn look(index: u32, cloud: &memory::Cloud) -> There {
    let seen = Memory::new(cloud.clone()).observe(&name(index)).now_or_never();
    seen.unwrap().unwrap().map(|observed| ports(&observed.load_balancer))
}

fn observed(index: u32, ports: &ByPort<Open>) -> Observed {
    let cloud = cloud(index, &Some(*ports));
    Memory::new(cloud).observe(&name(index)).now_or_never().unwrap().unwrap().unwrap()
}

fn failure(reason: Reason) -> Failure {
    Failure { reason, message: "".into() }
}

/// What failed so often, and is due.
fn failing(reason: Reason, times: u32) -> Failing {
    let error = match reason {
        Reason::ProviderRefused => Error::Refused("options do not change".into()),
        _ => Error::Transient("no answer".into()),
    };
    let now = Instant::now();
    Failing { error, failure: failure(reason), times, again: now, since: now }
}

impl Memories {
    /// What the loop remembers, for its next turn with this plan. What failed is
    /// always due.
    fn restore(&self, index: u32, plan: &Arc<Plan>, numbered: &Numbered) -> LbState {
        let failed = self.failed.iter().enumerate().filter_map(|(port, failed)| {
            let (claim, reason) = (*failed)?;
            Some((key(port), Failed { owner: owner(claim), failing: failing(reason, 1), options: false }))
        });
        let failing = failing(Reason::Unreachable, self.unreachable.into());
        LbState {
            observed: self.observed.as_ref().map(|seen| seen.as_ref().map(|ports| observed(index, ports))),
            failure: (self.unreachable > 0).then_some(failing),
            failed: failed.collect(),
            last_reported: self.last_reported.as_ref().map(|reported| {
                let same = reported.plan == *numbered;
                reported.restore(index, if same { plan.clone() } else { plan_of(index, &reported.plan) })
            }),
            ..LbState::default()
        }
    }

    fn of(kept: &LbState, again: bool, plan: &Arc<Plan>, numbered: &Numbered, before: &Self) -> Self {
        let times = kept.failure.as_ref().map_or(0, |failing| failing.times.min(2));
        let failed = kept.failed.iter().map(|(key, f)| (*key, (claim_of(&f.owner.claim), f.failing.failure.reason)));
        let last_reported = kept.last_reported.as_ref().map(|reported| {
            let earlier = before.last_reported.as_ref().filter(|_| !Arc::ptr_eq(&reported.plan, plan));
            Reported::of(reported, earlier.map_or(numbered, |earlier| &earlier.plan))
        });
        Self {
            observed: kept.observed.as_ref().map(|seen| seen.as_ref().map(|seen| ports(&seen.load_balancer))),
            unreachable: u8::try_from(times).unwrap(),
            again,
            failed: by_port(failed),
            last_reported,
        }
    }
}

impl Reported {
    /// The outcome itself, for the class loop.
    pub(crate) fn outcome(&self, index: u32, since: MaybeOpen) -> Outcome {
        Outcome { since, ..self.restore(index, plan_of(index, &self.plan)) }
    }

    fn restore(&self, index: u32, plan: Arc<Plan>) -> Outcome {
        let listeners: BTreeMap<ListenerKey, ListenerOutcome> = self
            .listeners
            .iter()
            .enumerate()
            .filter_map(|(port, reported)| {
                let ReportedListener { owner: claim, open, clients, backends, failure: why } = (*reported)?;
                let (closed, options) = (ListenerOutcome::closed(&owner(claim)), options(clients));
                Some((key(port), ListenerOutcome { open, options, backends, failure: why.map(failure), ..closed }))
            })
            .collect();
        let seen = observed(index, &[None, None, None]);
        let exists = self.exists == Some(true);
        Outcome {
            plan,
            since: MaybeOpen::default(),
            exists: self.exists,
            addresses: if exists { seen.addresses.into() } else { Arc::default() },
            no_address: None,
            capacity: if exists { seen.capacity } else { Default::default() },
            foreign: BTreeSet::new(),
            listeners: Arc::new(listeners),
            failure: self.failure.map(failure),
            recreated: 0,
        }
    }

    fn of(outcome: &Outcome, plan: &Numbered) -> Self {
        let reported = |listener: &ListenerOutcome| ReportedListener {
            owner: claim_of(&listener.owner.claim),
            open: listener.open,
            clients: clients_of(&listener.options),
            backends: listener.backends,
            failure: listener.failure.as_ref().map(|failure| failure.reason),
        };
        Self {
            plan: *plan,
            exists: outcome.exists,
            listeners: by_port(outcome.listeners.iter().map(|(key, listener)| (*key, reported(listener)))),
            failure: outcome.failure.as_ref().map(|failure| failure.reason),
        }
    }
}
