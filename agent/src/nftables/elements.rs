//! The sets and maps of the tables, and what is in them for a data path: pure.
//!
//! Keys and data are texts, as `nft` reads and prints them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::{fmt, mem};

use ipnet::IpNet;
use sharedlb_providers::{FrontPort, IpFamily, LbName, Listener, ListenerKey, Transport};

use super::records::{self, RecordKey};
use super::slots::{self, SlotCount};
use super::{DataPath, ServedLoadBalancer, SourceAddress};

/// A set or a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    /// The addresses of load balancers
    Addresses,
    /// The addresses of load balancers that are the source of connections to pods: each to itself
    Sources,
    /// The sockets of pods that serve a listener
    Backends,
    /// The sockets of pods that did so a short while ago. The kernel removes them after a time
    FormerBackends,
    /// The front ports that serve certain clients only
    Restricted,
    /// The clients of these
    Clients,
    /// The chain that spreads the connections of a front port
    Listeners,
    /// The backend of each slot of a front port
    Slots(SlotCount),
    /// For which load balancers and claims all of it is ([`records`])
    Records,
}

impl Set {
    /// All sets and maps.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let for_packets = [
            Self::Addresses,
            Self::Sources,
            Self::Backends,
            Self::FormerBackends,
            Self::Restricted,
            Self::Clients,
            Self::Listeners,
        ];
        for_packets.into_iter().chain(SlotCount::ALL.map(Self::Slots)).chain([Self::Records])
    }

    /// The one of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::all().find(|set| set.to_string() == name)
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses => f.write_str("addresses"),
            Self::Sources => f.write_str("sources"),
            Self::Backends => f.write_str("backends"),
            Self::FormerBackends => f.write_str("former-backends"),
            Self::Restricted => f.write_str("restricted"),
            Self::Clients => f.write_str("clients"),
            Self::Listeners => f.write_str("listeners"),
            Self::Slots(count) => write!(f, "slots-{}", count.number()),
            Self::Records => f.write_str("records"),
        }
    }
}

/// The chain that spreads the connections of a front port over so many slots.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spread {
    pub(super) slots: SlotCount,
    pub(super) hash: Hashed,
}

impl Spread {
    /// All chains.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let of = |slots| Hashed::ALL.map(|hash| Self { slots, hash });
        SlotCount::ALL.into_iter().flat_map(of)
    }
}

/// The name of the chain.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.hash {
            Hashed::Connection => "connection",
            Hashed::Client => "client",
        };
        write!(f, "spread-{}-by-{by}", self.slots.number())
    }
}

/// Of what a slot is the hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hashed {
    /// The source address and port
    Connection,
    /// The source address alone: session affinity
    Client,
}

impl Hashed {
    const ALL: [Self; 2] = [Self::Connection, Self::Client];
}

/// A set or map of one of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) family: IpFamily,
    pub(super) set: Set,
}

/// Elements by their place and key. The elements of sets have no data, but those of
/// [`Set::Records`], whose data is a piece of a record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Elements(BTreeMap<Place, BTreeMap<String, String>>);

impl Elements {
    /// Everything that a data path has.
    pub(super) fn of(data_path: &DataPath) -> Self {
        let mut elements = Self::default();
        elements.add_load_balancers(data_path);
        elements.add_backends(backends(data_path));
        for ServedLoadBalancer { addresses, listeners, .. } in data_path.load_balancers.values() {
            for (key, listener) in listeners {
                elements.add_listener(data_path.seed, *key, Served { addresses, listener });
            }
        }
        elements
    }

    /// What these listeners alone have; `None`: nothing.
    pub(super) fn of_listeners<'a>(
        seed: u32,
        listeners: impl Iterator<Item = (ListenerKey, Option<Served<'a>>)>,
    ) -> Self {
        let mut elements = Self::default();
        for (key, served) in listeners {
            if let Some(served) = served {
                elements.add_listener(seed, key, served);
            }
        }
        elements
    }

    /// What all load balancers have besides their listeners.
    pub(super) fn add_load_balancers(&mut self, data_path: &DataPath) {
        for (name, served) in &data_path.load_balancers {
            let ServedLoadBalancer { addresses, source_address, .. } = served;
            for address in addresses {
                let family = IpFamily::of(*address);
                self.insert(Place { family, set: Set::Addresses }, address.to_string(), String::new());
                if *source_address == SourceAddress::Vip {
                    self.insert(Place { family, set: Set::Sources }, address.to_string(), address.to_string());
                }
            }
            if let Some(&first) = addresses.first() {
                self.add_record(RecordKey::of_load_balancer(first), &records::of_load_balancer(name, served));
            }
        }
    }

