//! Sources: objects of other kinds for which a claim is kept, so that whoever
//! writes a Service or a ConfigMap need not know of SharedLB.
//!
//! A source keeps one claim for each of its objects, owned by that, and copies
//! the verdict back. So there is one pipeline, and the claims of sources are
//! claims like all others.
//!
//! `run` has the loop, which is the same for every source; what a source is,
//! is in its [`Source::next`]: given an object and its claim as they are now, the
//! one write that comes next. Whatever happens in between, whoever edits what and
//! wherever the process is killed, the next write is found the same way, so that
//! all ends where a fresh object would.

pub mod config_map;
#[cfg(test)]
mod edits;
mod feed;
mod owned;
mod ports;
mod run;
pub mod service;
#[cfg(test)]
mod simulation;
mod write;

use std::fmt::Debug;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sharedlb_crds::{Reason, SharedLB};

use crate::backends::Backends;
use crate::kubernetes::ObjectKey;
use crate::kubernetes::cache::Cached;
use crate::kubernetes::events::Events;
use crate::kubernetes::events::Notice;
use crate::process::metrics::Metrics;
use crate::process::readiness::Readiness;
use crate::watches::{EventHandlers, watch_one};

pub use feed::Feed;
pub use owned::OwnedClaim;
pub use run::{Inbox, SourceLoop};

/// One kind of object for which claims are kept.
pub trait Source: Send + Sync + 'static {
    /// The kind, as the API has it
    type Kind: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static;
    /// What matters of such an object
    type Object: Cached + Send + Sync + 'static;

    /// The value of the label [`sharedlb_crds::SOURCE_LABEL`] of its claims, and
    /// what their names begin with
    const NAME: &'static str;
    /// The kind in the words of the metrics
    const KIND: &'static str;
    /// Many of them, as the API server calls them
    const LISTED: &'static str;

    /// Converts an object; `None`: it is not one of this source, and never was.
    fn parse(&self, object: &Self::Kind) -> Option<Self::Object>;

    /// What else has not been listed yet that it decides on.
    fn missing(&self) -> Vec<&'static str>;

    /// Whether an object is decided on by what this Service is.
    fn depends_on(&self, _object: &Self::Object, _service: &ObjectKey) -> bool {
        false
    }

    /// The one thing to be done next for an object and its claim, as they are
    /// now; `None`: nothing, until one of them changes.
    fn next(&self, facts: &Facts<'_, Self::Object>) -> Option<Step>;
}

/// What is decided on.
pub struct Facts<'a, T> {
    /// The object; `None`: there is none (any longer)
    pub object: Option<&'a T>,
    /// The claim of that name that is the source's own
    pub claim: Option<&'a OwnedClaim>,
    /// Why the claim could not be written the last time
    pub refusal: Option<&'a Refusal>,
    /// What was last told of the object by [`Step::Tell`]
    pub told: Option<&'a Notice>,
    /// The time, for what has no other
    pub now: Timestamp,
}

/// Why the claim of a source could not be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In a word
    pub reason: Reason,
    /// For the user
    pub message: String,
}

/// What is done next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The claim is created.
    Create(Box<SharedLB>),
    /// The claim is set right by this merge patch.
    Correct(Value),
    /// The claim is deleted, and this is told of the object once it was.
    Delete(Option<Notice>),
    /// The object itself is changed.
    Change(Change),
    /// Something is told of the object, and nothing is written to it.
    Tell(Notice),
    /// Nothing until this time, unless the object or its claim changes before.
    Wait(Timestamp),
}

/// A change of the object itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What it is, in a word, for metrics and the log
    pub what: &'static str,
    /// Whether it is its status that is changed
    pub status: bool,
    /// The change, as a merge patch
    pub patch: Value,
    /// What is told of the object once that is written
    pub news: Vec<Notice>,
    /// What a person must do if the API server refuses it; `None`: nothing that
    /// cannot wait
    pub otherwise: Option<String>,
}

impl Change {
    /// A change of the object besides its status, of which nothing is told.
    fn of_object(what: &'static str, patch: Value) -> Self {
        Self { what, status: false, patch, news: Vec::new(), otherwise: None }
    }

