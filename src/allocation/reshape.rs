//! Listeners that change although their number stays: a port that is TCP and
//! becomes TCP_UDP, ports that are merged into one or split in two.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::sync::Arc;

use sharedlb_providers::{FrontPort, ListenerKey};

use super::continuity::Link;
use super::quota::Quotas;
use super::types::{Assignment, ClaimRequest, Held, HeldSlot, LoadBalancerState, Policy, PortRequest, Released};
use super::{Misfit, Occupancy, Occupied, Refusal, Room, count_of as count, not_allowed};

/// The slots of a claim with one number, of which some change.
struct Reshaping<'a> {
    claim: &'a ClaimRequest,
    index: u32,
    /// The slots that are replaced if their successors are possible
    old: Vec<HeldSlot>,
    /// The ports that continue them
    ports: Vec<&'a PortRequest>,
    /// The slots with this number that stay as they are
    siblings: Vec<HeldSlot>,
}

impl Occupancy {
    /// After pass 1: the slots of a claim whose ports were edited get the listeners that the
    /// ports request. Where that is not possible, the slot stays as it is, and the port is
    /// refused: a port that works goes on working.
    pub(super) fn reshape(&mut self, claim: &ClaimRequest, links: &[Link], result: &mut Assignment) {
        let Some(held) = claim.held.as_ref() else { return };
        let Some(granted) = result.granted.take_if(|granted| granted.index == held.index) else { return };
        let index = granted.index;
        let mut slots = granted.slots.to_vec();
        let numbers: BTreeSet<NonZeroU16> = slots.iter().map(|slot| slot.key.port).collect();
        for number in numbers {
            let ports = self.continuing(claim, links, number);
            let (of_number, others): (Vec<HeldSlot>, Vec<HeldSlot>) =
                slots.into_iter().partition(|slot| slot.key.port == number);
            slots = others;
            let stays = |slot: &HeldSlot| ports.iter().any(|port| port.protocol == slot.key.protocol);
            let (siblings, old): (Vec<HeldSlot>, Vec<HeldSlot>) = of_number.into_iter().partition(stays);
            let named = |slot: HeldSlot| {
                let port = ports.iter().find(|port| port.protocol == slot.key.protocol);
                port.map_or(slot.clone(), |port| named(slot, port))
            };
            let siblings: Vec<HeldSlot> = siblings.into_iter().map(named).collect();
            let is_had = |port: &&PortRequest| siblings.iter().any(|slot| slot.key.protocol == port.protocol);
            let ports: Vec<&PortRequest> = ports.iter().copied().filter(|port| !is_had(port)).collect();
            let reshaping = Reshaping { claim, index, old, ports, siblings };
            let (after, refused) = self.reshape_number(&reshaping, &mut result.dropped);
            slots.extend(reshaping.siblings.into_iter().chain(after));
            result.refused.extend(refused);
        }
        super::choice::sort_as_asked(&mut slots, claim);
        result.granted = Some(Held { index, slots: slots.into() });
    }

    /// The ports of a claim that continue slots with this number, as far as their listeners can
    /// be open together.
    fn continuing<'a>(&self, claim: &'a ClaimRequest, links: &[Link], number: NonZeroU16) -> Vec<&'a PortRequest> {
        let held = claim.held.iter().flat_map(|held| held.slots.iter().enumerate());
        let slots: Vec<usize> = held.filter(|(_, slot)| slot.key.port == number).map(|(slot, _)| slot).collect();
        let mut ports: Vec<usize> = Vec::new();
        for link in links.iter().filter(|link| slots.contains(&link.slot)) {
            if !ports.contains(&link.port) {
                ports.push(link.port);
            }
        }
        if !self.policy.tcp_and_udp_share_a_number {
            ports.truncate(1);
        }
        ports.into_iter().map(|port| &claim.ports[port]).collect()
    }

    /// Replaces listeners of one number. Returns the slots after it, and the refused ports.
    fn reshape_number(&mut self, reshaping: &Reshaping<'_>, dropped: &mut Vec<ListenerKey>) -> (Vec<HeldSlot>, Misfit) {
        let Reshaping { claim, index, old, ports, .. } = reshaping;
        if old.is_empty() {
            return (Vec::new(), Misfit::new());
        }
        let policy = self.policy.clone();
        let known = self.known.clone();
        self.occupied(*index);
        let Some(lb) = self.spaces.get_mut(index) else { return (old.clone(), Misfit::new()) };
        match reshaping.exchange(lb, &mut self.quotas, &policy, known.get(index)) {
            Ok(new) => {
                for slot in old {
                    lb.space.cool_down(slot.key, &claim.id);
                    if !lb.space.covers(slot.key) {
                        let released = Released { key: slot.key, claim: claim.id.clone(), open: true, targets: 0 };
                        self.quotas.cool_down(*index, &released);
                    }
                    dropped.push(slot.key);
                }
                (new, Misfit::new())
            }
            Err((port, refusal)) => {
                let mut kept: Vec<HeldSlot> = Vec::new();
                for slot in old {
                    // Names are unique in a status.
                    if kept.iter().any(|other| other.name == slot.name) {
                        dropped.push(slot.key);
                    } else {
                        kept.push(slot.clone());
                    }
                }
                // None of them has what it requests: each listener stays as it is.
                let others = ports.iter().map(|other| &other.name).filter(|other| **other != port);
                let refused =
                    std::iter::once(&port).chain(others).map(|name| (name.clone(), refusal.clone())).collect();
                (kept, refused)
            }
        }
    }
}

