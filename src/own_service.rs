//! The Service that we keep beside a claim with a selector, so that Kubernetes
//! itself finds the claim's pods, resolves named ports, and knows who is ready.
//! Where traffic goes to nodes, every claim has one, and it has a port on every
//! node, from which kube-proxy passes traffic on to the pods of all nodes
//! (`externalTrafficPolicy: Cluster`, the default).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource as _;
use kube::core::ObjectMeta;
use sharedlb_crds::{CLAIM_LABEL, MANAGED_BY, MANAGED_BY_LABEL, SharedLB, SharedLBPort, SharedLBSpec, TargetKind};
use sharedlb_providers::Transport;
use sharedlb_providers::model::fnv1a;

use crate::assign::ClaimId;
use crate::claim::{ClaimObject, Meta, protocol};
use crate::cluster::backends::{self, ServiceObject};

/// The longest name of a Service, in characters (a DNS label, RFC 1035).
const NAME_MAX: usize = 63;
const PREFIX: &str = "slb-";

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
        .take(NAME_MAX - PREFIX.len() - hash.len())
        .collect();
    ClaimId {
        namespace: claim.key.namespace.clone(),
        name: format!("{PREFIX}{}{hash}", readable.trim_end_matches('-')).into(),
    }
}

/// The claims that a Service matters to: the one that it is beside; or those that
/// name it, and the one in the place of whose own it stands.
#[must_use]
pub fn concerned(service: &ServiceObject, claims: &BTreeMap<ClaimId, Arc<ClaimObject>>) -> Vec<Arc<ClaimObject>> {
    let ClaimId { namespace, name } = &service.meta.key;
    let is_own = |claim: &ClaimObject| name.starts_with(PREFIX) && key(&claim.meta) == service.meta.key;
    let owner = service.owner.as_ref();
    let owner = owner.and_then(|(owner, _)| claims.get(&ClaimId { namespace: namespace.clone(), name: owner.clone() }));
    if let Some(claim) = owner.filter(|claim| is_own(claim)) {
        return vec![claim.clone()];
    }
    let names = |claim: &ClaimObject| claim.spec.as_ref().is_ok_and(|spec| spec.service_name.as_deref() == Some(name));
    let first = ClaimId { namespace: namespace.clone(), name: "".into() };
    let all = claims.range(first..).take_while(|(key, _)| key.namespace == *namespace).map(|(_, claim)| claim);
    all.filter(|claim| names(claim) || is_own(claim)).cloned().collect()
}

/// The name of its port for this port of the claim. (A port of both protocols
/// is two ports of the Service.)
#[must_use]
pub fn port_name(port: &str, transport: Transport) -> String {
    let suffix = transport.to_string().to_lowercase();
    if port.is_empty() { suffix } else { format!("{port}-{suffix}") }
}

/// The Service for this claim; `None` if it needs none, since it names one whose
/// pods get the traffic themselves, or can't be parsed. Where `targets` are nodes,
/// a Service that it names, `named`, may have no port on them: ours finds the
/// same pods, and has.
///
/// # Errors
/// When it can't be made, since the Service that the claim names does not do: in
/// words for the user.
pub fn desired(
    claim: &ClaimObject,
    targets: TargetKind,
    named: Option<&ServiceObject>,
) -> Result<Option<Service>, String> {
    let Ok(spec) = &claim.spec else { return Ok(None) };
    let (selector, ports) = match &spec.service_name {
        None => (spec.selector.clone(), ports(spec, |port, _| port.target())),
        Some(_) if targets == TargetKind::Pod => return Ok(None),
        Some(name) => {
            let namespace = &claim.meta.key.namespace;
            let named = named.ok_or_else(|| {
                format!("Service {name} does not exist in namespace {namespace}: create it, or correct serviceName")
            })?;
            if !named.has_selector {
                return Err(no_selector(name));
            }
            let target = |port: &SharedLBPort, transport| {
                let (_, to) = claim.target.of_port(&port.name)?;
                Some(named.ports.iter().find(|candidate| candidate.is(to, transport))?.target.clone())
            };
            (named.selector.iter().cloned().collect(), ports(spec, target))
        }
    };
    if ports.is_empty() {
        let name = spec.service_name.as_deref().unwrap_or_default();
        return Err(format!(
            "Service {name} has none of the ports that are asked for: correct targetPort or the Service"
        ));
    }
    Ok(Some(service(claim, targets, selector, ports)))
}

/// What to say of a Service that has no selector, where traffic goes to nodes.
#[must_use]
pub fn no_selector(name: &str) -> String {
    format!(
        "Service {name} has no selector, and the load balancers of the class send traffic to nodes, which pass it on to pods that a selector finds: give it one, or ask the admin for a class with spec.targets: Pod"
    )
}

/// A port for each transport of each port of the claim that leads anywhere.
fn ports(spec: &SharedLBSpec, target: impl Fn(&SharedLBPort, Transport) -> Option<IntOrString>) -> Vec<ServicePort> {
    // The port's own number leads nowhere in a headless Service, and nobody uses
    // it in one of node ports: any will do. One number for both transports makes
    // it one node port for both.
    let ports = (1..).zip(&spec.ports).flat_map(|(number, port)| {
        protocol(port.protocol).transports().iter().map(move |&transport| (number, port, transport))
    });
    ports
        .filter_map(|(number, port, transport)| {
            Some(ServicePort {
                name: Some(port_name(&port.name, transport)),
                protocol: Some(transport.to_string()),
                port: number,
                target_port: Some(target(port, transport)?),
                ..ServicePort::default()
            })
        })
        .collect()
}

