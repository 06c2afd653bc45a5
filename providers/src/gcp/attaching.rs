//! Which instances the next call puts into a group. Pure.
//!
//! Compute Engine refuses a call as a whole, and need not name the instance that it refuses. So
//! after a refusal the next call has half as many instances, until only one is refused: that one
//! is left out.

use std::collections::BTreeMap;

use super::objects::Zone;
use crate::Error;

/// The most instances in one call. (API reference of networkEndpointGroups.attachNetworkEndpoints.)
pub(super) const INSTANCES_AT_ONCE: usize = 500;

/// What was learnt from calls that were refused.
#[derive(Debug, Clone, Default)]
pub(super) struct Attaching {
    /// The instances of each zone that cannot be attached, with the cause
    refused: BTreeMap<Zone, BTreeMap<String, Error>>,
    /// The most instances of a zone in the next call
    at_once: BTreeMap<Zone, usize>,
}

impl Attaching {
    /// Those of these instances that the next call attaches.
    pub(super) fn next<'a>(&self, zone: &Zone, missing: impl Iterator<Item = &'a String>) -> Vec<String> {
        let refused = self.refused.get(zone);
        let may_be_attached = missing.filter(|instance| refused.is_none_or(|refused| !refused.contains_key(*instance)));
        let at_once = self.at_once.get(zone).copied().unwrap_or(INSTANCES_AT_ONCE);
        may_be_attached.take(at_once).cloned().collect()
    }

    /// Records that a call with these instances was refused.
    pub(super) fn note_refused(&mut self, zone: &Zone, instances: &[String], error: Error) {
        if let [instance] = instances {
            self.at_once.remove(zone);
            self.refused.entry(zone.clone()).or_default().insert(instance.clone(), error);
        } else {
            self.at_once.insert(zone.clone(), instances.len() / 2);
        }
    }

    /// The error of an instance that cannot be attached; `None`: there is none.
    pub(super) fn error(&self) -> Option<Error> {
        let (zone, instances) = self.refused.first_key_value()?;
        let (instance, error) = instances.first_key_value()?;
        let others = self.refused.values().map(BTreeMap::len).sum::<usize>() - 1;
        let others = if others == 0 { String::new() } else { format!(" (and {others} others)") };
        Some(error.clone().within(format!("traffic does not enter by the node {instance} in {zone}{others}")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn only_the_instances_that_are_refused_stay_out_after_a_few_calls() {
        let zone = Zone::from("europe-west3-a");
        let all: BTreeSet<String> = (0..250).map(|number| format!("node-{number:03}")).collect();
        let bad: BTreeSet<String> = ["node-007".to_owned(), "node-199".to_owned()].into();
        let mut attaching = Attaching::default();
        let mut attached = BTreeSet::new();
        let mut calls = 0;
        loop {
            let next = attaching.next(&zone, all.difference(&attached));
            if next.is_empty() {
                break;
            }
            calls += 1;
            assert!(calls < 40, "{next:?}");
            if next.iter().any(|instance| bad.contains(instance)) {
                attaching.note_refused(&zone, &next, Error::Refused("it does not exist".into()));
            } else {
                attached.extend(next);
            }
        }
        assert_eq!(all.difference(&attached).cloned().collect::<BTreeSet<_>>(), bad);
        let why = format!("{:#}", attaching.error().expect("it is reported"));
        assert!(why.contains("node-007 in europe-west3-a (and 1 others): it does not exist"), "{why}");
    }
}
