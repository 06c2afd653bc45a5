//! The providers `service` and `vip` against a real API server: the suite that every
//! provider passes, and what only these do.

mod peer;
mod refused;
mod vip;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use libtest_mimic::{Arguments, Trial};
use serde_json::json;
use sharedlb_providers::conformance::Peer as _;
use sharedlb_providers::service::{ServiceProvider, Settings};
use sharedlb_providers::{
    Address, Applied, Backend, BackendSet, ChangeSet, Error, IpFamily, LbName, Listener, ListenerKey, LoadBalancer,
    Observed, Owner, Protocol, Provider, conformance, diff,
};
use sharedlb_testbed::{Cluster, Parts, enter};

use peer::ApiServer;
use refused::{
    a_listener_whose_successor_is_refused_stays, a_load_balancer_beyond_a_quota_is_reported_and_not_created,
    an_exhausted_quota_is_reported_and_delays_no_closing, listeners_whose_slices_are_refused_fail_alone,
    refused_listeners_among_many_are_found_in_few_writes, refused_settings_delay_no_port,
};
use vip::{
    VipPeer, a_foreign_service_in_the_place_of_a_group_delays_no_other,
    a_group_whose_service_cannot_be_deleted_delays_no_other, a_group_whose_service_refuses_changes_delays_no_other,
    a_group_whose_status_cannot_be_written_gets_no_traffic, a_service_has_its_address_for_kube_proxy,
    a_status_that_is_altered_is_reported_and_written_again,
    a_status_that_is_fought_over_is_reported_and_left_for_a_while,
    an_open_port_stays_while_the_service_of_its_group_is_refused, both_families_are_served_and_ranges_of_one_only_that,
    nothing_of_a_deleted_load_balancer_with_groups_stays, only_what_is_in_the_status_is_an_address,
    options_are_fields_of_a_service_of_their_own, options_that_are_altered_by_hand_are_reported_and_corrected,
    the_ports_of_groups_close_while_the_main_service_refuses_changes,
    the_services_of_a_former_class_go_before_one_is_created,
};

/// Much more than anything takes.
const LIMIT: Duration = Duration::from_secs(30);

type Test = for<'a> fn(&'a ApiServer, &'a Cluster) -> BoxFuture<'a, ()>;

macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        &[$((stringify!($name), |server, cluster| Box::pin($name(server, cluster)))),+]
    };
}

const TESTS: &[(&str, Test)] = tests![
    a_new_address_is_reported_and_observed,
    our_own_writes_are_not_reported,
    a_service_of_that_name_that_is_not_ours_is_left_alone,
    an_annotation_removed_from_the_class_goes_and_the_clouds_stays,
    immutable_fields_are_no_drift,
    a_change_of_the_service_by_another_client_is_reported_and_reverted,
    a_service_deleted_by_hand_is_reported_and_recreated,
    a_slice_changed_or_deleted_by_hand_is_reported_and_restored,
    a_port_that_another_client_applies_too_closes_and_its_own_ports_stay,
    a_service_of_ours_has_no_managed_fields,
    an_open_port_keeps_its_node_port_when_others_open_and_close,
    parked_ports_are_there_with_and_without_listeners,
    a_parked_port_that_another_client_has_stays_theirs,
    a_load_balancer_that_the_cloud_has_not_released_is_still_going,
    nothing_of_a_deleted_load_balancer_stays,
    a_namespace_that_does_not_exist_is_named,
    a_permission_that_is_missing_is_named_at_once,
    a_load_balancer_takes_1000_listeners,
    the_families_of_a_load_balancer_are_those_that_its_service_was_given,
    an_exhausted_quota_is_reported_and_delays_no_closing,
    a_load_balancer_beyond_a_quota_is_reported_and_not_created,
    refused_listeners_among_many_are_found_in_few_writes,
    listeners_whose_slices_are_refused_fail_alone,
    refused_settings_delay_no_port,
    a_listener_whose_successor_is_refused_stays,
];

