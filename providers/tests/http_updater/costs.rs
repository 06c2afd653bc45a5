//! The number of calls, to the updater and to the API server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::{Listener, ListenerKey};

use crate::api_server::dying_when;
use crate::host::Host;
use crate::steps::{alter, converge, listener, observe, tcp};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    an_endpoint_change_takes_one_post_for_each_port_concerned,
    two_hundred_ports_take_a_call_each_and_few_writes_of_the_journal,
    a_restart_reads_the_journal_once_and_calls_nothing,
    a_listener_without_backends_is_deleted_once,
];

fn ports(numbers: impl IntoIterator<Item = u16>) -> Vec<(ListenerKey, Listener)> {
    numbers.into_iter().map(|number| (tcp(number), listener("a", [1]))).collect()
}

async fn an_endpoint_change_takes_one_post_for_each_port_concerned(host: &Host) {
    let provider = host.provider().await;
    let before = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [1]))];
    converge(&*provider, 0, before.clone()).await;
    assert_eq!(host.calls(), ["POST 20000-tcp", "POST 20001-tcp"]);
    let after = [(tcp(20000), listener("a", [1, 2])), before[1].clone()];
    let applied = alter(&*provider, &before, &after).await;
    assert!(applied.failed.is_empty(), "{applied:?}");
    assert_eq!(host.calls(), ["POST 20000-tcp"]);
    assert!(host.file("20000-tcp").contains("server 10.244.0.2:6379;"), "{}", host.file("20000-tcp"));
}

async fn a_listener_without_backends_is_deleted_once(host: &Host) {
    let provider = host.provider().await;
    for calls in [&["DELETE 20000-tcp"][..], &[]] {
        converge(&*provider, 0, [(tcp(20000), listener("a", []))]).await;
        assert_eq!(host.calls(), calls);
    }
}

/// Calls to the API server from now on.
fn counted(host: &Host) -> (sharedlb_providers::http_updater::HttpUpdater, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let client = dying_when(host.server.client.clone(), move || {
        count.fetch_add(1, Ordering::SeqCst);
        false
    });
    (host.provider_by(client), calls)
}

async fn two_hundred_ports_take_a_call_each_and_few_writes_of_the_journal(host: &Host) {
    let (provider, calls) = counted(host);
    converge(&provider, 0, []).await;
    let before = calls.swap(0, Ordering::SeqCst);
    assert_eq!(before, 3, "it is looked for by the observation and by the change, and created");
    let applied = alter(&provider, &[], &ports(20000..20200)).await;
    assert!(applied.failed.is_empty(), "{applied:?}");
    converge(&provider, 0, ports(20000..20200)).await;
    assert_eq!(host.calls().len(), 200);
    let writes = calls.load(Ordering::SeqCst);
    // Two for each batch of 100 ports; on a slow machine, an apply ends before its batch does.
    assert!(writes <= 40, "{writes} calls to the API server");
}

async fn a_restart_reads_the_journal_once_and_calls_nothing(host: &Host) {
    let wanted = ports([20000, 20001]);
    converge(&*host.provider().await, 0, wanted.clone()).await;
    host.calls();
    let (provider, calls) = counted(host);
    let observed = observe(&provider, 0).await;
    assert_eq!(observed.load_balancer, crate::steps::wanted(&provider, wanted));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert!(host.calls().is_empty());
}
