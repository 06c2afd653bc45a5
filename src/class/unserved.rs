//! Why an open port has no backends, or none in an IP family, for the user. Pure.

use std::collections::BTreeSet;

use sharedlb_crds::{Reason, TargetKind};
use sharedlb_providers::{Backend, IpFamily, Transport};

use super::claims::ClaimState;
use super::state::{Class, Surroundings};
use crate::allocation::{Held, HeldSlot};
use crate::api::target::PortRef;
use crate::kubernetes::ObjectKey;
use crate::load_balancer::outcome::{Failure, ListenerOutcome};
use crate::load_balancer::usable::usable;

impl Class {
    /// Why a transport of a slot has no backend; `None`: not known yet.
    pub(super) fn why_none(
        &self,
        state: &ClaimState,
        held: &Held,
        slot: &HeldSlot,
        listener: &ListenerOutcome,
        around: &Surroundings<'_>,
    ) -> Option<Failure> {
        let no_backends = |message: String| Failure { reason: Reason::NoBackends, message: message.into() };
        let claim = &state.claim;
        if let Some(failure) = &state.companion_error {
            return Some(no_backends(failure.clone()));
        }
        let Some((service, port)) = claim.target.of_port(&slot.name, Some(slot.key.port)) else {
            return Some(no_backends("its spec can't be read".to_owned()));
        };
        let backends = around.backends;
        let reach = self.reach();
        if let Some(why) = backends.why_none(service, &port, slot.key.protocol, reach.endpoints) {
            return Some(no_backends(why));
        }
        if reach.targets == TargetKind::Node && backends.knows(reach) && backends.nodes() == 0 {
            return Some(no_backends("no node of the cluster may take traffic".to_owned()));
        }
        if let Some(family) = listener.idle_families.first() {
            if !self.lacks_family((service, &port), slot, *family, around) {
                return None;
            }
            let why = self.why_none_of(service, *family, around);
            let index = held.index;
            return Some(no_backends(format!("load balancer {index} sends traffic only to {family}, and {why}")));
        }
        self.none_usable(claim.target.port_through(slot, reach.targets)?, slot, around)
    }

    /// Whether a port of a Service leads to no address of this family. `false` also while its
    /// endpoints are not listed, or the load balancer does not know of them yet.
    pub(super) fn lacks_family(
        &self,
        (service, port): (&ObjectKey, &PortRef),
        slot: &HeldSlot,
        family: IpFamily,
        around: &Surroundings<'_>,
    ) -> bool {
        let reach = self.reach();
        let is_listed = reach.targets == TargetKind::Node || around.backends.has_listed_all(service);
        let reached = around.backends.reached(service, port, slot.key.protocol, reach);
        is_listed && !reached.backends.iter().any(|backend| IpFamily::of(backend.address) == family)
    }

    /// Why a Service has no backend of this family.
    pub(super) fn why_none_of(&self, service: &ObjectKey, family: IpFamily, around: &Surroundings<'_>) -> String {
        match self.targets() {
            TargetKind::Pod => around.backends.why_none_of(service, family),
            TargetKind::Node => format!("no node of the cluster has an {family} address"),
        }
    }

    /// Why the load balancer cannot use the backends of a slot, or only for one transport.
    fn none_usable(
        &self,
        (service, port): (&ObjectKey, PortRef),
        slot: &HeldSlot,
        around: &Surroundings<'_>,
    ) -> Option<Failure> {
        let settings = self.settings.as_ref()?;
        let (reach, protocol) = (settings.reach(), slot.key.protocol);
        let found = around.backends.reached(service, &port, protocol, reach).backends;
        if found.is_empty() {
            return None;
        }
        let usable = usable(&*settings.provider, &BTreeSet::new(), protocol, found.clone());
        if usable.served {
            return None;
        }
        if !usable.backends.is_empty() {
            return Some(Failure {
                reason: Reason::Unsupported,
                message: lead_apart(self.name.as_deref().unwrap_or_default(), &found).into(),
            });
        }
        let message = match reach.targets {
            TargetKind::Pod => "no ready pod has an address that the load balancers of this class can send traffic to",
            TargetKind::Node => {
                "no node of the cluster is a machine that the load balancers of this class can send traffic to, by its spec.providerID"
            }
        };
        Some(Failure { reason: Reason::NoBackends, message: message.into() })
    }
}

/// The message for a listener of TCP and UDP that needs the same backends for both, and
/// has these.
fn lead_apart(class: &str, backends: &BTreeSet<Backend>) -> String {
    let numbers = |transport| {
        let of = backends.iter().filter(|backend| backend.takes(transport));
        let numbers: BTreeSet<String> = of.map(|backend| backend.port.to_string()).collect();
        numbers.into_iter().collect::<Vec<_>>().join(" and ")
    };
    let (tcp, udp) = (numbers(Transport::Tcp), numbers(Transport::Udp));
    let (apart, way_out) = if tcp == udp {
        ("its TCP and its UDP lead to different pods".to_owned(), "let the same pods take both")
    } else {
        let apart = format!("its TCP leads to port {tcp} of the pods and its UDP to port {udp}");
        (apart, "give both the same numeric targetPort")
    };
    format!(
        "only its TCP gets traffic: {apart}, and a load balancer of class {class} has one listener for a port number, with one set of targets: {way_out}, or use a class whose load balancers have a listener for each"
    )
}

#[cfg(test)]
mod tests {
    use sharedlb_providers::Protocol;

    use super::*;

    fn backends(tcp: &[(u8, u16)], udp: &[(u8, u16)]) -> BTreeSet<Backend> {
        let backend = |&(host, port): &(u8, u16)| Backend {
            address: [10, 244, 0, host].into(),
            port: port.try_into().unwrap(),
            pod: None,
            node: None,
            provider_id: None,
            transport: None,
        };
        let of = |transport| if transport == Transport::Tcp { tcp } else { udp }.iter().map(backend).collect();
        Backend::by_transport(Protocol::TcpUdp, of)
    }

    #[test]
    fn ports_of_the_pods_that_differ_are_named() {
        assert_eq!(
            lead_apart("nlb", &backends(&[(1, 5353), (2, 5353)], &[(1, 5354), (2, 5355)])),
            "only its TCP gets traffic: its TCP leads to port 5353 of the pods and its UDP to port 5354 and 5355, \
             and a load balancer of class nlb has one listener for a port number, with one set of targets: \
             give both the same numeric targetPort, or use a class whose load balancers have a listener for each"
        );
    }

    #[test]
    fn pods_that_differ_are_not_reported_as_ports_that_differ() {
        let message = lead_apart("nlb", &backends(&[(1, 53)], &[(2, 53)]));
        assert!(message.contains("its TCP and its UDP lead to different pods"), "{message}");
        assert!(message.contains("let the same pods take both"), "{message}");
    }
}
