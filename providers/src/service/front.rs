//! The Service of a load balancer: rendered from the desired state, and parsed.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use k8s_openapi::api::core::v1::{ClientIPConfig, Service, ServicePort, ServiceSpec, SessionAffinityConfig};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::marks::{ATTRIBUTES, Marks};
use super::name::ServiceName;
use super::status;
use crate::model::{Address, Attributes, FrontPort, IpFamily, Transport, port_number};

/// A Service must have a port. It has this one while there is no listener, so that the
/// address stays. (1/TCP, tcpmux, is not in use today.)
pub(crate) const PARKED: (&str, FrontPort) = ("parked", FrontPort { port: NonZeroU16::MIN, transport: Transport::Tcp });

/// The type of our Services.
pub(super) const TYPE: &str = "LoadBalancer";

/// Keys of the attributes, named as in a Service.
pub(crate) mod attribute {
    pub(crate) const TYPE: &str = "type";
    pub(crate) const EXTERNAL_TRAFFIC_POLICY: &str = "externalTrafficPolicy";
    pub(crate) const ALLOCATE_NODE_PORTS: &str = "allocateLoadBalancerNodePorts";
    pub(crate) const IP_FAMILY_POLICY: &str = "ipFamilyPolicy";
    pub(crate) const LOAD_BALANCER_IP: &str = "loadBalancerIP";
    /// CIDRs, with commas between them; empty: all clients are served.
    pub(crate) const LOAD_BALANCER_SOURCE_RANGES: &str = "loadBalancerSourceRanges";
    pub(crate) const SESSION_AFFINITY: &str = "sessionAffinity";
    /// In seconds; only with affinity.
    pub(crate) const AFFINITY_TIMEOUT: &str = "sessionAffinityConfig.clientIP.timeoutSeconds";
    /// The addresses in the status, where we write that; see [`status`](super::status).
    pub(crate) const STATUS: &str = "status.loadBalancer.ingress";
    /// Followed by the annotation's own key.
    pub(crate) const ANNOTATION: &str = "annotation/";
    /// Followed by a parked port, such as `tcp-20000`; `true`: the Service has this port, for a
    /// listener or parked.
    pub(crate) const PARKED_PORT: &str = "parkedPort/";
}

/// A Service of ours as observed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Front {
    /// The attributes that we have set, with the values they have now.
    pub(super) attributes: Attributes,
    /// All its ports, as the API server has them.
    pub(super) ports: Vec<ServicePort>,
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

/// What a port of the Service is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// A listener of ours
    Listener,
    /// No listener: it keeps a Service without listeners, or the range of its ports
    Parked,
    /// Another client, which has added it
    Foreign,
}

impl Holder {
    fn of(port: &ServicePort, front: FrontPort) -> Self {
        match port.name.as_deref().unwrap_or_default() {
            name if name == port_name(front) => Self::Listener,
            name if (name, front) == PARKED || name == parked_name(front) => Self::Parked,
            _ => Self::Foreign,
        }
    }
}

/// The name of a Service port of ours.
pub(super) fn port_name(port: FrontPort) -> String {
    format!("{}-{}", port.transport.lower_case(), port.port)
}

/// The name of a parked port.
fn parked_name(port: FrontPort) -> String {
    format!("parked-{}", port_name(port))
}

/// The attribute of a port that is parked while no listener has it.
pub(super) fn parked_attribute(port: FrontPort) -> String {
    format!("{}{}", attribute::PARKED_PORT, port_name(port))
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
            match Holder::of(port, front) {
                Holder::Listener => _ = ours.insert(front),
                Holder::Parked => {}
                Holder::Foreign => _ = foreign.insert(front, port.name.clone().unwrap_or_default()),
            }
        }
        Self {
            attributes: read_attributes(service, &spec),
            ports: spec.ports.unwrap_or_default(),
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
pub(super) struct DesiredService<'a> {
    pub(super) attributes: &'a Attributes,
    /// All our ports, none of which is foreign.
    pub(super) ports: &'a BTreeSet<FrontPort>,
    /// The existing Service.
    pub(super) seen: Option<&'a Front>,
}

