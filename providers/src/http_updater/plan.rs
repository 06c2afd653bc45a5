//! From changes of listeners to calls for front ports. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{Posted, Record, Records, listener_of, servers};
use super::settings::Timeouts;
use crate::ChangeSet;
use crate::diff::Change;
use crate::model::{FrontPort, ListenerKey, LoadBalancer};

/// What is done about one front port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// The front port
    pub(super) port: FrontPort,
    /// The listeners that fail if it does
    pub(super) listeners: BTreeSet<ListenerKey>,
    /// Whether the settings alone ask for it, and no change of a listener
    pub(super) of_settings: bool,
    /// The record after it; `None`: there is none
    pub(super) record: Option<Record>,
    /// The call to the updater; `None`: the updater has what it should have
    pub(super) call: Option<Call>,
}

/// A call to the updater about one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Create or replace it
    Post,
    /// Delete it
    Delete,
}

/// The steps for these changes, in their order, and after them what is only repeated. `due` says
/// whether what was last asked of the updater for a front port is to be asked again.
pub(super) fn steps(
    records: &Records,
    set: ChangeSet<'_>,
    timeouts: Timeouts,
    due: impl Fn(FrontPort) -> bool,
) -> Vec<Step> {
    let mut order: Vec<FrontPort> = Vec::new();
    let mut concerned: BTreeMap<FrontPort, BTreeSet<ListenerKey>> = BTreeMap::new();
    let mut changed: BTreeSet<FrontPort> = BTreeSet::new();
    let is_desired = |key: ListenerKey| set.desired.listeners.contains_key(&key) && !set.waiting.contains(&key);
    let repeated = |port: FrontPort, record: &Record| record.released || is_desired(listener_of(port, records));
    for change in set.changes {
        let ports: Vec<FrontPort> = match change {
            Change::Configure => {
                let repeated = records.iter().filter(|(port, record)| due(**port) && repeated(**port, record));
                repeated.map(|(port, _)| *port).collect()
            }
            // A port that stays is handed over before another one closes.
            Change::Replace { close, open } => {
                open.iter().chain(close).flat_map(|listener| listener.front_ports()).collect()
            }
            change => change.listeners().into_iter().flat_map(ListenerKey::front_ports).collect(),
        };
        for port in ports {
            let listeners = concerned.entry(port).or_insert_with(|| {
                order.push(port);
                BTreeSet::new()
            });
            match change {
                Change::Configure => _ = listeners.insert(listener_of(port, records)),
                change => {
                    listeners.extend(change.listeners());
                    changed.insert(port);
                }
            }
        }
    }
    let step = |port: FrontPort| {
        let listeners = concerned.get(&port).cloned().unwrap_or_default();
        let found = records.get(&port);
        let record = wanted(port, set.desired, timeouts, found);
        let call = call(found, record.as_ref(), due(port));
        Step { port, listeners, of_settings: !changed.contains(&port), record, call }
    };
    let is_needed = |step: &Step| step.call.is_some() || records.get(&step.port) != step.record.as_ref();
    let mut steps: Vec<Step> = order.into_iter().map(step).filter(is_needed).collect();
    // No change waits for repetitions, which may be many, or for a backend whose last call got no
    // answer: the next one may not get any either.
    let is_lost = |port: FrontPort| records.get(&port).is_some_and(|record| record.lost);
    steps.sort_by_key(|step| (step.of_settings, is_lost(step.port)));
    steps
}

/// The steps that delete everything.
pub(super) fn teardown(records: &Records) -> Vec<Step> {
    let step = |port: &FrontPort| Step {
        port: *port,
        listeners: [ListenerKey::from(*port)].into(),
        of_settings: false,
        record: None,
        call: Some(Call::Delete),
    };
    records.keys().map(step).collect()
}

/// The record of a front port that is as desired. Doubts about what was `found` there stay until a
/// call or a connection resolves them.
fn wanted(port: FrontPort, desired: &LoadBalancer, timeouts: Timeouts, found: Option<&Record>) -> Option<Record> {
    let keys = ListenerKey::of_number(port.port).into_iter().filter(|key| key.has(port));
    let (key, listener) = keys.filter_map(|key| Some((key, desired.listeners.get(&key)?))).next()?;
    Some(Record {
        listener: key,
        owner: listener.owner.clone(),
        posted: Some(Posted { servers: servers(listener, port.transport), timeouts }),
        closing: found.is_some_and(|record| record.closing),
        lost: found.is_some_and(|record| record.lost),
        released: false,
    })
}

/// The call that leads from one record to the next. A backend without servers would have NGINX
/// refuse its whole configuration, so it is deleted.
fn call(found: Option<&Record>, wanted: Option<&Record>, is_due: bool) -> Option<Call> {
    let Some(found) = found else {
        return wanted.map(|wanted| if wanted.has_servers() { Call::Post } else { Call::Delete });
    };
    match wanted {
        Some(wanted) if wanted.has_servers() => (is_due || found.posted != wanted.posted).then_some(Call::Post),
        _ => (is_due || !found.is_deleted()).then_some(Call::Delete),
    }
}
