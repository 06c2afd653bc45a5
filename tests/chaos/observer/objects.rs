//! What matters of the objects, read from their JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::api::{entries, name, text};

/// Namespace and name.
pub(super) type Key = (String, String);
pub(super) type Labels = BTreeMap<String, String>;

/// A port of a load balancer, of one transport protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) class: String,
    pub(super) index: u64,
    pub(super) transport: &'static str,
    pub(super) port: u64,
}

/// A protocol and a number; as asked for, 0 stands for any number.
pub(super) type Port = (String, u64);

/// A port as a claim asks for it, in the order of its list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) name: String,
    pub(super) protocol: String,
    /// 0 stands for any number
    pub(super) number: u64,
    pub(super) target: String,
}

impl Asked {
    fn read(port: &Value) -> Self {
        let (name, (protocol, number)) = named_port(port);
        Self { name, protocol, number, target: port["targetPort"].to_string() }
    }
}

/// The name, the protocol and the number of a port.
fn named_port(port: &Value) -> (String, Port) {
    let protocol = text(port, "/protocol");
    let protocol = if protocol.is_empty() { "TCP" } else { protocol };
    (text(port, "/name").to_owned(), (protocol.to_owned(), port["port"].as_u64().unwrap_or(0)))
}

/// A claim as it says itself that it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Claim {
    pub(super) uid: String,
    pub(super) class: String,
    pub(super) index: u64,
    /// Whether the controller holds it back from being deleted.
    pub(super) finalizer: bool,
    pub(super) deleting: bool,
    pub(super) generation: u64,
    /// The generation that its status is about
    pub(super) observed: u64,
    /// Its ports in the order of its list
    pub(super) ports: Vec<Asked>,
    /// Whether its status says that its load balancer serves its ports
    pub(super) programmed: bool,
    /// The addresses and ports at which it says that it is reached
    pub(super) reached: BTreeSet<(String, String, u64)>,
    /// By the names of the ports.
    pub(super) asked: BTreeMap<String, Port>,
    pub(super) held: BTreeMap<String, Port>,
    /// What has been served at least once.
    pub(super) served: BTreeSet<(String, u64)>,
    pub(super) selector: Labels,
    pub(super) service: Option<String>,
}

impl Claim {
    pub(super) fn read(object: &Value) -> Self {
        let ingress = entries(object, "/status/loadBalancer/ingress");
        let reached = ingress.flat_map(|ingress| {
            let ip = text(ingress, "/ip");
            entries(ingress, "/ports").map(move |port| {
                (ip.to_owned(), text(port, "/protocol").to_owned(), port["port"].as_u64().unwrap_or(0))
            })
        });
        let reached: BTreeSet<_> = reached.collect();
        let programmed = |condition: &Value| condition["type"] == "Programmed" && condition["status"] == "True";
        Self {
            uid: text(object, "/metadata/uid").to_owned(),
            class: text(object, "/status/className").to_owned(),
            index: object["status"]["loadBalancerIndex"].as_u64().unwrap_or(0),
            finalizer: entries(object, "/metadata/finalizers").any(|each| each == "sharedlb.dev/release-ports"),
            deleting: object["metadata"]["deletionTimestamp"].is_string(),
            generation: object["metadata"]["generation"].as_u64().unwrap_or(0),
            observed: object["status"]["observedGeneration"].as_u64().unwrap_or(0),
            ports: entries(object, "/spec/ports").map(Asked::read).collect(),
            programmed: entries(object, "/status/conditions").any(programmed),
            asked: entries(object, "/spec/ports").map(named_port).collect(),
            held: entries(object, "/status/ports").map(named_port).collect(),
            served: reached.iter().map(|(_, protocol, port)| (protocol.clone(), *port)).collect(),
            reached,
            selector: labels(&object["spec"]["selector"]),
            service: object["spec"]["serviceName"].as_str().map(Into::into),
        }
    }

    /// What it holds. One that is being deleted and that the controller has let
    /// go holds nothing, whatever it still says.
    pub(super) fn slots(&self) -> BTreeSet<Slot> {
        if self.deleting && !self.finalizer {
            return BTreeSet::new();
        }
        self.held.values().flat_map(|port| self.slots_of(port)).collect()
    }

    pub(super) fn slots_of(&self, (protocol, port): &Port) -> Vec<Slot> {
        let slot = |transport| Slot { class: self.class.clone(), index: self.index, transport, port: *port };
        transports(protocol).iter().copied().map(slot).collect()
    }

    /// Whether it still asks for a port that it has.
    pub(super) fn wants(&self, name: &str, (protocol, number): &Port) -> bool {
        let asked = self.asked.get(name);
        asked.is_some_and(|(also, port)| also == protocol && (*port == 0 || port == number))
    }
}

