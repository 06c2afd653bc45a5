//! What a watch has told, corrected by the replies to our own writes.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use kube::runtime::watcher::Event;

use crate::assign::ClaimId;
use crate::claim::Meta;

/// An object that can be cached.
pub trait Cached {
    /// Its metadata
    fn meta(&self) -> &Meta;
}

/// The objects of one kind, as the API server last told.
///
/// A watch lags behind our own writes, and deciding on what it has not seen yet
/// would give one slot twice. So the reply to every write goes in by
/// [`Cache::written`], and stays until the watch has that version or a newer one.
#[derive(Debug)]
pub struct Cache<T> {
    objects: BTreeMap<ClaimId, Arc<T>>,
    /// While a list is under way: the objects it has had so far
    listed: Option<BTreeSet<ClaimId>>,
    filled: bool,
    /// The last objects that were deleted, so that a late reply to a write does
    /// not bring one back
    deleted: HashSet<Arc<str>>,
    deleted_order: VecDeque<Arc<str>>,
}

/// How many deleted objects are remembered: more than can have writes under way.
const DELETED: usize = 4096;

/// An object that came, changed or went.
#[derive(Debug)]
pub struct Changed<T> {
    /// As it was
    pub old: Option<Arc<T>>,
    /// As it is
    pub new: Option<Arc<T>>,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listed: None,
            filled: false,
            deleted: HashSet::new(),
            deleted_order: VecDeque::new(),
        }
    }
}

impl<T: Cached> Cache<T> {
    /// Whether the first list is complete.
    #[must_use]
    pub fn is_filled(&self) -> bool {
        self.filled
    }

    /// All objects, by namespace and name.
    #[must_use]
    pub fn objects(&self) -> &BTreeMap<ClaimId, Arc<T>> {
        &self.objects
    }

    /// The object of this name.
    #[must_use]
    pub fn get(&self, key: &ClaimId) -> Option<&Arc<T>> {
        self.objects.get(key)
    }

    /// Takes in what the watch told.
    pub fn watched(&mut self, event: Event<T>) -> Vec<Changed<T>> {
        match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                Vec::new()
            }
            Event::InitApply(object) => self.shown(object).into_iter().collect(),
            Event::InitDone => {
                self.filled = true;
                let listed = self.listed.take().unwrap_or_default();
                let gone: Vec<_> = self.objects.keys().filter(|key| !listed.contains(key)).cloned().collect();
                gone.into_iter().filter_map(|key| self.remove(&key)).collect()
            }
            Event::Apply(object) => self.shown(object).into_iter().collect(),
            Event::Delete(object) => self.gone(&object.meta().key, &object.meta().uid).into_iter().collect(),
        }
    }

    /// This object is gone, or does not matter any longer.
    pub fn gone(&mut self, key: &ClaimId, uid: &str) -> Option<Changed<T>> {
        // One of the same name that was created since is another object.
        let same = self.objects.get(key).is_some_and(|known| *known.meta().uid == *uid);
        same.then(|| self.remove(key)).flatten()
    }

    /// Takes in the reply to a write of ours.
    pub fn written(&mut self, object: T) -> Option<Changed<T>> {
        if self.deleted.contains(&object.meta().uid) { None } else { self.put(object) }
    }

    /// What the watch shows is there, also if it did not matter for a while.
    fn shown(&mut self, object: T) -> Option<Changed<T>> {
        self.deleted.remove(&object.meta().uid);
        self.put(object)
    }

    fn put(&mut self, object: T) -> Option<Changed<T>> {
        let (key, version) = (object.meta().key.clone(), object.meta().version);
        if let Some(listed) = &mut self.listed {
            listed.insert(key.clone());
        }
        if self.objects.get(&key).is_some_and(|known| known.meta().version >= version) {
            return None;
        }
        let new = Arc::new(object);
        let old = self.objects.insert(key, new.clone());
        Some(Changed { old, new: Some(new) })
    }

    fn remove(&mut self, key: &ClaimId) -> Option<Changed<T>> {
        let old = self.objects.remove(key)?;
        let uid = old.meta().uid.clone();
        self.deleted.insert(uid.clone());
        self.deleted_order.push_back(uid);
        if self.deleted_order.len() > DELETED
            && let Some(oldest) = self.deleted_order.pop_front()
        {
            self.deleted.remove(&oldest);
        }
        Some(Changed { old: Some(old), new: None })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Object(Meta);

    impl Cached for Object {
        fn meta(&self) -> &Meta {
            &self.0
        }
    }

    fn object(name: &str, uid: &str, version: u64) -> Object {
        Object(Meta {
            key: ClaimId { namespace: "team".into(), name: name.into() },
            uid: uid.into(),
            version,
            generation: 1,
            created: Timestamp::UNIX_EPOCH,
            deleting: false,
            finalizers: Vec::new(),
        })
    }

    fn filled(objects: Vec<Object>) -> Cache<Object> {
        let mut cache = Cache::default();
        list(&mut cache, objects);
        cache
    }

    fn list(cache: &mut Cache<Object>, objects: Vec<Object>) {
        cache.watched(Event::Init);
        objects.into_iter().for_each(|object| _ = cache.watched(Event::InitApply(object)));
        cache.watched(Event::InitDone);
    }

    fn version(cache: &Cache<Object>, name: &str) -> Option<u64> {
        cache.get(&object(name, "", 0).0.key).map(|object| object.0.version)
    }

    #[test]
    fn a_reply_to_a_write_stays_until_the_watch_has_that_version_or_a_newer_one() {
        let mut cache = filled(vec![object("a", "u", 1)]);
        cache.written(object("a", "u", 5));
        for lagging in [2, 4] {
            assert!(cache.watched(Event::Apply(object("a", "u", lagging))).is_empty());
        }
        list(&mut cache, vec![object("a", "u", 3)]);
        assert_eq!(version(&cache, "a"), Some(5), "a stale list does not undo it either");
        cache.watched(Event::Apply(object("a", "u", 6)));
        assert_eq!(version(&cache, "a"), Some(6));
    }

    #[test]
    fn what_a_new_list_does_not_have_is_gone() {
        let mut cache = filled(vec![object("a", "u", 1), object("b", "v", 2)]);
        list(&mut cache, vec![object("b", "v", 2)]);
        assert_eq!((version(&cache, "a"), version(&cache, "b")), (None, Some(2)));
    }

    #[test]
    fn nothing_is_gone_before_a_new_list_is_complete() {
        let mut cache = filled(vec![object("a", "u", 1)]);
        cache.watched(Event::Init);
        assert_eq!(version(&cache, "a"), Some(1));
        assert!(cache.is_filled());
    }

    #[test]
    fn a_late_reply_does_not_bring_back_what_was_deleted() {
        let mut cache = filled(vec![object("a", "u", 1)]);
        cache.watched(Event::Delete(object("a", "u", 9)));
        assert!(cache.written(object("a", "u", 8)).is_none());
        assert_eq!(version(&cache, "a"), None);
        cache.written(object("a", "another", 10));
        assert_eq!(version(&cache, "a"), Some(10), "one of the same name that was created since");
    }

    #[test]
    fn the_deletion_of_an_object_does_not_remove_its_successor() {
        let mut cache = filled(vec![object("a", "old", 1)]);
        cache.written(object("a", "new", 5));
        cache.watched(Event::Delete(object("a", "old", 4)));
        assert_eq!(version(&cache, "a"), Some(5));
    }
}
