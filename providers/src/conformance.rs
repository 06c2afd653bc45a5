//! The suite of tests that every provider passes, against its real peer if possible.
//!
//! Each entry of [`SUITE`] takes a [`Peer`] of its own, asserts by panicking,
//! and needs nothing but the peer: run them under any test harness.

mod listeners;

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use self::listeners::{apart, everything, lb, listener, narrow, options_of, port, tcp, v4, v6, wide, with_options};
use crate::diff::diff;
use crate::model::{
    FrontPort, LbName, Listener, ListenerKey, ListenerOptions, LoadBalancer, Observed, Protocol, Transport,
};
use crate::{Applied, ChangeSet, Error, Provider};

/// The peer: the load balancers, and other clients of them.
#[async_trait]
pub trait Peer: Send + Sync {
    /// A provider as in a process that was just started.
    async fn provider(&self) -> Box<dyn Provider>;
    /// A provider whose calls to the peer all fail after the first `calls`, as if its process
    /// had been killed.
    async fn provider_dying_after(&self, calls: usize) -> Box<dyn Provider>;
    /// Another client opens a listener on a load balancer of ours.
    async fn open_foreign(&self, name: &LbName, port: FrontPort);
    /// Whether foreign listeners can be observed. Where they cannot, a provider finds one when it
    /// would open a listener on the same port.
    fn shows_foreign(&self) -> bool {
        true
    }
    /// Whether foreign listeners keep a provider from opening a listener on their port. They do not
    /// where only our own load balancer can be reached at its address.
    fn foreign_hold_ports(&self) -> bool {
        true
    }
    /// Whether that foreign listener still exists, unchanged.
    async fn has_foreign(&self, name: &LbName, port: FrontPort) -> bool;
    /// Has the peer refuse this listener. It is called only where the provider isolates
    /// failures.
    async fn refuse(&self, listener: ListenerKey);
    /// Has the peer accept everything again.
    async fn accept_all(&self);
}

/// A test of the suite.
pub type Test = fn(&dyn Peer) -> BoxFuture<'_, ()>;

/// All tests, by name.
pub const SUITE: &[(&str, Test)] = &[
    ("what_does_not_exist_is_observed_as_none", |peer| Box::pin(what_does_not_exist_is_observed_as_none(peer))),
    ("a_load_balancer_without_listeners_is_created", |peer| {
        Box::pin(a_load_balancer_without_listeners_is_created(peer))
    }),
    ("listeners_open_as_asked", |peer| Box::pin(listeners_open_as_asked(peer))),
    ("applying_twice_is_applying_once", |peer| Box::pin(applying_twice_is_applying_once(peer))),
    ("backends_are_replaced", |peer| Box::pin(backends_are_replaced(peer))),
    ("tcp_and_udp_of_one_listener_lead_apart_and_together_again", |peer| {
        Box::pin(tcp_and_udp_of_one_listener_lead_apart(peer))
    }),
    ("a_listener_changes_its_owner", |peer| Box::pin(a_listener_changes_its_owner(peer))),
    ("a_listener_has_the_options_that_are_wanted", |peer| Box::pin(a_listener_has_its_options(peer))),
    ("a_closed_listener_is_gone_and_its_neighbour_stays", |peer| Box::pin(a_closed_listener_is_gone(peer))),
    ("a_foreign_listener_is_observed_and_never_changed", |peer| Box::pin(a_foreign_listener_is_never_changed(peer))),
    ("one_listener_fails_and_the_others_do_not", |peer| Box::pin(one_listener_fails_alone(peer))),
    ("an_opening_that_is_refused_holds_up_no_closing_and_no_other_opening", |peer| {
        Box::pin(an_opening_that_is_refused_holds_up_nothing(peer))
    }),
    ("two_load_balancers_know_nothing_of_each_other", |peer| Box::pin(two_load_balancers_are_apart(peer))),
    ("deleting_twice_is_deleting_once", |peer| Box::pin(deleting_twice_is_deleting_once(peer))),
    ("a_crash_between_any_two_calls_is_made_good", |peer| Box::pin(a_crash_between_any_two_calls(peer))),
    ("a_port_stays_open_while_its_protocol_changes", |peer| {
        Box::pin(a_port_stays_open_while_its_protocol_changes(peer))
    }),
    ("a_crash_while_options_change_is_made_good", |peer| Box::pin(a_crash_while_options_change(peer))),
];

