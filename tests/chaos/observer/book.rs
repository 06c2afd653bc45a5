//! What there is at one revision, and what was wrong so far.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use super::cloud::Cloud;
use super::continuity::{Continuing, Kept};
use super::etcd::{Clock, Event};
use super::objects::{Claim, Class, Key, Labels, Service, Slice, Slot, labels};
use super::stints::Stint;
use super::traffic::Traffic;
use crate::api::{entries, text};
use crate::objects::{FOREIGN, SYSTEM};
use crate::owner::OWN_PORT;

/// All that there is, as of the last event.
pub(super) struct Book {
    pub(super) clock: Arc<Clock>,
    /// When it was opened, before anything was there.
    pub(super) began: Instant,
    pub(super) revision: u64,
    pub(super) received: Instant,
    pub(super) events: u64,
    pub(super) wrongs: Vec<String>,
    pub(super) claims: BTreeMap<Key, Claim>,
    pub(super) classes: BTreeMap<String, Class>,
    pub(super) services: BTreeMap<Key, Service>,
    pub(super) slices: BTreeMap<Key, Slice>,
    /// Every pod that there ever was, by its addresses, which no other one gets.
    pub(super) pods: BTreeMap<String, Pod>,
    /// Who holds each slot.
    pub(super) holders: BTreeMap<Slot, BTreeSet<Key>>,
    /// Who held it last.
    pub(super) last_holder: BTreeMap<Slot, Key>,
    /// Released slots whose record was not required, or not possible.
    pub(super) unrecorded: BTreeSet<Slot>,
    /// Whose the slots of the class at AWS were, in the order of time.
    pub(super) stints: BTreeMap<Slot, Vec<Stint>>,
    pub(super) cloud: Cloud,
    pub(super) traffic: Traffic,
    /// What of a claim's ports goes on, whatever they are called.
    pub(super) continuing: BTreeMap<Key, Continuing>,
    /// How often the ports of a claim that was open were renamed or reordered.
    pub(super) continued: u64,
    /// Slots that their claims wanted all the time since they have them.
    pub(super) kept: BTreeMap<Slot, Kept>,
    /// Every address that a load balancer of ours ever had.
    pub(super) addresses: BTreeSet<String>,
    /// Since when each Service that is a load balancer has had an address.
    pub(super) addressed: BTreeMap<String, Instant>,
    /// Services that are load balancers, and that the owner alters just now.
    pub(super) by_hand: BTreeSet<String>,
    /// Slots that their claims did not want any more, and since which revision.
    pub(super) unwanted: BTreeMap<Slot, (String, u64)>,
    /// Slots that were recorded as given back, by whom, and since which revision.
    pub(super) rests: BTreeMap<Slot, (String, u64)>,
    /// The shortest time that ports of a class ever had to rest, in seconds.
    pub(super) delays: BTreeMap<String, u64>,
    /// All that a claim ever sent traffic to.
    pub(super) selected: BTreeMap<Key, BTreeSet<Labels>>,
    pub(super) named: BTreeMap<Key, BTreeSet<String>>,
    /// All that a Service ever selected.
    pub(super) selectors: BTreeMap<Key, BTreeSet<Labels>>,
    /// Services of which the owner is removing its own ports.
    pub(super) expected: BTreeSet<String>,
    /// Numbers that the owner ever had on a load balancer.
    pub(super) taken: BTreeSet<Slot>,
    /// Who holds the Lease, or did last, and how many have held it.
    pub(super) leader: String,
    pub(super) leaders: u64,
    pub(super) cluster_id: String,
    log: File,
    foreign: BTreeMap<String, Value>,
    sealed: bool,
}

/// A pod, with all labels that it ever had.
#[derive(Clone, Debug, Default)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) labels: BTreeSet<Labels>,
}

