//! The Service of a load balancer: rendered from the desired state, and parsed.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::marks::{ATTRIBUTES, Marks};
use crate::model::{Address, Attributes, FrontPort, IpFamily, LbName, Transport};

/// A Service must have a port. It has this one while there is no listener, so that the
/// address stays. (1/TCP, tcpmux, is not in use today.)
const PARKED: (&str, FrontPort) = ("parked", FrontPort { port: NonZeroU16::MIN, transport: Transport::Tcp });

/// The type of our Services.
pub(super) const TYPE: &str = "LoadBalancer";

/// Keys of the attributes, named as in a Service's `spec`.
pub(super) mod attribute {
    pub(crate) const TYPE: &str = "type";
    pub(crate) const EXTERNAL_TRAFFIC_POLICY: &str = "externalTrafficPolicy";
    pub(crate) const ALLOCATE_NODE_PORTS: &str = "allocateLoadBalancerNodePorts";
    pub(crate) const IP_FAMILY_POLICY: &str = "ipFamilyPolicy";
    pub(crate) const LOAD_BALANCER_IP: &str = "loadBalancerIP";
    /// Followed by the annotation's own key.
    pub(crate) const ANNOTATION: &str = "annotation/";
}

/// A Service of ours as observed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Front {
    /// The attributes that we have set, with the values they have now.
    pub(super) attributes: Attributes,
    /// Ports that are ours by their names.
    pub(super) ours: BTreeSet<FrontPort>,
    /// Foreign ports, with their names.
    pub(super) foreign: BTreeMap<FrontPort, String>,
    pub(super) addresses: Vec<Address>,
    pub(super) fixed: Fixed,
    /// Whether it is being deleted, and kept by a finalizer.
    pub(super) deleting: bool,
}

/// The immutable fields of a Service. They are no attributes: a difference could never be
/// repaired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fixed {
    /// `None`: the type of the Service was changed by hand, by which it has lost its class.
    pub(super) load_balancer_class: Option<Option<String>>,
    pub(super) ip_families: Vec<String>,
}

impl Fixed {
    /// The families of its endpoints. It has none until the API server has set its default.
    pub(super) fn families(&self) -> BTreeSet<IpFamily> {
        self.ip_families.iter().filter_map(|family| IpFamily::parse(family)).collect()
    }
}

/// The name of a Service port of ours.
pub(super) fn port_name(port: FrontPort) -> String {
    format!("{}-{}", port.transport.to_string().to_lowercase(), port.port)
}

impl Front {
    /// Why a listener cannot have this port; `None`: it can. Both the number and our name for
    /// it must be free.
    pub(super) fn foreign_at(&self, port: FrontPort) -> Option<String> {
        let name = port_name(port);
        let (taken, theirs) = self.foreign.iter().find(|(taken, theirs)| **taken == port || **theirs == name)?;
        Some(format!("{port} is taken by the port \"{theirs}\" ({taken}), which another client added to the Service"))
    }

    /// Reads a Service of ours.
    pub(super) fn read(service: &Service) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        let (mut ours, mut foreign) = (BTreeSet::new(), BTreeMap::new());
        for port in spec.ports.iter().flatten() {
            // A port of another protocol conflicts with none of ours.
            let Some(front) = front_port(port) else { continue };
            let name = port.name.as_deref().unwrap_or_default();
            if name == port_name(front) {
                ours.insert(front);
            } else if (name, front) != PARKED {
                foreign.insert(front, name.into());
            }
        }
        Self {
            attributes: read_attributes(service, &spec),
            ours,
            foreign,
            addresses: read_addresses(service),
            fixed: Fixed {
                load_balancer_class: (spec.type_.as_deref() == Some(TYPE)).then_some(spec.load_balancer_class),
                ip_families: spec.ip_families.unwrap_or_default(),
            },
            deleting: service.metadata.deletion_timestamp.is_some(),
        }
    }
}