const VIP_TESTS: &[(&str, Test)] = tests![
    a_service_has_its_address_for_kube_proxy,
    a_status_that_is_altered_is_reported_and_written_again,
    only_what_is_in_the_status_is_an_address,
    a_status_that_is_fought_over_is_reported_and_left_for_a_while,
    a_group_whose_status_cannot_be_written_gets_no_traffic,
    options_are_fields_of_a_service_of_their_own,
    a_group_whose_service_refuses_changes_delays_no_other,
    an_open_port_stays_while_the_service_of_its_group_is_refused,
    the_ports_of_groups_close_while_the_main_service_refuses_changes,
    a_group_whose_service_cannot_be_deleted_delays_no_other,
    options_that_are_altered_by_hand_are_reported_and_corrected,
    a_foreign_service_in_the_place_of_a_group_delays_no_other,
    both_families_are_served_and_ranges_of_one_only_that,
    nothing_of_a_deleted_load_balancer_with_groups_stays,
    the_services_of_a_former_class_go_before_one_is_created,
];

fn main() -> anyhow::Result<()> {
    let testbed = enter(Parts::API_ONLY)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let cluster = Arc::new(runtime.block_on(Cluster::start(testbed))?);
    let trial = |kind: &str,
                 name: &'static str,
                 run: Box<dyn FnOnce(ApiServer, Arc<Cluster>) -> BoxFuture<'static, ()> + Send>| {
        let (cluster, runtime, kind) = (cluster.clone(), runtime.handle().clone(), kind.to_owned());
        Trial::test(format!("{kind}::{name}"), move || {
            runtime.block_on(async {
                let server = ApiServer::for_test(cluster.admin(), &kind, name).await;
                run(server, cluster).await;
            });
            Ok(())
        })
    };
    let suite = conformance::SUITE.iter().map(|&(name, test)| {
        trial("conformance", name, Box::new(move |server, _| Box::pin(async move { test(&server).await })))
    });
    let own = TESTS.iter().map(|&(name, test)| {
        trial("service", name, Box::new(move |server, cluster| Box::pin(async move { test(&server, &cluster).await })))
    });
    let suite_of_vip = conformance::SUITE.iter().map(|&(name, test)| {
        trial("vip-conformance", name, Box::new(move |server, _| Box::pin(async move { test(&VipPeer(server)).await })))
    });
    let of_vip = VIP_TESTS.iter().map(|&(name, test)| {
        trial("vip", name, Box::new(move |server, cluster| Box::pin(async move { test(&server, &cluster).await })))
    });
    let all = suite.chain(own).chain(suite_of_vip).chain(of_vip);
    let conclusion = libtest_mimic::run(&Arguments::from_args(), all.collect());
    drop(cluster);
    conclusion.exit()
}

async fn a_new_address_is_reported_and_observed(server: &ApiServer, _: &Cluster) {
    let provider = server.provider().await;
    let applied = converge(&*provider, 0, [(tcp(20000), listener("a", 1))]).await;
    assert_eq!(applied.addresses, []);
    let mut changes = provider.changes();
    server.address_arrives(&lb(0), "192.0.2.7").await;
    assert_eq!(reported(&mut changes).await, lb(0));
    assert_eq!(observe(&*provider, 0).await.addresses, [Address::Ip(IpAddr::from([192, 0, 2, 7]))]);
    let applied = converge(&*provider, 0, [(tcp(20001), listener("b", 1))]).await;
    assert_eq!(applied.addresses, [Address::Ip(IpAddr::from([192, 0, 2, 7]))]);
}

async fn the_families_of_a_load_balancer_are_those_that_its_service_was_given(server: &ApiServer, cluster: &Cluster) {
    let of = |index, policy: Option<&str>, families: &[IpFamily]| {
        let provider = ServiceProvider::new(Settings {
            ip_family_policy: policy.map(Into::into),
            ip_families: families.to_vec(),
            ..server.settings()
        });
        async move {
            converge(&provider, index, []).await;
            observe(&provider, index).await.families.into_iter().collect::<Vec<_>>()
        }
    };
    assert_eq!(of(0, None, &[]).await, [IpFamily::V4], "the first of the cluster");
    if cluster.ipv6() {
        assert_eq!(of(1, None, &[IpFamily::V6]).await, [IpFamily::V6]);
        assert_eq!(of(2, Some("PreferDualStack"), &[IpFamily::V6]).await, [IpFamily::V4, IpFamily::V6]);
    }
}

