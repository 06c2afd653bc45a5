//! The provider, with packets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt as _;
use sharedlb_agent::nftables::{Nftables, Settings, SharedEngine};
use sharedlb_providers::{Applied, ChangeSet, Error, LbName, Listener, ListenerKey, LoadBalancer, Observed, Provider};

use crate::Test;
use crate::conformance::settings;
use crate::network::{Machine, Network, VIPS, is_refused, listener};
use crate::tests;

pub(crate) const TESTS: &[(&str, Test)] = tests![
    a_new_process_goes_on_with_what_an_earlier_one_has_left,
    a_new_process_ends_the_connections_that_an_earlier_one_had_no_time_for,
    what_another_program_alters_is_reported_and_repaired,
    load_balancers_are_there_again_after_a_firewall_has_removed_all_tables,
    load_balancers_that_change_at_the_same_time_are_all_served,
    an_address_is_of_one_load_balancer,
    more_listeners_than_one_transaction_takes_are_opened_one_after_the_other,
];

fn lb(index: u32) -> LbName {
    LbName::new("class", index, "cluster", "class-uid")
}

/// A provider as in a process that was just started.
fn provider(network: &Network) -> Nftables {
    Nftables::new(SharedEngine::new(network.programs().clone(), 7), settings())
}

/// Does what an LB loop does: observes, and applies what differs.
async fn converge(
    provider: &Nftables,
    index: u32,
    listeners: impl IntoIterator<Item = (ListenerKey, Listener)>,
) -> Result<Applied, Error> {
    let desired = LoadBalancer { attributes: provider.attributes(index), listeners: listeners.into_iter().collect() };
    let observed = provider.observe(&lb(index)).await?.unwrap_or_default();
    let changes = observed.changes_to(&desired, &BTreeSet::new());
    if changes.is_empty() {
        return Ok(Applied::default());
    }
    provider.apply(&lb(index), ChangeSet::new(&desired, &changes)).await
}

async fn observe(provider: &Nftables, index: u32) -> Observed {
    provider.observe(&lb(index)).await.unwrap().expect("it is there")
}

/// Without the tables of earlier tests.
async fn without_tables(network: &Network) {
    network.engine().remove().await.unwrap();
}

fn ask(port: u16) -> std::io::Result<u8> {
    Machine::Client.ask(VIPS[0], port).map(|answer| answer.pod)
}

async fn a_new_process_goes_on_with_what_an_earlier_one_has_left(network: &Network) {
    without_tables(network).await;
    let before = provider(network);
    converge(&before, 0, [listener("20001/TCP", [1]), listener("20002/TCP", [2])]).await.unwrap();
    converge(&before, 1, [listener("20003/TCP", [3])]).await.unwrap();
    let mut connection = Machine::Client.connect(VIPS[0], 20001).unwrap();
    assert_eq!(connection.ask().unwrap().pod, 1);

    // The first load balancer alone is changed; of the second one the process knows nothing yet.
    let after = provider(network);
    converge(&after, 0, [listener("20001/TCP", [1]), listener("20002/TCP", [3])]).await.unwrap();
    assert_eq!(connection.ask().unwrap().pod, 1, "it goes on");
    assert_eq!(ask(20002).unwrap(), 3);
    assert_eq!(observe(&after, 1).await, observe(&before, 1).await, "the other one is as it was");
    assert_eq!(observe(&after, 1).await.load_balancer.listeners.len(), 1);
}

/// The earlier process was ended after it had changed the tables.
async fn a_new_process_ends_the_connections_that_an_earlier_one_had_no_time_for(network: &Network) {
    without_tables(network).await;
    converge(&provider(network), 0, [listener("20001/TCP_UDP", [1])]).await.unwrap();
    let mut connection = Machine::Client.connect(VIPS[0], 20001).unwrap();
    let flow = Machine::Client.flow(VIPS[0], 20001);
    assert_eq!((connection.ask().unwrap().pod, flow.ask().unwrap().pod), (1, 1));
    let mut programs = network.programs().clone();
    programs.conntrack = sharedlb_agent::Program::new(["false"]);
    let dying = Nftables::new(SharedEngine::new(programs, 7), settings());
    let desired = LoadBalancer { attributes: dying.attributes(0), listeners: [listener("20001/TCP_UDP", [2])].into() };
    let before = observe(&provider(network), 0).await;
    let changes = before.changes_to(&desired, &BTreeSet::new());
    let failed = match dying.apply(&lb(0), ChangeSet::new(&desired, &changes)).await {
        // Where connections of earlier tests are drift.
        Ok(applied) => applied.unconfigured,
        Err(error) => Some(error),
    };
    assert!(matches!(failed, Some(Error::Transient(_))), "it cannot end connections: {failed:?}");

    let after = provider(network);
    let observed = observe(&after, 0).await;
    assert_eq!(observed.load_balancer, desired);
    assert!(observed.drift.contains_key(&20001.try_into().unwrap()), "it is known: {:?}", observed.drift);
    converge(&after, 0, [listener("20001/TCP_UDP", [2])]).await.unwrap();
    assert!(is_refused(&connection.ask()));
    assert_eq!(flow.ask().unwrap().pod, 2);
    assert_eq!(observe(&after, 0).await.drift, BTreeMap::new());
}