impl Book {
    pub(super) fn new(clock: Arc<Clock>, log: File) -> Self {
        Self {
            clock,
            began: Instant::now(),
            revision: 0,
            received: Instant::now(),
            events: 0,
            wrongs: Vec::new(),
            claims: BTreeMap::new(),
            classes: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            pods: BTreeMap::new(),
            holders: BTreeMap::new(),
            last_holder: BTreeMap::new(),
            unrecorded: BTreeSet::new(),
            stints: BTreeMap::new(),
            cloud: Cloud::default(),
            traffic: Traffic::default(),
            continuing: BTreeMap::new(),
            continued: 0,
            kept: BTreeMap::new(),
            addresses: BTreeSet::new(),
            addressed: BTreeMap::new(),
            by_hand: BTreeSet::new(),
            unwanted: BTreeMap::new(),
            rests: BTreeMap::new(),
            delays: BTreeMap::new(),
            selected: BTreeMap::new(),
            named: BTreeMap::new(),
            selectors: BTreeMap::new(),
            expected: BTreeSet::new(),
            taken: BTreeSet::new(),
            leader: String::new(),
            leaders: 0,
            cluster_id: String::new(),
            log,
            foreign: BTreeMap::new(),
            sealed: false,
        }
    }

    /// Takes in an event, and judges what there is then.
    pub(super) fn enter(&mut self, event: Event) {
        (self.revision, self.received) = (event.revision, event.received);
        self.judge_foreign(&event.key, event.object.as_ref());
        let parts: Vec<&str> = event.key.trim_start_matches("/registry/").split('/').collect();
        let object = event.object.as_ref();
        let key = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        match parts.as_slice() {
            ["sharedlb.dev", "sharedlbs", namespace, name] => {
                self.claim(key(namespace, name), object.map(Claim::read));
                self.note_stints();
            }
            ["sharedlb.dev", "sharedlbclasses", name] => {
                self.class(name, object.map(Class::read));
                self.note_stints();
            }
            ["services", "specs", namespace, name] => self.service(key(namespace, name), object),
            ["endpointslices", namespace, name] => {
                match object.map(Slice::read) {
                    Some(slice) => _ = self.slices.insert(key(namespace, name), slice),
                    None => _ = self.slices.remove(&key(namespace, name)),
                }
                self.judge_listeners();
            }
            ["pods", namespace, name] => self.pod(key(namespace, name), object),
            ["leases", SYSTEM, "sharedlb"] => return self.lease(object),
            ["namespaces", "kube-system"] => {
                self.cluster_id = object.map_or("", |object| text(object, "/metadata/uid")).to_owned();
                return;
            }
            _ => return,
        }
        self.events += 1;
        self.note(&event.key, object);
    }

    /// Writes down what there was, so that one can see later how something came
    /// about.
    fn note(&mut self, key: &str, object: Option<&Value>) {
        let what = object.map_or("deleted".to_owned(), |object| unmanaged(object).to_string());
        self.note_line(&format!("{key} {what}"));
    }

    /// Writes down a line.
    pub(super) fn note_line(&mut self, line: &str) {
        let (now, revision) = (Timestamp::now(), self.revision);
        // A disk that is full is no reason to end.
        let _ = writeln!(self.log, "{now:.3} {revision} {line}");
    }

    /// Records something wrong.
    pub(super) fn wrong(&mut self, what: String) {
        let wrong = format!("revision {}: {what}", self.revision);
        eprintln!("chaos: WRONG at {wrong}");
        self.wrongs.push(wrong);
    }

    /// A leader that ends removes the holder from the Lease.
    fn lease(&mut self, object: Option<&Value>) {
        let holder = object.map_or("", |object| text(object, "/spec/holderIdentity"));
        if !holder.is_empty() && holder != self.leader {
            self.leader = holder.to_owned();
            self.leaders += 1;
        }
    }

    fn class(&mut self, name: &str, class: Option<Class>) {
        let Some(class) = class else {
            self.classes.remove(name);
            self.delays.remove(name);
            return self.rests.retain(|slot, _| slot.class != name);
        };
        let delay = self.delays.entry(name.to_owned()).or_insert(class.delay);
        *delay = class.delay.min(*delay);
        let known = self.classes.get(name);
        for (slot, record) in &class.released {
            if known.and_then(|known| known.released.get(slot)) != Some(record) {
                let unwanted = self.unwanted.get(slot).filter(|(by, _)| *by == record.0);
                let since = unwanted.map_or(self.revision, |(_, revision)| *revision);
                self.rests.insert(slot.clone(), (record.0.clone(), since));
            }
        }
        self.unrecorded.retain(|slot| !class.released.contains_key(slot));
        // A load balancer that goes takes its address along, so that nobody can
        // reach its ports by mistake.
        self.rests.retain(|slot, _| slot.class != name || class.load_balancers.contains(&slot.index));
        self.classes.insert(name.to_owned(), class);
    }

