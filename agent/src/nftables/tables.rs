//! What the tables of the kernel have: the load balancers in them, and what other programs have
//! altered. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use sharedlb_providers::model::fnv1a;
use sharedlb_providers::{Backend, FrontPort, IpFamily, LbName, Listener, ListenerKey, Owner, Transport};

use super::conntrack::{self, Connections};
use super::elements::{Elements, Set, backend_of, backends};
use super::listing::Listing;
use super::records::{self, RecordKey};
use super::ruleset::{self, Difference, FAMILIES};
use super::{DataPath, ServedLoadBalancer};

/// The tables as the kernel has them.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// The [version](ruleset::version) of their rules; `None`: a table is missing, or another
    /// program has altered its rules
    pub(super) rules: Option<u64>,
    /// What a data path has
    elements: Elements,
    /// The sockets of pods that served a listener a short while ago
    former_backends: Elements,
}

impl Tables {
    /// The tables of these listings, in the order of [`FAMILIES`]. `None`: there is none.
    pub(super) fn of(listings: [Option<Listing>; 2]) -> Self {
        let mut rules: Vec<Option<u64>> = Vec::new();
        let mut elements = Elements::default();
        for (family, listing) in FAMILIES.into_iter().zip(listings) {
            let Some(listing) = listing else {
                rules.push(None);
                continue;
            };
            rules.push(recorded_version(family, &listing));
            elements.extend(listing.elements);
        }
        let rules = rules[0].filter(|version| rules[1] == Some(*version));
        let former_backends = elements.take(Set::FormerBackends);
        FAMILIES.into_iter().for_each(|family| elements.remove_record(RecordKey::of_rules(family)));
        Self { rules, elements, former_backends }
    }

    /// Whether they are just those of this data path.
    pub(super) fn have(&self, data_path: &DataPath) -> bool {
        self.rules == Some(ruleset::version(data_path.seed)) && self.elements == Elements::of(data_path)
    }

    /// The load balancers that are recorded, with the backends to which connections are led.
    pub(super) fn load_balancers(&self) -> BTreeMap<LbName, ServedLoadBalancer> {
        let records = records::all(&self.elements);
        let of_load_balancers = records.iter().filter(|(key, _)| key.port == 0);
        let mut load_balancers: BTreeMap<IpAddr, (LbName, ServedLoadBalancer)> = of_load_balancers
            .filter_map(|(key, record)| Some((key.address, records::load_balancer(record)?)))
            .collect();
        let sockets = self.sockets();
        for (RecordKey { address, transport, port }, record) in records {
            let Some(port) = NonZeroU16::new(port) else { continue };
            let Some((_, served)) = load_balancers.get_mut(&address) else { continue };
            let unknown = || (transport.into(), Listener::new(Owner::unknown(), []));
            let (protocol, listener) = records::listener(&record).unwrap_or_else(unknown);
            let of_transport = |transport| {
                let front = FrontPort { port, transport };
                let sockets = served.addresses.iter().filter_map(|address| sockets.get(&(*address, front))).flatten();
                sockets.map(|socket| backend(*socket)).collect()
            };
            let backends = Backend::by_transport(protocol, of_transport).into();
            served.listeners.insert(ListenerKey { port, protocol }, Listener { backends, ..listener });
        }
        load_balancers.into_values().collect()
    }

    /// To where each front port leads.
    fn sockets(&self) -> BTreeMap<(IpAddr, FrontPort), BTreeSet<SocketAddr>> {
        let mut sockets: BTreeMap<_, BTreeSet<SocketAddr>> = BTreeMap::new();
        for connections in conntrack::served(&self.elements) {
            if let Connections::Served { address, port, backend } = connections {
                sockets.entry((address, port)).or_default().insert(backend);
            }
        }
        sockets
    }

    /// Where elements are not as the recorded load balancers have them.
    pub(super) fn damage(&self, seed: u32) -> Damage {
        let recorded = DataPath { seed, load_balancers: self.load_balancers() };
        let mut damage = Damage::default();
        for key in Difference::between(&self.elements, &Elements::of(&recorded)).keys() {
            match front(key) {
                Some(front) => _ = damage.ports.insert(front),
                None => damage.elsewhere = true,
            }
        }
        damage
    }

    /// The sockets in the tables of pods that serve no listener of a data path, as backends: they
    /// did so a short while ago.
    pub(super) fn former_backends(&self, data_path: &DataPath) -> Elements {
        let in_tables = self.former_backends.in_set(Set::FormerBackends).chain(self.elements.in_set(Set::Backends));
        let sockets: BTreeSet<(Transport, SocketAddr)> = in_tables.filter_map(|(key, _)| backend_of(key)).collect();
        let serving: BTreeSet<_> = backends(data_path).collect();
        let mut former = Elements::default();
        former.add_backends(sockets.difference(&serving).copied());
        former
    }

    /// The front ports and backends between which there may be connections.
    pub(super) fn connections(&self) -> BTreeSet<Connections> {
        conntrack::served(&self.elements)
    }
}

/// Elements that are not as they are recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Damage {
    /// Of these port numbers of addresses
    pub(super) ports: BTreeSet<(IpAddr, NonZeroU16)>,
    /// Of no certain port
    pub(super) elsewhere: bool,
}

/// The address and port number at the begin of a key.
fn front(key: &str) -> Option<(IpAddr, NonZeroU16)> {
    let mut parts = key.split(" . ");
    Some((parts.next()?.parse().ok()?, parts.nth(1)?.parse().ok()?))
}

