//! Writes that nobody waits for: verdicts by which no slot changes hands,
//! finalizers, and the Services of claims.

use std::sync::Arc;

use jiff::Timestamp;
use sharedlb_crds::{ConditionType, SharedLBClassStatus, SharedLBStatus, TargetKind};
use tracing::{info, warn};

use super::writes::WriteError;
use super::{ClassLoop, Input};
use crate::api::claim::ClaimObject;
use crate::backends::ServiceObject;
use crate::class::companion;
use crate::class::render::{Verdict, find};
use crate::process::metrics::VERDICTS;

/// A write that was begun earlier has ended.
pub(super) enum Written {
    /// To a claim: its status, or its finalizer
    Claim(Arc<ClaimObject>, Option<Box<SharedLBStatus>>, Result<Box<ClaimObject>, WriteError>),
    /// To the Service of a claim; `None`: it was deleted
    Service(Arc<ClaimObject>, Result<Option<Box<ServiceObject>>, WriteError>),
}

impl ClassLoop {
    /// Tells a claim its verdict, unless its status says so already.
    pub(super) fn tell_claim(
        &mut self,
        claim: &Arc<ClaimObject>,
        class: Option<&str>,
        verdict: Verdict,
        now: Timestamp,
    ) {
        let status = self.status(claim, class, &verdict, now);
        let Some(entry) = self.entry(claim) else { return };
        if status == claim.status {
            entry.rendered = Some(verdict);
            return;
        }
        entry.writes.begin();
        let (writer, sender, claim) = (self.writer.clone(), self.sender.clone(), claim.clone());
        tokio::spawn(async move {
            let result = writer.claim_status(&claim.meta, &status).await.map(Box::new);
            _ = sender.send(Input::Written(Written::Claim(claim, Some(Box::new(status)), result)));
        });
    }

    /// Finalizers and Services of all claims of a class.
    pub(super) fn side_writes(&mut self, name: &Arc<str>) {
        let key = Some(name.clone());
        self.remove_finalizers(&key);
        let Some(group) = self.groups.get_mut(&key) else { return };
        let (mut unprotected, mut holding) = (Vec::new(), Vec::new());
        for entry in
            group.entries_mut().filter(|entry| !entry.claim.meta.deleting && entry.claim.request.held.is_some())
        {
            if !entry.claim.has_finalizer && entry.writes.are_free() {
                entry.writes.begin();
                unprotected.push(entry.claim.clone());
            }
            if !entry.service_is_fine && entry.service_writes.are_free() {
                holding.push(entry.claim.clone());
            }
        }
        unprotected.into_iter().for_each(|claim| self.write_finalizer(claim, true));
        holding.into_iter().for_each(|claim| self.ensure_service(claim));
    }

    /// Lets claims go that are being deleted. What they held is recorded by now.
    pub(super) fn remove_finalizers(&mut self, key: &Option<Arc<str>>) {
        let Some(group) = self.groups.get_mut(key) else { return };
        let mut going = Vec::new();
        for entry in group.entries_mut() {
            if entry.claim.meta.deleting && entry.claim.has_finalizer && entry.writes.are_free() {
                entry.writes.begin();
                going.push(entry.claim.clone());
            }
        }
        going.into_iter().for_each(|claim| self.write_finalizer(claim, false));
    }

    fn write_finalizer(&self, claim: Arc<ClaimObject>, wanted: bool) {
        let (writer, sender) = (self.writer.clone(), self.sender.clone());
        tokio::spawn(async move {
            let result = writer.claim_finalizer(&claim.meta, wanted).await.map(Box::new);
            if !wanted && result.is_ok() {
                info!(class = claim.named_class(), claim = %claim.meta.key, load_balancer = claim.status.load_balancer_index, ports = claim.status.summary, "claim deleted, its ports rest");
            }
            _ = sender.send(Input::Written(Written::Claim(claim, None, result)));
        });
    }

    /// What the load balancers of the claim's class send traffic to.
    fn targets_of(&self, claim: &ClaimObject) -> TargetKind {
        let runner = self.class_of(claim).and_then(|class| self.runners.get(&class));
        runner.map_or(TargetKind::Pod, |runner| runner.reach().targets)
    }

