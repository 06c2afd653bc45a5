//! Converts a `SharedLB` to the controller's type.
//!
//! Spec and status are parsed separately, and the status leniently: an object that can't be
//! parsed still exists, and keeps its slots.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use kube::api::DynamicObject;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sharedlb_crds::{CLAIM_FINALIZER, PortStatus, SOURCE_LABEL, SharedLBSpec, SharedLBStatus, Transport};
use sharedlb_providers::{Address, FrontPort, ListenerKey, ListenerOptions, Owner, Protocol, SessionAffinity, model};

use crate::allocation::{ClaimRequest, Held, HeldSlot, PortRequest};
use crate::api::target::Target;
use crate::kubernetes::cache::Cached;
use crate::kubernetes::{ObjectKey, ObjectMeta, text};

/// A claim in the API.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClaimObject {
    pub meta: ObjectMeta,
    /// Its spec, or why that can't be parsed
    pub spec: Result<SharedLBSpec, String>,
    /// The class in its spec, even if nothing else of the spec can be parsed
    class_name: Option<String>,
    /// Its status, as far as it can be parsed
    pub status: SharedLBStatus,
    /// Whether its slots are unknown, since not even those in its status can be parsed
    pub unparsable: bool,
    /// Whether our finalizer is on it: only then may its slots be opened, since
    /// only then will their release be recorded.
    pub has_finalizer: bool,
    /// The source that keeps it for another object; `None`: a user wrote it. A tenant can set
    /// the same label, so it only decides where Events are published.
    pub source: Option<Arc<str>>,
    pub target: Arc<Target>,
    /// The input of `assign`
    pub request: ClaimRequest,
}

/// The part of a status with the slots.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slots {
    class_name: Option<String>,
    load_balancer_index: Option<u32>,
    #[serde(default)]
    ports: Vec<PortStatus>,
}

impl Cached for ClaimObject {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

impl ClaimObject {
    /// Converts an object.
    pub(crate) fn parse(object: &DynamicObject) -> Self {
        let meta = ObjectMeta::of(object);
        let part = |name: &str| object.data.get(name).cloned().unwrap_or(Value::Null);
        let spec: Result<SharedLBSpec, String> = parse_part(&part("spec"));
        let class_name = part("spec").get("className").and_then(Value::as_str).map(str::to_owned);
        let (status, unparsable) = match part("status") {
            Value::Null => (SharedLBStatus::default(), false),
            status => match serde_json::from_value(status.clone()) {
                Ok(status) => (status, false),
                Err(_) => match serde_json::from_value::<Slots>(status) {
                    Ok(Slots { class_name, load_balancer_index, ports }) => {
                        (SharedLBStatus { class_name, load_balancer_index, ports, ..Default::default() }, false)
                    }
                    Err(_) => (SharedLBStatus::default(), true),
                },
            },
        };
        let asked: Vec<PortRequest> =
            spec.as_ref().map_or_else(|_| Vec::new(), |spec| spec.ports.iter().map(request).collect());
        let held = held(&status, &asked);
        let request = ClaimRequest {
            id: meta.key.clone(),
            created: meta.created.as_second(),
            address: spec.as_ref().ok().and_then(|spec| spec.address.as_deref()).map(Address::parse),
            ports: match &spec {
                Ok(_) => asked,
                // Its request is unknown: it keeps its slots.
                Err(_) => held.iter().flat_map(|held| held.slots.iter()).map(as_request).collect(),
            },
            options: spec.as_ref().ok().map(|spec| Arc::new(options(spec))),
            held,
        };
        let has_finalizer = meta.finalizers.iter().any(|finalizer| finalizer == CLAIM_FINALIZER);
        let target = Arc::new(Target::of(&meta, spec.as_ref().ok()));
        let source = source(object);
        Self { meta, spec, class_name, status, unparsable, has_finalizer, source, target, request }
    }

