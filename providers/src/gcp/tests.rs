use std::collections::BTreeSet;
use std::sync::Mutex;

use sharedlb_kubernetes::events::Events;
use tokio::sync::watch;

use super::fake::Fake;
use super::*;
use crate::diff::Change;
use crate::model::{BackendSet, Listener, ListenerKey, LoadBalancer, Owner, Protocol, Unserved};
use crate::service::golden_tests::{ApiServer, client};

const ALLOW: &str = "projects/project/global/firewalls/slb-default-0-44d0a5b833-allow";

/// The ids of nodes, as they change.
type Nodes = watch::Sender<Option<Arc<BTreeSet<Arc<str>>>>>;

/// A provider of this Compute Engine, in a cluster with these nodes (`ZONE/NAME`).
pub(super) fn provider(settings: Settings, fake: &Fake, nodes: &[&str]) -> (Gcp, Nodes) {
    provider_of(Arc::default(), settings, fake, nodes)
}

/// The same with the Services of this API server.
fn provider_of(api_server: Arc<Mutex<ApiServer>>, settings: Settings, fake: &Fake, nodes: &[&str]) -> (Gcp, Nodes) {
    let client = client(&api_server);
    // No Event is written.
    let (events, _) = Events::new(client.clone(), |_| {});
    let front = vip::Settings {
        client,
        namespace: "lbs".into(),
        cluster_id: "cluster".into(),
        class: "default".into(),
        class_uid: "uid".into(),
        addresses: Vec::new(),
        events,
    };
    let (sender, receiver) = watch::channel(Some(ids(nodes)));
    (Gcp::new(settings, front, &fake.start(), receiver), sender)
}

fn ids(nodes: &[&str]) -> Arc<BTreeSet<Arc<str>>> {
    let id = |node: &&str| Arc::from(format!("gce://project/europe-west3-{node}"));
    Arc::new(nodes.iter().map(id).collect())
}

fn name() -> LbName {
    LbName::new("default", 0, "cluster", "uid")
}

fn tcp(port: u16) -> ListenerKey {
    ListenerKey { port: port.try_into().unwrap(), protocol: Protocol::Tcp }
}

fn desired(provider: &Gcp, ports: impl IntoIterator<Item = u16>) -> LoadBalancer {
    let owner = Owner { namespace: "team".into(), claim: "claim".into(), port: "".into() };
    let listener = Listener::new(owner, BackendSet::default());
    let listeners = ports.into_iter().map(|port| (tcp(port), listener.clone())).collect();
    LoadBalancer { attributes: provider.attributes(0), listeners }
}

/// Observes and applies once.
async fn apply(provider: &Gcp, ports: impl IntoIterator<Item = u16>) -> Result<Applied, Error> {
    let desired = desired(provider, ports);
    let observed = provider.observe(&name()).await?.unwrap_or_default();
    let changes = observed.changes_to(&desired, &BTreeSet::new());
    provider.apply(&name(), ChangeSet::new(&desired, &changes)).await
}

async fn open(provider: &Gcp) -> BTreeSet<u16> {
    let observed = provider.observe(&name()).await.unwrap().expect("it exists");
    observed.load_balancer.listeners.keys().map(|key| key.port.get()).collect()
}

fn calls(fake: &Fake) -> Vec<String> {
    fake.take_written().into_iter().map(|(call, _)| call).collect()
}

#[tokio::test]
async fn two_hundred_ports_cost_one_call() {
    let fake = Fake::default();
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000]).await.unwrap();
    fake.take_written();
    let applied = apply(&provider, (20_000..20_200).map(|port| 20_000 + (port - 20_000) * 7)).await.unwrap();
    assert!(applied.failed.is_empty() && applied.postponed.is_empty(), "{applied:?}");
    assert_eq!(calls(&fake), [format!("PATCH {ALLOW}")]);
    assert_eq!(open(&provider).await.len(), 200);
}

#[tokio::test]
async fn a_steady_state_and_a_change_of_backends_take_no_call() {
    let fake = Fake::default();
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000]).await.unwrap();
    apply(&provider, [20_000]).await.unwrap();
    fake.take_written();
    let before = fake.state().reads;
    let desired = desired(&provider, [20_000]);
    let changes = [Change::Backends(tcp(20_000))];
    provider.apply(&name(), ChangeSet::new(&desired, &changes)).await.unwrap();
    assert_eq!((calls(&fake), fake.state().reads - before), (vec![], 0));
}

