//! Carries steps out: what is begun is recorded first, then the calls are made, then their
//! results are recorded. So the journal has everything that the updater may have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::time::Instant;
use tracing::debug;

use super::HttpUpdater;
use super::journal::{self, ROOM, Stored};
use super::known::{Entries, Entry, Known};
use super::plan::{Call, Step};
use super::record::Record;
use super::settings::Verification;
use super::updater::{BackendId, CallError, Updater};
use super::verify::Listening;
use crate::model::{FrontPort, LbName, ListenerKey, Transport};
use crate::{Applied, Error};

/// How many steps are recorded in one write.
const BATCH: usize = 100;

/// How many backends are posted again at once. Changes are made one after the other, in their
/// order.
const REPEATED_AT_ONCE: usize = 8;

/// How long a call of the provider begins calls to the updater.
const BEGINS_FOR: Duration = Duration::from_secs(2);

/// How long connections to the ports of a batch are tried, before and after its calls.
const VERIFIES_FOR: Duration = Duration::from_secs(1);

/// A call of the provider, as far as it has got.
pub(super) struct Work<'a> {
    provider: &'a HttpUpdater,
    updater: &'a Updater,
    name: &'a LbName,
    /// No call begins later
    deadline: Instant,
    failed: BTreeMap<ListenerKey, Error>,
    postponed: BTreeSet<ListenerKey>,
    /// How many backends there was no time to post again
    unrepeated: usize,
}

impl<'a> Work<'a> {
    pub(super) fn new(provider: &'a HttpUpdater, updater: &'a Updater, name: &'a LbName) -> Self {
        let deadline = Instant::now() + BEGINS_FOR;
        Self { provider, updater, name, deadline, failed: BTreeMap::new(), postponed: BTreeSet::new(), unrepeated: 0 }
    }

    /// Carries these steps out, as far as there is time.
    ///
    /// # Errors
    /// When the journal cannot be written, or the updater as a whole fails: the rest was not
    /// begun.
    pub(super) async fn carry_out(&mut self, known: &mut Known, steps: &[Step]) -> Result<(), Error> {
        for batch in steps.chunks(BATCH) {
            if Instant::now() >= self.deadline {
                batch.iter().for_each(|step| self.postpone(step));
                continue;
            }
            self.refuse_foreign(known, batch).await;
            self.refuse_oversized(known, batch)?;
            let batch: Vec<&Step> = batch.iter().filter(|step| !self.is_left(step)).collect();
            let before = known.entries.clone();
            self.begin(known, &batch, &before);
            if let Err(error) = self.write(known).await {
                known.entries = before;
                return Err(error);
            }
            let called = self.call_all(known, &batch, &before).await;
            self.verify(known, &batch).await;
            self.write(known).await?;
            called?;
        }
        Ok(())
    }

    /// Records what is about to be done. A backend that is posted again is known meanwhile.
    fn begin(&self, known: &mut Known, batch: &[&Step], before: &Entries) {
        for step in batch.iter().filter(|step| !is_repetition(step, before)) {
            match (step.call, &step.record) {
                (Some(_), record) => known.begin(step.port, record.as_ref(), Instant::now()),
                (None, Some(record)) => {
                    known.entries.entry(step.port).and_modify(|entry| entry.record = record.clone());
                }
                // Nothing is left to do but to see it closed.
                (None, None) => {}
            }
        }
    }