async fn what_does_not_exist_is_observed_as_none(peer: &dyn Peer) {
    assert_eq!(peer.provider().await.observe(&lb(0)).await, Ok(None));
}

async fn a_load_balancer_without_listeners_is_created(peer: &dyn Peer) {
    let provider = peer.provider().await;
    let empty = wanted(&*provider, []);
    converge(&*provider, &lb(0), &empty).await.expect("an empty load balancer is created");
    assert_eq!(observe(peer, &lb(0)).await.load_balancer, empty);
}

async fn listeners_open_as_asked(peer: &dyn Peer) {
    let provider = peer.provider().await;
    let desired = wanted(&*provider, everything(&*provider));
    converge(&*provider, &lb(0), &desired).await.expect("listeners are opened");
    let observed = observe(peer, &lb(0)).await;
    assert_eq!(observed.load_balancer, desired);
    assert_eq!(observed.foreign, BTreeSet::new(), "what we made is not foreign to us");
}

async fn applying_twice_is_applying_once(peer: &dyn Peer) {
    let provider = peer.provider().await;
    let desired = wanted(&*provider, everything(&*provider));
    let changes = diff(&LoadBalancer::default(), &desired);
    for time in ["first", "second"] {
        // The second apply opens listeners that are open, as after a lost answer.
        let applied = provider.apply(&lb(0), ChangeSet::new(&desired, &changes)).await;
        let applied = applied.unwrap_or_else(|error| panic!("the {time} time: {error:#}"));
        assert!(applied.failed.is_empty(), "the {time} time: {applied:?}");
        assert_eq!(observe(peer, &lb(0)).await.load_balancer, desired, "after the {time} time");
    }
}

async fn backends_are_replaced(peer: &dyn Peer) {
    let provider = peer.provider().await;
    let key = tcp(20000);
    for backends in [vec![v4(1), v4(2)], vec![v4(2), v4(3)], vec![v6(1), v4(3)], vec![], vec![v6(2)]] {
        let desired =
            wanted(&*provider, [(key, listener("redis", backends)), (tcp(20001), listener("other", [v4(9)]))]);
        converge(&*provider, &lb(0), &desired).await.expect("backends are replaced");
        assert_eq!(observe(peer, &lb(0)).await.load_balancer, desired);
    }
}

async fn tcp_and_udp_of_one_listener_lead_apart(peer: &dyn Peer) {
    let provider = peer.provider().await;
    if !provider.capabilities().backends_by_transport {
        return;
    }
    let key = ListenerKey { port: port(20000), protocol: Protocol::TcpUdp };
    for listener in [
        listener("dns", [v4(1), v6(1)]),
        apart("dns", [v4(1)], [v4(2)]),
        apart("dns", [v4(1), v6(2)], [v4(2), v6(2)]),
        apart("dns", [], [v4(2)]),
        listener("dns", [v4(2)]),
    ] {
        let desired = wanted(&*provider, [(key, listener)]);
        converge(&*provider, &lb(0), &desired).await.expect("backends are replaced");
        assert_eq!(observe(peer, &lb(0)).await.load_balancer, desired);
    }
}

async fn a_listener_changes_its_owner(peer: &dyn Peer) {
    let provider = peer.provider().await;
    for owner in ["before", "after"] {
        let desired = wanted(&*provider, [(tcp(20000), listener(owner, [v4(1)]))]);
        converge(&*provider, &lb(0), &desired).await.expect("the owner is written down");
        assert_eq!(observe(peer, &lb(0)).await.load_balancer, desired);
    }
}

/// They are there when it opens, and change in place, without effect on its backends and its
/// neighbour.
async fn a_listener_has_its_options(peer: &dyn Peer) {
    let provider = peer.provider().await;
    let can = provider.capabilities();
    for &protocol in &can.protocols {
        for (claim, options) in [("first", wide(&can)), ("first", narrow(&can)), ("second", wide(&can))] {
            for options in [options, ListenerOptions::default()] {
                let key = ListenerKey { port: port(20000), protocol };
                let with_options = Listener { options, ..listener(claim, [v4(1), v4(2)]) };
                let desired = wanted(&*provider, [(key, with_options), (tcp(20001), listener("other", [v4(9)]))]);
                converge(&*provider, &lb(0), &desired).await.expect("the options are changed");
                assert_eq!(observe(peer, &lb(0)).await.load_balancer, desired);
            }
        }
        for options in [wide(&can), narrow(&can), wide(&can)] {
            let key = ListenerKey { port: port(20000), protocol };
            let desired = wanted(&*provider, [(key, Listener { options, ..listener("third", [v4(1)]) })]);
            converge(&*provider, &lb(0), &desired).await.expect("the options are changed");
            assert_eq!(observe(peer, &lb(0)).await.load_balancer, desired);
        }
    }
}

