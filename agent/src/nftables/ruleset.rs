//! The tables as text for `nft -f -`: pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use sharedlb_providers::model::fnv1a;
use sharedlb_providers::{IpFamily, Transport};

use super::DataPath;
use super::elements::{Altered, Elements, Hashed, Place, Set, Spread, altered, backends};
use super::slots::SlotCount;

/// The name of the tables, in both families.
pub const TABLE: &str = "sharedlb";

/// How long the tables know the socket of a pod that serves a listener no more: `nft`'s text.
///
/// Such a pod may still answer clients. On a host that remembers none of these connections, the
/// answer to a client's port would be taken for a packet to the listener of that number. After
/// this time an answer is unlikely: Linux remembers a flow of datagrams for 120 s
/// (`nf_conntrack_udp_timeout_stream`).
const FORMER_BACKENDS_STAY: &str = "5m";

/// The two families of tables, as `nft` names them.
pub(super) const FAMILIES: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

/// Makes both tables, with everything that the data path has, in the place of those that there
/// are: one transaction, so that no packet meets a part of them. `former` are the sockets of pods
/// that served a listener a short while ago.
#[must_use]
pub(super) fn install(data_path: &DataPath, former: &Elements) -> String {
    removal() + &definitions(data_path.seed).concat() + &additions(&Elements::of(data_path)) + &remember(former)
}

/// Which rules the tables have: another number in a version with other ones, and with another
/// seed.
#[must_use]
pub fn version(seed: u32) -> u64 {
    let definitions = definitions(seed);
    fnv1a(definitions.iter().map(String::as_bytes))
}

fn definitions(seed: u32) -> [String; 2] {
    FAMILIES.map(|family| definition(family, seed))
}

/// Removes both tables, if they are there.
#[must_use]
pub fn removal() -> String {
    // To delete a table that is not there is an error.
    let remove = |family| format!("add table {0} {TABLE}\ndelete table {0} {TABLE}\n", name(family));
    FAMILIES.map(remove).concat()
}

/// The transaction that changes the tables of a data path to those of another one with the same
/// seed.
#[must_use]
pub fn change(before: &DataPath, after: &DataPath) -> String {
    difference(before, after).script()
}

/// What differs between two data paths with the same seed. It takes as long as what differs is
/// much, and not as there are many listeners.
pub(super) fn difference(before: &DataPath, after: &DataPath) -> Difference {
    let altered = altered(before, after);
    let earlier = Elements::of_listeners(before.seed, altered.iter().map(|one| (one.key, one.before)));
    let later = Elements::of_listeners(after.seed, altered.iter().map(|one| (one.key, one.after)));
    let mut difference = Difference::between(&earlier, &later);
    difference.extend(shared(before, after, &altered));
    difference
}

/// What differs of the elements that listeners share: addresses, and backends.
fn shared(before: &DataPath, after: &DataPath, altered: &[Altered<'_>]) -> Difference {
    let of_altered = altered.iter().flat_map(|altered| {
        let both = altered.before.into_iter().chain(altered.after);
        both.flat_map(|served| served.backends(altered.key))
    });
    let candidates: BTreeSet<(Transport, SocketAddr)> = of_altered.collect();
    let elements = |data_path: &DataPath| {
        let mut elements = Elements::default();
        elements.add_load_balancers(data_path);
        if !candidates.is_empty() {
            elements.add_backends(backends(data_path).filter(|backend| candidates.contains(backend)));
        }
        elements
    };
    Difference::between(&elements(before), &elements(after))
}

/// What differs between the elements of tables.
#[derive(Debug, Default)]
pub(super) struct Difference {
    removed: Elements,
    added: Elements,
}

impl Difference {
    /// From some elements to others. An element with other data is removed and added.
    pub(super) fn between(before: &Elements, after: &Elements) -> Self {
        Self { removed: before.without(after), added: after.without(before) }
    }

    fn extend(&mut self, other: Self) {
        self.removed.extend(other.removed);
        self.added.extend(other.added);
    }

    /// The keys of all of them.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.removed.iter().chain(self.added.iter()).map(|(_, key, _)| key)
    }

    /// The text of one transaction.
    pub(super) fn script(&self) -> String {
        removals(&self.removed) + &additions(&self.added) + &remember(&self.removed)
    }
}

fn removals(elements: &Elements) -> String {
    let removals = elements.places().map(|(place, elements)| {
        let keys: Vec<&str> = elements.keys().map(String::as_str).collect();
        command("delete", place, &keys.join(", "))
    });
    removals.collect()
}

/// Adds elements.
pub(super) fn additions(elements: &Elements) -> String {
    let additions = elements.places().map(|(place, elements)| {
        let text = |(key, data): (&String, &String)| match place.set {
            Set::Records => format!("{key} comment \"{data}\""),
            _ if data.is_empty() => key.clone(),
            _ => format!("{key} : {data}"),
        };
        let texts: Vec<String> = elements.iter().map(text).collect();
        command("add", place, &texts.join(", "))
    });
    additions.collect()
}

/// Has the tables know these of the elements that are backends for a while, from now on.
fn remember(elements: &Elements) -> String {
    let mut former = Elements::default();
    for (place, key, _) in elements.iter().filter(|(place, _, _)| place.set == Set::Backends) {
        former.insert(Place { set: Set::FormerBackends, ..place }, key.to_owned(), String::new());
    }
    // To add an element that is there does not prolong its time, and to delete one that is not
    // there is an error.
    additions(&former) + &removals(&former) + &additions(&former)
}

