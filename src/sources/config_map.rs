//! The source of ConfigMaps, an older front end: one names a Service, and gets an
//! address and a port back.
//!
//! Here a source writes into what a user wrote, besides metadata and status: the
//! keys `bind-ip` and `bind-port`, since that is the contract of this front end.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, FIELD_MANAGER, Protocol, Reason, SharedLBPort, SharedLBSpec};
use sharedlb_providers::Transport;

use super::{Change, Facts, News, OwnedClaim, Source, Step, owned, ports};
use crate::assign::ClaimId;
use crate::claim::Meta;
use crate::cluster::backends::{Backends, ServiceObject, ServicePort};
use crate::cluster::cache::Cached;
use crate::render;
use crate::text;

/// The label of the ConfigMaps that are meant.
pub const SELECTOR: &str = "app=loadbalancer";

/// Longer than any value that could be meant, in bytes: a host name has at most
/// 253.
const LONGEST: usize = 300;

const NAMESPACE: &str = "namespace";
const SERVICE: &str = "target-service-name";
const CLASS: &str = "class";
const BIND_PORT: &str = "bind-port";
const TARGET_PORT: &str = "target-port";
const BIND_IP: &str = "bind-ip";

/// The source of ConfigMaps.
#[derive(Debug)]
pub struct ConfigMaps {
    /// The Services that they name
    pub backends: Arc<Backends>,
}

/// A ConfigMap that asks for a port, as well as it can.
#[derive(Debug, Clone, PartialEq)]
pub struct MapSource {
    meta: Meta,
    /// Its values, without the empty ones
    data: BTreeMap<String, String>,
    /// The keys whose values were last written by us
    ours: BTreeSet<&'static str>,
}

impl Cached for MapSource {
    fn meta(&self) -> &Meta {
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
        // What is too long for any of them stays too long, and is not kept whole.
        let data = data.map(|(key, value)| (key.clone(), text::fit(value.trim(), LONGEST)));
        let ours = [BIND_IP, BIND_PORT].into_iter().filter(|key| was_written_by_us(map, key));
        Some(MapSource {
            meta: Meta::of(map),
            data: data.filter(|(key, value)| known.contains(&key.as_str()) && !value.is_empty()).collect(),
            ours: ours.collect(),
        })
    }

    fn missing(&self) -> Vec<&'static str> {
        if self.backends.filled().0 { Vec::new() } else { vec!["services"] }
    }

    fn depends_on(&self, map: &MapSource, service: &ClaimId) -> bool {
        map.service().as_ref() == Some(service)
    }

    fn next(&self, facts: &Facts<'_, MapSource>) -> Option<Step> {
        let service = facts.object.and_then(MapSource::service).and_then(|key| self.backends.service(&key));
        next(facts, service.as_deref())
    }
}

/// First the claim, then what it was given is written back.
fn next(facts: &Facts<'_, MapSource>, service: Option<&ServiceObject>) -> Option<Step> {
    // What the claim holds is given back even if the ConfigMap lingers.
    let Some(map) = facts.object.filter(|map| !map.meta.deleting) else { return delete(facts.claim?) };
    let tell = |news: News| (facts.told != Some(&news)).then_some(Step::Tell(news));
    let spec = match map.asks(service) {
        Ok(spec) => spec,
        Err((reason, note)) => {
            return tell(News { warning: true, reason: reason.to_owned(), note })
                .or_else(|| map.write_back(None))
                .or_else(|| delete(facts.claim?));
        }
    };
    let refused = || {
        let refusal = facts.refusal?;
        tell(News { warning: true, reason: refusal.reason.to_string(), note: refusal.message.clone() })
    };
    let Some(claim) = facts.claim else {
        return refused().or_else(|| Some(Step::Create(Box::new(owned::claim::<ConfigMaps>(&map.meta, spec)))));
    };
    if claim.meta.deleting {
        return None;
    }
    if claim.must_be_replaced(&map.meta, &spec) {
        return map.write_back(None).or_else(|| delete(claim));
    }
    if !claim.is(&spec) {
        return refused().or_else(|| Some(Step::Correct(owned::correction::<ConfigMaps>(&spec))));
    }
    if !claim.is_observed() {
        return None;
    }
    let given = Given::of(claim);
    let nothing = given.is_none() && claim.status.ports.is_empty();
    let written = if given.is_some() || nothing { map.write_back(given.as_ref()) } else { None };
    written.or_else(|| verdict(claim, facts.told).and_then(tell))
}

fn delete(claim: &OwnedClaim) -> Option<Step> {
    (!claim.meta.deleting).then_some(Step::Delete(None))
}

/// What of the claim's verdict is to be told. A ConfigMap has no conditions, so
/// that nobody knows what it was told before: trouble is told, and that it is
/// over.
fn verdict(claim: &OwnedClaim, told: Option<&News>) -> Option<News> {
    let ready = render::find(&claim.status.conditions, ConditionType::Ready)?;
    let warning = ready.status != "True";
    let news = News { warning, reason: ready.reason.clone(), note: ready.message.clone() };
    let worth = match warning {
        true => ready.reason != Reason::Pending.as_str(),
        false => told.is_some_and(|told| told.warning),
    };
    worth.then_some(news)
}

/// Whether the value of this key was last written by us. The API server keeps
/// the record: whoever changes a value takes it over.
fn was_written_by_us(map: &ConfigMap, key: &str) -> bool {
    let field = format!("f:{key}");
    let managers = map.metadata.managed_fields.iter().flatten();
    managers.filter(|manager| manager.manager.as_deref() == Some(FIELD_MANAGER)).any(|manager| {
        let fields = manager.fields_v1.as_ref().map(|fields| &fields.0);
        fields.and_then(|fields| fields.get("f:data")?.get(&field)).is_some()
    })
}

