//! The loop of a source: one task that caches its objects and their claims, and takes the
//! next step for each one that has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use sharedlb_crds::Reason;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::write::{Writer, claim_key};
use super::{Common, Facts, Feed, ObjectChange, OwnedClaim, Problem, Source, Step, feed::FeedEvent};
use crate::backends::ServiceObject;
use crate::kubernetes::ObjectKey;
use crate::kubernetes::ObjectMeta;
use crate::kubernetes::cache::{Cache, Cached as _, Changed, in_namespace};
use crate::kubernetes::events::Events;
use crate::kubernetes::events::Notice;
use crate::kubernetes::text;
use crate::kubernetes::writes::{WriteError, Writes};
use crate::process::queue::{Receiver, Sender, queue};
use crate::process::readiness::Part;
use crate::process::tasks;

/// The longest error in a message with advice, in bytes: it leaves room for the advice in
/// an Event.
const ERROR_MAX: usize = 400;

/// An event for the loop of a source.
enum Input<S: Source> {
    Object(FeedEvent<S::Object>),
    Claim(Box<FeedEvent<OwnedClaim>>),
    /// These Services changed.
    Services(Vec<ObjectKey>),
    Written(ObjectKey, Written<S>),
}

/// The answer to a write.
enum Written<S: Source> {
    /// To the claim; with its state after the write
    Claim(OwnedClaimWrite, Result<Option<Box<OwnedClaim>>, WriteError>),
    /// To the object itself
    Object(ObjectChange, Result<S::Kind, WriteError>),
}

/// A write to a claim.
enum OwnedClaimWrite {
    Create,
    Correct,
    /// The one of this uid
    Delete(Arc<str>, Option<Notice>),
}

/// The state of an object and its claim besides what the API has.
#[derive(Default)]
struct ObjectState {
    /// One write at a time for both
    writes: Writes,
    problem: Option<Problem>,
    last_reported: Option<Notice>,
    /// The last error that was reported
    complaint: Option<String>,
}

/// The sender of events for the loop of a source.
pub(crate) struct Inbox<S: Source> {
    sender: Sender<Input<S>>,
    source: Arc<S>,
}

impl<S: Source> Inbox<S> {
    /// The feed of objects.
    pub(crate) fn objects(&self) -> Feed<S::Kind, S::Object> {
        let source = self.source.clone();
        let sender = self.sender.clone();
        Feed::new(move |object| source.parse(object), move |shown| sender.send(Input::Object(shown)))
    }

    /// The feed of claims.
    pub(crate) fn claims(&self) -> Feed<DynamicObject, OwnedClaim> {
        let sender = self.sender.clone();
        Feed::new(OwnedClaim::parse::<S>, move |shown| sender.send(Input::Claim(Box::new(shown))))
    }

    /// Passes on that Services have changed.
    pub(crate) fn services(&self, changes: &[Changed<ServiceObject>]) {
        let changed = changes.iter().filter_map(|change| change.new.as_ref().or(change.old.as_ref()));
        // No object names a companion Service.
        let named = changed.filter(|service| service.owner.is_none());
        self.sender.send(Input::Services(named.map(|service| service.meta.key.clone()).collect()));
    }
}

/// The loop of a source, and its state.
pub(crate) struct SourceLoop<S: Source> {
    source: Arc<S>,
    writer: Writer<S>,
    events: Events,
    readiness: Part,
    inputs: Receiver<Input<S>>,
    sender: Sender<Input<S>>,
    objects: Cache<S::Object>,
    claims: Cache<OwnedClaim>,
    entries: BTreeMap<ObjectKey, ObjectState>,
    touched: BTreeSet<ObjectKey>,
    /// When objects are to be reconciled even if nothing happens
    due: BTreeMap<ObjectKey, Instant>,
}

impl<S: Source> SourceLoop<S> {
    /// A loop with empty caches, and the sender of its events.
    pub(crate) fn new(source: S, common: Common, readiness: Part) -> (Self, Inbox<S>) {
        let Common { client, events, metrics } = common;
        let (sender, inputs) = queue(metrics.of_loop(S::KIND));
        let source = Arc::new(source);
        let source_loop = Self {
            source: source.clone(),
            writer: Writer::new(client, metrics),
            events,
            readiness,
            inputs,
            sender: sender.clone(),
            objects: Cache::default(),
            claims: Cache::default(),
            entries: BTreeMap::new(),
            touched: BTreeSet::new(),
            due: BTreeMap::new(),
        };
        (source_loop, Inbox { sender, source })
    }

    /// Reconciles objects on every event, for ever. Nothing is written before every cache
    /// has filled.
    pub(crate) async fn run(mut self) {
        while let Some(inputs) = self.inputs.happened(self.due.values().min().copied()).await {
            inputs.into_iter().for_each(|input| self.take_in(input));
            let missing = self.missing();
            if !missing.is_empty() {
                self.readiness.waiting_for(&missing);
                continue;
            }
            self.reconcile_touched();
            self.readiness.ready();
        }
    }

