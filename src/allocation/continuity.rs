//! The slots that the ports of a claim continue after an edit of its list of ports.
//!
//! A name is only a name. A port that is renamed, that gets a name since a second
//! one is added, that changes its place in the list, or that is merged with
//! another or split in two is the same port to its clients, and keeps its number.

use std::num::NonZeroU16;

use sharedlb_providers::{Protocol, Transport};

use super::types::{ClaimRequest, HeldSlot, PortRequest, same};

/// The rules by which a port of the spec is recognised as the one that has a slot, in their
/// order. Each is applied to all ports before the next one. Merged ports are recognised by
/// their number, before places are compared.
const RULES: [Rule; 4] = [Rule::Name, Rule::Number, Rule::TargetAndProtocol, Rule::Target];

#[derive(Clone, Copy)]
enum Rule {
    /// The port has the name of the slot.
    Name,
    /// It requests the number of the slot.
    Number,
    /// It has the same target and protocol.
    TargetAndProtocol,
    /// It has the same target.
    Target,
    /// It has the place in the list that the slot had.
    Place,
}

/// A port continues a slot, or one of its transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    /// Index of the port in the claim's ports
    pub(super) port: usize,
    /// Index of the slot in the held slots
    pub(super) slot: usize,
}

/// Whether every slot is continued as it is by the port of its name, and the order
/// is the same: the rule where nothing was edited. Ports may have been added.
pub(super) fn is_unedited(ports: &[PortRequest], slots: &[HeldSlot]) -> bool {
    let mut ports = ports.iter();
    slots.iter().all(|slot| {
        ports.any(|port| {
            same(&port.name, &slot.name) && port.protocol == slot.key.protocol && asks_no_other_number(port, slot)
        })
    })
}

/// Whether a claim holds a slot for each of its ports, and requests no other one.
pub(crate) fn holds_all(claim: &ClaimRequest) -> bool {
    let holds_all = |slots: &[HeldSlot]| slots.len() == claim.ports.len() && is_unedited(&claim.ports, slots);
    claim.held.as_ref().is_some_and(|held| holds_all(&held.slots))
}

/// Which port continues which slot; the surest links come first. A slot of two
/// transports may be continued by two ports, and two slots of one number by one
/// port. No transport of a slot is continued twice.
pub(super) fn links(ports: &[PortRequest], slots: &[HeldSlot]) -> Vec<Link> {
    let mut matching = Matching {
        ports,
        slots,
        wanted: ports.iter().map(|port| Transports::of(port.protocol)).collect(),
        left: slots.iter().enumerate().map(|(nth, slot)| left(slot, &slots[..nth])).collect(),
        links: Vec::new(),
    };
    RULES.into_iter().for_each(|rule| matching.apply(rule));
    matching.merge();
    matching.apply(Rule::Place);
    matching.merge();
    matching.links
}

/// The number that each port of the claim has or continues; `None`: it has none yet.
pub(crate) fn numbers(claim: &ClaimRequest) -> Vec<Option<NonZeroU16>> {
    let slots = claim.held.as_ref().map_or(&[][..], |held| &held.slots);
    let mut numbers = vec![None; claim.ports.len()];
    for link in links(&claim.ports, slots) {
        numbers[link.port] = Some(slots[link.slot].key.port);
    }
    numbers
}

fn asks_no_other_number(port: &PortRequest, slot: &HeldSlot) -> bool {
    port.number.is_none_or(|number| number == slot.key.port)
}

/// The part of a slot that can be continued after these. A status that we wrote names a port
/// once, and a number once for each transport.
fn left(slot: &HeldSlot, before: &[HeldSlot]) -> Transports {
    let all = Transports::of(slot.key.protocol);
    let is_twin = |other: &HeldSlot| {
        same(&other.name, &slot.name)
            || (other.key.port == slot.key.port && all.overlaps(Transports::of(other.key.protocol)))
    };
    if before.iter().any(is_twin) { Transports::default() } else { all }
}

/// A set of transports.
#[derive(Clone, Copy, Default)]
struct Transports {
    tcp: bool,
    udp: bool,
}

impl Transports {
    fn of(protocol: Protocol) -> Self {
        let has = |transport| protocol.transports().contains(&transport);
        Self { tcp: has(Transport::Tcp), udp: has(Transport::Udp) }
    }

    fn overlaps(self, other: Self) -> bool {
        (self.tcp && other.tcp) || (self.udp && other.udp)
    }

    fn without(self, other: Self) -> Self {
        Self { tcp: self.tcp && !other.tcp, udp: self.udp && !other.udp }
    }
}

struct Matching<'a> {
    ports: &'a [PortRequest],
    slots: &'a [HeldSlot],
    /// The transports of each port for which it continues no slot yet
    wanted: Vec<Transports>,
    /// The transports of each slot that no port continues yet
    left: Vec<Transports>,
    links: Vec<Link>,
}

impl Matching<'_> {
    /// Links the ports that continue nothing yet.
    fn apply(&mut self, rule: Rule) {
        for port in 0..self.ports.len() {
            let is_linked = self.links.iter().any(|link| link.port == port);
            let slot = (0..self.slots.len()).find(|&slot| self.holds(rule, port, slot) && self.fits(port, slot));
            if let Some(slot) = slot.filter(|_| !is_linked) {
                self.link(port, slot);
            }
        }
    }

    /// Links ports with the other transport of the number that they have by now.
    fn merge(&mut self) {
        for Link { port, slot } in self.links.clone() {
            let number = self.slots[slot].key.port;
            let rest = (0..self.slots.len()).find(|&slot| self.slots[slot].key.port == number && self.fits(port, slot));
            if let Some(slot) = rest {
                self.link(port, slot);
            }
        }
    }

    fn holds(&self, rule: Rule, port: usize, slot: usize) -> bool {
        let asked = &self.ports[port];
        let held = &self.slots[slot];
        let same_target = asked.target.is_some() && asked.target == held.target;
        match rule {
            Rule::Name => same(&asked.name, &held.name),
            Rule::Number => asked.number == Some(held.key.port),
            Rule::TargetAndProtocol => same_target && asked.protocol == held.key.protocol,
            Rule::Target => same_target,
            // Half a slot was not the port at that place.
            Rule::Place => port == slot && self.links.iter().all(|link| link.slot != slot),
        }
    }

    fn fits(&self, port: usize, slot: usize) -> bool {
        asks_no_other_number(&self.ports[port], &self.slots[slot]) && self.wanted[port].overlaps(self.left[slot])
    }

    fn link(&mut self, port: usize, slot: usize) {
        let wanted = self.wanted[port];
        let left = self.left[slot];
        self.wanted[port] = wanted.without(left);
        self.left[slot] = left.without(wanted);
        self.links.push(Link { port, slot });
    }
}
