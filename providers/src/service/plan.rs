//! Plans the writes of one apply, from the desired and the observed state. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cache::Entry;
use super::front::Front;
use super::name::ServiceName;
use super::slices::{Place, SeenSlice, Slice, arrange};
use crate::Error;
use crate::diff::Change;
use crate::model::{Attributes, FrontPort, ListenerKey, LoadBalancer};

/// The plan of one apply.
pub(super) struct ApplyPlan<'a> {
    desired: &'a LoadBalancer,
    /// The attributes that the Service is written with: the desired ones, or, once those were
    /// refused, those that it has.
    pub(super) attributes: Attributes,
    /// Whether the settings are still to be changed
    pub(super) configures: bool,
    /// Our ports that the Service has and keeps
    pub(super) stays: BTreeSet<FrontPort>,
    /// Our ports that are closed before any port opens
    pub(super) closing: BTreeSet<FrontPort>,
    /// Listeners whose ports are open and stay so, whose slices may differ
    pub(super) in_place: BTreeSet<ListenerKey>,
    /// The openings, in the order of the changes
    pub(super) openings: Vec<Opening>,
    pub(super) failed: BTreeMap<ListenerKey, Error>,
    pub(super) postponed: BTreeSet<ListenerKey>,
}

/// Listeners that open together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opening {
    /// The listeners that open
    pub(super) opens: BTreeSet<ListenerKey>,
    /// The listeners that they replace, which stay if these cannot open
    pub(super) replaces: BTreeSet<ListenerKey>,
    /// Ports that the Service gets
    pub(super) add: BTreeSet<FrontPort>,
    /// Ports that the Service loses in the same write
    pub(super) remove: BTreeSet<FrontPort>,
}

impl Opening {
    /// All listeners that it is about.
    pub(super) fn listeners(&self) -> impl Iterator<Item = ListenerKey> {
        self.opens.iter().chain(&self.replaces).copied()
    }
}

/// The changes of the slices of one front port.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SliceWork {
    /// The listener that fails if a write fails; `None`: the port serves no listener
    pub(super) listener: Option<ListenerKey>,
    /// Whether slices are deleted before others are written: slices that an earlier listener
    /// has left at a port must be gone before the port opens. At an open port they are
    /// deleted last, so that it is never without backends.
    pub(super) delete_first: bool,
    pub(super) write: Vec<Slice>,
    pub(super) delete: Vec<SliceId>,
}

/// An existing slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SliceId {
    pub(super) name: Arc<str>,
    pub(super) uid: Arc<str>,
}

/// The observed slices of a Service.
pub(super) struct SlicesThere<'a> {
    pub(super) service: &'a ServiceName,
    pub(super) service_uid: &'a Arc<str>,
    of_port: BTreeMap<FrontPort, BTreeMap<Place, (SliceId, &'a SeenSlice)>>,
}

impl<'a> SlicesThere<'a> {
    pub(super) fn new(
        service: &'a ServiceName,
        service_uid: &'a Arc<str>,
        there: impl Iterator<Item = &'a Entry<SeenSlice>>,
    ) -> Self {
        let mut of_port: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for Entry { meta, seen, .. } in there {
            let id = SliceId { name: meta.key.name.clone(), uid: meta.uid.clone() };
            of_port.entry(seen.place.port).or_default().insert(seen.place, (id, seen));
        }
        Self { service, service_uid, of_port }
    }
}

