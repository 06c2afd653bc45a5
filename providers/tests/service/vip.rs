//! The provider `vip`: our own Services, whose status we write.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use sharedlb_kubernetes::events::Events;
use sharedlb_providers::conformance::Peer;
use sharedlb_providers::vip::{Settings, Vip};
use sharedlb_providers::{
    Address, ChangeSet, Error, FrontPort, LbName, Listener, ListenerKey, ListenerOptions, LoadBalancer, Provider,
    SessionAffinity, Unserved, diff,
};
use sharedlb_testbed::{Cluster, eventually};

use crate::peer::{ApiServer, dying_after};
use crate::{LIMIT, converge, converge_to, lb, listener, observe, open, reported, tcp, wanted};

/// A namespace of the API server, for the suite.
pub(crate) struct VipPeer(pub(crate) ApiServer);

#[async_trait::async_trait]
impl Peer for VipPeer {
    async fn provider(&self) -> Box<dyn Provider> {
        Box::new(Vip::new(settings(&self.0)))
    }

    async fn provider_dying_after(&self, calls: usize) -> Box<dyn Provider> {
        let client = dying_after(self.0.client.clone(), calls);
        Box::new(Vip::new(Settings { client, ..settings(&self.0) }))
    }

    async fn open_foreign(&self, name: &LbName, port: FrontPort) {
        self.0.open_foreign(name, port).await;
    }

    async fn has_foreign(&self, name: &LbName, port: FrontPort) -> bool {
        self.0.has_foreign(name, port).await
    }

    async fn refuse(&self, listener: ListenerKey) {
        self.0.refuse(listener).await;
    }

    async fn accept_all(&self) {
        self.0.accept_all().await;
    }
}

/// The address of load balancer 0.
const ADDRESS: [u8; 4] = [203, 0, 113, 10];

fn settings(server: &ApiServer) -> Settings {
    let (events, write) = Events::new(server.client.clone(), |_| {});
    tokio::spawn(write);
    Settings {
        client: server.client.clone(),
        namespace: server.namespace.clone(),
        cluster_id: "cluster".into(),
        class: "conformance".into(),
        class_uid: "class-uid".into(),
        addresses: vec![vec![ADDRESS.into()], vec![[203, 0, 113, 11].into()]],
        events,
    }
}

fn provider(server: &ApiServer) -> Vip {
    Vip::new(settings(server))
}

fn with(options: &ListenerOptions, listener: Listener) -> Listener {
    Listener { options: options.clone(), ..listener }
}

fn ranges(ranges: &[&str]) -> ListenerOptions {
    ListenerOptions::new(ranges.iter().map(|range| range.parse().expect("it is a range")), None)
}

fn affinity(seconds: u64) -> ListenerOptions {
    ListenerOptions::new([], Some(SessionAffinity { timeout: Some(Duration::from_secs(seconds)) }))
}

/// All Services, by their names.
async fn services(server: &ApiServer) -> BTreeMap<String, Service> {
    let all = server.services().list(&ListParams::default()).await.expect("they are listed").items;
    all.into_iter().map(|service| (service.metadata.name.clone().unwrap_or_default(), service)).collect()
}

/// The only Service beside the one with the load balancer's own name.
async fn beside(server: &ApiServer) -> Service {
    let mut others: Vec<Service> = services(server)
        .await
        .into_iter()
        .filter(|(name, _)| name != lb(0).as_str())
        .map(|(_, service)| service)
        .collect();
    let service = others.pop().expect("there is one");
    assert_eq!(others, []);
    service
}

/// The addresses in the status, with their modes.
fn ingress(service: &Service) -> Vec<(String, String)> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.clone()).unwrap_or_default();
    ingress.into_iter().map(|one| (one.ip.unwrap_or_default(), one.ip_mode.unwrap_or_default())).collect()
}

