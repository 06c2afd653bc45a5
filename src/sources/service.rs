//! The source of Services: what asks for a load balancer of its own by
//! `type: LoadBalancer` is given ports of a shared one.

mod asks;
mod retired;
mod status;
#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use serde_json::json;
use sharedlb_crds::{CLAIM_ANNOTATION, CLASS_ANNOTATION, MANAGED_BY, MANAGED_BY_LABEL, SERVICE_CLASS_PREFIX};

use super::{Change, Facts, OwnedClaim, Refusal, Source, Step, owned};
use crate::kubernetes::ObjectMeta;
use crate::kubernetes::cache::Cached;
use crate::kubernetes::events::Notice;

use asks::{Asks, Wanted, Wish};
pub use retired::Retired;
use status::Status;

/// The finalizer that Kubernetes gives to the controllers of load balancers:
/// `kubectl` and others know what it waits for.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// The source of Services.
#[derive(Debug, Clone, Copy)]
pub struct Services {
    /// Whether Services without a `loadBalancerClass` are served too if they have
    /// the annotation [`CLASS_ANNOTATION`]
    pub unclassed: bool,
}

/// A Service that asks for ports of a class, or did.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSource {
    meta: ObjectMeta,
    /// What it asks for; `None`: nothing (any longer)
    asks: Option<Asks>,
    /// Whether its `loadBalancerClass` is ours, so that no other controller serves it
    class_is_ours: bool,
    /// The claim that it is marked with as ours
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
        // Our load balancers, and the Services that we keep beside claims. The label
        // does not hide a Service that we have served: its author could keep the
        // address by it.
        let hidden = service.labels().get(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGED_BY);
        if hidden && !known {
            return None;
        }
        let asks = self.class(service).map(|class| Asks::parse(service, class));
        (known || asks.is_some()).then(|| ServiceSource::parse(service, asks))
    }

    fn missing(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// First the claim, then the status together with the finalizer; and back again in
    /// the order status, claim, finalizer.
    fn next(&self, facts: &Facts<'_, ServiceSource>) -> Option<Step> {
        let Some(service) = facts.object else { return delete(facts.claim?, None) };
        // First of all, since kube-proxy captures other tenants' traffic until then.
        if let Some(change) = status::to_proxy(service) {
            return Some(Step::Change(change));
        }
        match &service.asks {
            Some(asks) if !service.meta.deleting => match &asks.wish {
                Wish::Served(wanted) => service.serve(asks, wanted, facts),
                Wish::Closed(refusal) => service.close(asks, refusal, facts),
                Wish::Kept(refusal) => service.keep(asks, refusal, facts),
            },
            _ => service.release(facts),
        }
    }
}

impl Services {
    /// The class whose load balancers the Service is to share, if it is one of ours.
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

/// Whether a Service bears a mark of ours, or conditions.
fn is_known(service: &Service) -> bool {
    let conditions = service.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    service.annotations().contains_key(CLAIM_ANNOTATION) || status::of_ours(conditions).next().is_some()
}

impl ServiceSource {
    fn parse(service: &Service, asks: Option<Asks>) -> Self {
        let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
        let status = service.status.clone().unwrap_or_default();
        Self {
            meta: ObjectMeta::of(service),
            asks,
            class_is_ours: class.is_some_and(|class| class.starts_with(SERVICE_CLASS_PREFIX)),
            mark: service.annotations().get(CLAIM_ANNOTATION).cloned(),
            ingress: status.load_balancer.and_then(|found| found.ingress).unwrap_or_default(),
            conditions: status.conditions.unwrap_or_default(),
        }
    }

    fn claim_name(&self) -> String {
        owned::name::<Services>(&self.meta.key.name)
    }