    /// Whether its slots are released: it is being deleted without our finalizer, and only
    /// foreign finalizers keep it.
    pub(crate) fn is_released(&self) -> bool {
        self.meta.deleting && !self.has_finalizer
    }

    /// The claim as it will be once its status has these slots.
    pub(crate) fn with_slots(&self, held: Held) -> Self {
        let mut claim = self.clone();
        claim.request.held = Some(held);
        claim
    }

    /// The name of the port with this number in the status.
    pub(crate) fn name_of(&self, number: NonZeroU16, transport: model::Transport) -> Option<Arc<str>> {
        let port = FrontPort { port: number, transport };
        let mut slots = self.request.held.iter().flat_map(|held| held.slots.iter());
        slots.find(|slot| slot.key.has(port)).map(|slot| slot.name.clone())
    }

    /// Its class: that in the spec, or else that in the status.
    pub(crate) fn named_class(&self) -> Option<&str> {
        self.class_name.as_deref().or(self.status.class_name.as_deref())
    }
}

/// The longest timeout of session affinity, in seconds, as in the schema.
const AFFINITY_SECONDS_MAX: u32 = 86_400;

/// The longest error about an object, in bytes: it leaves room for advice in a message.
const ERROR_MAX: usize = 400;

/// The source in the label of a claim that has an owner.
fn source(object: &DynamicObject) -> Option<Arc<str>> {
    let mut owners = object.metadata.owner_references.iter().flatten();
    let is_owned = owners.any(|owner| owner.controller == Some(true));
    let label = object.metadata.labels.as_ref()?.get(SOURCE_LABEL)?;
    is_owned.then(|| label.as_str().into())
}

/// Parses a part of an object; an error names the invalid field.
pub(crate) fn parse_part<T: DeserializeOwned>(part: &Value) -> Result<T, String> {
    serde_path_to_error::deserialize(part).map_err(|error| text::fit(&error.to_string(), ERROR_MAX))
}

/// The slots in its status. They share the names of requested ports, since names are compared
/// often.
fn held(status: &SharedLBStatus, asked: &[PortRequest]) -> Option<Held> {
    let name = |name: &str| -> Arc<str> {
        asked.iter().find(|port| *port.name == *name).map_or_else(|| name.into(), |port| port.name.clone())
    };
    let opened = opened(status);
    let slots: Vec<HeldSlot> = status
        .ports
        .iter()
        .map(|port| {
            let key = ListenerKey { port: port.port, protocol: protocol(port.protocol) };
            HeldSlot {
                name: name(&port.name),
                key,
                // Earlier versions did not write the field. One of two transports may have
                // been added since.
                opened: port.opened || key.front_ports().any(|port| opened.contains(&port)),
                target: port.target_port.clone(),
            }
        })
        .collect();
    let index = status.load_balancer_index?;
    (!slots.is_empty()).then_some(Held { index, slots: slots.into() })
}

/// The ports that have been open, by `status.loadBalancer.ingress`.
pub(crate) fn opened(status: &SharedLBStatus) -> BTreeSet<FrontPort> {
    let ingress = status.load_balancer.iter().flat_map(|lb| &lb.ingress);
    let ports = ingress.flat_map(|ingress| &ingress.ports);
    ports.map(|port| FrontPort { port: port.port, transport: transport(port.protocol) }).collect()
}

pub(crate) fn request(port: &sharedlb_crds::SharedLBPort) -> PortRequest {
    PortRequest {
        name: port.name.as_str().into(),
        protocol: protocol(port.protocol),
        number: port.port,
        target: port.target(),
        targets: 0,
    }
}

/// The options that a claim requests for its listeners.
fn options(spec: &SharedLBSpec) -> ListenerOptions {
    // A timeout past the schema must not make a load balancer refuse the whole.
    let timeout = |seconds: u32| Duration::from_secs(seconds.clamp(1, AFFINITY_SECONDS_MAX).into());
    let affinity = spec.affinity_timeout_seconds().map(|seconds| SessionAffinity { timeout: Some(timeout(seconds)) });
    ListenerOptions::new(source_ranges(&spec.load_balancer_source_ranges), affinity)
}

/// The ranges; none: all clients. As for Kubernetes' own controllers of
/// load balancers, 0.0.0.0/0 stands for all clients, unless there are ranges of IPv6 too.
fn source_ranges(ranges: &[IpNet]) -> Vec<IpNet> {
    let merged = IpNet::aggregate(&ranges.to_vec());
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) = merged.into_iter().partition(|range| range.addr().is_ipv4());
    let is_all = |ranges: &[IpNet]| ranges.iter().any(|range| range.prefix_len() == 0);
    if is_all(&v4) && (v6.is_empty() || is_all(&v6)) {
        return Vec::new();
    }
    ranges.to_vec()
}

