//! Allocation: the only code that chooses ports for claims.
//!
//! [`assign`] is a pure function without memory: each assignment reads held slots from the
//! claims' own status, so there is no separate allocator state that could be lost, locked
//! or leak. [`Occupancy`] is the result of an assignment, by which a newcomer gets its ports without
//! another one; it is dropped when anything else changes.

mod choice;
mod continuity;
mod ports;
mod quota;
mod refusal;
mod reshape;
mod room;
#[cfg(test)]
mod tests;
mod types;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

use sharedlb_providers::{Address, ListenerKey};

use self::choice::{sort_as_asked, take_all};
use self::continuity::{Link, is_unedited, links};
pub(crate) use self::continuity::{holds_all, numbers};
pub use self::ports::PortSet;
use self::ports::Space;
use self::quota::Quotas;
pub(crate) use self::refusal::{Obstacle, Refusal};
use self::reshape::{named, room_of};
use self::room::Filled;
pub(crate) use self::room::Room;
pub use self::types::{Assignment, ClaimRequest, HeldSlot, LoadBalancerState, Policy, PortRequest};
pub(crate) use self::types::{Held, LackingOption, ListenerOption, Released, same};
#[cfg(test)]
pub(crate) use self::usage::Share;
pub(crate) use self::usage::Usage;
use crate::kubernetes::ObjectKey;

/// Assigns slots to all claims of one class; the result is in the order of `claims`, and does
/// not depend on it. Also returns the occupancy after that.
///
/// There are three passes, each with the older claims first: held slots stay (except for
/// those that were never opened, on a load balancer without room or one that is unusable);
/// then come claims that request a number; then all others.
#[must_use]
pub fn assign(
    claims: &[&ClaimRequest],
    load_balancers: &Arc<BTreeMap<u32, LoadBalancerState>>,
    policy: &Arc<Policy>,
) -> (Vec<Assignment>, Occupancy) {
    let mut order: Vec<usize> = (0..claims.len()).collect();
    order.sort_by(|&a, &b| seniority(claims[a]).cmp(&seniority(claims[b])));
    let mut occupancy = Occupancy::new(load_balancers, policy);
    let mut result = vec![Assignment::default(); claims.len()];

    let mut edited: Vec<(usize, Vec<Link>)> = Vec::new();
    for &i in &order {
        let links = edited_links(claims[i]);
        result[i] = occupancy.keep_held(claims[i], links.as_deref());
        edited.extend(links.map(|links| (i, links)));
    }
    occupancy.take_up_foreign_and_released();
    if occupancy.may_move() {
        // If claims do not fit together, the older ones stay.
        for &i in order.iter().rev() {
            occupancy.move_on(claims[i], &mut result[i]);
        }
    }
    for (i, links) in edited {
        occupancy.reshape(claims[i], &links, &mut result[i]);
    }
    let (by_number, rest): (Vec<usize>, Vec<usize>) = order
        .into_iter()
        .filter(|&i| result[i].granted.as_ref().map_or(0, |held| held.slots.len()) < claims[i].ports.len())
        .partition(|&i| claims[i].ports.iter().any(|port| port.number.is_some()));
    for i in by_number.into_iter().chain(rest) {
        occupancy.give_new(claims[i], &mut result[i]);
    }
    (result, occupancy)
}

/// A load balancer of which only the reserved ports are taken.
fn empty_space(policy: &Policy) -> Space {
    let mut space = Space::new(&policy.dynamic, policy.tcp_and_udp_share_a_number);
    policy.reserved.iter().for_each(|&port| space.take_foreign(port));
    space
}

/// The slots that the ports of a claim continue; `None`: all slots, as they are.
fn edited_links(claim: &ClaimRequest) -> Option<Vec<Link>> {
    let held = claim.held.as_ref()?;
    (!is_unedited(&claim.ports, &held.slots)).then(|| links(&claim.ports, &held.slots))
}