/// What is written back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    address: String,
    port: NonZeroU16,
    /// `20417/TCP`
    what: String,
}

impl Given {
    /// What a claim was given, once it has been served.
    fn of(claim: &OwnedClaim) -> Option<Self> {
        let ingress = claim.status.load_balancer.as_ref()?.ingress.first()?;
        let port = claim.status.ports.first()?;
        ingress.ports.iter().find(|opened| opened.port == port.port)?;
        let address = ingress.ip.as_ref().or(ingress.hostname.as_ref())?.clone();
        Some(Self { address, port: port.port, what: format!("{}/{}", port.port, port.protocol) })
    }
}

type Problem = (&'static str, String);

impl MapSource {
    fn get(&self, key: &str) -> Option<&str> {
        self.data.get(key).map(String::as_str)
    }

    /// The Service that it names.
    fn service(&self) -> Option<ClaimId> {
        Some(ClaimId { namespace: self.meta.key.namespace.clone(), name: self.get(SERVICE)?.into() })
    }

    /// The claim for it, or what is wrong with it: in a word, and in words for
    /// the user.
    fn asks(&self, service: Option<&ServiceObject>) -> Result<SharedLBSpec, Problem> {
        let own = &self.meta.key.namespace;
        match self.get(NAMESPACE) {
            None => return Err(("MissingKey", format!("key {NAMESPACE} is missing: set it to {own}"))),
            Some(namespace) if *namespace != **own => {
                let note = format!(
                    "key {NAMESPACE} is {namespace}, but only Services of its own namespace can be served: set it to {own}, or move this ConfigMap"
                );
                return Err(("OtherNamespace", note));
            }
            Some(_) => {}
        }
        let Some(name) = self.get(SERVICE) else {
            return Err(("MissingKey", format!("key {SERVICE} is missing: set it to the name of a Service")));
        };
        let port = self.asked_for()?;
        let Some(service) = service else {
            return Err((
                "ServiceNotFound",
                format!("Service {name} does not exist in namespace {own}: create it, or correct {SERVICE}"),
            ));
        };
        Ok(SharedLBSpec {
            class_name: self.get(CLASS).map(str::to_owned),
            service_name: Some(name.to_owned()),
            ports: vec![SharedLBPort { port, ..self.target(service)? }],
            ..SharedLBSpec::default()
        })
    }

    /// The number that the user asks for. What we wrote back is not a new ask.
    fn asked_for(&self) -> Result<Option<NonZeroU16>, Problem> {
        let Some(text) = self.get(BIND_PORT).filter(|_| !self.ours.contains(BIND_PORT)) else { return Ok(None) };
        let number = text.parse().map_err(|_| {
            ("InvalidPort", format!("key {BIND_PORT} is {text}: set it to a port from 1 to 65535, or remove it"))
        })?;
        Ok(Some(number))
    }

    /// The port of the Service that is meant.
    fn target(&self, service: &ServiceObject) -> Result<SharedLBPort, Problem> {
        let name = &service.meta.key.name;
        let shared: Vec<ServicePort> = service.ports.iter().filter(|port| port.transport.is_some()).cloned().collect();
        let all = ports::of_service(&shared);
        let candidates: Vec<SharedLBPort> = match self.get(TARGET_PORT) {
            None => all,
            Some(text) => match text.parse::<i32>() {
                Ok(number) => {
                    all.into_iter().filter(|port| port.target_port == Some(IntOrString::Int(number))).collect()
                }
                // By its name, one of them alone is meant.
                Err(_) => shared.iter().filter(|port| *port.name == *text).map(alone).collect(),
            },
        };
        match (candidates.as_slice(), self.get(TARGET_PORT)) {
            ([port], _) => Ok(SharedLBPort { name: String::new(), ..port.clone() }),
            ([], None) => Err(("PortNotFound", format!("Service {name} has no TCP or UDP port that could be shared"))),
            ([], Some(text)) => Err((
                "PortNotFound",
                format!("Service {name} has no port {text}: correct {TARGET_PORT}, or the Service"),
            )),
            (_, None) => Err((
                "PortMissing",
                format!(
                    "Service {name} has {} ports: set {TARGET_PORT} to the number or name of one of them",
                    service.ports.len()
                ),
            )),
            (_, Some(text)) => Err((
                "PortMissing",
                format!(
                    "Service {name} has several ports {text} for different pods' ports: set {TARGET_PORT} to the name of one of them"
                ),
            )),
        }
    }

    /// Writes back what was given, or takes back what we wrote if that is nothing;
    /// nothing else is touched.
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
        let news = given.map(|given| News {
            warning: false,
            reason: "Bound".to_owned(),
            note: format!(
                "{} of {} leads to Service {}",
                given.what,
                given.address,
                self.get(SERVICE).unwrap_or_default()
            ),
        });
        let patch = json!({ "data": data });
        Some(Step::Change(Change { news: news.into_iter().collect(), ..Change::of_object("data", patch) }))
    }
}

fn alone(port: &ServicePort) -> SharedLBPort {
    let protocol = match port.transport {
        Some(Transport::Udp) => Protocol::Udp,
        _ => Protocol::Tcp,
    };
    SharedLBPort { protocol, target_port: Some(IntOrString::Int(port.number)), ..SharedLBPort::default() }
}
