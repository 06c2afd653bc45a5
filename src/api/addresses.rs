//! The addresses that a class gives its load balancers. Pure.
//!
//! Nothing here enumerates a range, which may have 2^64 addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use sharedlb_crds::{AddressRange, Provider, SharedLBClassSpec, SharedLBClassStatus};
use sharedlb_providers::IpFamily;

/// The most load balancers of a class, as in its schema. An object with a larger range must
/// not make the controller enumerate millions of addresses.
pub(super) const LOAD_BALANCERS_MAX: u32 = 1000;

/// The addresses of the load balancers of a class, by index.
pub(crate) type AddressesByIndex = Arc<[Vec<IpAddr>]>;

/// The addresses in a spec: a list for each address that one load balancer has.
struct Lists(Vec<Vec<AddressRange>>);

impl Lists {
    fn of(spec: &SharedLBClassSpec) -> Self {
        let all = &spec.addresses;
        if !gives_addresses(spec) {
            // A Service has room for one requested address.
            return Self(vec![all.clone()]);
        }
        let of_family = |family| all.iter().copied().filter(|range| IpFamily::of(range.min) == family).collect();
        let families = families(spec);
        Self(families.into_iter().map(of_family).collect())
    }

    /// How many load balancers have an address in every list.
    fn load_balancers(&self) -> u32 {
        let counts = self.0.iter().map(|list| count(list));
        counts.min().map_or(0, |count| u32::try_from(count).unwrap_or(u32::MAX))
    }

    fn at(&self, index: u32) -> Vec<IpAddr> {
        self.0.iter().filter_map(|list| nth(list, index)).collect()
    }
}

/// The IP families of the addresses, that of the first range first.
fn families(spec: &SharedLBClassSpec) -> Vec<IpFamily> {
    let mut families: Vec<IpFamily> = Vec::new();
    for family in spec.addresses.iter().map(|range| IpFamily::of(range.min)) {
        if !families.contains(&family) {
            families.push(family);
        }
    }
    families
}

/// The bits of an address as a number.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// How many addresses these ranges have.
fn count(list: &[AddressRange]) -> u128 {
    let size = |range: &AddressRange| bits(range.max).checked_sub(bits(range.min)).map_or(0, |n| n.saturating_add(1));
    list.iter().map(size).fold(0, u128::saturating_add)
}

/// The address with this index in the ranges.
fn nth(list: &[AddressRange], index: u32) -> Option<IpAddr> {
    let mut left = u128::from(index);
    for range in list {
        let size = count(std::slice::from_ref(range));
        if left < size {
            return Some(match range.min {
                IpAddr::V4(min) => IpAddr::V4((min.to_bits() + u32::try_from(left).ok()?).into()),
                IpAddr::V6(min) => IpAddr::V6((min.to_bits() + left).into()),
            });
        }
        left -= size;
    }
    None
}

/// The first address that is in one of the ranges of both.
pub(crate) fn first_common(ours: &[AddressRange], theirs: &[AddressRange]) -> Option<IpAddr> {
    // IPv4 addresses are less than IPv6 addresses, so that no range of one family has
    // anything in common with one of the other.
    let common = |a: &AddressRange, b: &AddressRange| {
        let first = a.min.max(b.min);
        (first <= a.max.min(b.max)).then_some(first)
    };
    ours.iter().flat_map(|a| theirs.iter().filter_map(move |b| common(a, b))).min()
}

/// Whether an address is in one of these ranges.
pub(crate) fn is_listed(ranges: &[AddressRange], address: IpAddr) -> bool {
    ranges.iter().any(|range| (range.min..=range.max).contains(&address))
}

/// Whether load balancers of the class have the addresses in the spec from the provider
/// itself, and not from another controller that the provider asks for them.
pub(crate) fn gives_addresses(spec: &SharedLBClassSpec) -> bool {
    matches!(spec.provider, Provider::Vip(_))
}

/// How many load balancers can have an address; `None`: their addresses are not in the spec.
pub(crate) fn load_balancers(spec: &SharedLBClassSpec) -> Option<u32> {
    (!spec.addresses.is_empty()).then(|| Lists::of(spec).load_balancers())
}

