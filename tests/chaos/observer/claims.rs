//! What is promised to claims: no slot is held by two, none moves, and one that
//! was given back rests.

use std::collections::BTreeSet;
use std::time::Duration;

use super::book::Book;
use super::objects::{Claim, Key, Slot};
use crate::objects::SYSTEM;

/// Within this time the controller sees that a load balancer has an address, and moves
/// no claim away from it any more: a claim may be about to, and the leader may change.
const SEEN_WITHIN: Duration = Duration::from_secs(30);

impl Book {
    /// Takes in a claim, and judges what changed.
    pub(super) fn claim(&mut self, key: Key, now: Option<Claim>) {
        if let Some(claim) = &now {
            let selected = self.selected.entry(key.clone()).or_default();
            selected.insert(claim.selector.clone());
            self.named.entry(key.clone()).or_default().extend(claim.service.clone());
        }
        let before = self.claims.remove(&key);
        // One of the same name that was made again is another one.
        let (gone, before) = match (before, &now) {
            (Some(before), Some(now)) if before.uid == now.uid => (None, Some(before)),
            (before, _) => (before, None),
        };
        if let Some(gone) = &gone {
            self.let_go(&key, gone, &gone.slots(), !gone.deleting);
        }
        self.note_unwanted(&key, gone.as_ref(), now.as_ref());
        let held = before.as_ref().map(Claim::slots).unwrap_or_default();
        let holds = now.as_ref().map(Claim::slots).unwrap_or_default();
        if let (Some(before), Some(now)) = (&before, &now) {
            self.judge_moves(&key, before, now);
            let excepted = before.held.iter().filter(|(name, _)| self.may_move(before, now, name));
            // What was never open need not be recorded.
            let excepted: BTreeSet<Slot> = excepted.flat_map(|(_, port)| before.slots_of(port)).collect();
            let (moved, lost): (BTreeSet<Slot>, _) =
                held.difference(&holds).cloned().partition(|slot| excepted.contains(slot));
            self.let_go(&key, before, &lost, false);
            self.let_go(&key, before, &moved, true);
        }
        for slot in holds.difference(&held) {
            self.take(&key, slot);
        }
        self.judge_continuity(&key, now.as_ref());
        self.note_kept(&key, now.as_ref(), &held);
        if let Some(now) = now {
            self.claims.insert(key, now);
        }
        self.note_told();
        self.judge_listeners();
    }

    /// A slot is given back when its claim is to be deleted, or is edited.
    fn note_unwanted(&mut self, key: &Key, gone: Option<&Claim>, now: Option<&Claim>) {
        let by = format!("{}/{}", key.0, key.1);
        let end = gone.into_iter().flat_map(|claim| claim.held.values().map(move |port| (claim, port, false)));
        let still = now.into_iter().flat_map(|claim| {
            claim.held.iter().map(move |(name, port)| (claim, port, !claim.deleting && claim.wants(name, port)))
        });
        let all: Vec<(Slot, bool)> = end
            .chain(still)
            .flat_map(|(claim, port, wanted)| claim.slots_of(port).into_iter().map(move |slot| (slot, wanted)))
            .collect();
        for (slot, wanted) in all {
            let known = self.unwanted.get(&slot).is_some_and(|(who, _)| *who == by);
            if wanted {
                self.unwanted.remove(&slot);
            } else if !known {
                self.unwanted.insert(slot, (by.clone(), self.revision));
            }
        }
    }

    /// A slot that is held does not move while its claim still wants it.
    fn judge_moves(&mut self, key: &Key, before: &Claim, now: &Claim) {
        if before.deleting {
            return;
        }
        for (name, port) in before.held.iter().filter(|(name, port)| before.wants(name, port)) {
            let same = now.held.get(name) == Some(port) && (&now.class, now.index) == (&before.class, before.index);
            if !same && !self.may_move(before, now, name) {
                let to = now.held.get(name).map(|port| (now.index, port));
                self.wrong(format!("moved: {key:?} has {name:?} moved from {:?} to {to:?}", (before.index, port)));
            }
        }
    }

    /// The exceptions of invariant 4, neither of which was ever open: a claim that goes to
    /// another load balancer of its class, since its own is full or has no address; and a
    /// port that was not asked for by number, whose number is foreign.
    fn may_move(&self, claim: &Claim, now: &Claim, name: &str) -> bool {
        let other = claim.class == now.class && claim.index != now.index;
        if other && claim.served.is_empty() && !self.is_usable(&claim.class, claim.index) {
            return true;
        }
        let Some(port) = claim.held.get(name) else { return false };
        let open = claim.slots_of(port).iter().any(|slot| claim.served.contains(&(slot.transport.into(), slot.port)));
        let asked = claim.asked.get(name).is_some_and(|(_, number)| *number != 0);
        let taken = claim.slots_of(port).iter().any(|slot| self.taken.contains(slot));
        !open && !asked && taken
    }

    /// Whether the load balancer is a Service that has had an address for longer than
    /// the controller takes to see it. A load balancer at AWS may be full.
    fn is_usable(&self, class: &str, index: u64) -> bool {
        self.addressed.iter().any(|(name, since)| {
            let service = self.services.get(&(SYSTEM.to_owned(), name.clone()));
            let is_it = service.is_some_and(|service| service.front == Some((class.to_owned(), index)));
            is_it && self.received.saturating_duration_since(*since) > SEEN_WITHIN
        })
    }

    /// Takes slots from a claim. `unrecorded`: a record was not required, or not possible.
    fn let_go(&mut self, key: &Key, claim: &Claim, slots: &BTreeSet<Slot>, unrecorded: bool) {
        for slot in slots {
            if let Some(holders) = self.holders.get_mut(slot) {
                holders.remove(key);
            }
            let class = self.classes.get(&slot.class);
            let recorded = class.is_none_or(|class| class.released.contains_key(slot));
            // Without the finalizer it was never planned, and so never open. And
            // the API server may delete a claim in the moment in which it gets
            // its finalizer, as if it had none: then nobody could record it.
            if claim.finalizer && !recorded {
                match unrecorded {
                    true => _ = self.unrecorded.insert(slot.clone()),
                    false => self.wrong(format!("released: {slot:?} of {key:?} went before that was recorded")),
                }
            }
        }
    }

    fn take(&mut self, key: &Key, slot: &Slot) {
        let holders = self.holders.entry(slot.clone()).or_default();
        holders.insert(key.clone());
        if holders.len() > 1 {
            let holders = holders.clone();
            self.wrong(format!("held twice: {slot:?} is held by {holders:?}"));
        }
        self.last_holder.insert(slot.clone(), key.clone());
        self.unrecorded.remove(slot);
        self.judge_rest(key, slot);
    }

    /// It is wrong only if that is certain: it was given back after the time that
    /// is taken for it, and given to another before we knew of it.
    fn judge_rest(&mut self, key: &Key, slot: &Slot) {
        let Some((by, revision)) = self.rests.remove(slot) else { return };
        if by == format!("{}/{}", key.0, key.1) {
            return;
        }
        let delay = Duration::from_secs(self.delays.get(&slot.class).copied().unwrap_or(0));
        let Some(recorded) = self.clock.not_before(revision) else { return };
        let rested = self.received.saturating_duration_since(recorded);
        if rested < delay {
            self.wrong(format!("rest: {slot:?} of {by} was given to {key:?} after {rested:?} at most, not {delay:?}"));
        }
    }
}
