//! A name is only a name: a port that is called otherwise, or has another place in
//! the list, keeps its number, and its listener stays open.
//!
//! Which port of an edited list goes on from which one before is for the controller
//! to say. Judged is only what cannot be said in two ways: the protocol, the number
//! and the target tell all ports apart, and so does the place in the list.

use std::collections::{BTreeMap, BTreeSet};

use super::book::Book;
use super::objects::{Asked, Claim, Key, Port, Service, Slot};

/// The ports of a claim as its status had them, and how they have been asked for
/// since.
pub(super) struct Continuing {
    uid: String,
    /// The list that the status was about, and those after it, each of which has the
    /// same ports
    lists: Vec<Vec<Asked>>,
    then: Claim,
}

/// A slot that its claim has wanted all the time since it has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) claim: Key,
    pub(super) uid: String,
    /// The revision since which it has it
    pub(super) since: u64,
    /// Whether the claim has reported it open
    pub(super) told: bool,
}

impl Book {
    /// Judges the numbers of a claim by what it had before it was edited. `now` is
    /// not in the book yet.
    pub(super) fn judge_continuity(&mut self, key: &Key, now: Option<&Claim>) {
        let known = self.continuing.remove(key);
        let Some(now) = now.filter(|claim| !claim.deleting) else { return };
        let known = known.filter(|known| known.uid == now.uid).and_then(|known| known.then_asked(&now.ports));
        if now.observed != now.generation {
            if let Some(known) = known {
                self.continuing.insert(key.clone(), known);
            }
            return;
        }
        if let Some(known) = known.as_ref().filter(|known| known.lists.len() > 1) {
            self.continued += u64::from(known.was_open());
            for (name, port) in known.lost(now) {
                self.wrong(format!("moved: {key:?} had {port:?} for {name:?}, is told {:?}, and only renamed or reordered its ports: {:?}", now.held, known.lists));
            }
        }
        let continuing = Continuing { uid: now.uid.clone(), lists: vec![now.ports.clone()], then: now.clone() };
        self.continuing.insert(key.clone(), continuing);
    }

    /// Notes which slots the claim certainly still wants. `before` are those that it
    /// had before this event.
    pub(super) fn note_kept(&mut self, key: &Key, now: Option<&Claim>, before: &BTreeSet<Slot>) {
        let known = self.continuing.get(key);
        let mut wanted = BTreeMap::new();
        if let Some(claim) = now.filter(|claim| !claim.deleting) {
            let goes_on = |port: &Port| known.is_some_and(|known| known.then.held.values().any(|held| held == port));
            for (_, port) in claim.held.iter().filter(|(name, port)| claim.wants(name, port) || goes_on(port)) {
                for slot in claim.slots_of(port) {
                    let told = claim.programmed && claim.served.contains(&(slot.transport.into(), slot.port));
                    wanted.insert(slot, (claim.uid.clone(), told));
                }
            }
        }
        self.kept.retain(|slot, kept| kept.claim != *key || wanted.get(slot).is_some_and(|(uid, _)| *uid == kept.uid));
        for (slot, (uid, told)) in wanted {
            match self.kept.get_mut(&slot) {
                Some(kept) => kept.told |= told && kept.claim == *key,
                // If it is reported already, the listener is one from before, and may be on
                // its way to be closed: the claim gave the port up, and has it again.
                None if !before.contains(&slot) && !told => {
                    self.kept.insert(slot, Kept { claim: key.clone(), uid, since: self.revision, told });
                }
                None => {}
            }
        }
    }

    /// Judges which listeners of a load balancer are closed by this event.
    pub(super) fn judge_closed(&mut self, name: &str, before: &Service, now: Option<&Service>) {
        // The owner may close what it likes.
        if self.by_hand.contains(name) || now.is_some_and(|now| now.front != before.front || now.uid != before.uid) {
            return;
        }
        let open: BTreeSet<Slot> = now.into_iter().flat_map(Service::listeners).map(|(slot, _)| slot).collect();
        // A listener for both TCP and UDP is closed where the owner has one of the two.
        let of_owner = |slot: &Slot| before.foreign_numbers().any(|number| number == slot.port);
        let closed = before.listeners().into_iter().map(|(slot, _)| slot);
        let closed = closed.filter(|slot| !open.contains(slot) && !of_owner(slot));
        let wrongs: Vec<String> = closed.filter_map(|slot| self.closed_while_kept(&slot, name)).collect();
        for wrong in wrongs {
            self.wrong(wrong);
        }
    }

    /// What is wrong with a listener's being closed.
    pub(super) fn closed_while_kept(&self, slot: &Slot, on: &str) -> Option<String> {
        let kept = self.kept.get(slot).filter(|kept| kept.told)?;
        let claim = &kept.claim;
        Some(format!(
            "closed: the listener of {slot:?} on {on} is closed, and {claim:?} has it, wants it and was told that it is open"
        ))
    }
}

