//! The class loop: what it makes of answers, and of classes that concern each other.

use std::sync::Mutex;

use k8s_openapi::api::core::v1::Node;
use kube::client::Body;
use serde_json::{Value, json};
use sharedlb_crds::{CLASS_FINALIZER, SharedLBClassStatus};
use sharedlb_providers::memory::Memory;

use super::effect::{ClaimChange, ClaimWrite};
use super::*;
use crate::backends::nodes::NodeObject;
use crate::fixtures::{claim, class};
use crate::load_balancer::ADDRESS_WITHIN;
use crate::process::readiness::Readiness;

/// A class loop whose writes are never answered.
fn class_loop() -> ClassLoop {
    class_loop_with(Box::new(|_, _, _| Box::new(Memory::default())))
}

/// A class loop whose writes are never answered, with these providers.
fn class_loop_with(make_provider: MakeProvider) -> ClassLoop {
    let silent =
        tower::service_fn(|_: http::Request<Body>| std::future::pending::<Result<http::Response<Body>, kube::Error>>());
    let client = Client::new(silent, "default");
    let (events, _) = Events::new(client.clone(), |_| {});
    class_loop_of(client, events, make_provider)
}

/// A class loop of this client and these Events.
fn class_loop_of(client: Client, events: Events, make_provider: MakeProvider) -> ClassLoop {
    let settings = ClassLoopSettings {
        client,
        cluster_id: "cluster".into(),
        resync: Duration::from_secs(600),
        address_within: Some(ADDRESS_WITHIN),
        make_provider,
        backends: Arc::default(),
        events,
        reporting_sources: Vec::new(),
        metrics: Arc::default(),
        readiness: Arc::new(Readiness::default()).part(),
        tasks: Arc::default(),
        fence: Fence::open(),
    };
    ClassLoop::new(settings).0
}

#[tokio::test]
async fn a_claim_whose_class_changes_while_a_write_is_in_flight_may_be_written_after_the_answer() {
    let mut class_loop = class_loop();
    // It names no class, so it follows the one that its status names.
    let named = claim("a").unnamed().holds(0, 20001).protected();
    let sent = named.clone().version(1).build();
    class_loop.apply_event(ClusterEvent::Claim(Event::Apply(ClaimObject::clone(&sent))));
    class_loop.state(&sent).unwrap().writes.begin();

    // The watch is before the answer, and the new status names none.
    let written = claim("a").unnamed().protected().version(2).build();
    class_loop.apply_event(ClusterEvent::Claim(Event::Apply(ClaimObject::clone(&written))));
    assert_ne!(class_loop.class_of(&sent), class_loop.class_of(&written));
    let status = Box::new(written.status.clone());
    let what = ClaimChange::Status { status, lost: Vec::new() };
    class_loop.claim_answered(ClaimWrite { claim: sent, what, awaited_by: None }, Ok(ClaimObject::clone(&written)));

    assert!(class_loop.state(&written).unwrap().writes.are_free(Instant::now()));
}

/// A class of the provider `vip` with the addresses from `min` to `max`, at this version. Its
/// load balancer 0 has the address `has`.
fn vip(name: &str, version: u64, min: &str, max: &str, has: Option<&str>) -> ClassObject {
    let load_balancers: Vec<Value> =
        has.iter().map(|address| json!({"index": 0, "address": address, "addresses": [address]})).collect();
    let object = json!({
        "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLBClass",
        "metadata": {
            "name": name, "uid": name, "resourceVersion": version.to_string(), "generation": version,
            "creationTimestamp": "2026-01-01T00:00:00Z", "finalizers": [CLASS_FINALIZER],
        },
        "spec": {"provider": {"vip": {}}, "addresses": [{"min": min, "max": max}]},
        "status": {"loadBalancers": load_balancers},
    });
    ClassObject::parse(&serde_json::from_value(object).unwrap())
}

/// The first list of classes.
fn list<const N: usize>(class_loop: &mut ClassLoop, classes: [ClassObject; N]) {
    class_loop.apply_event(ClusterEvent::Class(Event::Init));
    classes.into_iter().for_each(|class| class_loop.apply_event(ClusterEvent::Class(Event::InitApply(class))));
    class_loop.apply_event(ClusterEvent::Class(Event::InitDone));
}

fn applied(class: ClassObject) -> ClusterEvent {
    ClusterEvent::Class(Event::Apply(class))
}

/// The class in its current state.
fn state<'a>(class_loop: &'a ClassLoop, name: &str) -> &'a Class {
    &class_loop.classes[&Some(name.into())]
}

/// Why the class gives no new ports.
fn suspended(class_loop: &ClassLoop, name: &str) -> Option<String> {
    state(class_loop, name).suspended.clone().map(|obstacle| obstacle.message)
}