impl Reshaping<'_> {
    /// Takes the successors in place of the old slots, or none of them.
    fn exchange(
        &self,
        lb: &mut Occupied,
        quotas: &mut Quotas,
        policy: &Policy,
        known: Option<&LoadBalancerState>,
    ) -> Result<Vec<HeldSlot>, (Arc<str>, Refusal)> {
        let unobserved = known.is_some_and(|lb| lb.unobserved);
        let foreign = known.into_iter().flat_map(|lb| &lb.foreign);
        let own: Room = self.old.iter().map(|slot| room_of(slot, self.claim, policy)).sum();
        let asked: Room = self.ports.iter().map(|port| policy.room_for(port.protocol, port.targets)).sum();
        let first = || self.ports.first().map(|port| port.name.clone()).unwrap_or_default();
        let more = count(self.ports.len()).saturating_sub(count(self.old.len()));
        if more > 0 {
            quotas
                .ask(self.index, self.claim, more, policy.ports_per_namespace)
                .map_err(|refusal| (first(), refusal))?;
        }
        let fits_in_place = asked.listeners <= own.listeners && asked.targets <= own.targets;
        let before = lb.filled;
        let filled = if fits_in_place { Ok(before.exchanged(asked, own)) } else { before.with(self.index, asked, own) };
        let full = |obstacle| (first(), Refusal::no_room(vec![obstacle], policy));
        let filled = filled.map_err(full)?;
        let new = lb.space.on_behalf_of(&self.claim.id, &policy.dynamic, |space| {
            self.old.iter().for_each(|slot| space.give_back(slot.key, &policy.dynamic));
            // Where TCP and UDP do not share a number, that freed a foreign port too.
            foreign.for_each(|port| space.take_foreign(*port));
            let mut new: Vec<HeldSlot> = Vec::new();
            for port in &self.ports {
                let key = self.key_of(port);
                let refusal = self.not_to_be_had(port, policy, unobserved).or_else(|| self.taken(key, space));
                if let Some(refusal) = refusal {
                    new.iter().for_each(|slot| space.give_back(slot.key, &policy.dynamic));
                    self.old.iter().for_each(|slot| space.take(slot.key));
                    return Err((port.name.clone(), refusal));
                }
                space.take(key);
                let opened = self.old.iter().any(|slot| slot.opened && space.collide(slot.key, key));
                new.push(HeldSlot { name: port.name.clone(), key, opened, target: port.target.clone() });
            }
            Ok(new)
        })?;
        lb.filled = filled;
        quotas.let_go(&self.claim.id.namespace, count(self.old.len()));
        quotas.give(self.index, self.claim, &new);
        Ok(new)
    }

    fn key_of(&self, port: &PortRequest) -> ListenerKey {
        let number = self.old.first().map(|slot| slot.key.port).or(port.number).unwrap_or(NonZeroU16::MIN);
        ListenerKey { port: number, protocol: port.protocol }
    }

    fn has(&self, port: FrontPort) -> bool {
        self.old.iter().any(|slot| slot.key.has(port))
    }

    /// Why a port may not have its listener on any load balancer. A listener that takes up no
    /// further port needs no permission.
    fn not_to_be_had(&self, port: &PortRequest, policy: &Policy, unobserved: bool) -> Option<Refusal> {
        if self.key_of(port).front_ports().all(|port| self.has(port)) {
            let has_protocol = policy.protocols.contains(&port.protocol);
            return (!has_protocol).then_some(Refusal::Unsupported { protocol: port.protocol });
        }
        let unobserved = unobserved.then_some(Refusal::Unobserved { index: self.index });
        // Who leaves the number out is not assigned this one: it is asked for, unless it
        // is one of those that are assigned.
        let number = Some(self.key_of(port).port).filter(|number| !policy.dynamic.contains(*number));
        let asked = PortRequest { number: port.number.or(number), ..port.clone() };
        not_allowed(&asked, self.claim, policy).or(unobserved)
    }

    /// Why a listener cannot be had here: the other half of its number is taken.
    fn taken(&self, key: ListenerKey, space: &crate::allocation::ports::Space) -> Option<Refusal> {
        if space.is_free(key) {
            return None;
        }
        let taken =
            key.front_ports().find(|port| !space.is_free((*port).into())).or_else(|| key.front_ports().next())?;
        let kept = self.old.first()?.key;
        let by = self.siblings.iter().find(|slot| slot.key.has(taken));
        Some(Refusal::HalfTaken { index: self.index, taken, kept, by: by.map(|slot| slot.name.clone()) })
    }
}

/// A slot that continues under the name of this port.
pub(super) fn named(slot: HeldSlot, port: &PortRequest) -> HeldSlot {
    HeldSlot { name: port.name.clone(), target: port.target.clone(), ..slot }
}

/// The usage of a slot, with the targets of its port.
pub(super) fn room_of(slot: &HeldSlot, claim: &ClaimRequest, policy: &Policy) -> Room {
    let port = claim.ports.iter().find(|port| port.name == slot.name);
    policy.room_for(slot.key.protocol, port.map_or(0, |port| port.targets))
}
