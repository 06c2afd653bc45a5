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

/// Events that may wait to be written. When the API server is that far behind,
/// further ones are dropped: the same is in the conditions.
const WAITING_MAX: usize = 20_000;
/// The controller that Events name as their origin.
const REPORTER: &str = "sharedlb.dev/controller";

/// What an Event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whether a person should act
    pub kind: EventType,
    /// The reason in a word, in CamelCase
    pub reason: String,
    /// The note for the user
    pub note: String,
}

impl Notice {
    /// A notice that something works, or has come to its end.
    #[must_use]
    pub fn normal(reason: impl Into<String>, note: impl Into<String>) -> Self {
        Self { kind: EventType::Normal, reason: reason.into(), note: note.into() }
    }

    /// A notice that something does not work.
    #[must_use]
    pub fn warning(reason: impl Into<String>, note: impl Into<String>) -> Self {
        Self { kind: EventType::Warning, reason: reason.into(), note: note.into() }
    }
}

/// The type of an Event, as the API has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// Something works, or has come to its end.
    Normal,
    /// Something does not work.
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

/// Takes Events, and writes them in the background, so that an Event never delays a
/// decision.
///
/// An Event is published when a verdict changes, so that equal ones hardly follow
/// each other. kube's `Recorder` joins those, for which it keeps and searches
/// every event of the last six minutes: too much after a burst of claims.
#[derive(Clone)]
pub struct Events(mpsc::Sender<Queued>);

/// An Event that waits to be written.
struct Queued {
    event: Event,
    /// Whether it is to be written only if it is not there
    once: bool,
}

impl Events {
    /// The sender, and the task that writes what it is given until the sender
    /// is gone. `count` is called for each write with its result: `ok` or `failed`.
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
                // Limited, since an unanswered write holds up all Events after it.
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
        // As client-go names them: the object and the time.
        let suffix = format!("{:x}", now.as_nanosecond());
        self.send(make::<K>(object, notice, &suffix, now), false);
    }

    /// Publishes an Event on this object, unless the same one was published before
    /// and is still there: for what this process cannot know to have published before
    /// it started. This needs the right to get Events.
    pub fn publish_once<K: Resource<DynamicType = ()>>(&self, object: &ObjectMeta, notice: &Notice) {
        // A build with another hash repeats an Event once.
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
