//! Sets of port numbers, and the ports of one load balancer.

use crate::kubernetes::ObjectKey;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use bitvec::prelude::{BitVec, Lsb0, bitvec};
use sharedlb_providers::{FrontPort, ListenerKey, Protocol, Transport};

/// A set of port numbers: a bitmap of 65,536 bits.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet(BitVec<u64, Lsb0>);

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter_ones()).finish()
    }
}

impl PortSet {
    /// The set without any port.
    pub(crate) fn empty() -> Self {
        Self(bitvec![u64, Lsb0; 0; 1 << 16])
    }

    /// All ports of these ranges, both ends included.
    #[must_use]
    pub fn of_ranges(ranges: &[RangeInclusive<NonZeroU16>]) -> Self {
        let mut set = Self::empty();
        for range in ranges {
            let first = usize::from(range.start().get());
            let last = usize::from(range.end().get());
            if first <= last {
                set.0[first..=last].fill(true);
            }
        }
        set
    }

    /// Whether the port is in the set.
    pub(crate) fn contains(&self, port: NonZeroU16) -> bool {
        self.0[usize::from(port.get())]
    }

    /// Inserts or removes the port.
    pub(crate) fn set(&mut self, port: NonZeroU16, contained: bool) {
        self.0.set(port.get().into(), contained);
    }

    /// The ports of the set, from `start` upwards and then from the lowest up
    /// to `start`.
    pub(crate) fn iter_from(&self, start: NonZeroU16) -> impl Iterator<Item = NonZeroU16> + '_ {
        let (below, from) = self.0.split_at(start.get().into());
        let offset = usize::from(start.get());
        from.iter_ones().map(move |i| i + offset).chain(below.iter_ones()).filter_map(number)
    }
}

fn number(bit: usize) -> Option<NonZeroU16> {
    u16::try_from(bit).ok().and_then(NonZeroU16::new)
}

/// The ports of one load balancer: those that are taken, and those that may be assigned.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    taken: [PortSet; 2],
    /// The listeners for which they were taken, by protocol.
    listeners: [PortSet; 3],
    /// The class' dynamic ports without those taken, so that a search takes as long on a full
    /// load balancer as on an empty one.
    free: [PortSet; 2],
    /// Ports that cool down, by the claim that released them and alone may get them.
    cooling: BTreeMap<ObjectKey, BTreeSet<FrontPort>>,
    tcp_and_udp_share_a_number: bool,
}

impl Space {
    /// An empty load balancer whose ports `dynamic` may be assigned.
    pub(crate) fn new(dynamic: &PortSet, tcp_and_udp_share_a_number: bool) -> Self {
        Self {
            taken: [PortSet::empty(), PortSet::empty()],
            listeners: [PortSet::empty(), PortSet::empty(), PortSet::empty()],
            free: [dynamic.clone(), dynamic.clone()],
            cooling: BTreeMap::new(),
            tcp_and_udp_share_a_number,
        }
    }