#[tokio::test]
async fn a_listener_that_the_firewall_does_not_allow_yet_is_reported_and_one_that_closes_waits_for_nothing() {
    let fake = Fake::default();
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000]).await.unwrap();
    fake.state().slow = true;
    let applied = apply(&provider, [20_000, 20_001]).await.unwrap();
    assert!(matches!(applied.failed[&tcp(20_001)], Error::NotReady(_)), "{applied:?}");
    let observed = provider.observe(&name()).await.unwrap().unwrap();
    assert_eq!(observed.unserved.keys().collect::<Vec<_>>(), [&tcp(20_001)]);
    assert!(matches!(observed.unserved[&tcp(20_001)], Unserved::Pending(_)), "{observed:?}");
    let reads = fake.state().reads;
    provider.observe(&name()).await.unwrap();
    assert_eq!(fake.state().reads, reads, "the operation is waited for, and nothing is read again and again");
    let applied = apply(&provider, [20_001]).await.unwrap();
    assert_eq!(open(&provider).await, [20_001].into(), "{applied:?}");
    fake.state().slow = false;
    let applied = apply(&provider, [20_001]).await.unwrap();
    assert!(applied.postponed.is_empty() && applied.failed.is_empty(), "{applied:?}");
    assert!(provider.observe(&name()).await.unwrap().unwrap().unserved.is_empty());
    assert_eq!(allowed(&fake), ["20001"]);
}

#[tokio::test]
async fn a_port_whose_claim_goes_while_the_firewall_is_changed_is_not_allowed() {
    let fake = Fake::default();
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000]).await.unwrap();
    fake.state().slow = true;
    apply(&provider, [20_000, 20_001]).await.unwrap();
    apply(&provider, [20_000]).await.unwrap();
    fake.state().slow = false;
    apply(&provider, [20_000]).await.unwrap();
    assert_eq!(allowed(&fake), ["20000"]);
}

/// The TCP ports that the firewall allows.
fn allowed(fake: &Fake) -> Vec<String> {
    let ports = fake.state().objects[ALLOW]["allowed"][0]["ports"].clone();
    serde_json::from_value(ports).expect("a list of ports")
}

#[tokio::test]
async fn while_google_cannot_be_reached_ports_close_and_backends_change() {
    let fake = Fake::default();
    let api_server = Arc::default();
    let before = || provider_of(Arc::clone(&api_server), fixture::settings(), &fake, &["a/node-1"]);
    let (first, _nodes) = before();
    apply(&first, [20_000, 20_001]).await.unwrap();
    fake.state().is_down = true;
    let mut restarted = None;
    for port in [20_001, 20_000] {
        let provider = if port == 20_001 { &first } else { &restarted.insert(before()).0 };
        let observed = provider.observe(&name()).await.unwrap().expect("the Services are observed");
        assert_eq!(observed.addresses.len(), 1, "by their status, or as it was known");
        let mut desired = observed.load_balancer.clone();
        desired.attributes = provider.attributes(0);
        desired.listeners.remove(&tcp(port));
        let changes = observed.changes_to(&desired, &BTreeSet::new());
        assert!(changes.contains(&Change::Configure), "what is not known is reported");
        let applied = provider.apply(&name(), ChangeSet::new(&desired, &changes)).await.unwrap();
        let error = applied.unconfigured.expect("it is reported");
        assert!(matches!(error, Error::Transient(_)), "{error:?}");
        assert!(!open(provider).await.contains(&port));
    }
    fake.state().is_down = false;
    let (restarted, _nodes) = restarted.expect("it was started");
    apply(&restarted, [20_002]).await.unwrap();
    assert_eq!(allowed(&fake), ["20002"]);
}

#[tokio::test]
async fn while_google_does_not_answer_no_call_takes_long() {
    let fake = Fake::default();
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000, 20_001]).await.unwrap();
    fake.state().is_silent = true;
    let both = async { (apply(&provider, [20_000]).await, open(&provider).await) };
    let (applied, open) = tokio::time::timeout(Duration::from_secs(20), both).await.expect("it is given up");
    assert!(applied.unwrap().unconfigured.is_some());
    assert_eq!(open, [20_000].into());
}

