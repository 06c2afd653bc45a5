//! The companion Service of a claim with a selector. By it Kubernetes itself finds the
//! claim's pods, resolves named ports, and tracks which pods are ready. Where traffic
//! goes to nodes, every claim has one, with a port on every node from which kube-proxy
//! passes traffic on to the pods of all nodes (`externalTrafficPolicy: Cluster`, the
//! default).

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource as _;
use sharedlb_crds::{CLAIM_LABEL, MANAGED_BY, MANAGED_BY_LABEL, SharedLB, SharedLBPort, TargetKind};
use sharedlb_providers::{Transport, port_number};

use crate::allocation::numbers;
use crate::api::claim::{ClaimObject, protocol};
use crate::api::companion_name::{CompanionPort, PREFIX, key};
use crate::api::target::PortRef;
use crate::backends::{self, ServiceObject};
use crate::kubernetes::cache::in_namespace;
use crate::kubernetes::{ObjectKey, names};

/// The longest value of a label, in characters.
const LABEL_VALUE_MAX: usize = 63;

/// The claims that depend on a Service: the one whose companion it is, or would be by its
/// name, and those that name it.
pub(crate) fn concerned(
    service: &ServiceObject,
    claims: &BTreeMap<ObjectKey, Arc<ClaimObject>>,
) -> Vec<Arc<ClaimObject>> {
    let ObjectKey { namespace, name } = &service.meta.key;
    let is_own = |claim: &ClaimObject| name.starts_with(PREFIX) && key(&claim.meta) == service.meta.key;
    let owner = service.owner.as_ref();
    let owner =
        owner.and_then(|(owner, _)| claims.get(&ObjectKey { namespace: namespace.clone(), name: owner.clone() }));
    let owner = owner.filter(|claim| is_own(claim));
    let is_companion_of = |claim: &Arc<ClaimObject>| match owner {
        Some(owner) => Arc::ptr_eq(owner, claim),
        None => is_own(claim),
    };
    let names = |claim: &ClaimObject| claim.spec.as_ref().is_ok_and(|spec| spec.service_name.as_deref() == Some(name));
    let all = in_namespace(claims, namespace).map(|(_, claim)| claim);
    all.filter(|claim| names(claim) || is_companion_of(claim)).cloned().collect()
}

/// The companion Service that a claim should have. `None`: it should have none, since it
/// names a Service whose pods get the traffic themselves, or can't be parsed. Where
/// `targets` are nodes, the Service that the claim names, `named`, may have no node ports;
/// the companion has, and selects the same pods.
///
/// # Errors
/// When the Service that the claim names cannot be used: a message for the user.
pub(crate) fn desired(
    claim: &ClaimObject,
    targets: TargetKind,
    named: Option<&ServiceObject>,
) -> Result<Option<Service>, String> {
    let Ok(spec) = &claim.spec else { return Ok(None) };
    let (selector, ports) = match &spec.service_name {
        None => (spec.selector.clone(), ports(claim, |port, _| port.target())),
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
                let to = claim.target.of_service(&port.name)?;
                Some(named.ports.iter().find(|candidate| candidate.is(to, transport))?.target.clone())
            };
            (named.selector.iter().cloned().collect(), ports(claim, target))
        }
    };
    if ports.is_empty() {
        return Err(match &spec.service_name {
            None => "none of its ports has a number yet".to_owned(),
            Some(name) => {
                format!("Service {name} has none of the ports that are asked for: correct targetPort or the Service")
            }
        });
    }
    Ok(Some(service(claim, targets, selector, ports)))
}

/// The message for a Service without a selector, where traffic goes to nodes.
pub(crate) fn no_selector(name: &str) -> String {
    format!(
        "Service {name} has no selector, and the load balancers of the class send traffic to nodes, which pass it on to pods that a selector finds: give it one, or ask the admin for a class with spec.targets: Pod"
    )
}

