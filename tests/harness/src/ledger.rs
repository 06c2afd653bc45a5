//! What every claim was ever seen to hold, and so whether a port was moved,
//! lost or given twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::ensure;
use futures::{StreamExt, pin_mut};
use kube::api::ListParams;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use sharedlb_crds::SharedLB;
use tokio::task::AbortHandle;

use crate::{Slot, slots};

/// Follows the claims of one namespace, whose class is theirs alone. It stops
/// when it is dropped.
pub struct Ledger {
    claims: Api<SharedLB>,
    book: Arc<Mutex<Book>>,
    following: AbortHandle,
}

#[derive(Default)]
struct Book {
    /// By the claim's uid.
    held: BTreeMap<String, Entry>,
    wrongs: Vec<String>,
}

struct Entry {
    name: String,
    version: u64,
    slots: BTreeMap<String, Slot>,
}

impl Ledger {
    /// Follows these claims from now on.
    pub fn open(claims: &Api<SharedLB>) -> Self {
        let book = Arc::<Mutex<Book>>::default();
        let following = tokio::spawn(follow(claims.clone(), book.clone())).abort_handle();
        Self { claims: claims.clone(), book, following }
    }

    /// Requires that nothing wrong was ever seen, nor is now, and returns all
    /// slots by claim and port.
    pub async fn clean(&self) -> anyhow::Result<BTreeMap<(String, String), Slot>> {
        let now = self.claims.list(&ListParams::default()).await?;
        let mut book = lock(&self.book);
        book.replace(&now.items);
        ensure!(book.wrongs.is_empty(), "{:#?}", book.wrongs);
        let slots = now.iter().flat_map(|claim| {
            let name = claim.name_any();
            slots(claim).into_iter().map(move |(port, slot)| ((name.clone(), port), slot))
        });
        Ok(slots.collect())
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.following.abort();
    }
}

async fn follow(claims: Api<SharedLB>, book: Arc<Mutex<Book>>) {
    let events = watcher(claims, watcher::Config::default());
    pin_mut!(events);
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(claim)) => lock(&book).enter(&claim),
            Ok(Event::Delete(claim)) => lock(&book).strike_out(&claim),
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(claim)) => listed.push(claim),
            Ok(Event::InitDone) => lock(&book).replace(&listed),
            // The API server is away; everything is listed again.
            Err(_) => {}
        }
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// Enters all claims that there are; others were deleted unseen.
    fn replace(&mut self, claims: &[SharedLB]) {
        self.held.retain(|uid, _| claims.iter().any(|claim| claim.metadata.uid.as_ref() == Some(uid)));
        claims.iter().for_each(|claim| self.enter(claim));
    }

    fn enter(&mut self, claim: &SharedLB) {
        let uid = claim.uid().unwrap_or_default();
        let name = claim.name_any();
        // A slot of a claim that is being deleted may go to another claim.
        if claim.metadata.deletion_timestamp.is_some() {
            return self.strike_out(claim);
        }
        let version = claim.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0);
        if self.held.get(&uid).is_some_and(|entry| entry.version >= version) {
            return;
        }
        let now = slots(claim);
        for (other, entry) in &self.held {
            let shared = entry.slots.values().find(|slot| now.values().any(|held| held == *slot));
            if let Some(slot) = shared.filter(|_| *other != uid) {
                self.wrongs.push(format!("{name} and {} both hold {slot:?}", entry.name));
            }
        }
        let before = self.held.get(&uid).map(|entry| entry.slots.clone()).unwrap_or_default();
        for (port, slot) in &before {
            match now.get(port) {
                None => self.wrongs.push(format!("{name} has lost {slot:?}")),
                Some(now) if now != slot => self.wrongs.push(format!("{name} was moved from {slot:?} to {now:?}")),
                Some(_) => {}
            }
        }
        self.held.insert(uid, Entry { name, version, slots: now });
    }

    fn strike_out(&mut self, claim: &SharedLB) {
        self.held.remove(&claim.uid().unwrap_or_default());
    }
}
