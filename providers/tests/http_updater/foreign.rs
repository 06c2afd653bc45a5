//! What is not SharedLB's.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use serde_json::json;
use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::http_updater::Settings;
use sharedlb_providers::{Error, FrontPort, Provider, Transport};

use crate::host::Host;
use crate::steps::{converge, lb, listener, observe, tcp};
use crate::{Test, tests};

pub(crate) const TESTS: &[(&str, Test)] = tests![
    a_port_on_which_something_listens_is_never_posted,
    a_port_without_backends_is_checked_before_it_gets_some,
    a_foreign_port_is_observed_until_it_is_free,
    reserved_ports_are_given_to_no_claim_and_never_posted,
    a_foreign_config_map_of_the_same_name_is_refused_and_stays,
    the_backends_of_another_class_stay,
];

/// One bad file has NGINX refuse all later changes.
async fn a_port_on_which_something_listens_is_never_posted(host: &Host) {
    host.listen(20000);
    let provider = host.provider().await;
    for _ in 0..2 {
        let applied =
            converge(&*provider, 0, [(tcp(20000), listener("a", [1])), (tcp(20001), listener("b", [1]))]).await;
        let why = match applied.failed.get(&tcp(20000)) {
            Some(Error::PortInUse(why)) => why.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(why.contains("20000/TCP") && why.contains("reservedPorts"), "{why}");
    }
    let calls = host.calls();
    assert!(!calls.contains(&"POST 20000-tcp".to_owned()), "{calls:?}");
    assert_eq!(observe(&*host.provider().await, 0).await.load_balancer.listeners.len(), 1);
}

/// A port that was opened without backends was never posted.
async fn a_port_without_backends_is_checked_before_it_gets_some(host: &Host) {
    let reserved_ports = [20001.try_into().expect("not zero")].into();
    let settings = Settings { reserved_ports, ..host.settings() };
    let provider = host.provider_with(settings);
    let ports = |hosts: &[u8]| [20000, 20001].map(|number| (tcp(number), listener("a", hosts.iter().copied())));
    converge(&provider, 0, ports(&[])).await;
    host.listen(20000);
    let applied = converge(&provider, 0, ports(&[1])).await;
    for port in [20000, 20001] {
        assert!(matches!(applied.failed.get(&tcp(port)), Some(Error::PortInUse(_))), "{applied:?}");
    }
    assert!(host.calls().iter().all(|call| call.starts_with("DELETE")));
}

/// By that, a claim that was given the port moves to another one.
async fn a_foreign_port_is_observed_until_it_is_free(host: &Host) {
    host.listen(20000);
    let provider = host.provider().await;
    let all = [(tcp(20000), listener("a", [1]))];
    converge(&*provider, 0, all.clone()).await;
    let foreign = FrontPort { port: tcp(20000).port, transport: Transport::Tcp };
    assert_eq!(observe(&*provider, 0).await.foreign, [foreign].into());
    host.stop_listening();
    let applied = converge(&*provider, 0, all).await;
    assert!(applied.failed.is_empty(), "{applied:?}");
    assert!(observe(&*provider, 0).await.foreign.is_empty());
}

async fn reserved_ports_are_given_to_no_claim_and_never_posted(host: &Host) {
    let reserved_ports = [20000.try_into().expect("not zero")].into();
    let provider = host.provider_with(Settings { reserved_ports, ..host.settings() });
    let applied = converge(&provider, 0, [(tcp(20000), listener("a", [1]))]).await;
    assert!(matches!(applied.failed.get(&tcp(20000)), Some(Error::PortInUse(_))), "{applied:?}");
    assert!(host.calls().is_empty());
    let both = [Transport::Tcp, Transport::Udp].map(|transport| FrontPort { port: tcp(20000).port, transport });
    assert_eq!(provider.capabilities().reserved, both);
}

async fn a_foreign_config_map_of_the_same_name_is_refused_and_stays(host: &Host) {
    let theirs: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": lb(0)}, "data": {"20000-tcp": "theirs"}}))
            .expect("it is one");
    host.journals().create(&PostParams::default(), &theirs).await.expect("it is made");
    let provider = host.provider().await;
    for error in [provider.observe(&lb(0)).await.map(drop), provider.delete(&lb(0)).await] {
        let why = match &error {
            Err(Error::Refused(why)) => why.to_string(),
            _ => panic!("{error:?}"),
        };
        assert!(why.contains(lb(0).as_str()), "{why}");
    }
    let found = host.journals().get(lb(0).as_str()).await.expect("it is there");
    assert_eq!(found.data, theirs.data);
}

async fn the_backends_of_another_class_stay(host: &Host) {
    converge(&*host.provider().await, 0, [(tcp(20000), listener("a", [1]))]).await;
    converge(&*host.provider().await, 1, [(tcp(20001), listener("a", [1]))]).await;
    host.provider().await.delete(&lb(1)).await.expect("it is deleted");
    assert_eq!(host.files(), ["20000-tcp.conf"]);
}