async fn our_own_writes_are_not_reported(server: &ApiServer, _: &Cluster) {
    let provider = server.provider().await;
    converge(&*provider, 1, [(tcp(20000), listener("last", 1))]).await;
    let mut changes = provider.changes();
    for backends in [1, 3, 0, 2] {
        let listeners = [(tcp(20000), listener("a", backends)), (tcp(20001 + u16::from(backends)), listener("b", 1))];
        converge(&*provider, 0, listeners).await;
    }
    provider.delete(&lb(0)).await.expect("it is deleted");
    converge(&*provider, 0, [(tcp(20000), listener("anew", 1))]).await;

    // Each of the two watches tells in order: what comes first is the first.
    server.address_arrives(&lb(1), "192.0.2.7").await;
    assert_eq!(reported(&mut changes).await, lb(1));
    delete_slices(server, &lb(1)).await;
    assert_eq!(reported(&mut changes).await, lb(1));
}

async fn a_service_of_that_name_that_is_not_ours_is_left_alone(server: &ApiServer, _: &Cluster) {
    server.apply_foreign(&lb(0), json!({"spec": {"ports": [{"port": 80, "name": "tcp-80"}]}})).await;
    let before = server.service(&lb(0)).await;
    let provider = server.provider().await;
    let desired = wanted(&*provider, [(tcp(20000), listener("a", 1))]);
    let applied = provider.apply(&lb(0), ChangeSet::new(&desired, &diff(&LoadBalancer::default(), &desired))).await;
    for error in [provider.observe(&lb(0)).await.map(drop), applied.map(drop)] {
        assert!(matches!(&error, Err(Error::Refused(why)) if format!("{why:#}").contains("is not ours")), "{error:?}");
    }
    provider.delete(&lb(0)).await.expect("there is nothing of ours");
    assert_eq!(server.service(&lb(0)).await, before);
}

async fn an_annotation_removed_from_the_class_goes_and_the_clouds_stays(server: &ApiServer, _: &Cluster) {
    converge(&*server.provider().await, 0, []).await;
    server.apply_foreign(&lb(0), json!({"metadata": {"annotations": {"cloud.example.com/id": "lb-1"}}})).await;
    let without = ServiceProvider::new(Settings { annotations: BTreeMap::new(), ..server.settings() });
    converge(&without, 0, []).await;
    let annotations = server.service(&lb(0)).await.metadata.annotations.unwrap_or_default();
    assert_eq!(annotations.get("example.com/scheme"), None);
    assert_eq!(annotations.get("cloud.example.com/id").map(String::as_str), Some("lb-1"));
    assert_eq!(observe(&without, 0).await.load_balancer, wanted(&without, []), "and the cloud's is no drift");
}

async fn immutable_fields_are_no_drift(server: &ApiServer, cluster: &Cluster) {
    let with = |class: &str, policy: &str, ip_families| Settings {
        load_balancer_class: Some(class.into()),
        ip_family_policy: Some(policy.into()),
        ip_families,
        ..server.settings()
    };
    let dual = if cluster.ipv6() { "PreferDualStack" } else { "SingleStack" };
    let steps = [
        with("example.com/a", dual, vec![IpFamily::V4]),
        with("example.com/b", "SingleStack", vec![IpFamily::V6]),
        with("example.com/c", dual, Vec::new()),
        Settings { ip_family_policy: None, ..server.settings() },
    ];
    for (number, settings) in steps.into_iter().enumerate() {
        let provider = ServiceProvider::new(settings);
        let listeners = [(tcp(20000 + number as u16), listener("a", 1))];
        converge(&provider, 0, listeners.clone()).await;
        assert_eq!(observe(&provider, 0).await.load_balancer, wanted(&provider, listeners));
    }
    let spec = server.service(&lb(0)).await.spec.expect("it has a spec");
    assert_eq!(spec.load_balancer_class.as_deref(), Some("example.com/a"));
    assert_eq!(spec.ip_families.expect("it has families")[0], "IPv4");
}

