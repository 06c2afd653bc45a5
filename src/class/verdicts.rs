//! The verdict on each claim. Pure.

use std::sync::Arc;

use sharedlb_crds::{LoadBalancerStatus, Reason, TargetKind};
use sharedlb_providers::{Address, AffinitySupport};

use super::claims::ClaimState;
use super::state::{Class, Context};
use crate::allocation::{Assignment, Held, HeldSlot, LackingOption};
use crate::api::claim::ClaimObject;
use crate::class::companion;
use crate::class::programmed;
use crate::class::render::{Programmed, Unallocated, Verdict};
use crate::load_balancer::outcome::{Failure, ListenerOutcome, Outcome};
use crate::process::tasks;

impl Class {
    /// The verdict on a claim, from its assignment and the outcome of its load balancer.
    pub(super) fn verdict(&self, state: &ClaimState, got: &Assignment, context: &Context<'_>) -> Verdict {
        tasks::at("SharedLB", &state.claim.meta.key);
        let outcome = got.granted.as_ref().and_then(|held| self.outcomes.get(&held.index));
        let heard = outcome.filter(|outcome| outcome.exists.is_some());
        Verdict {
            refused: self.refusal(&state.claim, got, context),
            programmed: got
                .granted
                .as_ref()
                .map_or(Programmed::Pending, |held| self.programmed(state, held, outcome, context)),
            addresses: match &got.granted {
                Some(held) => heard.map(|outcome| programmed::addresses(&state.claim, held, outcome)),
                None => Some(Arc::default()),
            },
            open: heard.map(|outcome| programmed::open(&state.claim, outcome)).unwrap_or_default(),
            held: got.granted.clone(),
        }
    }

    fn refusal(&self, claim: &ClaimObject, got: &Assignment, context: &Context<'_>) -> Option<Unallocated> {
        let name = self.name.as_deref().unwrap_or_default();
        if let Err(error) = &claim.spec {
            return Some(Unallocated::new(
                Reason::Unsupported,
                format!("the spec can't be read ({error}): correct it"),
            ));
        }
        if let Some(message) = self.unfit_service(claim, context) {
            return Some(Unallocated::new(Reason::Unsupported, message));
        }
        if let Some(message) = self.elsewhere(claim, got) {
            return Some(Unallocated::new(Reason::AddressUnknown, message));
        }
        let (port, refusal) = got.refused.first()?;
        if let (Some(Reason::NotPermitted), Some(suspended)) = (refusal.reason(), self.suspended.clone()) {
            // Authors of claims may not know which object it is.
            let secret =
                || format!("class {name} gives no new ports until an admin corrects what its conditions report");
            let message = if suspended.reason.is_some() { suspended.message } else { secret() };
            return Some(Unallocated { message, ..suspended });
        }
        Some(Unallocated { reason: refusal.reason(), message: refused_ports(got, port, &refusal.message(name)) })
    }

    /// Why the Service that the claim names cannot be used.
    fn unfit_service(&self, claim: &ClaimObject, context: &Context<'_>) -> Option<String> {
        let named = claim.spec.as_ref().ok()?.service_name.as_ref()?;
        let service = context.backends.service(claim.target.service.as_ref()?)?;
        if service.external_name {
            return Some(format!("Service {named} is of type ExternalName, which has no pods: name another Service"));
        }
        let to_nodes = self.targets() == TargetKind::Node;
        (to_nodes && !service.has_selector).then(|| companion::no_selector(named))
    }

    /// Why a claim whose spec has another address than its load balancer stays where it
    /// is.
    fn elsewhere(&self, claim: &ClaimObject, got: &Assignment) -> Option<String> {
        let (asked, held) = (claim.request.address.as_ref()?, got.granted.as_ref()?);
        let heard = self.outcomes.get(&held.index).filter(|outcome| outcome.exists.is_some());
        let addresses: Vec<Address> = match heard {
            Some(outcome) => outcome.addresses.to_vec(),
            // The claim's status does not have those at which its source ranges admit no client.
            None => self.recorded_addresses(held.index),
        };
        let here = addresses.first().filter(|_| !addresses.contains(asked))?;
        Some(format!(
            "its ports are on {here}, and are never moved: set address to that, or delete the claim and create it again for {asked}"
        ))
    }