    /// The next write for a Service that is to be served.
    fn serve(&self, asks: &Asks, wanted: &Wanted, facts: &Facts<'_, Self>) -> Option<Step> {
        if let Some(protect) = self.protect() {
            return Some(protect);
        }
        let offer = wanted.offer(facts.claim);
        let tell = |status: Status| self.tell_protected(&status.leaving_out(self, offer.left_out.as_deref(), facts.now));
        let refused = |claim| tell(status::refused(self, asks, facts.refusal?, claim, facts.now));
        // What was told of a claim counts no longer once that goes or is gone.
        let waiting = |claim: Option<&OwnedClaim>| {
            let said = self.has_our_conditions() || claim.is_some_and(|claim| claim.kept_by_others().is_some());
            if said { tell(status::waiting(self, asks, claim, facts.now)) } else { None }
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
        let told = tell(status::of_claim(self, asks, claim, facts.now))?;
        let until = status::may_wait_until(self, claim).filter(|until| *until > facts.now);
        Some(until.map_or(told, Step::Wait))
    }

    /// The next write for a Service for which nothing may be open: what it has is
    /// closed, and it is told why.
    fn close(&self, asks: &Asks, refusal: &Refusal, facts: &Facts<'_, Self>) -> Option<Step> {
        self.tell(&status::refused(self, asks, refusal, None, facts.now))
            .or_else(|| facts.claim.and_then(|claim| delete(claim, None)))
            .or_else(|| if facts.claim.is_none() { self.unmark() } else { None })
    }

    /// The next write for a Service whose wish cannot be carried out: its status says
    /// why, and what it has stays.
    fn keep(&self, asks: &Asks, refusal: &Refusal, facts: &Facts<'_, Self>) -> Option<Step> {
        let own = facts.claim.filter(|claim| claim.source_uid == self.meta.uid && !claim.meta.deleting);
        let Some(own) = own else { return self.close(asks, refusal, facts) };
        self.protect().or_else(|| self.tell_protected(&status::refused(self, asks, refusal, Some(own), facts.now)))
    }

    /// The next write for a Service that is not (any longer) one of ours, or is
    /// being deleted: all that we put there goes, the finalizer last.
    fn release(&self, facts: &Facts<'_, Self>) -> Option<Step> {
        if self.mark.is_none() && self.asks.is_none() && self.has_finalizer() {
            // Somebody took our mark off. Without it, the finalizer would be
            // nobody's once the conditions are gone.
            return self.mark().map(Step::Change);
        }
        let released = || {
            Notice::normal(
                "Released".to_owned(),
                "it shares no load balancer any longer: its ports are given back".to_owned(),
            )
        };
        self.tell(&status::nothing(self))
            .or_else(|| facts.claim.and_then(|claim| delete(claim, (!self.meta.deleting).then(released))))
            .or_else(|| if facts.claim.is_none() { self.unmark() } else { None })
    }

    fn has_our_conditions(&self) -> bool {
        status::of_ours(&self.conditions).next().is_some()
    }

    /// Whether it has addresses that are ours: those were written with conditions.
    fn has_our_address(&self) -> bool {
        !self.ingress.is_empty() && self.has_our_conditions()
    }

    fn has_finalizer(&self) -> bool {
        self.meta.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
    }

    /// Puts the finalizer on, and in the same write what says that it is ours:
    /// every controller of load balancers uses this finalizer.
    fn mark(&self) -> Option<Change> {
        let name = self.claim_name();
        if self.has_finalizer() && self.mark.as_ref() == Some(&name) {
            return None;
        }
        let others = self.meta.finalizers.iter().map(String::as_str).filter(|finalizer| *finalizer != FINALIZER);
        let finalizers: Vec<&str> = others.chain([FINALIZER]).collect();
        let patch = json!({"metadata": {"finalizers": finalizers, "annotations": {CLAIM_ANNOTATION: name}}});
        Some(Change::of_object("finalizer", patch))
    }

    /// Puts the finalizer back on a Service that has a status of ours: the Service may
    /// not go before its claim.
    fn protect(&self) -> Option<Step> {
        self.mark().filter(|_| self.has_our_conditions()).map(Step::Change)
    }

    /// Takes the finalizer off, if it is ours.
    fn unmark(&self) -> Option<Step> {
        let ours = self.mark.is_some() || (self.has_finalizer() && self.asks.is_some());
        let finalizers: Vec<&str> =
            self.meta.finalizers.iter().map(String::as_str).filter(|finalizer| *finalizer != FINALIZER).collect();
        let patch = json!({"metadata": {"finalizers": finalizers, "annotations": {CLAIM_ANNOTATION: null}}});
        ours.then(|| Step::Change(Change::of_object("finalizer", patch)))
    }

    /// Writes this status, unless it is there already.
    fn tell(&self, status: &Status) -> Option<Step> {
        status.write(self).map(Step::Change)
    }

    /// Writes this status, unless it is there already, and in the same write the
    /// finalizer: an address may not outlive its claim.
    fn tell_protected(&self, status: &Status) -> Option<Step> {
        let told = status.write(self)?;
        Some(Step::Change(self.mark().into_iter().fold(told, Change::with_metadata_of)))
    }
}

/// Deletes a claim, unless it is going already.
fn delete(claim: &OwnedClaim, news: Option<Notice>) -> Option<Step> {
    (!claim.meta.deleting).then_some(Step::Delete(news))
}
