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

/// The steps for these changes, in their order. `due` says whether what was posted for a front
/// port is to be posted again.
pub(super) fn steps(
    records: &Records,
    set: ChangeSet<'_>,
    timeouts: Timeouts,
    due: impl Fn(FrontPort) -> bool,
) -> Vec<Step> {
    let mut order: Vec<FrontPort> = Vec::new();
    let mut concerned: BTreeMap<FrontPort, BTreeSet<ListenerKey>> = BTreeMap::new();
    let mut changed: BTreeSet<FrontPort> = BTreeSet::new();
    let repeated = |key: ListenerKey| set.desired.listeners.contains_key(&key) && !set.waiting.contains(&key);
    for change in set.changes {
        let ports: Vec<FrontPort> = match change {
            Change::Configure => {
                let due = records.keys().filter(|port| due(**port) && repeated(listener_of(**port, records)));
                due.copied().collect()
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
        let record = wanted(port, set.desired, timeouts);
        let call = call(records.get(&port), record.as_ref(), due(port));
        Step { port, listeners, of_settings: !changed.contains(&port), record, call }
    };
    order
        .into_iter()
        .map(step)
        .filter(|step| step.call.is_some() || records.get(&step.port) != step.record.as_ref())
        .collect()
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

/// The record of a front port that is as desired.
fn wanted(port: FrontPort, desired: &LoadBalancer, timeouts: Timeouts) -> Option<Record> {
    let keys = ListenerKey::of_number(port.port).into_iter().filter(|key| key.has(port));
    let (key, listener) = keys.filter_map(|key| Some((key, desired.listeners.get(&key)?))).next()?;
    let posted = Posted { servers: servers(listener, port.transport), timeouts };
    Some(Record { listener: key, owner: listener.owner.clone(), posted: Some(posted) })
}

/// The call that leads from one record to the next. A backend without servers would have NGINX
/// refuse its whole configuration, so it is deleted.
fn call(found: Option<&Record>, wanted: Option<&Record>, is_due: bool) -> Option<Call> {
    let before = found.and_then(|record| record.posted.as_ref());
    let after = wanted.and_then(|record| record.posted.as_ref());
    match (found, after) {
        (None, None) => None,
        (_, Some(posted)) if !is_due && before == Some(posted) => None,
        (_, Some(posted)) if !posted.servers.is_empty() => Some(Call::Post),
        _ => Some(Call::Delete),
    }
}
