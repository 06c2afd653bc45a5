//! Events on the objects that users wrote.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::claim::Meta;

/// Events that may wait to be written. When the API server is that far behind,
/// further ones are dropped: the same is in the conditions.
const WAITING_MAX: usize = 20_000;

/// Takes events, and writes them in the background, so that telling never holds
/// up deciding.
#[derive(Clone)]
pub struct Events(mpsc::Sender<(Event, ObjectReference)>);

impl Events {
    /// The sender, and the task that writes what it is given until the sender
    /// is gone.
    pub fn new(client: Client) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, mut receiver) = mpsc::channel::<(Event, ObjectReference)>(WAITING_MAX);
        let recorder = Recorder::new(client, Reporter { controller: "sharedlb.dev/controller".into(), instance: None });
        let write = async move {
            while let Some((event, reference)) = receiver.recv().await {
                if let Err(error) = recorder.publish(&event, &reference).await {
                    debug!(%error, "event not written");
                }
            }
        };
        (Self(sender), write)
    }

    /// An event on this object: its reason in a word, and a note for the user.
    pub fn tell<K: Resource<DynamicType = ()>>(&self, object: &Meta, warning: bool, reason: String, note: String) {
        let reference = ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            name: Some(object.key.name.to_string()),
            namespace: (!object.key.namespace.is_empty()).then(|| object.key.namespace.to_string()),
            uid: Some(object.uid.to_string()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: if warning { EventType::Warning } else { EventType::Normal },
            reason,
            // At most 1024 bytes (events.k8s.io/v1, `note`).
            note: Some(note.chars().take(1000).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if self.0.try_send((event, reference)).is_err() {
            warn!("event dropped: {WAITING_MAX} wait to be written");
        }
    }
}