async fn a_closed_listener_is_gone(peer: &dyn Peer) {
    let provider = peer.provider().await;
    let (stays, goes) = ((tcp(20000), listener("stays", [v4(1)])), (tcp(20001), listener("goes", [v4(2)])));
    let both = wanted(&*provider, [stays.clone(), goes]);
    converge(&*provider, &lb(0), &both).await.expect("both open");
    for desired in [wanted(&*provider, [stays]), wanted(&*provider, [])] {
        converge(&*provider, &lb(0), &desired).await.expect("one is closed");
        assert_eq!(observe(peer, &lb(0)).await.load_balancer, desired);
    }
}

async fn a_foreign_listener_is_never_changed(peer: &dyn Peer) {
    let provider = peer.provider().await;
    let theirs = FrontPort { port: port(2222), transport: Transport::Tcp };
    converge(&*provider, &lb(0), &wanted(&*provider, [])).await.expect("the load balancer is created");
    peer.open_foreign(&lb(0), theirs).await;
    let shown: BTreeSet<FrontPort> = Some(theirs).filter(|_| peer.shows_foreign()).into_iter().collect();
    assert_eq!(observe(peer, &lb(0)).await.foreign, shown);

    for ours in [vec![(tcp(20000), listener("ours", [v4(1)]))], vec![]] {
        let desired = wanted(&*provider, ours);
        converge(&*provider, &lb(0), &desired).await.expect("ours is opened beside it, and closed");
        let observed = observe(peer, &lb(0)).await;
        assert_eq!(observed.load_balancer, desired);
        assert_eq!(observed.foreign, shown);
        assert!(peer.has_foreign(&lb(0), theirs).await, "the foreign listener is unchanged");
    }
    if !peer.foreign_hold_ports() {
        return;
    }
    let desired =
        wanted(&*provider, [(tcp(2222), listener("thief", [v4(1)])), (tcp(20000), listener("ours", [v4(1)]))]);
    let applied = converge(&*provider, &lb(0), &desired).await.expect("the others go on");
    assert!(matches!(applied.failed.get(&tcp(2222)), Some(Error::PortInUse(_))), "{:?}", applied.failed);
    assert!(observe(peer, &lb(0)).await.load_balancer.listeners.contains_key(&tcp(20000)));
    assert!(peer.has_foreign(&lb(0), theirs).await, "the foreign listener is unchanged");
}

async fn one_listener_fails_alone(peer: &dyn Peer) {
    let provider = peer.provider().await;
    let desired = wanted(&*provider, (20000..20005).map(|n| (tcp(n), listener("claim", [v4(1)]))));
    peer.refuse(tcp(20002)).await;
    let applied = converge(&*provider, &lb(0), &desired).await.expect("the others go on");
    assert_eq!(applied.failed.keys().collect::<Vec<_>>(), [&tcp(20002)]);
    let open: Vec<_> = observe(peer, &lb(0)).await.load_balancer.listeners.into_keys().collect();
    assert_eq!(open, [tcp(20000), tcp(20001), tcp(20003), tcp(20004)]);

    peer.accept_all().await;
    converge(&*provider, &lb(0), &desired).await.expect("it is accepted now");
    assert_eq!(observe(peer, &lb(0)).await.load_balancer, desired);
}

