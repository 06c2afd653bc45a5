//! What the data path is asked: a pod that answers on a claim's port is one of the
//! claim's pods, at every moment at which the claim is told that the port is open.
//!
//! A port is asked only once kube-proxy is seen to know all that there was when the
//! claim was told so, and an answer is judged only if the claim held the port and
//! was told so until after the answer. So no time has to be granted for anything to
//! come through: what kube-proxy did before does not matter, and from then on
//! nothing that is written may lead clients elsewhere.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::book::Book;
use super::objects::{Key, Slot};
use crate::objects::SYSTEM;

/// A port at an address of a load balancer.
type Place = (Slot, String);

/// What is asked, and what was answered.
#[derive(Default)]
pub(super) struct Traffic {
    /// The ports that claims are told are open.
    told: BTreeMap<Place, Told>,
    /// The revision up to which kube-proxy is seen to know everything.
    known: u64,
    /// Answers that were not judged yet.
    answers: Vec<Answer>,
    pub(super) count: Asked,
}

/// How many questions there were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) asked: u64,
    /// A pod answered
    pub(crate) answered: u64,
    /// It was certain which claim's pods had to answer
    pub(crate) judged: u64,
}

/// What a claim is told of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    claim: Key,
    uid: String,
    /// The load balancer, as the uid of its Service
    front: String,
    /// The revision at which it came to be so
    since: u64,
}

/// A question that can be asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    place: Place,
    told: Told,
}

impl Question {
    pub(crate) fn address(&self) -> &str {
        &self.place.1
    }

    pub(crate) fn port(&self) -> u64 {
        self.place.0.port
    }

    pub(crate) fn is_udp(&self) -> bool {
        self.place.0.transport == "UDP"
    }
}

/// An answer: the name of a pod, known at a time.
struct Answer {
    question: Question,
    pod: String,
    at: Instant,
}

impl Book {
    /// Notes what claims are told now. What stays as it was keeps its revision.
    pub(super) fn note_told(&mut self) {
        let fronts: BTreeMap<_, _> = self
            .services
            .iter()
            .filter(|(key, _)| key.0 == SYSTEM)
            .filter_map(|(_, service)| Some((service.front.clone()?, service)))
            .collect();
        let mut told = BTreeMap::new();
        for (key, claim) in self.claims.iter().filter(|(_, claim)| claim.programmed && !claim.deleting) {
            let Some(front) = fronts.get(&(claim.class.clone(), claim.index)) else { continue };
            for slot in claim.slots() {
                let reached = claim.reached.iter().filter(|(ip, protocol, port)| {
                    *protocol == slot.transport && *port == slot.port && front.addresses.contains(ip)
                });
                for (ip, ..) in reached {
                    let place = (slot.clone(), ip.clone());
                    let mut now = Told {
                        claim: key.clone(),
                        uid: claim.uid.clone(),
                        front: front.uid.clone(),
                        since: self.revision,
                    };
                    if let Some(before) = self.traffic.told.get(&place) {
                        let same = Told { since: before.since, ..now.clone() };
                        now = if same == *before { same } else { now };
                    }
                    told.insert(place, now);
                }
            }
        }
        self.traffic.told = told;
    }

    /// kube-proxy was seen to know everything up to this revision.
    pub(super) fn kube_proxy_knows(&mut self, revision: u64) {
        self.traffic.known = revision.max(self.traffic.known);
    }

    /// All that can be asked now.
    pub(super) fn questions(&self) -> Vec<Question> {
        let told = self.traffic.told.iter().filter(|(_, told)| told.since <= self.traffic.known);
        told.map(|(place, told)| Question { place: place.clone(), told: told.clone() }).collect()
    }

    /// Takes in what became of a question.
    pub(super) fn asked(&mut self, question: Question, pod: Option<String>) {
        self.traffic.count.asked += 1;
        if let Some(pod) = pod {
            self.traffic.count.answered += 1;
            self.traffic.answers.push(Answer { question, pod, at: Instant::now() });
        }
    }

    /// Judges the answers before which everything is known that was written.
    pub(super) fn judge_answers(&mut self) {
        let Some(known) = self.clock.seen_all_before(self.revision) else { return };
        let (certain, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.traffic.answers).into_iter().partition(|answer| answer.at <= known);
        self.traffic.answers = later;
        let mut wrongs = Vec::new();
        for Answer { question: Question { place, told }, pod, .. } in certain {
            if self.traffic.told.get(&place) != Some(&told) {
                continue;
            }
            self.traffic.count.judged += 1;
            let mut pods = self.pods.values().filter(|each| each.name == pod);
            if !pods.any(|each| self.ever_selected(&told.claim, each)) {
                let (slot, ip) = place;
                wrongs.push(format!(
                    "traffic: {ip} port {}/{} of {:?} (of class {}) is answered by {pod}",
                    slot.port, slot.transport, told.claim, slot.class
                ));
            }
        }
        self.wrong_once(wrongs);
    }
}
