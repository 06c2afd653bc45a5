//! The source of ConfigMaps, an older front end: a ConfigMap names a Service, and gets an
//! address and a port.
//!
//! This source writes more than metadata and status: the keys `bind-ip` and `bind-port`
//! are the contract of this front end.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, FIELD_MANAGER, Protocol, Reason, SharedLBPort, SharedLBSpec};
use sharedlb_providers::Transport;

use super::{Facts, ObjectChange, OwnedClaim, Problem, Source, Step, owned, ports};
use crate::backends::{Backends, ServiceObject, ServicePort};
use crate::kubernetes::cache::Cached;
use crate::kubernetes::events::{EventType, Notice};
use crate::kubernetes::{ObjectKey, ObjectMeta, conditions, text};

/// The label selector of its ConfigMaps.
pub(crate) const SELECTOR: &str = "app=loadbalancer";

/// Longer than any valid value, in bytes: a host name has at most 253.
const LONGEST: usize = 300;

const NAMESPACE: &str = "namespace";
const SERVICE: &str = "target-service-name";
const CLASS: &str = "class";
const BIND_PORT: &str = "bind-port";
const TARGET_PORT: &str = "target-port";
const BIND_IP: &str = "bind-ip";

/// The source of ConfigMaps.
#[derive(Debug)]
pub(crate) struct ConfigMaps {
    /// The Services that they name
    pub backends: Arc<Backends>,
}

/// A ConfigMap that requests a port.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MapSource {
    meta: ObjectMeta,
    /// Its values, without the empty ones
    data: BTreeMap<String, String>,
    /// The keys whose values were last written by us
    ours: BTreeSet<&'static str>,
}

impl Cached for MapSource {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

impl Source for ConfigMaps {
    type Kind = ConfigMap;
    type Object = MapSource;

    const NAME: &'static str = "configmap";
    const KIND: &'static str = "ConfigMap";
    const LISTED: &'static str = "configmaps";

    fn parse(&self, map: &ConfigMap) -> Option<MapSource> {
        let known = [NAMESPACE, SERVICE, CLASS, BIND_PORT, TARGET_PORT, BIND_IP];
        let data = map.data.iter().flatten();
        // A value that is too long is cut, and still too long to be valid.
        let data = data.map(|(key, value)| (key.clone(), text::fit(value.trim(), LONGEST)));
        let ours = [BIND_IP, BIND_PORT].into_iter().filter(|key| was_written_by_us(map, key));
        Some(MapSource {
            meta: ObjectMeta::of(map),
            data: data.filter(|(key, value)| known.contains(&key.as_str()) && !value.is_empty()).collect(),
            ours: ours.collect(),
        })
    }

    fn missing(&self) -> Vec<&'static str> {
        if self.backends.filled().0 { Vec::new() } else { vec!["services"] }
    }

    fn depends_on(&self, map: &MapSource, service: &ObjectKey) -> bool {
        map.service().as_ref() == Some(service)
    }

    fn next(&self, facts: &Facts<'_, MapSource>) -> Option<Step> {
        let service = facts.object.and_then(MapSource::service).and_then(|key| self.backends.service(&key));
        next(facts, service.as_deref())
    }
}

/// Creates the claim first, then writes its address and port back; they are removed before
/// the claim is deleted.
fn next(facts: &Facts<'_, MapSource>, service: Option<&ServiceObject>) -> Option<Step> {
    let Some(map) = facts.object else { return delete(facts.claim?) };
    let end = || map.write_back(None).or_else(|| delete(facts.claim?));
    if map.meta.deleting {
        // The ports are given back even if a finalizer keeps the ConfigMap.
        return end();
    }
    let report = |notice: Notice| (facts.last_reported != Some(&notice)).then_some(Step::Report(notice));
    let refused = |problem: &Problem| report(Notice::warning(problem.reason.to_string(), problem.message.clone()));
    let own = facts.claim.filter(|claim| claim.source_uid == map.meta.uid && !claim.meta.deleting);
    let spec = match map.claim_spec(service, own) {
        Ok(spec) => spec,
        Err(problem) => {
            let reported = report(Notice::warning(problem.reason.to_owned(), problem.note));
            // An open port stays open, unless the ConfigMap no longer asks for it.
            return reported.or_else(|| if own.is_some() && problem.keeps { None } else { end() });
        }
    };
    let Some(claim) = facts.claim else {
        let create = || Step::Create(Box::new(owned::claim::<ConfigMaps>(&map.meta, spec)));
        return facts.problem.and_then(refused).or_else(|| map.write_back(None)).or_else(|| Some(create()));
    };
    if claim.meta.deleting {
        return map.write_back(None).or_else(|| refused(&claim.kept_by_others()?));
    }
    if claim.must_be_replaced(&map.meta, &spec) {
        return end();
    }
    if !claim.is(&spec) {
        let correct = || Step::Correct(owned::correction::<ConfigMaps>(&spec));
        return facts.problem.and_then(refused).or_else(|| Some(correct()));
    }
    if !claim.is_observed() {
        return None;
    }
    let given = Given::of(claim);
    let nothing = given.is_none() && claim.status.ports.is_empty();
    let written = if given.is_some() || nothing { map.write_back(given.as_ref()) } else { None };
    written.or_else(|| verdict(claim, facts.last_reported).and_then(report))
}