impl DesiredService<'_> {
    /// The ports that the Service has, as far as they stay, and the new ones. A port that
    /// stays keeps its node port, and what other clients have set in it. One that was parked and
    /// opens, or closes and is parked, keeps its node port: no closing fails because they are
    /// used up.
    fn service_ports(&self) -> Vec<ServicePort> {
        let seen: &[ServicePort] = self.seen.map_or(&[], |front| &front.ports);
        let parked = self.parked();
        let stays = |port: &&ServicePort| match front_port(port) {
            None => true,
            Some(front) => match Holder::of(port, front) {
                Holder::Listener => self.ports.contains(&front),
                Holder::Parked => parked.get(&front) == port.name.as_ref(),
                Holder::Foreign => true,
            },
        };
        let mut ports: Vec<ServicePort> = seen.iter().filter(stays).cloned().collect();
        let open = self.ports.iter().map(|port| (*port, port_name(*port)));
        let is_new = |(_, name): &(FrontPort, String)| seen.iter().all(|port| port.name.as_ref() != Some(name));
        let new = open.chain(parked.clone()).filter(is_new).map(|(port, name)| {
            let before = seen.iter().find(|before| front_port(before) == Some(port));
            ServicePort { node_port: before.and_then(|before| before.node_port), ..service_port(name, port) }
        });
        ports.extend(new);
        ports
    }

    /// The ports that are parked, with their names: those of the attributes that no listener
    /// has, or, for a Service that would have no port, [`PARKED`]. None is foreign.
    fn parked(&self) -> BTreeMap<FrontPort, String> {
        // Attributes that stay as they are, since others were refused, may lack a port.
        let parked = self.attributes.iter().filter(|(_, value)| *value == "true");
        let of_attributes = parked.filter_map(|(key, _)| {
            let port = parse_port_name(key.strip_prefix(attribute::PARKED_PORT)?)?;
            Some((port, parked_name(port)))
        });
        let mut parked: BTreeMap<FrontPort, String> = of_attributes.collect();
        if parked.is_empty() && self.ports.is_empty() {
            parked.insert(PARKED.1, PARKED.0.to_owned());
        }
        let is_foreign = |port: &FrontPort, name: &str| {
            let mut foreign = self.seen.into_iter().flat_map(|front| &front.foreign);
            foreign.any(|(taken, theirs)| taken == port || theirs == name)
        };
        parked.retain(|port, name| !self.ports.contains(port) && !is_foreign(port, name));
        parked
    }
}