/// The addresses of all load balancers that the class may have: those that they keep, and
/// otherwise those that the spec gives them.
pub(crate) fn assign(spec: &SharedLBClassSpec, kept: &BTreeMap<u32, Vec<IpAddr>>) -> AddressesByIndex {
    let lists = Lists::of(spec);
    let given = lists.load_balancers().min(spec.load_balancers.max);
    let kept_to = kept.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
    let indices = 0..given.max(kept_to).min(LOAD_BALANCERS_MAX);
    indices.map(|index| kept.get(&index).cloned().unwrap_or_else(|| lists.at(index))).collect()
}

/// The addresses that load balancers have by the status of their class.
pub(crate) fn recorded(status: &SharedLBClassStatus) -> impl Iterator<Item = (u32, Vec<IpAddr>)> {
    let parsed = |lb: &sharedlb_crds::LoadBalancerStatus| {
        (lb.index, lb.all_addresses().filter_map(|address| address.parse().ok()).collect())
    };
    status.load_balancers.iter().map(parsed)
}

/// Why the addresses in a spec cannot be used, for its author. `kept`: the addresses that
/// load balancers have, and do not change.
pub(crate) fn refusal(spec: &SharedLBClassSpec, kept: &BTreeMap<u32, Vec<IpAddr>>) -> Option<String> {
    let ranges = &spec.addresses;
    if ranges.is_empty() {
        return None;
    }
    if let Some(range) = ranges.iter().find(|range| range.min > range.max) {
        return Some(format!("spec.addresses: {} is above {}: swap min and max", range.min, range.max));
    }
    if let Some(twice) = (1..ranges.len()).filter_map(|n| first_common(&ranges[..n], &ranges[n..=n])).min() {
        return Some(format!("spec.addresses: {twice} is in two ranges: remove it from one of them"));
    }
    wrong_families(spec).or_else(|| too_few(spec)).or_else(|| changed(spec, kept))
}

/// Why load balancers cannot have addresses of these families.
fn wrong_families(spec: &SharedLBClassSpec) -> Option<String> {
    let families = families(spec);
    let [first, second] = families[..] else { return None };
    if !gives_addresses(spec) {
        let kind = spec.provider.kind();
        return Some(format!(
            "spec.addresses: the provider {kind} requests one address for each load balancer, and these are of two IP families: remove the ranges of one family; for load balancers with both, leave addresses out and set provider.{kind}.ipFamilyPolicy to RequireDualStack"
        ));
    }
    let max = spec.load_balancers.max;
    let counts = Lists::of(spec).0;
    let [of_first, of_second] = [0, 1].map(|n| counts.get(n).map_or(0, |list| count(list)).min(max.into()));
    if of_first == of_second {
        return None;
    }
    let (less, more) = if of_first < of_second { (first, second) } else { (second, first) };
    let enough = of_first.min(of_second);
    Some(format!(
        "spec.addresses: {enough} addresses are {less}, and {} are {more}, but each load balancer has one of both: add {less} addresses, or set loadBalancers.max to {enough}",
        at_least(of_first.max(of_second), max),
    ))
}

/// `3`, or where that is all that were counted, `3 or more`.
fn at_least(count: u128, max: u32) -> String {
    if count == u128::from(max) { format!("{count} or more") } else { count.to_string() }
}

/// Why there are too few addresses for the load balancers that there always are.
fn too_few(spec: &SharedLBClassSpec) -> Option<String> {
    let enough = Lists::of(spec).load_balancers();
    let min = spec.load_balancers.min;
    (enough < min).then(|| {
        format!(
            "spec.addresses: there are addresses for {enough} load balancers, and loadBalancers.min is {min}: add addresses, or lower min to {enough}"
        )
    })
}

/// Why the list cannot be changed to this one.
fn changed(spec: &SharedLBClassSpec, kept: &BTreeMap<u32, Vec<IpAddr>>) -> Option<String> {
    let lists = Lists::of(spec);
    let (index, has, given) =
        kept.iter().map(|(&index, has)| (index, has, lists.at(index))).find(|(_, has, given)| *has != given)?;
    let given = if given.is_empty() { "no address".to_owned() } else { join(&given) };
    Some(format!(
        "spec.addresses: load balancer {index} has {}, and would have {given} by this list, but its addresses never change: put each address that is in use back in its place in the list (new ones come after them), or create another class with the new addresses, and move the claims to it",
        join(has),
    ))
}

fn join(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests;
