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
            Some(before) => change(before, &case.after),
            None => install(&case.after, &Elements::default()),
        };
        // One element a line can be read, and compared by eye.
        let written = written.replace(", ", ",\n\t").replace("{ ", "{\n\t");
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
    let change = change(&before, &after);
    assert!(change.contains("10.0.0.10 . tcp . 2") && !change.contains("10.0.0.10 . tcp . 1"), "{change}");
}

/// `records` has what names become.
#[test]
fn a_name_of_a_tenant_is_no_command() {
    let hostile = "a\" } ; flush ruleset # \"\n";
    let (key, mut with_names) = listener("1/TCP", [fixtures::backend(1)]);
    with_names.owner.claim = hostile.into();
    with_names.backends = [Backend { pod: Some(hostile.into()), ..fixtures::backend(1) }].into();
    let text = install(&data_path([(key, with_names)]), &Elements::default());
    assert!(!text.contains("flush ruleset") && !text.contains("# "), "{text}");
    let plain = install(&data_path([listener("1/TCP", [fixtures::backend(1)])]), &Elements::default());
    assert_eq!(text.lines().count(), plain.lines().count());
}

#[test]
fn the_socket_of_a_pod_that_goes_is_known_for_a_while() {
    let before = data_path([listener("1/UDP", [fixtures::backend(1), fixtures::backend(2)])]);
    let after = data_path([listener("1/UDP", [fixtures::backend(2)])]);
    let change = change(&before, &after);
    let former = "element ip sharedlb former-backends { udp . 10.244.0.1 . 8080 }";
    assert!(change.ends_with(&format!("add {former}\ndelete {former}\nadd {former}\n")), "{change}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The kernel refuses to remove what is not there, and to add what is there with other data.
    #[test]
    fn a_change_leads_from_any_data_path_to_any_other(before in data_paths(), after in data_paths()) {
        let elements = Elements::of(&before);
        let Difference { removed, added } = difference(&before, &after);
        prop_assert_eq!(removed.without(&elements), Elements::default(), "it is not there");
        let mut elements = elements.without(&removed);
        elements.extend(added);
        prop_assert_eq!(elements, Elements::of(&after));
    }
}

/// Data paths with few addresses, ports and backends, so that two of them have much in common.
pub(in crate::nftables) fn data_paths() -> impl Strategy<Value = DataPath> {
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