/// All of our part of the Service: it is created like this, and changed by a
/// [`merge_patch`] of it.
pub(super) fn render(marks: &Marks, name: &ServiceName, fixed: &Fixed, wanted: &DesiredService<'_>) -> Service {
    let attributes = wanted.attributes;
    let annotations = attributes
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(attribute::ANNOTATION)?.to_owned(), value.clone())))
        .chain([(ATTRIBUTES.to_owned(), attributes.keys().cloned().collect::<Vec<_>>().join(","))])
        .collect();
    Service {
        metadata: ObjectMeta {
            name: Some(name.to_string()),
            namespace: Some(marks.namespace.clone()),
            labels: Some(marks.service_labels(name.load_balancer())),
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
            load_balancer_source_ranges: attributes.get(attribute::LOAD_BALANCER_SOURCE_RANGES).map(|ranges| {
                // An empty list takes away what another client has set.
                ranges.split(',').filter(|range| !range.is_empty()).map(ToOwned::to_owned).collect()
            }),
            session_affinity: attributes.get(attribute::SESSION_AFFINITY).cloned(),
            session_affinity_config: attributes.get(attribute::AFFINITY_TIMEOUT).map(|seconds| SessionAffinityConfig {
                client_ip: Some(ClientIPConfig { timeout_seconds: seconds.parse().ok() }),
            }),
            load_balancer_class: fixed.load_balancer_class.clone().flatten(),
            ip_families: Some(fixed.ip_families.clone()).filter(|families| !families.is_empty()),
            ports: Some(wanted.service_ports()).filter(|ports| !ports.is_empty()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The merge patch by which an existing Service, at the version `there`, gets all of our part.
///
/// It also empties `managedFields`. There is an entry in them for every field of every port,
/// and the API server evaluates them on each write: with 900 ports, a write takes it 50 ms
/// without and 180 to 300 ms with them (docs/decisions/026).
pub(super) fn merge_patch(service: &Service, there: &sharedlb_kubernetes::ObjectMeta, seen: &Front) -> Value {
    let mut patch = json!(service);
    patch["metadata"]["uid"] = json!(there.uid);
    patch["metadata"]["resourceVersion"] = json!(there.version.to_string());
    patch["metadata"]["managedFields"] = json!([{}]);
    // What the class does not set any more.
    for key in seen.attributes.keys() {
        let (of, key) = match key.strip_prefix(attribute::ANNOTATION) {
            Some(annotation) => (&mut patch["metadata"]["annotations"], annotation),
            // They are no fields of the spec, and go with the affinity and the Service.
            None if [attribute::AFFINITY_TIMEOUT, attribute::STATUS].contains(&key.as_str()) => continue,
            None if key.starts_with(attribute::PARKED_PORT) => continue,
            None => (&mut patch["spec"], key.as_str()),
        };
        if of.get(key).is_none() {
            of[key] = Value::Null;
        }
    }
    patch
}

fn service_port(name: String, port: FrontPort) -> ServicePort {
    ServicePort {
        name: Some(name),
        port: u16::from(port.port).into(),
        protocol: Some(port.transport.to_string()),
        ..ServicePort::default()
    }
}

/// The port with this name, as [`port_name`] makes it.
fn parse_port_name(name: &str) -> Option<FrontPort> {
    let (transport, number) = name.split_once('-')?;
    let port = FrontPort { port: number.parse().ok()?, transport: transport.to_uppercase().parse().ok()? };
    (port_name(port) == name).then_some(port)
}

fn front_port(port: &ServicePort) -> Option<FrontPort> {
    let transport = port.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
    Some(FrontPort { port: port_number(port.port)?, transport })
}

fn read_attributes(service: &Service, spec: &ServiceSpec) -> Attributes {
    let annotation = |key: &str| service.metadata.annotations.as_ref()?.get(key).cloned();
    let value = |key: &str| match key {
        attribute::TYPE => spec.type_.clone(),
        attribute::EXTERNAL_TRAFFIC_POLICY => spec.external_traffic_policy.clone(),
        attribute::ALLOCATE_NODE_PORTS => spec.allocate_load_balancer_node_ports.map(|allocate| allocate.to_string()),
        attribute::IP_FAMILY_POLICY => spec.ip_family_policy.clone(),
        attribute::LOAD_BALANCER_IP => spec.load_balancer_ip.clone(),
        attribute::LOAD_BALANCER_SOURCE_RANGES => {
            Some(spec.load_balancer_source_ranges.clone().unwrap_or_default().join(","))
        }
        attribute::SESSION_AFFINITY => spec.session_affinity.clone(),
        attribute::AFFINITY_TIMEOUT => {
            let config = spec.session_affinity_config.as_ref()?;
            config.client_ip.as_ref()?.timeout_seconds.map(|seconds| seconds.to_string())
        }
        attribute::STATUS => Some(status::read(service)),
        key if key.starts_with(attribute::PARKED_PORT) => {
            let port = parse_port_name(key.strip_prefix(attribute::PARKED_PORT)?)?;
            Some(spec.ports.iter().flatten().any(|there| front_port(there) == Some(port)).to_string())
        }
        key => annotation(key.strip_prefix(attribute::ANNOTATION)?),
    };
    let keys = annotation(ATTRIBUTES).unwrap_or_default();
    keys.split(',').filter_map(|key| Some((key.to_owned(), value(key)?))).collect()
}

fn read_addresses(service: &Service) -> Vec<Address> {
    let addresses = status::ingress(service).flat_map(|ingress| {
        let ip = ingress.ip.as_ref().and_then(|ip| ip.parse().ok()).map(Address::Ip);
        [ip, ingress.hostname.clone().map(Address::Hostname)]
    });
    addresses.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LbName;

    fn name() -> ServiceName {
        ServiceName::main(&LbName::from_recorded("slb-default-0-0123456789"))
    }

    fn port(number: u16, transport: Transport) -> FrontPort {
        FrontPort { port: NonZeroU16::new(number).unwrap(), transport }
    }

    fn rendered(attributes: &Attributes, ports: &[FrontPort], seen: Option<&Front>) -> Service {
        let ports = ports.iter().copied().collect();
        let wanted = DesiredService { attributes, ports: &ports, seen };
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
        let all = service.spec.unwrap().ports.unwrap();
        assert_eq!(
            front,
            Front { attributes: attributes(), ports: all, ours: ports.into(), fixed, ..Front::default() }
        );
    }

    #[test]
    fn a_service_without_listeners_is_parked_and_says_nothing_of_it() {
        let service = rendered(&attributes(), &[], None);
        assert_eq!(named_ports(&service), [("parked", 1, "TCP")]);
        let front = Front::read(&service);
        assert_eq!((front.ours, front.foreign), Default::default());
    }

    /// The merge patch that gives this Service these attributes and ports.
    fn patched(service: &Service, attributes: &Attributes, ports: &[FrontPort]) -> Value {
        let seen = Front::read(service);
        let there = sharedlb_kubernetes::ObjectMeta::of(service);
        merge_patch(&rendered(attributes, ports, Some(&seen)), &there, &seen)
    }

    #[test]
    fn ports_that_stay_are_as_they_were_and_foreign_ones_stay() {
        let (one, two, three) = (port(1001, Transport::Tcp), port(1002, Transport::Tcp), port(1003, Transport::Tcp));
        let mut service = rendered(&attributes(), &[one, two], None);
        let found = service.spec.as_mut().unwrap().ports.as_mut().unwrap();
        found[1].node_port = Some(30002);
        found.push(service_port("theirs".into(), port(22, Transport::Tcp)));
        found.push(ServicePort { protocol: Some("SCTP".into()), ..service_port("sctp".into(), three) });
        let patch = patched(&service, &attributes(), &[two, three]);
        let ports: Vec<ServicePort> = serde_json::from_value(patch["spec"]["ports"].clone()).unwrap();
        let named = |port: &ServicePort| (port.name.clone().unwrap(), port.node_port);
        let expected = [("tcp-1002", Some(30002)), ("theirs", None), ("sctp", None), ("tcp-1003", None)];
        assert_eq!(ports.iter().map(named).collect::<Vec<_>>(), expected.map(|(name, port)| (name.to_owned(), port)));
        assert_eq!(named_ports(&rendered(&attributes(), &[], Some(&Front::default()))), [("parked", 1, "TCP")]);
    }

    #[test]
    fn a_parked_port_goes_with_the_first_listener_and_stays_without() {
        let service = rendered(&attributes(), &[], None);
        let names = |ports: &[FrontPort]| {
            let patch = patched(&service, &attributes(), ports);
            patch["spec"]["ports"].as_array().unwrap().iter().map(|port| port["name"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&[port(1001, Transport::Tcp)]), ["tcp-1001"]);
        assert_eq!(names(&[]), ["parked"]);
    }

    #[test]
    fn a_port_keeps_its_node_port_when_it_opens_and_is_parked_again() {
        let low = port(20000, Transport::Tcp);
        let mut attributes = attributes();
        attributes.insert(parked_attribute(low), "true".into());
        let mut service = rendered(&attributes, &[], None);
        service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].node_port = Some(30123);
        for ports in [&[low][..], &[]] {
            service = rendered(&attributes, ports, Some(&Front::read(&service)));
            let found = &service.spec.as_ref().unwrap().ports.as_ref().unwrap()[..];
            assert!(matches!(found, [port] if port.node_port == Some(30123)), "{found:?}");
        }
    }

    #[test]
    fn a_parked_port_that_is_gone_is_not_asked_for_while_settings_are_refused() {
        let low = port(20000, Transport::Tcp);
        let mut attributes = attributes();
        attributes.insert(parked_attribute(low), "true".into());
        let mut service = rendered(&attributes, &[port(20001, Transport::Tcp)], None);
        service.spec.as_mut().unwrap().ports.as_mut().unwrap().retain(|port| port.port == 20001);
        let front = Front::read(&service);
        assert_eq!(front.attributes[&parked_attribute(low)], "false");
        let again = rendered(&front.attributes, &[port(20001, Transport::Tcp)], Some(&front));
        assert_eq!(named_ports(&again), [("tcp-20001", 20001, "TCP")]);
    }

    #[test]
    fn what_the_class_no_longer_sets_is_removed_and_what_others_have_set_is_not_named() {
        let mut more = attributes();
        more.insert("annotation/a.b/d".into(), "z".into());
        more.insert(attribute::LOAD_BALANCER_IP.into(), "192.0.2.1".into());
        let mut service = rendered(&more, &[], None);
        service.metadata.annotations.as_mut().unwrap().insert("theirs.example.com/x".into(), "y".into());
        let patch = patched(&service, &attributes(), &[]);
        let annotations = patch["metadata"]["annotations"].as_object().unwrap();
        assert_eq!((annotations.get("a.b/d"), annotations.get("theirs.example.com/x")), (Some(&Value::Null), None));
        assert_eq!(patch["spec"].get("loadBalancerIP"), Some(&Value::Null));
        assert_eq!(annotations["a.b/c"], json!("x,y"));
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