    /// The addresses of a load balancer by the status of the class.
    fn recorded_addresses(&self, index: u32) -> Vec<Address> {
        let status = self.object.iter().flat_map(|class| &class.status);
        let recorded = status.flat_map(|status| &status.load_balancers).find(|recorded| recorded.index == index);
        recorded.into_iter().flat_map(LoadBalancerStatus::all_addresses).map(Address::parse).collect()
    }

    /// The state of a claim's slots on its load balancer.
    fn programmed(
        &self,
        state: &ClaimState,
        held: &Held,
        outcome: Option<&Outcome>,
        context: &Context<'_>,
    ) -> Programmed {
        let claim = &state.claim;
        let why_none =
            |slot: &HeldSlot, listener: &ListenerOutcome| self.why_none(state, held, slot, listener, context);
        let why_none_of = |slot: &HeldSlot, family| self.why_none_of(claim, slot, family, context);
        let (Some(settings), Some(requested)) = (&self.settings, claim.request.options.as_deref()) else {
            return programmed::programmed(claim, held, None, outcome, why_none, why_none_of);
        };
        let can = settings.provider.capabilities();
        let offered = requested.offered_by(&can);
        let mut programmed = programmed::programmed(claim, held, Some(&offered), outcome, why_none, why_none_of);
        if let Programmed::Served(served) = &mut programmed
            && can.session_affinity == AffinitySupport::FixedTimeout
        {
            served.least_affinity = requested.session_affinity.and_then(|affinity| affinity.timeout);
        }
        match claim.request.lacks(&settings.lacking) {
            Some(lacking) => self.lacks(claim, lacking, programmed, outcome),
            None => programmed,
        }
    }

    /// The state of the slots of a claim that requests an option which its listeners cannot
    /// have, where `programmed` is their state without it.
    fn lacks(
        &self,
        claim: &ClaimObject,
        lacking: LackingOption,
        programmed: Programmed,
        outcome: Option<&Outcome>,
    ) -> Programmed {
        if matches!(programmed, Programmed::Failed(_)) {
            return programmed;
        }
        let closes = lacking.option.is_about_clients()
            && outcome.is_some_and(|outcome| !programmed::open(claim, outcome).is_empty());
        match outcome.and_then(|outcome| outcome.failure.clone()).filter(|_| closes) {
            Some(failure) => Programmed::Failed(failure),
            None if closes => Programmed::Pending,
            None => {
                let message = lacking.message_of_held(self.name.as_deref().unwrap_or_default());
                Programmed::Failed(Failure { reason: Reason::Unsupported, message: message.into() })
            }
        }
    }
}

/// The message for refused ports: the refusal of the first one, and how many more there
/// are. A claim that is refused as a whole has no such number.
fn refused_ports(got: &Assignment, port: &str, message: &str) -> String {
    let as_a_whole = got.granted.is_none() && got.refused.windows(2).all(|two| two[0].1 == two[1].1);
    let others = match got.refused.len() - 1 {
        _ if as_a_whole => String::new(),
        0 => String::new(),
        1 => " (and one more port was refused)".to_owned(),
        n => format!(" (and {n} more ports were refused)"),
    };
    let is_about_all = port.is_empty() || (as_a_whole && got.refused.len() > 1);
    let port = if is_about_all { String::new() } else { format!("port {port}: ") };
    format!("{port}{message}{others}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocation::Refusal;

    #[test]
    fn other_ports_are_counted_unless_the_claim_is_refused_as_a_whole() {
        let refused = |indices: [u32; 2]| {
            let refused = ["a", "b"].into_iter().zip(indices);
            let refused = refused.map(|(port, index)| (port.into(), Refusal::Unobserved { index })).collect();
            Assignment { refused, ..Assignment::default() }
        };
        assert_eq!(refused_ports(&refused([0, 0]), "a", "why"), "why");
        assert_eq!(refused_ports(&refused([0, 1]), "a", "why"), "port a: why (and one more port was refused)");
        let added = Assignment { granted: Some(Held { index: 0, slots: Arc::new([]) }), ..refused([0, 0]) };
        assert_eq!(refused_ports(&added, "a", "why"), "port a: why (and one more port was refused)");
    }
}
