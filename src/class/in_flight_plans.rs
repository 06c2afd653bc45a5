//! The slots that an LB loop may have opened since the plan of its last outcome.

use std::collections::HashMap;

use sharedlb_providers::ListenerKey;

use crate::load_balancer::desired::Plan;
use crate::load_balancer::outcome::MaybeOpen;

/// The plans that one LB loop was handed. It may be carrying out any of them that is not
/// older than the one of its last outcome.
#[derive(Debug, Default)]
pub(super) struct InFlightPlans {
    /// Slots that were planned and no longer are, each with the number of the
    /// first plan without it
    pub(super) dropped: HashMap<ListenerKey, u64>,
    /// The number of the last plan with which the load balancer exists
    pub(super) existing: u64,
}

impl InFlightPlans {
    /// Records that the loop is handed `new` instead of `old`.
    pub(super) fn replace(&mut self, old: &Plan, new: &Plan) {
        self.dropped.extend(old.keys().filter(|key| !new.has(*key)).map(|key| (key, new.number)));
        if new.slots.is_some() {
            self.existing = new.number;
        }
    }

    /// What may be open, where the last outcome is about the plan `reported` and the loop
    /// was last handed `current`.
    pub(super) fn since(&mut self, reported: &Plan, current: &Plan) -> MaybeOpen {
        self.dropped.retain(|_, number| *number > reported.number);
        let newer = Some(current).filter(|current| current.number > reported.number);
        MaybeOpen {
            planned: self.dropped.keys().copied().chain(newer.into_iter().flat_map(Plan::keys)).collect(),
            exists: self.existing > reported.number,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sharedlb_providers::Protocol;
    use sharedlb_providers::memory::{Cloud, Memory};

    use super::*;
    use crate::fixtures::claim;
    use crate::load_balancer::desired::Planned;

    fn plan(number: u64, ports: Option<&[u16]>) -> Plan {
        let planned = |port: &u16| {
            let claim = claim(&format!("c{port}")).holds(0, *port).build();
            Planned::of(&claim, claim.request.held.clone().unwrap().slots)
        };
        let slots = ports.map(|ports| ports.iter().map(planned).collect());
        let mut plan = Plan::new(Arc::new(Memory::new(Cloud::default())), 0, slots);
        plan.number = number;
        plan
    }

    fn planned(since: &MaybeOpen) -> Vec<u16> {
        let mut ports: Vec<u16> = since.planned.iter().map(|key| key.port.get()).collect();
        ports.sort_unstable();
        assert!(since.planned.iter().all(|key| key.protocol == Protocol::Tcp));
        ports
    }

    #[test]
    fn a_slot_that_was_planned_and_dropped_since_may_be_open_until_the_drop_is_reported() {
        let plans = [plan(0, Some(&[])), plan(1, Some(&[1, 2])), plan(2, Some(&[2]))];
        let mut handed = InFlightPlans::default();
        handed.replace(&plans[0], &plans[1]);
        assert_eq!(planned(&handed.since(&plans[0], &plans[1])), [1, 2]);
        handed.replace(&plans[1], &plans[2]);
        assert_eq!(planned(&handed.since(&plans[0], &plans[2])), [1, 2], "the plan between may be under way");
        assert_eq!(planned(&handed.since(&plans[1], &plans[2])), [1, 2]);
        assert_eq!(planned(&handed.since(&plans[2], &plans[2])), [0u16; 0]);
    }

    #[test]
    fn a_load_balancer_that_was_planned_again_is_not_gone() {
        let plans = [plan(0, None), plan(1, Some(&[])), plan(2, None)];
        let mut handed = InFlightPlans::default();
        handed.replace(&plans[0], &plans[1]);
        handed.replace(&plans[1], &plans[2]);
        assert!(handed.since(&plans[0], &plans[2]).exists);
        assert!(!handed.since(&plans[2], &plans[2]).exists);
    }
}