async fn what_another_program_alters_is_reported_and_repaired(network: &Network) {
    without_tables(network).await;
    let listeners = || [listener("20001/TCP", [1]), listener("20002/TCP", [2])];
    let [vip, _] = VIPS;
    for tampering in [
        format!("delete element ip sharedlb listeners {{ {vip} . tcp . 20001 }}"),
        format!("add element ip sharedlb restricted {{ {vip} . tcp . 20001 }}"),
        format!("delete element ip sharedlb records {{ {vip} . tcp . 20001 . 0 }}"),
        format!("delete element ip sharedlb records {{ {vip} . tcp . 0 . 0 }}"),
        format!("add element ip sharedlb listeners {{ {vip} . tcp . 20003 : goto spread-1-by-client }}"),
        "insert rule ip6 sharedlb guard drop".to_owned(),
        "delete table ip6 sharedlb".to_owned(),
        "flush set ip sharedlb addresses".to_owned(),
    ] {
        // By the process that has made the tables, and by one that finds them.
        for restarts in [false, true] {
            let mut provider = provider(network);
            converge(&provider, 0, listeners()).await.unwrap();
            let intact = observe(&provider, 0).await;
            network.nft(&tampering).await;
            if restarts {
                provider = self::provider(network);
            }
            let altered = provider.observe(&lb(0)).await.unwrap().unwrap_or_default();
            assert!(
                !altered.changes_to(&intact.load_balancer, &BTreeSet::new()).is_empty(),
                "{tampering}: {altered:?}"
            );
            converge(&provider, 0, listeners()).await.unwrap();
            assert_eq!(observe(&provider, 0).await, intact, "{tampering}");
            assert_eq!((ask(20001).unwrap(), ask(20002).unwrap()), (1, 2), "{tampering}");
            assert!(is_refused(&ask(20003)), "{tampering}");
        }
    }
}

async fn load_balancers_are_there_again_after_a_firewall_has_removed_all_tables(network: &Network) {
    without_tables(network).await;
    let provider = provider(network);
    converge(&provider, 0, [listener("20001/TCP", [1])]).await.unwrap();
    converge(&provider, 1, [listener("20001/TCP", [2])]).await.unwrap();
    let mut changes = provider.changes();
    let changed = tokio::time::timeout(Duration::from_secs(20), async {
        // The monitor may not be ready yet, so the firewall does it again.
        loop {
            network.nft("flush ruleset").await;
            if let Ok(name) = tokio::time::timeout(Duration::from_millis(500), changes.next()).await {
                return name;
            }
            converge(&provider, 0, [listener("20001/TCP", [1])]).await.unwrap();
        }
    });
    let changed = changed.await.expect("the provider reports it within 20 s").expect("changes do not end");
    assert!([lb(0), lb(1)].contains(&changed));
    assert_eq!(provider.observe(&lb(0)).await, Ok(None));
    assert!(ask(20001).is_err());
    converge(&provider, 0, [listener("20001/TCP", [1])]).await.unwrap();
    assert_eq!(ask(20001).unwrap(), 1);
    assert_eq!(observe(&provider, 1).await.load_balancer.listeners.len(), 1, "the other one came with it");
}

async fn load_balancers_that_change_at_the_same_time_are_all_served(network: &Network) {
    without_tables(network).await;
    let addresses = (0..20).map(|index| (index, [format!("10.99.21.{index}").parse().unwrap()].into())).collect();
    let settings = Settings { addresses, ..Settings::default() };
    let provider = Nftables::new(SharedEngine::new(network.programs().clone(), 7), settings);
    let both = |index: u32| [listener("20001/TCP", [1]), listener(&format!("{}/UDP", 20002 + index), [2])];
    for _ in 0..2 {
        let changes = (0..20).map(|index| converge(&provider, index, both(index)));
        for applied in futures::future::join_all(changes).await {
            assert!(applied.unwrap().failed.is_empty());
        }
        for index in 0..20 {
            let keys: Vec<_> = observe(&provider, index).await.load_balancer.listeners.into_keys().collect();
            assert_eq!(keys, both(index).map(|(key, _)| key));
        }
        let deletions = (0..20).map(|index| {
            let provider = &provider;
            async move { provider.delete(&lb(index)).await }
        });
        assert!(futures::future::join_all(deletions).await.iter().all(Result::is_ok));
        assert_eq!(provider.observe(&lb(7)).await, Ok(None));
    }
}

async fn an_address_is_of_one_load_balancer(network: &Network) {
    without_tables(network).await;
    let engine = SharedEngine::new(network.programs().clone(), 7);
    let first = Nftables::new(engine.clone(), settings());
    converge(&first, 0, [listener("20001/TCP", [1])]).await.unwrap();
    let same = Settings { addresses: [(1, [VIPS[0]].into())].into(), ..Settings::default() };
    let error = converge(&Nftables::new(engine, same), 1, [listener("20002/TCP", [2])]).await.unwrap_err();
    assert_eq!(
        error,
        Error::Refused(
            format!("{} is an address of load balancer {}, which this host serves too", VIPS[0], lb(0)).into()
        )
    );
    assert_eq!(ask(20001).unwrap(), 1);
    assert!(is_refused(&ask(20002)));
}

async fn more_listeners_than_one_transaction_takes_are_opened_one_after_the_other(network: &Network) {
    without_tables(network).await;
    let provider = provider(network);
    let all = || (20000..20700).map(|port| (format!("{port}/TCP").parse().unwrap(), listener("1/TCP", [1]).1));
    let applied = converge(&provider, 0, all()).await.unwrap();
    assert_eq!(applied.postponed.len(), 200);
    assert_eq!(observe(&provider, 0).await.load_balancer.listeners.len(), 500);
    let applied = converge(&provider, 0, all()).await.unwrap();
    assert_eq!(applied.postponed.len(), 0);
    assert_eq!((ask(20000).unwrap(), ask(20699).unwrap()), (1, 1));
}