    fn service(&mut self, key: Key, object: Option<&Value>) {
        let service = object.map(|object| Service::read(object, &self.cluster_id));
        if let Some(service) = &service {
            self.selectors.entry(key.clone()).or_default().insert(service.selector.clone());
        }
        let before = self.services.get(&key).cloned().unwrap_or_default();
        if let (Some(now), Some((class, index))) = (&service, &before.front) {
            let own = |(name, _): &(&String, _)| name.starts_with(OWN_PORT);
            // Those that only have another name are in our way as well.
            let ours = |name: &str| name.starts_with("tcp-") || name.starts_with("udp-");
            for (_, (protocol, port)) in now.ports.iter().filter(|(name, _)| !ours(name)) {
                let transport = if protocol == "UDP" { "UDP" } else { "TCP" };
                self.taken.insert(Slot { class: class.clone(), index: *index, transport, port: *port });
            }
            let gone = before.ports.iter().filter(own).find(|(name, port)| now.ports.get(*name) != Some(port));
            if let Some((name, _)) = gone.filter(|_| now.uid == before.uid && !self.expected.contains(&key.1)) {
                self.wrong(format!(
                    "foreign: port {name} of Service {} is gone, and the owner did not remove it",
                    key.1
                ));
            }
        }
        let has_address = service.as_ref().is_some_and(|now| now.front.is_some() && !now.addresses.is_empty());
        if has_address {
            self.addressed.entry(key.1.clone()).or_insert(self.received);
        } else if key.0 == SYSTEM {
            self.addressed.remove(&key.1);
        }
        self.judge_closed(&key.1, &before, service.as_ref());
        if let Some(service) = &service {
            self.judge_capture(&key, service);
        }
        match service {
            Some(service) => _ = self.services.insert(key, service),
            None => _ = self.services.remove(&key),
        }
        self.note_told();
        self.judge_listeners();
    }

    /// No status of a tenant's Service makes nodes capture traffic for an address of a
    /// load balancer: its tenant chooses the ports for which they would.
    fn judge_capture(&mut self, key: &Key, service: &Service) {
        if key.0 == SYSTEM {
            return self.addresses.extend(service.addresses.iter().filter(|_| service.front.is_some()).cloned());
        }
        let captured: Vec<&String> = service.captured.intersection(&self.addresses).collect();
        if !captured.is_empty() {
            let wrong = format!("captured: nodes take {captured:?} for the own address of Service {}/{}", key.0, key.1);
            self.wrong_once([wrong]);
        }
    }

    fn pod(&mut self, (namespace, name): Key, object: Option<&Value>) {
        let Some(object) = object else { return };
        for address in entries(object, "/status/podIPs") {
            let pod = self.pods.entry(text(address, "/ip").to_owned()).or_default();
            (pod.namespace, pod.name) = (namespace.clone(), name.clone());
            pod.labels.insert(labels(&object["metadata"]["labels"]));
        }
    }

    /// Makes sure of what is marked as foreign; returns how much there is.
    pub(super) fn seal(&mut self) -> usize {
        self.sealed = true;
        self.foreign.len()
    }

    fn judge_foreign(&mut self, key: &str, object: Option<&Value>) {
        let marked = object.is_some_and(|object| object["metadata"]["labels"][FOREIGN].is_string());
        if !marked && !self.foreign.contains_key(key) {
            return;
        }
        let now = object.map(essence);
        if self.sealed {
            if self.foreign.get(key) != now.as_ref() {
                let before = self.foreign.get(key).cloned().unwrap_or_default();
                self.wrong(format!("foreign: {key} was\n{before}\nand is\n{}", now.clone().unwrap_or_default()));
            }
            self.events += 1;
        }
        match now {
            Some(now) => _ = self.foreign.insert(key.to_owned(), now),
            None => _ = self.foreign.remove(key),
        }
    }
}

/// What of an object is its owner's: all but its status and the records of
/// writing.
fn essence(object: &Value) -> Value {
    let mut essence = unmanaged(object);
    if let Some(fields) = essence.as_object_mut() {
        fields.remove("status");
    }
    essence
}

fn unmanaged(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    object
}
