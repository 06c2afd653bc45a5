//! Events on the objects that users wrote.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, PostParams};
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::ObjectMeta;
use crate::requests::WRITE_TIMEOUT;
use crate::text;

/// The most Events that wait to be written. If the API server is that slow, further ones are
/// dropped: conditions have the same content.
const WAITING_MAX: usize = 20_000;
/// The reportingController of Events.
const REPORTER: &str = "sharedlb.dev/controller";

/// The content of an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The type
    pub kind: EventType,
    /// The reason, in CamelCase
    pub reason: String,
    /// The note for the user
    pub note: String,
}

impl Notice {
    /// A notice of type Normal.
    #[must_use]
    pub fn normal(reason: impl Into<String>, note: impl Into<String>) -> Self {
        Self { kind: EventType::Normal, reason: reason.into(), note: note.into() }
    }

    /// A notice of type Warning: an action of a user may be needed.
    #[must_use]
    pub fn warning(reason: impl Into<String>, note: impl Into<String>) -> Self {
        Self { kind: EventType::Warning, reason: reason.into(), note: note.into() }
    }
}

/// The type of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// Information.
    Normal,
    /// A failure.
    Warning,
}

impl EventType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Writes Events in the background, so that an Event never delays a decision.
///
/// Events are published when a verdict changes, so equal ones hardly follow each other.
/// kube's `Recorder` aggregates those, for which it keeps and searches every Event of the
/// last six minutes: too much after a burst of claims.
#[derive(Clone)]
pub struct Events(mpsc::Sender<Queued>);

/// An Event that waits to be written.
struct Queued {
    event: Event,
    /// Whether it is written only if it does not exist
    once: bool,
}

impl Events {
    /// Returns the recorder, and the task that writes Events until the recorder is dropped.
    /// `count` is called for each write with its result: `ok` or `failed`.
    pub fn new(
        client: Client,
        count: impl Fn(&'static str) + Send + Sync + 'static,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, mut receiver) = mpsc::channel::<Queued>(WAITING_MAX);
        let write = async move {
            while let Some(Queued { event, once }) = receiver.recv().await {
                let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
                let events: Api<Event> = Api::namespaced(client.clone(), namespace);
                let name = event.metadata.name.as_deref().unwrap_or_default();
                // With a timeout, since a write that hangs delays all later Events.
                let write = async {
                    if once && matches!(events.get_metadata_opt(name).await, Ok(Some(_))) {
                        return None;
                    }
                    Some(events.create(&PostParams::default(), &event).await)
                };
                match timeout(WRITE_TIMEOUT, write).await {
                    Ok(None) => {}
                    Ok(Some(Ok(_))) => count("ok"),
                    Ok(Some(Err(error))) => {
                        count("failed");
                        debug!(%error, "event not written");
                    }
                    Err(_) => {
                        count("failed");
                        debug!("event not written: no answer within {} s", WRITE_TIMEOUT.as_secs());
                    }
                }
            }
        };
        (Self(sender), write)
    }

    /// Publishes an Event on this object.
    pub fn publish<K: Resource<DynamicType = ()>>(&self, object: &ObjectMeta, notice: &Notice) {
        let now = Timestamp::now();
        // Named as client-go does: by object and time.
        let suffix = format!("{:x}", now.as_nanosecond());
        self.send(make::<K>(object, notice, &suffix, now), false);
    }

    /// Publishes an Event on this object, unless the same one was published before, by this
    /// process or an earlier one, and still exists. This needs the right to get Events.
    pub fn publish_once<K: Resource<DynamicType = ()>>(&self, object: &ObjectMeta, notice: &Notice) {
        // A build with another hash function repeats an Event once.
        let mut hasher = DefaultHasher::new();
        (&object.uid, &notice.reason, &notice.note).hash(&mut hasher);
        let suffix = format!("{:x}", hasher.finish());
        self.send(make::<K>(object, notice, &suffix, Timestamp::now()), true);
    }

    fn send(&self, event: Event, once: bool) {
        if self.0.try_send(Queued { event, once }).is_err() {
            warn!("event dropped: {WAITING_MAX} wait to be written");
        }
    }
}

fn make<K: Resource<DynamicType = ()>>(object: &ObjectMeta, notice: &Notice, suffix: &str, now: Timestamp) -> Event {
    let namespace = if object.key.namespace.is_empty() { "default" } else { &*object.key.namespace };
    Event {
        metadata: kube::core::ObjectMeta {
            // At most 253 characters.
            name: Some(format!("{:.220}.{suffix}", object.key.name)),
            namespace: Some(namespace.to_owned()),
            ..kube::core::ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some(notice.kind.as_str().to_owned()),
        reason: Some(notice.reason.clone()),
        action: Some("Reconcile".to_owned()),
        note: Some(text::message(&notice.note)),
        regarding: Some(ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            name: Some(object.key.name.to_string()),
            namespace: (!object.key.namespace.is_empty()).then(|| object.key.namespace.to_string()),
            uid: Some(object.uid.to_string()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(REPORTER.to_owned()),
        reporting_instance: Some(REPORTER.to_owned()),
        ..Event::default()
    }
}