/// A port for each transport of each port of the claim that has a number and a target.
fn ports(claim: &ClaimObject, target: impl Fn(&SharedLBPort, Transport) -> Option<IntOrString>) -> Vec<ServicePort> {
    // No client uses the port's own number, neither of a headless Service nor beside a
    // node port, so any will do. With one number, both transports share a node port.
    let spec = claim.spec.iter().flat_map(|spec| &spec.ports);
    let numbered = numbers(&claim.request).into_iter().zip(spec).filter_map(|(number, port)| Some((number?, port)));
    let numbered: Vec<(NonZeroU16, &SharedLBPort)> = numbered.collect();
    // Two ports have one number where one of them asks for a transport that the other
    // one has, and so does not get it.
    let takes = |(of, port): &(NonZeroU16, &SharedLBPort), number: NonZeroU16, transport: Transport| {
        *of == number && protocol(port.protocol).transports().contains(&transport)
    };
    let serves = |number: NonZeroU16, transport: Transport| {
        let all = || numbered.iter().filter(|each| takes(each, number, transport)).map(|(_, port)| *port);
        let holder = claim.name_of(number, transport);
        all().find(|port| holder.as_deref() == Some(&*port.name)).or_else(|| all().next())
    };
    let mut ports: Vec<ServicePort> = Vec::new();
    for &(number, port) in &numbered {
        let companion = CompanionPort { number, name: port.name.as_str().into() };
        ports.extend(protocol(port.protocol).transports().iter().filter_map(|&transport| {
            serves(number, transport).filter(|served| served.name == port.name)?;
            Some(ServicePort {
                name: Some(companion.port_name(transport)),
                protocol: Some(transport.to_string()),
                port: number.get().into(),
                target_port: Some(target(port, transport)?),
                ..ServicePort::default()
            })
        }));
    }
    ports.sort_by(|a, b| (a.port, &a.protocol).cmp(&(b.port, &b.protocol)));
    ports
}

/// Copies node ports to the ports of the desired Service that continue a port of the one
/// found. (The API server keeps a node port only for a port of the same name.) A port of
/// both protocols has one node port.
pub(crate) fn keep_node_ports(desired: &mut Service, found: &ServiceObject, claim: &ClaimObject) {
    let Some(ports) = desired.spec.as_mut().filter(|spec| spec.type_.as_deref() == Some("NodePort")) else { return };
    for port in ports.ports.iter_mut().flatten() {
        let wanted = backends::ServicePort::parse(port);
        let (Some(transport), Some(number)) = (wanted.transport, port_number(port.port)) else { continue };
        let Some(name) = claim.name_of(number, transport) else { continue };
        let companion = PortRef::Companion(CompanionPort { number, name });
        let node_port = |transport| found.ports.iter().find(|port| port.is(&companion, transport))?.node_port;
        let other = if transport == Transport::Tcp { Transport::Udp } else { Transport::Tcp };
        port.node_port = node_port(transport).or_else(|| node_port(other)).map(|port| port.get().into());
    }
}

