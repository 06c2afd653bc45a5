//! What a watch has told, and our own writes have replied, of one kind of object.
//!
//! A watch lags behind our writes, and tells of them again later. So every
//! entry has its object's version, and only a newer one replaces it; and what a
//! watch tells of an object while we are writing it is put aside until the
//! reply is here. What then still differs was somebody else's doing.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use crate::model::LbName;

/// An object in compact form.
#[derive(Debug, Clone)]
pub(super) struct Entry<T> {
    pub(super) load_balancer: LbName,
    pub(super) uid: Arc<str>,
    pub(super) version: u64,
    pub(super) seen: T,
}

/// What a watch tells of an object.
pub(super) enum Event<T> {
    Present(Entry<T>),
    Gone { version: u64 },
}

/// The objects of one kind, by name.
pub(super) struct Cache<T> {
    entries: BTreeMap<Arc<str>, Known<T>>,
    /// Objects that we are writing, each with what its watch told meanwhile.
    writing: BTreeMap<Arc<str>, Vec<Event<T>>>,
    /// Names that are known to exist, while a new list is coming in.
    listing: Option<BTreeSet<Arc<str>>>,
    filled: bool,
}

enum Known<T> {
    Present(Entry<T>),
    /// We deleted it, and the watch has not told of that yet.
    Deleted {
        uid: Arc<str>,
        version: u64,
    },
}

impl<T> Known<T> {
    fn version(&self) -> u64 {
        match self {
            Self::Present(entry) => entry.version,
            Self::Deleted { version, .. } => *version,
        }
    }

    fn present(&self) -> Option<&Entry<T>> {
        match self {
            Self::Present(entry) => Some(entry),
            Self::Deleted { .. } => None,
        }
    }
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), writing: BTreeMap::new(), listing: None, filled: false }
    }
}

impl<T: PartialEq> Cache<T> {
    /// Whether everything there was has been listed.
    pub(super) fn is_filled(&self) -> bool {
        self.filled
    }

    pub(super) fn get(&self, name: &str) -> Option<&Entry<T>> {
        self.entries.get(name)?.present()
    }

