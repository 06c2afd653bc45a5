//! Why an open port has no backends, or none in an IP family, for the user. Pure.

use std::collections::BTreeSet;

use sharedlb_crds::{Reason, TargetKind};
use sharedlb_providers::{Backend, IpFamily, Transport};

use super::claims::ClaimState;
use super::state::{Class, Context};
use crate::allocation::{Held, HeldSlot};
use crate::api::claim::ClaimObject;
use crate::api::target::PortRef;
use crate::kubernetes::ObjectKey;
use crate::load_balancer::outcome::{Failure, ListenerOutcome};
use crate::load_balancer::usable::usable_backends;

impl Class {
    /// Why a transport of a slot has no backend; `None`: not known yet.
    pub(super) fn why_none(
        &self,
        state: &ClaimState,
        held: &Held,
        slot: &HeldSlot,
        listener: &ListenerOutcome,
        context: &Context<'_>,
    ) -> Option<Failure> {
        let no_backends = |message: String| Failure { reason: Reason::NoBackends, message: message.into() };
        let claim = &state.claim;
        if let Some(failure) = &state.companion_error {
            return Some(no_backends(failure.clone()));
        }
        let Some((service, port)) = claim.target.of_port(&slot.name, Some(slot.key.port)) else {
            return Some(no_backends("its spec can't be read".to_owned()));
        };
        let backends = context.backends;
        let reach = self.reach();
        if let Some(why) = backends.why_none(service, &port, slot.key.protocol, reach.endpoints) {
            return Some(no_backends(why));
        }
        if reach.targets == TargetKind::Node && backends.knows(reach) && backends.nodes() == 0 {
            return Some(no_backends("no node of the cluster may take traffic".to_owned()));
        }
        if let Some(family) = listener.idle_families.first() {
            let why = self.why_none_of(claim, slot, *family, context)?;
            let index = held.index;
            return Some(no_backends(format!("load balancer {index} sends traffic only to {family}, and {why}")));
        }
        self.none_usable(claim.target.port_through(slot, reach.targets)?, slot, context)
    }

    /// Why a slot has no backend of this family; `None`: not known yet. The load balancer
    /// reports what it knew: meanwhile there may be backends, which it is about to get.
    pub(super) fn why_none_of(
        &self,
        claim: &ClaimObject,
        slot: &HeldSlot,
        family: IpFamily,
        context: &Context<'_>,
    ) -> Option<String> {
        let settings = self.settings.as_ref()?;
        let (reach, protocol) = (settings.reach(), slot.key.protocol);
        let (service, port) = claim.target.port_through(slot, reach.targets)?;
        if reach.targets == TargetKind::Pod && !context.backends.has_listed(service) {
            return None;
        }
        let found = context.backends.reached(service, &port, protocol, reach).backends;
        let lacks =
            usable_backends(&*settings.provider, &[family].into(), protocol, found).idle_families.contains(&family);
        lacks.then(|| match reach.targets {
            TargetKind::Pod => context.backends.why_none_of(service, family),
            TargetKind::Node => format!("no node of the cluster has an {family} address"),
        })
    }

    /// Why the load balancer cannot use the backends of a slot, or only for one transport.
    fn none_usable(
        &self,
        (service, port): (&ObjectKey, PortRef),
        slot: &HeldSlot,
        context: &Context<'_>,
    ) -> Option<Failure> {
        let settings = self.settings.as_ref()?;
        let (reach, protocol) = (settings.reach(), slot.key.protocol);
        let found = context.backends.reached(service, &port, protocol, reach).backends;
        if found.is_empty() {
            return None;
        }
        let usable = usable_backends(&*settings.provider, &BTreeSet::new(), protocol, found.clone());
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
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use kube::runtime::watcher::Event;
    use serde_json::json;
    use sharedlb_crds::SharedLBClassStatus;
    use sharedlb_providers::Protocol;
    use sharedlb_providers::memory::Memory;

    use super::*;
    use crate::backends::{Backends, ServiceObject, SliceObject};
    use crate::class::companion;
    use crate::class::state::ClassSettings;
    use crate::fixtures::{self, claim};

    /// A class with default settings.
    fn class() -> Class {
        let spec = json!({"ports": {"dynamic": [{"min": 20000, "max": 20007}]}});
        let spec = fixtures::class(spec, &SharedLBClassStatus::default(), false).spec.unwrap();
        let mut class = Class::new(Some("default".into()));
        class.settings = Some(ClassSettings::of_new(spec, Arc::new(Memory::default())));
        class
    }

    #[test]
    fn a_missing_family_is_reported_once_all_are_listed_and_while_a_transport_lacks_it() {
        let ports = json!([{"name": "x", "protocol": "TCP_UDP", "targetPort": 53}]);
        let status = json!({"loadBalancerIndex": 0, "ports": [{"name": "x", "protocol": "TCP_UDP", "port": 20001}]});
        let claim = claim("web").protected().ports(ports).status(status).build();
        let slot = claim.request.held.clone().unwrap().slots[0].clone();
        let (class, backends, namespaces) = (class(), Backends::default(), BTreeMap::new());
        let context = Context::fixture(&namespaces, &backends);
        let why = || class.why_none_of(&claim, &slot, IpFamily::V6, &context);

        let mut service: Service = companion::desired(&claim, TargetKind::Pod, None).unwrap().unwrap();
        service.spec.as_mut().unwrap().ip_families = Some(vec!["IPv4".into(), "IPv6".into()]);
        backends.apply_service_event(Event::Apply(ServiceObject::parse(&service)));
        let list = |version: u32, family: &str, address: &str, transports: &[&str]| {
            let port = |transport: &&str| json!({"name": format!("{}-20001", transport.to_lowercase()), "protocol": transport, "port": 53});
            let slice: EndpointSlice = serde_json::from_value(json!({
                "metadata": {
                    "name": family, "namespace": "team", "uid": family, "resourceVersion": version.to_string(),
                    "labels": {
                        "kubernetes.io/service-name": service.metadata.name,
                        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                    },
                },
                "addressType": family, "ports": transports.iter().map(port).collect::<Vec<_>>(),
                "endpoints": [{"addresses": [address], "targetRef": {"kind": "Pod", "name": "web-0"}}],
            }))
            .unwrap();
            backends.apply_slice_event(Event::Apply(SliceObject::parse(&slice)));
        };
        list(1, "IPv4", "10.244.0.1", &["TCP", "UDP"]);
        assert_eq!(why(), None, "IPv6 is not listed yet");
        list(2, "IPv6", "fd00::1", &["TCP"]);
        assert_eq!(why().as_deref(), Some("no ready pod has an IPv6 address"), "for UDP");
        list(3, "IPv6", "fd00::1", &["TCP", "UDP"]);
        assert_eq!(why(), None, "the load balancer is about to get it");
    }

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