#[tokio::test]
async fn a_foreign_object_keeps_no_port_from_closing() {
    let fake = Fake::default();
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000, 20_001]).await.unwrap();
    let path = "projects/project/regions/europe-west3/healthChecks/slb-default-0-44d0a5b833";
    fake.state().objects.get_mut(path).expect("it exists")["description"] = "altered".into();
    let applied = apply(&provider, [20_000]).await.unwrap();
    let error = applied.unconfigured.expect("it is reported");
    assert!(matches!(&error, Error::Refused(why) if why.to_string().contains("is not ours")), "{error:?}");
    assert_eq!(open(&provider).await, [20_000].into());
    assert_eq!(allowed(&fake), ["20000"]);
    // Once it is deleted, no resync is waited for.
    fake.state().objects.remove(path);
    let desired = desired(&provider, [20_000]);
    let applied = provider.apply(&name(), ChangeSet::new(&desired, &[Change::Configure])).await.unwrap();
    assert_eq!(applied.unconfigured, None);
}

#[tokio::test]
async fn an_operation_that_takes_long_is_waited_for_by_later_calls() {
    let fake = Fake::default();
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    fake.state().slow = true;
    for _ in 0..2 {
        let error = apply(&provider, [20_000]).await.unwrap_err();
        assert!(matches!(error, Error::NotReady(_)), "{error:?}");
    }
    assert_eq!(calls(&fake).len(), 3, "an address, a health check and a group, each once");
    let observed = provider.observe(&name()).await.unwrap().expect("it is being created");
    assert!(observed.not_ready.is_some() && observed.addresses.is_empty());
    fake.state().slow = false;
    let applied = apply(&provider, [20_000]).await.unwrap();
    assert_eq!(applied.addresses.len(), 1);
    assert_eq!(open(&provider).await, [20_000].into());
}

#[tokio::test]
async fn rules_that_may_not_be_read_are_reported_with_commands() {
    rules_without_rights("").await;
}

#[tokio::test]
async fn rules_that_may_be_read_and_not_written_are_reported_with_commands_as_long_as_that_lasts() {
    rules_without_rights("write").await;
}

/// Without all rights to firewall rules, or only without those to write them.
async fn rules_without_rights(to: &'static str) {
    let fake = Fake::default();
    fake.state().denied = Some(("firewalls", to));
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    for _ in 0..3 {
        let applied = apply(&provider, [20_000]).await.unwrap();
        let error = format!("{:#}", applied.unconfigured.expect("it is reported"));
        let command = "gcloud compute firewall-rules create slb-default-0-44d0a5b833-allow --project=project \
                       --network=network --direction=INGRESS --action=ALLOW --priority=900 --rules=tcp:20000 \
                       --source-ranges=0.0.0.0/0 --destination-ranges=203.0.113.10/32 --target-tags=nodes \
                       --description='{\"sharedlb.dev/cluster\":\"cluster\",";
        assert!(error.contains(command), "{error}");
        assert_eq!(open(&provider).await, [20_000].into());
        // The second time, they are read again.
        for _ in 0..2 {
            let observed = provider.observe(&name()).await.unwrap().unwrap();
            let unserved = &observed.unserved[&tcp(20_000)];
            assert!(matches!(unserved, Unserved::Refused(why) if why.contains("ask the admin")), "{unserved:?}");
            assert_ne!(observed.load_balancer.attributes, provider.attributes(0), "so that it is tried again");
        }
    }
    // Once they may be written, they are.
    fake.state().denied = None;
    let applied = apply(&provider, [20_000]).await.unwrap();
    assert_eq!(applied.unconfigured, None);
    assert!(provider.observe(&name()).await.unwrap().unwrap().unserved.is_empty());
    assert!(fake.state().objects.contains_key(ALLOW));
}

#[tokio::test]
async fn rules_that_an_admin_has_made_by_the_commands_serve() {
    let fake = Fake::default();
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000]).await.unwrap();
    fake.state().denied = Some(("firewalls", "write"));
    let applied = apply(&provider, [20_000, 20_001]).await.unwrap();
    assert!(matches!(&applied.failed[&tcp(20_001)], Error::Refused(why) if why.to_string().contains("ask the admin")));
    let applied = apply(&provider, [20_000, 20_001]).await.unwrap();
    let error = applied.unconfigured.expect("it is reported").to_string();
    let command = "firewall-rules update slb-default-0-44d0a5b833-allow --project=project --priority=900 \
                   --rules=tcp:20000-20001 ";
    assert!(error.contains(command), "{error}");
    fake.state().objects.get_mut(ALLOW).expect("it exists")["allowed"][0]["ports"] = serde_json::json!(["20000-20001"]);
    let applied = apply(&provider, [20_000, 20_001]).await.unwrap();
    assert_eq!(applied.unconfigured, None);
    let observed = provider.observe(&name()).await.unwrap().unwrap();
    assert_eq!((observed.unserved.len(), observed.load_balancer.attributes), (0, provider.attributes(0)));
}