    /// What one listener alone has.
    fn add_listener(&mut self, seed: u32, key: ListenerKey, Served { addresses, listener }: Served<'_>) {
        if let Some(&first) = addresses.first() {
            self.add_record(RecordKey::of_listener(first, key), &records::of_listener(key.protocol, listener));
        }
        for &address in addresses {
            let family = IpFamily::of(address);
            for port in key.front_ports() {
                let front = front(address, port);
                self.add_clients(family, &front, listener);
                let mut backends = backends_of_transport(port.transport, listener);
                backends.retain(|backend| IpFamily::of(backend.ip()) == family);
                let hash = match listener.options.session_affinity {
                    Some(_) => Hashed::Client,
                    None => Hashed::Connection,
                };
                self.add_slots(family, &front, hash, &slots::assign(seed, &backends), backends.len());
            }
        }
    }

    fn add_clients(&mut self, family: IpFamily, front: &str, listener: &Listener) {
        let ranges = &listener.options.source_ranges;
        if ranges.is_empty() {
            return;
        }
        self.insert(Place { family, set: Set::Restricted }, front.to_owned(), String::new());
        // The ranges of a set must not overlap.
        for range in IpNet::aggregate(&ranges.iter().copied().collect()) {
            if IpFamily::of(range.addr()) == family {
                self.insert(Place { family, set: Set::Clients }, format!("{front} . {}", text(range)), String::new());
            }
        }
    }

    fn add_slots(&mut self, family: IpFamily, front: &str, hash: Hashed, slots: &[SocketAddr], backends: usize) {
        if slots.is_empty() {
            return;
        }
        let count = SlotCount::of_backends(backends);
        let chain = Spread { slots: count, hash };
        self.insert(Place { family, set: Set::Listeners }, front.to_owned(), format!("goto {chain}"));
        let place = Place { family, set: Set::Slots(count) };
        for (slot, backend) in slots.iter().enumerate() {
            let key = if count == SlotCount::One { front.to_owned() } else { format!("{front} . {slot}") };
            self.insert(place, key, socket(*backend));
        }
    }

    /// The sockets of pods.
    pub(super) fn add_backends(&mut self, backends: impl IntoIterator<Item = (Transport, SocketAddr)>) {
        for (transport, backend) in backends {
            let place = Place { family: IpFamily::of(backend.ip()), set: Set::Backends };
            self.insert(place, format!("{} . {}", transport.lower_case(), socket(backend)), String::new());
        }
    }

    /// A record, in pieces.
    pub(super) fn add_record(&mut self, key: RecordKey, text: &str) {
        let place = Place { family: IpFamily::of(key.address), set: Set::Records };
        for (number, piece) in records::pieces(text).enumerate() {
            self.insert(place, format!("{key} . {number}"), piece.to_owned());
        }
    }

    /// Adds an element.
    pub(super) fn insert(&mut self, place: Place, key: String, data: String) {
        self.0.entry(place).or_default().insert(key, data);
    }

    /// The data of an element.
    fn get(&self, place: Place, key: &str) -> Option<&str> {
        self.0.get(&place)?.get(key).map(String::as_str)
    }

    /// Removes a record.
    pub(super) fn remove_record(&mut self, key: RecordKey) {
        let place = Place { family: IpFamily::of(key.address), set: Set::Records };
        let Some(records) = self.0.get_mut(&place) else { return };
        records.retain(|piece, _| RecordKey::of_piece(piece).is_none_or(|(of, _)| of != key));
        if records.is_empty() {
            self.0.remove(&place);
        }
    }

    /// Takes the elements of a set out.
    pub(super) fn take(&mut self, set: Set) -> Self {
        let (taken, left) = mem::take(&mut self.0).into_iter().partition(|(place, _)| place.set == set);
        self.0 = left;
        Self(taken)
    }

