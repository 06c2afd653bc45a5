//! Without an API server: its client never gets an answer.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use http::{Request, Response};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::runtime::Handle;

use super::{LoadBalancer, State};
use crate::{Change, Config, Endpoint, NoEndpoint};

/// Much more than anything takes.
const LIMIT: Duration = Duration::from_secs(30);

/// A client whose requests are never answered.
fn unanswered() -> Client {
    let never = tower::service_fn(|_: Request<Body>| pending::<Result<Response<Body>, Infallible>>());
    Client::new(never, "default")
}

fn load_balancer() -> LoadBalancer {
    LoadBalancer::new(unanswered(), Config::new("web"))
}

fn slice(addresses: &[&str]) -> EndpointSlice {
    let endpoints: Vec<_> = addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    serde_json::from_value(json!({
        "metadata": {},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{"port": 80}],
    }))
    .unwrap()
}

fn endpoint(last: u8) -> Endpoint {
    Endpoint { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), 80), pod: None }
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Lets other tasks go on until there are so many.
async fn until_tasks(count: usize) {
    let gone = async {
        while tasks() != count {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, gone).await.is_ok(), "waited for {count} tasks, and there are {}", tasks());
}

#[tokio::test]
async fn before_the_first_list_there_is_no_endpoint() {
    let load_balancer = load_balancer();
    assert_eq!(load_balancer.next().unwrap_err(), NoEndpoint::NotSynced);
    assert_eq!(load_balancer.endpoints(), BTreeSet::new());
}

#[tokio::test]
async fn a_service_that_loses_its_last_endpoint_has_none() {
    let load_balancer = load_balancer();
    load_balancer.state.publish(&[slice(&["10.0.0.1"])]);
    assert_eq!(*load_balancer.next().unwrap(), endpoint(1));
    load_balancer.state.publish(&[]);
    assert_eq!(load_balancer.next().unwrap_err(), NoEndpoint::NoneReady);
}

#[tokio::test]
async fn shutdown_returns_when_the_task_has_ended_however_often_it_is_called() {
    let load_balancer = load_balancer();
    let before = tasks();
    load_balancer.start_background_sync();
    assert_eq!(tasks(), before + 1);
    tokio::join!(load_balancer.shutdown(), load_balancer.shutdown());
    assert_eq!(tasks(), before);
    load_balancer.shutdown().await;
}

#[tokio::test]
async fn shutdown_that_is_cancelled_can_be_called_again() {
    let load_balancer = load_balancer();
    let before = tasks();
    load_balancer.start_background_sync();
    assert_eq!(load_balancer.shutdown().now_or_never(), None);
    load_balancer.shutdown().await;
    assert_eq!(tasks(), before);
}

#[tokio::test]
async fn a_load_balancer_that_is_dropped_leaves_no_task() {
    let client = unanswered();
    let before = tasks();
    let load_balancer = LoadBalancer::new(client.clone(), Config::new("web"));
    load_balancer.start_background_sync();
    // The task waits for an answer by now.
    tokio::task::yield_now().await;
    assert_eq!(tasks(), before + 1);
    drop(load_balancer);
    until_tasks(before).await;
}

#[tokio::test]
async fn a_second_start_starts_no_second_task() {
    let load_balancer = load_balancer();
    let before = tasks();
    load_balancer.start_background_sync();
    load_balancer.start_background_sync();
    assert_eq!(tasks(), before + 1);
}

#[tokio::test]
async fn a_start_after_shutdown_leaves_no_task() {
    let load_balancer = load_balancer();
    let before = tasks();
    load_balancer.shutdown().await;
    load_balancer.start_background_sync();
    until_tasks(before).await;
}

#[tokio::test]
async fn after_shutdown_requests_go_to_the_endpoints_that_were_last_seen() {
    let load_balancer = load_balancer();
    load_balancer.state.publish(&[slice(&["10.0.0.1"])]);
    load_balancer.shutdown().await;
    assert_eq!(*load_balancer.next().unwrap(), endpoint(1));
}

#[tokio::test]
async fn a_list_changes_nothing_that_the_watch_has_seen_meanwhile() {
    let state = State::new(Config::new("web"));
    let known = state.snapshot.load_full();
    state.publish(&[slice(&["10.0.0.2"])]);
    state.publish_after(&known, &[slice(&["10.0.0.1"])]);
    assert_eq!(crate::changes::endpoints(&state.snapshot.load()), [endpoint(2)].into());

    let known = state.snapshot.load_full();
    state.publish_after(&known, &[slice(&["10.0.0.1"])]);
    assert_eq!(crate::changes::endpoints(&state.snapshot.load()), [endpoint(1)].into());
}

#[tokio::test]
async fn changes_begin_with_what_is_there_and_report_what_differs_since_the_last_poll() {
    let load_balancer = load_balancer();
    load_balancer.state.publish(&[slice(&["10.0.0.1", "10.0.0.2"])]);
    let mut changes = load_balancer.changes();
    assert_eq!(changes.next().await, Some(Change::Added(endpoint(1))));
    assert_eq!(changes.next().await, Some(Change::Added(endpoint(2))));

    load_balancer.state.publish(&[slice(&["10.0.0.9"])]);
    load_balancer.state.publish(&[slice(&["10.0.0.2", "10.0.0.3"])]);
    assert_eq!(changes.next().await, Some(Change::Removed(endpoint(1))));
    assert_eq!(changes.next().await, Some(Change::Added(endpoint(3))));

    load_balancer.state.publish(&[]);
    assert_eq!(changes.next().await, Some(Change::Removed(endpoint(2))));
    assert_eq!(changes.next().await, Some(Change::Removed(endpoint(3))));
    assert_eq!(changes.next().now_or_never(), None);
}

#[tokio::test]
async fn changes_end_with_shutdown_and_with_the_load_balancer() {
    let load_balancer = load_balancer();
    let changes = load_balancer.changes();
    load_balancer.shutdown().await;
    assert_eq!(changes.collect::<Vec<_>>().await, []);

    let load_balancer = self::load_balancer();
    let changes = load_balancer.changes();
    drop(load_balancer);
    assert_eq!(changes.collect::<Vec<_>>().await, []);
}