fn seniority(claim: &ClaimRequest) -> (i64, &ObjectKey) {
    (claim.created, &claim.id)
}

/// Refused ports, by name.
type Misfit = Vec<(Arc<str>, Refusal)>;

/// The occupied ports of the load balancers of a class: the state of [`assign`].
pub struct Occupancy {
    policy: Arc<Policy>,
    /// The dynamic ports in order, to look one up by its place
    dynamic: Arc<[NonZeroU16]>,
    known: Arc<BTreeMap<u32, LoadBalancerState>>,
    spaces: BTreeMap<u32, Occupied>,
    quotas: Quotas,
    /// Slots dropped in this assignment: they cool down like those released before it.
    dropped: Vec<(u32, Released)>,
    /// Listeners that may still be open for a claim that released them.
    open: BTreeMap<ObjectKey, Vec<(u32, ListenerKey)>>,
}

/// The load balancer that a claim moves away from.
struct Leaves {
    index: u32,
    /// Whether the claim moves only to a load balancer that exists and is usable
    only_for_usable: bool,
}

/// A load balancer with its usage.
struct Occupied {
    space: Space,
    exists: bool,
    filled: Filled,
    /// Released listeners that may still be open: part of the usage
    still_open: BTreeMap<ListenerKey, Room>,
}

impl Occupancy {
    /// Whether these are the load balancers and the policy of the occupancy.
    pub(crate) fn is_of(&self, load_balancers: &BTreeMap<u32, LoadBalancerState>, policy: &Policy) -> bool {
        *self.known == *load_balancers && *self.policy == *policy
    }

    /// The assignment of a further claim that holds nothing. It is the same as that of
    /// [`assign`] with the claims of the assignment, if each of these holds its assignment by now,
    /// and none of them [may move](Occupancy::may_move). The claim takes only free ports, so
    /// earlier refusals stand.
    pub(crate) fn admit(&mut self, newcomer: &ClaimRequest) -> Assignment {
        let mut result = Assignment::default();
        self.give_new(newcomer, &mut result);
        result
    }

    fn new(known: &Arc<BTreeMap<u32, LoadBalancerState>>, policy: &Arc<Policy>) -> Self {
        let mut occupancy = Self {
            policy: policy.clone(),
            dynamic: policy.dynamic.iter_from(NonZeroU16::MIN).collect(),
            known: known.clone(),
            spaces: BTreeMap::new(),
            quotas: Quotas::default(),
            dropped: Vec::new(),
            open: BTreeMap::new(),
        };
        known.keys().for_each(|&index| _ = occupancy.occupied(index));
        occupancy
    }

    /// The load balancer with this index; one that does not exist yet is empty.
    fn occupied(&mut self, index: u32) -> &mut Occupied {
        let (policy, known) = (&self.policy, &self.known);
        self.spaces.entry(index).or_insert_with(|| {
            let space = empty_space(policy);
            let known = known.get(&index);
            let capacity = known.map(|lb| lb.capacity).unwrap_or_default();
            let limit = Room {
                listeners: policy.listeners.min(capacity.listeners.unwrap_or(u32::MAX)),
                targets: policy.targets.map_or(u32::MAX, |default| capacity.targets.unwrap_or(default)),
            };
            let filled = Filled { used: Room::default(), limit };
            Occupied { space, exists: known.is_some(), filled, still_open: BTreeMap::new() }
        })
    }

    fn is_foreign(&self, index: u32, key: ListenerKey) -> bool {
        self.known.get(&index).is_some_and(|lb| key.front_ports().any(|port| lb.foreign.contains(&port)))
    }