async fn a_change_of_the_service_by_another_client_is_reported_and_reverted(server: &ApiServer, _: &Cluster) {
    let class = Some("example.com/a".to_owned());
    let provider = ServiceProvider::new(Settings { load_balancer_class: class.clone(), ..server.settings() });
    let desired = converge_to(&provider, 0, [(tcp(20000), listener("a", 1))]).await;
    let mut changes = provider.changes();
    for altered in [
        json!({"spec": {"type": "ClusterIP", "externalTrafficPolicy": null}}),
        json!({"spec": {"externalTrafficPolicy": "Local"}}),
        json!({"spec": {"loadBalancerIP": "192.0.2.99"}}),
        json!({"spec": {"allocateLoadBalancerNodePorts": true}}),
        json!({"metadata": {"annotations": null}}),
    ] {
        let written = server.services().patch(lb(0).as_str(), &PatchParams::default(), &Patch::Merge(&altered)).await;
        written.expect("it is altered by hand");
        assert_eq!(reported(&mut changes).await, lb(0));
        assert_ne!(observe(&provider, 0).await.load_balancer, desired, "after {altered}");
        converge(&provider, 0, desired.listeners.clone()).await;
        assert_eq!(observe(&provider, 0).await.load_balancer, desired, "after {altered}");
    }
    let spec = server.service(&lb(0)).await.spec.expect("it has a spec");
    assert_eq!(spec.load_balancer_class, class, "which a Service loses with its type");
}

async fn a_service_deleted_by_hand_is_reported_and_recreated(server: &ApiServer, _: &Cluster) {
    let provider = server.provider().await;
    let listeners = [(tcp(20000), listener("a", 2)), (tcp(20001), listener("b", 0))];
    converge(&*provider, 0, listeners.clone()).await;
    let mut changes = provider.changes();
    server.services().delete(lb(0).as_str(), &DeleteParams::default()).await.expect("it is deleted by hand");
    assert_eq!(reported(&mut changes).await, lb(0));
    assert_eq!(provider.observe(&lb(0)).await, Ok(None));

    converge(&*provider, 0, listeners.clone()).await;
    assert_eq!(observe(&*server.provider().await, 0).await.load_balancer, wanted(&*provider, listeners));
    let uid = server.service(&lb(0)).await.metadata.uid.expect("it has a uid");
    for slice in server.slices().await {
        let owners = slice.metadata.owner_references.unwrap_or_default();
        assert_eq!(owners.iter().map(|owner| &owner.uid).collect::<Vec<_>>(), [&uid]);
    }
}

async fn a_slice_changed_or_deleted_by_hand_is_reported_and_restored(server: &ApiServer, _: &Cluster) {
    let provider = server.provider().await;
    let listeners = [(tcp(20000), listener("a", 2)), (tcp(20001), listener("b", 1))];
    converge(&*provider, 0, listeners.clone()).await;
    let mut changes = provider.changes();
    let slices: Api<EndpointSlice> = Api::namespaced(server.client.clone(), &server.namespace);
    let name = server.slices().await[0].metadata.name.clone().expect("it has a name");

    let altered = json!({"endpoints": [{"addresses": ["10.244.9.9"]}]});
    let written = slices.patch(&name, &PatchParams::default(), &Patch::Merge(altered)).await;
    written.expect("it is altered by hand");
    assert_eq!(reported(&mut changes).await, lb(0));
    assert_ne!(observe(&*provider, 0).await.load_balancer, wanted(&*provider, listeners.clone()));
    converge(&*provider, 0, listeners.clone()).await;
    assert_eq!(observe(&*provider, 0).await.load_balancer, wanted(&*provider, listeners.clone()));

    slices.delete(&name, &DeleteParams::default()).await.expect("it is deleted by hand");
    assert_eq!(reported(&mut changes).await, lb(0));
    converge(&*provider, 0, listeners.clone()).await;
    assert_eq!(observe(&*server.provider().await, 0).await.load_balancer, wanted(&*provider, listeners));
}