    /// Makes the calls of a batch whose beginning is recorded: changes one after the other, and
    /// then repetitions, a few at once. A step that is not carried out keeps what was known
    /// `before`.
    async fn call_all(&mut self, known: &mut Known, batch: &[&Step], before: &Entries) -> Result<(), Error> {
        let with_calls = batch.iter().copied().filter(|step| step.call.is_some());
        let (repeated, changed): (Vec<&Step>, Vec<&Step>) = with_calls.partition(|step| is_repetition(step, before));
        let mut result = Ok(());
        for step in changed {
            if result.is_err() || self.has_failed(step) {
                known.restore(step.port, before.get(&step.port));
                continue;
            }
            let called = self.call(step).await;
            result = self.conclude(known, step, called, before.get(&step.port)).await;
        }
        result?;
        let mut result = Ok(());
        let fails = AtomicBool::new(false);
        let calls: Vec<_> = repeated.into_iter().map(|step| self.repeat(step, &fails)).collect();
        let called: Vec<_> = stream::iter(calls).buffer_unordered(REPEATED_AT_ONCE).collect().await;
        for (step, called) in called {
            let concluded = self.conclude(known, step, called, before.get(&step.port)).await;
            result = result.and(concluded);
        }
        result
    }

    /// Makes the call of a repetition, unless the updater fails as a whole.
    async fn repeat<'s>(&self, step: &'s Step, fails: &AtomicBool) -> (&'s Step, Result<(), CallError>) {
        if fails.load(Ordering::Relaxed) {
            return (step, Err(CallError::Late));
        }
        let called = self.call(step).await;
        if matches!(called, Err(CallError::OfUpdater(_) | CallError::Lost(_))) {
            fails.store(true, Ordering::Relaxed);
        }
        (step, called)
    }

    async fn call(&self, step: &Step) -> Result<(), CallError> {
        if Instant::now() >= self.deadline {
            return Err(CallError::Late);
        }
        let posted = step.record.as_ref().and_then(|record| record.posted.as_ref());
        match (step.call, posted) {
            (Some(Call::Post), Some(posted)) => self.updater.post(self.id(step.port), &posted.servers).await,
            _ => self.updater.delete(self.id(step.port)).await,
        }
    }

    /// Takes in the result of the call of a step.
    ///
    /// # Errors
    /// When the updater as a whole fails.
    async fn conclude(
        &mut self,
        known: &mut Known,
        step: &Step,
        called: Result<(), CallError>,
        before: Option<&Entry>,
    ) -> Result<(), Error> {
        let (port, now) = (step.port, Instant::now());
        match called {
            Ok(()) => {
                match step.record.clone() {
                    Some(record) if step.call == Some(Call::Post) => known.posted(port, record, before, now),
                    record => known.deleted(port, record, before, now),
                }
                // A call that was lost so long ago is not carried out any more.
                if before.is_some_and(|before| before.is_old(self.provider.repeat_after)) {
                    known.forget_lost(port);
                }
            }
            Err(CallError::Late) => {
                known.restore(port, before);
                self.postpone(step);
            }
            Err(CallError::OfBackend(error)) => {
                self.fail(step, &error);
                self.give_up(known, step, before).await;
            }
            Err(CallError::Lost(error)) => {
                known.lost(port);
                return Err(error);
            }
            Err(CallError::OfUpdater(error)) => {
                known.restore(port, before);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Takes in that the updater refuses a backend. Its file may be as it was, or written in part,
    /// by which NGINX would refuse all; and former servers may be another tenant's by now. So it
    /// is deleted, unless all its former servers are still wanted.
    async fn give_up(&self, known: &mut Known, step: &Step, before: Option<&Entry>) {
        let posted = |record: &'_ Record| record.posted.clone().filter(|posted| !posted.servers.is_empty());
        let former = before.and_then(|entry| posted(&entry.record));
        let wanted = step.record.as_ref().and_then(posted);
        let stays = former.zip(wanted).is_some_and(|(former, wanted)| former.servers.is_subset(&wanted.servers));
        let deleted = match step.call {
            Some(Call::Post) if !stays => Some(self.updater.delete(self.id(step.port)).await),
            _ => None,
        };
        let now = Instant::now();
        match (&deleted, before) {
            (Some(Ok(())), None) => known.restore(step.port, None),
            (Some(Ok(())), before) => known.deleted(step.port, step.record.clone(), before, now),
            _ => known.begin(step.port, step.record.as_ref(), now),
        }
        if matches!(deleted, Some(Err(CallError::Lost(_)))) {
            known.lost(step.port);
        }
    }

    /// Fails the steps that would open a port which is reserved, or on which something listens
    /// that is not ours: NGINX would refuse its whole configuration. It may be a backend of this
    /// class whose record was lost with the journal, so that is deleted, and the port is free
    /// when it is tried again. A port that the class has deleted is not opened until NGINX has
    /// closed it: a connection to its former backends would be taken for one to its new ones.
    async fn refuse_foreign(&mut self, known: &mut Known, batch: &[Step]) {
        let settings = &self.provider.settings;
        let is_closing = |port| known.entries.get(&port).is_some_and(|entry| entry.record.closing);
        let opens =
            |step: &&Step| step.call == Some(Call::Post) && (!known.may_be_served(step.port) || is_closing(step.port));
        let opening: Vec<&Step> = batch.iter().filter(opens).collect();
        let (reserved, opening): (Vec<&Step>, Vec<&Step>) =
            opening.into_iter().partition(|step| settings.reserved_ports.contains(&step.port.port));
        for step in reserved {
            let why = format!("{} is one of reservedPorts of the class", step.port);
            self.fail(step, &Error::PortInUse(why.into()));
        }
        if settings.verification == Verification::None {
            return;
        }
        let ports: BTreeSet<FrontPort> = opening.iter().map(|step| step.port).collect();
        let found = self.provider.listening(ports, Instant::now() + VERIFIES_FOR).await;
        known.verified(&found);
        let (tcp, udp): (Vec<&Step>, Vec<&Step>) =
            opening.into_iter().partition(|step| step.port.transport == Transport::Tcp);
        let unserved = known.unserved_ports(&settings.address);
        for step in udp {
            if let Some(why) = unserved.get(&step.port) {
                self.fail(step, &Error::NotReady(why.clone().into()));
            }
        }
        for step in tcp {
            match found.get(&step.port) {
                Some(Listening::Closed) => {}
                Some(Listening::Open) => self.refuse_open(known, step).await,
                Some(Listening::Unknown) => {
                    let why = format!(
                        "{} is not opened, since {} does not answer there: whether something listens already is not \
                         known (a firewall between the controller and {} must reject connections, not drop them)",
                        step.port, settings.address, settings.address
                    );
                    self.fail(step, &Error::NotReady(why.into()));
                }
                None => self.postpone(step),
            }
        }
    }

    /// Fails a step that would open a port on which something listens.
    async fn refuse_open(&mut self, known: &mut Known, step: &Step) {
        let address = &self.provider.settings.address;
        match self.updater.delete(self.id(step.port)).await {
            Ok(()) | Err(CallError::Late) => {}
            Err(CallError::OfBackend(error)) => {
                debug!(load_balancer = %self.name, port = %step.port, error = %format_args!("{error:#}"), "not deleted");
            }
            // Whose listener it is will be seen once a backend of this class would be gone.
            Err(CallError::OfUpdater(error) | CallError::Lost(error)) => {
                self.fail(step, &error);
                return;
            }
        }
        let is_former = |entry: &Entry| entry.record.closing || entry.record.lost;
        if known.entries.get(&step.port).is_some_and(is_former) {
            let why = format!(
                "{} is not opened yet: {address} still listens there, for a backend that was deleted. NGINX has not \
                 reloaded: if it stays so, check for a reload that it has refused (nginx -t)",
                step.port
            );
            self.fail(step, &Error::NotReady(why.into()));
            return;
        }
        known.foreign.insert(step.port);
        let why = format!(
            "something listens on {} of {address} that this class has not opened (a backend that it may have lost \
             there is deleted by now): if it stays so, stop it, or add the port to reservedPorts of the class",
            step.port
        );
        self.fail(step, &Error::PortInUse(why.into()));
    }

    /// Fails the steps for whose records the journal has no room. Nothing was called for them yet.
    ///
    /// # Errors
    /// When a record cannot be written.
    fn refuse_oversized(&mut self, known: &Known, batch: &[Step]) -> Result<(), Error> {
        let mut size = known.stored.as_ref().map_or(0, Stored::foreign_bytes);
        for (port, entry) in &known.entries {
            size += journal::bytes(*port, &entry.record)?;
        }
        for step in batch {
            let bytes = |record: Option<&Record>| record.map_or(Ok(0), |record| journal::bytes(step.port, record));
            let before = bytes(known.entries.get(&step.port).map(|entry| &entry.record))?;
            let after = bytes(step.record.as_ref())?;
            if after > before && size - before + after > ROOM {
                let why = format!(
                    "{} has no room for the backends of {}: it has {size} of at most {ROOM} bytes",
                    self.provider.journal.object(self.name),
                    step.port
                );
                self.fail(step, &Error::NoRoom(why.into()));
            } else {
                size = size - before + after;
            }
        }
        Ok(())
    }

    /// Finds out what NGINX has done by now. A listener that was opened and is not open yet, or was
    /// closed and is not closed yet, is observed again soon.
    async fn verify(&mut self, known: &mut Known, batch: &[&Step]) {
        self.provider.verify(known, Instant::now() + VERIFIES_FOR).await;
        batch.iter().filter(|step| step.record.is_none()).for_each(|step| known.release(step.port));
        let unserved = self.provider.unserved(known);
        for listener in batch.iter().filter(|step| !step.of_settings).flat_map(|step| &step.listeners) {
            let of_number = ListenerKey::of_number(listener.port).into_iter().filter(|key| key.overlaps(*listener));
            if let Some(why) = of_number.filter_map(|key| unserved.get(&key)).next() {
                self.failed.entry(*listener).or_insert_with(|| Error::NotReady(why.clone().into()));
            }
        }
    }

    /// The error of a deletion that is not complete.
    pub(super) fn first_error(self) -> Option<Error> {
        self.failed.into_values().next()
    }

    /// The result. Of a listener that has failed, nothing is postponed.
    pub(super) fn applied(self) -> Applied {
        let Self { failed, mut postponed, unrepeated, provider, .. } = self;
        postponed.retain(|listener| !failed.contains_key(listener));
        let unconfigured = (unrepeated > 0)
            .then(|| Error::NotReady(format!("{unrepeated} backends are still to be posted again").into()));
        let addresses = vec![provider.settings.address.clone()];
        Applied { failed, postponed, unconfigured, addresses }
    }

    /// Writes the journal, if it does not have these records, or does not exist.
    pub(super) async fn write(&self, known: &mut Known) -> Result<(), Error> {
        let written = self.provider.journal.write(self.name, known.stored.as_ref(), &known.records()).await?;
        known.stored = Some(written);
        Ok(())
    }

    /// Leaves a step for the next call of the provider.
    fn postpone(&mut self, step: &Step) {
        if step.of_settings {
            self.unrepeated += 1;
        } else {
            self.postponed.extend(&step.listeners);
        }
    }

    fn id(&self, port: FrontPort) -> BackendId<'a> {
        BackendId { load_balancer: self.name, port, begin_by: self.deadline }
    }

    /// Whether a step is not carried out now, since its listener has failed or is postponed.
    fn is_left(&self, step: &Step) -> bool {
        self.has_failed(step) || step.listeners.iter().any(|listener| self.postponed.contains(listener))
    }

    fn has_failed(&self, step: &Step) -> bool {
        step.listeners.iter().any(|listener| self.failed.contains_key(listener))
    }

    fn fail(&mut self, step: &Step, error: &Error) {
        self.failed.extend(step.listeners.iter().map(|listener| (*listener, error.clone())));
    }
}

/// Whether a step asks the updater again for what it has already, as far as is known.
fn is_repetition(step: &Step, before: &Entries) -> bool {
    step.record.is_some() && before.get(&step.port).map(|entry| &entry.record) == step.record.as_ref()
}