#[tokio::test]
async fn a_class_with_an_address_of_another_creates_nothing_until_that_class_gives_the_address_up() {
    let mut class_loop = class_loop();
    let of_b = vip("b", 1, "203.0.113.19", "203.0.113.29", None);
    list(&mut class_loop, [vip("a", 1, "203.0.113.10", "203.0.113.19", None), of_b]);
    class_loop.reconcile_all();
    assert_eq!(suspended(&class_loop, "a"), None);
    assert!(state(&class_loop, "a").load_balancers.contains_key(&0));
    let why = suspended(&class_loop, "b").expect("it has an address of the other class");
    assert!(why.contains("203.0.113.19") && why.contains("class a"), "{why}");
    assert!(state(&class_loop, "b").load_balancers.is_empty(), "it would be at an address of another class");

    // A status that does not change the addresses concerns no other class.
    state_mut(&mut class_loop, "b").class_write = None;
    class_loop.apply_event(applied(vip("a", 2, "203.0.113.10", "203.0.113.19", None)));
    assert_eq!(class_loop.dirty, BTreeSet::from([Some("a".into())]));
    class_loop.apply_event(applied(vip("a", 3, "203.0.113.10", "203.0.113.18", None)));
    assert_eq!(class_loop.dirty, BTreeSet::from(["a", "b"].map(|name| Some(name.into()))));
    class_loop.reconcile_all();
    assert_eq!(suspended(&class_loop, "b"), None);
    assert!(state(&class_loop, "b").load_balancers.contains_key(&0));
}

#[tokio::test]
async fn a_class_with_an_address_of_another_gets_it_once_that_class_is_gone() {
    let mut class_loop = class_loop();
    list(&mut class_loop, [vip("a", 1, "203.0.113.10", "203.0.113.19", None)]);
    class_loop.apply_event(applied(vip("b", 1, "203.0.113.10", "203.0.113.19", None)));
    class_loop.reconcile_all();
    assert!(suspended(&class_loop, "b").is_some());
    state_mut(&mut class_loop, "b").class_write = None;
    class_loop.apply_event(ClusterEvent::Class(Event::Delete(vip("a", 2, "203.0.113.10", "203.0.113.19", None))));
    class_loop.reconcile_all();
    assert_eq!(suspended(&class_loop, "b"), None);
}

#[tokio::test]
async fn the_load_balancers_of_a_class_that_is_deleted_by_force_are_named_in_an_event() {
    let (sender, mut written) = tokio::sync::mpsc::unbounded_channel();
    let api_server = tower::service_fn(move |request: http::Request<Body>| {
        let sender = sender.clone();
        async move {
            let body = request.into_body().collect_bytes().await.expect("a body");
            _ = sender.send(String::from_utf8_lossy(&body).into_owned());
            std::future::pending::<Result<http::Response<Body>, kube::Error>>().await
        }
    });
    let (events, write) = Events::new(Client::new(api_server, "default"), |_| {});
    tokio::spawn(write);
    let silent =
        tower::service_fn(|_: http::Request<Body>| std::future::pending::<Result<http::Response<Body>, kube::Error>>());
    let make_provider: MakeProvider = Box::new(|_, _, _| Box::new(Memory::default()));
    let mut class_loop = class_loop_of(Client::new(silent, "default"), events, make_provider);
    list(&mut class_loop, [vip("a", 1, "203.0.113.10", "203.0.113.19", None)]);
    class_loop.reconcile_all();
    let objects = state(&class_loop, "a").objects("cluster");
    assert_eq!(objects.len(), 1);
    class_loop.apply_event(ClusterEvent::Class(Event::Delete(vip("a", 2, "203.0.113.10", "203.0.113.19", None))));
    let event = tokio::time::timeout(Duration::from_secs(30), written.recv()).await;
    let event = event.expect("an Event is written").expect("the API server is there");
    assert!(event.contains("LoadBalancersLeft") && event.contains(&objects[0]), "{event}");
}

