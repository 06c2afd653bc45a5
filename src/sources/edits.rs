//! Edits of a Service's list of ports: what is still wanted keeps its number.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use sharedlb_crds::SharedLBClassStatus;
use sharedlb_providers::memory::{Cloud, Memory};
use sharedlb_providers::{Provider as _, Transport};

use super::ports;
use crate::api::claim::ClaimObject;
use crate::api::class::policy;
use crate::backends::ServicePort;
use crate::class::decide_once;
use crate::class::render;
use crate::fixtures::{claim, class, served_slots};

/// The numbers of the Service's ports: few, so that TCP and UDP often have one.
const NUMBERS: [u16; 3] = [53, 80, 443];

/// A port of the Service: no two have the same number and transport.
#[derive(Debug, Clone, PartialEq)]
struct Port {
    name: String,
    number: u16,
    transport: Transport,
    target: Value,
}

/// What a user does to the list; the first number chooses the port.
#[derive(Debug, Clone)]
enum Edit {
    Rename(usize),
    Reorder(usize, usize),
    Add(usize, Transport, Value),
    Remove(usize),
    Retarget(usize, Value),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let n = || 0usize..6;
    let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)];
    let target = || prop_oneof![Just(json!(5353)), Just(json!(5354)), Just(json!("dns")), Just(json!("dns-udp"))];
    let edit = prop_oneof![
        n().prop_map(Edit::Rename),
        (n(), n()).prop_map(|(from, to)| Edit::Reorder(from, to)),
        (n(), transport, target()).prop_map(|(number, transport, target)| Edit::Add(number, transport, target)),
        n().prop_map(Edit::Remove),
        (n(), target()).prop_map(|(at, target)| Edit::Retarget(at, target)),
    ];
    prop::collection::vec(edit, 1..25)
}

/// A Service whose ports are edited, and the status of its claim.
struct Edited {
    ports: Vec<Port>,
    names: usize,
    status: Value,
}

impl Edited {
    fn fresh_name(&mut self) -> String {
        self.names += 1;
        format!("n{}", self.names)
    }

    fn edit(&mut self, edit: Edit) {
        let len = self.ports.len();
        match edit {
            Edit::Rename(at) => self.ports[at % len].name = self.fresh_name(),
            Edit::Reorder(from, to) => {
                let port = self.ports.remove(from % len);
                self.ports.insert(to % len, port);
            }
            Edit::Add(at, transport, target) => {
                let number = NUMBERS[at % NUMBERS.len()];
                let is_there = |port: &Port| port.number == number && port.transport == transport;
                if !self.ports.iter().any(is_there) {
                    let port = Port { name: self.fresh_name(), number, transport, target };
                    self.ports.insert(at % (len + 1), port);
                }
            }
            Edit::Remove(at) if len > 1 => _ = self.ports.remove(at % len),
            Edit::Remove(_) => {}
            Edit::Retarget(at, target) => self.ports[at % len].target = target,
        }
        // Kubernetes wants names where there is more than one port.
        if self.ports.len() == 1 && self.names.is_multiple_of(2) {
            self.ports[0].name = String::new();
        }
        let unnamed = self.ports.iter().position(|port| port.name.is_empty()).filter(|_| self.ports.len() > 1);
        if let Some(unnamed) = unnamed {
            self.ports[unnamed].name = self.fresh_name();
        }
    }

    /// The claim that the source keeps for it, with a number assigned to each port.
    fn claim(&self) -> Arc<ClaimObject> {
        let of_service: Vec<ServicePort> = self.ports.iter().map(service_port).collect();
        let ports = serde_json::to_value(ports::of_service(&of_service)).unwrap();
        claim("service-dns").ports(ports).protected().status(self.status.clone()).build()
    }

    /// Decides, and writes the status down. Returns the number on the load balancer of
    /// each port of the Service.
    fn decide(&mut self) -> BTreeMap<(u16, Transport), NonZeroU16> {
        let object = self.claim();
        let class = class(json!({}), &SharedLBClassStatus::default(), false);
        let spec = class.spec.clone().unwrap();
        let policy = policy(&spec, &Memory::new(Cloud::default()).capabilities(), Arc::default(), [].into_iter());
        let (mut assignments, _) = decide_once(&class, &spec, policy, std::slice::from_ref(&object));
        let got = assignments.remove(0).unwrap();
        assert_eq!(got.refused, [], "there is room for all");
        let verdict = served_slots(got.granted);
        let status = render::status(&object, Some("default"), &verdict, jiff::Timestamp::UNIX_EPOCH);
        self.status = serde_json::to_value(&status).unwrap();
        let spec = object.spec.as_ref().unwrap();
        let front = |port: &Port| {
            let of_claim = spec.ports.iter().find(|of_claim| {
                let transports = crate::api::claim::protocol(of_claim.protocol).transports();
                ports::same_number(of_claim).map(NonZeroU16::get) == Some(port.number)
                    && transports.contains(&port.transport)
            });
            let name = &of_claim.unwrap().name;
            let given = status.ports.iter().find(|given| given.name == *name).unwrap();
            ((port.number, port.transport), given.port)
        };
        self.ports.iter().map(front).collect()
    }
}

fn service_port(port: &Port) -> ServicePort {
    let port = json!({
        "name": port.name, "port": port.number, "protocol": port.transport.to_string(), "targetPort": port.target,
    });
    ServicePort::parse(&serde_json::from_value(port).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_is_edited_a_port_of_a_service_keeps_its_number_on_the_load_balancer(edits in edits()) {
        let first = Port { name: String::new(), number: 53, transport: Transport::Tcp, target: json!(5353) };
        let mut edited = Edited { ports: vec![first], names: 0, status: json!({}) };
        let mut before = edited.decide();
        for edit in edits {
            edited.edit(edit.clone());
            let after = edited.decide();
            for (port, front) in &after {
                // TCP and UDP that had a number each, since they led apart, have one of
                // the two once they are one port.
                let had: BTreeSet<NonZeroU16> =
                    before.iter().filter(|((number, _), _)| *number == port.0).map(|(_, front)| *front).collect();
                let is_kept = before.contains_key(port);
                prop_assert!(!is_kept || had.contains(front), "after {edit:?}: {port:?} had {had:?}, has {front}");
            }
            prop_assert_eq!(&edited.decide(), &after, "a second reconcile changes nothing");
            before = after;
        }
    }
}