fn delete(claim: &OwnedClaim) -> Option<Step> {
    (!claim.meta.deleting).then_some(Step::Delete(None))
}

/// The Event about a claim's verdict that is to be published on the ConfigMap. A ConfigMap
/// has no conditions, so an earlier verdict is not known: published are failures, their
/// end, and which part of an open port gets no traffic.
fn verdict(claim: &OwnedClaim, last_reported: Option<&Notice>) -> Option<Notice> {
    let ready = conditions::find(&claim.status.conditions, ConditionType::Ready)?;
    let (reason, note) = (ready.reason.clone(), ready.message.clone());
    if ready.status == "True" {
        let programmed = conditions::find(&claim.status.conditions, ConditionType::Programmed);
        let says_more = |condition: &&Condition| {
            ![Reason::Ready, Reason::Programmed].iter().any(|reason| reason.as_str() == condition.reason)
        };
        if let Some(part) = [Some(ready), programmed].into_iter().flatten().find(says_more) {
            // Numbers in its message change all the time.
            let is_new = last_reported.is_none_or(|last| last.reason != part.reason);
            return is_new.then(|| Notice::normal(part.reason.clone(), part.message.clone()));
        }
        let is_over = last_reported.is_some_and(|last| last.kind == EventType::Warning);
        return is_over.then(|| Notice::normal(reason, note));
    }
    (reason != Reason::Pending.as_str()).then(|| Notice::warning(reason, note))
}

/// Whether we last wrote the value of this key: the API server records which client
/// changed it last.
fn was_written_by_us(map: &ConfigMap, key: &str) -> bool {
    let field = format!("f:{key}");
    let managers = map.metadata.managed_fields.iter().flatten();
    managers.filter(|manager| manager.manager.as_deref() == Some(FIELD_MANAGER)).any(|manager| {
        let fields = manager.fields_v1.as_ref().map(|fields| &fields.0);
        fields.and_then(|fields| fields.get("f:data")?.get(&field)).is_some()
    })
}

/// The values that are written back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    address: String,
    port: NonZeroU16,
    /// `20417/TCP`
    what: String,
}

impl Given {
    /// The address and port of a claim, once its port has been served.
    fn of(claim: &OwnedClaim) -> Option<Self> {
        let ingress = claim.status.load_balancer.as_ref()?.ingress.first()?;
        let port = claim.status.ports.first()?;
        ingress.ports.iter().find(|opened| opened.port == port.port)?;
        let address = ingress.ip.as_ref().or(ingress.hostname.as_ref())?.clone();
        Some(Self { address, port: port.port, what: format!("{}/{}", port.port, port.protocol) })
    }
}

/// A mistake in a ConfigMap.
#[derive(Debug)]
struct Mistake {
    /// The reason of the Event
    reason: &'static str,
    /// For the user
    note: String,
    /// Whether an open port stays open: it may be a misspelling, or the Service may be
    /// missing for a while only
    keeps: bool,
}

impl Mistake {
    fn new(reason: &'static str, note: String) -> Self {
        Self { reason, note, keeps: true }
    }
}

impl MapSource {
    fn get(&self, key: &str) -> Option<&str> {
        self.data.get(key).map(String::as_str)
    }

    /// The Service that it names.
    fn service(&self) -> Option<ObjectKey> {
        Some(ObjectKey { namespace: self.meta.key.namespace.clone(), name: self.get(SERVICE)?.into() })
    }

    /// The spec of its claim, given the current claim.
    fn claim_spec(&self, service: Option<&ServiceObject>, claim: Option<&OwnedClaim>) -> Result<SharedLBSpec, Mistake> {
        self.check_namespace()?;
        let Some(name) = self.get(SERVICE) else {
            let note = format!("key {SERVICE} is missing: set it to the name of a Service");
            return Err(Mistake::new("MissingKey", note));
        };
        if let Some(class) = self.get(CLASS).filter(|class| !owned::is_class_name(class)) {
            let note = format!("key {CLASS} is {class}: set it to the name of a class, or remove it");
            return Err(Mistake::new("InvalidClass", note));
        }
        let port = self.requested_number()?;
        let target = match (service, claim.and_then(|claim| claim.spec.as_ref().ok()?.ports.first())) {
            (Some(service), _) => self.target(service)?,
            // The port of a missing Service is not known, so the claim keeps its port.
            (None, Some(before)) => SharedLBPort { target_port: before.target(), ..before.clone() },
            (None, None) => {
                let own = &self.meta.key.namespace;
                let note = format!("Service {name} does not exist in namespace {own}: create it, or correct {SERVICE}");
                return Err(Mistake::new("ServiceNotFound", note));
            }
        };
        Ok(SharedLBSpec {
            class_name: self.get(CLASS).map(str::to_owned),
            service_name: Some(name.to_owned()),
            ports: vec![SharedLBPort { name: String::new(), port, ..target }],
            ..SharedLBSpec::default()
        })
    }