    /// Pass 1. A slot stays while a port continues it: the port of its name, or after an edit
    /// the one in `links`.
    fn keep_held(&mut self, claim: &ClaimRequest, links: Option<&[Link]>) -> Assignment {
        let mut result = Assignment::default();
        // No load balancer of this class ever had an index beyond its maximum.
        let Some(held) =
            claim.held.as_ref().filter(|held| held.index < self.policy.max || self.known.contains_key(&held.index))
        else {
            return result;
        };
        let mut kept: Vec<(&HeldSlot, &PortRequest)> = Vec::with_capacity(held.slots.len());
        let mut unedited = claim.ports.iter();
        for (nth, slot) in held.slots.iter().enumerate() {
            let wanted = match links {
                None => unedited.find(|port| same(&port.name, &slot.name)),
                Some(links) => links.iter().find(|link| link.slot == nth).map(|link| &claim.ports[link.port]),
            };
            if slot.key.front_ports().any(|port| self.policy.reserved.contains(&port)) {
                continue;
            }
            let may_move = !slot.opened && wanted.is_some_and(|port| port.number.is_none());
            if may_move && self.is_foreign(held.index, slot.key) {
                continue;
            }
            let room = wanted.map(|port| (port, self.policy.room_for(slot.key.protocol, port.targets)));
            let lb = self.occupied(held.index);
            if !lb.space.is_free(slot.key) {
                result.lost.push(slot.key);
            } else if let Some((port, room)) = room {
                lb.space.take(slot.key);
                lb.filled.used = lb.filled.used + room;
                kept.push((slot, port));
            } else {
                // Its backends are no longer known, but it has some as long as it is open.
                let targets = u32::from(self.policy.targets.is_some());
                self.dropped
                    .push((held.index, Released { key: slot.key, claim: claim.id.clone(), open: true, targets }));
                result.dropped.push(slot.key);
            }
        }
        if !kept.is_empty() {
            self.quotas.hold(&claim.id.namespace, count(&kept));
            let slots = if links.is_none() && kept.len() == held.slots.len() {
                held.slots.clone()
            } else {
                kept.into_iter().map(|(slot, port)| named(slot.clone(), port)).collect()
            };
            result.granted = Some(Held { index: held.index, slots });
        }
        result
    }

    /// Between the passes: foreign ports are taken, and released ports cool down; those take
    /// up room as long as their listener may be open.
    fn take_up_foreign_and_released(&mut self) {
        let (known, dropped) = (self.known.clone(), std::mem::take(&mut self.dropped));
        for (&index, lb) in &*known {
            let occupied = self.occupied(index);
            lb.foreign.iter().for_each(|&port| occupied.space.take_foreign(port));
            occupied.filled.used.listeners += count_of(lb.foreign.len());
        }
        let released = known.iter().flat_map(|(&index, lb)| lb.released.iter().map(move |released| (index, released)));
        for (index, released) in released.chain(dropped.iter().map(|(index, released)| (*index, released))) {
            let room = self.policy.room_for(released.key.protocol, released.targets);
            let occupied = self.occupied(index);
            // Of two listeners on one port, only one can be open: a successor, or another
            // released one, takes the place of this one.
            let is_counted = |key: &ListenerKey| occupied.space.has(*key) || occupied.still_open.contains_key(key);
            let is_replaced = ListenerKey::of_number(released.key.port)
                .into_iter()
                .any(|key| occupied.space.collide(key, released.key) && is_counted(&key));
            if released.open && !is_replaced {
                occupied.still_open.insert(released.key, room);
                occupied.filled.used = occupied.filled.used + room;
                self.open.entry(released.claim.clone()).or_default().push((index, released.key));
            }
            let occupied = self.occupied(index);
            let held_again = occupied.space.covers(released.key);
            occupied.space.cool_down(released.key, &released.claim);
            if !held_again {
                self.quotas.cool_down(index, released);
            }
        }
    }

    /// Whether claims may have to move: a load balancer has no room, or is unusable.
    pub(crate) fn may_move(&self) -> bool {
        let leads_away = self.known.values().any(|lb| lb.unusable || !lb.no_room.is_empty());
        leads_away || self.spaces.values().any(|lb| lb.filled.is_overfull())
    }