fn command(verb: &str, Place { family, set }: Place, elements: &str) -> String {
    format!("{verb} element {} {TABLE} {set} {{ {elements} }}\n", name(family))
}

/// The name of a family in `nft`, of which its tables are, and its addresses in rules.
pub(super) fn name(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "ip",
        IpFamily::V6 => "ip6",
    }
}

/// The table of a family, with no elements.
///
/// Chains at hooks have priorities 5 before those of kube-proxy's NAT, so that the address of a
/// load balancer is ours even if a Service has it too; that of `guard` is 5 before that again,
/// since it has to see the address.
///
/// A host without the address drops the first packet of a connection that reaches it. It would be
/// remembered as one that is led nowhere, and be refused when the host gets the address.
fn definition(family: IpFamily, seed: u32) -> String {
    let ip = name(family);
    let address = match family {
        IpFamily::V4 => "ipv4_addr",
        IpFamily::V6 => "ipv6_addr",
    };
    let (icmp, unreachable) = match family {
        IpFamily::V4 => ("icmp", "icmp type port-unreachable"),
        IpFamily::V6 => ("ipv6-icmp", "icmpv6 type port-unreachable"),
    };
    let front = format!("{address} . inet_proto . inet_service");
    let socket = format!("{address} . inet_service");
    // A number of 32 bits, as a hash is, has no name of its own as a type. (And `nft` 1.0.6 ends with
    // a segmentation fault when it lists a map of `jhash`.)
    let numbered = format!("{ip} daddr . meta l4proto . th dport . numgen inc mod 1024");
    let mut text = format!("table {ip} {TABLE} {{\n");
    for set in Set::all() {
        let definition = match set {
            Set::Addresses => format!("set {set} {{ type {address}; }}"),
            Set::Sources => format!("map {set} {{ type {address} : {address}; }}"),
            Set::Backends => format!("set {set} {{ type inet_proto . {socket}; }}"),
            Set::FormerBackends => {
                format!("set {set} {{ type inet_proto . {socket}; flags timeout; timeout {FORMER_BACKENDS_STAY}; }}")
            }
            Set::Restricted => format!("set {set} {{ type {front}; }}"),
            Set::Clients => format!("set {set} {{ type {front} . {address}; flags interval; }}"),
            Set::Listeners => format!("map {set} {{ type {front} : verdict; }}"),
            Set::Slots(SlotCount::One) => format!("map {set} {{ type {front} : {socket}; }}"),
            Set::Slots(_) => format!("map {set} {{ typeof {numbered} : {ip} daddr . th dport; }}"),
            Set::Records => format!("set {set} {{ typeof {numbered}; }}"),
        };
        _ = writeln!(text, "\t{definition}");
    }
    for spread in Spread::all() {
        _ = writeln!(text, "\tchain {spread} {{ {}; }}", destination(ip, spread, seed));
    }
    _ = write!(
        text,
        "\
	chain spread {{
		{ip} daddr . meta l4proto . th dport vmap @listeners
	}}
	chain guard {{
		ct direction reply return
		ct state invalid drop
		ct state new meta l4proto . {ip} saddr . th sport @backends drop
		ct state new meta l4proto . {ip} saddr . th sport @former-backends drop
		{ip} daddr . meta l4proto . th dport @restricted {ip} daddr . meta l4proto . th dport . {ip} saddr != @clients drop
	}}
	chain refuse {{
		ct direction reply return
		meta l4proto {icmp} return
		meta l4proto tcp reject with tcp reset
		reject with {unreachable}
	}}
	chain source {{
		snat to ct original {ip} daddr map @sources
		masquerade
	}}
	chain guard-prerouting {{
		type filter hook prerouting priority -110; policy accept;
		{ip} daddr @addresses ct state new fib daddr type != local drop
		{ip} daddr @addresses jump guard
	}}
	chain guard-output {{
		type filter hook output priority -110; policy accept;
		{ip} daddr @addresses jump guard
	}}
	chain destination-prerouting {{
		type nat hook prerouting priority -105; policy accept;
		{ip} daddr @addresses fib daddr type local jump spread
	}}
	chain destination-output {{
		type nat hook output priority -105; policy accept;
		{ip} daddr @addresses fib daddr type local jump spread
	}}
	chain refuse-input {{
		type filter hook input priority -5; policy accept;
		{ip} daddr @addresses jump refuse
	}}
	chain source-postrouting {{
		type nat hook postrouting priority 95; policy accept;
		ct status dnat ct original {ip} daddr @addresses jump source
	}}
}}
"
    );
    text
}

/// The rule that sends a connection to the backend of its slot.
fn destination(ip: &str, Spread { slots, hash }: Spread, seed: u32) -> String {
    let front = format!("{ip} daddr . meta l4proto . th dport");
    let map = Set::Slots(slots);
    let hashed = match hash {
        Hashed::Connection => format!("{ip} saddr . th sport"),
        Hashed::Client => format!("{ip} saddr"),
    };
    match slots {
        SlotCount::One => format!("dnat to {front} map @{map}"),
        _ => format!("dnat to {front} . jhash {hashed} mod {} seed {seed:#x} map @{map}", slots.number()),
    }
}

#[cfg(test)]
#[path = "ruleset_tests.rs"]
pub(super) mod tests;
