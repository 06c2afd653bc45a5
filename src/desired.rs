//! What one load balancer should be: the plan and the backends of the moment,
//! put together. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sharedlb_providers::{Attributes, Backend, Listener, ListenerKey, LoadBalancer, Owner, Protocol, Provider};

use crate::assign::{ClaimId, HeldSlot};
use crate::claim::ClaimObject;
use crate::cluster::backends::PortRef;
use crate::own_service;

/// What the class loop hands to the LB loop of one load balancer: the slots
/// that are confirmed in the API.
pub struct Plan {
    /// Who carries it out
    pub provider: Arc<dyn Provider>,
    /// Index of the load balancer within its class
    pub index: u32,
    /// The slots; `None`: the load balancer shall go
    pub slots: Option<Vec<Planned>>,
    keys: HashSet<ListenerKey>,
    /// Claims whose listeners stay as they are, since nobody can read what they hold
    untouched: BTreeSet<ClaimId>,
}

/// The slots of one claim.
#[derive(Clone, PartialEq)]
pub struct Planned {
    /// The claim
    pub claim: Arc<ClaimObject>,
    /// Those of its slots that shall be open
    pub slots: Vec<HeldSlot>,
}

impl Plan {
    /// A plan of these slots.
    #[must_use]
    pub fn new(provider: Arc<dyn Provider>, index: u32, slots: Option<Vec<Planned>>) -> Self {
        let keys = slots.iter().flatten().flat_map(|planned| &planned.slots).map(|slot| slot.key).collect();
        Self { provider, index, slots, keys, untouched: BTreeSet::new() }
    }

    /// The same, but the listeners of these claims stay as they are.
    #[must_use]
    pub fn leaving(mut self, untouched: &BTreeSet<ClaimId>) -> Self {
        self.untouched.clone_from(untouched);
        self
    }

    /// Whether this slot shall be open.
    #[must_use]
    pub fn has(&self, key: ListenerKey) -> bool {
        self.keys.contains(&key)
    }

    /// Whether it has a slot that `later` has not.
    #[must_use]
    pub fn has_more_than(&self, later: &Self) -> bool {
        self.keys.iter().any(|key| !later.keys.contains(key))
    }

    /// Whether it asks this provider for just these slots, and leaves these claims.
    #[must_use]
    pub fn is(&self, provider: &Arc<dyn Provider>, slots: Option<&[Planned]>, untouched: &BTreeSet<ClaimId>) -> bool {
        let same_slots = match (&self.slots, slots) {
            (Some(a), Some(b)) => {
                a.len() == b.len()
                    && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(&a.claim, &b.claim) && a.slots == b.slots)
            }
            (a, b) => a.is_none() && b.is_none(),
        };
        same_slots && Arc::ptr_eq(&self.provider, provider) && self.untouched == *untouched
    }

    /// The Services whose endpoints matter to it.
    #[must_use]
    pub fn services(&self) -> BTreeSet<ClaimId> {
        self.slots.iter().flatten().filter_map(|planned| source(&planned.claim)).collect()
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("index", &self.index).finish_non_exhaustive()
    }
}

/// The Service whose endpoints are the backends of this claim: the one that it
/// names, or the one that we keep for its selector.
#[must_use]
pub fn source(claim: &ClaimObject) -> Option<ClaimId> {
    let spec = claim.spec.as_ref().ok()?;
    Some(match &spec.service_name {
        Some(name) => ClaimId { namespace: claim.meta.key.namespace.clone(), name: name.as_str().into() },
        None => own_service::key(&claim.meta),
    })
}

/// The port of that Service to which traffic for this port of the claim goes.
#[must_use]
pub fn target(claim: &ClaimObject, port: &str) -> Option<PortRef> {
    let spec = claim.spec.as_ref().ok()?;
    if spec.service_name.is_none() {
        return Some(PortRef::OfClaim(port.into()));
    }
    Some(match spec.ports.iter().find(|candidate| candidate.name == port)?.target()? {
        IntOrString::Int(number) => PortRef::Number(number),
        IntOrString::String(name) => PortRef::Name(name.into()),
    })
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
    for Planned { claim, slots } in plan.slots.iter().flatten() {
        for slot in slots {
            let to = source(claim).zip(target(claim, &slot.name));
            let owner = Owner {
                namespace: claim.meta.key.namespace.clone(),
                claim: claim.meta.key.name.clone(),
                port: slot.name.clone(),
            };
            let backends = to.map(|(service, port)| backends(&service, &port, slot.key.protocol)).unwrap_or_default();
            listeners.insert(slot.key, Listener { owner, backends });
        }
    }
    for (key, listener) in found.iter().filter(|_| !plan.untouched.is_empty()) {
        let owner = ClaimId { namespace: listener.owner.namespace.clone(), name: listener.owner.claim.clone() };
        if plan.untouched.contains(&owner) {
            listeners.entry(*key).or_insert_with(|| listener.clone());
        }
    }
    LoadBalancer { attributes, listeners }
}
