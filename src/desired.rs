//! What one load balancer should be: the plan and the backends of the moment,
//! put together. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sharedlb_crds::{Endpoints, SharedLBPort, SharedLBSpec};
use sharedlb_providers::{Attributes, Backend, Listener, ListenerKey, LoadBalancer, Owner, Protocol, Provider};

use crate::assign::{ClaimId, HeldSlot, same};
use crate::claim::Meta;
use crate::cluster::backends::PortRef;
use crate::own_service;

/// What the class loop hands to the LB loop of one load balancer: the slots
/// that are confirmed in the API.
pub struct Plan {
    /// Who carries it out
    pub provider: Arc<dyn Provider>,
    /// Index of the load balancer within its class
    pub index: u32,
    /// Its place among the plans of this load balancer
    pub number: u64,
    /// The slots; `None`: the load balancer shall go
    pub slots: Option<Vec<Planned>>,
    /// The Services whose endpoints matter to it
    pub services: BTreeSet<ClaimId>,
    /// Which endpoints of these get traffic
    pub endpoints: Endpoints,
    keys: HashSet<ListenerKey>,
    /// Claims whose listeners stay as they are, since nobody can read what they hold
    untouched: BTreeSet<ClaimId>,
}

/// The slots of one claim.
#[derive(Clone)]
pub struct Planned {
    /// Where their traffic goes
    pub target: Arc<Target>,
    /// Those of its slots that shall be open
    pub slots: Arc<[HeldSlot]>,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        same(&self.target, &other.target) && same(&self.slots, &other.slots)
    }
}

/// Where the traffic of a claim goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// The claim
    pub claim: ClaimId,
    /// The Service whose endpoints are its backends: the one that it names, or the
    /// one that we keep for its selector. `None`: its spec can't be read
    pub service: Option<ClaimId>,
    /// The port of that Service for each port of the claim, by name
    ports: Vec<(Arc<str>, PortRef)>,
}

impl Target {
    /// That of the claim with this spec.
    #[must_use]
    pub fn of(meta: &Meta, spec: Option<&SharedLBSpec>) -> Self {
        let service = spec.map(|spec| match &spec.service_name {
            Some(name) => ClaimId { namespace: meta.key.namespace.clone(), name: name.as_str().into() },
            None => own_service::key(meta),
        });
        let port = |port: &SharedLBPort, own: bool| -> Option<(Arc<str>, PortRef)> {
            let name: Arc<str> = port.name.as_str().into();
            let to = match port.target()? {
                _ if own => PortRef::OfClaim(name.clone()),
                IntOrString::Int(number) => PortRef::Number(number),
                IntOrString::String(name) => PortRef::Name(name.into()),
            };
            Some((name, to))
        };
        let ports = spec.into_iter().flat_map(|spec| {
            let own = spec.service_name.is_none();
            spec.ports.iter().filter_map(move |each| port(each, own))
        });
        Self { claim: meta.key.clone(), service, ports: ports.collect() }
    }

    /// The Service, and its port to which traffic for this port of the claim goes.
    #[must_use]
    pub fn of_port(&self, name: &str) -> Option<(&ClaimId, &PortRef)> {
        let (_, port) = self.ports.iter().find(|(candidate, _)| **candidate == *name)?;
        Some((self.service.as_ref()?, port))
    }
}

impl Plan {
    /// A plan of these slots.
    #[must_use]
    pub fn new(provider: Arc<dyn Provider>, index: u32, slots: Option<Vec<Planned>>) -> Self {
        let keys = slots.iter().flatten().flat_map(|planned| planned.slots.iter()).map(|slot| slot.key).collect();
        let services = slots.iter().flatten().filter_map(|planned| planned.target.service.clone()).collect();
        let (endpoints, untouched) = (Endpoints::default(), BTreeSet::new());
        Self { provider, index, number: 0, slots, services, endpoints, keys, untouched }
    }

    /// The same, to be handed over after `before`.
    #[must_use]
    pub fn after(mut self, before: &Self) -> Self {
        self.number = before.number + 1;
        self
    }

    /// The same, but the listeners of these claims stay as they are.
    #[must_use]
    pub fn leaving(mut self, untouched: &BTreeSet<ClaimId>) -> Self {
        self.untouched.clone_from(untouched);
        self
    }

    /// The same, but traffic goes to these endpoints.
    #[must_use]
    pub fn to(mut self, endpoints: Endpoints) -> Self {
        self.endpoints = endpoints;
        self
    }

    /// Whether this slot shall be open.
    #[must_use]
    pub fn has(&self, key: ListenerKey) -> bool {
        self.keys.contains(&key)
    }

    /// The slots that shall be open.
    pub fn keys(&self) -> impl Iterator<Item = ListenerKey> {
        self.keys.iter().copied()
    }

    /// Whether it has a slot that `later` has not.
    #[must_use]
    pub fn has_more_than(&self, later: &Self) -> bool {
        self.keys.iter().any(|key| !later.keys.contains(key))
    }

    /// Whether it asks this provider for just these slots, sends traffic to these
    /// endpoints, and leaves these claims.
    #[must_use]
    pub fn is(
        &self,
        provider: &Arc<dyn Provider>,
        slots: Option<&[Planned]>,
        endpoints: Endpoints,
        untouched: &BTreeSet<ClaimId>,
    ) -> bool {
        self.slots.as_deref() == slots
            && Arc::ptr_eq(&self.provider, provider)
            && self.endpoints == endpoints
            && self.untouched == *untouched
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("index", &self.index).finish_non_exhaustive()
    }
}

/// The load balancer as the plan and its backends make it. `backends` tells
/// where traffic to a port of a Service goes now, and `found` are the listeners
/// that there are.
#[must_use]
pub fn desired(
    plan: &Plan,
    attributes: Attributes,
    found: &BTreeMap<ListenerKey, Listener>,
    backends: impl Fn(&ClaimId, &PortRef, Protocol) -> BTreeSet<Backend>,
) -> LoadBalancer {
    let mut listeners = BTreeMap::new();
    for Planned { target, slots } in plan.slots.iter().flatten() {
        for slot in slots.iter() {
            let owner = Owner {
                namespace: target.claim.namespace.clone(),
                claim: target.claim.name.clone(),
                port: slot.name.clone(),
            };
            let to = target.of_port(&slot.name);
            let backends = to.map(|(service, port)| backends(service, port, slot.key.protocol)).unwrap_or_default();
            let backends = backends.into_iter().filter_map(|backend| plan.provider.as_observed(backend)).collect();
            listeners.insert(slot.key, Listener { owner, backends });
        }
    }
    for (key, listener) in found.iter().filter(|_| !plan.untouched.is_empty()) {
        if plan.untouched.contains(&ClaimId::from(&listener.owner)) {
            listeners.entry(*key).or_insert_with(|| listener.clone());
        }
    }
    LoadBalancer { attributes, listeners }
}
