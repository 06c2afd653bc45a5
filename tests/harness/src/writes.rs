//! Writes to the API, counted from outside: every write that changes an object is one event
//! of a watch.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::ensure;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, ObjectMeta, WatchEvent, WatchParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use sharedlb_crds::SharedLB;
use tokio::task::JoinSet;

/// Selects the Events of the controller.
const REPORTED: &str = "reportingController=sharedlb.dev/controller";

/// Counts writes by what they are, for as long as it lives.
pub struct Writes<T> {
    counts: Arc<Mutex<BTreeMap<T, usize>>>,
    /// They end when this is dropped.
    watches: JoinSet<()>,
}

impl<T> Default for Writes<T> {
    fn default() -> Self {
        Self { counts: Arc::default(), watches: JoinSet::new() }
    }
}

impl<T: Ord + Clone + Send + 'static> Writes<T> {
    /// The counts so far.
    pub fn counts(&self) -> BTreeMap<T, usize> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts the writes to the selected objects too, from now on. `classify` returns what a
    /// write is, by the object and by whether that is new; `None`: it does not count.
    ///
    /// A watch lasts for as long as the API server lets it, which is minutes.
    ///
    /// # Errors
    /// If the objects cannot be watched.
    pub async fn count<K>(
        &mut self,
        objects: Api<K>,
        selected: &WatchParams,
        mut classify: impl FnMut(&ObjectMeta, bool) -> Option<T> + Send + 'static,
    ) -> anyhow::Result<()>
    where
        K: Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let list = objects.list_metadata(&ListParams::default().limit(1)).await?;
        let since = list.metadata.resource_version.unwrap_or_default();
        let mut events = objects.watch_metadata(selected, &since).await?.boxed();
        let counts = self.counts.clone();
        self.watches.spawn(async move {
            while let Some(event) = events.next().await {
                let (object, is_new) = match event {
                    Ok(WatchEvent::Added(object)) => (object, true),
                    Ok(WatchEvent::Modified(object)) => (object, false),
                    Ok(WatchEvent::Deleted(_) | WatchEvent::Bookmark(_)) => continue,
                    Ok(WatchEvent::Error(error)) => return eprintln!("counting writes: {error}"),
                    Err(error) => return eprintln!("counting writes: {error}"),
                };
                if let Some(write) = classify(&object.metadata, is_new) {
                    *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(write).or_default() += 1;
                }
            }
        });
        Ok(())
    }
}

/// Writes by the kind of the object, and by whether it was new.
impl Writes<(&'static str, bool)> {
    /// Counts the writes to claims, Services and SharedLB's Events of a namespace, from now on.
    ///
    /// # Errors
    /// If they cannot be watched.
    pub async fn of(client: &Client, namespace: &str) -> anyhow::Result<Self> {
        let (all, reported) = (WatchParams::default(), WatchParams::default().fields(REPORTED));
        let mut writes = Self::default();
        let claims = Api::<SharedLB>::namespaced(client.clone(), namespace);
        writes.count(claims, &all, |_, is_new| Some(("SharedLB", is_new))).await?;
        let services = Api::<Service>::namespaced(client.clone(), namespace);
        writes.count(services, &all, |_, is_new| Some(("Service", is_new))).await?;
        let events = Api::<Event>::namespaced(client.clone(), namespace);
        writes.count(events, &reported, |_, is_new| Some(("Event", is_new))).await?;
        Ok(writes)
    }
}

/// Requires that there were at most so many writes, besides those by which so many objects
/// were created.
pub fn at_most<T: Debug>(counts: &BTreeMap<T, usize>, most: usize, objects: usize) -> anyhow::Result<()> {
    let all = counts.values().sum::<usize>() - objects;
    ensure!(all <= most, "{all} writes for {objects} objects, more than {most}: {counts:?}");
    Ok(())
}
