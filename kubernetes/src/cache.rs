//! A cache that is filled by a watch and by the replies to our own writes.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use kube::runtime::watcher::Event;

use crate::{ObjectKey, ObjectMeta};

/// An object that can be cached.
pub trait Cached {
    /// Its metadata
    fn meta(&self) -> &ObjectMeta;
}

/// The objects of one kind.
///
/// A watch lags behind our own writes, and a decision on an outdated object would give one
/// slot twice. So [`Cache::apply_write`] takes in the reply to every write, which stays
/// until the watch has that version or a newer one. Nor does a list that is older than the
/// cache undo anything: the watch reports later changes after it.
#[derive(Debug)]
pub struct Cache<T> {
    objects: BTreeMap<ObjectKey, Arc<T>>,
    /// The list in progress
    listed: Option<Listed>,
    filled: bool,
    deleted: Deleted,
}

/// The last objects that were deleted, by uid, each with a version that it had reached by
/// then, so that neither a late reply to a write nor an older list brings one back.
#[derive(Debug, Default)]
struct Deleted {
    versions: HashMap<Arc<str>, u64>,
    /// In the order of deletion: the oldest is forgotten first
    order: VecDeque<Arc<str>>,
}

impl Deleted {
    fn version(&self, uid: &str) -> Option<u64> {
        self.versions.get(uid).copied()
    }

    fn remember(&mut self, uid: Arc<str>, version: u64) {
        self.forget(&uid);
        self.versions.insert(uid.clone(), version);
        self.order.push_back(uid);
        if self.order.len() > DELETED
            && let Some(oldest) = self.order.pop_front()
        {
            self.versions.remove(&oldest);
        }
    }

    fn forget(&mut self, uid: &str) {
        if self.versions.remove(uid).is_some() {
            self.order.retain(|other| **other != *uid);
        }
    }
}

/// The objects of a namespace.
pub fn in_namespace<'a, T>(
    objects: &'a BTreeMap<ObjectKey, T>,
    namespace: &'a Arc<str>,
) -> impl Iterator<Item = (&'a ObjectKey, &'a T)> {
    let first = ObjectKey { namespace: namespace.clone(), name: "".into() };
    objects.range(first..).take_while(move |(key, _)| key.namespace == *namespace)
}

/// A list in progress.
#[derive(Debug, Default)]
struct Listed {
    /// The objects in it so far, and those that were written meanwhile
    objects: BTreeSet<ObjectKey>,
    /// A version that is known to be newer than the list
    older_than: Option<u64>,
}

/// How many deleted objects are remembered: more than can have writes in flight.
const DELETED: usize = 4096;