impl<'a> ApplyPlan<'a> {
    /// Leaves out the listeners whose ports are foreign: an apply of such a port would take it
    /// over.
    pub(super) fn new(desired: &'a LoadBalancer, changes: &[Change], there: Option<&Front>) -> Self {
        let open = there.map(|front| front.ours.clone()).unwrap_or_default();
        let mut plan = Self {
            desired,
            attributes: desired.attributes.clone(),
            configures: changes.iter().any(|change| matches!(change, Change::Configure)),
            stays: BTreeSet::new(),
            closing: BTreeSet::new(),
            in_place: BTreeSet::new(),
            openings: Vec::new(),
            failed: BTreeMap::new(),
            postponed: BTreeSet::new(),
        };
        for listener in desired.listeners.keys() {
            let taken = there.and_then(|front| listener.front_ports().find_map(|port| front.foreign_at(port)));
            plan.failed.extend(taken.map(|taken| (*listener, Error::PortInUse(taken.into()))));
        }
        let changed: BTreeSet<_> = changes.iter().flat_map(Change::listeners).collect();
        let units = plan.units(changes);
        plan.stays = plan.staying(changes, &open);
        let (narrowing, openings): (Vec<_>, Vec<_>) =
            units.into_iter().partition(|unit| !unit.replaces.is_empty() && ports(&unit.opens).is_subset(&plan.stays));
        for unit in narrowing {
            let kept = ports(&unit.opens);
            plan.stays.retain(|port| kept.contains(port) || !ports(&unit.replaces).contains(port));
        }
        plan.add_openings(openings);
        plan.closing = &open - &plan.stays;
        let opening: BTreeSet<_> = plan.openings.iter().flat_map(Opening::listeners).collect();
        let is_in_place = |key: &ListenerKey| {
            desired.listeners.contains_key(key)
                && !opening.contains(key)
                && !plan.failed.contains_key(key)
                && !plan.postponed.contains(key)
                && key.front_ports().all(|port| plan.stays.contains(&port))
        };
        plan.in_place = changed.into_iter().filter(is_in_place).collect();
        plan
    }

