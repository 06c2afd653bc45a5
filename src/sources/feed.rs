//! Filters a shared watch for the objects of a source.

use crate::kubernetes::ObjectKey;
use std::collections::HashSet;

use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt as _};
use parking_lot::Mutex;

/// An event of a filtered watch.
#[derive(Debug)]
pub(crate) enum FeedEvent<T> {
    /// Of a selected object, or of the watch itself
    Event(Event<T>),
    /// The object of this name and uid is no longer selected
    Left(ObjectKey, std::sync::Arc<str>),
}

type Parse<K, T> = Box<dyn Fn(&K) -> Option<T> + Send + Sync>;
type Show<T> = Box<dyn Fn(FeedEvent<T>) + Send + Sync>;

/// Passes on the events of selected objects, so that a source has no copy of all objects.
pub(crate) struct Feed<K, T> {
    parse: Parse<K, T>,
    show: Show<T>,
    /// The objects that were selected when they were last seen
    known: Mutex<HashSet<ObjectKey>>,
}

impl<K: Resource, T> Feed<K, T> {
    /// `parse` selects and converts objects, and `show` receives the events.
    pub(crate) fn new(
        parse: impl Fn(&K) -> Option<T> + Send + Sync + 'static,
        show: impl Fn(FeedEvent<T>) + Send + Sync + 'static,
    ) -> Self {
        Self { parse: Box::new(parse), show: Box::new(show), known: Mutex::default() }
    }

    /// Passes on an event of the watch, if it is of a selected object.
    pub(crate) fn apply_event(&self, event: &Event<K>) {
        let mut known = self.known.lock();
        let left = |known: &mut HashSet<ObjectKey>, object: &K| {
            if known.is_empty() {
                return None;
            }
            let key = ObjectKey::of(object);
            known.remove(&key).then(|| FeedEvent::Left(key, object.uid().unwrap_or_default().into()))
        };
        let shown = match event {
            Event::Init => {
                known.clear();
                Some(FeedEvent::Event(Event::Init))
            }
            Event::InitDone => Some(FeedEvent::Event(Event::InitDone)),
            // The end of the list removes what it does not have.
            Event::InitApply(object) => (self.parse)(object).map(|parsed| {
                known.insert(ObjectKey::of(object));
                FeedEvent::Event(Event::InitApply(parsed))
            }),
            Event::Apply(object) => match (self.parse)(object) {
                Some(parsed) => {
                    known.insert(ObjectKey::of(object));
                    Some(FeedEvent::Event(Event::Apply(parsed)))
                }
                None => left(&mut known, object),
            },
            Event::Delete(object) => left(&mut known, object),
        };
        if let Some(shown) = shown {
            (self.show)(shown);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    #[test]
    fn that_an_object_is_no_longer_selected_is_passed_on_once() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let show = {
            let seen = seen.clone();
            move |shown: FeedEvent<String>| {
                seen.lock().push(match shown {
                    FeedEvent::Event(Event::Apply(name)) => name,
                    FeedEvent::Event(event) => format!("{event:?}"),
                    FeedEvent::Left(key, uid) => format!("no longer {key} {uid}"),
                });
            }
        };
        let matters = |map: &ConfigMap| map.labels().contains_key("matters").then(|| map.name_any());
        let feed = Feed::new(matters, show);
        let map = |name: &str, matters: bool| -> ConfigMap {
            let labels = if matters { json!({"matters": ""}) } else { json!({}) };
            serde_json::from_value(
                json!({"metadata": {"namespace": "team", "name": name, "uid": "u", "labels": labels}}),
            )
            .unwrap()
        };
        for event in [
            Event::Apply(map("never", false)),
            Event::Apply(map("a", true)),
            Event::Apply(map("a", false)),
            Event::Apply(map("a", false)),
            Event::Delete(map("a", false)),
            Event::Apply(map("b", true)),
            Event::Delete(map("b", true)),
        ] {
            feed.apply_event(&event);
        }
        assert_eq!(*seen.lock(), ["a", "no longer team/a u", "b", "no longer team/b u"]);
    }
}
