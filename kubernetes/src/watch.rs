//! Watches that run for ever.

use std::fmt::Debug;
use std::time::Duration;

use backon::ExponentialBuilder;
use futures::StreamExt as _;
use kube::runtime::watcher::{self, Event, ExponentialBackoff};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// The first wait before a watch that failed is started again.
const RETRY_MIN: Duration = Duration::from_millis(200);
/// The longest wait. (With kube's own limit of 30 s, changes by other clients would be
/// missed for that long after the API server is back, and writes would conflict.)
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The most objects in one reply to a list. All of them are in memory at once as they came, and
/// several kinds are listed at the same time: with the default of 500, that is more than what
/// is kept of 10,000 claims.
const PAGE: u32 = 100;

/// Watches the objects of one kind for ever, with a list at the start and after
/// every failure. A failure is passed to `failed`, and the watch is started again
/// after a wait.
pub async fn watch_kind<K>(
    api: Api<K>,
    config: watcher::Config,
    apply: impl Fn(Event<K>) + Send,
    failed: impl Fn(watcher::Error) + Send,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Clone,
{
    let backoff = ExponentialBuilder::default()
        .with_min_delay(RETRY_MIN)
        .with_max_delay(RETRY_MAX)
        .with_jitter()
        .without_max_times();
    let mut events = watch(api, config.page_size(PAGE)).backoff(ExponentialBackoff::from(backoff)).boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => apply(event),
            Err(error) => failed(error),
        }
    }
}

/// Converts the object of an event.
pub fn map<A, B>(event: Event<A>, convert: impl Fn(A) -> B) -> Event<B> {
    match event {
        Event::Apply(object) => Event::Apply(convert(object)),
        Event::Delete(object) => Event::Delete(convert(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(convert(object)),
        Event::InitDone => Event::InitDone,
    }
}
