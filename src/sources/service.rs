//! The source of Services: a Service of `type: LoadBalancer` gets ports of a shared load
//! balancer.

mod request;
mod retired;
mod status;
#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use serde_json::json;
use sharedlb_crds::{CLAIM_ANNOTATION, CLASS_ANNOTATION, MANAGED_BY, MANAGED_BY_LABEL, SERVICE_CLASS_PREFIX};

use super::{Facts, ObjectChange, OwnedClaim, Problem, Source, Step, owned};
use crate::kubernetes::ObjectMeta;
use crate::kubernetes::cache::Cached;
use crate::kubernetes::events::Notice;

use request::{DesiredClaim, Handling, ServiceRequest};
pub(crate) use retired::Retired;
use status::Status;

/// The finalizer of Kubernetes for controllers of load balancers, which `kubectl` and
/// other tools know.
pub(crate) const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// The source of Services.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Services {
    /// Whether Services without a `loadBalancerClass` are served if they have the
    /// annotation [`CLASS_ANNOTATION`]
    pub unclassed: bool,
}

/// A Service that requests ports of a class, or did.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServiceSource {
    meta: ObjectMeta,
    /// What it requests; `None`: nothing, or no longer
    request: Option<ServiceRequest>,
    /// Whether its `loadBalancerClass` is ours, so that no other controller serves it
    class_is_ours: bool,
    /// The name of its claim, as our annotation has it
    mark: Option<String>,
    /// Its addresses, ours or not
    ingress: Vec<LoadBalancerIngress>,
    /// Its conditions, ours and others
    conditions: Vec<Condition>,
}

impl Cached for ServiceSource {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

impl Source for Services {
    type Kind = Service;
    type Object = ServiceSource;

    const NAME: &'static str = "service";
    const KIND: &'static str = "Service";
    const LISTED: &'static str = "services";

    fn parse(&self, service: &Service) -> Option<ServiceSource> {
        let known = is_known(service);
        // Our load balancers and companion Services. The label does not hide a Service that
        // we have served: its author could keep the address by setting it.
        let hidden = service.labels().get(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGED_BY);
        if hidden && !known {
            return None;
        }
        let request = self.class(service).map(|class| ServiceRequest::parse(service, class));
        (known || request.is_some()).then(|| ServiceSource::parse(service, request))
    }

    fn missing(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Writes the claim first, then the status together with the finalizer. Removes them in
    /// the order status, claim, finalizer.
    fn next(&self, facts: &Facts<'_, ServiceSource>) -> Option<Step> {
        let Some(service) = facts.object else { return delete(facts.claim?, None) };
        // This comes first: until then, kube-proxy captures other tenants' traffic.
        if let Some(change) = status::to_proxy(service) {
            return Some(Step::Change(change));
        }
        match &service.request {
            Some(request) if !service.meta.deleting => match &request.handling {
                Handling::Served(wanted) => service.serve(request, wanted, facts),
                Handling::Closed(problem) => service.close(request, problem, facts),
                Handling::Kept(problem) => service.keep(request, problem, facts),
            },
            _ => service.release(facts),
        }
    }
}

impl Services {
    /// The class whose load balancers the Service requests.
    fn class<'a>(&self, service: &'a Service) -> Option<&'a str> {
        let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() == Some("LoadBalancer"))?;
        match &spec.load_balancer_class {
            Some(class) => class.strip_prefix(SERVICE_CLASS_PREFIX),
            None if self.unclassed => service.annotations().get(CLASS_ANNOTATION).map(String::as_str),
            None => None,
        }
        .filter(|class| !class.is_empty())
    }
}

/// Whether a Service has our annotation, or conditions of ours.
fn is_known(service: &Service) -> bool {
    let conditions = service.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    service.annotations().contains_key(CLAIM_ANNOTATION) || status::of_ours(conditions).next().is_some()
}

impl ServiceSource {
    fn parse(service: &Service, request: Option<ServiceRequest>) -> Self {
        let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
        let status = service.status.clone().unwrap_or_default();
        Self {
            meta: ObjectMeta::of(service),
            request,
            class_is_ours: class.is_some_and(|class| class.starts_with(SERVICE_CLASS_PREFIX)),
            mark: service.annotations().get(CLAIM_ANNOTATION).cloned(),
            ingress: status.load_balancer.and_then(|found| found.ingress).unwrap_or_default(),
            conditions: status.conditions.unwrap_or_default(),
        }
    }

    fn claim_name(&self) -> String {
        owned::name::<Services>(&self.meta.key.name)
    }

