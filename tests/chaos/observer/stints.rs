//! Which claim held a slot when. What happens at AWS comes to us by another way than what
//! happens in the API, so it is compared by time; and the time of a write is known
//! only from one moment to another, so that nothing is called wrong that may have
//! been right.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::book::Book;
use super::objects::{Key, Slot};
use crate::objects::{CLOUD, class_name};

/// A time in which a slot was the same claims'. It lasts until the next one.
#[derive(Clone, Debug)]
pub(super) struct Stint {
    /// Its present or last holder
    pub(super) owners: BTreeSet<Key>,
    /// Whether it may be open: it is held, or recorded as given back, or could not be
    pub(super) may_be_open: bool,
    /// It had not begun at this time
    pub(super) earliest: Instant,
    /// It had begun at this time
    pub(super) latest: Instant,
}

impl Book {
    /// Writes down whose slots of the class at AWS are now.
    pub(super) fn note_stints(&mut self) {
        let class = class_name(CLOUD);
        let released = self.classes.get(class).map(|class| &class.released);
        let released: BTreeSet<Slot> = released.into_iter().flat_map(|released| released.keys().cloned()).collect();
        let held = self.last_holder.keys().filter(|slot| slot.class == class).cloned();
        let slots: BTreeSet<Slot> = held.chain(released.iter().cloned()).collect();
        let earliest = self.clock.not_before(self.revision).unwrap_or(self.began);
        for slot in slots {
            let mut owners = self.holders.get(&slot).cloned().unwrap_or_default();
            let may_be_open = !owners.is_empty() || released.contains(&slot) || self.unrecorded.contains(&slot);
            if owners.is_empty() {
                owners.extend(self.last_holder.get(&slot).cloned());
            }
            let stints = self.stints.entry(slot).or_default();
            let same = |last: &Stint| last.owners == owners && last.may_be_open == may_be_open;
            if !stints.last().is_some_and(same) {
                stints.push(Stint { owners, may_be_open, earliest, latest: self.received });
            }
        }
    }

    /// The stints of a slot that there certainly was some of in this time. None:
    /// at some time of it, it had certainly had no holder.
    pub(super) fn certainly(&self, slot: &Slot, from: Instant, until: Instant) -> Option<Vec<&Stint>> {
        let stints = self.stints.get(slot)?;
        if stints.first().is_none_or(|first| from < first.earliest) {
            return None;
        }
        let ends = stints.iter().skip(1).map(|next| next.earliest).chain([until]);
        let overlaps = |(stint, end): &(&Stint, Instant)| stint.latest.max(from) < until.min(*end);
        Some(stints.iter().zip(ends).filter(overlaps).map(|(stint, _)| stint).collect())
    }
}