    /// The same with the metadata of another change.
    ///
    /// A write of the status of a kind that is built in may change metadata too: it is
    /// how Kubernetes' own controller of cloud load balancers writes its finalizer
    /// (`PatchService` in `k8s.io/cloud-provider/service/helpers`). A custom resource's
    /// status is written without its metadata.
    fn with_metadata_of(mut self, other: Self) -> Self {
        self.patch["metadata"] = other.patch["metadata"].clone();
        self
    }
}

/// Which sources there are.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether Services are one
    pub services: bool,
    /// Whether Services without a `loadBalancerClass` are served too if they have
    /// the annotation [`sharedlb_crds::CLASS_ANNOTATION`]
    pub unclassed_services: bool,
    /// Whether ConfigMaps are one
    pub config_maps: bool,
}

impl Options {
    /// The names of the sources that run, and so publish what becomes of their claims.
    #[must_use]
    pub fn reporting(&self) -> Vec<&'static str> {
        let services = self.services.then_some(service::Services::NAME);
        let config_maps = self.config_maps.then_some(config_map::ConfigMaps::NAME);
        services.into_iter().chain(config_maps).collect()
    }
}

/// The sources that there are, to be run.
#[derive(Default)]
pub struct Sources {
    /// What they want to hear of the watches
    pub listeners: EventHandlers,
    /// Their loops and watches
    pub tasks: Vec<SourceTask>,
}

/// A loop or a watch of a source.
pub struct SourceTask {
    /// What it is, for the log
    pub name: &'static str,
    /// It runs for ever
    pub run: BoxFuture<'static, ()>,
}

/// Makes the sources that are asked for.
#[must_use]
pub fn start(
    options: Options,
    client: &Client,
    backends: &Arc<Backends>,
    events: &Events,
    metrics: &Arc<Metrics>,
    readiness: &Arc<Readiness>,
) -> Sources {
    let mut sources = Sources::default();
    let common = Common { client: client.clone(), events: events.clone(), metrics: metrics.clone() };
    if options.services {
        sources.add_services(service::Services { unclassed: options.unclassed_services }, &common, readiness);
    } else {
        sources.add_services(service::Retired, &common, readiness);
    }
    if options.config_maps {
        let source = config_map::ConfigMaps { backends: backends.clone() };
        let (source_loop, inbox, source) = SourceLoop::new(source, common, readiness.part());
        let (claims, maps) = (inbox.claims(), inbox.objects(source));
        sources.listeners.claims.push(Box::new(move |event| claims.apply_event(event)));
        sources.listeners.changed_services.push(Box::new(move |changes| inbox.services(changes)));
        sources.tasks.push(SourceTask { name: "the source of ConfigMaps", run: source_loop.run().boxed() });
        let selected = watcher::Config::default().labels(config_map::SELECTOR);
        let (api, metrics) = (Api::all(client.clone()), metrics.clone());
        let watch = async move {
            watch_one("ConfigMap", api, selected, &metrics, move |event| maps.apply_event(&event)).await;
        };
        sources.tasks.push(SourceTask { name: "the watch of ConfigMaps", run: watch.boxed() });
    }
    sources
}

impl Sources {
    fn add_services<S: Source<Kind = Service>>(&mut self, source: S, common: &Common, readiness: &Arc<Readiness>) {
        let (source_loop, inbox, source) = SourceLoop::new(source, common.clone(), readiness.part());
        let (claims, services) = (inbox.claims(), inbox.objects(source));
        self.listeners.claims.push(Box::new(move |event| claims.apply_event(event)));
        self.listeners.services.push(Box::new(move |event| services.apply_event(event)));
        self.tasks.push(SourceTask { name: "the source of Services", run: source_loop.run().boxed() });
    }
}

/// What every source works with.
#[derive(Clone)]
pub struct Common {
    /// The Kubernetes API
    pub client: Client,
    /// Where events go
    pub events: Events,
    /// Where writes are counted
    pub metrics: Arc<Metrics>,
}