fn service(
    claim: &ClaimObject,
    targets: TargetKind,
    selector: BTreeMap<String, String>,
    ports: Vec<ServicePort>,
) -> Service {
    let claim_name = &claim.meta.key.name;
    Service {
        metadata: kube::core::ObjectMeta {
            name: Some(key(&claim.meta).name.to_string()),
            namespace: Some(claim.meta.key.namespace.to_string()),
            labels: Some(BTreeMap::from([
                (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()),
                (CLAIM_LABEL.to_owned(), names::shortened(claim_name.to_string(), claim_name, LABEL_VALUE_MAX)),
            ])),
            owner_references: Some(vec![OwnerReference {
                api_version: SharedLB::api_version(&()).into_owned(),
                kind: SharedLB::kind(&()).into_owned(),
                name: claim.meta.key.name.to_string(),
                uid: claim.meta.uid.to_string(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..kube::core::ObjectMeta::default()
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

/// Whether a Service sends traffic where the desired one would.
pub(crate) fn is_as_desired(found: &ServiceObject, desired: &Service) -> bool {
    let wanted = ServiceObject::parse(desired);
    let ports = |service: &ServiceObject| -> Vec<_> {
        let port = |port: &backends::ServicePort| backends::ServicePort { node_port: None, ..port.clone() };
        service.ports.iter().map(port).collect()
    };
    found.kind == wanted.kind && found.selector == wanted.selector && ports(found) == ports(&wanted)
}

/// Whether the Service that there is can be made the desired one. One that has an
/// address can't lose it, nor can one without get one.
pub(crate) fn can_become(found: &ServiceObject, desired: &Service) -> bool {
    found.external_name || found.kind == ServiceObject::parse(desired).kind
}

#[cfg(test)]
mod tests {
    use kube::api::DynamicObject;
    use serde_json::json;

    use super::*;
    use crate::api::companion_name::NAME_MAX;

    fn claim(name: &str) -> ClaimObject {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLB",
            "metadata": {"namespace": "team", "name": name, "uid": "a-uid", "resourceVersion": "7"},
            "spec": {"selector": {"app": "dns"}, "ports": [
                {"name": "dns", "protocol": "TCP_UDP", "targetPort": "dns"},
                {"name": "metrics", "targetPort": 9153},
            ]},
            "status": {"loadBalancerIndex": 0, "ports": [
                {"name": "dns", "protocol": "TCP_UDP", "port": 20053, "targetPort": "dns"},
                {"name": "metrics", "port": 20001, "targetPort": 9153},
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
        assert_eq!(seen, [("tcp-20001", 20001), ("tcp-20053", 20053), ("udp-20053", 20053)]);
    }

    #[test]
    fn ports_that_are_renamed_reordered_split_or_lead_elsewhere_stay_ports_of_the_service() {
        let service = desired(&claim("dns"), TargetKind::Pod, None).unwrap().unwrap();
        let found = ServiceObject::parse(&service);
        let edited = |ports: serde_json::Value| {
            let mut claim = claim("dns");
            let spec = serde_json::from_value(json!({"selector": {"app": "dns"}, "ports": ports})).unwrap();
            let parsed: Result<sharedlb_crds::SharedLBSpec, String> = Ok(spec);
            claim.request.ports = parsed.iter().flat_map(|spec| &spec.ports).map(crate::api::claim::request).collect();
            claim.spec = parsed;
            ServiceObject::parse(&desired(&claim, TargetKind::Pod, None).unwrap().unwrap())
        };
        let names = |service: &ServiceObject| service.ports.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
        for ports in [
            json!([{"name": "m", "targetPort": 9153}, {"name": "d", "protocol": "TCP_UDP", "targetPort": "dns"}]),
            json!([{"name": "dns", "protocol": "TCP_UDP", "targetPort": 53}, {"name": "metrics", "targetPort": "m"}]),
            json!([
                {"name": "a", "targetPort": "dns"}, {"name": "b", "protocol": "UDP", "targetPort": "dns"},
                {"name": "metrics", "targetPort": 9153},
            ]),
        ] {
            assert_eq!(names(&edited(ports)), names(&found));
        }
    }

    #[test]
    fn a_port_of_a_service_that_an_earlier_version_wrote_is_found_and_keeps_its_node_port() {
        let claim = claim("dns");
        let former: Service = serde_json::from_value(json!({
            "metadata": {"namespace": "team", "name": "x"},
            "spec": {"type": "NodePort", "selector": {"app": "dns"}, "ports": [
                {"name": "dns-tcp", "port": 1, "nodePort": 30001}, {"name": "metrics-tcp", "port": 2, "nodePort": 30002},
            ]},
        }))
        .unwrap();
        let former = ServiceObject::parse(&former);
        let dns = PortRef::Companion(CompanionPort { number: NonZeroU16::new(20053).unwrap(), name: "dns".into() });
        let found = former.ports.iter().find(|port| port.is(&dns, Transport::Tcp)).unwrap();
        assert_eq!(&*found.name, "dns-tcp");
        let mut desired = desired(&claim, TargetKind::Node, None).unwrap().unwrap();
        keep_node_ports(&mut desired, &former, &claim);
        let ports = desired.spec.unwrap().ports.unwrap();
        let node_ports: Vec<_> = ports.iter().map(|p| (p.name.as_deref().unwrap(), p.node_port.unwrap())).collect();
        // UDP joins TCP on the node port: a target group has one port for both.
        assert_eq!(node_ports, [("tcp-20001", 30002), ("tcp-20053", 30001), ("udp-20053", 30001)]);
    }

    #[test]
    fn a_port_that_waits_for_the_other_transport_of_its_number_takes_no_name_from_the_one_that_has_it() {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLB",
            "metadata": {"namespace": "team", "name": "dns", "uid": "a-uid", "resourceVersion": "7"},
            "spec": {"selector": {"app": "dns"}, "ports": [
                {"name": "c", "protocol": "TCP_UDP", "targetPort": 54}, {"name": "a", "targetPort": 53},
            ]},
            "status": {"loadBalancerIndex": 0, "ports": [
                {"name": "a", "port": 20053, "targetPort": 53},
                {"name": "c", "protocol": "UDP", "port": 20053, "targetPort": 54},
            ]},
        }))
        .unwrap();
        let service = desired(&ClaimObject::parse(&object), TargetKind::Pod, None).unwrap().unwrap();
        let ports: Vec<_> = service.spec.unwrap().ports.unwrap();
        let ports: Vec<_> = ports.into_iter().map(|p| (p.name.unwrap(), p.target_port.unwrap())).collect();
        let expected = [("tcp-20053", 53), ("udp-20053", 54)];
        assert_eq!(ports, expected.map(|(name, target)| (name.to_owned(), IntOrString::Int(target))));
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
    fn its_label_tells_claims_apart_whose_names_are_too_long_for_a_label() {
        let label = |name: String| {
            let service = desired(&claim(&name), TargetKind::Pod, None).unwrap().unwrap();
            service.metadata.labels.unwrap()[CLAIM_LABEL].clone()
        };
        assert_eq!(label("dns".to_owned()), "dns");
        let (one, other) = (label(format!("{}.1", "x".repeat(62))), label(format!("{}.2", "x".repeat(62))));
        assert_ne!(one, other);
        assert!(one.len() <= LABEL_VALUE_MAX && one.ends_with(|c: char| c.is_ascii_alphanumeric()), "{one}");
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

    /// A claim that names a Service, and has a number for each port.
    fn naming(ports: serde_json::Value) -> ClaimObject {
        let slots: Vec<_> = (20001..)
            .zip(ports.as_array().unwrap())
            .map(|(number, port)| json!({"name": port["name"], "protocol": port["protocol"], "port": number}))
            .map(|mut slot| {
                slot.as_object_mut().unwrap().retain(|_, value| !value.is_null());
                slot
            })
            .collect();
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLB",
            "metadata": {"namespace": "team", "name": "dns", "uid": "a-uid", "resourceVersion": "7"},
            "spec": {"serviceName": "dns", "ports": ports},
            "status": {"loadBalancerIndex": 0, "ports": slots},
        }))
        .unwrap();
        ClaimObject::parse(&object)
    }

    #[test]
    fn a_service_concerns_claims_that_name_it_and_the_claim_whose_companion_it_replaces() {
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
            [target("udp-20001", IntOrString::String("dns".into())), target("tcp-20002", IntOrString::Int(8080))];
        assert_eq!(ports, expected);
    }

    #[test]
    fn a_service_unsuitable_for_node_targets_is_reported() {
        let claim = naming(json!([{"targetPort": 80}]));
        let why = |named: Option<&ServiceObject>| desired(&claim, TargetKind::Node, named).unwrap_err();
        assert!(why(None).starts_with("Service dns does not exist in namespace team"));
        assert!(why(Some(&named(json!(null)))).starts_with("Service dns has no selector"));
        assert!(why(Some(&named(json!({"app": "dns"})))).starts_with("Service dns has none of the ports"));
    }
}
