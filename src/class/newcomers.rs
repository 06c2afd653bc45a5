//! Ports for new claims, without a decision. Pure.

use std::sync::Arc;

use super::claims::changes_slots;
use super::decide::{begins, decide, states_as_recorded};
use super::effect::Effect;
use super::state::{Class, Context};
use crate::allocation::Assignment;
use crate::api::claim::ClaimObject;
use crate::api::class::ClassObject;

impl Class {
    /// Assigns to newcomers what a decision would assign, without one. `None`: there are none,
    /// or it takes a decision.
    pub(super) fn admit(&mut self, class: &ClassObject, context: &Context<'_>) -> Option<Vec<Effect>> {
        let mut ledger = self.ledger.take_if(|ledger| ledger.has_newcomers())?;
        let facts = self.facts(class, Vec::new(), context).filter(|_| self.abandoned.is_empty())?;
        if !ledger.admits(&states_as_recorded(&facts), &facts.policy, context.now.instant) {
            return None;
        }
        let newcomers = ledger.admit()?;
        if newcomers.iter().filter_map(|(_, got)| got.as_ref()).any(|got| begins(&facts, got)) {
            return None;
        }
        debug_assert!(self.decides_alike(class, &newcomers, context), "a decision gives something else");
        self.ledger = Some(ledger);
        let mut effects = self.give_slots(&newcomers, context);
        effects.push(Effect::Again);
        Some(effects)
    }

    /// Whether a decision assigns this to these claims, and to all others what they have.
    fn decides_alike(
        &self,
        class: &ClassObject,
        newcomers: &[(Arc<ClaimObject>, Option<Assignment>)],
        context: &Context<'_>,
    ) -> bool {
        let claims = self.claims.all().map(|state| &state.claim).collect();
        let Some(facts) = self.facts(class, claims, context) else { return false };
        let (decision, _) = decide(&facts);
        let decided = facts.claims.iter().zip(&decision.assignments).all(|(claim, got)| {
            match newcomers.iter().find(|(newcomer, _)| Arc::ptr_eq(newcomer, claim)) {
                Some((_, given)) => got == given,
                None => got.as_ref().is_none_or(|got| !changes_slots(claim, got)),
            }
        });
        decided && !decision.class_first()
    }
}