#[tokio::test]
async fn rules_that_could_not_be_written_are_deleted_once_they_may_be() {
    let fake = Fake::default();
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000]).await.unwrap();
    fake.state().denied = Some(("firewalls", "write"));
    apply(&provider, [20_000, 20_001]).await.unwrap();
    let error = provider.delete(&name()).await.unwrap_err();
    assert!(matches!(&error, Error::Refused(why) if why.to_string().contains("firewall-rules delete")), "{error:?}");
    fake.state().denied = None;
    provider.delete(&name()).await.unwrap();
    assert!(fake.state().objects.is_empty(), "{:?}", fake.state().objects);
}

#[tokio::test]
async fn rules_that_cannot_be_read_are_not_left_behind_silently() {
    let fake = Fake::default();
    let api_server = Arc::default();
    let (provider, _nodes) = provider_of(Arc::clone(&api_server), fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000]).await.unwrap();
    fake.state().denied = Some(("firewalls", ""));
    let error = provider.delete(&name()).await.unwrap_err();
    let rules = "slb-default-0-44d0a5b833-allow slb-default-0-44d0a5b833-deny slb-default-0-44d0a5b833-health";
    assert!(matches!(&error, Error::Refused(why) if why.to_string().contains(rules)), "{error:?}");
    let left: Vec<String> = fake.state().objects.keys().cloned().collect();
    assert!(left.iter().all(|path| path.contains("/firewalls/")), "everything else is deleted: {left:?}");
    let mut settings = fixture::settings();
    settings.firewall.manage = Managed::None;
    provider_of(api_server, settings, &fake, &["a/node-1"]).0.delete(&name()).await.expect("they are the admin's");
}

#[tokio::test]
async fn a_class_whose_settings_changed_differs_from_what_was_observed_before() {
    let fake = Fake::default();
    let api_server = Arc::default();
    let (provider, _nodes) = provider_of(Arc::clone(&api_server), fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000]).await.unwrap();
    let observed = provider.observe(&name()).await.unwrap().unwrap();
    let mut settings = fixture::settings();
    settings.health_check.path = "/livez".into();
    let changed = provider_of(api_server, settings, &fake, &["a/node-1"]).0;
    let desired = desired(&changed, [20_000]);
    let changes = observed.changes_to(&desired, &BTreeSet::new());
    assert_eq!(changes, [Change::Configure]);
    fake.take_written();
    changed.apply(&name(), ChangeSet::new(&desired, &changes)).await.unwrap();
    let check = "projects/project/regions/europe-west3/healthChecks/slb-default-0-44d0a5b833";
    assert_eq!(calls(&fake), [format!("PATCH {check}")]);
}

#[tokio::test]
async fn a_cluster_without_a_node_in_the_region_is_reported_and_its_ports_are_unserved() {
    let fake = Fake::default();
    let (provider, nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000]).await.unwrap();
    nodes.send_replace(Some(["gce://other/europe-west3-a/node-1".into()].into_iter().collect::<BTreeSet<_>>().into()));
    for _ in 0..2 {
        let applied = apply(&provider, [20_000]).await.unwrap();
        let error = applied.unconfigured.expect("it is reported").to_string();
        assert!(error.contains("no node of the cluster is an instance in region europe-west3"), "{error}");
        let observed = provider.observe(&name()).await.unwrap().unwrap();
        assert!(matches!(&observed.unserved[&tcp(20_000)], Unserved::Refused(why) if why.contains("spec.providerID")));
    }
    nodes.send_replace(Some(ids(&["a/node-1"])));
    assert_eq!(apply(&provider, [20_000]).await.unwrap().unconfigured, None);
    assert!(provider.observe(&name()).await.unwrap().unwrap().unserved.is_empty());
}

#[tokio::test]
async fn nodes_that_are_not_listed_yet_keep_no_port_from_closing() {
    let fake = Fake::default();
    let (provider, nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000, 20_001]).await.unwrap();
    nodes.send_replace(None);
    let applied = apply(&provider, [20_000]).await.unwrap();
    assert!(matches!(applied.unconfigured, Some(Error::NotReady(_))), "{applied:?}");
    assert_eq!(open(&provider).await, [20_000].into());
    assert_eq!(allowed(&fake), ["20000"]);
}

