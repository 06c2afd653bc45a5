//! Claims that get no ports because of their class: it does not exist, or its spec could
//! never be parsed. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use sharedlb_crds::Reason;

use super::claims::ClaimState;
use super::decide::unreadable_status;
use super::effect::{ClassChange, Effect};
use super::render::{Programmed, Unallocated, Verdict};
use super::state::{Class, Context};
use super::suspension::unreadable_spec;
use crate::api::claim::ClaimObject;
use crate::api::class::ClassObject;

impl Class {
    /// A class whose spec could not be parsed since this process started: its load balancers
    /// stay as they are, and waiting claims are refused.
    pub(super) fn unreadable(&mut self, class: &Arc<ClassObject>, context: &Context<'_>) -> Vec<Effect> {
        let message = unreadable_spec(class).unwrap_or_default();
        let mut effects = Vec::new();
        if let Ok(before) = &class.status {
            let status = unreadable_status(before, &message, class.meta.generation, context.now.time);
            if status != *before {
                effects.push(self.write_class(class, ClassChange::Status(Box::new(status)), &context.now));
            }
        }
        // A claim that is being deleted may be released: a source creates its claims with the
        // finalizer.
        let holds_nothing = |state: &&ClaimState| state.claim.request.held.is_none() && !state.claim.unparsable;
        let empty: Vec<Arc<ClaimObject>> =
            self.claims.all().filter(holds_nothing).map(|state| state.claim.clone()).collect();
        let verdict = Verdict {
            held: None,
            refused: Some(Unallocated::new(Reason::Unsupported, message)),
            programmed: Programmed::Pending,
            addresses: Some(Arc::default()),
            open: BTreeSet::new(),
        };
        effects.extend(self.refuse(&empty, &verdict, context));
        effects
    }

    /// Claims whose class does not exist, or that name none while there is no default: they are
    /// refused, and keep their slots.
    pub(super) fn without_class(&mut self, context: &Context<'_>) -> Vec<Effect> {
        let (reason, message) = match &self.name {
            Some(name) => {
                (Reason::NoClass, format!("class {name} does not exist: create it, or create the claim again with another className"))
            }
            None => (
                Reason::NoDefaultClass,
                "no className is given, and no class is the default: name one, or annotate a class with sharedlb.dev/is-default-class: \"true\"".to_owned(),
            ),
        };
        let all: Vec<Arc<ClaimObject>> = self.claims.all().map(|state| state.claim.clone()).collect();
        let verdict = Verdict {
            held: None,
            refused: Some(Unallocated::new(reason, message)),
            programmed: Programmed::Unknown,
            addresses: None,
            open: BTreeSet::new(),
        };
        self.refuse(&all, &verdict, context)
    }

    /// Refuses these claims with this verdict, beside the slots that they hold, and releases
    /// those that are being deleted.
    fn refuse(&mut self, claims: &[Arc<ClaimObject>], verdict: &Verdict, context: &Context<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for claim in claims.iter().filter(|claim| !claim.meta.deleting && !claim.unparsable) {
            if self.claims.get(claim).is_some_and(|state| state.writes.are_free(context.now.instant)) {
                let verdict = Verdict { held: claim.request.held.clone(), ..verdict.clone() };
                effects.extend(self.report(claim, verdict, context));
            }
        }
        effects.extend(self.release_deleted(claims, &context.now));
        effects.extend(Self::wake_when_released(self.claims.all(), &context.now));
        effects
    }
}