    /// After pass 1: a claim without room, because of foreign listeners or since it has more
    /// targets than at its placement, moves to another load balancer, if there is one and no
    /// port of it was ever open. So does a claim on an unusable load balancer, but only to an
    /// existing usable one: otherwise claims would move from one to the next.
    fn move_on(&mut self, claim: &ClaimRequest, result: &mut Assignment) {
        let Some(held) = result.granted.clone() else { return };
        let no_room = self.known.get(&held.index).map(|lb| &lb.no_room);
        let refused = no_room.is_some_and(|keys| held.slots.iter().any(|slot| keys.contains(&slot.key)));
        let unusable = self.is_unusable(held.index);
        let filled = self.occupied(held.index).filled;
        if !(refused || unusable || filled.is_overfull()) || held.slots.iter().any(|slot| slot.opened) {
            return;
        }
        let is_held = |port: &&PortRequest| held.slots.iter().any(|slot| slot.name == port.name);
        let ports: Vec<&PortRequest> = claim.ports.iter().filter(is_held).collect();
        let own: Room = held.slots.iter().map(|slot| room_of(slot, claim, &self.policy)).sum();
        // A claim that is alone has more targets than a whole load balancer takes.
        if !refused && !unusable && filled.used.targets == own.targets {
            return;
        }
        // They are counted again where they go, and cool down where they were.
        self.quotas.let_go(&claim.id.namespace, count(&held.slots));
        for slot in held.slots.iter() {
            let released = Released { key: slot.key, claim: claim.id.clone(), open: true, targets: 0 };
            self.quotas.cool_down(held.index, &released);
        }
        let leaves = Leaves { index: held.index, only_for_usable: unusable };
        match self.place(claim, &ports, Some(leaves)) {
            Ok(moved) => {
                result.dropped.extend(held.slots.iter().map(|slot| slot.key));
                result.granted = Some(moved);
                // Its listeners may be open, so that only its targets make room.
                self.occupied(held.index).filled.used.targets -= own.targets;
            }
            Err(_) => self.quotas.give(held.index, claim, &held.slots),
        }
    }

    /// Passes 2 and 3. A claim that holds nothing gets all its ports on one load balancer or
    /// none; the added ports of a claim that holds some must fit on its load balancer, or are
    /// refused alone.
    fn give_new(&mut self, claim: &ClaimRequest, result: &mut Assignment) {
        let held = result.granted.as_ref().map(|held| held.slots.clone()).unwrap_or_default();
        let (mut missing, mut refused) = (Vec::new(), std::mem::take(&mut result.refused));
        let is_decided = |port: &PortRequest, refused: &Misfit| {
            held.iter().any(|slot| slot.name == port.name) || refused.iter().any(|(name, _)| *name == port.name)
        };
        for port in &claim.ports {
            if is_decided(port, &refused) {
                continue;
            }
            let not_allowed = not_allowed(port, claim, &self.policy);
            match not_allowed.or_else(|| own_obstacle(port, claim, &held, &self.policy)) {
                None => missing.push(port),
                Some(refusal) => refused.push((port.name.clone(), refusal)),
            }
        }
        if let Some(granted) = &mut result.granted {
            let mut slots = granted.slots.to_vec();
            for port in missing {
                match self.give_on(granted.index, claim, &[port]) {
                    Ok(given) => slots.extend(given),
                    Err(misfit) => refused.extend(misfit),
                }
            }
            sort_as_asked(&mut slots, claim);
            granted.slots = slots.into();
        } else if refused.is_empty() {
            match self.place(claim, &missing, None) {
                Ok(held) => result.granted = Some(held),
                Err(misfit) => refused = misfit,
            }
        }
        result.refused = refused;
    }