impl Continuing {
    /// The same, now that this list is asked for. None: it may be another one's.
    fn then_asked(mut self, list: &[Asked]) -> Option<Self> {
        if self.lists.last().is_some_and(|last| last == list) {
            return Some(self);
        }
        let goes_on = self.lists.iter().all(|before| successors(before, list).is_some());
        self.lists.push(list.to_vec());
        goes_on.then_some(self)
    }

    /// Whether a port of it was open.
    fn was_open(&self) -> bool {
        self.held_open().next().is_some()
    }

    /// Its ports that were open.
    fn held_open(&self) -> impl Iterator<Item = (&String, &Port)> {
        let open = |slot: &Slot| self.then.served.contains(&(slot.transport.into(), slot.port));
        self.then.held.iter().filter(move |(_, port)| self.then.slots_of(port).iter().all(open))
    }

    /// The ports that were open and are not what they were.
    fn lost(&self, now: &Claim) -> Vec<(String, Port)> {
        let (Some(first), Some(last)) = (self.lists.first(), self.lists.last()) else { return Vec::new() };
        let Some(successors) = successors(first, last) else { return Vec::new() };
        let place = (&self.then.class, self.then.index) == (&now.class, now.index);
        let same = |name: &String, port: &Port| {
            successors.get(name).is_none_or(|name| place && now.held.get(name) == Some(port))
        };
        self.held_open()
            .filter(|(name, port)| !same(name, port))
            .map(|(name, port)| (name.clone(), port.clone()))
            .collect()
    }
}

/// The names that the ports of a list have in another one. None: they are not
/// certainly the same ports.
fn successors(before: &[Asked], now: &[Asked]) -> Option<BTreeMap<String, String>> {
    let same = |a: &Asked, b: &Asked| (&a.protocol, a.number, &a.target) == (&b.protocol, b.number, &b.target);
    let alone = |list: &[Asked]| list.iter().all(|port| list.iter().filter(|other| same(port, other)).count() == 1);
    if !alone(before) || !alone(now) {
        return None;
    }
    // One that is added and asks for a number may ask for one of these.
    let added: Vec<&Asked> = now.iter().filter(|port| !before.iter().any(|other| same(port, other))).collect();
    if added.iter().any(|port| port.number != 0) {
        return None;
    }
    let has = |list: &[Asked], name: &str| list.iter().any(|port| port.name == name);
    let (mut names, mut renamed, mut in_place) = (BTreeMap::new(), 0, true);
    for (place, port) in before.iter().enumerate() {
        let (other, successor) = now.iter().enumerate().find(|(_, other)| same(port, other))?;
        if successor.name != port.name {
            if has(now, &port.name) || has(before, &successor.name) {
                return None;
            }
            renamed += 1;
            in_place &= place == other;
        }
        names.insert(port.name.clone(), successor.name.clone());
    }
    (renamed == 0 || in_place || (renamed == 1 && added.is_empty())).then_some(names)
}

/// Tries the rule by which ports certainly go on.
pub(crate) fn try_rule() -> Result<(), String> {
    let list = |ports: &[(&str, &str, u64, &str)]| -> Vec<Asked> {
        let asked = |(name, protocol, number, target): &(&str, &str, u64, &str)| Asked {
            name: (*name).to_owned(),
            protocol: (*protocol).to_owned(),
            number: *number,
            target: (*target).to_owned(),
        };
        ports.iter().map(asked).collect()
    };
    let (web, dns) = (("web", "TCP", 0, "http"), ("dns", "UDP", 0, "5353"));
    let (other, site, named) = (("web", "TCP", 0, "other"), ("site", "TCP", 0, "http"), ("named", "UDP", 0, "5353"));
    let asks = ("added", "TCP", 20001, "other");
    let certain: [(&str, &[_], &[_]); 4] = [
        ("a port has another name", &[web, dns], &[site, dns]),
        ("the order is another one", &[web, dns], &[dns, web]),
        ("all have other names, in their places", &[web, dns], &[site, named]),
        ("the only port gets a name and another port beside it", &[("", "TCP", 0, "http")], &[site, dns]),
    ];
    let uncertain: [(&str, &[_], &[_]); 5] = [
        ("a port leads elsewhere", &[web, dns], &[other, dns]),
        ("a port is gone", &[web, dns], &[dns]),
        ("all have other names and other places", &[web, dns], &[named, site]),
        ("two ports have each other's names", &[web, ("site", "TCP", 0, "other")], &[site, other]),
        ("what is added asks for a number", &[web], &[site, asks]),
    ];
    for (what, before, now) in certain {
        successors(&list(before), &list(now)).ok_or_else(|| format!("uncertain: {what}"))?;
    }
    match uncertain.iter().find(|(_, before, now)| successors(&list(before), &list(now)).is_some()) {
        Some((what, ..)) => Err(format!("certain: {what}")),
        None => Ok(()),
    }
}
