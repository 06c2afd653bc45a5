//! What is written in a namespace, counted from outside: every write that changes an
//! object is one event of a watch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::ensure;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ApiResource, DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::{Api, Client, Resource};
use sharedlb_crds::SharedLB;
use tokio::task::JoinSet;

/// The controller that Events name as their origin.
const REPORTER: &str = "sharedlb.dev/controller";

/// How many writes there were, by kind and by whether the object was new.
pub type Counts = BTreeMap<(&'static str, bool), usize>;

/// Counts the writes to claims, Services and SharedLB's Events of a namespace, for as
/// long as it lives.
pub struct Writes {
    counts: Arc<Mutex<Counts>>,
    /// They end when this is dropped.
    watches: JoinSet<()>,
}

impl Writes {
    /// Counts from now on.
    pub async fn of(client: &Client, namespace: &str) -> anyhow::Result<Self> {
        let mut writes = Self { counts: Arc::default(), watches: JoinSet::new() };
        writes.count::<SharedLB>("SharedLB", client, namespace).await?;
        writes.count::<Service>("Service", client, namespace).await?;
        writes.count::<Event>("Event", client, namespace).await?;
        Ok(writes)
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn count<K: Resource<DynamicType = ()>>(
        &mut self,
        kind: &'static str,
        client: &Client,
        namespace: &str,
    ) -> anyhow::Result<()> {
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &ApiResource::erase::<K>(&()));
        let list = api.list_metadata(&ListParams::default()).await?;
        let since = list.metadata.resource_version.unwrap_or_default();
        let mut events = api.watch(&WatchParams::default(), &since).await?.boxed();
        let counts = self.counts.clone();
        self.watches.spawn(async move {
            while let Some(event) = events.next().await {
                let (object, is_new) = match event {
                    Ok(WatchEvent::Added(object)) => (object, true),
                    Ok(WatchEvent::Modified(object)) => (object, false),
                    _ => continue,
                };
                let reporter = object.data.get("reportingController").and_then(|reporter| reporter.as_str());
                if kind != "Event" || reporter == Some(REPORTER) {
                    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                    *counts.entry((kind, is_new)).or_default() += 1;
                }
            }
        });
        Ok(())
    }
}

/// Requires that there were at most so many writes, besides those by which so many objects
/// were created.
pub fn at_most(counts: &Counts, most: usize, objects: usize) -> anyhow::Result<()> {
    let all = counts.values().sum::<usize>() - objects;
    ensure!(all <= most, "{all} writes for {objects} objects, more than {most}: {counts:?}");
    Ok(())
}