    /// The openings of the changes, each with the listeners that it replaces.
    fn units(&mut self, changes: &[Change]) -> Vec<Opening> {
        let unit = |opens: BTreeSet<ListenerKey>, replaces: BTreeSet<ListenerKey>| Opening {
            add: BTreeSet::new(),
            remove: BTreeSet::new(),
            opens,
            replaces,
        };
        let mut units: Vec<Opening> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Open(key) => Some(unit([*key].into(), BTreeSet::new())),
                Change::Replace { close, open } => Some(unit(open.clone(), close.clone())),
                _ => None,
            })
            .collect();
        // A Service that is gone, or has lost ports since it was observed, gets them back.
        let named: BTreeSet<ListenerKey> = units.iter().flat_map(|unit| unit.opens.iter().copied()).collect();
        units.extend(
            self.desired.listeners.keys().filter(|key| !named.contains(key)).map(|key| unit([*key].into(), [].into())),
        );
        let failed = &mut self.failed;
        units.retain(|unit| {
            let error = unit.opens.iter().find_map(|key| failed.get(key)).cloned();
            failed.extend(error.iter().flat_map(|error| unit.listeners().map(|key| (key, error.clone()))));
            error.is_none()
        });
        units
    }

    /// The open ports that stay: those of listeners that stay or are replaced. A
    /// port of a listener that closes is never among them, also if another claim's
    /// listener gets it: it closes in between.
    fn staying(&self, changes: &[Change], open: &BTreeSet<FrontPort>) -> BTreeSet<FrontPort> {
        let closed: BTreeSet<FrontPort> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Close(key) => Some(key.front_ports()),
                _ => None,
            })
            .flatten()
            .collect();
        let replaced = changes.iter().flat_map(|change| match change {
            Change::Replace { close, .. } => close.clone(),
            _ => BTreeSet::new(),
        });
        let wanted = self.desired.listeners.keys().copied().filter(|key| !self.failed.contains_key(key));
        let wanted: BTreeSet<FrontPort> = wanted.chain(replaced).flat_map(|key| key.front_ports()).collect();
        open.iter().filter(|port| wanted.contains(port) && !closed.contains(port)).copied().collect()
    }

    fn add_openings(&mut self, units: Vec<Opening>) {
        for mut unit in units {
            let open = ports(&unit.opens);
            unit.add = &open - &self.stays;
            unit.remove = &(&ports(&unit.replaces) - &open) & &self.stays;
            if !unit.add.is_empty() {
                self.openings.push(unit);
            }
        }
        // What is to open on a port that another one only lets go of in this apply
        // comes after it.
        let removed: BTreeSet<FrontPort> = self.openings.iter().flat_map(|unit| unit.remove.iter().copied()).collect();
        let (waits, openings) = self.openings.drain(..).partition(|unit| !ports(&unit.opens).is_disjoint(&removed));
        self.openings = openings;
        let waits: Vec<Opening> = waits;
        self.postponed.extend(waits.iter().flat_map(Opening::listeners));
    }

    /// The ports of the Service with these openings.
    pub(super) fn ports_with<'o>(&self, openings: impl IntoIterator<Item = &'o Opening>) -> BTreeSet<FrontPort> {
        let mut ports = self.stays.clone();
        for opening in openings {
            ports.retain(|port| !opening.remove.contains(port));
            ports.extend(&opening.add);
        }
        ports
    }

    /// Records that an opening was carried out.
    pub(super) fn opened(&mut self, opening: Opening) {
        self.stays = self.ports_with([&opening]);
        self.closing.extend(opening.remove);
        self.in_place.extend(opening.opens);
    }

    /// Records that all openings were carried out.
    pub(super) fn all_opened(&mut self) {
        for opening in std::mem::take(&mut self.openings) {
            self.opened(opening);
        }
    }

    /// Records that an opening was refused: the listeners that it would replace stay.
    pub(super) fn refused(&mut self, opening: &Opening, error: &Error) {
        self.failed.extend(opening.listeners().map(|key| (key, error.clone())));
    }

    /// Drops the openings whose slices could not be written.
    pub(super) fn drop_failed_openings(&mut self) {
        let (refused, openings) = self
            .openings
            .drain(..)
            .partition::<Vec<_>, _>(|opening| opening.opens.iter().any(|key| self.failed.contains_key(key)));
        self.openings = openings;
        for opening in refused {
            let error = opening.opens.iter().find_map(|key| self.failed.get(key)).cloned();
            error.iter().for_each(|error| self.refused(&opening, error));
        }
    }

    /// The changes of the slices of open ports, and of ports that stay closed.
    pub(super) fn slices_in_place(&self, there: &SlicesThere<'_>) -> Vec<SliceWork> {
        let opening: BTreeSet<FrontPort> = self.openings.iter().flat_map(|opening| opening.add.clone()).collect();
        let mut work: Vec<SliceWork> = self
            .in_place
            .iter()
            .flat_map(|key| key.front_ports().map(|port| (*key, port)))
            .map(|(key, port)| self.slices_of(key, port, false, there))
            .collect();
        let left = there.of_port.iter().filter(|(port, _)| !self.stays.contains(port) && !opening.contains(port));
        work.extend(left.map(|(_, slices)| SliceWork {
            delete: slices.values().map(|(id, _)| id.clone()).collect(),
            ..SliceWork::default()
        }));
        work.retain(|work| !(work.write.is_empty() && work.delete.is_empty()));
        work
    }

    /// The changes of the slices of ports that are about to open.
    pub(super) fn slices_to_open(&self, there: &SlicesThere<'_>) -> Vec<SliceWork> {
        let opens = |opening: &Opening| {
            let add = opening.add.clone();
            let keys = opening.opens.clone().into_iter();
            keys.flat_map(|key| key.front_ports().map(move |port| (key, port))).filter(move |(_, p)| add.contains(p))
        };
        let work = self.openings.iter().flat_map(opens).map(|(key, port)| self.slices_of(key, port, true, there));
        work.filter(|work| !(work.write.is_empty() && work.delete.is_empty())).collect()
    }

    fn slices_of(&self, key: ListenerKey, port: FrontPort, delete_first: bool, there: &SlicesThere<'_>) -> SliceWork {
        let mut work = SliceWork { listener: Some(key), delete_first, ..SliceWork::default() };
        let none = BTreeMap::new();
        let seen = there.of_port.get(&port).unwrap_or(&none);
        let Some(listener) = self.desired.listeners.get(&key) else { return work };
        let arranged = arrange(port, &listener.backends_of(port.transport), seen.values().map(|(_, seen)| *seen));
        let stale = seen.iter().filter(|(place, _)| !arranged.contains_key(place));
        work.delete = stale.map(|(_, (id, _))| id.clone()).collect();
        for (place, backends) in arranged {
            let slice = Slice {
                service: there.service.clone(),
                service_uid: there.service_uid.clone(),
                listener: key,
                owner: listener.owner.clone(),
                place,
                backends: backends.into(),
            };
            if seen.get(&place).and_then(|(_, seen)| seen.slice.as_ref()) != Some(&slice) {
                work.write.push(slice);
            }
        }
        work
    }
}

fn ports<'k>(keys: impl IntoIterator<Item = &'k ListenerKey>) -> BTreeSet<FrontPort> {
    keys.into_iter().flat_map(|key| key.front_ports()).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