async fn a_port_that_another_client_applies_too_closes_and_its_own_ports_stay(server: &ApiServer, _: &Cluster) {
    let provider = server.provider().await;
    converge(&*provider, 0, [(tcp(20000), listener("a", 1))]).await;
    let mut changes = provider.changes();
    let theirs = json!([{"name": "tcp-20000", "port": 20000, "protocol": "TCP"}, {"name": "x", "port": 9}]);
    server.apply_foreign(&lb(0), json!({"spec": {"ports": theirs}})).await;
    assert_eq!(reported(&mut changes).await, lb(0));
    let applied = converge(&*provider, 0, []).await;
    assert!(applied.failed.is_empty(), "{:?}", applied.failed);
    let ports = server.service(&lb(0)).await.spec.unwrap_or_default().ports.unwrap_or_default();
    let names: Vec<_> = ports.iter().filter_map(|port| port.name.as_deref()).collect();
    assert_eq!(names, ["x", "parked"]);
}

/// They are what makes writes of many ports slow.
async fn a_service_of_ours_has_no_managed_fields(server: &ApiServer, _: &Cluster) {
    let provider = server.provider().await;
    converge(&*provider, 0, [(tcp(20000), listener("a", 1))]).await;
    converge(&*provider, 0, [(tcp(20000), listener("a", 1)), (tcp(20001), listener("b", 1))]).await;
    assert_eq!(server.service(&lb(0)).await.metadata.managed_fields, None);
}

/// A cloud's controller opens it on the nodes.
async fn an_open_port_keeps_its_node_port_when_others_open_and_close(server: &ApiServer, _: &Cluster) {
    let settings = Settings { allocate_load_balancer_node_ports: true, ..server.settings() };
    let provider = Arc::new(ServiceProvider::new(settings));
    let node_port = async || {
        let ports = server.service(&lb(0)).await.spec.unwrap_or_default().ports.unwrap_or_default();
        ports.iter().find(|port| port.port == 20001).and_then(|port| port.node_port)
    };
    converge(&*provider, 0, [(tcp(20000), listener("a", 1)), (tcp(20001), listener("b", 1))]).await;
    let before = node_port().await;
    assert!(before.is_some());
    converge(&*provider, 0, [(tcp(20001), listener("b", 1)), (tcp(20002), listener("c", 1))]).await;
    assert_eq!(node_port().await, before);
}

/// The range from the lowest to the highest port of a Service is that of its parked ports.
async fn parked_ports_are_there_with_and_without_listeners(server: &ApiServer, _: &Cluster) {
    let parked = ["20000/TCP", "20000/UDP", "20009/TCP"].map(|port| port.parse().expect("a port")).into();
    let provider = ServiceProvider::new(Settings { parked, ..server.settings() });
    let names = async || {
        let ports = server.service(&lb(0)).await.spec.unwrap_or_default().ports.unwrap_or_default();
        ports.into_iter().filter_map(|port| port.name).collect::<BTreeSet<_>>()
    };
    let none = || BTreeSet::from(["parked-tcp-20000", "parked-udp-20000", "parked-tcp-20009"].map(ToOwned::to_owned));
    converge(&provider, 0, []).await;
    assert_eq!(names().await, none());

    let listeners = [(tcp(20000), listener("a", 1)), (tcp(20001), listener("b", 1))];
    converge(&provider, 0, listeners.clone()).await;
    assert_eq!(observe(&provider, 0).await.load_balancer, wanted(&provider, listeners));
    let one_is_open = ["tcp-20000", "tcp-20001", "parked-udp-20000", "parked-tcp-20009"];
    assert_eq!(names().await, BTreeSet::from(one_is_open.map(ToOwned::to_owned)));
    converge(&provider, 0, []).await;
    assert_eq!(names().await, none());

    let mut changes = provider.changes();
    let only = json!({"spec": {"ports": [{"name": "parked-tcp-20000", "port": 20000}]}});
    let params = PatchParams::default();
    server.services().patch(lb(0).as_str(), &params, &Patch::Merge(only)).await.expect("it is written");
    assert_eq!(reported(&mut changes).await, lb(0));
    assert_ne!(observe(&provider, 0).await.load_balancer, wanted(&provider, []));
    converge(&provider, 0, []).await;
    assert_eq!(names().await, none());

    let without = ServiceProvider::new(server.settings());
    converge(&without, 0, []).await;
    assert_eq!(names().await, BTreeSet::from(["parked".to_owned()]));
}