/// Another client writes the status.
async fn write_status(server: &ApiServer, name: &str, manager: &str, ingress: Value) {
    let status = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "status": {"loadBalancer": {"ingress": ingress}},
    });
    let params = PatchParams::apply(manager).force();
    server.services().patch_status(name, &params, &Patch::Apply(status)).await.expect("the status is written");
}

pub(crate) async fn a_service_has_its_address_for_kube_proxy(server: &ApiServer, _: &Cluster) {
    let provider = provider(server);
    let applied = converge(&provider, 0, [(tcp(20000), listener("a", 1))]).await;
    assert_eq!(applied.addresses, [Address::Ip(ADDRESS.into())]);
    let service = server.service(&lb(0)).await;
    assert_eq!(ingress(&service), [("203.0.113.10".to_owned(), "VIP".to_owned())]);
    let spec = service.spec.expect("it has a spec");
    assert_eq!(spec.load_balancer_class.as_deref(), Some("vip.sharedlb.dev/conformance"));
    assert_eq!(spec.ports.expect("it has ports")[0].node_port, None);
    converge(&provider, 0, [(tcp(20001), listener("b", 1))]).await;
    let fields = server.service(&lb(0)).await.metadata.managed_fields;
    assert_eq!(fields, None, "they would make writes of many ports slow");
}

pub(crate) async fn a_status_that_is_altered_is_reported_and_written_again(server: &ApiServer, _: &Cluster) {
    let provider = provider(server);
    let listeners = [(tcp(20000), listener("a", 1)), (tcp(20001), with(&affinity(60), listener("b", 1)))];
    let desired = converge_to(&provider, 0, listeners.clone()).await;
    let name = beside(server).await.metadata.name.expect("it has a name");
    let mut changes = provider.changes();
    for altered in [
        json!([]),
        json!([{"ip": "203.0.113.10", "ipMode": "Proxy"}]),
        json!([{"ip": "203.0.113.99", "ipMode": "VIP"}]),
    ] {
        // Each time another Service, or three times would be a fight.
        for service in [lb(0).as_str(), &name] {
            write_status(server, service, "another-client", altered.clone()).await;
            assert_eq!(reported(&mut changes).await, lb(0));
            let observed = observe(&provider, 0).await;
            assert_ne!(observed.load_balancer, desired, "after {altered}");
            converge(&provider, 0, listeners.clone()).await;
            assert_eq!(observe(&provider, 0).await.load_balancer, desired, "after {altered}");
            assert_eq!(ingress(&services(server).await[service]), [("203.0.113.10".to_owned(), "VIP".to_owned())]);
        }
    }
}

pub(crate) async fn only_what_is_in_the_status_is_an_address(server: &ApiServer, _: &Cluster) {
    let provider = provider(server);
    converge(&provider, 0, [(tcp(20000), listener("a", 1))]).await;
    let mut changes = provider.changes();
    write_status(server, lb(0).as_str(), "another-client", json!([{"ip": "203.0.113.10", "ipMode": "Proxy"}])).await;
    assert_eq!(reported(&mut changes).await, lb(0));
    assert_eq!(observe(&provider, 0).await.addresses, [], "kube-proxy does not serve it");
}