#[tokio::test]
async fn a_class_with_an_address_of_a_node_creates_nothing_until_the_node_has_another() {
    let node = |version: u64, address: &str| -> Node {
        let addresses = json!([{"type": "InternalIP", "address": address}]);
        let metadata = json!({"name": "node-1", "uid": "n", "resourceVersion": version.to_string()});
        serde_json::from_value(json!({"metadata": metadata, "status": {"addresses": addresses}})).unwrap()
    };
    let mut class_loop = class_loop();
    let watched = |class_loop: &mut ClassLoop, version, address| {
        let event = Event::Apply(NodeObject::parse(&node(version, address)));
        let changes = class_loop.settings.backends.apply_node_event(event);
        class_loop.apply_event(ClusterEvent::Endpoints(changes));
        class_loop.reconcile_all();
    };
    watched(&mut class_loop, 1, "203.0.113.15");
    list(&mut class_loop, [vip("a", 1, "203.0.113.10", "203.0.113.19", None)]);
    class_loop.reconcile_all();
    let why = suspended(&class_loop, "a").expect("a node has one of its addresses");
    assert!(why.contains("203.0.113.15 is an address of node node-1"), "{why}");
    assert!(state(&class_loop, "a").load_balancers.is_empty(), "the node would lose traffic");

    state_mut(&mut class_loop, "a").class_write = None;
    watched(&mut class_loop, 2, "192.0.2.15");
    assert_eq!(suspended(&class_loop, "a"), None);
    assert!(state(&class_loop, "a").load_balancers.contains_key(&0));

    // What is open stays open, whatever address a further node has.
    state_mut(&mut class_loop, "a").class_write = None;
    watched(&mut class_loop, 3, "203.0.113.10");
    assert!(suspended(&class_loop, "a").is_some());
    assert!(state(&class_loop, "a").load_balancers.contains_key(&0));
}

#[tokio::test]
async fn nothing_is_decided_before_the_addresses_of_the_cluster_are_known_where_a_class_gives_some() {
    let mut class_loop = class_loop();
    let missing = |class_loop: &ClassLoop| -> BTreeSet<&str> { class_loop.missing().into_iter().collect() };
    let without_vip = class(json!({}), &SharedLBClassStatus::default(), false);
    list(&mut class_loop, [without_vip]);
    let lists_of_addresses = BTreeSet::from(["nodes", "servicecidrs"]);
    assert!(missing(&class_loop).is_disjoint(&lists_of_addresses), "{:?}", class_loop.missing());
    class_loop.apply_event(applied(vip("a", 1, "203.0.113.10", "203.0.113.19", None)));
    assert!(missing(&class_loop).is_superset(&lists_of_addresses), "{:?}", class_loop.missing());
    class_loop.settings.backends.nodes_needed().await;
    class_loop.settings.backends.service_cidrs_needed().await;
    let backends = class_loop.settings.backends.clone();
    class_loop.apply_event(ClusterEvent::Endpoints(backends.apply_node_event(Event::InitDone)));
    class_loop.apply_event(ClusterEvent::Endpoints(backends.apply_service_cidr_event(Event::InitDone)));
    assert!(missing(&class_loop).is_disjoint(&lists_of_addresses), "{:?}", class_loop.missing());
}

#[tokio::test]
async fn a_load_balancer_keeps_its_address_when_the_list_changes_and_after_a_restart() {
    let mut class_loop = recording();
    class_loop.0.apply_event(applied(vip("a", 1, "203.0.113.10", "203.0.113.11", None)));
    class_loop.0.reconcile_all();
    assert_eq!(class_loop.last_made(), ["203.0.113.10", "203.0.113.11"]);

    // It is not in the class' status yet that load balancer 0 has its address.
    class_loop.0.apply_event(applied(vip("a", 2, "203.0.113.20", "203.0.113.21", None)));
    state_mut(&mut class_loop.0, "a").class_write = None;
    class_loop.0.reconcile_all();
    assert_eq!(class_loop.last_made(), ["203.0.113.10", "203.0.113.21"]);
    let why = suspended(&class_loop.0, "a").expect("the list is refused");
    assert!(why.contains("load balancer 0 has 203.0.113.10"), "{why}");
    assert_eq!(state(&class_loop.0, "a").load_balancers.keys().collect::<Vec<_>>(), [&0], "it goes on");

    let mut restarted = recording();
    restarted.0.apply_event(applied(vip("a", 3, "203.0.113.20", "203.0.113.21", Some("203.0.113.10"))));
    restarted.0.reconcile_all();
    assert_eq!(restarted.last_made(), ["203.0.113.10", "203.0.113.21"]);
    assert!(suspended(&restarted.0, "a").is_some());
    assert!(state(&restarted.0, "a").load_balancers.contains_key(&0));
}

fn state_mut<'a>(class_loop: &'a mut ClassLoop, name: &str) -> &'a mut Class {
    class_loop.classes.get_mut(&Some(name.into())).unwrap()
}

/// A class loop, and the addresses of the providers that it has created.
struct Recording(ClassLoop, Arc<Mutex<Vec<Vec<String>>>>);

fn recording() -> Recording {
    let made: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
    let recorded = made.clone();
    let make = move |_: &ClassObject, _: &SharedLBClassSpec, addresses: &[Vec<IpAddr>]| -> Box<dyn Provider> {
        recorded.lock().unwrap().push(addresses.iter().flatten().map(ToString::to_string).collect());
        Box::new(Memory::default())
    };
    Recording(class_loop_with(Box::new(make)), made)
}

impl Recording {
    fn last_made(&self) -> Vec<String> {
        self.1.lock().unwrap().last().cloned().unwrap_or_default()
    }
}
