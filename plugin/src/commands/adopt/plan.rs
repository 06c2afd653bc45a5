//! Which Services could share, and on how many load balancers. Pure.
//!
//! The plan only tells what to expect: the controller places the claims.

use std::fmt;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use serde::Serialize;
use sharedlb_crds::{MANAGED_BY, MANAGED_BY_LABEL, Protocol, SharedLB, SharedLBClass, SharedLBPort};
use sharedlb_kubernetes::ObjectKey;

use super::claim::{Numbers, claim};
use crate::occupancy::{Holder, LoadBalancer, Occupant, occupants};
use crate::rights::is_claim;
use crate::snapshot::Snapshot;

/// A Service of type LoadBalancer that has a load balancer of its own.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) key: ObjectKey,
    pub(super) addresses: Vec<String>,
    /// The claim for it, or why it cannot share
    pub(super) claim: Result<SharedLB, String>,
    /// What is different once it shares
    pub(super) note: Option<&'static str>,
}

/// The load balancer on which there is room for a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Place {
    /// One that the class has
    Existing(u32),
    /// One that the class would get
    New(u32),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Existing(index) => write!(f, "{index}"),
            Self::New(index) => write!(f, "{index} (new)"),
        }
    }
}

/// The Services that have load balancers of their own.
pub(super) fn candidates(snapshot: &Snapshot, class: &str, numbers: Numbers) -> Vec<Candidate> {
    let services = snapshot.services.items.iter().filter(|service| has_its_own(service));
    services.map(|service| candidate(service, snapshot, class, numbers)).collect()
}

/// Whether another controller gives this Service a load balancer.
fn has_its_own(service: &Service) -> bool {
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    let is_ours = service.labels().get(MANAGED_BY_LABEL).is_some_and(|value| value == MANAGED_BY);
    kind == Some("LoadBalancer") && !is_ours && !is_claim(service) && service.metadata.deletion_timestamp.is_none()
}

fn candidate(service: &Service, snapshot: &Snapshot, class: &str, numbers: Numbers) -> Candidate {
    let key = ObjectKey::of(service);
    let in_namespace = snapshot.claims.items.iter().filter(|claim| claim.namespace() == service.namespace());
    let in_the_way = in_namespace.into_iter().find_map(|claim| {
        if claim.spec.service_name.as_deref() == Some(&*key.name) {
            Some(format!("SharedLB {} has its pods already", claim.name_any()))
        } else {
            (claim.name_any() == *key.name).then(|| "another SharedLB has its name".to_owned())
        }
    });
    let policy = service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref());
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    Candidate {
        addresses: ingress.iter().filter_map(|one| one.ip.clone().or_else(|| one.hostname.clone())).collect(),
        claim: in_the_way.map_or_else(|| claim(service, class, numbers), Err),
        note: (policy == Some("Local"))
            .then_some("externalTrafficPolicy Local has no effect: pods may see the address of a node"),
        key,
    }
}

/// A load balancer while claims are placed.
struct Filled {
    place: Place,
    taken: Vec<Occupant>,
    room: u32,
}

/// The load balancer on which there is room for each candidate, or why there is none; and how many
/// load balancers the class needs besides those that it has. `None`, where the class or its claims
/// cannot be seen.
pub(super) fn places(
    snapshot: &Snapshot,
    class: &str,
    candidates: &[Candidate],
) -> (Vec<Result<Option<Place>, String>>, Option<usize>) {
    let found = snapshot.classes.items.iter().find(|found| found.name_any() == class);
    let Some(found) = found.filter(|_| snapshot.claims.is_complete) else {
        return (candidates.iter().map(|_| Ok(None)).collect(), None);
    };
    let mut filled = existing(found, snapshot);
    let before = filled.len();
    let places = candidates
        .iter()
        .map(|candidate| match &candidate.claim {
            Ok(claim) => place(claim, found, &mut filled).map(Some),
            Err(_) => Ok(None),
        })
        .collect();
    (places, Some(filled.len() - before))
}

/// The load balancers of a class, as they are.
fn existing(class: &SharedLBClass, snapshot: &Snapshot) -> Vec<Filled> {
    let mut taken = occupants(snapshot);
    let statuses = class.status.iter().flat_map(|status| &status.load_balancers);
    statuses
        .map(|status| {
            let key = LoadBalancer { class: class.name_any(), index: status.index };
            let capacity = status.capacity.as_ref().map_or(u32::MAX, |capacity| capacity.listeners);
            let is_cordoned = class.spec.load_balancers.cordoned.contains(&status.index);
            Filled {
                place: Place::Existing(status.index),
                taken: taken.remove(&key).unwrap_or_default(),
                room: if is_cordoned { 0 } else { capacity.saturating_sub(status.listeners) },
            }
        })
        .collect()
}