pub(crate) async fn a_status_that_is_fought_over_is_reported_and_left_for_a_while(server: &ApiServer, _: &Cluster) {
    let provider = provider(server);
    let listeners = [(tcp(20000), listener("a", 1))];
    converge(&provider, 0, listeners.clone()).await;
    let mut changes = provider.changes();
    let alter = async |number: u32| {
        let theirs = json!([{"ip": format!("192.0.2.{number}"), "ipMode": "VIP"}]);
        write_status(server, lb(0).as_str(), "rogue-controller", theirs).await;
    };
    for number in 1..=3 {
        alter(number).await;
        assert_eq!(reported(&mut changes).await, lb(0));
        assert_eq!(converge(&provider, 0, listeners.clone()).await.unconfigured, None, "rewrite {number}");
    }
    alter(4).await;
    assert_eq!(reported(&mut changes).await, lb(0));
    let applied = converge(&provider, 0, [(tcp(20001), listener("b", 1))]).await;
    assert!(
        matches!(&applied.unconfigured, Some(Error::Refused(why)) if why.to_string().contains("again and again")),
        "{applied:?}"
    );
    assert_eq!(open(&provider, 0).await, [tcp(20001)], "ports are changed meanwhile");
    let observed = observe(&provider, 0).await;
    assert_eq!(observed.addresses, [], "theirs is no address of the load balancer");
    let unserved = &observed.unserved[&tcp(20001)];
    assert!(matches!(unserved, Unserved::Refused(why) if why.contains("again and again")), "{unserved:?}");

    let events: Api<Event> = Api::namespaced(server.client.clone(), &server.namespace);
    let event = eventually("an Event about the fight", LIMIT, async || {
        let events = events.list(&ListParams::default()).await?.items;
        Ok(events.into_iter().find(|event| event.reason.as_deref() == Some("StatusFought")))
    });
    let event = event.await.expect("it is published");
    assert_eq!(event.regarding.and_then(|object| object.name).as_deref(), Some(lb(0).as_str()));
    assert!(event.note.as_ref().is_some_and(|note| note.contains("rogue-controller")), "{:?}", event.note);

    eventually("the status to be written again after the pause", LIMIT, async || {
        converge(&provider, 0, listeners.clone()).await;
        let ours = ingress(&server.service(&lb(0)).await) == [("203.0.113.10".to_owned(), "VIP".to_owned())];
        Ok(ours.then_some(()))
    })
    .await
    .expect("it is written again");
}

pub(crate) async fn a_group_whose_status_cannot_be_written_gets_no_traffic(server: &ApiServer, _: &Cluster) {
    let provider = provider(server);
    let listeners = [(tcp(20000), listener("a", 1)), (tcp(20001), with(&affinity(60), listener("b", 1)))];
    server.admit_statuses_only(&format!("object.metadata.name == '{}'", lb(0))).await;
    let applied = converge(&provider, 0, listeners.clone()).await;
    assert_eq!(applied.failed.keys().collect::<Vec<_>>(), [&tcp(20001)], "{applied:?}");
    let observed = observe(&provider, 0).await;
    assert_eq!(observed.unserved.keys().collect::<Vec<_>>(), [&tcp(20001)]);
    let unserved = &observed.unserved[&tcp(20001)];
    assert!(matches!(unserved, Unserved::Refused(why) if why.contains("refused on demand")), "{unserved:?}");
    server.accept_all().await;
    converge(&provider, 0, listeners).await;
    assert_eq!(observe(&provider, 0).await.unserved, BTreeMap::new());
}

pub(crate) async fn options_are_fields_of_a_service_of_their_own(server: &ApiServer, _: &Cluster) {
    let provider = provider(server);
    let mut both = ranges(&["192.0.2.0/24", "198.51.100.0/24"]);
    both.session_affinity = affinity(60).session_affinity;
    converge(&provider, 0, [(tcp(20000), listener("a", 1)), (tcp(20001), with(&both, listener("b", 1)))]).await;
    let spec = beside(server).await.spec.expect("it has a spec");
    assert_eq!(spec.load_balancer_source_ranges.unwrap_or_default(), ["192.0.2.0/24", "198.51.100.0/24"]);
    assert_eq!(spec.session_affinity.as_deref(), Some("ClientIP"));
    let config = spec.session_affinity_config.and_then(|config| config.client_ip);
    assert_eq!(config.and_then(|client_ip| client_ip.timeout_seconds), Some(60));

    converge(&provider, 0, [(tcp(20000), listener("a", 1))]).await;
    assert_eq!(services(server).await.into_keys().collect::<Vec<_>>(), [lb(0).as_str()], "it is not needed any more");
    assert_eq!(server.slices().await.len(), 1);
}