    /// The next step for a Service that is served.
    fn serve(&self, request: &ServiceRequest, wanted: &DesiredClaim, facts: &Facts<'_, Self>) -> Option<Step> {
        if let Some(protect) = self.protect() {
            return Some(protect);
        }
        let offer = wanted.offer(facts.claim);
        let report =
            |status: Status| self.report_protected(&status.leaving_out(self, offer.left_out.as_deref(), facts.now));
        let refused = |claim| report(status::refused(self, request, facts.problem?, claim, facts.now));
        // Conditions that were copied from a claim must not outlive it.
        let waiting = |claim: Option<&OwnedClaim>| {
            let said = self.has_our_conditions() || claim.is_some_and(|claim| claim.kept_by_others().is_some());
            if said { report(status::waiting(self, request, claim, facts.now)) } else { None }
        };
        let Some(claim) = facts.claim else {
            let stale = || if self.has_our_address() { waiting(None) } else { None };
            let create = || Step::Create(Box::new(owned::claim::<Services>(&self.meta, offer.spec.clone())));
            return refused(None).or_else(stale).or_else(|| Some(create()));
        };
        if claim.meta.deleting {
            return waiting(Some(claim));
        }
        if claim.must_be_replaced(&self.meta, &offer.spec) {
            return waiting(Some(claim)).or_else(|| delete(claim, None));
        }
        if !claim.is(&offer.spec) {
            return refused(Some(claim)).or_else(|| Some(Step::Correct(owned::correction::<Services>(&offer.spec))));
        }
        if !claim.is_observed() {
            return None;
        }
        let reported = report(status::of_claim(self, request, claim, facts.now))?;
        let until = status::may_wait_until(self, claim, facts.now).filter(|until| *until > facts.now);
        Some(until.map_or(reported, Step::Wait))
    }

    /// The next step for a Service for which nothing may be open: its status says why, and
    /// its claim is deleted.
    fn close(&self, request: &ServiceRequest, problem: &Problem, facts: &Facts<'_, Self>) -> Option<Step> {
        self.report(&status::refused(self, request, problem, None, facts.now))
            .or_else(|| facts.claim.and_then(|claim| delete(claim, None)))
            .or_else(|| if facts.claim.is_none() { self.unmark() } else { None })
    }

    /// The next step for a Service whose spec cannot be carried out: its status says why,
    /// and open ports stay open.
    fn keep(&self, request: &ServiceRequest, problem: &Problem, facts: &Facts<'_, Self>) -> Option<Step> {
        let own = facts.claim.filter(|claim| claim.source_uid == self.meta.uid && !claim.meta.deleting);
        let Some(own) = own else { return self.close(request, problem, facts) };
        self.protect().or_else(|| self.report_protected(&status::refused(self, request, problem, Some(own), facts.now)))
    }

    /// The next step for a Service that is not, or no longer, one of ours, or is being
    /// deleted: everything that we wrote is removed, the finalizer last.
    fn release(&self, facts: &Facts<'_, Self>) -> Option<Step> {
        if self.mark.is_none() && self.request.is_none() && self.has_finalizer() {
            // Our annotation was removed by hand. Without it, the finalizer could not be
            // recognized as ours once the conditions are gone.
            return self.mark().map(Step::Change);
        }
        let released = || {
            Notice::normal(
                "Released".to_owned(),
                "it no longer shares a load balancer: its ports are given back".to_owned(),
            )
        };
        self.report(&status::nothing(self))
            .or_else(|| facts.claim.and_then(|claim| delete(claim, (!self.meta.deleting).then(released))))
            .or_else(|| if facts.claim.is_none() { self.unmark() } else { None })
    }

    fn has_our_conditions(&self) -> bool {
        status::of_ours(&self.conditions).next().is_some()
    }

    /// Whether it has addresses that are ours: we write conditions with them.
    fn has_our_address(&self) -> bool {
        !self.ingress.is_empty() && self.has_our_conditions()
    }

    fn has_finalizer(&self) -> bool {
        self.meta.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
    }

    /// Adds the finalizer, and in the same write the annotation that marks it as ours:
    /// every controller of load balancers uses this finalizer.
    fn mark(&self) -> Option<ObjectChange> {
        let name = self.claim_name();
        if self.has_finalizer() && self.mark.as_ref() == Some(&name) {
            return None;
        }
        let others = self.meta.finalizers.iter().map(String::as_str).filter(|finalizer| *finalizer != FINALIZER);
        let finalizers: Vec<&str> = others.chain([FINALIZER]).collect();
        let patch = json!({"metadata": {"finalizers": finalizers, "annotations": {CLAIM_ANNOTATION: name}}});
        Some(ObjectChange::of_object("finalizer", patch))
    }

    /// Adds the finalizer again to a Service that has a status of ours: the Service may not
    /// go before its claim.
    fn protect(&self) -> Option<Step> {
        self.mark().filter(|_| self.has_our_conditions()).map(Step::Change)
    }

    /// Removes the finalizer, if it is ours.
    fn unmark(&self) -> Option<Step> {
        let ours = self.mark.is_some() || (self.has_finalizer() && self.request.is_some());
        let finalizers: Vec<&str> =
            self.meta.finalizers.iter().map(String::as_str).filter(|finalizer| *finalizer != FINALIZER).collect();
        let patch = json!({"metadata": {"finalizers": finalizers, "annotations": {CLAIM_ANNOTATION: null}}});
        ours.then(|| Step::Change(ObjectChange::of_object("finalizer", patch)))
    }

    /// Writes this status, unless the Service has it already.
    fn report(&self, status: &Status) -> Option<Step> {
        status.write(self).map(Step::Change)
    }

    /// Writes this status, unless the Service has it already, together with the finalizer:
    /// an address may not outlive its claim.
    fn report_protected(&self, status: &Status) -> Option<Step> {
        let change = status.write(self)?;
        Some(Step::Change(self.mark().into_iter().fold(change, ObjectChange::with_metadata_of)))
    }
}

/// Deletes a claim, unless it is already being deleted.
fn delete(claim: &OwnedClaim, notice: Option<Notice>) -> Option<Step> {
    (!claim.meta.deleting).then_some(Step::Delete(notice))
}
