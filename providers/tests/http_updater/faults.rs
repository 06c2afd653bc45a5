//! Calls that fail.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::{ChangeSet, Error, Listener, ListenerKey, Provider, diff};
use sharedlb_testbed::UpdaterFault;

use crate::host::Host;
use crate::steps::{alter, converge, is_as_wanted, lb, listener, observe, tcp, wanted};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    a_lost_answer_is_made_good,
    a_throttled_updater_is_left_in_peace,
    while_the_updater_is_away_nothing_changes_and_afterwards_everything_is_as_desired,
    while_the_updater_is_away_what_was_posted_stays_known,
    a_backend_that_cannot_be_deleted_stays_recorded,
    an_url_of_something_else_is_refused,
    what_is_left_of_a_listener_whose_successor_is_refused_stays,
    a_call_that_is_carried_out_late_is_undone_at_the_next_resync,
    former_servers_of_a_port_whose_change_is_refused_are_deleted,
    a_port_whose_change_is_refused_keeps_servers_that_are_still_wanted,
];

/// Tries to get from one state to another one.
async fn try_alter(
    provider: &dyn Provider,
    from: &[(ListenerKey, Listener)],
    to: &[(ListenerKey, Listener)],
) -> Result<(), Error> {
    let (from, to) = (wanted(provider, from.to_vec()), wanted(provider, to.to_vec()));
    provider.apply(&lb(0), ChangeSet::new(&to, &diff(&from, &to))).await.map(drop)
}

async fn a_lost_answer_is_made_good(host: &Host) {
    let provider = host.provider().await;
    let all = [(tcp(20000), listener("a", [1]))];
    let lost = AtomicUsize::new(1);
    host.updater.faults(move |_| {
        let is_lost = lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        is_lost.then_some(UpdaterFault::Lost)
    });
    let error = try_alter(&*provider, &[], &all).await;
    assert!(matches!(error, Err(Error::Transient(_))), "{error:?}");
    let applied = converge(&*provider, 0, all.clone()).await;
    assert!(applied.failed.is_empty(), "{applied:?}");
    assert_eq!(host.calls(), ["POST 20000-tcp", "POST 20000-tcp"], "a POST has the same effect twice");

    host.updater.faults(|_| Some(UpdaterFault::Lost));
    let error = try_alter(&*provider, &all, &[(tcp(20000), listener("a", [2]))]).await;
    assert!(matches!(error, Err(Error::Transient(_))), "{error:?}");
    host.updater.no_faults();
    // Claimed and posted by now, or not: the next process posts it.
    converge(&*host.provider().await, 0, all.clone()).await;
    assert!(host.file("20000-tcp").contains("10.244.0.1:6379"), "{}", host.file("20000-tcp"));
    is_as_wanted(&*host.provider().await, all).await;
}

async fn a_throttled_updater_is_left_in_peace(host: &Host) {
    let provider = host.provider().await;
    converge(&*provider, 0, []).await;
    host.updater.faults(|_| Some(UpdaterFault::Throttled(60)));
    let all = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [1]))];
    let error = try_alter(&*provider, &[], &all).await;
    let Err(Error::Throttled { retry_after, .. }) = error else { panic!("{error:?}") };
    assert!(retry_after >= Duration::from_secs(59), "{retry_after:?}");
    assert_eq!(host.calls().len(), 1);
    let again = try_alter(&*provider, &[], &all).await;
    assert!(matches!(again, Err(Error::Throttled { .. })), "{again:?}");
    assert!(host.calls().is_empty(), "no call is made meanwhile");
}

async fn while_the_updater_is_away_nothing_changes_and_afterwards_everything_is_as_desired(host: &Host) {
    let provider = host.provider().await;
    let before = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [1]))];
    converge(&*provider, 0, before.clone()).await;
    host.updater.faults(|_| Some(UpdaterFault::Status(503)));
    let after = [(tcp(20000), listener("a", [])), (tcp(20002), listener("c", [1]))];
    let error = try_alter(&*provider, &before, &after).await;
    assert!(matches!(error, Err(Error::Transient(_))), "{error:?}");
    assert_eq!(host.files(), ["20000-tcp.conf", "20001-tcp.conf"]);
    host.updater.no_faults();
    converge(&*host.provider().await, 0, after.clone()).await;
    assert_eq!(host.files(), ["20002-tcp.conf"]);
    is_as_wanted(&*host.provider().await, after).await;
}

/// Else every claim would be reported as not served while nothing has changed for it.
async fn while_the_updater_is_away_what_was_posted_stays_known(host: &Host) {
    let provider = host.repeating();
    let all = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [1]))];
    converge(&provider, 0, all.clone()).await;
    host.updater.faults(|_| Some(UpdaterFault::Unreached));
    let desired = wanted(&provider, all.clone());
    let observed = observe(&provider, 0).await;
    let changes = observed.changes_to(&desired, &Default::default());
    let error = provider.apply(&lb(0), ChangeSet::new(&desired, &changes)).await;
    assert!(matches!(error, Err(Error::Transient(_))), "{error:?}");
    assert_eq!(observe(&provider, 0).await.load_balancer.listeners, desired.listeners);
}

