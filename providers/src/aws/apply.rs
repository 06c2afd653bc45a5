//! Carries changes out, and deletes a load balancer.
//!
//! Ports are changed concurrently, each on its own, and for about two seconds: those that
//! were not begun by then are postponed, so that the others can be reported.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use tokio::time::Instant;
use tracing::info;

use super::Aws;
use super::failure::{Code, Failure, Kind};
use super::known::{Full, Known, Port};
use super::port::Ports;
use super::view;
use super::whole::Whole;
use crate::budget::{Turn, Urgency};
use crate::diff::Change;
use crate::model::{LbName, Listener, ListenerKey, LoadBalancer};
use crate::{Applied, ChangeSet, Error};

/// How long changes of ports are begun in one apply.
const SLICE: Duration = Duration::from_secs(2);
/// The most ports of one load balancer that are changed concurrently. With more, more of
/// them would wait for the budget half done.
const AT_ONCE: usize = 6;

/// The changes of one port number.
struct Work<'a> {
    number: NonZeroU16,
    /// The listeners that are changed: two where the protocol changes
    keys: BTreeSet<ListenerKey>,
    wanted: Option<(ListenerKey, &'a Listener)>,
    urgency: Urgency,
}

impl Aws {
    pub(super) async fn carry_out(&self, name: &LbName, set: ChangeSet<'_>) -> Result<Applied, Error> {
        let known = self.known().remove(name).filter(|known| known.observed_at.is_some());
        let mut known = match known {
            Some(known) => known,
            None => self.observe_known(name).await?,
        };
        let applied = self.work(name, &mut known, set).await;
        known.stands = false;
        if applied.as_ref().is_ok_and(|applied| !applied.failed.is_empty()) {
            known.stands_after_failures();
        }
        self.known().insert(name.clone(), known);
        applied
    }

