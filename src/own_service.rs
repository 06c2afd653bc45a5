//! The Service that we keep beside a claim with a selector, so that Kubernetes
//! itself finds the claim's pods, resolves named ports, and knows who is ready.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource as _;
use kube::core::ObjectMeta;
use sharedlb_crds::{CLAIM_LABEL, MANAGED_BY, MANAGED_BY_LABEL, SharedLB};
use sharedlb_providers::Transport;
use sharedlb_providers::model::fnv1a;

use crate::assign::ClaimId;
use crate::claim::{ClaimObject, Meta, protocol};
use crate::cluster::backends::ServiceObject;

/// The longest name of a Service, in characters (a DNS label, RFC 1035).
const NAME_MAX: usize = 63;

/// Its name: readable, and with the claim's uid in it, so that it is nobody
/// else's, not even a former claim's of the same name.
#[must_use]
pub fn key(claim: &Meta) -> ClaimId {
    let hash = format!("-{:010x}", fnv1a([claim.uid.as_bytes()]) >> 24);
    let readable: String = claim
        .key
        .name
        .chars()
        .map(|c| if c == '.' { '-' } else { c })
        .take(NAME_MAX - "slb-".len() - hash.len())
        .collect();
    ClaimId {
        namespace: claim.key.namespace.clone(),
        name: format!("slb-{}{hash}", readable.trim_end_matches('-')).into(),
    }
}

/// The name of its port for this port of the claim. (A port of both protocols
/// is two ports of the Service.)
#[must_use]
pub fn port_name(port: &str, transport: Transport) -> String {
    let suffix = transport.to_string().to_lowercase();
    if port.is_empty() { suffix } else { format!("{port}-{suffix}") }
}

/// The Service for this claim; `None` if it needs none, since it names one or
/// can't be parsed.
#[must_use]
pub fn desired(claim: &ClaimObject) -> Option<Service> {
    let spec = claim.spec.as_ref().ok().filter(|spec| spec.service_name.is_none())?;
    // In a headless Service the port's own number leads nowhere: any will do.
    let ports = (1..).zip(&spec.ports).flat_map(|(number, port)| {
        protocol(port.protocol).transports().iter().map(move |&transport| ServicePort {
            name: Some(port_name(&port.name, transport)),
            protocol: Some(transport.to_string()),
            port: number,
            target_port: port.target(),
            ..ServicePort::default()
        })
    });
    let label_value: String = claim.meta.key.name.chars().take(NAME_MAX).collect();
    Some(Service {
        metadata: ObjectMeta {
            name: Some(key(&claim.meta).name.to_string()),
            namespace: Some(claim.meta.key.namespace.to_string()),
            labels: Some(BTreeMap::from([
                (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()),
                (CLAIM_LABEL.to_owned(), label_value.trim_end_matches(['-', '.']).to_owned()),
            ])),
            owner_references: Some(vec![OwnerReference {
                api_version: SharedLB::api_version(&()).into_owned(),
                kind: SharedLB::kind(&()).into_owned(),
                name: claim.meta.key.name.to_string(),
                uid: claim.meta.uid.to_string(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // Both families, where the cluster has both: a load balancer of either
            // kind then finds its backends.
            ip_family_policy: Some("PreferDualStack".to_owned()),
            selector: Some(spec.selector.clone()),
            ports: Some(ports.collect()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    })
}

/// Whether the Service that there is leads where the desired one would.
#[must_use]
pub fn is_as_desired(found: &ServiceObject, desired: &Service) -> bool {
    let wanted = ServiceObject::parse(desired);
    found.selector == wanted.selector && found.ports == wanted.ports && !found.external_name
}

#[cfg(test)]
mod tests {
    use kube::api::DynamicObject;
    use serde_json::json;

    use super::*;

    fn claim(name: &str) -> ClaimObject {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLB",
            "metadata": {"namespace": "team", "name": name, "uid": "a-uid", "resourceVersion": "7"},
            "spec": {"selector": {"app": "dns"}, "ports": [
                {"name": "dns", "protocol": "TCP_UDP", "targetPort": "dns"},
                {"name": "metrics", "targetPort": 9153},
            ]},
        }))
        .unwrap();
        ClaimObject::parse(&object)
    }

    #[test]
    fn a_port_of_both_protocols_is_two_ports_of_the_service_with_one_number() {
        let service = desired(&claim("dns")).unwrap();
        let ports: Vec<_> = service.spec.unwrap().ports.unwrap();
        let seen: Vec<_> = ports.iter().map(|p| (p.name.as_deref().unwrap(), p.port)).collect();
        assert_eq!(seen, [("dns-tcp", 1), ("dns-udp", 1), ("metrics-tcp", 2)]);
    }

    #[test]
    fn its_name_is_a_dns_label_however_the_claim_is_called() {
        for name in ["dns", "a.claim.with.dots", &"x".repeat(250), &format!("{}.-", "y".repeat(40))] {
            let name = key(&claim(name).meta).name;
            assert!(name.len() <= NAME_MAX, "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        }
    }

    #[test]
    fn what_was_made_as_desired_is_as_desired() {
        let claim = claim("dns");
        let mut made = desired(&claim).unwrap();
        assert!(is_as_desired(&ServiceObject::parse(&made), &made));
        made.spec.as_mut().unwrap().selector = Some(BTreeMap::from([("app".to_owned(), "other".to_owned())]));
        assert!(!is_as_desired(&ServiceObject::parse(&made), &desired(&claim).unwrap()));
        let mut elsewhere = desired(&claim).unwrap();
        elsewhere.spec.as_mut().unwrap().type_ = Some("ExternalName".to_owned());
        assert!(!is_as_desired(&ServiceObject::parse(&elsewhere), &desired(&claim).unwrap()));
    }
}