    fn missing(&self) -> Vec<&'static str> {
        let own = [(S::LISTED, self.objects.is_filled()), ("sharedlbs", self.claims.is_filled())];
        let own = own.into_iter().filter_map(|(kind, filled)| (!filled).then_some(kind));
        own.chain(self.source.missing()).collect()
    }

    fn take_in(&mut self, input: Input<S>) {
        match input {
            Input::Object(shown) => {
                let changes = match shown {
                    FeedEvent::Event(event) => self.objects.apply_event(event),
                    FeedEvent::Left(key, uid) => self.objects.forget(&key, &uid).into_iter().collect(),
                };
                for Changed { old, new } in changes {
                    new.or(old).into_iter().for_each(|object| self.object_changed(object.meta().key.clone()));
                }
            }
            Input::Claim(shown) => {
                let changes = match *shown {
                    FeedEvent::Event(event) => self.claims.apply_event(event),
                    FeedEvent::Left(key, uid) => self.claims.forget(&key, &uid).into_iter().collect(),
                };
                for Changed { old, new } in changes {
                    new.or(old).into_iter().for_each(|claim| self.object_changed(claim.source.clone()));
                }
            }
            Input::Services(services) => services.iter().for_each(|service| self.touch_those_of(service)),
            Input::Written(key, Written::Claim(write, result)) => self.claim_written(&key, write, result),
            Input::Written(key, Written::Object(change, result)) => self.object_written(&key, change, result),
        }
    }

    fn touch_those_of(&mut self, service: &ObjectKey) {
        let all = in_namespace(self.objects.objects(), &service.namespace);
        let theirs = all.filter(|(_, object)| self.source.depends_on(object, service)).map(|(key, _)| key.clone());
        self.touched.extend(theirs.collect::<Vec<_>>());
    }

    /// Has an object reconciled whose cached state has changed: a write that failed may
    /// succeed now.
    fn object_changed(&mut self, key: ObjectKey) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.writes.try_again();
        }
        self.touched.insert(key);
    }

    fn reconcile_touched(&mut self) {
        let now = Instant::now();
        let due: Vec<ObjectKey> = self.due.iter().filter(|(_, due)| **due <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.due.remove(&key);
            self.touched.insert(key);
        }
        while let Some(key) = self.touched.pop_first() {
            self.reconcile(&key);
        }
    }

    /// Takes the next step for one object and its claim.
    fn reconcile(&mut self, key: &ObjectKey) {
        tasks::at(S::KIND, key);
        let object = self.objects.get(key).cloned();
        let claim = self.claims.get(&claim_key::<S>(key)).cloned();
        let entry = self.entries.entry(key.clone()).or_default();
        if entry.writes.is_under_way() {
            return;
        }
        let now = Timestamp::now();
        let facts = Facts {
            object: object.as_deref(),
            claim: claim.as_deref(),
            problem: entry.problem.as_ref(),
            last_reported: entry.last_reported.as_ref(),
            now,
        };
        match (self.source.next(&facts), entry.writes.held_until(Instant::now())) {
            (None, _) => {
                if object.is_none() && claim.is_none() {
                    self.entries.remove(key);
                }
            }
            (Some(Step::Report(notice)), _) => {
                if let Some(object) = &object {
                    info!(source = S::NAME, object = %key, reason = notice.reason, note = notice.note, "reported");
                    // An earlier process may have published it.
                    match entry.last_reported {
                        None => self.events.publish_once::<S::Kind>(object.meta(), &notice),
                        Some(_) => self.events.publish::<S::Kind>(object.meta(), &notice),
                    }
                }
                entry.last_reported = Some(notice);
                self.touched.insert(key.clone());
            }
            (Some(Step::Wait(until)), _) => {
                let wait = until.duration_since(now).unsigned_abs();
                self.due.insert(key.clone(), Instant::now() + wait);
            }
            (Some(_), Some(until)) => _ = self.due.insert(key.clone(), until),
            (Some(step), None) => {
                entry.writes.begin();
                self.write(key, step, object.as_deref().map(|object| object.meta()), claim.as_deref());
            }
        }
    }

    fn write(&self, key: &ObjectKey, step: Step, object: Option<&ObjectMeta>, claim: Option<&OwnedClaim>) {
        let writer = self.writer.clone();
        let sender = self.sender.clone();
        let key = key.clone();
        let object = object.cloned();
        let claim = claim.map(|claim| claim.meta.clone());
        let source = S::NAME;
        let pending = match step {
            Step::Change(_) => self.writer.pending(S::KIND),
            _ => self.writer.pending("SharedLB"),
        };
        tokio::spawn(async move {
            let _pending = pending;
            let written = match (step, object, claim) {
                (Step::Create(claim), ..) => {
                    info!(source, object = %key, claim = claim.name_any(), class = claim.spec.class_name, "claim created");
                    Written::Claim(OwnedClaimWrite::Create, boxed(writer.create(&claim).await))
                }
                (Step::Correct(patch), _, Some(claim)) => {
                    info!(source, object = %key, claim = %claim.key, "claim corrected");
                    Written::Claim(OwnedClaimWrite::Correct, boxed(writer.correct(&claim, patch).await))
                }
                (Step::Delete(notice), _, Some(claim)) => {
                    info!(source, object = %key, claim = %claim.key, "claim deleted");
                    let result = boxed(writer.delete(&claim).await);
                    Written::Claim(OwnedClaimWrite::Delete(claim.uid, notice), result)
                }
                (Step::Change(change), Some(object), _) => {
                    let result = writer.change(&object, &change).await;
                    Written::Object(change, result)
                }
                // The object or claim is gone.
                _ => return,
            };
            sender.send(Input::Written(key, written));
        });
    }

    fn claim_written(
        &mut self,
        key: &ObjectKey,
        write: OwnedClaimWrite,
        result: Result<Option<Box<OwnedClaim>>, WriteError>,
    ) {
        self.touched.insert(key.clone());
        let entry = self.entries.entry(key.clone()).or_default();
        match (write, result) {
            (write, Ok(Some(claim))) => {
                self.claims.apply_write(*claim);
                (entry.problem, entry.complaint) = (None, None);
                entry.writes.succeeded();
                self.publish_deletion(key, write);
            }
            (OwnedClaimWrite::Delete(uid, notice), Ok(None)) => {
                self.claims.forget(&claim_key::<S>(key), &uid);
                entry.problem = None;
                entry.writes.succeeded();
                self.publish_deletion(key, OwnedClaimWrite::Delete(uid, notice));
            }
            (OwnedClaimWrite::Create, Ok(None)) => {
                let name = claim_key::<S>(key).name;
                let message = format!(
                    "SharedLB {name} exists and has another owner: delete it, or give this {} another name",
                    S::KIND
                );
                entry.problem = Some(Problem { reason: Reason::NameTaken, message });
                entry.writes.failed(Instant::now());
            }
            // It has another owner by now.
            (OwnedClaimWrite::Correct, Ok(None)) => entry.writes.conflicted(Instant::now()),
            (_, Err(error)) if error.is_conflict() => entry.writes.conflicted(Instant::now()),
            (_, Err(error)) => {
                warn!(source = S::NAME, object = %key, %error, "claim not written");
                if let WriteError::Refused(message) = error {
                    let message = format!("the API server refuses its SharedLB: {message}");
                    entry.problem = Some(Problem { reason: Reason::Rejected, message });
                }
                entry.writes.failed(Instant::now());
            }
        }
    }

    fn publish_deletion(&self, key: &ObjectKey, write: OwnedClaimWrite) {
        if let (OwnedClaimWrite::Delete(_, Some(notice)), Some(object)) = (write, self.objects.get(key)) {
            self.events.publish::<S::Kind>(object.meta(), &notice);
        }
    }

    fn object_written(&mut self, key: &ObjectKey, change: ObjectChange, result: Result<S::Kind, WriteError>) {
        self.touched.insert(key.clone());
        let entry = self.entries.entry(key.clone()).or_default();
        entry.writes.answered(&result, Instant::now());
        match result {
            Ok(written) => {
                entry.complaint = None;
                let meta = ObjectMeta::of(&written);
                for notice in &change.notices {
                    info!(source = S::NAME, object = %key, reason = notice.reason, note = notice.note, "reported");
                    self.events.publish::<S::Kind>(&meta, notice);
                }
                match self.source.parse(&written) {
                    Some(object) => _ = self.objects.apply_write(object),
                    None => _ = self.objects.forget(key, &meta.uid),
                }
            }
            Err(error) if error.is_conflict() => {}
            Err(error) => {
                let complaint = match &change.workaround {
                    None => format!("its {} can't be written: {error}", change.what),
                    Some(workaround) => {
                        let error = text::fit(&error.to_string(), ERROR_MAX);
                        format!("its {} can't be written: {error}; until it is, {workaround}", change.what)
                    }
                };
                if entry.complaint.as_ref() != Some(&complaint) {
                    match change.workaround {
                        None => warn!(source = S::NAME, object = %key, complaint, "not written"),
                        Some(_) => error!(source = S::NAME, object = %key, complaint, "not written"),
                    }
                    if let (WriteError::Refused(_), Some(object)) = (&error, self.objects.get(key)) {
                        let reason = Reason::Rejected.as_str().to_owned();
                        self.events.publish::<S::Kind>(object.meta(), &Notice::warning(reason, complaint.clone()));
                    }
                }
                entry.complaint = Some(complaint);
            }
        }
    }
}

fn boxed<T>(result: Result<Option<T>, WriteError>) -> Result<Option<Box<T>>, WriteError> {
    result.map(|written| written.map(Box::new))
}