    fn check_namespace(&self) -> Result<(), Mistake> {
        let own = &self.meta.key.namespace;
        match self.get(NAMESPACE) {
            None => Err(Mistake::new("MissingKey", format!("key {NAMESPACE} is missing: set it to {own}"))),
            Some(namespace) if *namespace != **own => {
                let note = format!(
                    "key {NAMESPACE} is {namespace}, but only Services of its own namespace can be served: set it to {own}, or move this ConfigMap"
                );
                // It names another Service, so the port for the former one is closed.
                Err(Mistake { keeps: false, ..Mistake::new("OtherNamespace", note) })
            }
            Some(_) => Ok(()),
        }
    }

    /// The number that the user requests. A number that we wrote back is not a request.
    fn requested_number(&self) -> Result<Option<NonZeroU16>, Mistake> {
        let Some(text) = self.get(BIND_PORT).filter(|_| !self.ours.contains(BIND_PORT)) else { return Ok(None) };
        let number = text.parse().map_err(|_| {
            let note = format!("key {BIND_PORT} is {text}: set it to a port from 1 to 65535, or remove it");
            Mistake::new("InvalidPort", note)
        })?;
        Ok(Some(number))
    }

    /// The port of the Service that the ConfigMap selects.
    fn target(&self, service: &ServiceObject) -> Result<SharedLBPort, Mistake> {
        let name = &service.meta.key.name;
        let shared: Vec<ServicePort> = service.ports.iter().filter(|port| port.transport.is_some()).cloned().collect();
        let all = ports::of_service(&shared);
        let candidates: Vec<SharedLBPort> = match self.get(TARGET_PORT) {
            None => all,
            Some(text) => match text.parse::<i32>() {
                Ok(number) => {
                    all.into_iter().filter(|port| port.target_port == Some(IntOrString::Int(number))).collect()
                }
                // A name selects one port only.
                Err(_) => shared.iter().filter(|port| *port.name == *text).map(alone).collect(),
            },
        };
        let (reason, note) = match (candidates.as_slice(), self.get(TARGET_PORT)) {
            ([port], _) => return Ok(port.clone()),
            ([], None) => ("PortNotFound", format!("Service {name} has no TCP or UDP port that could be shared")),
            ([], Some(text)) => {
                ("PortNotFound", format!("Service {name} has no port {text}: correct {TARGET_PORT}, or the Service"))
            }
            (_, None) => (
                "PortMissing",
                format!(
                    "Service {name} has {} ports: set {TARGET_PORT} to the number or name of one of them",
                    service.ports.len()
                ),
            ),
            (_, Some(text)) => (
                "PortMissing",
                format!(
                    "Service {name} has several ports {text} for different pods' ports: set {TARGET_PORT} to the name of one of them"
                ),
            ),
        };
        Err(Mistake::new(reason, note))
    }

    /// Writes the address and port back, or removes those that we wrote, if there are none.
    fn write_back(&self, given: Option<&Given>) -> Option<Step> {
        let mut data = serde_json::Map::new();
        match given {
            Some(given) => {
                for (key, value) in [(BIND_IP, given.address.clone()), (BIND_PORT, given.port.to_string())] {
                    if self.get(key) != Some(&value) {
                        data.insert(key.to_owned(), json!(value));
                    }
                }
            }
            None => {
                for key in self.ours.iter().filter(|key| self.data.contains_key(**key)) {
                    data.insert((*key).to_owned(), Value::Null);
                }
            }
        }
        if data.is_empty() {
            return None;
        }
        let notice = given.map(|given| {
            let service = self.get(SERVICE).unwrap_or_default();
            Notice::normal("Bound", format!("{} of {} leads to Service {service}", given.what, given.address))
        });
        let patch = json!({ "data": data });
        Some(Step::Change(ObjectChange {
            notices: notice.into_iter().collect(),
            ..ObjectChange::of_object("data", patch)
        }))
    }
}

fn alone(port: &ServicePort) -> SharedLBPort {
    let protocol = match port.transport {
        Some(Transport::Udp) => Protocol::Udp,
        _ => Protocol::Tcp,
    };
    SharedLBPort { protocol, target_port: Some(IntOrString::Int(port.number)), ..SharedLBPort::default() }
}