fn as_request(slot: &HeldSlot) -> PortRequest {
    PortRequest {
        name: slot.name.clone(),
        protocol: slot.key.protocol,
        number: None,
        target: slot.target.clone(),
        targets: 0,
    }
}

/// The model's protocol for the API's.
pub(crate) fn protocol(protocol: sharedlb_crds::Protocol) -> Protocol {
    match protocol {
        sharedlb_crds::Protocol::Tcp => Protocol::Tcp,
        sharedlb_crds::Protocol::Udp => Protocol::Udp,
        sharedlb_crds::Protocol::TcpUdp => Protocol::TcpUdp,
    }
}

/// The API's protocol for the model's.
pub(crate) fn api_protocol(protocol: Protocol) -> sharedlb_crds::Protocol {
    match protocol {
        Protocol::Tcp => sharedlb_crds::Protocol::Tcp,
        Protocol::Udp => sharedlb_crds::Protocol::Udp,
        Protocol::TcpUdp => sharedlb_crds::Protocol::TcpUdp,
    }
}

/// The API's transport for the model's.
pub(crate) fn api_transport(transport: model::Transport) -> Transport {
    match transport {
        model::Transport::Tcp => Transport::Tcp,
        model::Transport::Udp => Transport::Udp,
    }
}

/// The model's transport for the API's.
pub(crate) fn transport(transport: Transport) -> model::Transport {
    match transport {
        Transport::Tcp => model::Transport::Tcp,
        Transport::Udp => model::Transport::Udp,
    }
}

