//! The API server of the model, what users do there, and the watches.

use std::sync::Arc;

use jiff::Timestamp;
use kube::runtime::watcher;

use super::state::{Claim, Event, Lbs, Pending, Slot, State, View, What, Write, Wrong};
use crate::kubernetes::ObjectKey;
use crate::kubernetes::ObjectMeta;
use crate::kubernetes::cache::{Cache, Cached};
use crate::load_balancer::model::{CLAIMS, Clients};

impl State {
    /// A user creates a claim.
    pub(super) fn create(&mut self, claim: usize, asks: Option<u8>) {
        let (version, born) = (self.next_version(claim), self.born[claim]);
        self.born[claim] += 1;
        let (clients, status) = Default::default();
        let new = Claim { version, born, asks, clients, deleting: false, finalizer: false, status };
        self.claims[claim] = Some(new);
        self.forget_excluding(claim);
        self.queue(claim, Event::Put(new));
    }

    /// A user deletes it: it goes at once, unless there is a finalizer.
    pub(super) fn delete(&mut self, claim: usize) {
        let Some(there) = self.claims[claim] else { return };
        if there.finalizer {
            self.put(claim, Claim { deleting: true, ..there });
        } else {
            self.remove(claim, there);
        }
    }

    /// A user requests another port.
    pub(super) fn edit(&mut self, claim: usize, asks: Option<u8>) {
        if let Some(mut there) = self.claims[claim] {
            self.edited[claim] = true;
            there.asks = asks;
            there.status.current = false;
            self.put(claim, there);
        }
    }

    /// A user wants other clients to be served.
    pub(super) fn serve(&mut self, claim: usize, clients: Clients) {
        if let Some(mut there) = self.claims[claim] {
            self.edited[claim] = true;
            self.forget_excluding(claim);
            there.clients = clients;
            there.status.current = false;
            self.put(claim, there);
        }
    }

    fn forget_excluding(&mut self, claim: usize) {
        for port in self.excluding.iter_mut().flatten() {
            port.take_if(|excluding| usize::from(*excluding) == claim);
        }
    }

    /// Carries a write to a claim out. Returns the claim as written; `None`: a conflict.
    pub(super) fn carry_out(&mut self, claim: usize, write: Write) -> Option<Claim> {
        let there = self.claims[claim].filter(|there| (there.version, there.born) == (write.version, write.born))?;
        let slot = there.status.held;
        let by = u8::try_from(claim).unwrap();
        let recorded = |slot: Slot| self.class.record(slot).is_some_and(|record| record.claim == by);
        match write.what {
            What::Protect => Some(self.put(claim, Claim { finalizer: true, ..there })),
            What::LetGo => {
                if slot.is_some_and(|slot| !recorded(slot)) {
                    self.wrong.insert(Wrong::Unrecorded);
                }
                let left = Claim { finalizer: false, version: self.next_version(claim), ..there };
                if there.deleting {
                    self.remove(claim, there);
                    return Some(left);
                }
                Some(self.put(claim, left))
            }
            What::Status(status) => {
                if let Some(slot) = slot.filter(|slot| status.held != Some(*slot)) {
                    if there.finalizer && !recorded(slot) {
                        self.wrong.insert(Wrong::Unrecorded);
                    }
                    if there.wants(slot) {
                        self.wrong.insert(Wrong::Moved);
                    }
                }
                if let Some(slot) = status.held {
                    let cooling_down = &mut self.cooling_down[usize::from(slot.lb)][usize::from(slot.port)];
                    match *cooling_down {
                        Some(process) if process != by => _ = self.wrong.insert(Wrong::CoolDownIgnored),
                        _ => *cooling_down = None,
                    }
                }
                Some(self.put(claim, Claim { status, ..there }))
            }
        }
    }

    /// Carries a write to the class' status out. Returns its new version; `None`: a conflict.
    pub(super) fn carry_out_class(&mut self, version: u8, lbs: Lbs) -> Option<u8> {
        if self.class.version != version {
            return None;
        }
        for (lb, listed) in lbs.iter().enumerate() {
            for (port, record) in listed.iter().flat_map(|listed| listed.released.iter().enumerate()) {
                let slot = Slot { lb: u8::try_from(lb).unwrap(), port: u8::try_from(port).unwrap() };
                if let Some(record) = record.filter(|record| !record.cooled)
                    && self.class.record(slot).map(|before| before.claim) != Some(record.claim)
                {
                    self.cooling_down[lb][port] = Some(record.claim);
                }
            }
        }
        let known = self.controllers.iter().flatten().flat_map(|controller| {
            let sent = controller.class_write.as_ref().map(|write| write.version);
            sent.into_iter().chain([controller.class.version])
        });
        self.class.version = known.chain([version]).max().map_or(0, |last| last + 1);
        self.class.lbs = lbs;
        Some(self.class.version)
    }