pub(crate) async fn options_that_are_altered_by_hand_are_reported_and_corrected(server: &ApiServer, _: &Cluster) {
    let provider = provider(server);
    let options = ranges(&["192.0.2.0/24"]);
    let listeners = [(tcp(20000), listener("a", 1)), (tcp(20001), with(&options, listener("b", 1)))];
    let desired = converge_to(&provider, 0, listeners.clone()).await;
    let name = beside(server).await.metadata.name.expect("it has a name");
    let mut changes = provider.changes();
    for altered in [
        json!({"loadBalancerSourceRanges": null}),
        json!({"loadBalancerSourceRanges": ["0.0.0.0/0"]}),
        json!({"sessionAffinity": "ClientIP"}),
    ] {
        for service in [lb(0).as_str(), &name] {
            let before = services(server).await[service].metadata.resource_version.clone();
            let patch = Patch::Merge(json!({"spec": altered}));
            let after = server.services().patch(service, &PatchParams::default(), &patch).await.expect("it is altered");
            if after.metadata.resource_version == before {
                continue;
            }
            assert_eq!(reported(&mut changes).await, lb(0));
            assert_ne!(observe(&provider, 0).await.load_balancer, desired, "{altered} of {service}");
            converge(&provider, 0, listeners.clone()).await;
            assert_eq!(observe(&provider, 0).await.load_balancer, desired, "{altered} of {service}");
        }
    }
    let of_group = services(server).await[&name].spec.clone().expect("it has a spec");
    assert_eq!(of_group.load_balancer_source_ranges.unwrap_or_default(), ["192.0.2.0/24"]);
    assert_eq!(of_group.session_affinity.as_deref(), Some("None"));
}

pub(crate) async fn a_foreign_service_in_the_place_of_a_group_delays_no_other(server: &ApiServer, _: &Cluster) {
    let provider = provider(server);
    converge(&provider, 0, [(tcp(20001), with(&affinity(60), listener("b", 1)))]).await;
    let name = beside(server).await.metadata.name.expect("it has a name");
    provider.delete(&lb(0)).await.expect("it is deleted");
    let foreign = LbName::from_recorded(&name);
    server.apply_foreign(&foreign, json!({"spec": {"ports": [{"port": 80, "name": "tcp-80"}]}})).await;
    let before = server.service(&foreign).await;

    let listeners = [(tcp(20000), listener("a", 1)), (tcp(20001), with(&affinity(60), listener("b", 1)))];
    let applied = converge(&provider, 0, listeners).await;
    assert!(
        matches!(&applied.failed[&tcp(20001)], Error::Refused(why) if why.to_string().contains("is not ours")),
        "{applied:?}"
    );
    assert_eq!(open(&provider, 0).await, [tcp(20000)]);
    provider.delete(&lb(0)).await.expect("ours is deleted");
    assert_eq!(server.service(&foreign).await, before);
}

pub(crate) async fn both_families_are_served_and_ranges_of_one_only_that(server: &ApiServer, cluster: &Cluster) {
    if !cluster.ipv6() {
        return;
    }
    let v6: IpAddr = "2001:db8::10".parse().expect("it is an address");
    let provider = Vip::new(Settings { addresses: vec![vec![ADDRESS.into(), v6]], ..settings(server) });
    let options = ranges(&["192.0.2.0/24"]);
    let listeners = [(tcp(20000), listener("a", 1)), (tcp(20001), with(&options, listener("b", 1)))];
    let applied = converge(&provider, 0, listeners.clone()).await;
    assert_eq!(applied.addresses, [Address::Ip(ADDRESS.into()), Address::Ip(v6)]);
    let vip = |address: &str| (address.to_owned(), "VIP".to_owned());
    let main = server.service(&lb(0)).await;
    assert_eq!(ingress(&main), [vip("203.0.113.10"), vip("2001:db8::10")]);
    assert_eq!(main.spec.and_then(|spec| spec.ip_families).unwrap_or_default(), ["IPv4", "IPv6"]);
    // kube-proxy would take it for open to all IPv6 clients.
    assert_eq!(ingress(&beside(server).await), [vip("203.0.113.10")]);
    assert_eq!(observe(&provider, 0).await.load_balancer, wanted(&provider, listeners));
}