async fn a_backend_that_cannot_be_deleted_stays_recorded(host: &Host) {
    let provider = host.provider().await;
    let all = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [1]))];
    converge(&*provider, 0, all).await;
    let occupied = host.occupy("20000-tcp");
    let error = provider.delete(&lb(0)).await;
    let why = match &error {
        Err(Error::Refused(why)) => format!("{why:#}"),
        _ => panic!("{error:?}"),
    };
    assert!(why.contains("20000-tcp") && why.contains("failed to delete stream"), "{why}");
    let left = observe(&*host.provider().await, 0).await.load_balancer.listeners;
    assert_eq!(left.keys().collect::<Vec<_>>(), [&tcp(20000)], "the other one is deleted");
    std::fs::remove_dir_all(occupied).expect("it can be removed");
    provider.delete(&lb(0)).await.expect("it can be deleted now");
    assert_eq!(host.provider().await.observe(&lb(0)).await, Ok(None));
}

async fn an_url_of_something_else_is_refused(host: &Host) {
    let mut settings = host.settings();
    settings.url = settings.url.replace("/api/v1/lb", "/api/v2/lb");
    let provider = host.provider_with(settings);
    let error = try_alter(&provider, &[], &[(tcp(20000), listener("a", [1]))]).await;
    let why = match &error {
        Err(Error::Refused(why)) => format!("{why:#}"),
        _ => panic!("{error:?}"),
    };
    assert!(why.contains("/api/v1/lb"), "{why}");
}

async fn what_is_left_of_a_listener_whose_successor_is_refused_stays(host: &Host) {
    let both = ListenerKey { protocol: sharedlb_providers::Protocol::TcpUdp, ..tcp(20000) };
    let provider = host.provider().await;
    let before = [(both, listener("dns", [1]))];
    converge(&*provider, 0, before.clone()).await;
    host.occupy("20000-tcp");
    let applied = alter(&*provider, &before, &[(tcp(20000), listener("dns", [2]))]).await;
    assert!(applied.failed.contains_key(&tcp(20000)), "{applied:?}");
    assert_eq!(host.files(), ["20000-udp.conf"]);
}

/// A proxy passes a POST on after the claim was deleted.
async fn a_call_that_is_carried_out_late_is_undone_at_the_next_resync(host: &Host) {
    let provider = host.provider().await;
    let all = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [1]))];
    host.updater.faults(|call| call.backend.ends_with("20000-tcp").then_some(UpdaterFault::Kept));
    let error = try_alter(&*provider, &[], &all[..1]).await;
    assert!(matches!(error, Err(Error::Transient(_))), "{error:?}");
    host.updater.no_faults();
    converge(&*provider, 0, all[1..].to_vec()).await;
    is_as_wanted(&*provider, all[1..].to_vec()).await;
    host.updater.pass_on();
    assert_eq!(host.files(), ["20000-tcp.conf", "20001-tcp.conf"]);
    assert_eq!(host.journal_keys().await, ["20000-tcp", "20001-tcp"]);

    converge(&host.repeating(), 0, all[1..].to_vec()).await;
    assert_eq!(host.files(), ["20001-tcp.conf"]);
    assert_eq!(host.journal_keys().await, ["20001-tcp"]);
}

/// They may be another tenant's by now.
async fn former_servers_of_a_port_whose_change_is_refused_are_deleted(host: &Host) {
    let provider = host.provider().await;
    let [before, after] = [1, 2].map(|pod| [(tcp(20000), listener("a", [pod]))]);
    converge(&*provider, 0, before.clone()).await;
    host.refuse(tcp(20000)).await;
    let applied = alter(&*provider, &before, &after).await;
    assert!(matches!(applied.failed.get(&tcp(20000)), Some(Error::Refused(_))), "{applied:?}");
    assert!(host.files().is_empty(), "{:?}", host.files());
    host.accept_all().await;
    converge(&*provider, 0, after.clone()).await;
    is_as_wanted(&*host.provider().await, after).await;
}

async fn a_port_whose_change_is_refused_keeps_servers_that_are_still_wanted(host: &Host) {
    let provider = host.provider().await;
    let [before, after] = [&[1][..], &[1, 2]].map(|pods| [(tcp(20000), listener("a", pods.iter().copied()))]);
    converge(&*provider, 0, before.clone()).await;
    let file = host.file("20000-tcp");
    host.refuse(tcp(20000)).await;
    let applied = alter(&*provider, &before, &after).await;
    assert!(matches!(applied.failed.get(&tcp(20000)), Some(Error::Refused(_))), "{applied:?}");
    assert_eq!(host.file("20000-tcp"), file);
    host.accept_all().await;
    converge(&*provider, 0, after.clone()).await;
    is_as_wanted(&*host.provider().await, after).await;
}
