//! Carries steps out: what is begun is recorded first, then the calls are made, then their
//! results are recorded. So the journal has everything that the updater may have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::HttpUpdater;
use super::known::Known;
use super::plan::{Call, Step};
use super::record::Records;
use super::settings::Verification;
use super::updater::{BackendId, CallError, Updater};
use super::verify;
use crate::model::{FrontPort, LbName, ListenerKey};
use crate::{Applied, Error};

/// How many steps are recorded in one write.
const BATCH: usize = 100;

/// How long a call of the provider begins calls to the updater.
const BEGINS_FOR: Duration = Duration::from_secs(2);

/// How long connections to ports are tried before they are posted.
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
            let batch: Vec<&Step> = batch.iter().filter(|step| !self.has_failed(step)).collect();
            let before = known.records.clone();
            for step in &batch {
                match step.call {
                    Some(_) if is_repetition(step, &before) => {}
                    Some(_) => known.begin(step.port, step.record.as_ref()),
                    None => known.complete(step.port, step.record.clone()),
                }
            }
            if let Err(error) = self.write(known).await {
                known.records = before;
                return Err(error);
            }
            let called = self.call_all(known, &batch, &before).await;
            self.write(known).await?;
            called?;
        }
        Ok(())
    }

    /// Makes the calls of a batch whose beginning is recorded. A step that is not begun keeps the
    /// record that it had `before`.
    async fn call_all(&mut self, known: &mut Known, batch: &[&Step], before: &Records) -> Result<(), Error> {
        let mut of_updater = None;
        for step in batch {
            let Some(call) = step.call else { continue };
            if of_updater.is_some() || self.has_failed(step) {
                known.restore(step.port, before.get(&step.port));
                continue;
            }
            let repeats = is_repetition(step, before);
            match self.call(known, step, call, repeats).await {
                Ok(()) => {}
                Err(CallError::Late) => {
                    known.restore(step.port, before.get(&step.port));
                    self.postpone(step);
                }
                Err(CallError::OfBackend(error)) => {
                    self.fail(step, &error);
                    let is_new = call == Call::Post && !before.contains_key(&step.port);
                    // The file may have been written in part, by which NGINX would refuse all.
                    if is_new && self.updater.delete(self.id(step.port)).await.is_ok() {
                        known.restore(step.port, None);
                    } else {
                        known.begin(step.port, step.record.as_ref());
                    }
                    known.closed(step.port);
                }
                Err(CallError::OfUpdater(error)) => of_updater = Some(error),
            }
        }
        of_updater.map_or(Ok(()), Err)
    }

    async fn call(&self, known: &mut Known, step: &Step, call: Call, repeats: bool) -> Result<(), CallError> {
        if Instant::now() >= self.deadline {
            return Err(CallError::Late);
        }
        let Step { port, record, .. } = step;
        let posted = record.as_ref().and_then(|record| record.posted.as_ref());
        match (call, posted) {
            (Call::Post, Some(posted)) => {
                self.updater.post(self.id(*port), &posted.servers).await?;
                known.posted(*port, repeats);
            }
            _ => {
                self.updater.delete(self.id(*port)).await?;
                known.closed(*port);
            }
        }
        known.complete(*port, record.clone());
        Ok(())
    }

    /// Fails the steps that would open a port which is reserved, or on which something listens
    /// that is not ours: NGINX would refuse its whole configuration. It may be a backend of this
    /// class whose record was lost with the journal, so that is deleted, and the port is free
    /// when it is tried again.
    async fn refuse_foreign(&mut self, known: &Known, batch: &[Step]) {
        let settings = &self.provider.settings;
        let opens = |step: &&Step| step.call == Some(Call::Post) && known.is_new(step.port);
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
        let open = verify::open(&settings.address, ports, Instant::now() + VERIFIES_FOR).await;
        for step in opening {
            if open.get(&step.port) != Some(&true) {
                continue;
            }
            let why = format!(
                "something listens on {} of {} that this class has not opened: stop it, or add the port to \
                 reservedPorts of the class",
                step.port, settings.address
            );
            let deleted = self.updater.delete(self.id(step.port)).await;
            if let Err(CallError::OfBackend(error) | CallError::OfUpdater(error)) = deleted {
                debug!(load_balancer = %self.name, port = %step.port, error = %format_args!("{error:#}"), "not deleted");
            }
            self.fail(step, &Error::PortInUse(why.into()));
        }
    }

    /// The listeners that were opened and are not open yet are observed again soon.
    pub(super) async fn verify(&mut self, known: &mut Known, steps: &[Step]) {
        let unserved = self.provider.unserved(known).await;
        let posted = steps.iter().filter(|step| step.call == Some(Call::Post)).flat_map(|step| &step.listeners);
        for listener in posted {
            if let Some(why) = unserved.get(listener) {
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
        let written = self.provider.journal.write(self.name, known.stored.as_ref(), &known.records).await?;
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

    fn has_failed(&self, step: &Step) -> bool {
        step.listeners.iter().any(|listener| self.failed.contains_key(listener))
    }

    fn fail(&mut self, step: &Step, error: &Error) {
        self.failed.extend(step.listeners.iter().map(|listener| (*listener, error.clone())));
    }
}

/// Whether a step posts again what the updater has already, as far as is known.
fn is_repetition(step: &Step, before: &Records) -> bool {
    step.record.is_some() && before.get(&step.port) == step.record.as_ref()
}
