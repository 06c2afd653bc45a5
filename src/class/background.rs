//! Finalizers and companion Services: writes that no decision waits for. Pure.

use std::sync::Arc;

use tokio::time::Instant;

use super::claims::ClaimState;
use super::companion;
use super::effect::{ClaimChange, ClaimWrite, CompanionWrite, Effect};
use super::state::{Class, Context, Now};
use super::writes::WriteError;
use crate::allocation::Held;
use crate::api::claim::ClaimObject;
use crate::api::companion_name;
use crate::backends::ServiceObject;

impl Class {
    /// Removes the finalizer from claims that were being deleted at the time of the
    /// decision: the class' status records their slots by now.
    pub(super) fn release_deleted(&mut self, decided: &[Arc<ClaimObject>], now: &Now) -> Vec<Effect> {
        let deleted = decided.iter().filter(|claim| claim.meta.deleting && claim.has_finalizer);
        deleted.filter_map(|claim| self.write_finalizer(claim, ClaimChange::Release, now)).collect()
    }

    /// Adds the finalizer to claims that hold slots, and brings their companion Services
    /// to their desired state.
    pub(super) fn protect_and_accompany(&mut self, decided: &[Arc<ClaimObject>], context: &Context<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for claim in decided.iter().filter(|claim| !claim.meta.deleting && claim.request.held.is_some()) {
            if !claim.has_finalizer {
                effects.extend(self.write_finalizer(claim, ClaimChange::Protect, &context.now));
            }
            let lacks =
                |state: &ClaimState| !state.service_is_fine && state.service_writes.are_free(context.now.instant);
            if self.claims.get(claim).is_some_and(|state| Arc::ptr_eq(&state.claim, claim) && lacks(state)) {
                effects.extend(self.accompany(claim, context));
            }
        }
        effects
    }