    /// The first load balancer on which everything fits. A claim that moves goes neither back
    /// to the one that it comes `from`, nor to one where it has been lately.
    fn place(&mut self, claim: &ClaimRequest, ports: &[&PortRequest], from: Option<Leaves>) -> Result<Held, Misfit> {
        let mut candidates = self.candidates(claim).map_err(|refusal| for_each(ports, &refusal))?;
        if let Some(Leaves { index: from, only_for_usable }) = from {
            let was_there = |lb: &LoadBalancerState| lb.released.iter().any(|released| released.claim == claim.id);
            candidates.retain(|index| *index != from && !self.known.get(index).is_some_and(was_there));
            candidates.retain(|index| !self.is_unusable(*index));
            candidates.retain(|index| !only_for_usable || self.known.contains_key(index));
        }
        // On an unusable load balancer nothing is served until an admin repairs it.
        candidates.sort_by_key(|&index| self.is_unusable(index));
        // In a large class most are full: they come last, only for the message.
        let full = |&index: &u32| {
            self.spaces.get(&index).is_some_and(|lb| lb.filled.is_full())
                && self.own_open(index, claim).next().is_none()
        };
        let (full, with_room): (Vec<u32>, Vec<u32>) = candidates.into_iter().partition(full);
        let mut misfits = BTreeMap::new();
        for index in with_room.into_iter().chain(full) {
            match self.give_on(index, claim, ports) {
                Ok(slots) => return Ok(Held { index, slots: slots.into() }),
                Err(misfit) => _ = misfits.insert(index, misfit),
            }
        }
        Err(Refusal::of_all(ports, misfits.into_values().collect(), &self.policy))
    }

    fn is_unusable(&self, index: u32) -> bool {
        self.known.get(&index).is_some_and(|lb| lb.unusable)
    }

    /// The load balancers for a claim that holds nothing yet: the existing ones, lowest index
    /// first, and then one more.
    fn candidates(&self, claim: &ClaimRequest) -> Result<Vec<u32>, Refusal> {
        let max = self.policy.max;
        let in_use =
            self.spaces.iter().filter(|(_, lb)| lb.exists || lb.filled.used.listeners > 0).map(|(&index, _)| index);
        let mut candidates: Vec<u32> = in_use.take_while(|&index| index < max).collect();
        let is_new = |index: &u32| candidates.binary_search(index).is_err() && !self.policy.cordoned.contains(index);
        let next = (0..max).find(is_new);
        candidates.extend(next);
        let Some(address) = &claim.address else { return Ok(candidates) };
        let planned = (0..max).zip(&*self.policy.addresses);
        let planned = planned.flat_map(|(index, all)| all.iter().map(move |&ip| (index, Address::Ip(ip))));
        let known = self.known.iter().flat_map(|(&index, lb)| lb.addresses.iter().map(move |a| (index, a.clone())));
        let addresses: BTreeSet<(u32, Address)> = planned.chain(known).filter(|&(index, _)| index < max).collect();
        let matching: BTreeSet<u32> = addresses.iter().filter(|(_, a)| a == address).map(|&(index, _)| index).collect();
        if matching.is_empty() {
            let known = addresses.into_iter().map(|(_, address)| address).collect();
            return Err(Refusal::AddressUnknown { address: address.clone(), known });
        }
        Ok(matching.into_iter().collect())
    }

    /// The listeners that may still be open there for this claim, which released them.
    fn own_open(&self, index: u32, claim: &ClaimRequest) -> impl Iterator<Item = ListenerKey> {
        let all = self.open.get(&claim.id).into_iter().flatten();
        all.filter(move |(there, _)| *there == index).map(|&(_, key)| key)
    }