/// The desired state of a Service, without its immutable fields.
pub(super) struct Wanted<'a> {
    pub(super) attributes: &'a Attributes,
    /// All our ports, none of which is foreign.
    pub(super) ports: &'a BTreeSet<FrontPort>,
    /// The existing Service.
    pub(super) seen: Option<&'a Front>,
}

/// The Service for a server-side apply: all of our part, and nothing else.
pub(super) fn render(marks: &Marks, name: &LbName, fixed: &Fixed, wanted: &Wanted<'_>) -> Service {
    let attributes = wanted.attributes;
    let annotations = attributes
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(attribute::ANNOTATION)?.to_owned(), value.clone())))
        .chain([(ATTRIBUTES.to_owned(), attributes.keys().cloned().collect::<Vec<_>>().join(","))])
        .collect();
    let parked_is_free = wanted.seen.is_none_or(|front| {
        !front.foreign.contains_key(&PARKED.1) && front.foreign.values().all(|name| name != PARKED.0)
    });
    let mut ports: Vec<_> = wanted.ports.iter().map(|port| service_port(port_name(*port), *port)).collect();
    if ports.is_empty() && parked_is_free {
        ports.push(service_port(PARKED.0.into(), PARKED.1));
    }
    Service {
        metadata: ObjectMeta {
            name: Some(name.to_string()),
            namespace: Some(marks.namespace.clone()),
            labels: Some(marks.service_labels(name)),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some(TYPE.into()),
            // With Local, there is one health check for the whole Service, and a node without
            // a pod of one listener would drop the traffic of that listener.
            external_traffic_policy: Some("Cluster".into()),
            allocate_load_balancer_node_ports: attributes
                .get(attribute::ALLOCATE_NODE_PORTS)
                .map(|value| value == "true"),
            ip_family_policy: attributes.get(attribute::IP_FAMILY_POLICY).cloned(),
            load_balancer_ip: attributes.get(attribute::LOAD_BALANCER_IP).cloned(),
            load_balancer_class: fixed.load_balancer_class.clone().flatten(),
            ip_families: Some(fixed.ip_families.clone()).filter(|families| !families.is_empty()),
            ports: Some(ports).filter(|ports| !ports.is_empty()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn service_port(name: String, port: FrontPort) -> ServicePort {
    ServicePort {
        name: Some(name),
        port: u16::from(port.port).into(),
        protocol: Some(port.transport.to_string()),
        ..ServicePort::default()
    }
}

fn front_port(port: &ServicePort) -> Option<FrontPort> {
    let transport = port.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
    Some(FrontPort { port: u16::try_from(port.port).ok().and_then(NonZeroU16::new)?, transport })
}

fn read_attributes(service: &Service, spec: &ServiceSpec) -> Attributes {
    let annotation = |key: &str| service.metadata.annotations.as_ref()?.get(key).cloned();
    let value = |key: &str| match key {
        attribute::TYPE => spec.type_.clone(),
        attribute::EXTERNAL_TRAFFIC_POLICY => spec.external_traffic_policy.clone(),
        attribute::ALLOCATE_NODE_PORTS => spec.allocate_load_balancer_node_ports.map(|allocate| allocate.to_string()),
        attribute::IP_FAMILY_POLICY => spec.ip_family_policy.clone(),
        attribute::LOAD_BALANCER_IP => spec.load_balancer_ip.clone(),
        key => annotation(key.strip_prefix(attribute::ANNOTATION)?),
    };
    let keys = annotation(ATTRIBUTES).unwrap_or_default();
    keys.split(',').filter_map(|key| Some((key.to_owned(), value(key)?))).collect()
}

fn read_addresses(service: &Service) -> Vec<Address> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    let addresses = ingress.flat_map(|ingress| {
        let ip = ingress.ip.as_ref().and_then(|ip| ip.parse().ok()).map(Address::Ip);
        [ip, ingress.hostname.clone().map(Address::Hostname)]
    });
    addresses.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> LbName {
        LbName::from_recorded("slb-default-0-0123456789")
    }

    fn port(number: u16, transport: Transport) -> FrontPort {
        FrontPort { port: NonZeroU16::new(number).unwrap(), transport }
    }

    fn rendered(attributes: &Attributes, ports: &[FrontPort], seen: Option<&Front>) -> Service {
        let ports = ports.iter().copied().collect();
        let wanted = Wanted { attributes, ports: &ports, seen };
        render(&Marks::new("lbs", "default", "cluster"), &name(), &Fixed::default(), &wanted)
    }

    fn attributes() -> Attributes {
        [(attribute::TYPE, "LoadBalancer"), (attribute::ALLOCATE_NODE_PORTS, "false"), ("annotation/a.b/c", "x,y")]
            .map(|(key, value)| (key.into(), value.into()))
            .into()
    }

    fn named_ports(service: &Service) -> Vec<(&str, i32, &str)> {
        let ports = service.spec.as_ref().unwrap().ports.iter().flatten();
        ports.map(|p| (p.name.as_deref().unwrap(), p.port, p.protocol.as_deref().unwrap())).collect()
    }

    #[test]
    fn a_service_reads_back_as_it_was_rendered() {
        let ports = [port(20417, Transport::Tcp), port(20417, Transport::Udp)];
        let service = rendered(&attributes(), &ports, None);
        assert_eq!(named_ports(&service), [("tcp-20417", 20417, "TCP"), ("udp-20417", 20417, "UDP")]);
        let front = Front::read(&service);
        let fixed = Fixed { load_balancer_class: Some(None), ..Fixed::default() };
        assert_eq!(front, Front { attributes: attributes(), ours: ports.into(), fixed, ..Front::default() });
    }

    #[test]
    fn a_service_without_listeners_is_parked_and_says_nothing_of_it() {
        let service = rendered(&attributes(), &[], None);
        assert_eq!(named_ports(&service), [("parked", 1, "TCP")]);
        let front = Front::read(&service);
        assert_eq!((front.ours, front.foreign), Default::default());
    }

    #[test]
    fn a_foreign_port_1_is_not_taken_for_parking() {
        let seen = Front { foreign: [(PARKED.1, "tcpmux".to_owned())].into(), ..Front::default() };
        assert_eq!(named_ports(&rendered(&attributes(), &[], Some(&seen))), []);
    }

    #[test]
    fn a_port_is_ours_only_if_its_name_its_number_and_its_protocol_agree() {
        let mut service = rendered(&attributes(), &[port(20417, Transport::Tcp)], None);
        let ports = service.spec.as_mut().unwrap().ports.as_mut().unwrap();
        ports.push(service_port("tcp-22".into(), port(2222, Transport::Tcp)));
        ports.push(service_port("tcp-53".into(), port(53, Transport::Udp)));
        let front = Front::read(&service);
        assert_eq!(front.ours, [port(20417, Transport::Tcp)].into());
        assert!(front.foreign_at(port(2222, Transport::Tcp)).is_some());
        assert!(front.foreign_at(port(2222, Transport::Udp)).is_none());
        assert!(front.foreign_at(port(53, Transport::Tcp)).is_some(), "our name for it is taken");
    }

    #[test]
    fn what_others_set_and_defaults_are_no_attributes_and_what_they_altered_is_seen() {
        let mut service = rendered(&attributes(), &[], None);
        let annotations = service.metadata.annotations.as_mut().unwrap();
        annotations.insert("metallb.io/ip-allocated-from-pool".into(), "pool".into());
        annotations.insert("a.b/c".into(), "altered".into());
        service.spec.as_mut().unwrap().ip_family_policy = Some("SingleStack".into());
        let mut expected = attributes();
        expected.insert("annotation/a.b/c".into(), "altered".into());
        assert_eq!(Front::read(&service).attributes, expected);
    }
}
