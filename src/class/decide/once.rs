//! One decision for tests elsewhere: a class of which nothing has been heard yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use sharedlb_crds::{Reason, SharedLBClassSpec, SharedLBClassStatus};

use super::{Facts, decide};
use crate::allocation::{Assignment, Policy};
use crate::api::claim::ClaimObject;
use crate::api::class::ClassObject;
use crate::class::render::Unallocated;

/// What the claims get, in their order, and what the class' status says.
pub(crate) fn decide_once(
    class: &ClassObject,
    spec: &SharedLBClassSpec,
    policy: Policy,
    claims: &[Arc<ClaimObject>],
) -> (Vec<Option<Assignment>>, SharedLBClassStatus) {
    let unreadable = class.spec.as_ref().err().or(class.status.as_ref().err()).cloned();
    let (decision, _) = decide(&Facts {
        class,
        spec,
        policy: Arc::new(policy),
        suspended: unreadable.map(|message| Unallocated::new(Reason::Unsupported, message)),
        confined_to: None,
        claims: claims.iter().collect(),
        counted: None,
        targets_closing: 0,
        outcomes: &BTreeMap::new(),
        abandoned: &[],
        now: "2026-02-01T00:00:00Z".parse().unwrap_or_default(),
    });
    (decision.assignments, decision.status)
}