    /// The objects of one load balancer, whose names all begin with its own.
    pub(super) fn of<'a>(&'a self, load_balancer: &'a LbName) -> impl Iterator<Item = (&'a Arc<str>, &'a Entry<T>)> {
        let first: Arc<str> = load_balancer.as_str().into();
        self.entries
            .range(first..)
            .take_while(|(name, _)| name.starts_with(load_balancer.as_str()))
            .filter_map(|(name, known)| Some((name, known.present()?)))
            .filter(move |(_, entry)| entry.load_balancer == *load_balancer)
    }

    /// The watch begins anew, with a list of everything.
    pub(super) fn begin_list(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    /// Takes what the watch tells. Returns the load balancer that was changed by
    /// somebody else, if one was.
    pub(super) fn take(&mut self, name: &Arc<str>, event: Event<T>) -> Option<LbName> {
        if let (Some(listing), Event::Present(_)) = (&mut self.listing, &event) {
            listing.insert(name.clone());
        }
        if let Some(put_aside) = self.writing.get_mut(name) {
            put_aside.push(event);
            return None;
        }
        self.accept(name, event).filter(|_| self.filled)
    }

    /// The list is complete: what was not in it is gone. Returns the load
    /// balancers that lost something.
    pub(super) fn end_list(&mut self) -> Vec<LbName> {
        let listed = self.listing.take().unwrap_or_default();
        let (mut gone, writing) = (Vec::new(), &self.writing);
        self.entries.retain(|name, known| {
            let stays = listed.contains(name) || writing.contains_key(name);
            if let (false, Some(entry)) = (stays, known.present()) {
                gone.push(entry.load_balancer.clone());
            }
            stays
        });
        if !mem::replace(&mut self.filled, true) {
            gone.clear();
        }
        gone
    }

    /// We begin to write an object.
    pub(super) fn begin_write(&mut self, name: &Arc<str>) {
        self.writing.entry(name.clone()).or_default();
    }

    /// Our write's reply.
    pub(super) fn written(&mut self, name: &Arc<str>, entry: Entry<T>) {
        if let Some(listing) = &mut self.listing {
            listing.insert(name.clone());
        }
        self.accept(name, Event::Present(entry));
    }

    /// We deleted the object that had this uid and version.
    pub(super) fn deleted(&mut self, name: &Arc<str>, uid: Arc<str>, version: u64) {
        self.entries.insert(name.clone(), Known::Deleted { uid, version });
    }

    /// Our write is over, however it ended. Returns the load balancers that
    /// somebody else changed meanwhile.
    pub(super) fn end_write(&mut self, name: &Arc<str>) -> Vec<LbName> {
        let put_aside = self.writing.remove(name).unwrap_or_default();
        put_aside.into_iter().filter_map(|event| self.accept(name, event)).collect()
    }

    fn accept(&mut self, name: &Arc<str>, event: Event<T>) -> Option<LbName> {
        let known = self.entries.get(name);
        match event {
            Event::Present(entry) => {
                let outdated = match known {
                    Some(Known::Present(known)) => known.version >= entry.version,
                    Some(Known::Deleted { uid, .. }) => *uid == entry.uid,
                    None => false,
                };
                if outdated {
                    return None;
                }
                let before = known.and_then(Known::present);
                let changed = before.is_none_or(|before| before.uid != entry.uid || before.seen != entry.seen);
                let load_balancer = changed.then(|| entry.load_balancer.clone());
                self.entries.insert(name.clone(), Known::Present(entry));
                load_balancer
            }
            Event::Gone { version } => {
                known.filter(|known| known.version() <= version)?;
                let load_balancer = self.get(name).map(|entry| entry.load_balancer.clone());
                self.entries.remove(name);
                load_balancer
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Arc<str> {
        "slb-0-tcp".into()
    }

    fn lb() -> LbName {
        LbName::from_recorded("slb-0")
    }

    fn entry(uid: &str, version: u64, seen: &'static str) -> Entry<&'static str> {
        Entry { load_balancer: lb(), uid: uid.into(), version, seen }
    }

    fn present(uid: &str, version: u64, seen: &'static str) -> Event<&'static str> {
        Event::Present(entry(uid, version, seen))
    }

    fn filled_with(seen: &'static str) -> Cache<&'static str> {
        let mut cache = Cache::default();
        cache.begin_list();
        assert_eq!(cache.take(&name(), present("a", 1, seen)), None, "the first list is no change");
        assert_eq!(cache.end_list(), []);
        cache
    }

    fn seen(cache: &Cache<&'static str>) -> Option<&'static str> {
        cache.get(&name()).map(|entry| entry.seen)
    }

    #[test]
    fn what_somebody_else_changed_is_told_and_what_does_not_matter_is_not() {
        let mut cache = filled_with("before");
        assert_eq!(cache.take(&name(), present("a", 2, "before")), None);
        assert_eq!(cache.take(&name(), present("a", 3, "after")), Some(lb()));
        assert_eq!(cache.take(&name(), Event::Gone { version: 4 }), Some(lb()));
        assert_eq!(seen(&cache), None);
    }

    #[test]
    fn our_own_write_is_not_told_whether_its_echo_comes_before_or_after_the_reply() {
        let mut cache = filled_with("before");
        cache.begin_write(&name());
        assert_eq!(cache.take(&name(), present("a", 2, "ours")), None);
        cache.written(&name(), entry("a", 2, "ours"));
        assert_eq!(cache.end_write(&name()), []);

        cache.begin_write(&name());
        cache.written(&name(), entry("a", 3, "ours again"));
        assert_eq!(cache.end_write(&name()), []);
        assert_eq!(cache.take(&name(), present("a", 3, "ours again")), None);
        assert_eq!(seen(&cache), Some("ours again"));
    }

    #[test]
    fn a_watch_that_lags_does_not_undo_our_write() {
        let mut cache = filled_with("before");
        cache.begin_write(&name());
        cache.written(&name(), entry("a", 5, "ours"));
        cache.end_write(&name());
        assert_eq!(cache.take(&name(), present("a", 4, "older")), None);
        assert_eq!(seen(&cache), Some("ours"));
    }

    #[test]
    fn what_somebody_else_changed_during_our_write_is_told_after_it() {
        let mut cache = filled_with("before");
        cache.begin_write(&name());
        assert_eq!(cache.take(&name(), present("a", 2, "ours")), None);
        assert_eq!(cache.take(&name(), present("a", 3, "theirs")), None);
        cache.written(&name(), entry("a", 2, "ours"));
        assert_eq!(cache.end_write(&name()), [lb()]);
        assert_eq!(seen(&cache), Some("theirs"));
    }

    #[test]
    fn what_we_deleted_is_gone_at_once_and_stays_so_and_can_be_made_anew() {
        for echo_is_early in [true, false] {
            let mut cache = filled_with("before");
            cache.begin_write(&name());
            if echo_is_early {
                assert_eq!(cache.take(&name(), Event::Gone { version: 9 }), None);
            }
            cache.deleted(&name(), "a".into(), 1);
            assert_eq!(cache.end_write(&name()), []);
            if !echo_is_early {
                assert_eq!(cache.take(&name(), present("a", 8, "a late echo")), None);
                assert_eq!(seen(&cache), None);
                assert_eq!(cache.take(&name(), Event::Gone { version: 9 }), None);
            }
            assert_eq!(cache.take(&name(), present("b", 10, "another")), Some(lb()));
            assert_eq!(seen(&cache), Some("another"));
        }
    }

    #[test]
    fn the_end_of_an_earlier_object_is_not_the_end_of_its_successor() {
        let mut cache = filled_with("before");
        cache.begin_write(&name());
        cache.written(&name(), entry("b", 5, "successor"));
        cache.end_write(&name());
        assert_eq!(cache.take(&name(), Event::Gone { version: 4 }), None);
        assert_eq!(seen(&cache), Some("successor"));
    }

    #[test]
    fn a_new_list_tells_what_was_missed_and_keeps_what_we_wrote_meanwhile() {
        let mut cache = filled_with("before");
        cache.begin_list();
        assert_eq!(cache.end_list(), [lb()], "it was deleted while the watch was away");

        cache.begin_list();
        cache.begin_write(&name());
        cache.written(&name(), entry("b", 7, "ours"));
        cache.end_write(&name());
        assert_eq!(cache.end_list(), [], "the list was made before our write");
        assert_eq!(seen(&cache), Some("ours"));
    }

    #[test]
    fn the_objects_of_a_load_balancer_are_those_whose_names_begin_with_its_name() {
        let mut cache = filled_with("before");
        for other in ["slb-00-tcp", "slb-", "tlb-0-tcp"] {
            let load_balancer = LbName::from_recorded("slb-00");
            cache.take(&other.into(), Event::Present(Entry { load_balancer, ..entry("x", 1, "other") }));
        }
        let load_balancer = lb();
        assert_eq!(cache.of(&load_balancer).map(|(name, _)| name.to_string()).collect::<Vec<_>>(), ["slb-0-tcp"]);
    }
}
