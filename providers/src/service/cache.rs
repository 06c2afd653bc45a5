//! The objects of one kind, by the Service that they are or belong to, and which Services
//! another client has changed.
//!
//! A watch also reports our own writes, before or after their replies. So no change of an
//! object is reported while it is written: after the write, the cached object is compared
//! with the reply, and a difference is a change of another client.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::runtime::watcher::Event;
use sharedlb_kubernetes::cache::{self, Cached, Changed};
use sharedlb_kubernetes::{ObjectKey, ObjectMeta};

use super::name::ServiceName;
use crate::model::LbName;

/// An object in compact form.
#[derive(Debug, Clone)]
pub(super) struct Entry<T> {
    /// The Service that it is or belongs to
    pub(super) service: ServiceName,
    pub(super) meta: ObjectMeta,
    pub(super) seen: T,
}

impl<T> Cached for Entry<T> {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

/// The objects of one kind in one namespace.
pub(super) struct Cache<T> {
    namespace: Arc<str>,
    objects: cache::Cache<Entry<T>>,
    /// Objects with a write in flight, each as it is if no other client writes it
    writing: BTreeMap<ObjectKey, Option<Arc<Entry<T>>>>,
}

impl<T: Clone + PartialEq> Cache<T> {
    pub(super) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.into(), objects: cache::Cache::default(), writing: BTreeMap::new() }
    }

    /// Whether the first list is complete.
    pub(super) fn is_filled(&self) -> bool {
        self.objects.is_filled()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Entry<T>>> {
        self.objects.get(&self.key(name))
    }

    /// All objects.
    pub(super) fn all(&self) -> impl Iterator<Item = &Entry<T>> {
        self.objects.objects().values().map(|entry| &**entry)
    }

    /// The objects of one Service, whose names all begin with its name.
    pub(super) fn of<'a>(&'a self, service: &'a ServiceName) -> impl Iterator<Item = &'a Entry<T>> {
        self.beginning_with(service.as_str()).filter(|entry| entry.service == *service)
    }

    /// The objects of all Services of one load balancer, whose names all begin with its name.
    pub(super) fn of_load_balancer<'a>(&'a self, name: &'a LbName) -> impl Iterator<Item = &'a Entry<T>> {
        self.beginning_with(name.as_str()).filter(move |entry| entry.service.load_balancer() == name)
    }

    fn beginning_with<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Entry<T>> {
        let from_there = self.objects.objects().range(self.key(name)..).map(|(_, entry)| &**entry);
        from_there.take_while(move |entry| entry.meta.key.name.starts_with(name))
    }

    /// Takes in an event of the watch. Returns the Services that another client has changed.
    /// Objects in the first list are no change.
    pub(super) fn apply_event(&mut self, event: Event<Entry<T>>) -> Vec<ServiceName> {
        let was_filled = self.objects.is_filled();
        let changes = self.objects.apply_event(event);
        if was_filled { self.changed(changes) } else { Vec::new() }
    }

    /// Takes in that the watch reported the end of an object, at this version, or that the
    /// object is no longer ours.
    pub(super) fn apply_delete(&mut self, meta: &ObjectMeta) -> Vec<ServiceName> {
        let change = self.objects.apply_delete(meta);
        if self.objects.is_filled() { self.changed(change) } else { Vec::new() }
    }

    /// Records that a write of an object is sent.
    pub(super) fn begin_write(&mut self, name: &str) {
        let known = self.get(name).cloned();
        self.writing.insert(self.key(name), known);
    }

    /// Takes in the reply to that write. The write was sent after all events that were taken
    /// in, so the reply counts like an event: an object that was not in a list is added again.
    pub(super) fn apply_write(&mut self, reply: Entry<T>) {
        self.writing.insert(reply.meta.key.clone(), Some(Arc::new(reply.clone())));
        self.objects.apply_event(Event::Apply(reply));
    }

    /// Takes in that the write deleted the object with this uid.
    pub(super) fn apply_own_delete(&mut self, name: &str, uid: &Arc<str>) {
        let key = self.key(name);
        self.objects.apply_own_delete(&key, uid);
        self.writing.insert(key, None);
    }

    /// Records the end of a write, whatever its result. Returns the Service if another client
    /// has changed the object meanwhile.
    pub(super) fn end_write(&mut self, name: &str) -> Option<ServiceName> {
        let key = self.key(name);
        let expected = self.writing.remove(&key)?;
        difference(expected.as_deref(), self.objects.get(&key).map(|known| &**known))
    }

    fn changed(&self, changes: impl IntoIterator<Item = Changed<Entry<T>>>) -> Vec<ServiceName> {
        let is_written = |entry: &Entry<T>| self.writing.contains_key(&entry.meta.key);
        let settled = |change: &Changed<_>| !change.new.iter().chain(&change.old).any(|entry| is_written(entry));
        let changes = changes.into_iter().filter(settled);
        changes.filter_map(|Changed { old, new }| difference(old.as_deref(), new.as_deref())).collect()
    }

    fn key(&self, name: &str) -> ObjectKey {
        ObjectKey { namespace: self.namespace.clone(), name: name.into() }
    }
}

