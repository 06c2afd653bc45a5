//! Which ports of one load balancer a claim gets.

use std::num::NonZeroU16;

use sharedlb_providers::ListenerKey;
use sharedlb_providers::model::fnv1a;

use super::types::{ClaimRequest, HeldSlot, Policy, PortRequest};
use super::{Misfit, Obstacle, Refusal, count_of as count};
use crate::allocation::ports::Space;
use crate::kubernetes::ObjectKey;

/// Takes a port for each of these, or none at all.
pub(super) fn take_all(
    space: &mut Space,
    index: u32,
    claim: &ClaimRequest,
    ports: &[&PortRequest],
    policy: &Policy,
    dynamic: &[NonZeroU16],
) -> Result<Vec<HeldSlot>, Misfit> {
    let mut slots: Vec<HeldSlot> = Vec::with_capacity(ports.len());
    let mut refused = Vec::new();
    let assigned = count(ports.iter().filter(|port| port.number.is_none()).count());
    // Requested numbers first, so that no sibling is assigned one of them.
    for port in
        ports.iter().filter(|port| port.number.is_some()).chain(ports.iter().filter(|port| port.number.is_none()))
    {
        let number = match port.number {
            Some(number) => {
                let key = ListenerKey { port: number, protocol: port.protocol };
                space.is_free(key).then_some(number).ok_or(Obstacle::Taken { index, key })
            }
            None => preferred(&claim.id, &port.name, dynamic)
                .and_then(|preferred| space.next_free(port.protocol, preferred))
                .ok_or(Obstacle::NoDynamicPort { index, asked: assigned, of: count(dynamic.len()) }),
        };
        match number {
            Ok(number) => {
                let key = ListenerKey { port: number, protocol: port.protocol };
                space.take(key);
                slots.push(HeldSlot { name: port.name.clone(), key, opened: false, target: port.target.clone() });
            }
            Err(obstacle) => {
                refused.push((port.name.clone(), Refusal::no_room(vec![obstacle], policy)));
            }
        }
    }
    if refused.is_empty() {
        sort_as_asked(&mut slots, claim);
        return Ok(slots);
    }
    slots.iter().for_each(|slot| space.give_back(slot.key, &policy.dynamic));
    Err(refused)
}

/// The port that this claim's port gets if it is free. It is the same for the same names and
/// ranges, so that a recreated claim gets its port back, and a free port is seldom assigned to
/// another claim soon.
pub(super) fn preferred(claim: &ObjectKey, port: &str, dynamic: &[NonZeroU16]) -> Option<NonZeroU16> {
    let hash = fnv1a([claim.namespace.as_bytes(), claim.name.as_bytes(), port.as_bytes()]);
    let ports = u64::try_from(dynamic.len()).ok()?;
    dynamic.get(usize::try_from(hash.checked_rem(ports)?).ok()?).copied()
}

/// Sorts the slots in the order of the claim's ports.
pub(super) fn sort_as_asked(slots: &mut [HeldSlot], claim: &ClaimRequest) {
    slots.sort_by_key(|slot| claim.ports.iter().position(|port| port.name == slot.name));
}