/// The claim that a listener is for.
pub(crate) fn claim_key(owner: &Owner) -> ObjectKey {
    ObjectKey { namespace: owner.namespace.clone(), name: owner.claim.clone() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(object: Value) -> ClaimObject {
        ClaimObject::parse(&serde_json::from_value(object).unwrap())
    }

    fn claim(spec: Value, status: Value) -> ClaimObject {
        parse(json!({
            "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLB",
            "metadata": {"namespace": "team", "name": "redis", "uid": "u", "resourceVersion": "7"},
            "spec": spec, "status": status,
        }))
    }

    fn spec() -> Value {
        json!({"selector": {"app": "redis"}, "ports": [{"name": "x", "protocol": "TCP_UDP", "targetPort": 6379}]})
    }

    fn status() -> Value {
        json!({
            "className": "default", "loadBalancerIndex": 1,
            "ports": [{"name": "x", "protocol": "TCP_UDP", "port": 20001}],
            "loadBalancer": {"ingress": [{"ip": "10.0.0.1", "ports": [
                {"port": 20001, "protocol": "TCP"}, {"port": 20001, "protocol": "UDP"},
            ]}]},
        })
    }

    #[test]
    fn a_slot_was_opened_once_its_status_says_so_or_the_ingress_lists_any_of_its_ports() {
        let mut status = status();
        let opened = |claim: ClaimObject| claim.request.held.unwrap().slots[0].opened;
        assert!(opened(claim(spec(), status.clone())));
        status["loadBalancer"]["ingress"][0]["ports"].as_array_mut().unwrap().pop();
        assert!(
            opened(claim(spec(), status.clone())),
            "it was TCP, and is to be TCP_UDP: TCP is open, and never moves"
        );
        status["loadBalancer"]["ingress"][0]["ports"].as_array_mut().unwrap().pop();
        assert!(!opened(claim(spec(), status.clone())));
        status["ports"][0]["opened"] = json!(true);
        assert!(opened(claim(spec(), status)), "the load balancer has lost its address");
    }

    #[test]
    fn a_claim_whose_spec_cannot_be_parsed_keeps_what_it_holds() {
        let claim = claim(json!({"ports": "nonsense"}), status());
        assert!(claim.spec.as_ref().unwrap_err().starts_with("ports: invalid type"), "{:?}", claim.spec);
        assert_eq!(claim.request.ports.len(), 1);
        assert_eq!(claim.request.held.unwrap().index, 1);
    }

    #[test]
    fn slots_are_read_from_a_status_whose_rest_cannot_be_parsed() {
        let mut status = status();
        status["conditions"] = json!("nonsense");
        let claim = claim(spec(), status);
        assert!(!claim.unparsable);
        assert_eq!(claim.request.held.unwrap().slots.len(), 1);
    }

    #[test]
    fn a_status_whose_slots_cannot_be_parsed_is_unparsable() {
        assert!(claim(spec(), json!({"ports": [{"name": "x", "port": 99999}]})).unparsable);
        assert!(!claim(spec(), Value::Null).unparsable);
    }

    #[test]
    fn options_have_one_form_whatever_way_they_are_written() {
        let options = |fields: Value| {
            let mut spec = spec();
            spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            claim(spec, Value::Null).request.options.map(|options| (*options).clone())
        };
        let ranges = |ranges: &[&str]| options(json!({"loadBalancerSourceRanges": ranges})).unwrap().source_ranges;
        let parsed = |ranges: &[&str]| -> BTreeSet<IpNet> { ranges.iter().map(|r| r.parse().unwrap()).collect() };
        assert_eq!(options(json!({})), Some(ListenerOptions::default()));
        assert_eq!(ranges(&["10.1.2.3/8", "10.0.0.0/8"]), parsed(&["10.0.0.0/8"]));
        for all in [&["0.0.0.0/0", "10.0.0.0/8"][..], &["0.0.0.0/0", "::/0"], &["128.0.0.0/1", "0.0.0.0/1"]] {
            assert_eq!(ranges(all), BTreeSet::new(), "{all:?}");
        }
        for some in [&["::/0"][..], &["0.0.0.0/0", "fd00::/8"]] {
            assert_eq!(ranges(some), parsed(some), "{some:?}");
        }
        let timeout = |affinity: Value| {
            options(affinity).unwrap().session_affinity.map(|affinity| affinity.timeout.unwrap().as_secs())
        };
        let config = |seconds: u32| json!({"clientIP": {"timeoutSeconds": seconds}});
        assert_eq!(timeout(json!({"sessionAffinity": "ClientIP"})), Some(10800));
        assert_eq!(timeout(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config(7)})), Some(7));
        assert_eq!(timeout(json!({"sessionAffinity": "None", "sessionAffinityConfig": config(7)})), None);
        assert_eq!(options(json!({"loadBalancerSourceRanges": ["nonsense"]})), None, "they are not known");
    }

    #[test]
    fn the_class_of_the_spec_wins_over_that_of_the_status() {
        let mut named = spec();
        named["className"] = json!("other");
        assert_eq!(claim(named, status()).named_class(), Some("other"));
        assert_eq!(claim(spec(), status()).named_class(), Some("default"));
        assert_eq!(claim(spec(), Value::Null).named_class(), None);
        assert_eq!(claim(json!({"className": "other", "ports": 7}), Value::Null).named_class(), Some("other"));
    }
}