/// An object that was created, changed or deleted.
#[derive(Debug)]
pub struct Changed<T> {
    /// Before
    pub old: Option<Arc<T>>,
    /// After
    pub new: Option<Arc<T>>,
}

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listed: None, filled: false, deleted: Deleted::default() }
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
    pub fn objects(&self) -> &BTreeMap<ObjectKey, Arc<T>> {
        &self.objects
    }

    /// The object with this key.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<T>> {
        self.objects.get(key)
    }

    /// Takes in an event of the watch.
    pub fn apply_event(&mut self, event: Event<T>) -> Vec<Changed<T>> {
        match event {
            Event::Init => {
                self.listed = Some(Listed::default());
                Vec::new()
            }
            Event::InitApply(object) => {
                let newer = self.newer_than(object.meta());
                if let Some(listed) = &mut self.listed {
                    listed.older_than = listed.older_than.into_iter().chain(newer).min();
                }
                self.apply(object).into_iter().collect()
            }
            Event::InitDone => {
                self.filled = true;
                let listed = self.listed.take().unwrap_or_default();
                // An object that was written after the list is not in it, and exists.
                let since = |object: &T| listed.older_than.is_some_and(|newer| object.meta().version >= newer);
                let absent =
                    self.objects.iter().filter(|(key, object)| !listed.objects.contains(key) && !since(object));
                let gone: Vec<_> = absent.map(|(key, _)| key.clone()).collect();
                gone.into_iter().filter_map(|key| self.remove(&key, 0)).collect()
            }
            Event::Apply(object) => self.apply(object).into_iter().collect(),
            Event::Delete(object) => self.apply_delete(object.meta()).into_iter().collect(),
        }
    }

    /// Takes in that the watch reported an object as deleted at this version. If a newer
    /// version is cached, the object had only left the selection of the watch for a while.
    pub fn apply_delete(&mut self, meta: &ObjectMeta) -> Option<Changed<T>> {
        let known = self.objects.get(&meta.key).filter(|known| known.meta().uid == meta.uid)?;
        if known.meta().version <= meta.version { self.remove(&meta.key, meta.version) } else { None }
    }

    /// Takes in the reply to a delete of ours. Later events of the watch do not bring the
    /// object back.
    pub fn apply_own_delete(&mut self, key: &ObjectKey, uid: &Arc<str>) -> Option<Changed<T>> {
        let gone = if self.is_known(key, uid) { self.objects.remove(key) } else { None };
        self.deleted.remember(uid.clone(), u64::MAX);
        gone.map(|old| Changed { old: Some(old), new: None })
    }

    /// Removes an object that is gone or no longer needed.
    pub fn forget(&mut self, key: &ObjectKey, uid: &str) -> Option<Changed<T>> {
        if self.is_known(key, uid) { self.remove(key, 0) } else { None }
    }

    /// Takes in the reply to a write of ours.
    pub fn apply_write(&mut self, object: T) -> Option<Changed<T>> {
        if self.deleted.version(&object.meta().uid).is_some() { None } else { self.put(object) }
    }

    /// Whether the object of this name has this uid: another one of the name may have been
    /// created since.
    fn is_known(&self, key: &ObjectKey, uid: &str) -> bool {
        self.objects.get(key).is_some_and(|known| *known.meta().uid == *uid)
    }

    /// A version newer than this one, of the object or of one with the same name, if one is
    /// known.
    fn newer_than(&self, shown: &ObjectMeta) -> Option<u64> {
        let known = self.objects.get(&shown.key).map(|known| known.meta().version);
        let deleted = self.deleted.version(&shown.uid);
        known.into_iter().chain(deleted).filter(|seen| *seen > shown.version).min()
    }

    /// Takes in an object from the watch, even if it was removed by [`Cache::forget`], unless
    /// its deletion is newer.
    fn apply(&mut self, object: T) -> Option<Changed<T>> {
        if self.deleted.version(&object.meta().uid).is_some_and(|deleted| deleted > object.meta().version) {
            return None;
        }
        self.deleted.forget(&object.meta().uid);
        self.put(object)
    }

    fn put(&mut self, object: T) -> Option<Changed<T>> {
        let key = object.meta().key.clone();
        let version = object.meta().version;
        if let Some(listed) = &mut self.listed {
            listed.objects.insert(key.clone());
        }
        if self.objects.get(&key).is_some_and(|known| known.meta().version >= version) {
            return None;
        }
        let new = Arc::new(object);
        let old = self.objects.insert(key, new.clone());
        Some(Changed { old, new: Some(new) })
    }

    /// `at`: the version of the deletion, or 0 if that is not known.
    fn remove(&mut self, key: &ObjectKey, at: u64) -> Option<Changed<T>> {
        let old = self.objects.remove(key)?;
        self.deleted.remember(old.meta().uid.clone(), at.max(old.meta().version));
        Some(Changed { old: Some(old), new: None })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[derive(Debug, PartialEq)]
    struct Object(ObjectMeta);

    impl Cached for Object {
        fn meta(&self) -> &ObjectMeta {
            &self.0
        }
    }

    fn object(name: &str, uid: &str, version: u64) -> Object {
        Object(ObjectMeta {
            key: ObjectKey { namespace: "team".into(), name: name.into() },
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
        cache.apply_event(Event::Init);
        objects.into_iter().for_each(|object| _ = cache.apply_event(Event::InitApply(object)));
        cache.apply_event(Event::InitDone);
    }

    fn version(cache: &Cache<Object>, name: &str) -> Option<u64> {
        cache.get(&object(name, "", 0).0.key).map(|object| object.0.version)
    }

    #[test]
    fn a_reply_to_a_write_stays_until_the_watch_has_that_version_or_a_newer_one() {
        let mut cache = filled(vec![object("a", "u", 1)]);
        cache.apply_write(object("a", "u", 5));
        for lagging in [2, 4] {
            assert!(cache.apply_event(Event::Apply(object("a", "u", lagging))).is_empty());
        }
        list(&mut cache, vec![object("a", "u", 3)]);
        assert_eq!(version(&cache, "a"), Some(5), "a stale list does not undo it either");
        cache.apply_event(Event::Apply(object("a", "u", 6)));
        assert_eq!(version(&cache, "a"), Some(6));
    }

    #[test]
    fn what_a_new_list_does_not_have_is_gone() {
        let mut cache = filled(vec![object("a", "u", 1), object("b", "v", 2)]);
        list(&mut cache, vec![object("b", "v", 2)]);
        assert_eq!((version(&cache, "a"), version(&cache, "b")), (None, Some(2)));
    }

    #[test]
    fn a_list_that_is_older_than_what_was_seen_brings_nothing_back() {
        let mut cache = filled(vec![object("a", "u", 1), object("b", "v", 2)]);
        cache.apply_event(Event::Delete(object("a", "u", 9)));
        list(&mut cache, vec![object("a", "u", 3), object("b", "v", 2)]);
        assert_eq!(version(&cache, "a"), None);
        // The watch that follows the list reports later changes again.
        cache.apply_event(Event::Apply(object("a", "u", 4)));
        assert_eq!(version(&cache, "a"), None);
        cache.apply_event(Event::Delete(object("a", "u", 9)));
        cache.apply_event(Event::Apply(object("a", "another", 10)));
        assert_eq!(version(&cache, "a"), Some(10));
    }

    #[test]
    fn what_was_created_after_an_older_list_stays() {
        let mut cache = filled(vec![object("a", "u", 1), object("b", "v", 2)]);
        cache.apply_event(Event::Apply(object("a", "u", 5)));
        cache.apply_event(Event::Apply(object("new", "w", 6)));
        list(&mut cache, vec![object("a", "u", 1)]);
        assert_eq!(version(&cache, "new"), Some(6), "the list is older than 5, and so than this");
        assert_eq!(version(&cache, "a"), Some(5));
        assert_eq!(version(&cache, "b"), None, "it was there before 5, so that it can have gone by then");
    }

    #[test]
    fn what_a_list_does_not_have_is_gone_although_a_write_was_answered_meanwhile() {
        let mut cache = filled(vec![object("a", "u", 1), object("b", "v", 2)]);
        cache.apply_event(Event::Init);
        cache.apply_write(object("a", "u", 5));
        cache.apply_event(Event::InitApply(object("a", "u", 1)));
        cache.apply_event(Event::InitDone);
        assert_eq!((version(&cache, "a"), version(&cache, "b")), (Some(5), None));
    }

    #[test]
    fn what_was_created_while_a_list_was_under_way_stays() {
        let mut cache = filled(Vec::new());
        cache.apply_event(Event::Init);
        cache.apply_write(object("a", "u", 5));
        cache.apply_event(Event::InitDone);
        assert_eq!(version(&cache, "a"), Some(5));
    }

    #[test]
    fn what_did_not_matter_for_a_while_is_there_again() {
        let mut cache = filled(vec![object("a", "u", 1)]);
        cache.forget(&object("a", "u", 1).0.key, "u");
        list(&mut cache, vec![object("a", "u", 3)]);
        assert_eq!(version(&cache, "a"), Some(3));
    }

    #[test]
    fn nothing_is_gone_before_a_new_list_is_complete() {
        let mut cache = filled(vec![object("a", "u", 1)]);
        cache.apply_event(Event::Init);
        assert_eq!(version(&cache, "a"), Some(1));
        assert!(cache.is_filled());
    }

    #[test]
    fn a_late_reply_does_not_bring_back_what_was_deleted() {
        let mut cache = filled(vec![object("a", "u", 1)]);
        cache.apply_event(Event::Delete(object("a", "u", 9)));
        assert!(cache.apply_write(object("a", "u", 8)).is_none());
        assert_eq!(version(&cache, "a"), None);
        cache.apply_write(object("a", "another", 10));
        assert_eq!(version(&cache, "a"), Some(10), "one of the same name that was created since");
    }

    #[test]
    fn nothing_brings_back_what_a_write_of_ours_deleted() {
        for is_known in [true, false] {
            let mut cache = filled(if is_known { vec![object("a", "u", 1)] } else { Vec::new() });
            let gone = cache.apply_own_delete(&object("a", "u", 0).0.key, &"u".into());
            assert_eq!(gone.is_some(), is_known);
            assert!(cache.apply_event(Event::Apply(object("a", "u", 8))).is_empty(), "a change before its end");
            list(&mut cache, vec![object("a", "u", 8)]);
            assert_eq!(version(&cache, "a"), None);
            cache.apply_event(Event::Delete(object("a", "u", 9)));
            cache.apply_event(Event::Apply(object("a", "another", 10)));
            assert_eq!(version(&cache, "a"), Some(10));
        }
    }

    #[test]
    fn an_object_that_was_deleted_twice_is_remembered_for_as_long_as_any_other() {
        let mut cache = filled(vec![object("a", "u", 1)]);
        cache.apply_event(Event::Delete(object("a", "u", 2)));
        cache.apply_event(Event::Apply(object("a", "u", 3)));
        cache.apply_event(Event::Delete(object("a", "u", 4)));
        for other in 1..DELETED {
            cache.apply_own_delete(&object("b", "", 0).0.key, &other.to_string().into());
        }
        assert!(cache.apply_write(object("a", "u", 4)).is_none());
    }

    #[test]
    fn an_object_that_left_the_selection_of_the_watch_before_our_write_stays() {
        let mut cache = filled(vec![object("a", "u", 1)]);
        cache.apply_write(object("a", "u", 5));
        assert!(cache.apply_event(Event::Delete(object("a", "u", 4))).is_empty());
        assert_eq!(version(&cache, "a"), Some(5));
        cache.apply_event(Event::Delete(object("a", "u", 6)));
        assert_eq!(version(&cache, "a"), None);
    }

    #[test]
    fn the_deletion_of_an_object_does_not_remove_its_successor() {
        let mut cache = filled(vec![object("a", "old", 1)]);
        cache.apply_write(object("a", "new", 5));
        cache.apply_event(Event::Delete(object("a", "old", 4)));
        assert_eq!(version(&cache, "a"), Some(5));
    }
}
