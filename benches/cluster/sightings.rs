//! When a watch first shows something that was expected.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// A watch, and what is expected of it.
pub(crate) struct Sightings<K> {
    expected: Expected<K>,
    watch: AbortHandle,
}

type Expected<K> = Arc<Mutex<HashMap<String, oneshot::Sender<Sighted<K>>>>>;

/// What was expected, as it was shown.
pub(crate) struct Sighted<K> {
    /// When the watch delivered it
    pub(crate) at: Instant,
    /// What it delivered
    pub(crate) object: K,
}

/// Something that is expected and was not yet shown.
pub(crate) struct Sighting<K> {
    what: String,
    sighted: oneshot::Receiver<Sighted<K>>,
}

impl<K> Sightings<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Watches all objects of a kind. `shows` says what an object is a sight of.
    pub(crate) async fn start(api: Api<K>, shows: impl Fn(&K) -> Vec<String> + Send + 'static) -> anyhow::Result<Self> {
        let expected = Expected::default();
        let (listed, has_listed) = oneshot::channel();
        let watch = tokio::spawn(follow(api, shows, expected.clone(), listed)).abort_handle();
        has_listed.await.context("the watch ended")?;
        Ok(Self { expected, watch })
    }
}

impl<K> Sightings<K> {
    /// Expects something from now on.
    pub(crate) fn expect(&self, what: String) -> Sighting<K> {
        let (sender, sighted) = oneshot::channel();
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).insert(what.clone(), sender);
        Sighting { what, sighted }
    }
}

impl<K> Drop for Sightings<K> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl<K> Sighting<K> {
    /// Waits until it is shown.
    pub(crate) async fn wait(self, limit: Duration) -> anyhow::Result<Sighted<K>> {
        let sighted = tokio::time::timeout(limit, self.sighted).await;
        sighted.with_context(|| format!("waited {limit:?} for {}", self.what))?.context("the watch ended")
    }
}

async fn follow<K>(api: Api<K>, shows: impl Fn(&K) -> Vec<String>, expected: Expected<K>, listed: oneshot::Sender<()>)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut listed = Some(listed);
    let mut events = watcher(api, Config::default()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        let at = Instant::now();
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                let mut expected = expected.lock().unwrap_or_else(PoisonError::into_inner);
                for sender in shows(&object).iter().filter_map(|what| expected.remove(what)) {
                    // A receiver that no longer waits is ignored.
                    let _ = sender.send(Sighted { at, object: object.clone() });
                }
            }
            Ok(Event::InitDone) => drop(listed.take().map(|listed| listed.send(()))),
            Ok(Event::Init | Event::Delete(_)) => {}
            Err(error) => eprintln!("bench: a watch: {error}"),
        }
    }
}