    /// Assigns all these ports on this load balancer, or none.
    fn give_on(&mut self, index: u32, claim: &ClaimRequest, ports: &[&PortRequest]) -> Result<Vec<HeldSlot>, Misfit> {
        let policy = self.policy.clone();
        let policy = &*policy;
        if policy.cordoned.contains(&index) {
            return Err(for_each(ports, &Refusal::no_room(vec![Obstacle::Cordoned { index }], policy)));
        }
        let quota = self.quotas.ask(index, claim, count(ports), policy.ports_per_namespace);
        let quota = quota.map_err(|refusal| for_each(ports, &refusal))?;
        if self.known.get(&index).is_some_and(|lb| lb.unobserved) {
            return Err(for_each(ports, &Refusal::Unobserved { index }));
        }
        let dynamic = self.dynamic.clone();
        // A listener of its own that is still open is taken over, and needs no room.
        let own: Vec<ListenerKey> = self.own_open(index, claim).collect();
        let lb = self.occupied(index);
        let own: Room = own.iter().filter_map(|key| lb.still_open.get(key)).copied().sum();
        let asked: Room = ports.iter().map(|port| policy.room_for(port.protocol, port.targets)).sum();
        let full = |obstacle| for_each(ports, &Refusal::no_room(vec![obstacle], policy));
        let before = lb.filled;
        before.with(index, asked, own).map_err(full)?;
        let (slots, filled) = lb.space.on_behalf_of(&claim.id, &policy.dynamic, |space| {
            let slots = take_all(space, index, claim, ports, policy, &dynamic)?;
            let taken_over = slots.iter().filter_map(|slot| lb.still_open.get(&slot.key)).copied().sum();
            let filled = before.with(index, asked, taken_over).map_err(full);
            let admitted = quota.admits(&slots).map_err(|refusal| for_each(ports, &refusal));
            match filled.and_then(|filled| admitted.map(|()| filled)) {
                Ok(filled) => Ok((slots, filled)),
                Err(misfit) => {
                    slots.iter().for_each(|slot| space.give_back(slot.key, &policy.dynamic));
                    Err(misfit)
                }
            }
        })?;
        lb.filled = filled;
        self.quotas.give(index, claim, &slots);
        Ok(slots)
    }
}

/// Why no load balancer of the class can have this port.
fn not_allowed(port: &PortRequest, claim: &ClaimRequest, policy: &Policy) -> Option<Refusal> {
    if policy.namespaces.as_ref().is_some_and(|allowed| !allowed.contains(&claim.id.namespace)) {
        return Some(Refusal::NotPermitted { namespace: claim.id.namespace.clone() });
    }
    if !policy.protocols.contains(&port.protocol) {
        return Some(Refusal::Unsupported { protocol: port.protocol });
    }
    if let Some(lacking) = claim.lacks(&policy.lacking) {
        return Some(Refusal::UnsupportedOption(lacking));
    }
    let key = ListenerKey { port: port.number?, protocol: port.protocol };
    let reserved = key.front_ports().any(|port| policy.reserved.contains(&port));
    (reserved || !policy.requestable.contains(key.port)).then_some(Refusal::PortNotAllowed { key, reserved })
}

/// The other port of the same claim that conflicts with this one on any load balancer.
fn own_obstacle(port: &PortRequest, claim: &ClaimRequest, held: &[HeldSlot], policy: &Policy) -> Option<Refusal> {
    let key = ListenerKey { port: port.number?, protocol: port.protocol };
    let stands_in_the_way =
        |other: ListenerKey| other.overlaps(key) || (other.port == key.port && !policy.tcp_and_udp_share_a_number);
    let earlier = claim.ports.iter().take_while(|other| other.name != port.name);
    let asked =
        earlier.filter_map(|other| Some((&other.name, ListenerKey { port: other.number?, protocol: other.protocol })));
    let held = held.iter().map(|slot| (&slot.name, slot.key));
    let (name, other) = held.chain(asked).find(|(_, other)| stands_in_the_way(*other))?;
    Some(Refusal::OwnPort { key, other, port: name.clone() })
}

fn for_each(ports: &[&PortRequest], refusal: &Refusal) -> Misfit {
    ports.iter().map(|port| (port.name.clone(), refusal.clone())).collect()
}

fn count<T>(items: &[T]) -> u32 {
    count_of(items.len())
}

fn count_of(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