fn service(
    claim: &ClaimObject,
    targets: TargetKind,
    selector: BTreeMap<String, String>,
    ports: Vec<ServicePort>,
) -> Service {
    let label_value: String = claim.meta.key.name.chars().take(NAME_MAX).collect();
    Service {
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
            cluster_ip: (targets == TargetKind::Pod).then(|| "None".to_owned()),
            type_: Some(if targets == TargetKind::Pod { "ClusterIP" } else { "NodePort" }.to_owned()),
            // Both families, where the cluster has both: a load balancer of either
            // kind then finds its backends.
            ip_family_policy: Some("PreferDualStack".to_owned()),
            selector: Some(selector),
            ports: Some(ports),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Whether the Service that there is leads where the desired one would.
#[must_use]
pub fn is_as_desired(found: &ServiceObject, desired: &Service) -> bool {
    let wanted = ServiceObject::parse(desired);
    let ports = |service: &ServiceObject| -> Vec<_> {
        let port = |port: &backends::ServicePort| backends::ServicePort { node_port: None, ..port.clone() };
        service.ports.iter().map(port).collect()
    };
    found.kind == wanted.kind && found.selector == wanted.selector && ports(found) == ports(&wanted)
}

/// Whether the Service that there is can be made the desired one. One that has an
/// address can't lose it, nor can one without get one.
#[must_use]
pub fn can_become(found: &ServiceObject, desired: &Service) -> bool {
    found.external_name || found.kind == ServiceObject::parse(desired).kind
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
        let service = desired(&claim("dns"), TargetKind::Pod, None).unwrap().unwrap();
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
        let desired = || desired(&claim, TargetKind::Pod, None).unwrap().unwrap();
        let mut made = desired();
        assert!(is_as_desired(&ServiceObject::parse(&made), &made));
        made.spec.as_mut().unwrap().selector = Some(BTreeMap::from([("app".to_owned(), "other".to_owned())]));
        assert!(!is_as_desired(&ServiceObject::parse(&made), &desired()));
        let mut elsewhere = desired();
        elsewhere.spec.as_mut().unwrap().type_ = Some("ExternalName".to_owned());
        assert!(!is_as_desired(&ServiceObject::parse(&elsewhere), &desired()));
    }

    fn named(selector: serde_json::Value) -> ServiceObject {
        ServiceObject::parse(
            &serde_json::from_value(json!({
                "metadata": {"namespace": "team", "name": "dns"},
                "spec": {"selector": selector, "ports": [
                    {"name": "a", "port": 53, "protocol": "UDP", "targetPort": "dns"},
                    {"name": "b", "port": 9153, "targetPort": 8080},
                ]},
            }))
            .unwrap(),
        )
    }

    fn naming(ports: serde_json::Value) -> ClaimObject {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLB",
            "metadata": {"namespace": "team", "name": "dns", "uid": "a-uid", "resourceVersion": "7"},
            "spec": {"serviceName": "dns", "ports": ports},
        }))
        .unwrap();
        ClaimObject::parse(&object)
    }

    #[test]
    fn a_service_matters_to_who_names_it_and_to_the_claim_in_the_place_of_whose_own_it_stands() {
        let claims = [claim("web"), naming(json!([{"targetPort": 53}]))];
        let claims = claims.map(|claim| (claim.meta.key.clone(), Arc::new(claim))).into();
        let names = |service: &ServiceObject| -> Vec<String> {
            concerned(service, &claims).iter().map(|claim| claim.meta.key.name.to_string()).collect()
        };
        let mut own = ServiceObject::parse(&desired(&claim("web"), TargetKind::Pod, None).unwrap().unwrap());
        assert_eq!(names(&own), ["web"]);
        own.owner = None;
        assert_eq!(names(&own), ["web"], "somebody else's");
        own.owner = Some(("dns".into(), "a-uid".into()));
        assert_eq!(names(&own), ["web"], "and one that says it is another claim's");
        assert_eq!(names(&named(json!(null))), ["dns"]);
    }

    #[test]
    fn for_nodes_a_service_that_is_named_is_copied_as_far_as_its_ports_are_asked_for() {
        let claim = naming(json!([
            {"name": "dns", "protocol": "UDP", "targetPort": 53}, {"name": "metrics", "targetPort": "b"},
            {"name": "none", "targetPort": 80},
        ]));
        let named = named(json!({"app": "dns"}));
        assert_eq!(desired(&claim, TargetKind::Pod, Some(&named)), Ok(None), "its own endpoints do");
        let spec = desired(&claim, TargetKind::Node, Some(&named)).unwrap().unwrap().spec.unwrap();
        assert_eq!(spec.type_.as_deref(), Some("NodePort"));
        assert_eq!(spec.selector.unwrap(), BTreeMap::from([("app".to_owned(), "dns".to_owned())]));
        let ports: Vec<_> =
            spec.ports.unwrap().into_iter().map(|p| (p.name.unwrap(), p.target_port.unwrap())).collect();
        let target = |name: &str, target| (name.to_owned(), target);
        let expected =
            [target("dns-udp", IntOrString::String("dns".into())), target("metrics-tcp", IntOrString::Int(8080))];
        assert_eq!(ports, expected);
    }

    #[test]
    fn a_service_that_does_not_do_for_nodes_is_told_of() {
        let claim = naming(json!([{"targetPort": 80}]));
        let why = |named: Option<&ServiceObject>| desired(&claim, TargetKind::Node, named).unwrap_err();
        assert!(why(None).starts_with("Service dns does not exist in namespace team"));
        assert!(why(Some(&named(json!(null)))).starts_with("Service dns has no selector"));
        assert!(why(Some(&named(json!({"app": "dns"})))).starts_with("Service dns has none of the ports"));
    }
}
