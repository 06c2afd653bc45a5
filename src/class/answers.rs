//! The class loop takes in the answers to its writes.

use std::sync::Arc;

use sharedlb_crds::{Reason, SharedLB, SharedLBClass, SharedLBClassStatus, SharedLBStatus};
use sharedlb_providers::ListenerKey;
use tokio::time::Instant;
use tracing::{info, warn};

use super::effect::{ClaimChange, ClaimWrite, ClassChange, ClassWrite};
use super::state::{Class, ClassAnswer};
use super::writes::WriteError;
use super::{ClassLoop, transitions};
use crate::api::claim::ClaimObject;
use crate::api::class::ClassObject;
use crate::backends::ServiceObject;
use crate::kubernetes::events::Notice;

impl ClassLoop {
    /// The current version of the claim that was written, if the claim still exists. Its
    /// class may have changed: a claim that names none follows the default class, and the
    /// class in its status.
    fn as_it_is_now(&self, written: &ClaimObject) -> Option<Arc<ClaimObject>> {
        self.claims.get(&written.meta.key).filter(|now| now.meta.uid == written.meta.uid).cloned()
    }

    /// Takes in the answer to a write to a claim.
    pub(super) fn claim_answered(&mut self, write: ClaimWrite, result: Result<ClaimObject, WriteError>) {
        let ClaimWrite { claim, what, awaited_by } = write;
        let now = self.as_it_is_now(&claim);
        if let Some(state) = now.as_deref().and_then(|now| self.state(now)) {
            state.writes.answered(&result, Instant::now());
        }
        match result {
            Ok(written) => {
                self.note_claim_write(&claim, &what, &written);
                if let Some(change) = self.claims.apply_write(written) {
                    self.claim_changed(change.old.as_deref(), change.new);
                }
            }
            Err(error) if error.is_conflict() => {}
            Err(error) => warn!(claim = %claim.meta.key, %error, "claim not written"),
        }
        // The class reconciles once the last answer that it waits for is here.
        if awaited_by.is_some() && self.classes.get_mut(&awaited_by).is_some_and(Class::give_answered) {
            if self.classes.get(&awaited_by).is_some_and(Class::has_newcomers) {
                self.dirty.insert(awaited_by);
            } else {
                self.reconcile_soon(awaited_by);
            }
        }
        if let Some(now) = self.as_it_is_now(&claim) {
            self.reconcile_soon(self.class_of(&now));
        }
    }

    fn note_claim_write(&mut self, claim: &ClaimObject, what: &ClaimChange, written: &ClaimObject) {
        match what {
            ClaimChange::Status { status, lost } => {
                self.dropped.learn(status, &written.status);
                self.publish_lost(claim, lost);
                self.publish_transitions(claim, status);
            }
            ClaimChange::Protect => {}
            ClaimChange::Release => log_release(claim),
        }
    }

    /// Publishes that slots in the status of a claim belong to an older claim.
    fn publish_lost(&self, claim: &ClaimObject, lost: &[ListenerKey]) {
        for slot in lost {
            let note = format!("port {slot}, which the status named, is held by an older SharedLB: it stays there");
            warn!(claim = %claim.meta.key, load_balancer = claim.status.load_balancer_index, port = %slot, "slot held by another claim");
            let notice = Notice::warning(Reason::PortTaken.as_str(), note);
            self.settings.events.publish::<SharedLB>(&claim.meta, &notice);
        }
    }

    /// Logs how the verdict on a claim changes, and publishes it. A source publishes it
    /// for its claims, on the object that the user wrote.
    fn publish_transitions(&self, claim: &ClaimObject, status: &SharedLBStatus) {
        let class = self.class_of(claim);
        let class = class.as_deref();
        let source = claim.source.as_deref();
        let is_published_elsewhere = source.is_some_and(|source| self.settings.reporting_sources.contains(&source));
        let reached = transitions::reached(status);
        for notice in transitions::transitions(&claim.status.conditions, &status.conditions, reached.as_deref()) {
            let (reason, message) = (&notice.reason, &notice.note);
            info!(class, claim = %claim.meta.key, load_balancer = status.load_balancer_index, ports = status.summary, reason, message, "claim");
            if !is_published_elsewhere {
                self.settings.events.publish::<SharedLB>(&claim.meta, &notice);
            }
        }
    }

    /// Takes in the answer to a write to the companion Service of a claim.
    pub(super) fn companion_answered(
        &mut self,
        claim: &ClaimObject,
        result: Result<Option<ServiceObject>, WriteError>,
    ) {
        if let Err(error @ (WriteError::Refused(_) | WriteError::Unreachable(_))) = &result {
            warn!(claim = %claim.meta.key, %error, "companion Service not written");
        }
        let result = result.map(|written| {
            let change = written.and_then(|service| self.settings.backends.apply_service_write(service));
            self.services_changed(change.as_slice());
        });
        let Some(now) = self.as_it_is_now(claim) else { return };
        let key = self.class_of(&now);
        if let Some(class) = self.classes.get_mut(&key) {
            class.companion_answered(&now, result, Instant::now());
        }
        self.reconcile_soon(key);
    }

    /// Takes in the answer to a write to a class.
    pub(super) fn class_answered(
        &mut self,
        ClassWrite { class, what }: &ClassWrite,
        result: Result<ClassObject, WriteError>,
    ) {
        let name = &class.meta.key.name;
        let key = Some(name.clone());
        let now = Instant::now();
        let answer = match &result {
            Ok(written) if written.meta.version == class.meta.version => ClassAnswer::Unchanged,
            Ok(_) => ClassAnswer::Written,
            Err(WriteError::Conflict) => ClassAnswer::Conflict,
            Err(_) => ClassAnswer::Failed,
        };
        if let Some(known) = self.classes.get_mut(&key) {
            known.class_write_answered(class, answer, now);
            if result.is_ok() && matches!(what, ClassChange::Status(_)) {
                known.status_written = Some(now);
            }
        }
        match (result, what) {
            (Ok(written), what) => {
                match what {
                    ClassChange::Status(status) => {
                        written.status.iter().for_each(|kept| self.dropped.learn_of_class(status, kept));
                        self.publish_class_transitions(class, status);
                    }
                    ClassChange::Protect => {}
                    ClassChange::Release => info!(class = %name, "class deleted"),
                }
                if let Some(change) = self.class_objects.apply_write(written) {
                    self.class_changed(change.old.as_deref(), change.new);
                }
            }
            (Err(error), _) if error.is_conflict() => {}
            (Err(error), ClassChange::Status(_)) => warn!(class = %name, %error, "status of the class not written"),
            (Err(error), _) => warn!(class = %name, %error, "finalizer of the class not written"),
        }
        self.dirty.insert(key);
    }

    fn publish_class_transitions(&self, class: &ClassObject, status: &SharedLBClassStatus) {
        let before = class.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default();
        for notice in transitions::transitions(&before, &status.conditions, None) {
            info!(class = %class.meta.key.name, reason = notice.reason, note = notice.note, "class");
            self.settings.events.publish::<SharedLBClass>(&class.meta, &notice);
        }
    }
}

fn log_release(claim: &ClaimObject) {
    let (load_balancer, ports) = (claim.status.load_balancer_index, &claim.status.summary);
    info!(class = claim.named_class(), claim = %claim.meta.key, load_balancer, ports, "claim deleted, its ports cool down");
}