/// Takes the ports of a claim on the first load balancer with room; on a new one, if the class may
/// have one.
fn place(claim: &SharedLB, class: &SharedLBClass, filled: &mut Vec<Filled>) -> Result<Place, String> {
    let ports = &claim.spec.ports;
    let listeners = listeners(ports);
    let has_room = |one: &&mut Filled| one.room >= listeners && ports.iter().all(|port| one.is_free(port));
    if let Some(one) = filled.iter_mut().find(has_room) {
        one.take(ports, listeners);
        return Ok(one.place.clone());
    }
    let (count, max) = (u32::try_from(filled.len()).unwrap_or(u32::MAX), class.spec.load_balancers.max);
    if count >= max {
        return Err(format!(
            "no load balancer of class {} has room for its ports, and it has {max} at most: raise loadBalancers.max, or \
             use --assign-ports",
            class.name_any()
        ));
    }
    let cordoned = &class.spec.load_balancers.cordoned;
    let used: Vec<u32> = filled.iter().map(|one| one.place.index()).collect();
    let index = (0..max).find(|index| !used.contains(index) && !cordoned.contains(index)).unwrap_or(count);
    let room = filled.iter().map(|one| one.room).max().unwrap_or(u32::MAX).max(listeners);
    let mut one = Filled { place: Place::New(index), taken: Vec::new(), room };
    one.take(ports, listeners);
    filled.push(one);
    Ok(Place::New(index))
}

/// How many listeners the ports take at most.
fn listeners(ports: &[SharedLBPort]) -> u32 {
    ports.iter().map(|port| if port.protocol == Protocol::TcpUdp { 2 } else { 1 }).sum()
}

impl Place {
    fn index(&self) -> u32 {
        match self {
            Self::Existing(index) | Self::New(index) => *index,
        }
    }
}

impl Filled {
    /// Whether a port of any number, or this one, is free.
    fn is_free(&self, port: &SharedLBPort) -> bool {
        port.port.is_none_or(|number| !self.taken.iter().any(|one| one.overlaps(number, port.protocol)))
    }

    fn take(&mut self, ports: &[SharedLBPort], listeners: u32) {
        self.room -= listeners;
        let numbers = ports.iter().filter_map(|port| Some((port.port?, port.protocol)));
        // By what they are taken does not matter here.
        self.taken.extend(numbers.map(|(port, protocol)| Occupant { port, protocol, holder: Holder::Foreign }));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::{claim as claim_of, class, object, snapshot};
    use crate::snapshot::Seen;

    fn service(name: &str, port: u16) -> Service {
        object(json!({
            "metadata": {"namespace": "team-a", "name": name},
            "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"port": port}]},
        }))
    }

    fn planned(
        services: Vec<Service>,
        max: u32,
        numbers: Numbers,
    ) -> (Vec<Result<Option<Place>, String>>, Option<usize>) {
        let mut class = class("default", 0, &["22/TCP"]);
        class.spec.load_balancers.max = max;
        let mut snapshot = snapshot([claim_of("team-b", "web", "default", 0, 80)], [class]);
        snapshot.services = Seen::all(services);
        places(&snapshot, "default", &candidates(&snapshot, "default", numbers))
    }

    #[test]
    fn services_with_other_ports_share_a_load_balancer_and_those_with_the_same_do_not() {
        let services = vec![service("a", 443), service("b", 443), service("c", 80), service("d", 8080)];
        let (places, further) = planned(services, 10, Numbers::Requested);
        let expected = [Place::Existing(0), Place::New(1), Place::New(1), Place::Existing(0)];
        assert_eq!(places, expected.map(|place| Ok(Some(place))));
        assert_eq!(further, Some(1));
    }

    #[test]
    fn a_class_gets_no_more_load_balancers_than_it_may() {
        let (places, further) = planned(vec![service("ssh", 22)], 1, Numbers::Requested);
        assert!(places[0].as_ref().is_err_and(|why| why.contains("raise loadBalancers.max")), "{places:?}");
        assert_eq!(further, Some(0));
        let (places, _) = planned(vec![service("ssh", 22)], 1, Numbers::Assigned);
        assert_eq!(places, [Ok(Some(Place::Existing(0)))], "any number will do");
    }

    #[test]
    fn only_services_with_load_balancers_of_their_own_are_candidates() {
        let of = |change: fn(&mut Service)| {
            let mut service = service("web", 80);
            change(&mut service);
            let mut snapshot = snapshot([], []);
            snapshot.services = Seen::all([service]);
            candidates(&snapshot, "default", Numbers::Requested).len()
        };
        assert_eq!(of(|_| {}), 1);
        assert_eq!(of(|service| service.spec.as_mut().expect("a spec").type_ = Some("ClusterIP".to_owned())), 0);
        let shares: fn(&mut Service) = |service| {
            service.spec.as_mut().expect("a spec").load_balancer_class = Some("sharedlb.dev/default".to_owned())
        };
        assert_eq!(of(shares), 0);
        assert_eq!(
            of(|service| _ = service.labels_mut().insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned())),
            0
        );
    }

    #[test]
    fn a_service_whose_pods_a_claim_has_is_left_alone() {
        let mut existing = claim_of("team-a", "mine", "default", 0, 80);
        existing.spec.service_name = Some("web".to_owned());
        let mut snapshot = snapshot([existing], []);
        snapshot.services = Seen::all([service("web", 80)]);
        let found = candidates(&snapshot, "default", Numbers::Requested);
        assert_eq!(found[0].claim.as_ref().err().map(String::as_str), Some("SharedLB mine has its pods already"));
    }
}