fn backend(socket: SocketAddr) -> Backend {
    Backend {
        address: socket.ip(),
        port: NonZeroU16::new(socket.port()).unwrap_or(NonZeroU16::MIN),
        pod: None,
        node: None,
        provider_id: None,
        transport: None,
    }
}

/// The record of the rules of a table: their version, and what tells whether another program has
/// altered them. `nft` prints rules in its own way, so that is a hash of how they were listed
/// after they were made.
pub(super) fn of_rules(seed: u32, listing: &Listing) -> String {
    format!("{:016x} {:016x}", ruleset::version(seed), hash(listing))
}

/// The version of the rules of a table, if they are those that it was made with.
fn recorded_version(family: IpFamily, listing: &Listing) -> Option<u64> {
    let records = records::all(&listing.elements);
    let (version, recorded) = records.get(&RecordKey::of_rules(family))?.split_once(' ')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    (number(recorded)? == hash(listing)).then(|| number(version)).flatten()
}

fn hash(listing: &Listing) -> u64 {
    let definition: Vec<String> = listing.definition.iter().map(ToString::to_string).collect();
    fnv1a(definition.iter().map(String::as_bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::nftables::elements::Place;
    use crate::nftables::fixtures::{self, data_path, listener};
    use crate::nftables::ruleset::tests::data_paths;

    fn tables(data_path: &DataPath) -> Tables {
        Tables { elements: Elements::of(data_path), rules: Some(ruleset::version(data_path.seed)), ..Tables::default() }
    }

    /// A data path with what the tables record alone.
    fn recorded(mut data_path: DataPath) -> DataPath {
        for ServedLoadBalancer { addresses, listeners, .. } in data_path.load_balancers.values_mut() {
            let reached = |backend: &&Backend| {
                addresses.iter().any(|address| IpFamily::of(*address) == IpFamily::of(backend.address))
            };
            for (key, listener) in listeners {
                let of_transport = |transport| {
                    let backends = listener.backends.iter().filter(reached).filter(|backend| backend.takes(transport));
                    backends.map(|backend| Backend { transport: None, ..backend.clone() }).collect()
                };
                listener.backends = Backend::by_transport(key.protocol, of_transport).into();
            }
        }
        data_path
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_new_process_reads_what_an_earlier_one_has_left(left in data_paths()) {
            let tables = tables(&left);
            prop_assert!(tables.have(&left));
            prop_assert_eq!(tables.damage(left.seed), Damage::default());
            prop_assert_eq!(tables.load_balancers(), recorded(left).load_balancers);
        }
    }

    #[test]
    fn damage_is_found_at_its_port_or_elsewhere() {
        let left = data_path([listener("1/TCP", [fixtures::backend(1)]), listener("2/TCP", [fixtures::backend(1)])]);
        let intact = Elements::of(&left);
        let address: IpAddr = "10.0.0.10".parse().unwrap();
        let port = |number| (address, NonZeroU16::new(number).unwrap());
        for (set, key, expected) in [
            (Set::Listeners, "10.0.0.10 . tcp . 2", Damage { ports: [port(2)].into(), elsewhere: false }),
            (Set::Listeners, "10.0.0.10 . tcp . 3", Damage { ports: [port(3)].into(), elsewhere: false }),
            (Set::Restricted, "10.0.0.10 . tcp . 1", Damage { ports: [port(1)].into(), elsewhere: false }),
            (Set::Backends, "tcp . 10.244.0.9 . 8080", Damage { ports: [].into(), elsewhere: true }),
            (Set::Addresses, "10.0.0.11", Damage { ports: [].into(), elsewhere: true }),
        ] {
            let mut elements = intact.clone();
            elements.insert(Place { family: IpFamily::V4, set }, key.to_owned(), "goto spread".into());
            let altered = Tables { elements, ..Tables::default() };
            assert_eq!(altered.damage(left.seed), expected, "{set} {key}");
            assert!(!altered.have(&left));
        }
    }

    #[test]
    fn a_listener_whose_record_is_damaged_has_an_unknown_owner() {
        let (key, listener) = listener("1/UDP", [fixtures::backend(1)]);
        let mut elements = Elements::of(&data_path([(key, listener.clone())]));
        let place = Place { family: IpFamily::V4, set: Set::Records };
        elements.insert(place, "10.0.0.10 . udp . 1 . 0".into(), "UDP".into());
        let found = Tables { elements, ..Tables::default() }.load_balancers();
        let found: Vec<_> = found.into_values().flat_map(|served| served.listeners).collect();
        assert_eq!(found, [(key, Listener { owner: Owner::unknown(), ..listener })]);
    }

    #[test]
    fn rules_that_are_not_as_they_were_made_have_no_version() {
        let of = |rules: &str| {
            [IpFamily::V4, IpFamily::V6].map(|family| {
                let mut listing = Listing { definition: vec![rules.into()], ..Listing::default() };
                let record = of_rules(7, &Listing { definition: vec!["made".into()], ..Listing::default() });
                listing.elements.add_record(RecordKey::of_rules(family), &record);
                Some(listing)
            })
        };
        let made = Tables::of(of("made"));
        assert_eq!(made.rules, Some(ruleset::version(7)));
        assert!(made.have(&DataPath { seed: 7, ..DataPath::default() }), "the record of the rules is no element");
        assert_eq!(Tables::of(of("altered")).rules, None);
        let [v4, _] = of("made");
        assert_eq!(Tables::of([v4, None]).rules, None);
    }
}
