//! NGINX refuses to reload: the updater's answers say nothing of it.

use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::http_updater::{Settings, Verification};
use sharedlb_providers::{Applied, Error, ListenerKey, Protocol};

use crate::host::Host;
use crate::steps::{alter, converge, is_as_wanted, lb, listener, observe, tcp};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    a_deleted_port_is_a_listener_until_nginx_has_closed_it,
    a_port_that_nginx_has_not_closed_is_not_opened_for_another_claim,
    a_port_without_backends_is_not_served_until_nginx_has_closed_it,
    a_port_of_udp_is_held_with_a_tcp_port_that_nginx_has_not_closed,
    a_load_balancer_is_not_deleted_before_nginx_has_closed_its_ports,
    without_verification_a_deleted_port_counts_as_closed,
];

const STALE: &str = "NGINX has not reloaded";

fn not_ready(applied: &Applied, key: ListenerKey) -> String {
    match applied.failed.get(&key) {
        Some(Error::NotReady(why)) => why.to_string(),
        other => panic!("{key}: {other:?}"),
    }
}

async fn a_deleted_port_is_a_listener_until_nginx_has_closed_it(host: &Host) {
    let provider = host.provider().await;
    let all = [(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, all.clone()).await;
    host.updater.refuse_reloads();
    let applied = alter(&*provider, &all, &[]).await;
    assert!(not_ready(&applied, tcp(20000)).contains(STALE));
    assert!(host.files().is_empty());
    // The next process knows it too.
    for provider in [provider, host.provider().await] {
        let applied = converge(&*provider, 0, []).await;
        assert!(not_ready(&applied, tcp(20000)).contains(STALE));
        let found = observe(&*provider, 0).await.load_balancer.listeners;
        assert_eq!(found[&tcp(20000)].owner, all[0].1.owner);
    }
    assert_eq!(host.calls(), ["POST 20000-tcp", "DELETE 20000-tcp"]);
    host.updater.allow_reloads().expect("no port is in use");
    let provider = host.provider().await;
    converge(&*provider, 0, []).await;
    is_as_wanted(&*provider, []).await;
    assert!(host.journal_keys().await.is_empty());
}

/// Its POST would be taken for carried out, since the port is open: for the pods of the other claim.
async fn a_port_that_nginx_has_not_closed_is_not_opened_for_another_claim(host: &Host) {
    let provider = host.provider().await;
    let [before, after] = [("a", 1), ("b", 2)].map(|(claim, pod)| [(tcp(20000), listener(claim, [pod]))]);
    converge(&*provider, 0, before.clone()).await;
    host.updater.refuse_reloads();
    alter(&*provider, &before, &[]).await;
    host.calls();
    let applied = alter(&*provider, &[], &after).await;
    assert!(not_ready(&applied, tcp(20000)).contains(STALE));
    assert!(!host.calls().contains(&"POST 20000-tcp".to_owned()));
    host.updater.allow_reloads().expect("no port is in use");
    let applied = converge(&*provider, 0, after.clone()).await;
    assert!(applied.failed.is_empty(), "{applied:?}");
    is_as_wanted(&*provider, after).await;
}

async fn a_port_without_backends_is_not_served_until_nginx_has_closed_it(host: &Host) {
    let provider = host.provider().await;
    let [some, none] = [&[1][..], &[]].map(|pods| [(tcp(20000), listener("a", pods.iter().copied()))]);
    converge(&*provider, 0, some.clone()).await;
    host.updater.refuse_reloads();
    let applied = alter(&*provider, &some, &none).await;
    assert!(not_ready(&applied, tcp(20000)).contains(STALE));
    let why = format!("{:?}", observe(&*provider, 0).await.unserved.get(&tcp(20000)));
    assert!(why.contains("Pending") && why.contains(STALE), "{why}");
    let applied = converge(&*provider, 0, some.clone()).await;
    assert!(not_ready(&applied, tcp(20000)).contains(STALE), "its former pods may be gone");
    host.updater.allow_reloads().expect("no port is in use");
    converge(&*provider, 0, some.clone()).await;
    is_as_wanted(&*provider, some).await;
}

async fn a_port_of_udp_is_held_with_a_tcp_port_that_nginx_has_not_closed(host: &Host) {
    let provider = host.provider().await;
    let udp = ListenerKey { protocol: Protocol::Udp, ..tcp(20001) };
    let all = [(tcp(20000), listener("a", [1])), (udp, listener("b", [1]))];
    converge(&*provider, 0, all.clone()).await;
    host.updater.refuse_reloads();
    let applied = alter(&*provider, &all, &[]).await;
    for key in [tcp(20000), udp] {
        assert!(not_ready(&applied, key).contains(STALE));
    }
    host.updater.allow_reloads().expect("no port is in use");
    let applied = converge(&*provider, 0, []).await;
    assert!(applied.failed.is_empty(), "{applied:?}");
    is_as_wanted(&*provider, []).await;
}

async fn a_load_balancer_is_not_deleted_before_nginx_has_closed_its_ports(host: &Host) {
    let provider = host.provider().await;
    converge(&*provider, 0, [(tcp(20000), listener("a", [1]))]).await;
    host.updater.refuse_reloads();
    let error = provider.delete(&lb(0)).await;
    assert!(matches!(&error, Err(Error::NotReady(why)) if why.to_string().contains(STALE)), "{error:?}");
    host.updater.allow_reloads().expect("no port is in use");
    provider.delete(&lb(0)).await.expect("it is deleted");
    assert_eq!(provider.observe(&lb(0)).await, Ok(None));
}

/// As the documentation of `verification` says.
async fn without_verification_a_deleted_port_counts_as_closed(host: &Host) {
    let provider = host.provider_with(Settings { verification: Verification::None, ..host.settings() });
    let all = [(tcp(20000), listener("a", [1]))];
    converge(&provider, 0, all.clone()).await;
    host.updater.refuse_reloads();
    let applied = alter(&provider, &all, &[]).await;
    assert!(applied.failed.is_empty(), "{applied:?}");
    is_as_wanted(&provider, []).await;
}