async fn an_opening_that_is_refused_holds_up_nothing(peer: &dyn Peer) {
    let provider = peer.provider().await;
    let before = [tcp(20000), tcp(20001), tcp(20002)];
    converge(&*provider, &lb(0), &wanted(&*provider, before.map(|key| (key, listener("before", [v4(1)])))))
        .await
        .expect("they open");
    peer.refuse(tcp(20004)).await;
    // One closes, one changes its owner, one stays, and of three one is refused.
    let after = [
        (tcp(20001), listener("after", [v4(2)])),
        (tcp(20002), listener("before", [v4(1)])),
        (tcp(20003), listener("after", [v4(3)])),
        (tcp(20004), listener("after", [v4(4)])),
        (tcp(20005), listener("after", [v4(5)])),
    ];
    let mut desired = wanted(&*provider, after);
    for _ in 0..2 {
        let applied = converge(&*provider, &lb(0), &desired).await.expect("the others go on");
        assert_eq!(applied.failed.keys().collect::<Vec<_>>(), [&tcp(20004)]);
        let mut open = desired.listeners.clone();
        open.remove(&tcp(20004));
        assert_eq!(observe(peer, &lb(0)).await.load_balancer.listeners, open);
        // And the next time, only closings come with it.
        desired.listeners.remove(&tcp(20002));
        desired.listeners.remove(&tcp(20003));
    }
    peer.accept_all().await;
    converge(&*provider, &lb(0), &desired).await.expect("it is accepted now");
    assert_eq!(observe(peer, &lb(0)).await.load_balancer, desired);
}

async fn two_load_balancers_are_apart(peer: &dyn Peer) {
    let provider = peer.provider().await;
    let with = |index, owner| LoadBalancer {
        attributes: provider.attributes(index),
        ..wanted(&*provider, [(tcp(20000), listener(owner, [v4(1)]))])
    };
    converge(&*provider, &lb(0), &with(0, "first")).await.expect("the first is made");
    converge(&*provider, &lb(1), &with(1, "second")).await.expect("the second is made");
    delete(&*provider, &lb(1)).await.expect("the second is deleted");
    assert_eq!(observe(peer, &lb(0)).await.load_balancer, with(0, "first"));
    assert_eq!(peer.provider().await.observe(&lb(1)).await, Ok(None));
}

async fn deleting_twice_is_deleting_once(peer: &dyn Peer) {
    let provider = peer.provider().await;
    let desired = wanted(&*provider, everything(&*provider));
    converge(&*provider, &lb(0), &desired).await.expect("it is made");
    for time in ["first", "second"] {
        delete(&*provider, &lb(0)).await.unwrap_or_else(|error| panic!("the {time} time: {error}"));
        assert_eq!(peer.provider().await.observe(&lb(0)).await, Ok(None), "after the {time} time");
    }
    converge(&*provider, &lb(0), &desired).await.expect("it is made again");
    assert_eq!(observe(peer, &lb(0)).await.load_balancer, desired);
}

/// From nothing to everything, from there to something else, and to nothing: in each step
/// the process is killed after every number of calls, and the next one reaches the same
/// state as one that was not killed.
async fn a_crash_between_any_two_calls(peer: &dyn Peer) {
    let alive = peer.provider().await;
    let can = alive.capabilities();
    let other = [
        (tcp(20000), Listener { options: wide(&can), ..listener("other", [v4(7), v6(7)]) }),
        (tcp(20009), listener("new", [v4(8)])),
        (tcp(20400), Listener { options: narrow(&can), ..listener("with-options", [v4(1)]) }),
    ];
    let steps = [wanted(&*alive, everything(&*alive)), wanted(&*alive, other), wanted(&*alive, [])];
    for (step, desired) in steps.iter().enumerate() {
        for calls in 0..100 {
            delete(&*alive, &lb(0)).await.expect("everything starts anew");
            if let Some(before) = step.checked_sub(1).map(|before| &steps[before]) {
                converge(&*alive, &lb(0), before).await.expect("the step before is carried out");
            }
            let died = dies_after(peer, calls, desired).await;
            converge(&*peer.provider().await, &lb(0), desired).await.expect("the next process goes on");
            assert_eq!(observe(peer, &lb(0)).await.load_balancer, *desired, "killed after {calls} calls");
            if !died {
                assert!(calls > 0, "no call was made at all");
                break;
            }
        }
    }
}

