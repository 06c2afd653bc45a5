//! The tables as text for `nft -f -`: pure.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use sharedlb_providers::{IpFamily, Transport};

use super::DataPath;
use super::elements::{Altered, Elements, Hashed, Place, Set, Spread, altered, backends_of};
use super::slots::SlotCount;

/// The name of the tables, in both families.
pub const TABLE: &str = "sharedlb";

/// How many listeners are changed in one transaction, so that no message to the kernel is large.
const LISTENERS_IN_A_TRANSACTION: usize = 500;

/// The two families of tables, as `nft` names them.
pub(super) const FAMILIES: [IpFamily; 2] = [IpFamily::V4, IpFamily::V6];

/// Makes both tables, with everything that the data path has, in the place of those that there
/// are: one transaction, so that no packet meets a part of them.
#[must_use]
pub fn install(data_path: &DataPath) -> String {
    let definitions: String = FAMILIES.map(|family| definition(family, data_path.seed)).concat();
    removal() + &definitions + &additions(&Elements::of(data_path))
}

/// Removes both tables, if they are there.
#[must_use]
pub fn removal() -> String {
    // To delete a table that is not there is an error.
    let remove = |family| format!("add table {0} {TABLE}\ndelete table {0} {TABLE}\n", name(family));
    FAMILIES.map(remove).concat()
}

/// Changes the tables of a data path to those of another one with the same seed: a text for each
/// transaction, in their order. Listeners that close come first.
#[must_use]
pub fn changes(before: &DataPath, after: &DataPath) -> Vec<String> {
    differences(before, after).iter().map(Difference::script).collect()
}

/// What differs, by transaction.
fn differences(before: &DataPath, after: &DataPath) -> Vec<Difference> {
    let altered = altered(before, after);
    let of_chunk = |listeners: &[Altered<'_>]| {
        let earlier = Elements::of_listeners(before.seed, listeners.iter().map(|one| (one.key, one.before)));
        let later = Elements::of_listeners(after.seed, listeners.iter().map(|one| (one.key, one.after)));
        Difference::between(&earlier, &later)
    };
    let mut differences: Vec<Difference> = altered.chunks(LISTENERS_IN_A_TRANSACTION).map(of_chunk).collect();
    let shared = shared(before, after, &altered);
    // What listeners share is there before them, and goes after them.
    match differences.as_mut_slice() {
        [] => differences.push(shared),
        [only] => only.extend(shared),
        [first, .., last] => {
            first.added.extend(shared.added);
            last.removed.extend(shared.removed);
        }
    }
    differences.retain(|difference| !difference.is_empty());
    differences
}

/// What differs of the elements that listeners share: addresses, and backends.
fn shared(before: &DataPath, after: &DataPath, altered: &[Altered<'_>]) -> Difference {
    let of_altered = altered.iter().flat_map(|altered| {
        let both = altered.before.into_iter().chain(altered.after);
        both.flat_map(|served| backends_of(altered.key, served.listener))
    });
    let candidates: BTreeSet<(Transport, SocketAddr)> = of_altered.collect();
    let elements = |data_path: &DataPath| {
        let mut elements = Elements::default();
        elements.add_addresses(data_path);
        if !candidates.is_empty() {
            elements.add_backends(backends(data_path).filter(|backend| candidates.contains(backend)));
        }
        elements
    };
    Difference::between(&elements(before), &elements(after))
}

/// The sockets of the pods of all listeners.
fn backends(data_path: &DataPath) -> impl Iterator<Item = (Transport, SocketAddr)> {
    let listeners = data_path.load_balancers.values().flat_map(|served| &served.listeners);
    listeners.flat_map(|(key, listener)| backends_of(*key, listener))
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

    /// Whether nothing differs.
    pub(super) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }

    /// How many elements are to be removed or added.
    pub(super) fn len(&self) -> usize {
        self.removed.len() + self.added.len()
    }

    /// The text of one transaction.
    pub(super) fn script(&self) -> String {
        let removals = self.removed.places().map(|(place, elements)| {
            let keys: Vec<&str> = elements.keys().map(String::as_str).collect();
            command("delete", place, &keys.join(", "))
        });
        removals.collect::<String>() + &additions(&self.added)
    }
}

fn additions(elements: &Elements) -> String {
    let additions = elements.places().map(|(place, elements)| {
        let texts: Vec<String> = elements
            .iter()
            .map(|(key, data)| if data.is_empty() { key.clone() } else { format!("{key} : {data}") })
            .collect();
        command("add", place, &texts.join(", "))
    });
    additions.collect()
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
    let mut text = format!("table {ip} {TABLE} {{\n");
    for set in Set::all() {
        let definition = match set {
            Set::Addresses => format!("set {set} {{ type {address}; }}"),
            Set::Sources => format!("map {set} {{ type {address} : {address}; }}"),
            Set::Backends => format!("set {set} {{ type inet_proto . {socket}; }}"),
            Set::Restricted => format!("set {set} {{ type {front}; }}"),
            Set::Clients => format!("set {set} {{ type {front} . {address}; flags interval; }}"),
            Set::Listeners => format!("map {set} {{ type {front} : verdict; }}"),
            Set::Slots(SlotCount::One) => format!("map {set} {{ type {front} : {socket}; }}"),
            // A number of 32 bits, as a hash is, has no name of its own as a type. (And `nft` 1.0.6
            // ends with a segmentation fault when it lists a map of `jhash`.)
            Set::Slots(_) => {
                let number = "numgen inc mod 1024";
                format!(
                    "map {set} {{ typeof {ip} daddr . meta l4proto . th dport . {number} : {ip} daddr . th dport; }}"
                )
            }
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
mod tests;