async fn a_parked_port_that_another_client_has_stays_theirs(server: &ApiServer, _: &Cluster) {
    let without = ServiceProvider::new(server.settings());
    converge(&without, 0, [(tcp(20001), listener("a", 1))]).await;
    let theirs = json!([{"name": "theirs", "port": 20000, "protocol": "TCP"}]);
    server.apply_foreign(&lb(0), json!({"spec": {"ports": theirs}})).await;
    let parked = ["20000/TCP", "20009/TCP"].map(|port| port.parse().expect("a port")).into();
    let provider = ServiceProvider::new(Settings { parked, ..server.settings() });
    converge(&provider, 0, [(tcp(20001), listener("a", 1))]).await;
    let ports = server.service(&lb(0)).await.spec.unwrap_or_default().ports.unwrap_or_default();
    let names: BTreeSet<_> = ports.iter().filter_map(|port| port.name.as_deref()).collect();
    assert_eq!(names, ["tcp-20001", "theirs", "parked-tcp-20009"].into());
    assert_eq!(observe(&provider, 0).await.load_balancer, wanted(&provider, [(tcp(20001), listener("a", 1))]));
}

async fn a_load_balancer_that_the_cloud_has_not_released_is_still_going(server: &ApiServer, _: &Cluster) {
    let provider = server.provider().await;
    let desired = converge_to(&*provider, 0, [(tcp(20000), listener("a", 1))]).await;
    let mut changes = provider.changes();
    let finalizers = |names: &[&str]| json!({"metadata": {"finalizers": names}});
    server.apply_foreign(&lb(0), finalizers(&["service.kubernetes.io/load-balancer-cleanup"])).await;
    for _ in 0..2 {
        let still = provider.delete(&lb(0)).await;
        assert!(
            matches!(&still, Err(Error::NotReady(why)) if format!("{why:#}").contains("being deleted")),
            "{still:?}"
        );
    }
    let again = provider.apply(&lb(0), ChangeSet::new(&desired, &diff(&LoadBalancer::default(), &desired))).await;
    assert!(matches!(again, Err(Error::NotReady(_))), "{again:?}");
    assert_eq!(server.slices().await, [], "nothing is served meanwhile");

    server.apply_foreign(&lb(0), finalizers(&[])).await;
    assert_eq!(reported(&mut changes).await, lb(0));
    assert_eq!(provider.observe(&lb(0)).await, Ok(None));
    provider.delete(&lb(0)).await.expect("it is gone");
}

async fn nothing_of_a_deleted_load_balancer_stays(server: &ApiServer, _: &Cluster) {
    let provider = server.provider().await;
    for index in [0, 1] {
        converge(&*provider, index, (20000..20020).map(|port| (tcp(port), listener("a", 1)))).await;
    }
    provider.delete(&lb(0)).await.expect("it is deleted");
    let name = |slice: &EndpointSlice| slice.metadata.name.clone().unwrap_or_default();
    let names: Vec<_> = server.slices().await.iter().map(name).collect();
    assert!(names.len() == 20 && names.iter().all(|name| name.starts_with(lb(1).as_str())), "{names:?}");
}

async fn a_namespace_that_does_not_exist_is_named(server: &ApiServer, _: &Cluster) {
    let provider = ServiceProvider::new(Settings { namespace: "nowhere".into(), ..server.settings() });
    assert_eq!(provider.observe(&lb(0)).await, Ok(None));
    let desired = wanted(&provider, []);
    let refused = provider.apply(&lb(0), ChangeSet::new(&desired, &diff(&LoadBalancer::default(), &desired))).await;
    assert!(matches!(&refused, Err(Error::Refused(why)) if format!("{why:#}").contains("nowhere")), "{refused:?}");
    provider.delete(&lb(0)).await.expect("there is nothing");
}

