//! Other programs that alter the tables.

use sharedlb_agent::nftables::Engine;

use crate::Test;
use crate::network::{Machine, Network, VIPS, data_path, is_refused, listener};
use crate::tests;

pub(crate) const TESTS: &[(&str, Test)] = tests![
    what_is_as_it_should_be_needs_no_repair,
    tables_that_are_flushed_away_are_made_again,
    rules_that_are_removed_or_added_are_repaired,
    elements_that_are_removed_or_added_are_repaired,
    datagrams_that_went_nowhere_meanwhile_go_to_their_pod,
    an_apply_after_a_failure_makes_the_tables_anew,
];

async fn serving(network: &Network) -> Engine {
    network.serving([listener("20001/TCP_UDP", [1, 2])]).await
}

/// Repairs the tables, and finds nothing to repair after that.
async fn assert_repaired(engine: &mut Engine) {
    assert!(engine.repair().await.unwrap(), "there is something to repair");
    assert!(!engine.repair().await.unwrap(), "it is repaired");
    for vip in VIPS {
        assert!(Machine::Client.ask(vip, 20001).is_ok());
        assert!(is_refused(&Machine::Client.ask(vip, 20002)));
    }
}

async fn what_is_as_it_should_be_needs_no_repair(network: &Network) {
    let mut engine = serving(network).await;
    assert!(!engine.repair().await.unwrap());
    engine.apply(&data_path([listener("20001/TCP", [2, 3]), listener("20002/UDP", [1])])).await.unwrap();
    assert!(!engine.repair().await.unwrap());
}

async fn tables_that_are_flushed_away_are_made_again(network: &Network) {
    let mut engine = serving(network).await;
    for tampering in ["flush ruleset", "delete table ip sharedlb", "delete table ip6 sharedlb"] {
        network.nft(tampering).await;
        assert_repaired(&mut engine).await;
    }
}

async fn rules_that_are_removed_or_added_are_repaired(network: &Network) {
    let mut engine = serving(network).await;
    for tampering in [
        "flush chain ip sharedlb spread",
        "flush table ip6 sharedlb",
        "insert rule ip sharedlb guard drop",
        "add chain ip sharedlb theirs { type filter hook input priority 0; policy drop; }",
    ] {
        network.nft(tampering).await;
        assert_repaired(&mut engine).await;
    }
}

async fn elements_that_are_removed_or_added_are_repaired(network: &Network) {
    let mut engine = serving(network).await;
    let [vip, vip_v6] = VIPS;
    let pod = Machine::Pod(3).addresses()[0];
    for tampering in [
        "flush map ip sharedlb listeners".to_owned(),
        format!("delete element ip6 sharedlb addresses {{ {vip_v6} }}"),
        format!("add element ip sharedlb listeners {{ {vip} . tcp . 20002 : goto spread-1-by-client }}"),
        format!("add element ip sharedlb slots-1 {{ {vip} . tcp . 20002 : {pod} . 8080 }}"),
        format!("add element ip sharedlb restricted {{ {vip} . tcp . 20001 }}"),
    ] {
        network.nft(&tampering).await;
        assert_repaired(&mut engine).await;
    }
}

async fn datagrams_that_went_nowhere_meanwhile_go_to_their_pod(network: &Network) {
    let mut engine = serving(network).await;
    let flows = VIPS.map(|vip| Machine::Client.flow(vip, 20001));
    network.nft("flush ruleset").await;
    assert!(flows.iter().all(|flow| is_refused(&flow.ask())), "the host itself refuses them");
    assert!(engine.repair().await.unwrap());
    assert!(flows.iter().all(|flow| flow.ask().is_ok()));
}

async fn an_apply_after_a_failure_makes_the_tables_anew(network: &Network) {
    let mut engine = serving(network).await;
    network.nft("delete table ip sharedlb").await;
    let next = data_path([listener("20001/TCP", [3])]);
    engine.apply(&next).await.expect_err("the elements to change are not there");
    engine.apply(&next).await.unwrap();
    assert_eq!(Machine::Client.ask(VIPS[0], 20001).unwrap().pod, 3);
    assert!(!engine.repair().await.unwrap());
}
