//! The source of Services: what asks for a load balancer of its own by
//! `type: LoadBalancer` is given ports of a shared one.

mod status;
#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use serde_json::json;
use sharedlb_crds::{
    ADDRESS_ANNOTATION, ASSIGN_PORTS_ANNOTATION, CLAIM_ANNOTATION, CLASS_ANNOTATION, MANAGED_BY, MANAGED_BY_LABEL,
    Reason, SERVICE_CLASS_PREFIX, SharedLBSpec,
};

use super::{Change, Facts, News, OwnedClaim, Refusal, Source, Step, owned, ports};
use crate::claim::Meta;
use crate::cluster::backends::ServicePort;
use crate::cluster::cache::Cached;

/// The finalizer that Kubernetes gives to the controllers of load balancers:
/// `kubectl` and others know what it waits for.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// Where ranges of clients' addresses stood before they had a field.
const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// How many ports a claim can have.
const PORTS_MAX: usize = 64;

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
    meta: Meta,
    /// What it asks for; `None`: nothing (any longer)
    asks: Option<Asks>,
    /// The claim that it is marked with as ours
    mark: Option<String>,
    /// Its addresses, ours or not
    ingress: Vec<LoadBalancerIngress>,
    /// Its conditions, ours and others
    conditions: Vec<Condition>,
}

/// What a Service asks for.
#[derive(Debug, Clone, PartialEq)]
struct Asks {
    /// The claim for it, or why there can be none
    spec: Result<SharedLBSpec, Refusal>,
    /// What of the Service is not carried out, although the rest is
    unhonoured: Option<(&'static str, String)>,
    /// Whether some node drops what comes to its address, if it is left to
    /// kube-proxy: then kube-proxy must leave it alone
    local: bool,
}

impl Cached for ServiceSource {
    fn meta(&self) -> &Meta {
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
        // Our load balancers, and the Services that we keep beside claims.
        if service.labels().get(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGED_BY) {
            return None;
        }
        let asks = self.class(service).map(|class| Asks::parse(service, class));
        let mark = service.annotations().get(CLAIM_ANNOTATION).cloned();
        let status = service.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.clone()).unwrap_or_default();
        if asks.is_none() && mark.is_none() && status::of_ours(&conditions).next().is_none() {
            return None;
        }
        let ingress = status.and_then(|status| status.load_balancer.as_ref()?.ingress.clone()).unwrap_or_default();
        Some(ServiceSource { meta: Meta::of(service), asks, mark, ingress, conditions })
    }