    fn put(&mut self, claim: usize, new: Claim) -> Claim {
        let new = Claim { version: self.next_version(claim), ..new };
        self.claims[claim] = Some(new);
        self.queue(claim, Event::Put(new));
        new
    }

    fn remove(&mut self, claim: usize, there: Claim) {
        self.claims[claim] = None;
        self.queue(claim, Event::Gone { born: there.born });
    }

    /// Queues an event in every watch. A watch that lags too far behind is interrupted,
    /// and misses events.
    fn queue(&mut self, claim: usize, event: Event) {
        for controller in self.controllers.iter_mut().flatten() {
            let view = &mut Arc::make_mut(controller).claims[claim];
            view.coming.push(event);
            if view.coming.len() > 2 {
                view.coming.remove(0);
            }
        }
    }
}

/// What the real cache is fed.
pub(super) enum Fed {
    Watched(Event),
    /// A list has this.
    Listed(Option<Claim>),
    Written(Claim),
}

impl View {
    /// Takes in the next event of the watch.
    pub(super) fn watch(&mut self, claim: usize) {
        let event = self.coming.remove(0);
        self.feed(claim, Fed::Watched(event));
    }

    /// Takes in a fresh list.
    pub(super) fn list(&mut self, claim: usize, there: Option<Claim>) {
        self.coming.clear();
        self.feed(claim, Fed::Listed(there));
    }

    /// Delivers events that change nothing at once, so that they make no further states.
    pub(super) fn skip_what_is_no_news(&mut self, claim: usize) {
        while let Some(&event) = self.coming.first() {
            let before = (self.known, self.deleted, self.disturbed);
            self.feed(claim, Fed::Watched(event));
            if (self.known, self.deleted) != (before.0, before.1) {
                (self.known, self.deleted, self.disturbed) = before;
                return;
            }
            self.coming.remove(0);
        }
    }

    /// The answer to a write comes in.
    pub(super) fn answered(&mut self, claim: usize, written: Option<Claim>) {
        self.write = None;
        if let Some(written) = written {
            self.feed(claim, Fed::Written(written));
        }
    }

    /// Sends a write on what is known.
    pub(super) fn send(&mut self, what: What, gives: bool) {
        if let Some(Claim { version, born, .. }) = self.known {
            self.write = Some(Pending::Sent(Write { version, born, what, gives }));
        }
    }

    /// Takes something in by way of the real cache.
    fn feed(&mut self, claim: usize, fed: Fed) {
        let mut cache = Cache::default();
        for born in (0..8).filter(|born| self.deleted & (1 << born) != 0) {
            let gone = Object::new(claim, 0, born, None);
            cache.apply_event(watcher::Event::Apply(gone.clone()));
            cache.apply_event(watcher::Event::Delete(gone));
        }
        cache.apply_event(watcher::Event::Init);
        self.known.iter().for_each(|known| _ = cache.apply_event(watcher::Event::InitApply(Object::of(claim, known))));
        cache.apply_event(watcher::Event::InitDone);
        let before = self.known;
        match fed {
            Fed::Watched(Event::Put(new)) => _ = cache.apply_event(watcher::Event::Apply(Object::of(claim, &new))),
            Fed::Watched(Event::Gone { born }) => {
                _ = cache.apply_event(watcher::Event::Delete(Object::new(claim, u64::MAX, born, None)));
            }
            Fed::Listed(there) => {
                cache.apply_event(watcher::Event::Init);
                there
                    .iter()
                    .for_each(|there| _ = cache.apply_event(watcher::Event::InitApply(Object::of(claim, there))));
                cache.apply_event(watcher::Event::InitDone);
            }
            Fed::Written(written) => _ = cache.apply_write(Object::of(claim, &written)),
        }
        self.known = cache.get(&id(claim)).and_then(|object| object.claim);
        self.disturbed |= self.known != before;
        if let (Some(before), None) = (before, self.known) {
            self.deleted |= 1 << before.born;
        }
    }
}

fn id(claim: usize) -> ObjectKey {
    ObjectKey { namespace: "team".into(), name: CLAIMS[claim].into() }
}

/// A claim as the real cache keeps it.
#[derive(Clone)]
struct Object {
    meta: ObjectMeta,
    claim: Option<Claim>,
}

impl Object {
    fn of(claim: usize, known: &Claim) -> Self {
        Self::new(claim, u64::from(known.version) + 1, known.born, Some(*known))
    }

    fn new(claim: usize, version: u64, born: u8, known: Option<Claim>) -> Self {
        let meta = ObjectMeta {
            key: id(claim),
            uid: born.to_string().into(),
            version,
            generation: 1,
            created: Timestamp::UNIX_EPOCH,
            deleting: false,
            finalizers: Vec::new(),
        };
        Self { meta, claim: known }
    }
}

impl Cached for Object {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}
