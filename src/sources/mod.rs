//! Sources keep a claim for each object of another kind, so that the author of a Service
//! or a ConfigMap need not know of SharedLB.
//!
//! A source keeps one claim for each of its objects, which owns the claim, and copies the
//! verdict back. So there is one pipeline, and the claims of sources are like all others.
//!
//! `run` has the loop, which is the same for every source. [`Source::next`] is the source
//! itself: from the current state of an object and its claim it returns the one write that
//! comes next. An edit at any moment, by any client, and a process that is killed change
//! only that state, so every object ends where a new one would.

pub(crate) mod config_map;
#[cfg(test)]
mod edits;
mod feed;
mod owned;
mod ports;
mod run;
pub(crate) mod service;
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

pub(crate) use feed::Feed;
pub(crate) use owned::OwnedClaim;
pub(crate) use run::SourceLoop;

/// A kind of object for which claims are kept.
pub(crate) trait Source: Send + Sync + 'static {
    /// The kind, as the API has it
    type Kind: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static;
    /// The parts of such an object that the source needs
    type Object: Cached + Send + Sync + 'static;

    /// The value of the label [`sharedlb_crds::SOURCE_LABEL`] of its claims, and the prefix
    /// of their names
    const NAME: &'static str;
    /// The kind, as in metrics
    const KIND: &'static str;
    /// The plural of the kind, as in the API
    const LISTED: &'static str;

    /// Converts an object; `None`: it is not an object of this source, and never was.
    fn parse(&self, object: &Self::Kind) -> Option<Self::Object>;

    /// The other kinds that its decisions depend on and that are not listed yet.
    fn missing(&self) -> Vec<&'static str>;

    /// Whether the next step for an object depends on this Service.
    fn depends_on(&self, _object: &Self::Object, _service: &ObjectKey) -> bool {
        false
    }

    /// The next step for an object and its claim in their current state; `None`: none
    /// until one of them changes.
    fn next(&self, facts: &Facts<'_, Self::Object>) -> Option<Step>;
}

/// The state that the next step is decided on.
pub(crate) struct Facts<'a, T> {
    /// The object; `None`: it does not exist, or no longer
    pub object: Option<&'a T>,
    /// The claim of the object, if the source owns it
    pub claim: Option<&'a OwnedClaim>,
    /// Why the last write of the claim failed
    pub problem: Option<&'a Problem>,
    /// The last Event of [`Step::Report`]
    pub last_reported: Option<&'a Notice>,
    pub now: Timestamp,
}

/// Why the claim of a source could not be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// The reason of the condition or Event
    pub reason: Reason,
    /// For the user
    pub message: String,
}

/// A step of a source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Create the claim.
    Create(Box<SharedLB>),
    /// Correct the claim by this merge patch.
    Correct(Value),
    /// Delete the claim, and then publish this Event of the object.
    Delete(Option<Notice>),
    /// Change the object itself.
    Change(ObjectChange),
    /// Publish an Event of the object.
    Report(Notice),
    /// Wait until this time, unless the object or its claim changes before.
    Wait(Timestamp),
}

/// A change of the object itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ObjectChange {
    /// What is written, for metrics and the log
    pub what: &'static str,
    /// Whether the status is written
    pub status: bool,
    pub patch: Value,
    /// The Events to publish once it is written
    pub notices: Vec<Notice>,
    /// What an admin must do at once if the API server refuses the write; `None`: nothing
    pub workaround: Option<String>,
}

impl ObjectChange {
    /// A change outside of the status, without an Event.
    fn of_object(what: &'static str, patch: Value) -> Self {
        Self { what, status: false, patch, notices: Vec::new(), workaround: None }
    }

    /// The same with the metadata of another change.
    ///
    /// For built-in kinds, a write of the status may change metadata too: Kubernetes' own
    /// controller of cloud load balancers writes its finalizer like that (`PatchService` in
    /// `k8s.io/cloud-provider/service/helpers`). For custom resources, it may not.
    fn with_metadata_of(mut self, other: Self) -> Self {
        self.patch["metadata"] = other.patch["metadata"].clone();
        self
    }
}

/// Which sources are enabled.
#[derive(Debug, Clone, Copy)]
pub struct EnabledSources {
    /// Whether Services are a source
    pub services: bool,
    /// Whether Services without a `loadBalancerClass` are served if they have the
    /// annotation [`sharedlb_crds::CLASS_ANNOTATION`]
    pub unclassed_services: bool,
    /// Whether ConfigMaps are a source
    pub config_maps: bool,
}

impl EnabledSources {
    /// The names of the sources that run, and so publish Events about their claims.
    pub(crate) fn reporting(&self) -> Vec<&'static str> {
        let services = self.services.then_some(service::Services::NAME);
        let config_maps = self.config_maps.then_some(config_map::ConfigMaps::NAME);
        services.into_iter().chain(config_maps).collect()
    }
}

/// The enabled sources, not yet running.
#[derive(Default)]
pub(crate) struct Sources {
    /// Their handlers of watch events
    pub handlers: EventHandlers,
    /// Their loops and watches
    pub tasks: Vec<SourceTask>,
}

/// A loop or a watch of a source.
pub(crate) struct SourceTask {
    /// Its name, for the log
    pub name: &'static str,
    /// It runs for ever
    pub run: BoxFuture<'static, ()>,
}

/// Creates the enabled sources.
pub(crate) fn start(
    options: EnabledSources,
    common: &Common,
    backends: &Arc<Backends>,
    readiness: &Arc<Readiness>,
) -> Sources {
    let mut sources = Sources::default();
    if options.services {
        sources.add_services(service::Services { unclassed: options.unclassed_services }, common, readiness);
    } else {
        sources.add_services(service::Retired, common, readiness);
    }
    if options.config_maps {
        let source = config_map::ConfigMaps { backends: backends.clone() };
        let (source_loop, inbox) = SourceLoop::new(source, common.clone(), readiness.part());
        let (claims, maps) = (inbox.claims(), inbox.objects());
        sources.handlers.claims.push(Box::new(move |event| claims.apply_event(event)));
        sources.handlers.changed_services.push(Box::new(move |changes| inbox.services(changes)));
        sources.tasks.push(SourceTask { name: "the source of ConfigMaps", run: source_loop.run().boxed() });
        let selected = watcher::Config::default().labels(config_map::SELECTOR);
        let (api, metrics) = (Api::all(common.client.clone()), common.metrics.clone());
        let watch = async move {
            watch_one("ConfigMap", api, selected, &metrics, move |event| maps.apply_event(&event)).await;
        };
        sources.tasks.push(SourceTask { name: "the watch of ConfigMaps", run: watch.boxed() });
    }
    sources
}

impl Sources {
    fn add_services<S: Source<Kind = Service>>(&mut self, source: S, common: &Common, readiness: &Arc<Readiness>) {
        let (source_loop, inbox) = SourceLoop::new(source, common.clone(), readiness.part());
        let (claims, services) = (inbox.claims(), inbox.objects());
        self.handlers.claims.push(Box::new(move |event| claims.apply_event(event)));
        self.handlers.services.push(Box::new(move |event| services.apply_event(event)));
        self.tasks.push(SourceTask { name: "the source of Services", run: source_loop.run().boxed() });
    }
}

/// The dependencies of every source.
#[derive(Clone)]
pub(crate) struct Common {
    pub client: Client,
    pub events: Events,
    /// Counts writes
    pub metrics: Arc<Metrics>,
}