    /// Makes the claim's Service as it should be: there for a selector, and not
    /// there for a named Service whose pods get the traffic themselves.
    fn ensure_service(&mut self, claim: Arc<ClaimObject>) {
        let found = self.settings.backends.service(&companion::key(&claim.meta));
        let ours = |found: &ServiceObject| found.owner.as_ref().is_some_and(|(_, uid)| *uid == claim.meta.uid);
        let named = claim.target.service.as_ref().and_then(|service| self.settings.backends.service(service));
        let desired = match companion::desired(&claim, self.targets_of(&claim), named.as_deref()) {
            Ok(desired) => desired,
            Err(trouble) => {
                // Until the Service that it names changes.
                self.entry(&claim).into_iter().for_each(|entry| entry.service_is_fine = true);
                return self.set_service_trouble(&claim, Some(trouble));
            }
        };
        let (writer, sender) = (self.writer.clone(), self.sender.clone());
        let as_it_should_be = match (&found, &desired) {
            (None, None) => true,
            // A claim that can't be parsed keeps its Service; one that is not ours stays.
            (Some(found), None) => claim.spec.is_err() || !ours(found),
            (Some(found), Some(desired)) if ours(found) => companion::is_as_desired(found, desired),
            (Some(found), Some(_)) => {
                let trouble = format!("Service {} exists and is not ours: delete it", found.meta.key.name);
                return self.set_service_trouble(&claim, Some(trouble));
            }
            (None, Some(_)) => false,
        };
        let Some(entry) = self.entry(&claim) else { return };
        entry.service_is_fine = as_it_should_be;
        if as_it_should_be {
            return self.set_service_trouble(&claim, None);
        }
        entry.service_writes.begin();
        tokio::spawn(async move {
            let result = match (&found, &desired) {
                (Some(found), Some(desired)) if companion::can_become(found, desired) => {
                    let mut desired = desired.clone();
                    companion::keep_node_ports(&mut desired, found, &claim);
                    writer.correct_service(&found.meta, &desired).await.map(Some)
                }
                // It is recreated once it is gone.
                (Some(found), Some(_)) => writer.delete_service(&found.meta).await.map(|()| None),
                (None, Some(desired)) => writer.create_service(desired).await.map(Some),
                (Some(found), None) => writer.delete_service(&found.meta).await.map(|()| None),
                (None, None) => Ok(None),
            };
            _ = sender.send(Input::Written(Written::Service(claim, result.map(|written| written.map(Box::new)))));
        });
    }

    fn set_service_trouble(&mut self, claim: &ClaimObject, trouble: Option<String>) {
        let class = self.class_of(claim);
        let Some(entry) = self.entry(claim).filter(|entry| entry.service_trouble != trouble) else { return };
        entry.service_trouble = trouble;
        entry.rendered = None;
        self.run_soon(class);
    }

    /// Takes in the result of a write that was begun earlier.
    pub(super) fn side_written(&mut self, written: Written) {
        match written {
            Written::Claim(claim, status, result) => {
                self.claim_written(&claim, status.as_deref(), result.map(|written| *written));
            }
            Written::Service(claim, result) => self.service_written(&claim, result),
        }
    }

    fn service_written(&mut self, claim: &ClaimObject, result: Result<Option<Box<ServiceObject>>, WriteError>) {
        let class = self.class_of(claim);
        self.run_soon(class);
        let Some(entry) = self.entry(claim).filter(|entry| entry.claim.meta.uid == claim.meta.uid) else { return };
        match result {
            Ok(written) => {
                entry.service_writes.succeeded();
                if let Some(service) = written {
                    self.settings.backends.written_service(*service);
                }
                self.set_service_trouble(claim, None);
            }
            // It is there, or gone, or changed: the watch is about to tell.
            Err(WriteError::Conflict | WriteError::Gone) => entry.service_writes.failed(true),
            Err(error) => {
                warn!(claim = %claim.meta.key, %error, "Service of the claim not written");
                entry.service_writes.failed(false);
                self.set_service_trouble(claim, Some(format!("its own Service could not be written: {error}")));
            }
        }
    }

    /// Counts claims by verdict, and slots by load balancer.
    pub(super) fn count(&self, name: &Arc<str>, status: &SharedLBClassStatus) {
        let mut counts = [0; VERDICTS.len()];
        for entry in self.groups.get(&Some(name.clone())).into_iter().flat_map(|group| group.entries()) {
            let is = |kind: ConditionType, status: &str| {
                find(&entry.claim.status.conditions, kind).is_some_and(|condition| condition.status == status)
            };
            // In the order of VERDICTS.
            let verdict = if is(ConditionType::Ready, "True") {
                0
            } else if is(ConditionType::Allocated, "False") {
                3
            } else if is(ConditionType::Programmed, "True") {
                1
            } else if is(ConditionType::Allocated, "True") {
                2
            } else {
                4
            };
            counts[verdict] += 1;
        }
        self.settings.metrics.claims(name, counts);
        for lb in &status.load_balancers {
            let limit = lb.capacity.as_ref().map_or(0, |capacity| capacity.listeners);
            let released = u32::try_from(lb.released.len()).unwrap_or(u32::MAX);
            let counts = [("held", lb.listeners), ("free", limit.saturating_sub(lb.listeners)), ("released", released)];
            self.settings.metrics.slots(name, lb.index, counts);
        }
    }
}