/// From each protocol to each other one: the process is killed after every number of calls.
/// A port that both protocols take up is never closed in between, and the next process
/// reaches the same state as one that was not killed.
async fn a_port_stays_open_while_its_protocol_changes(peer: &dyn Peer) {
    let alive = peer.provider().await;
    let protocols = alive.capabilities().protocols;
    let with = |protocol| {
        let key = ListenerKey { port: port(20000), protocol };
        wanted(&*alive, [(key, listener("claim", [v4(1), v4(2)]))])
    };
    let mut changes = Vec::new();
    for &from in &protocols {
        changes.extend(protocols.iter().filter(|to| **to != from).map(|&to| (from, to)));
    }
    for (from, to) in changes {
        for calls in 0..100 {
            let killed = format!("killed after {calls} calls on the way from {from} to {to}");
            converge(&*alive, &lb(0), &with(from)).await.expect("the port opens");
            let died = dies_after(peer, calls, &with(to)).await;
            let found = observe(peer, &lb(0)).await.load_balancer.listeners;
            assert!(!(found.is_empty() && from.overlaps(to)), "the port is closed: {killed}");
            converge(&*peer.provider().await, &lb(0), &with(to)).await.expect("the next process goes on");
            assert_eq!(observe(peer, &lb(0)).await.load_balancer, with(to), "{killed}");
            if !died {
                break;
            }
        }
    }
}

/// From each of the options to the next ones: the process is killed after every number of
/// calls, and the next one reaches the same state as one that was not killed.
async fn a_crash_while_options_change(peer: &dyn Peer) {
    let alive = peer.provider().await;
    let all = options_of(&*alive);
    for (before, after) in all.iter().zip(all.iter().cycle().skip(1)) {
        for calls in 0..100 {
            converge(&*alive, &lb(0), &wanted(&*alive, with_options(before))).await.expect("the listeners open");
            let desired = wanted(&*alive, with_options(after));
            let died = dies_after(peer, calls, &desired).await;
            converge(&*peer.provider().await, &lb(0), &desired).await.expect("the next process goes on");
            let found = observe(peer, &lb(0)).await.load_balancer;
            assert_eq!(found, desired, "killed after {calls} calls on the way from {before:?} to {after:?}");
            if !died {
                break;
            }
        }
    }
}

/// Works towards this state in a process that is killed after `calls` calls. Returns whether
/// it was killed before it was done.
async fn dies_after(peer: &dyn Peer, calls: usize, desired: &LoadBalancer) -> bool {
    let dying = converge(&*peer.provider_dying_after(calls).await, &lb(0), desired).await;
    dying.map_or(true, |applied| !applied.failed.is_empty())
}

/// Reconciles as the LB loop does, without its state, and again while something is postponed, or
/// is not ready (an operation takes time).
async fn converge(provider: &dyn Provider, name: &LbName, desired: &LoadBalancer) -> Result<Applied, Error> {
    for _ in 0..100 {
        match converge_once(provider, name, desired).await {
            Err(Error::NotReady(_)) | Ok(Applied { unconfigured: Some(Error::NotReady(_)), .. }) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(applied) if !applied.postponed.is_empty() => {}
            Ok(Applied { unconfigured: Some(error), .. }) => return Err(error),
            result => return result,
        }
    }
    panic!("{name} was not ready after a hundred attempts");
}

async fn converge_once(provider: &dyn Provider, name: &LbName, desired: &LoadBalancer) -> Result<Applied, Error> {
    let observed = provider.observe(name).await?;
    let changes = observed.unwrap_or_default().changes_to(desired, &BTreeSet::new());
    provider.apply(name, ChangeSet::new(desired, &changes)).await
}

/// Deletes as the LB loop does: it waits for operations that take time.
async fn delete(provider: &dyn Provider, name: &LbName) -> Result<(), Error> {
    for _ in 0..100 {
        match provider.delete(name).await {
            Err(Error::NotReady(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            result => return result,
        }
    }
    panic!("{name} was not gone after ten seconds");
}

/// Observes as a process that was just started. A load balancer that reports changes late has
/// ten seconds.
async fn observe(peer: &dyn Peer, name: &LbName) -> Observed {
    let provider = peer.provider().await;
    for _ in 0..100 {
        match provider.observe(name).await {
            Ok(Some(observed)) => return observed,
            Ok(None) | Err(Error::NotReady(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => panic!("{name} cannot be observed: {error}"),
        }
    }
    panic!("{name} was not there after ten seconds");
}

fn wanted(provider: &dyn Provider, listeners: impl IntoIterator<Item = (ListenerKey, Listener)>) -> LoadBalancer {
    let seen = |mut listener: Listener| {
        listener.backends =
            listener.backends.iter().cloned().filter_map(|backend| provider.as_observed(backend)).collect();
        listener
    };
    let listeners = listeners.into_iter().map(|(key, listener)| (key, seen(listener)));
    LoadBalancer { attributes: provider.attributes(0), listeners: listeners.collect() }
}
