//! Ports of firewall rules. Pure.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::objects::{Firewall, Ports};
use crate::model::{FrontPort, Transport};

/// The ports of a firewall rule that allows these, adjacent ones joined.
pub(super) fn allowed(ports: &BTreeSet<FrontPort>) -> Vec<Ports> {
    let of = |transport| {
        let numbers = ports.iter().filter(move |port| port.transport == transport).map(|port| port.port.get());
        entry(transport, joined(numbers))
    };
    [Transport::Tcp, Transport::Udp].into_iter().filter_map(of).collect()
}

/// The ports of a firewall rule that allows these ranges of both transports.
pub(super) fn allowed_ranges(ranges: &[RangeInclusive<u16>]) -> Vec<Ports> {
    [Transport::Tcp, Transport::Udp].into_iter().filter_map(|transport| entry(transport, ranges.to_vec())).collect()
}

/// Whether all of these ports are in these ranges.
pub(super) fn are_in(ranges: &[RangeInclusive<u16>], ports: impl IntoIterator<Item = FrontPort>) -> bool {
    ports.into_iter().all(|port| ranges.iter().any(|range| range.contains(&port.port.get())))
}

/// Whether a firewall rule allows a port.
pub(super) fn admits(firewall: &Firewall, port: FrontPort) -> bool {
    let entries = firewall.allowed.iter().flatten();
    !firewall.disabled
        && entries.filter(|entry| entry.ip_protocol == port.transport.lower_case()).any(|entry| {
            entry.ports.as_ref().is_none_or(|ranges| ranges.iter().any(|range| has(range, port.port.get())))
        })
}

fn entry(transport: Transport, ranges: Vec<RangeInclusive<u16>>) -> Option<Ports> {
    let text = |range: RangeInclusive<u16>| {
        let (first, last) = range.into_inner();
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let ports: Vec<String> = ranges.into_iter().map(text).collect();
    (!ports.is_empty()).then(|| Ports { ip_protocol: transport.lower_case().to_owned(), ports: Some(ports) })
}

/// The numbers in ascending order, as the fewest ranges.
fn joined(numbers: impl Iterator<Item = u16>) -> Vec<RangeInclusive<u16>> {
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(number) => *last = *last.start()..=number,
            _ => ranges.push(number..=number),
        }
    }
    ranges
}

fn has(range: &str, number: u16) -> bool {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    first.parse().is_ok_and(|first: u16| first <= number) && last.parse().is_ok_and(|last: u16| number <= last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ports(numbers: impl IntoIterator<Item = u16>, transport: Transport) -> BTreeSet<FrontPort> {
        numbers.into_iter().map(|port| FrontPort { port: port.try_into().unwrap(), transport }).collect()
    }

    #[test]
    fn adjacent_ports_are_one_range_of_their_transport() {
        let mut both = ports([80, 81, 82, 443, 65534, 65535], Transport::Tcp);
        both.extend(ports([53, 81], Transport::Udp));
        let found: Vec<_> = allowed(&both).into_iter().map(|entry| (entry.ip_protocol, entry.ports.unwrap())).collect();
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let expected =
            [("tcp".to_owned(), texts(&["80-82", "443", "65534-65535"])), ("udp".to_owned(), texts(&["53", "81"]))];
        assert_eq!(found, expected);
        assert_eq!(allowed(&BTreeSet::new()), []);
    }

    proptest! {
        #[test]
        fn exactly_these_ports_are_allowed(numbers in prop::collection::btree_set(1u16.., 0..60), other in 1u16..) {
            let ports = ports(numbers.clone(), Transport::Udp);
            let rule = Firewall { allowed: Some(allowed(&ports)), ..Firewall::default() };
            let is_allowed = |number: u16, transport| {
                admits(&rule, FrontPort { port: number.try_into().unwrap(), transport })
            };
            prop_assert!(numbers.iter().all(|number| is_allowed(*number, Transport::Udp)));
            prop_assert_eq!(is_allowed(other, Transport::Udp), numbers.contains(&other));
            prop_assert!(!is_allowed(other, Transport::Tcp));
        }
    }

    #[test]
    fn a_rule_that_is_switched_off_allows_nothing() {
        let ports = ports([80], Transport::Tcp);
        let on = Firewall { allowed: Some(allowed(&ports)), ..Firewall::default() };
        assert!(ports.iter().all(|port| admits(&on, *port)));
        let off = Firewall { disabled: true, ..on };
        assert!(!ports.iter().any(|port| admits(&off, *port)));
    }
}
