//! What other clients change: files, the journal, and the class.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::http_updater::{Settings, Timeouts};
use sharedlb_providers::{Change, Error};

use crate::host::Host;
use crate::steps::{converge, is_as_wanted, lb, listener, observe, tcp, wanted};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    files_that_were_deleted_or_altered_by_hand_are_written_again,
    what_is_posted_again_takes_no_write_of_the_journal,
    timeouts_of_the_class_reach_all_ports,
    a_journal_that_was_deleted_is_written_again_by_a_process_that_runs,
    after_a_journal_was_lost_with_its_process_ports_are_opened_again,
    records_that_were_added_by_hand_are_deleted_at_the_updater,
    a_record_that_was_made_unreadable_is_repaired,
    a_port_that_nginx_does_not_open_is_reported,
    a_journal_without_room_is_refused_before_any_call,
];

async fn files_that_were_deleted_or_altered_by_hand_are_written_again(host: &Host) {
    let provider = host.repeating();
    let all = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [1]))];
    converge(&provider, 0, all.clone()).await;
    let (first, second) = (host.file("20000-tcp"), host.file("20001-tcp"));
    let path = |port: &str| host.updater.folder().join(format!("{}-{port}.conf", lb(0)));
    std::fs::remove_file(path("20000-tcp")).expect("it is there");
    std::fs::write(path("20001-tcp"), "# nothing\n").expect("it can be written");
    converge(&provider, 0, all).await;
    assert_eq!((host.file("20000-tcp"), host.file("20001-tcp")), (first, second));
}

async fn what_is_posted_again_takes_no_write_of_the_journal(host: &Host) {
    let provider = host.repeating();
    let all = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", []))];
    converge(&provider, 0, all.clone()).await;
    let version = async || host.journals().get(lb(0).as_str()).await.expect("it is there").metadata.resource_version;
    let (before, _) = (version().await, host.calls());
    converge(&provider, 0, all).await;
    assert_eq!(version().await, before);
    let mut calls = host.calls();
    // What is repeated is sent at once.
    calls.sort();
    assert_eq!(calls, ["DELETE 20001-tcp", "POST 20000-tcp"]);
}

async fn timeouts_of_the_class_reach_all_ports(host: &Host) {
    let all = [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [1]))];
    converge(&*host.provider().await, 0, all.clone()).await;
    host.calls();
    let timeouts = Timeouts { proxy_timeout_seconds: 0, proxy_connect_timeout_seconds: 7 };
    let provider = host.provider_with(Settings { timeouts, ..host.settings() });
    converge(&provider, 0, all.clone()).await;
    assert_eq!(host.calls(), ["POST 20000-tcp", "POST 20001-tcp"]);
    let file = host.file("20001-tcp");
    assert!(file.contains("proxy_timeout 5s;") && file.contains("proxy_connect_timeout 7s;"), "{file}");
    converge(&provider, 0, all).await;
    assert!(host.calls().is_empty());
}

async fn a_journal_that_was_deleted_is_written_again_by_a_process_that_runs(host: &Host) {
    let provider = host.provider().await;
    let all = [(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, all.clone()).await;
    host.journals().delete(lb(0).as_str(), &DeleteParams::default()).await.expect("an admin may");
    host.calls();
    converge(&*provider, 0, all.clone()).await;
    is_as_wanted(&*host.provider().await, all).await;
    assert!(host.calls().is_empty(), "the updater has it");
}

async fn after_a_journal_was_lost_with_its_process_ports_are_opened_again(host: &Host) {
    let all = [(tcp(20000), listener("a", [1]))];
    converge(&*host.provider().await, 0, all.clone()).await;
    host.journals().delete(lb(0).as_str(), &DeleteParams::default()).await.expect("an admin may");
    let provider = host.provider().await;
    assert_eq!(provider.observe(&lb(0)).await, Ok(None));
    // Its own backend cannot be told from a foreign listener, and is deleted first.
    let applied = converge(&*provider, 0, all.clone()).await;
    assert!(matches!(applied.failed.get(&tcp(20000)), Some(Error::PortInUse(_))), "{applied:?}");
    let applied = converge(&*provider, 0, all.clone()).await;
    assert!(applied.failed.is_empty(), "{applied:?}");
    is_as_wanted(&*host.provider().await, all).await;
    assert_eq!(host.files(), ["20000-tcp.conf"]);
}

/// An admin changes the data of the journal.
async fn edit(host: &Host, data: serde_json::Value) {
    let patch: Patch<serde_json::Value> = Patch::Merge(json!({ "data": data }));
    let edited: Result<ConfigMap, _> = host.journals().patch(lb(0).as_str(), &PatchParams::default(), &patch).await;
    edited.expect("an admin may");
}

async fn records_that_were_added_by_hand_are_deleted_at_the_updater(host: &Host) {
    let provider = host.provider().await;
    let all = [(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, all.clone()).await;
    host.calls();
    edit(host, json!({"20001-tcp": "{}", "note": "of an admin"})).await;
    converge(&*provider, 0, all.clone()).await;
    assert_eq!(host.calls(), ["DELETE 20001-tcp"]);
    let journal = host.journals().get(lb(0).as_str()).await.expect("it is there").data.unwrap_or_default();
    assert_eq!(journal.keys().collect::<Vec<_>>(), ["20000-tcp", "note"]);
}

async fn a_record_that_was_made_unreadable_is_repaired(host: &Host) {
    let all = [(tcp(20000), listener("a", [1]))];
    converge(&*host.provider().await, 0, all.clone()).await;
    host.calls();
    edit(host, json!({"20000-tcp": "nonsense"})).await;
    let provider = host.provider().await;
    let found = observe(&*provider, 0).await.load_balancer;
    assert!(found.listeners[&tcp(20000)].owner.is_unknown());
    converge(&*provider, 0, all.clone()).await;
    assert_eq!(host.calls(), ["POST 20000-tcp"]);
    is_as_wanted(&*host.provider().await, all).await;
}

/// An admin's own data takes up the room.
async fn a_journal_without_room_is_refused_before_any_call(host: &Host) {
    let provider = host.provider().await;
    converge(&*provider, 0, []).await;
    edit(host, json!({ "note": "x".repeat(999_950) })).await;
    let all = [(tcp(20000), listener("a", [1]))];
    for _ in 0..2 {
        let applied = converge(&*provider, 0, all.clone()).await;
        assert!(matches!(applied.failed.get(&tcp(20000)), Some(Error::NoRoom(_))), "{applied:?}");
        assert!(host.calls().is_empty());
    }
    edit(host, json!({ "note": null })).await;
    converge(&*provider, 0, all.clone()).await;
    is_as_wanted(&*host.provider().await, all).await;
}

async fn a_port_that_nginx_does_not_open_is_reported(host: &Host) {
    host.updater.release_ports();
    let provider = host.provider().await;
    let all = [(tcp(20000), listener("a", [1]))];
    let applied = converge(&*provider, 0, all.clone()).await;
    assert!(matches!(applied.failed.get(&tcp(20000)), Some(Error::NotReady(_))), "{applied:?}");
    let observed = observe(&*provider, 0).await;
    let changes = observed.changes_to(&wanted(&*provider, all), &Default::default());
    assert_eq!(changes, Vec::<Change>::new(), "the updater has it");
    let why = format!("{:?}", observed.unserved.get(&tcp(20000)));
    assert!(why.contains("Pending") && why.contains("nginx -t"), "{why}");
    host.updater.bind_ports(host.address).expect("the port is free");
    assert!(observe(&*provider, 0).await.unserved.is_empty());
}