pub(crate) async fn the_services_of_a_former_class_go_before_one_is_created(server: &ApiServer, _: &Cluster) {
    let former_uid = || "former-uid".to_owned();
    let former = Vip::new(Settings { class_uid: former_uid(), ..settings(server) });
    let of_former = LbName::new("conformance", 0, "cluster", &former_uid());
    let desired =
        wanted(&former, [(tcp(20000), listener("a", 1)), (tcp(20001), with(&affinity(60), listener("b", 1)))]);
    let changes = diff(&LoadBalancer::default(), &desired);
    former.apply(&of_former, ChangeSet::new(&desired, &changes)).await.expect("it is created");
    let finalizers = |finalizers: Value| Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    let (params, held) = (PatchParams::default(), finalizers(json!(["example.com/held"])));
    server.services().patch(of_former.as_str(), &params, &held).await.expect("it is held");

    let provider = provider(server);
    let changes = diff(&LoadBalancer::default(), &desired);
    let waits = provider.apply(&lb(0), ChangeSet::new(&desired, &changes)).await;
    assert!(matches!(&waits, Err(Error::NotReady(why)) if why.to_string().contains("former class")), "{waits:?}");
    let left: Vec<String> = services(server).await.into_keys().collect();
    assert!(!left.contains(&lb(0).to_string()), "both would serve 203.0.113.10:20000: {left:?}");
    server.services().patch(of_former.as_str(), &params, &finalizers(Value::Null)).await.expect("it is released");
    provider.apply(&lb(0), ChangeSet::new(&desired, &changes)).await.expect("it is created");
    let left: Vec<String> = services(server).await.into_keys().collect();
    assert!(left.iter().all(|name| name.starts_with(lb(0).as_str())), "{left:?}");
    assert_eq!(open(&provider, 0).await, [tcp(20000), tcp(20001)]);
}

pub(crate) async fn nothing_of_a_deleted_load_balancer_with_groups_stays(server: &ApiServer, _: &Cluster) {
    let provider = provider(server);
    let groups = (1..=4).map(|n| (tcp(20000 + n), with(&affinity(n.into()), listener("a", 1))));
    converge(&provider, 0, groups).await;
    converge(&provider, 1, [(tcp(20000), listener("stays", 1))]).await;
    assert_eq!(services(server).await.len(), 6);
    provider.delete(&lb(0)).await.expect("it is deleted");
    assert_eq!(services(server).await.into_keys().collect::<BTreeSet<_>>(), [lb(1).to_string()].into());
    assert_eq!(server.slices().await.len(), 1);
}

pub(crate) async fn a_group_whose_service_refuses_changes_delays_no_other(server: &ApiServer, _: &Cluster) {
    let provider = provider(server);
    let of_group = (tcp(20001), with(&affinity(60), listener("b", 1)));
    converge(&provider, 0, [(tcp(20000), listener("a", 1)), of_group]).await;
    let name = beside(server).await.metadata.name.expect("it has a name");
    server.admit_only(&format!("object.metadata.name != '{name}'")).await;
    // The listener of the group closes, and others open.
    let listeners = [(tcp(20000), listener("a", 1)), (tcp(20002), listener("c", 1))];
    let applied = converge(&provider, 0, listeners.clone()).await;
    assert_eq!(applied.failed.keys().collect::<Vec<_>>(), [&tcp(20001)], "{applied:?}");
    assert_eq!(open(&provider, 0).await, [tcp(20000), tcp(20001), tcp(20002)]);
    // A port that could not be closed opens nowhere else.
    let listeners = listeners.into_iter().chain([(tcp(20001), listener("b", 1))]);
    let applied = converge(&provider, 0, listeners.clone()).await;
    assert_eq!(applied.failed.keys().collect::<Vec<_>>(), [&tcp(20001)], "{applied:?}");
    assert_eq!(observe(&provider, 0).await.load_balancer.listeners[&tcp(20001)].options, affinity(60));
    server.accept_all().await;
    converge(&provider, 0, listeners.clone()).await;
    assert_eq!(observe(&provider, 0).await.load_balancer, wanted(&provider, listeners));
}

