//! What one load balancer should be: the plan and the backends of the moment,
//! put together. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use sharedlb_crds::TargetKind;
use sharedlb_providers::{
    Attributes, IpFamily, Listener, ListenerKey, ListenerOptions, LoadBalancer, Observed, Owner, Protocol, Provider,
};

use crate::allocation::{HeldSlot, same};
use crate::api::claim::{ClaimObject, claim_key};
use crate::api::target::{PortRef, Target};
use crate::backends::{Reach, nodes};
use crate::kubernetes::ObjectKey;
use crate::load_balancer::share::{LeftOut, TargetLimits, shares, subset};
use crate::load_balancer::usable::Usable;

/// What the class loop hands to the LB loop of one load balancer: the slots
/// that are confirmed in the API.
pub(crate) struct Plan {
    /// Carries it out
    pub provider: Arc<dyn Provider>,
    /// Index of the load balancer within its class
    pub index: u32,
    /// Its place among the plans of this load balancer
    pub number: u64,
    /// The slots; `None`: the load balancer is to be removed
    pub slots: Option<Vec<Planned>>,
    /// What matters to it: the Services whose endpoints are its backends, and
    /// [`nodes`](crate::backends::nodes::key)
    pub services: BTreeSet<ObjectKey>,
    /// How traffic gets to pods
    pub reach: Reach,
    keys: HashSet<ListenerKey>,
    /// Claims whose listeners stay as they are, since what they hold cannot be read
    untouched: BTreeSet<ObjectKey>,
}

/// The slots of one claim.
#[derive(Clone)]
pub(crate) struct Planned {
    /// Where their traffic goes
    pub target: Arc<Target>,
    /// The options that the claim requests; `None`: its spec can't be parsed, so its listeners
    /// keep theirs
    pub options: Option<Arc<ListenerOptions>>,
    /// Those of its slots that should be open
    pub slots: Arc<[HeldSlot]>,
}

impl Planned {
    /// These slots of a claim.
    pub(crate) fn of(claim: &ClaimObject, slots: Arc<[HeldSlot]>) -> Self {
        Self { target: claim.target.clone(), options: claim.request.options.clone(), slots }
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        same(&self.target, &other.target) && self.options == other.options && same(&self.slots, &other.slots)
    }
}

impl Plan {
    /// A plan of these slots.
    pub(crate) fn new(provider: Arc<dyn Provider>, index: u32, slots: Option<Vec<Planned>>) -> Self {
        let keys = slots.iter().flatten().flat_map(|planned| planned.slots.iter()).map(|slot| slot.key).collect();
        let (services, untouched) = (BTreeSet::new(), BTreeSet::new());
        Self { provider, index, number: 0, slots, services, reach: Reach::default(), keys, untouched }
            .by(Reach::default())
    }

    /// The same, to be handed over after `before`.
    pub(crate) fn after(mut self, before: &Self) -> Self {
        self.number = before.number + 1;
        self
    }

    /// The same, but the listeners of these claims stay as they are.
    pub(crate) fn leaving(mut self, untouched: &BTreeSet<ObjectKey>) -> Self {
        self.untouched.clone_from(untouched);
        self
    }

    /// The same, but traffic gets to pods in this way.
    pub(crate) fn by(mut self, reach: Reach) -> Self {
        self.reach = reach;
        let through = |planned: &Planned| planned.target.through(reach.targets).cloned();
        self.services = self.slots.iter().flatten().filter_map(through).collect();
        self.services.extend((reach.targets == TargetKind::Node).then(nodes::key));
        self
    }

    /// Whether this slot should be open.
    pub(crate) fn has(&self, key: ListenerKey) -> bool {
        self.keys.contains(&key)
    }

    /// The slots that should be open.
    pub(crate) fn keys(&self) -> impl Iterator<Item = ListenerKey> {
        self.keys.iter().copied()
    }

    /// Whether it has a slot that `later` has not.
    pub(crate) fn has_more_than(&self, later: &Self) -> bool {
        self.keys.iter().any(|key| !later.keys.contains(key))
    }

    /// Whether it has exactly these slots, for this provider and this way to pods, and
    /// leaves the listeners of these claims untouched.
    pub(crate) fn is(
        &self,
        provider: &Arc<dyn Provider>,
        slots: Option<&[Planned]>,
        reach: Reach,
        untouched: &BTreeSet<ObjectKey>,
    ) -> bool {
        self.slots.as_deref() == slots
            && Arc::ptr_eq(&self.provider, provider)
            && self.reach == reach
            && self.untouched == *untouched
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("index", &self.index).finish_non_exhaustive()
    }
}