    async fn work(&self, name: &LbName, known: &mut Known, set: ChangeSet<'_>) -> Result<Applied, Error> {
        let whole = Whole { region: &self.region, settings: &self.settings, name };
        let turn = |urgency, begin_by| Turn { of: name.clone(), urgency, begin_by, place: None };
        let nlb = match &mut known.nlb {
            Some(nlb) => nlb,
            none => none.insert(whole.create(&mut turn(Urgency::Open, None)).await.map_err(|failure| {
                known.observed_at = None;
                self.error(failure)
            })?),
        };
        let arn = nlb.arn.clone();
        let addresses = nlb.addresses();
        let mut applied = Applied { addresses, ..Applied::default() };
        let taken = known.foreign.names.clone();
        let ports = Ports { region: &self.region, settings: &self.settings, name, arn: &arn, taken: &taken };

        let work = works(set);
        let touched: BTreeSet<NonZeroU16> = work.iter().map(|work| work.number).collect();
        let begin_by = Instant::now() + SLICE;
        let (ready, in_use): (Vec<_>, Vec<_>) = work.into_iter().partition(|work| !is_foreign(known, work));
        for work in in_use {
            let why =
                format!("port {} has a listener that is not ours: delete it, or ask for another port", work.number);
            applied.failed.extend(work.keys.iter().map(|key| (*key, Error::PortInUse(why.clone().into()))));
            // The claim may get another port instead, and this one is not tried again.
            if let Some(mut port) = known.ports.remove(&work.number) {
                ports.leave_groups(&mut port, None, &mut turn(Urgency::Close, Some(begin_by))).await;
                known.ports.extend(Some((work.number, port)).filter(|(_, port)| !port.is_empty()));
            }
        }
        let tasks = ready.into_iter().map(|work| {
            let (mut port, mut turn) =
                (known.ports.remove(&work.number).unwrap_or_default(), turn(work.urgency, Some(begin_by)));
            let ports = &ports;
            async move {
                let result = ports.make(&mut port, work.wanted, &mut turn).await;
                (work, port, result)
            }
        });
        let done: Vec<_> = stream::iter(tasks.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await;
        for (work, port, result) in done {
            self.note(known, &mut applied, work, port, result).await;
        }

        let begin_by = Some(Instant::now() + SLICE);
        if set.changes.iter().any(|change| matches!(change, Change::Configure)) {
            let configured = whole.configure(known, &turn(Urgency::GarbageCollect, begin_by)).await;
            applied.unconfigured = configured.err().map(|failure| {
                known.observed_at.take_if(|_| failure.leaves_doubt());
                self.error(failure)
            });
        }
        let collected =
            self.garbage_collect(known, &ports, set, &touched, &turn(Urgency::GarbageCollect, begin_by)).await;
        if let Err(failure) = collected {
            known.observed_at.take_if(|_| failure.leaves_doubt());
            applied.unconfigured.get_or_insert(self.error(failure));
        }
        Ok(applied)
    }

    /// Records the result of a port.
    async fn note(
        &self,
        known: &mut Known,
        applied: &mut Applied,
        work: Work<'_>,
        port: Port,
        result: Result<(), Failure>,
    ) {
        if !port.is_empty() {
            known.ports.insert(work.number, port);
        }
        let failure = match result {
            Ok(()) => return,
            Err(failure) if failure.kind == Kind::Late => {
                applied.postponed.extend(&work.keys);
                return;
            }
            Err(failure) => failure,
        };
        known.observed_at.take_if(|_| failure.leaves_doubt());
        if failure.is(Code::TooManyTargets) {
            known.past.no_targets = Some(Full::now());
        } else if failure.is_no_room() {
            known.past.no_listeners = Some(Full::now());
        }
        if failure.is_no_room() || failure.is_no_quota() {
            // The quotas may have been changed.
            *self.region.limits.lock().await = None;
        }
        let error = self.error(failure);
        applied.failed.extend(work.keys.iter().map(|key| (*key, error.clone())));
    }

    /// Repairs drift: deletes objects that serve no listener, or has them serve the right one,
    /// except where a listener waits: objects that were prepared for it are used by the retry.
    async fn garbage_collect(
        &self,
        known: &mut Known,
        ports: &Ports<'_>,
        set: ChangeSet<'_>,
        touched: &BTreeSet<NonZeroU16>,
        turn: &Turn,
    ) -> Result<(), Failure> {
        let waits = |number: NonZeroU16| set.waiting.iter().any(|key| key.port == number);
        for (number, what) in view::drift(known, &self.settings, ports.name) {
            if touched.contains(&number) || waits(number) {
                continue;
            }
            let Some(mut port) = known.ports.remove(&number) else { continue };
            let wanted = of_number(set.desired, number).next();
            info!(load_balancer = %ports.name, port = %number, what, "garbage-collecting");
            let mut turn = turn.clone();
            let result = match ports.make(&mut port, wanted, &mut turn).await {
                Ok(()) => {
                    let used = port.used_group().map(|group| group.name.clone());
                    ports.remove_groups(&mut port, used.as_deref(), &mut turn).await
                }
                failed => failed,
            };
            if !port.is_empty() {
                known.ports.insert(number, port);
            }
            match result {
                Err(failure) if failure.kind != Kind::Late => return Err(failure),
                _ => {}
            }
        }
        Ok(())
    }

    /// Deletes what is ours: the load balancer with everything on it, or, if it is not ours
    /// alone, our listeners. The target groups are deleted last, since AWS keeps those that
    /// are in use.
    pub(super) async fn remove(&self, name: &LbName) -> Result<(), Error> {
        self.known().remove(name);
        let seen = self.observation(name).observe(false).await?;
        let mut known = seen.known;
        let whole = Whole { region: &self.region, settings: &self.settings, name };
        let turn = Turn { of: name.clone(), urgency: Urgency::Close, begin_by: None, place: None };
        let adopted = self.settings.load_balancer_arn.is_some();
        let alone = known.foreign.listeners == 0 && !adopted && seen.is_ours;
        let nlb = known.nlb.take();
        if let Some(nlb) = nlb.as_ref().filter(|_| alone) {
            whole.delete(nlb, &mut turn.clone()).await.map_err(|failure| self.undeletable(name, failure))?;
            known.ports.values_mut().for_each(|port| port.listener = None);
        }
        let arn = nlb.map(|nlb| nlb.arn).unwrap_or_default();
        let taken = known.foreign.names;
        let ports = Ports { region: &self.region, settings: &self.settings, name, arn: &arn, taken: &taken };
        let tasks = known.ports.into_values().map(|mut port| {
            let ports = &ports;
            let mut turn = turn.clone();
            async move {
                ports.close(&mut port, &mut turn).await?;
                ports.remove_groups(&mut port, None, &mut turn).await?;
                Ok(port.groups.len())
            }
        });
        let results: Vec<Result<usize, Failure>> =
            stream::iter(tasks.collect::<Vec<_>>()).buffer_unordered(AT_ONCE).collect().await;
        let left = results.into_iter().sum::<Result<usize, _>>().map_err(|failure| self.error(failure))?;
        if left > 0 {
            return Err(Error::NotReady(format!("AWS still has {left} target groups of {name} in use").into()));
        }
        if known.foreign.listeners > 0 && !adopted && seen.is_ours {
            let foreign: Vec<String> = known.foreign.ports.iter().map(ToString::to_string).collect();
            let message = format!(
                "load balancer {name} has listeners that are not ours ({}): delete them, and the load balancer is deleted too",
                foreign.join(", ")
            );
            return Err(Error::Refused(message.into()));
        }
        Ok(())
    }

    fn undeletable(&self, name: &LbName, failure: Failure) -> Error {
        if failure.is(Code::OperationNotPermitted) {
            return Error::Refused(
                format!(
                    "load balancer {name} has deletion protection: switch it off \
                 (deletion_protection.enabled in the class' attributes, or at AWS), and it is deleted"
                )
                .into(),
            );
        }
        self.error(failure)
    }

    fn error(&self, failure: Failure) -> Error {
        failure.error(&self.region.name)
    }
}

/// The changes by port number: those of one number are carried out one after another.
fn works(set: ChangeSet<'_>) -> Vec<Work<'_>> {
    let mut works: BTreeMap<NonZeroU16, Work<'_>> = BTreeMap::new();
    for change in set.changes {
        let urgency = match change {
            Change::Open(_) | Change::Replace { .. } => Urgency::Open,
            Change::Close(_) => Urgency::Close,
            _ => Urgency::Alter,
        };
        for key in change.listeners() {
            let wanted = of_number(set.desired, key.port).next();
            let new = || Work { number: key.port, keys: BTreeSet::new(), wanted, urgency };
            let work = works.entry(key.port).or_insert_with(new);
            work.keys.insert(key);
            work.urgency = work.urgency.min(urgency);
        }
    }
    works.into_values().collect()
}

/// The desired listener of a number, which has one at most.
fn of_number(desired: &LoadBalancer, number: NonZeroU16) -> impl Iterator<Item = (ListenerKey, &Listener)> {
    desired.listeners.iter().filter(move |(key, _)| key.port == number).map(|(key, listener)| (*key, listener))
}

/// Whether the number of a listener that is to be opened is known to have a foreign one.
fn is_foreign(known: &Known, work: &Work<'_>) -> bool {
    let ours = known.ports.get(&work.number).is_some_and(|port| port.listener.is_some());
    work.wanted.is_some() && !ours && known.foreign.ports.iter().any(|port| port.port == work.number)
}
