use std::sync::Mutex;

use sharedlb_kubernetes::events::Events;
use tokio::sync::watch;

use super::fake::Fake;
use super::*;
use crate::model::{BackendSet, Listener, LoadBalancer, Owner, Protocol, Unserved};
use crate::service::golden_tests::{ApiServer, client};

const ALLOW: &str = "projects/project/global/firewalls/slb-default-0-44d0a5b833-allow";

/// The ids of nodes, as they change.
type Nodes = watch::Sender<Option<Arc<BTreeSet<Arc<str>>>>>;

/// A provider of this Compute Engine, in a cluster with these nodes (`ZONE/NAME`).
pub(super) fn provider(settings: Settings, fake: &Fake, nodes: &[&str]) -> (Gcp, Nodes) {
    let api_server = Arc::<Mutex<ApiServer>>::default();
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
async fn no_listener_opens_before_the_firewall_allows_it() {
    let fake = Fake::default();
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    apply(&provider, [20_000]).await.unwrap();
    fake.state().slow = true;
    let applied = apply(&provider, [20_000, 20_001]).await.unwrap();
    assert_eq!(applied.postponed, [tcp(20_001)].into());
    assert_eq!(open(&provider).await, [20_000].into());
    // A port that closes does not wait for it.
    let applied = apply(&provider, [20_001]).await.unwrap();
    assert_eq!(applied.postponed, [tcp(20_001)].into());
    assert_eq!(open(&provider).await, [].into());
    fake.state().slow = false;
    let applied = apply(&provider, [20_001]).await.unwrap();
    assert!(applied.postponed.is_empty() && applied.failed.is_empty(), "{applied:?}");
    assert_eq!(open(&provider).await, [20_001].into());
    assert_eq!(fake.state().objects[ALLOW]["allowed"][0]["ports"], serde_json::json!(["20001"]));
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
async fn without_rights_to_firewall_rules_ports_open_and_the_commands_are_reported() {
    let fake = Fake::default();
    fake.state().denied = Some("firewalls");
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    let applied = apply(&provider, [20_000]).await.unwrap();
    assert!(applied.failed.is_empty() && applied.postponed.is_empty(), "{applied:?}");
    let error = format!("{:#}", applied.unconfigured.expect("it is reported"));
    let command = "gcloud compute firewall-rules create slb-default-0-44d0a5b833-allow --project=project \
                   --network=network --direction=INGRESS --action=ALLOW --priority=900 --rules=tcp:20000 \
                   --source-ranges=0.0.0.0/0 --destination-ranges=203.0.113.10/32 --target-tags=nodes";
    assert!(error.contains(command), "{error}");
    let observed = provider.observe(&name()).await.unwrap().unwrap();
    assert!(matches!(&observed.unserved[&tcp(20_000)], Unserved::Refused(why) if why.contains("ask the admin")));
    // Once they may be written, they are.
    fake.state().denied = None;
    let applied = apply(&provider, [20_000]).await.unwrap();
    assert_eq!(applied.unconfigured, None);
    assert!(provider.observe(&name()).await.unwrap().unwrap().unserved.is_empty());
    assert!(fake.state().objects.contains_key(ALLOW));
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
async fn a_quota_that_is_used_up_is_named_before_anything_is_created() {
    let fake = Fake::default();
    fake.state().quotas = vec![serde_json::json!({"metric": "STATIC_ADDRESSES", "limit": 8.0, "usage": 8.0})];
    let (provider, _nodes) = provider(fixture::settings(), &fake, &["a/node-1"]);
    let error = apply(&provider, [20_000]).await.unwrap_err();
    assert!(matches!(&error, Error::Exhausted(why) if why.to_string().contains("STATIC_ADDRESSES")), "{error:?}");
    assert_eq!(calls(&fake), [] as [&str; 0]);
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