pub(crate) async fn the_ports_of_groups_close_while_the_main_service_refuses_changes(server: &ApiServer, _: &Cluster) {
    let provider = provider(server);
    let of_group = (tcp(20001), with(&affinity(60), listener("b", 1)));
    let before = converge_to(&provider, 0, [(tcp(20000), listener("a", 1)), of_group]).await;
    server.admit_only(&format!("object.metadata.name != '{}'", lb(0))).await;
    let desired = wanted(&provider, []);
    let changes = diff(&before, &desired);
    let refused = provider.apply(&lb(0), ChangeSet::new(&desired, &changes)).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert_eq!(open(&provider, 0).await, [tcp(20000)]);
}

pub(crate) async fn an_open_port_stays_while_the_service_of_its_group_is_refused(server: &ApiServer, _: &Cluster) {
    let provider = provider(server);
    converge(&provider, 0, [(tcp(20000), listener("a", 1))]).await;
    server.admit_only(&format!("object.metadata.name == '{}'", lb(0))).await;
    let changed = [(tcp(20000), with(&affinity(60), listener("a", 1)))];
    let applied = converge(&provider, 0, changed.clone()).await;
    assert_eq!(applied.failed.keys().collect::<Vec<_>>(), [&tcp(20000)], "{applied:?}");
    assert_eq!(observe(&provider, 0).await.load_balancer, wanted(&provider, [(tcp(20000), listener("a", 1))]));
    server.accept_all().await;
    converge(&provider, 0, changed.clone()).await;
    assert_eq!(observe(&provider, 0).await.load_balancer, wanted(&provider, changed));
}

pub(crate) async fn a_group_whose_service_cannot_be_deleted_delays_no_other(server: &ApiServer, _: &Cluster) {
    let provider = provider(server);
    let of_group = |host| (tcp(20001), with(&affinity(60), listener("b", host)));
    converge(&provider, 0, [(tcp(20000), listener("a", 1)), of_group(1)]).await;
    let name = beside(server).await.metadata.name.expect("it has a name");
    let finalizers = |finalizers: Value| Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    let params = PatchParams::default();
    server.services().patch(&name, &params, &finalizers(json!(["example.com/held"]))).await.expect("it is held");
    server.services().delete(&name, &DeleteParams::default()).await.expect("its deletion begins");
    eventually("the provider to see the deletion", LIMIT, async || {
        Ok(observe(&provider, 0).await.foreign.iter().any(|port| tcp(20001).has(*port)).then_some(()))
    })
    .await
    .expect("it is seen");
    // Backends change, and others open. The port of the group opens nowhere else.
    let listeners = [(tcp(20000), listener("a", 2)), (tcp(20002), listener("c", 1)), (tcp(20001), listener("b", 1))];
    let applied = converge(&provider, 0, listeners.clone()).await;
    assert_eq!(applied.failed.keys().collect::<Vec<_>>(), [&tcp(20001)], "{applied:?}");
    assert_eq!(open(&provider, 0).await, [tcp(20000), tcp(20002)]);
    server.services().patch(&name, &params, &finalizers(Value::Null)).await.expect("it is released");
    eventually("the provider to see the end of the Service", LIMIT, async || {
        Ok(observe(&provider, 0).await.foreign.is_empty().then_some(()))
    })
    .await
    .expect("it is seen");
    converge(&provider, 0, listeners.clone()).await;
    assert_eq!(observe(&provider, 0).await.load_balancer, wanted(&provider, listeners));
}