    /// The transports in which a listener blocks its number for others.
    fn blocked_by(&self, protocol: Protocol) -> &'static [Transport] {
        if self.tcp_and_udp_share_a_number { protocol } else { Protocol::TcpUdp }.transports()
    }

    /// Whether a listener could be opened there.
    pub(crate) fn is_free(&self, key: ListenerKey) -> bool {
        self.blocked_by(key.protocol).iter().all(|&transport| !self.taken[transport as usize].contains(key.port))
    }

    /// Whether the two cannot both be open.
    pub(crate) fn collide(&self, a: ListenerKey, b: ListenerKey) -> bool {
        let a_blocks = self.blocked_by(a.protocol);
        let b_blocks = self.blocked_by(b.protocol);
        a.port == b.port && a_blocks.iter().any(|transport| b_blocks.contains(transport))
    }

    /// Whether exactly this listener was taken.
    pub(crate) fn has(&self, key: ListenerKey) -> bool {
        self.listeners[key.protocol as usize].contains(key.port)
    }

    /// Whether all ports of this listener belong to listeners that were taken, itself or
    /// others.
    pub(crate) fn covers(&self, key: ListenerKey) -> bool {
        let listeners = || ListenerKey::of_number(key.port).into_iter().filter(|listener| self.has(*listener));
        key.front_ports().all(|port| listeners().any(|listener| listener.has(port)))
    }

    /// Takes a port.
    pub(crate) fn take(&mut self, key: ListenerKey) {
        self.listeners[key.protocol as usize].set(key.port, true);
        for &transport in self.blocked_by(key.protocol) {
            self.take_port(FrontPort { port: key.port, transport });
        }
    }

    /// Takes a foreign port.
    pub(crate) fn take_foreign(&mut self, port: FrontPort) {
        for &transport in self.blocked_by(port.transport.into()) {
            self.take_port(FrontPort { port: port.port, transport });
        }
    }

    fn take_port(&mut self, FrontPort { port, transport }: FrontPort) {
        self.taken[transport as usize].set(port, true);
        self.free[transport as usize].set(port, false);
    }

    /// Frees a port that [`Space::take`] took in this assignment.
    pub(crate) fn give_back(&mut self, key: ListenerKey, dynamic: &PortSet) {
        self.listeners[key.protocol as usize].set(key.port, false);
        for &transport in self.blocked_by(key.protocol) {
            self.taken[transport as usize].set(key.port, false);
            self.free[transport as usize].set(key.port, dynamic.contains(key.port));
        }
    }

    /// Records that a port cools down, unless it is taken.
    pub(crate) fn cool_down(&mut self, key: ListenerKey, claim: &ObjectKey) {
        for &transport in self.blocked_by(key.protocol) {
            if !self.taken[transport as usize].contains(key.port) {
                let port = FrontPort { port: key.port, transport };
                self.take_port(port);
                self.cooling.entry(claim.clone()).or_default().insert(port);
            }
        }
    }

    /// Runs `f` with the ports that cool down for this claim free for it.
    pub(crate) fn on_behalf_of<T>(
        &mut self,
        claim: &ObjectKey,
        dynamic: &PortSet,
        f: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let Some(cooling) = self.cooling.remove(claim) else { return f(self) };
        for &FrontPort { port, transport } in &cooling {
            self.taken[transport as usize].set(port, false);
            self.free[transport as usize].set(port, dynamic.contains(port));
        }
        let result = f(self);
        let still: BTreeSet<_> =
            cooling.into_iter().filter(|p| !self.taken[p.transport as usize].contains(p.port)).collect();
        still.iter().for_each(|&port| self.take_port(port));
        if !still.is_empty() {
            self.cooling.insert(claim.clone(), still);
        }
        result
    }

    /// How many dynamic ports are free, of TCP or UDP: of the one that has fewer.
    pub(crate) fn free_dynamic(&self) -> u64 {
        self.free.iter().map(|ports| ports.0.count_ones() as u64).min().unwrap_or(0)
    }

    /// The first free dynamic port from `preferred` on, wrapping.
    pub(crate) fn next_free(&self, protocol: Protocol, preferred: NonZeroU16) -> Option<NonZeroU16> {
        let transports = self.blocked_by(protocol);
        let free = &self.free[*transports.first()? as usize];
        free.iter_from(preferred).find(|&port| transports.iter().all(|&t| self.free[t as usize].contains(port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).unwrap()
    }

    fn set(ranges: &[(u16, u16)]) -> PortSet {
        PortSet::of_ranges(&ranges.iter().map(|&(first, last)| port(first)..=port(last)).collect::<Vec<_>>())
    }

    #[test]
    fn a_set_of_ranges_holds_both_ends_and_counts_overlaps_once() {
        let set = set(&[(1, 1), (20000, 20002), (20002, 20003), (65535, 65535)]);
        assert_eq!(
            set.iter_from(port(1)).map(NonZeroU16::get).collect::<Vec<_>>(),
            [1, 20000, 20001, 20002, 20003, 65535]
        );
    }

    #[test]
    fn going_round_starts_at_the_preferred_port_and_wraps() {
        let set = set(&[(10, 12), (20, 21)]);
        assert_eq!(set.iter_from(port(12)).map(NonZeroU16::get).collect::<Vec<_>>(), [12, 20, 21, 10, 11]);
    }

    #[test]
    fn where_numbers_are_not_shared_tcp_blocks_udp() {
        let tcp = ListenerKey { port: port(53), protocol: Protocol::Tcp };
        let udp = ListenerKey { port: port(53), protocol: Protocol::Udp };
        for (shared, free) in [(true, true), (false, false)] {
            let mut space = Space::new(&PortSet::empty(), shared);
            space.take(tcp);
            assert!(!space.is_free(tcp));
            assert_eq!(space.is_free(udp), free);
        }
    }
}
