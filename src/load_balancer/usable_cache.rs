//! What the ports of Services lead to, as far as a load balancer can send traffic there,
//! cached until it changes, so that a change of one Service does not cost reading a thousand.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use sharedlb_providers::{IpFamily, Protocol, Provider};

use crate::api::target::PortRef;
use crate::backends::{Backends, Reach, nodes};
use crate::kubernetes::ObjectKey;
use crate::load_balancer::desired::Plan;
use crate::load_balancer::usable::{Usable, usable_backends};

/// What ports of Services lead to, by Service.
#[derive(Default)]
pub(super) struct UsableCache {
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
    usable: Usable,
}

impl UsableCache {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets all but these Services: changes of others are not reported.
    pub(super) fn retain(&mut self, services: &BTreeSet<ObjectKey>) {
        self.of_services.retain(|service, _| services.contains(service));
    }

    /// Forgets the Services that have changed, or everything where it depends on something
    /// else now. `families` are the IP families that the load balancer sends traffic to.
    pub(super) fn refresh(&mut self, plan: &Plan, families: &BTreeSet<IpFamily>, changed: &BTreeSet<ObjectKey>) {
        let stands = self.basis.as_ref().is_some_and(|basis| {
            Arc::ptr_eq(&basis.provider, &plan.provider) && basis.reach == plan.reach && basis.families == *families
        });
        if !stands {
            self.basis = Some(Basis { provider: plan.provider.clone(), reach: plan.reach, families: families.clone() });
        }
        if !stands || changed.contains(&nodes::key()) {
            self.of_services.clear();
        }
        changed.iter().for_each(|service| _ = self.of_services.remove(service));
    }

    /// What this port leads to. It is served if each transport leads to a backend, and to a
    /// pod that is ready.
    pub(super) fn of(
        &mut self,
        service: &ObjectKey,
        port: &PortRef,
        protocol: Protocol,
        backends: &Backends,
    ) -> Usable {
        let Some(Basis { provider, reach, families }) = &self.basis else { return Usable::default() };
        let mut known = self.of_services.get(service).into_iter().flatten();
        if let Some(known) = known.find(|known| known.port == *port && known.protocol == protocol) {
            return known.usable.clone();
        }
        let reached = backends.reached(service, port, protocol, *reach);
        let usable = usable_backends(&**provider, families, protocol, reached.backends);
        let usable = Usable { served: usable.served && reached.ready, ..usable };
        let of_port = OfPort { port: port.clone(), protocol, usable: usable.clone() };
        // Most Services have one port.
        self.of_services.entry(service.clone()).or_insert_with(|| Vec::with_capacity(1)).push(of_port);
        usable
    }
}