/// What a load balancer should be.
#[derive(Debug, Default)]
pub(crate) struct Desired {
    pub load_balancer: LoadBalancer,
    /// The listeners that have a transport behind which no pod is ready, or none
    /// that the load balancer can send traffic to
    pub idle: BTreeSet<ListenerKey>,
    /// The IP families of the load balancer in which a listener has no backend,
    /// although it has some of another family
    pub idle_families: BTreeMap<ListenerKey, BTreeSet<IpFamily>>,
    /// The listeners that have more backends than the load balancer takes
    pub left_out: BTreeMap<ListenerKey, LeftOut>,
}

/// The load balancer as the plan and its backends make it. `usable` is what a port
/// of a Service leads to now, `observed` is the load balancer as it is, and `limits` is
/// what fits.
pub(crate) fn desired(
    plan: &Plan,
    attributes: Attributes,
    observed: &Observed,
    limits: TargetLimits,
    mut usable: impl FnMut(&ObjectKey, &PortRef, Protocol) -> Usable,
) -> Desired {
    let (mut listeners, mut idle, mut idle_families) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
    let can = plan.provider.capabilities();
    for Planned { target, options, slots } in plan.slots.iter().flatten() {
        let requested = options.as_ref().map(|options| options.offered_by(&can));
        for slot in slots.iter() {
            let owner = Owner {
                namespace: target.claim.namespace.clone(),
                claim: target.claim.name.clone(),
                port: slot.name.clone(),
            };
            let to = target.port_through(slot, plan.reach.targets);
            let of = |key: ListenerKey| match &to {
                Some((service, port)) => usable(service, port, key.protocol),
                None => Usable::default(),
            };
            let found = &observed.load_balancer.listeners;
            for (key, usable) in serving(plan, found, &owner, slot.key, of) {
                let kept = || found.get(&key).filter(|found| found.owner.is_same_claim(&owner));
                let options = requested.clone().or_else(|| Some(kept()?.options.clone()));
                // Without a spec, it is not known which clients a listener may serve: one that is
                // closed stays closed.
                let Some(options) = options else { continue };
                idle.extend((!usable.served).then_some(key));
                if !usable.idle_families.is_empty() {
                    idle_families.insert(key, usable.idle_families);
                }
                listeners.insert(key, Listener { options, ..Listener::new(owner.clone(), usable.backends) });
            }
        }
    }
    let found = observed.load_balancer.listeners.iter();
    for (key, listener) in found.filter(|_| !plan.untouched.is_empty()) {
        if plan.untouched.contains(&claim_key(&listener.owner)) {
            listeners.entry(*key).or_insert_with(|| listener.clone());
        }
    }
    let left_out = leave_out(&mut listeners, limits);
    Desired { load_balancer: LoadBalancer { attributes, listeners }, idle, idle_families, left_out }
}

/// The listener of a slot. Where it would have no backends yet, and it is to replace
/// listeners of the same claim that have some, those stay until it has: the endpoints
/// of a port that was TCP and becomes TCP_UDP are listed later than the claim is edited.
fn serving(
    plan: &Plan,
    found: &BTreeMap<ListenerKey, Listener>,
    owner: &Owner,
    key: ListenerKey,
    mut usable: impl FnMut(ListenerKey) -> Usable,
) -> Vec<(ListenerKey, Usable)> {
    let own = usable(key);
    if found.contains_key(&key) || !own.backends.is_empty() {
        return vec![(key, own)];
    }
    let is_replaced = |other: &ListenerKey| {
        // One with a port that this one has not would keep open what was given back, or
        // what another slot has.
        let is_part = other.front_ports().all(|port| key.has(port));
        let of_claim = found.get(other).is_some_and(|listener| listener.owner.is_same_claim(owner));
        is_part && of_claim && !plan.has(*other)
    };
    let all = ListenerKey::of_number(key.port).into_iter();
    let replaced: Vec<_> = all.filter(is_replaced).map(|key| (key, usable(key))).collect();
    if replaced.iter().any(|(_, usable)| !usable.backends.is_empty()) { replaced } else { vec![(key, own)] }
}