    /// The keys and data of one of the tables' sets.
    pub(super) fn in_set(&self, set: Set) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter(move |(place, _, _)| place.set == set).map(|(_, key, data)| (key, data))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Place, &str, &str)> {
        self.0.iter().flat_map(|(place, of)| of.iter().map(|(key, data)| (*place, key.as_str(), data.as_str())))
    }

    /// The elements that are not in the others, or differ there.
    pub(super) fn without(&self, others: &Self) -> Self {
        let mut left = Self::default();
        for (place, key, data) in self.iter().filter(|(place, key, data)| others.get(*place, key) != Some(data)) {
            left.insert(place, key.to_owned(), data.to_owned());
        }
        left
    }

    /// Adds other elements.
    pub(super) fn extend(&mut self, others: Self) {
        for (place, elements) in others.0 {
            self.0.entry(place).or_default().extend(elements);
        }
    }

    /// The places that have elements, and these by key.
    pub(super) fn places(&self) -> impl Iterator<Item = (Place, &BTreeMap<String, String>)> {
        self.0.iter().map(|(place, elements)| (*place, elements))
    }
}

/// A listener of a load balancer, with what its elements depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Served<'a> {
    pub(super) addresses: &'a BTreeSet<IpAddr>,
    pub(super) listener: &'a Listener,
}

impl<'a> Served<'a> {
    /// The sockets of its pods, by transport: those of the families of its addresses.
    pub(super) fn backends(self, key: ListenerKey) -> impl Iterator<Item = (Transport, SocketAddr)> + use<'a> {
        let Self { addresses, listener } = self;
        let reached =
            |backend: &SocketAddr| addresses.iter().any(|address| IpFamily::of(*address) == IpFamily::of(backend.ip()));
        key.protocol.transports().iter().flat_map(move |&transport| {
            let backends = backends_of_transport(transport, listener).into_iter().filter(reached);
            backends.map(move |backend| (transport, backend))
        })
    }
}

/// A listener that differs between two data paths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Altered<'a> {
    pub(super) key: ListenerKey,
    pub(super) before: Option<Served<'a>>,
    pub(super) after: Option<Served<'a>>,
}

/// The listeners that differ.
pub(super) fn altered<'a>(before: &'a DataPath, after: &'a DataPath) -> Vec<Altered<'a>> {
    let (before, after) = (listeners(before), listeners(after));
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
    let both = keys.into_iter().map(|id| (id.1, before.get(&id).copied(), after.get(&id).copied()));
    both.filter(|(_, before, after)| before != after)
        .map(|(key, before, after)| Altered { key, before, after })
        .collect()
}

fn listeners(data_path: &DataPath) -> BTreeMap<(&LbName, ListenerKey), Served<'_>> {
    let mut all = BTreeMap::new();
    for (name, ServedLoadBalancer { addresses, listeners, .. }) in &data_path.load_balancers {
        all.extend(listeners.iter().map(|(key, listener)| ((name, *key), Served { addresses, listener })));
    }
    all
}

/// The sockets of the pods of all listeners.
pub(super) fn backends(data_path: &DataPath) -> impl Iterator<Item = (Transport, SocketAddr)> {
    data_path.load_balancers.values().flat_map(|ServedLoadBalancer { addresses, listeners, .. }| {
        listeners.iter().flat_map(|(key, listener)| Served { addresses, listener }.backends(*key))
    })
}

/// The socket of a key of [`Set::Backends`].
pub(super) fn backend_of(key: &str) -> Option<(Transport, SocketAddr)> {
    let mut parts = key.split(" . ");
    let transport = transport_named(parts.next()?)?;
    Some((transport, SocketAddr::new(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?)))
}

/// The transport of this name in keys.
pub(super) fn transport_named(name: &str) -> Option<Transport> {
    [Transport::Tcp, Transport::Udp].into_iter().find(|transport| transport.lower_case() == name)
}

/// The sockets of the pods that get the traffic of a transport, in their order.
fn backends_of_transport(transport: Transport, listener: &Listener) -> Vec<SocketAddr> {
    let backends = listener.backends.iter().filter(|backend| backend.takes(transport));
    let sockets: BTreeSet<SocketAddr> =
        backends.map(|backend| SocketAddr::new(backend.address, backend.port.get())).collect();
    sockets.into_iter().collect()
}

/// A front port of an address, as a key.
fn front(address: IpAddr, port: FrontPort) -> String {
    format!("{address} . {} . {}", port.transport.lower_case(), port.port)
}

fn socket(backend: SocketAddr) -> String {
    format!("{} . {}", backend.ip(), backend.port())
}

/// A range of addresses as `nft` prints it: a single address has no prefix length.
fn text(range: IpNet) -> String {
    if range.prefix_len() == range.max_prefix_len() { range.addr().to_string() } else { range.to_string() }
}