/// The transport protocols of a port.
pub(super) fn transports(protocol: &str) -> &'static [&'static str] {
    match protocol {
        "UDP" => &["UDP"],
        "TCP_UDP" => &["TCP", "UDP"],
        _ => &["TCP"],
    }
}

/// A class and what it has recorded.
#[derive(Clone, Debug, Default)]
pub(super) struct Class {
    pub(super) delay: u64,
    pub(super) load_balancers: BTreeSet<u64>,
    /// Slots that were given back, by whom, and when.
    pub(super) released: BTreeMap<Slot, (String, String)>,
}

impl Class {
    pub(super) fn read(object: &Value) -> Self {
        let mut class =
            Self { delay: object["spec"]["reclaimDelaySeconds"].as_u64().unwrap_or(300), ..Self::default() };
        for each in entries(object, "/status/loadBalancers") {
            let index = each["index"].as_u64().unwrap_or(0);
            class.load_balancers.insert(index);
            for released in entries(each, "/released") {
                let port = released["port"].as_u64().unwrap_or(0);
                for transport in transports(text(released, "/protocol")) {
                    let slot = Slot { class: name(object).to_owned(), index, transport, port };
                    class.released.insert(slot, (text(released, "/claim").into(), text(released, "/time").into()));
                }
            }
        }
        class
    }
}

/// A Service: of a tenant, or one that is a load balancer.
#[derive(Clone, Debug, Default)]
pub(super) struct Service {
    pub(super) uid: String,
    /// The class and the index of the load balancer that it is.
    pub(super) front: Option<(String, u64)>,
    /// Protocol and number, by name.
    pub(super) ports: BTreeMap<String, Port>,
    /// The addresses of its status
    pub(super) addresses: BTreeSet<String>,
    /// Those of them that nodes take for the Service's own
    pub(super) captured: BTreeSet<String>,
    pub(super) selector: Labels,
}

impl Service {
    pub(super) fn read(object: &Value, cluster_id: &str) -> Self {
        let labels = labels(&object["metadata"]["labels"]);
        let ours = labels.get("sharedlb.dev/cluster-id").is_some_and(|id| id == cluster_id);
        let class = labels.get("sharedlb.dev/class").filter(|_| ours && labels.contains_key(LOAD_BALANCER));
        // slb-<class>-<index>-<hash>
        let index = name(object).rsplit('-').nth(1).and_then(|index| index.parse().ok());
        let ingress = || entries(object, "/status/loadBalancer/ingress");
        let ip = |ingress: &Value| text(ingress, "/ip").to_owned();
        Self {
            uid: text(object, "/metadata/uid").to_owned(),
            front: class.cloned().zip(index),
            ports: entries(object, "/spec/ports").map(named_port).collect(),
            addresses: ingress().map(ip).collect(),
            captured: ingress().filter(|each| each["ipMode"] != "Proxy").map(ip).collect(),
            selector: self::labels(&object["spec"]["selector"]),
        }
    }

    /// The numbers of the ports whose names the controller does not give.
    pub(super) fn foreign_numbers(&self) -> impl Iterator<Item = u64> {
        let ours = |name: &str| name.starts_with("tcp-") || name.starts_with("udp-");
        self.ports.iter().filter(move |(name, _)| !ours(name)).map(|(_, (_, number))| *number)
    }

    /// The listeners of the load balancer that it is: the slot and the name of
    /// the port of each.
    pub(super) fn listeners(&self) -> Vec<(Slot, &str)> {
        let Some((class, index)) = &self.front else { return Vec::new() };
        let ours = |(name, (protocol, port)): (&String, &Port)| *name == format!("{}-{port}", protocol.to_lowercase());
        let ports = self.ports.iter().filter(|&port| ours(port));
        let slot = |(protocol, port): &Port| Slot {
            class: class.clone(),
            index: *index,
            transport: if protocol == "UDP" { "UDP" } else { "TCP" },
            port: *port,
        };
        ports.map(|(name, port)| (slot(port), name.as_str())).collect()
    }
}

/// The label of a load balancer's Service.
const LOAD_BALANCER: &str = "sharedlb.dev/load-balancer";

/// An EndpointSlice.
#[derive(Clone, Debug, Default)]
pub(super) struct Slice {
    pub(super) service: String,
    pub(super) ports: BTreeSet<String>,
    pub(super) addresses: BTreeSet<String>,
}

impl Slice {
    pub(super) fn read(object: &Value) -> Self {
        let addresses = entries(object, "/endpoints").flat_map(|endpoint| entries(endpoint, "/addresses"));
        Self {
            service: labels(&object["metadata"]["labels"]).remove("kubernetes.io/service-name").unwrap_or_default(),
            ports: entries(object, "/ports").map(|port| text(port, "/name").to_owned()).collect(),
            addresses: addresses.filter_map(Value::as_str).map(Into::into).collect(),
        }
    }
}

pub(super) fn labels(value: &Value) -> Labels {
    let labels = value.as_object().into_iter().flatten();
    labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}