async fn a_permission_that_is_missing_is_named_at_once(server: &ApiServer, cluster: &Cluster) {
    let accounts: Api<ServiceAccount> = Api::namespaced(server.client.clone(), &server.namespace);
    let metadata = kube::api::ObjectMeta { name: Some("nobody".into()), ..Default::default() };
    let account = ServiceAccount { metadata, ..ServiceAccount::default() };
    accounts.create(&PostParams::default(), &account).await.expect("the account is made");
    let kubeconfig = cluster.kubeconfig_for_service_account(&server.namespace, "nobody").await.expect("it has a token");
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("it is a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("it is whole");
    let client = Client::try_from(config).expect("it makes a client");
    let provider = ServiceProvider::new(Settings { client, ..server.settings() });
    let refused = tokio::time::timeout(LIMIT, provider.observe(&lb(0))).await.expect("it is no wait");
    let Err(Error::Refused(why)) = refused else { panic!("{refused:?}") };
    let why = format!("{why:#}");
    assert!(why.contains("not permitted to list or watch") && why.contains(&server.namespace), "{why}");
}

async fn a_load_balancer_takes_1000_listeners(server: &ApiServer, _: &Cluster) {
    let provider = server.provider().await;
    let desired = converge_to(&*provider, 0, (20000..21000).map(|port| (tcp(port), listener("a", 1)))).await;
    assert_eq!(observe(&*server.provider().await, 0).await.load_balancer, desired);
    provider.delete(&lb(0)).await.expect("it is deleted");
}

async fn open(provider: &dyn Provider, index: u32) -> Vec<ListenerKey> {
    observe(provider, index).await.load_balancer.listeners.into_keys().collect()
}

async fn converge(
    provider: &dyn Provider,
    index: u32,
    listeners: impl IntoIterator<Item = (ListenerKey, Listener)>,
) -> Applied {
    let desired = wanted(provider, listeners);
    let observed = provider.observe(&lb(index)).await.expect("it can be observed").unwrap_or_default();
    let changes = diff(&observed.load_balancer, &desired);
    provider.apply(&lb(index), ChangeSet::new(&desired, &changes)).await.expect("the changes are carried out")
}

async fn converge_to(
    provider: &dyn Provider,
    index: u32,
    listeners: impl IntoIterator<Item = (ListenerKey, Listener)>,
) -> LoadBalancer {
    let desired = wanted(provider, listeners);
    converge(provider, index, desired.listeners.clone()).await;
    desired
}

async fn observe(provider: &dyn Provider, index: u32) -> Observed {
    provider.observe(&lb(index)).await.expect("it can be observed").expect("it is there")
}

/// The next load balancer that somebody else changed.
async fn reported(changes: &mut BoxStream<'static, LbName>) -> LbName {
    let next = tokio::time::timeout(LIMIT, changes.next()).await;
    next.expect("a change is told").expect("the provider is there")
}

async fn delete_slices(server: &ApiServer, name: &LbName) {
    let slices: Api<EndpointSlice> = Api::namespaced(server.client.clone(), &server.namespace);
    for slice in server.slices().await {
        let slice = slice.metadata.name.unwrap_or_default();
        if slice.starts_with(name.as_str()) {
            slices.delete(&slice, &DeleteParams::default()).await.expect("it is deleted by hand");
        }
    }
}

fn wanted(provider: &dyn Provider, listeners: impl IntoIterator<Item = (ListenerKey, Listener)>) -> LoadBalancer {
    LoadBalancer { attributes: provider.attributes(0), listeners: listeners.into_iter().collect() }
}

fn lb(index: u32) -> LbName {
    LbName::new("conformance", index, "cluster", "class-uid")
}

fn tcp(number: u16) -> ListenerKey {
    ListenerKey { port: NonZeroU16::new(number).expect("not zero"), protocol: Protocol::Tcp }
}

fn listener(claim: &str, backends: u8) -> Listener {
    let backend = |host| Backend {
        address: IpAddr::V4(Ipv4Addr::new(10, 244, 0, host)),
        port: NonZeroU16::MIN,
        pod: Some(format!("{claim}-{host}").into()),
        node: Some("node-1".into()),
        provider_id: None,
        transport: None,
    };
    let owner = Owner { namespace: "team-a".into(), claim: claim.into(), port: "".into() };
    Listener::new(owner, (1..=backends).map(backend).collect::<BackendSet>())
}
