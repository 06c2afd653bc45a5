//! What the ports of Services lead to, as far as a load balancer can send traffic there,
//! cached until it changes, so that a change of one Service does not cost reading a thousand.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use sharedlb_providers::{BackendSet, IpFamily, Protocol, Provider};

use crate::api::target::PortRef;
use crate::backends::{Backends, Reach, nodes};
use crate::kubernetes::ObjectKey;
use crate::load_balancer::desired::Plan;
use crate::load_balancer::usable::usable;

/// What a port of a Service leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reachable {
    /// The backends that get its traffic, as the provider observes them
    pub backends: BackendSet,
    /// Whether it has a transport behind which no pod is ready, or none that the load
    /// balancer can send traffic to
    pub idle: bool,
    /// The IP families of the load balancer in which a transport leads to none,
    /// although it has backends of another family
    pub idle_families: BTreeSet<IpFamily>,
}

/// What ports of Services lead to, by Service.
#[derive(Default)]
pub(super) struct ReachableCache {
    /// What all of it depends on
    basis: Option<Basis>,
    of_services: HashMap<ObjectKey, Vec<OfPort>>,
}

/// What a port leads to depends on these, besides its Service.
struct Basis {
    provider: Arc<dyn Provider>,
    reach: Reach,
    families: BTreeSet<IpFamily>,
}

struct OfPort {
    port: PortRef,
    protocol: Protocol,
    reachable: Reachable,
}

impl ReachableCache {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets what may differ by now: that of the Services that have changed, and of
    /// those that the plan does not depend on, of whose changes nothing is reported.
    /// `families` are the IP families that the load balancer sends traffic to.
    pub(super) fn refresh(&mut self, plan: &Plan, families: &BTreeSet<IpFamily>, changed: &BTreeSet<ObjectKey>) {
        let stands = self.basis.as_ref().is_some_and(|basis| {
            Arc::ptr_eq(&basis.provider, &plan.provider) && basis.reach == plan.reach && basis.families == *families
        });
        if !stands || changed.contains(&nodes::key()) {
            self.of_services.clear();
        }
        self.basis = Some(Basis { provider: plan.provider.clone(), reach: plan.reach, families: families.clone() });
        self.of_services.retain(|service, _| !changed.contains(service) && plan.services.contains(service));
    }

    /// What this port leads to.
    pub(super) fn of(
        &mut self,
        service: &ObjectKey,
        port: &PortRef,
        protocol: Protocol,
        backends: &Backends,
    ) -> Reachable {
        let Some(Basis { provider, reach, families }) = &self.basis else { return Reachable::default() };
        let known = self.of_services.get(service).into_iter().flatten();
        if let Some(known) = { known }.find(|known| known.port == *port && known.protocol == protocol) {
            return known.reachable.clone();
        }
        let reached = backends.reached(service, port, protocol, *reach);
        let usable = usable(&**provider, families, protocol, reached.backends);
        let reachable = Reachable {
            backends: usable.backends.into(),
            idle: !reached.ready || !usable.served,
            idle_families: usable.idle_families,
        };
        let of_port = OfPort { port: port.clone(), protocol, reachable: reachable.clone() };
        self.of_services.entry(service.clone()).or_default().push(of_port);
        reachable
    }
}