#[tokio::test]
async fn a_port_that_closes_while_the_firewall_rule_cannot_be_changed_is_reported() {
    let fake = Fake::default();
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000, 20_001]).await.unwrap();
    // The rule is gone, so that its patch is a conflict.
    provider.observe(&name()).await.unwrap();
    let rule = fake.state().objects.remove(ALLOW);
    let desired = desired(&provider, [20_000]);
    let changes = [Change::Close(tcp(20_001))];
    let applied = provider.apply(&name(), ChangeSet::new(&desired, &changes)).await.unwrap();
    assert_eq!(applied.failed.keys().collect::<Vec<_>>(), [&tcp(20_001)]);
    fake.state().objects.extend(rule.map(|rule| (ALLOW.to_owned(), rule)));
    assert_eq!(open(&provider).await, [20_000].into(), "it is closed all the same");
    apply(&provider, [20_000]).await.unwrap();
    assert_eq!(fake.state().objects[ALLOW]["allowed"][0]["ports"], serde_json::json!(["20000"]));
}

#[tokio::test]
async fn nodes_that_come_and_go_cost_no_read() {
    let fake = Fake::default();
    let (provider, nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000]).await.unwrap();
    fake.take_written();
    let mut changes = provider.changes();
    let before = fake.state().reads;
    nodes.send_replace(Some(ids(&["a/node-1", "a/node-2"])));
    assert_eq!(changes.next().await, Some(name()));
    let observed = provider.observe(&name()).await.unwrap().unwrap();
    assert_ne!(observed.load_balancer.attributes, provider.attributes(0));
    assert_eq!(fake.state().reads, before);
    apply(&provider, [20_000]).await.unwrap();
    let group = "projects/project/zones/europe-west3-a/networkEndpointGroups/slb-default-0-44d0a5b833";
    assert_eq!(calls(&fake), [format!("POST {group}/attachNetworkEndpoints")]);
}

#[tokio::test]
async fn a_node_whose_instance_cannot_be_attached_keeps_no_other_from_serving() {
    let fake = Fake::default();
    fake.state().missing = ["node-2".to_owned()].into();
    let nodes = ["a/node-1", "a/node-2", "a/node-3", "b/node-4"];
    let (provider, _nodes) = provider(fixture::settings(), &fake, &nodes);
    for _ in 0..2 {
        let applied = apply(&provider, [20_000]).await.unwrap();
        let error = format!("{:#}", applied.unconfigured.expect("it is reported"));
        assert!(error.contains("the node node-2 in europe-west3-a"), "{error}");
    }
    let attached: BTreeSet<String> = fake.state().instances.values().flatten().cloned().collect();
    assert_eq!(attached, ["node-1", "node-3", "node-4"].map(str::to_owned).into());
    assert_eq!(open(&provider).await, [20_000].into());
    fake.state().missing.clear();
    assert_eq!(apply(&provider, [20_000]).await.unwrap().unconfigured, None);
}

#[tokio::test]
async fn an_address_of_the_class_that_cannot_be_used_is_named() {
    let fake = Fake::default();
    let settings = Settings { address_names: vec!["edge".into()], ..fixture::settings() };
    let (provider, _nodes) = provider(settings, &fake, &["a/node-1"]);
    let error = apply(&provider, [20_000]).await.unwrap_err().to_string();
    assert!(error.contains("no address edge in region europe-west3"), "{error}");
    let path = "projects/project/regions/europe-west3/addresses/edge";
    let user = "https://www.googleapis.com/compute/v1/projects/project/regions/europe-west3/forwardingRules/theirs";
    let mut address = serde_json::json!({
        "name": "edge", "address": "198.51.100.7", "addressType": "EXTERNAL", "users": [user],
    });
    fake.state().objects.insert(path.into(), address.clone());
    // It may be reserved at any time.
    let error = apply(&provider, [20_000]).await.unwrap_err().to_string();
    assert!(error.contains("in use by") && error.contains("forwardingRules/theirs"), "{error}");
    assert_eq!(fake.state().objects.len(), 1, "nothing is created in vain");
    address["users"] = serde_json::json!([]);
    fake.state().objects.insert(path.into(), address);
    let applied = apply(&provider, [20_000]).await.unwrap();
    assert!(applied.unconfigured.is_none() && applied.addresses.len() == 1, "{applied:?}");
}

