//! Picks out of a watch that others need too what matters to a source.

use crate::kubernetes::ObjectKey;
use crate::kubernetes::ObjectMeta;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt as _};

/// What a source is shown of a watch.
#[derive(Debug)]
pub enum Shown<T> {
    /// Of an object that matters, or of the watch itself
    Event(Event<T>),
    /// An object that mattered, of this name and uid, does not matter any longer
    NoLonger(ObjectKey, std::sync::Arc<str>),
}

type Parse<K, T> = Box<dyn Fn(&K) -> Option<T> + Send + Sync>;
type Show<T> = Box<dyn Fn(Shown<T>) + Send + Sync>;

/// Picks out what matters, so that nobody keeps a second copy of all objects.
pub struct Feed<K, T> {
    parse: Parse<K, T>,
    show: Show<T>,
    /// What mattered the last time it was seen
    known: Mutex<HashSet<ObjectKey>>,
}

impl<K: Resource, T> Feed<K, T> {
    /// `parse` tells what matters, and `show` takes it.
    pub fn new(
        parse: impl Fn(&K) -> Option<T> + Send + Sync + 'static,
        show: impl Fn(Shown<T>) + Send + Sync + 'static,
    ) -> Self {
        Self { parse: Box::new(parse), show: Box::new(show), known: Mutex::default() }
    }

    /// Looks at what the watch tells.
    pub fn apply_event(&self, event: &Event<K>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let meta = |object: &K| ObjectMeta::of_meta(object.meta());
        let shown = match event {
            Event::Init => {
                known.clear();
                Shown::Event(Event::Init)
            }
            Event::InitDone => Shown::Event(Event::InitDone),
            // What is not in the list does not matter any longer.
            Event::InitApply(object) => match (self.parse)(object) {
                Some(parsed) => {
                    known.insert(meta(object).key);
                    Shown::Event(Event::InitApply(parsed))
                }
                None => return,
            },
            Event::Apply(object) => match (self.parse)(object) {
                Some(parsed) => {
                    known.insert(meta(object).key);
                    Shown::Event(Event::Apply(parsed))
                }
                None => match known.is_empty() || !known.remove(&meta(object).key) {
                    true => return,
                    false => Shown::NoLonger(meta(object).key, object.uid().unwrap_or_default().into()),
                },
            },
            Event::Delete(object) => match known.is_empty() || !known.remove(&meta(object).key) {
                true => return,
                false => Shown::NoLonger(meta(object).key, object.uid().unwrap_or_default().into()),
            },
        };
        (self.show)(shown);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_no_longer_matters_is_said_once_and_of_all_else_nothing_is_said() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let show = {
            let seen = seen.clone();
            move |shown: Shown<String>| {
                seen.lock().unwrap().push(match shown {
                    Shown::Event(Event::Apply(name)) => name,
                    Shown::Event(event) => format!("{event:?}"),
                    Shown::NoLonger(key, uid) => format!("no longer {key} {uid}"),
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
        assert_eq!(*seen.lock().unwrap(), ["a", "no longer team/a u", "b", "no longer team/b u"]);
    }
}