    /// Creates the companion Services of claims that get their first slots, beside the writes of
    /// their statuses: Kubernetes lists the pods in the meantime. They are garbage collected
    /// with their claims, and corrected with the slots.
    pub(super) fn accompany_newcomers(
        &mut self,
        given: impl IntoIterator<Item = (Arc<ClaimObject>, Held)>,
        context: &Context<'_>,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (claim, granted) in given {
            let is_free = |state: &ClaimState| state.service_writes.are_free(context.now.instant);
            if claim.request.held.is_none() && self.claims.get(&claim).is_some_and(is_free) {
                effects.extend(self.accompany(&Arc::new(claim.with_slots(granted)), context));
            }
        }
        effects
    }

    fn write_finalizer(&mut self, claim: &Arc<ClaimObject>, what: ClaimChange, now: &Now) -> Option<Effect> {
        let state = self.claims.get_mut(claim).filter(|state| Arc::ptr_eq(&state.claim, claim))?;
        if !state.writes.are_free(now.instant) {
            return None;
        }
        state.writes.begin();
        Some(Effect::Claim(ClaimWrite { claim: claim.clone(), what, awaited_by: None }))
    }

    /// The write that brings the companion Service of a claim to its desired state. A claim
    /// that names a Service has none where traffic goes to pods.
    fn accompany(&mut self, claim: &Arc<ClaimObject>, context: &Context<'_>) -> Option<Effect> {
        let found = context.backends.service(&companion_name::key(&claim.meta));
        let is_ours = |found: &ServiceObject| found.owner.as_ref().is_some_and(|(_, uid)| *uid == claim.meta.uid);
        let named = claim.target.service.as_ref().and_then(|service| context.backends.service(service));
        let desired = match companion::desired(claim, self.targets(), named.as_deref()) {
            Ok(desired) => desired,
            Err(why) => {
                // Until the Service that it names changes.
                self.claims.get_mut(claim)?.service_is_fine = true;
                return self.set_companion_error(claim, Some(why));
            }
        };
        let write = match (found, desired) {
            (None, None) => None,
            // The watch reports its end, unless a finalizer keeps it.
            (Some(found), desired) if is_ours(&found) && found.meta.deleting => {
                let kept = desired.is_some() && !found.meta.finalizers.is_empty();
                let why = kept.then(|| {
                    format!(
                        "Service {} is being deleted, and its finalizers keep it: remove {}",
                        found.meta.key.name,
                        found.meta.finalizers.join(", "),
                    )
                });
                self.claims.get_mut(claim)?.service_is_fine = true;
                return self.set_companion_error(claim, why);
            }
            // A claim that can't be parsed keeps its Service; a foreign one stays.
            (Some(found), None) if claim.spec.is_err() || !is_ours(&found) => None,
            (Some(found), None) => Some(CompanionWrite::Delete(found.meta.clone())),
            (None, Some(desired)) => Some(CompanionWrite::Create(Box::new(desired))),
            (Some(found), Some(_)) if !is_ours(&found) => {
                let why =
                    format!("Service {} exists and does not belong to this SharedLB: delete it", found.meta.key.name);
                return self.set_companion_error(claim, Some(why));
            }
            (Some(found), Some(desired)) if companion::is_as_desired(&found, &desired) => None,
            (Some(found), Some(mut desired)) if companion::can_become(&found, &desired) => {
                companion::keep_node_ports(&mut desired, &found, claim);
                Some(CompanionWrite::Correct(found.meta.clone(), Box::new(desired)))
            }
            // It is created once this one is gone.
            (Some(found), Some(_)) => Some(CompanionWrite::Delete(found.meta.clone())),
        };
        let state = self.claims.get_mut(claim)?;
        state.service_is_fine = write.is_none();
        match write {
            Some(write) => {
                state.service_writes.begin();
                Some(Effect::Companion(claim.clone(), write))
            }
            None => self.set_companion_error(claim, None),
        }
    }

    /// Records why the companion Service of a claim could not be written, for the claim's
    /// status.
    fn set_companion_error(&mut self, claim: &ClaimObject, why: Option<String>) -> Option<Effect> {
        let state = self.claims.get_mut(claim).filter(|state| state.companion_error != why)?;
        state.companion_error = why;
        state.rendered = None;
        Some(Effect::Again)
    }

    /// Takes in the answer to a write of a claim's companion Service.
    pub(super) fn companion_answered(&mut self, claim: &ClaimObject, result: Result<(), WriteError>, now: Instant) {
        let Some(state) = self.claims.get_mut(claim).filter(|state| state.claim.meta.uid == claim.meta.uid) else {
            return;
        };
        state.service_writes.answered(&result, now);
        let error = match result {
            Ok(()) => None,
            // The watch is about to report how it has changed.
            Err(error) if error.is_conflict() => return,
            Err(error) => Some(format!("its companion Service could not be written: {error}")),
        };
        self.set_companion_error(claim, error);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kube::runtime::watcher::Event;
    use sharedlb_crds::TargetKind;

    use super::*;
    use crate::backends::Backends;
    use crate::fixtures::claim;

    /// The writes to the companion Service of a claim, which Kubernetes has with these
    /// finalizers, if it has been deleted or not.
    fn writes(claim: &Arc<ClaimObject>, deleted: bool, finalizers: &[&str]) -> (usize, Option<String>) {
        let own = companion::desired(claim, TargetKind::Pod, None).unwrap();
        let mut own = own.unwrap_or_else(|| companion::desired(&selecting(), TargetKind::Pod, None).unwrap().unwrap());
        own.metadata.uid = Some("uid-of-service".into());
        own.metadata.resource_version = Some("1".into());
        own.metadata.deletion_timestamp = deleted.then(|| Time(Now::fixture().time));
        own.metadata.finalizers = Some(finalizers.iter().map(ToString::to_string).collect());
        let backends = Backends::default();
        backends.apply_service_event(Event::Apply(ServiceObject::parse(&own)));
        let namespaces = BTreeMap::new();
        let context = Context::fixture(&namespaces, &backends);
        let mut class = Class::new(Some("default".into()));
        class.insert_claim(None, claim.clone());
        let effects = class.protect_and_accompany(std::slice::from_ref(claim), &context);
        let writes = effects.iter().filter(|effect| matches!(effect, Effect::Companion(..))).count();
        (writes, class.claims.get(claim).unwrap().companion_error.clone())
    }

    fn selecting() -> Arc<ClaimObject> {
        claim("web").holds(0, 20001).build()
    }

    #[test]
    fn the_companion_service_of_a_newcomer_has_the_ports_that_its_status_is_about_to_name() {
        let (namespaces, backends) = (BTreeMap::new(), Backends::default());
        let context = Context::fixture(&namespaces, &backends);
        let newcomer = claim("web").build();
        let mut class = Class::new(Some("default".into()));
        class.insert_claim(None, newcomer.clone());
        let granted = selecting().request.held.clone().unwrap();
        let effects = class.accompany_newcomers([(newcomer.clone(), granted.clone())], &context);
        let [Effect::Companion(_, CompanionWrite::Create(service))] = effects.as_slice() else {
            panic!("{} effects", effects.len())
        };
        let desired = companion::desired(&selecting(), TargetKind::Pod, None).unwrap();
        assert_eq!(service.spec, desired.unwrap().spec);

        assert!(class.accompany_newcomers([(newcomer, granted)], &context).is_empty(), "the write is in flight");
    }

    /// A tenant may put a finalizer on it, and let its claim name another Service.
    #[test]
    fn a_companion_service_that_is_being_deleted_is_not_deleted_again() {
        let naming = claim("web").holds(0, 20001).by_service("other").build();
        assert_eq!(writes(&naming, false, &[]), (1, None));
        assert_eq!(writes(&naming, true, &["example.com/keep"]), (0, None));
    }

    #[test]
    fn a_claim_whose_companion_service_cannot_go_says_what_keeps_it() {
        assert_eq!(writes(&selecting(), true, &[]), (0, None), "the watch reports its end");
        let (count, why) = writes(&selecting(), true, &["example.com/keep"]);
        assert_eq!(count, 0);
        assert!(why.unwrap().ends_with("remove example.com/keep"));
    }
}