#[tokio::test]
async fn a_foreign_object_of_the_same_name_is_refused_and_stays() {
    let fake = Fake::default();
    let path = "projects/project/regions/europe-west3/forwardingRules/slb-default-0-44d0a5b833";
    let theirs = serde_json::json!({"name": "slb-default-0-44d0a5b833", "description": "theirs"});
    fake.state().objects.insert(path.into(), theirs.clone());
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    let error = apply(&provider, [20_000]).await.unwrap_err();
    assert!(matches!(&error, Error::Refused(why) if why.to_string().contains("is not ours")), "{error:?}");
    provider.delete(&name()).await.unwrap();
    assert_eq!(fake.state().objects.get(path), Some(&theirs));
}

#[tokio::test]
async fn a_port_outside_of_the_fixed_range_is_refused() {
    let fake = Fake::default();
    let mut settings = fixture::settings();
    settings.firewall.manage = Managed::Range(vec![20_000..=20_999]);
    let (provider, _nodes) = provider(settings, &fake, &["a/node-1"]);
    let applied = apply(&provider, [20_000, 443]).await.unwrap();
    assert_eq!(open(&provider).await, [20_000].into());
    assert!(matches!(&applied.failed[&tcp(443)], Error::Refused(why) if why.to_string().contains("ports.dynamic")));
}

#[tokio::test]
async fn an_open_port_that_a_changed_range_does_not_allow_is_unserved() {
    let fake = Fake::default();
    let api_server = Arc::default();
    let mut settings = fixture::settings();
    settings.firewall.manage = Managed::Range(vec![20_000..=20_999]);
    let (provider, _nodes) = provider_of(Arc::clone(&api_server), settings.clone(), &fake, &["a/node-1"]);
    apply(&provider, [20_000, 20_500]).await.unwrap();
    settings.firewall.manage = Managed::Range(vec![20_000..=20_100]);
    let changed = provider_of(api_server, settings, &fake, &["a/node-1"]).0;
    apply(&changed, [20_000, 20_500]).await.unwrap();
    let observed = changed.observe(&name()).await.unwrap().unwrap();
    assert_eq!(observed.unserved.keys().collect::<Vec<_>>(), [&tcp(20_500)]);
    assert!(matches!(&observed.unserved[&tcp(20_500)], Unserved::Refused(why) if why.contains("ports.dynamic")));
}

#[tokio::test]
async fn everything_is_deleted() {
    let fake = Fake::default();
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1", "b/node-2"]);
    apply(&provider, [20_000]).await.unwrap();
    provider.delete(&name()).await.unwrap();
    assert!(fake.state().objects.is_empty(), "{:?}", fake.state().objects);
    assert_eq!(provider.observe(&name()).await, Ok(None));
    provider.delete(&name()).await.unwrap();
}

#[tokio::test]
async fn an_answer_of_another_form_is_an_error() {
    let fake = Fake::default();
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000]).await.unwrap();
    let good = fake.state().objects.clone();
    for path in good.keys() {
        for bad in [
            serde_json::json!(null),
            serde_json::json!([[]]),
            serde_json::json!({"description": 7}),
            serde_json::json!({"priority": -1, "backends": "none", "address": {}, "labels": [], "checkIntervalSec": 1e99}),
        ] {
            fake.state().objects.insert(path.clone(), bad.clone());
            let observed = provider.observe(&name()).await;
            let is_as_desired =
                matches!(&observed, Ok(Some(observed)) if observed.load_balancer.attributes == provider.attributes(0));
            assert!(!is_as_desired, "{path} is {bad}");
        }
        fake.state().objects.clone_from(&good);
    }
    let observed = provider.observe(&name()).await.unwrap().unwrap();
    assert_eq!(observed.load_balancer.attributes, provider.attributes(0));
}

#[tokio::test]
async fn what_was_deleted_by_hand_is_created_again() {
    let fake = Fake::default();
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000]).await.unwrap();
    let good = fake.state().objects.clone();
    for path in good.keys() {
        let changed = fake.state().objects.remove(path).is_some();
        assert!(changed, "{path}");
        let observed = provider.observe(&name()).await.unwrap().unwrap();
        assert_ne!(observed.load_balancer.attributes, provider.attributes(0), "{path} is missed");
        apply(&provider, [20_000]).await.unwrap();
        assert!(fake.state().objects.contains_key(path), "{path}");
    }
}
