//! The tables as golden files, and how changes are carried out.

use std::path::PathBuf;

use ipnet::IpNet;
use proptest::prelude::*;
use serde::Deserialize;
use sharedlb_providers::{
    Backend, LbName, Listener, ListenerKey, ListenerOptions, Protocol, SessionAffinity, Transport,
};

use super::super::fixtures::{self, data_path, listener};
use super::super::{ServedLoadBalancer, SourceAddress};
use super::*;

/// Writes the golden files again.
const UPDATE: &str = "UPDATE_GOLDEN";

/// The content of a golden file, besides the text that is in a file of its own.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    /// What the case is about, in a sentence
    #[expect(dead_code, reason = "for people")]
    about: String,
    /// The data path that is there; none: the tables are made
    before: Option<DataPath>,
    /// The desired data path
    after: DataPath,
}

#[test]
fn tables_and_their_changes_are_as_in_the_golden_files() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nftables");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    cases.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    assert!(!cases.is_empty(), "there are no cases in {}", folder.display());
    for path in cases {
        let text = std::fs::read_to_string(&path).unwrap();
        let case: Case = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let written = match &case.before {
            Some(before) => changes(before, &case.after),
            None => vec![install(&case.after)],
        };
        // One element a line can be read, and compared by eye.
        let written = written.join("\n").replace(", ", ",\n\t").replace("{ ", "{\n\t");
        let golden = path.with_extension("nft");
        if std::env::var_os(UPDATE).is_some() {
            std::fs::write(&golden, written).unwrap();
        } else {
            let expected = std::fs::read_to_string(&golden).unwrap();
            assert_eq!(written, expected, "{}: {UPDATE}=1 writes it again", golden.display());
        }
    }
}

#[test]
fn a_listener_that_stays_is_not_touched_when_another_changes() {
    let before = data_path([listener("1/TCP", [fixtures::backend(1)]), listener("2/TCP", [fixtures::backend(2)])]);
    let after = data_path([listener("1/TCP", [fixtures::backend(1)]), listener("2/TCP", [fixtures::backend(3)])]);
    let changes = changes(&before, &after).join("\n");
    assert!(changes.contains("10.0.0.10 . tcp . 2") && !changes.contains("10.0.0.10 . tcp . 1"), "{changes}");
}

#[test]
fn a_name_of_a_tenant_is_in_no_text() {
    let hostile = "a } ; flush ruleset # \"\n";
    let (key, mut with_names) = listener("1/TCP", [fixtures::backend(1)]);
    with_names.owner.claim = hostile.into();
    with_names.backends = [Backend { pod: Some(hostile.into()), ..fixtures::backend(1) }].into();
    let text = install(&data_path([(key, with_names)]));
    assert_eq!(text, install(&data_path([listener("1/TCP", [fixtures::backend(1)])])));
}

#[test]
fn many_listeners_change_in_several_transactions_the_closing_ones_first() {
    let key = |port: u16| ListenerKey { port: port.try_into().unwrap(), protocol: Protocol::Tcp };
    let listeners = |ports: std::ops::Range<u16>| {
        data_path(ports.map(|port| (key(port), listener("1/TCP", [fixtures::backend(1)]).1)))
    };
    let changes = changes(&listeners(20000..20600), &listeners(20600..21200));
    assert_eq!(changes.len(), 3);
    assert!(!changes[0].contains("add element"), "{}", &changes[0][..100]);
    assert!(!changes[2].contains("delete element"), "{}", &changes[2][..100]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The kernel refuses to remove what is not there, and to add what is there with other data.
    #[test]
    fn changes_lead_from_any_data_path_to_any_other(before in data_paths(), after in data_paths()) {
        let mut elements = Elements::of(&before);
        for Difference { removed, added } in differences(&before, &after) {
            prop_assert!(removed.without(&elements).is_empty(), "it is not there: {removed:?}");
            elements = elements.without(&removed);
            elements.extend(added);
        }
        prop_assert_eq!(elements, Elements::of(&after));
    }
}

/// Data paths with few addresses, ports and backends, so that two of them have much in common.
fn data_paths() -> impl Strategy<Value = DataPath> {
    let load_balancer = |first: u8| {
        let addresses = prop::sample::subsequence(
            vec![
                format!("10.0.0.{first}").parse().unwrap(),
                format!("10.0.0.{}", first + 1).parse().unwrap(),
                format!("fd00::{first}").parse().unwrap(),
            ],
            1..=3,
        );
        let source = prop::sample::select(vec![SourceAddress::Vip, SourceAddress::Host]);
        let keys = (1u16..5, prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]))
            .prop_map(|(port, protocol)| ListenerKey { port: port.try_into().unwrap(), protocol });
        (addresses, source, prop::collection::btree_map(keys, listeners(), 0..5)).prop_map(
            |(addresses, source_address, listeners)| ServedLoadBalancer {
                addresses: addresses.into_iter().collect(),
                source_address,
                listeners,
            },
        )
    };
    (prop::option::of(load_balancer(10)), prop::option::of(load_balancer(20))).prop_map(|both| {
        let named = [both.0, both.1].into_iter().zip(0..);
        let named = named.filter_map(|(served, index)| Some((LbName::new("class", index, "cluster", "uid"), served?)));
        DataPath { seed: 7, load_balancers: named.collect() }
    })
}

fn listeners() -> impl Strategy<Value = Listener> {
    let backend = (1u8..5, any::<bool>(), prop::option::weighted(0.2, Just(Transport::Udp))).prop_map(
        |(host, ipv6, transport)| {
            let address = if ipv6 { format!("fd00:10:244::{host}") } else { format!("10.244.0.{host}") };
            Backend { address: address.parse().unwrap(), transport, ..fixtures::backend(host) }
        },
    );
    let ranges: Vec<IpNet> =
        ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1/32", "fd00::/8"].map(|range| range.parse().unwrap()).into();
    let options = (prop::sample::subsequence(ranges, 0..3), any::<bool>())
        .prop_map(|(ranges, affinity)| ListenerOptions::new(ranges, affinity.then(SessionAffinity::default)));
    (prop::collection::btree_set(backend, 0..5), options)
        .prop_map(|(backends, options)| Listener { options, ..listener("1/TCP", backends).1 })
}