/// Leaves out the backends that don't fit.
fn leave_out(listeners: &mut BTreeMap<ListenerKey, Listener>, limits: TargetLimits) -> BTreeMap<ListenerKey, LeftOut> {
    let count = |listener: &Listener| u32::try_from(listener.backends.len()).unwrap_or(u32::MAX);
    let counts: Vec<u32> = listeners.values().map(count).collect();
    let mut left_out = BTreeMap::new();
    for (((key, listener), all), served) in listeners.iter_mut().zip(&counts).zip(shares(&counts, limits)) {
        if served < *all {
            listener.backends = subset(*key, &listener.backends, served);
            let of_listener = limits.of_listener == Some(served);
            let limit = if of_listener { limits.of_listener } else { limits.in_all }.unwrap_or(served);
            left_out.insert(*key, LeftOut { served, all: *all, limit, of_listener });
        }
    }
    left_out
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::num::NonZeroU16;

    use serde_json::json;
    use sharedlb_providers::memory::{Cloud, Memory};
    use sharedlb_providers::{Backend, BackendSet};

    use super::*;
    use crate::fixtures::claim;

    fn key(protocol: Protocol) -> ListenerKey {
        ListenerKey { port: NonZeroU16::new(20001).unwrap(), protocol }
    }

    /// The listeners of a claim that holds 20001/TCP_UDP, of which these are there,
    /// where pods take traffic by these protocols.
    fn wanted(found: &[Protocol], ready: &[Protocol]) -> Vec<ListenerKey> {
        let claim = claim("web").protected().status(json!({
            "loadBalancerIndex": 0, "ports": [{"name": "x", "protocol": "TCP_UDP", "port": 20001}],
        }));
        let claim = claim.build();
        let slots = claim.request.held.clone().unwrap().slots;
        let planned = Planned::of(&claim, slots);
        let plan = Plan::new(Arc::new(Memory::new(Cloud::default())), 0, Some(vec![planned]));
        let owner = Owner { namespace: "team".into(), claim: "web".into(), port: "former".into() };
        let listener = Listener::new(owner, BackendSet::default());
        let mut observed = Observed::default();
        observed.load_balancer.listeners = found.iter().map(|protocol| (key(*protocol), listener.clone())).collect();
        let backend = Backend {
            address: Ipv4Addr::new(10, 244, 0, 1).into(),
            port: NonZeroU16::MIN,
            pod: None,
            node: None,
            provider_id: None,
            transport: None,
        };
        let reached = |_: &ObjectKey, _: &PortRef, protocol: Protocol| match ready.contains(&protocol) {
            true => Usable { backends: [backend.clone()].into(), served: true, ..Usable::default() },
            false => Usable::default(),
        };
        let limits = TargetLimits { of_listener: None, in_all: None };
        let wanted = desired(&plan, Attributes::default(), &observed, limits, reached);
        wanted.load_balancer.listeners.into_keys().collect()
    }

    /// The listeners of a claim that held 20001/TCP_UDP, which is there, and now holds
    /// these instead, where pods take traffic by these protocols.
    fn split(into: &[(&str, &str)], ready: &[Protocol]) -> Vec<ListenerKey> {
        let slots: Vec<_> =
            into.iter().map(|(name, protocol)| json!({"name": name, "protocol": protocol, "port": 20001})).collect();
        let ports: Vec<_> =
            into.iter().map(|(name, protocol)| json!({"name": name, "protocol": protocol, "targetPort": 53})).collect();
        let claim = claim("web").protected().ports(json!(ports));
        let claim = claim.status(json!({"loadBalancerIndex": 0, "ports": slots})).build();
        let slots = claim.request.held.clone().unwrap().slots;
        let planned = Planned::of(&claim, slots);
        let plan = Plan::new(Arc::new(Memory::new(Cloud::default())), 0, Some(vec![planned]));
        let owner = Owner { namespace: "team".into(), claim: "web".into(), port: "former".into() };
        let mut observed = Observed::default();
        observed.load_balancer.listeners =
            [(key(Protocol::TcpUdp), Listener::new(owner, BackendSet::default()))].into();
        let backend = |transport| Backend {
            address: Ipv4Addr::new(10, 244, 0, 1).into(),
            port: NonZeroU16::MIN,
            pod: None,
            node: None,
            provider_id: None,
            transport: Some(transport),
        };
        let reached = |_: &ObjectKey, _: &PortRef, protocol: Protocol| {
            let ready = protocol
                .transports()
                .iter()
                .filter(|transport| ready.iter().any(|ready| ready.transports().contains(transport)));
            Usable { backends: ready.map(|transport| backend(*transport)).collect(), served: true, ..Usable::default() }
        };
        let limits = TargetLimits { of_listener: None, in_all: None };
        let wanted = desired(&plan, Attributes::default(), &observed, limits, reached);
        wanted.load_balancer.listeners.into_keys().collect()
    }

    #[test]
    fn listeners_that_are_wanted_never_share_a_port_and_what_was_given_back_closes() {
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let both = [("a", "TCP"), ("b", "UDP")];
        for ready in [&[][..], &[tcp], &[udp], &[tcp, udp]] {
            assert_eq!(split(&both, ready), [key(tcp), key(udp)], "{ready:?}");
            assert_eq!(split(&both[..1], ready), [key(tcp)], "{ready:?}");
        }
    }

    #[test]
    fn a_listener_is_replaced_only_once_its_successor_has_backends_unless_it_has_none_either() {
        let (tcp, both) = (Protocol::Tcp, Protocol::TcpUdp);
        assert_eq!(wanted(&[tcp], &[tcp]), [key(tcp)]);
        assert_eq!(wanted(&[tcp], &[tcp, both]), [key(both)]);
        assert_eq!(wanted(&[tcp], &[]), [key(both)]);
        assert_eq!(wanted(&[], &[tcp]), [key(both)], "there is nothing to keep");
        assert_eq!(wanted(&[both], &[tcp]), [key(both)], "it has taken over");
    }
}