/// The Service of an object that is another one, or has another content, than before.
fn difference<T: PartialEq>(before: Option<&Entry<T>>, now: Option<&Entry<T>>) -> Option<ServiceName> {
    let same = match (before, now) {
        (Some(before), Some(now)) => before.meta.uid == now.meta.uid && before.seen == now.seen,
        (before, now) => before.is_none() && now.is_none(),
    };
    now.or(before).filter(|_| !same).map(|entry| entry.service.clone())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    const NAME: &str = "slb-0-tcp";

    fn service() -> ServiceName {
        ServiceName::main(&LbName::from_recorded("slb-0"))
    }

    fn meta(name: &str, uid: &str, version: u64) -> ObjectMeta {
        let metadata = kube::core::ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("lbs".to_owned()),
            uid: Some(uid.to_owned()),
            resource_version: Some(version.to_string()),
            ..kube::core::ObjectMeta::default()
        };
        ObjectMeta::of(&Service { metadata, ..Service::default() })
    }

    fn entry(uid: &str, version: u64, seen: &'static str) -> Entry<&'static str> {
        Entry { service: service(), meta: meta(NAME, uid, version), seen }
    }

    fn present(uid: &str, version: u64, seen: &'static str) -> Event<Entry<&'static str>> {
        Event::Apply(entry(uid, version, seen))
    }

    fn filled_with(seen: &'static str) -> Cache<&'static str> {
        let mut cache = Cache::new("lbs");
        cache.apply_event(Event::Init);
        assert_eq!(cache.apply_event(Event::InitApply(entry("a", 1, seen))), [], "the first list is no change");
        assert_eq!(cache.apply_event(Event::InitDone), []);
        cache
    }

    fn seen(cache: &Cache<&'static str>) -> Option<&'static str> {
        cache.get(NAME).map(|entry| entry.seen)
    }

    #[test]
    fn only_relevant_foreign_changes_are_reported() {
        let mut cache = filled_with("before");
        assert_eq!(cache.apply_event(present("a", 2, "before")), []);
        assert_eq!(cache.apply_event(present("a", 3, "after")), [service()]);
        assert_eq!(cache.apply_delete(&meta(NAME, "a", 4)), [service()]);
        assert_eq!(seen(&cache), None);
    }

    #[test]
    fn our_own_write_is_not_reported_in_either_order_of_reply_and_watch_event() {
        let mut cache = filled_with("before");
        cache.begin_write(NAME);
        assert_eq!(cache.apply_event(present("a", 2, "ours")), []);
        cache.apply_write(entry("a", 2, "ours"));
        assert_eq!(cache.end_write(NAME), None);

        cache.begin_write(NAME);
        cache.apply_write(entry("a", 3, "ours again"));
        assert_eq!(cache.end_write(NAME), None);
        assert_eq!(cache.apply_event(present("a", 3, "ours again")), []);
        assert_eq!(seen(&cache), Some("ours again"));
    }

    #[test]
    fn a_watch_that_lags_does_not_undo_our_write() {
        let mut cache = filled_with("before");
        cache.begin_write(NAME);
        cache.apply_write(entry("a", 5, "ours"));
        cache.end_write(NAME);
        assert_eq!(cache.apply_event(present("a", 4, "older")), []);
        assert_eq!(seen(&cache), Some("ours"));
    }

    #[test]
    fn a_foreign_change_during_our_write_is_reported_after_it() {
        let mut cache = filled_with("before");
        cache.begin_write(NAME);
        assert_eq!(cache.apply_event(present("a", 2, "ours")), []);
        assert_eq!(cache.apply_event(present("a", 3, "theirs")), []);
        cache.apply_write(entry("a", 2, "ours"));
        assert_eq!(cache.end_write(NAME), Some(service()));
        assert_eq!(seen(&cache), Some("theirs"));
    }

    #[test]
    fn a_foreign_change_during_a_failed_write_is_reported_after_it() {
        let mut cache = filled_with("before");
        cache.begin_write(NAME);
        assert_eq!(cache.apply_event(present("a", 2, "theirs")), []);
        assert_eq!(cache.end_write(NAME), Some(service()));
        cache.begin_write(NAME);
        assert_eq!(cache.end_write(NAME), None);
    }

    #[test]
    fn a_deleted_object_is_gone_at_once_and_can_be_recreated() {
        for echo_is_early in [true, false] {
            let mut cache = filled_with("before");
            cache.begin_write(NAME);
            if echo_is_early {
                assert_eq!(cache.apply_delete(&meta(NAME, "a", 9)), []);
            }
            cache.apply_own_delete(NAME, &"a".into());
            assert_eq!(cache.end_write(NAME), None);
            if !echo_is_early {
                assert_eq!(cache.apply_event(present("a", 8, "a late echo")), []);
                assert_eq!(seen(&cache), None);
                assert_eq!(cache.apply_delete(&meta(NAME, "a", 9)), []);
            }
            assert_eq!(cache.apply_event(present("b", 10, "another")), [service()]);
            assert_eq!(seen(&cache), Some("another"));
        }
    }

    #[test]
    fn the_end_of_an_earlier_object_is_not_the_end_of_its_successor() {
        let mut cache = filled_with("before");
        cache.begin_write(NAME);
        cache.apply_write(entry("b", 5, "successor"));
        cache.end_write(NAME);
        assert_eq!(cache.apply_delete(&meta(NAME, "a", 4)), []);
        assert_eq!(seen(&cache), Some("successor"));
    }

    #[test]
    fn an_object_whose_labels_were_removed_is_known_again_once_we_have_written_it() {
        let mut cache = filled_with("before");
        assert_eq!(cache.apply_delete(&meta(NAME, "a", 2)), [service()]);
        cache.begin_write(NAME);
        cache.apply_write(entry("a", 3, "ours"));
        assert_eq!(cache.end_write(NAME), None);
        assert_eq!(seen(&cache), Some("ours"));

        let mut cache = filled_with("before");
        cache.apply_event(Event::Init);
        assert_eq!(cache.apply_event(Event::InitDone), [service()], "they were removed while the watch was away");
        cache.begin_write(NAME);
        cache.apply_write(entry("a", 3, "ours"));
        assert_eq!(seen(&cache), Some("ours"));
    }

    #[test]
    fn a_new_list_tells_what_was_missed_and_keeps_what_we_wrote_meanwhile() {
        let mut cache = filled_with("before");
        cache.apply_event(Event::Init);
        assert_eq!(cache.apply_event(Event::InitDone), [service()], "it was deleted while the watch was away");

        cache.apply_event(Event::Init);
        cache.begin_write(NAME);
        cache.apply_write(entry("b", 7, "ours"));
        cache.end_write(NAME);
        assert_eq!(cache.apply_event(Event::InitDone), [], "the list was made before our write");
        assert_eq!(seen(&cache), Some("ours"));
    }

    #[test]
    fn the_objects_of_a_service_are_those_whose_names_begin_with_its_name() {
        let mut cache = filled_with("before");
        for other in ["slb-00-tcp", "slb-", "tlb-0-tcp"] {
            let service = ServiceName::main(&LbName::from_recorded("slb-00"));
            let other = Entry { service, meta: meta(other, other, 2), seen: "other" };
            cache.apply_event(Event::Apply(other));
        }
        let service = service();
        let names = cache.of(&service).map(|entry| entry.meta.key.name.to_string());
        assert_eq!(names.collect::<Vec<_>>(), ["slb-0-tcp"]);
    }
}