    fn missing(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// First the finalizer, then the claim, then the status; and back again in
    /// the order status, claim, finalizer.
    fn next(&self, facts: &Facts<'_, ServiceSource>) -> Option<Step> {
        let Some(service) = facts.object else { return delete(facts.claim?, None) };
        match &service.asks {
            Some(asks) if !service.meta.deleting => match &asks.spec {
                Ok(spec) => service.serve(asks, spec, facts),
                Err(refusal) => service.refuse(asks, refusal, facts),
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

impl Asks {
    fn parse(service: &Service, class: &str) -> Self {
        let default = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&default);
        let local = spec.external_traffic_policy.as_deref() == Some("Local");
        Self { spec: claim_spec(service, spec, class), unhonoured: unhonoured(spec), local }
    }
}

/// The claim for a Service, or why there can be none.
fn claim_spec(service: &Service, spec: &ServiceSpec, class: &str) -> Result<SharedLBSpec, Refusal> {
    let annotation = |key: &str| service.annotations().get(key).filter(|value| !value.is_empty());
    let unsupported = |message: String| Err(Refusal { reason: Reason::Unsupported, message });
    if spec.load_balancer_source_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty()) {
        return unsupported(format!(
            "loadBalancerSourceRanges: class {class} cannot keep other clients out, so nothing is opened: remove them, or use another load balancer"
        ));
    }
    if annotation(SOURCE_RANGES_ANNOTATION).is_some() {
        return unsupported(format!(
            "annotation {SOURCE_RANGES_ANNOTATION}: class {class} cannot keep other clients out, so nothing is opened: remove it, or use another load balancer"
        ));
    }
    let of_service: Vec<ServicePort> = spec.ports.iter().flatten().map(ServicePort::parse).collect();
    if let Some(port) = of_service.iter().find(|port| port.transport.is_none()) {
        return unsupported(format!("port {}: only TCP and UDP can be shared: remove it", port.number));
    }
    let assigned = annotation(ASSIGN_PORTS_ANNOTATION).is_some_and(|value| value == "true");
    let mut ports = ports::of_service(&of_service);
    if ports.len() > PORTS_MAX {
        return unsupported(format!("it has {} ports, and at most {PORTS_MAX} can be shared: split it", ports.len()));
    }
    if !assigned {
        ports.iter_mut().for_each(|port| port.port = ports::same_number(port));
    }
    Ok(SharedLBSpec {
        class_name: Some(class.to_owned()),
        service_name: Some(service.name_any()),
        address: annotation(ADDRESS_ANNOTATION)
            .or(spec.load_balancer_ip.as_ref().filter(|address| !address.is_empty()))
            .cloned(),
        ports,
        ..SharedLBSpec::default()
    })
}

/// What of a Service is not carried out although it is served, in a word and in
/// words for the user.
fn unhonoured(spec: &ServiceSpec) -> Option<(&'static str, String)> {
    let local = (spec.external_traffic_policy.as_deref() == Some("Local")).then_some((
        "ExternalTrafficPolicy",
        "externalTrafficPolicy Local: pods see the address of a node instead of the client's, and traffic goes to the pods of all nodes",
    ));
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then_some((
        "SessionAffinity",
        "sessionAffinity ClientIP: connections of one client through the shared load balancer go to any pod",
    ));
    let told: Vec<_> = local.into_iter().chain(affinity).collect();
    let (reason, _) = told.first()?;
    Some((reason, told.iter().map(|(_, message)| *message).collect::<Vec<_>>().join("; ")))
}

impl ServiceSource {
    fn claim_name(&self) -> String {
        owned::name::<Services>(&self.meta.key.name)
    }

    /// The next write for a Service that is to be served.
    fn serve(&self, asks: &Asks, spec: &SharedLBSpec, facts: &Facts<'_, Self>) -> Option<Step> {
        if let Some(step) = self.mark() {
            return Some(step);
        }
        let told = |claim| {
            let refusal = facts.refusal?;
            self.tell(&status::refused(self, asks, refusal, claim, facts.now))
        };
        let Some(claim) = facts.claim else {
            return told(None)
                .or_else(|| Some(Step::Create(Box::new(owned::claim::<Services>(&self.meta, spec.clone())))));
        };
        if claim.meta.deleting {
            return None;
        }
        if claim.must_be_replaced(&self.meta, spec) {
            return self.tell(&status::nothing(self)).or_else(|| delete(claim, None));
        }
        if !claim.is(spec) {
            return told(Some(claim)).or_else(|| Some(Step::Correct(owned::correction::<Services>(spec))));
        }
        if !claim.is_observed() {
            return None;
        }
        self.tell(&status::of_claim(self, asks, claim, facts.now))
    }

    /// The next write for a Service that can't be served: whatever it has is
    /// closed, and it is told why.
    fn refuse(&self, asks: &Asks, refusal: &Refusal, facts: &Facts<'_, Self>) -> Option<Step> {
        self.tell(&status::refused(self, asks, refusal, None, facts.now))
            .or_else(|| facts.claim.and_then(|claim| delete(claim, None)))
            .or_else(|| if facts.claim.is_none() { self.unmark() } else { None })
    }

    /// The next write for a Service that is not (any longer) one of ours, or is
    /// being deleted: all that we put there goes, the finalizer last.
    fn release(&self, facts: &Facts<'_, Self>) -> Option<Step> {
        if self.mark.is_none() && self.asks.is_none() && self.has_finalizer() {
            // Somebody took our mark off. Without it, the finalizer would be
            // nobody's once the conditions are gone.
            return self.mark();
        }
        let released = || News {
            warning: false,
            reason: "Released".to_owned(),
            note: "it shares no load balancer any longer: its ports are given back".to_owned(),
        };
        self.tell(&status::nothing(self))
            .or_else(|| facts.claim.and_then(|claim| delete(claim, (!self.meta.deleting).then(released))))
            .or_else(|| if facts.claim.is_none() { self.unmark() } else { None })
    }

    fn has_finalizer(&self) -> bool {
        self.meta.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
    }

    /// Puts the finalizer on, and in the same write what says that it is ours:
    /// every controller of load balancers uses this finalizer.
    fn mark(&self) -> Option<Step> {
        let name = self.claim_name();
        if self.has_finalizer() && self.mark.as_ref() == Some(&name) {
            return None;
        }
        let others = self.meta.finalizers.iter().map(String::as_str).filter(|finalizer| *finalizer != FINALIZER);
        let finalizers: Vec<&str> = others.chain([FINALIZER]).collect();
        let patch = json!({"metadata": {"finalizers": finalizers, "annotations": {CLAIM_ANNOTATION: name}}});
        Some(Step::Change(Change { what: "finalizer", status: false, patch, news: Vec::new() }))
    }

    /// Takes the finalizer off, if it is ours.
    fn unmark(&self) -> Option<Step> {
        let ours = self.mark.is_some() || (self.has_finalizer() && self.asks.is_some());
        let finalizers: Vec<&str> =
            self.meta.finalizers.iter().map(String::as_str).filter(|finalizer| *finalizer != FINALIZER).collect();
        let patch = json!({"metadata": {"finalizers": finalizers, "annotations": {CLAIM_ANNOTATION: null}}});
        ours.then(|| Step::Change(Change { what: "finalizer", status: false, patch, news: Vec::new() }))
    }

    /// Writes this status, unless it is there already.
    fn tell(&self, status: &status::Status) -> Option<Step> {
        status.write(self).map(Step::Change)
    }
}

/// Deletes a claim, unless it is going already.
fn delete(claim: &OwnedClaim, news: Option<News>) -> Option<Step> {
    (!claim.meta.deleting).then_some(Step::Delete(news))
}
