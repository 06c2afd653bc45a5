//! The effects of a step of a class: data, which the executor carries out.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use sharedlb_crds::{SharedLBClassStatus, SharedLBStatus};
use sharedlb_providers::ListenerKey;
use tokio::time::Instant;

use super::writes::WriteError;
use crate::allocation::Usage;
use crate::api::claim::ClaimObject;
use crate::api::class::ClassObject;
use crate::backends::ServiceObject;
use crate::kubernetes::ObjectMeta;
use crate::load_balancer::desired::Plan;
use crate::process::metrics::{Cost, SLOT_STATES, VERDICTS};

/// One effect of a step. The effects of a step are carried out in their order; none waits
/// for the answer to an earlier one.
pub(super) enum Effect {
    /// Write to a claim.
    Claim(ClaimWrite),
    /// Write to the companion Service of a claim.
    Companion(Arc<ClaimObject>, CompanionWrite),
    /// Write to the class.
    Class(ClassWrite),
    /// Start the LB loop of a load balancer.
    Start(StartLoadBalancer),
    /// Hand an LB loop another plan.
    Plan(u32, Arc<Plan>),
    /// End the LB loop of a load balancer that is gone.
    Stop(u32),
    /// Export these figures.
    Export(Figures),
    /// Reconcile the class at this time, even if nothing happens until then.
    WakeAt(Instant),
    /// Reconcile the class again; its debounce applies.
    Again,
}

/// A write to a claim, on the version that it was decided on.
pub(super) struct ClaimWrite {
    /// The claim as it was decided on
    pub(super) claim: Arc<ClaimObject>,
    pub(super) what: ClaimChange,
    /// The class that waits for the answer before it decides again
    pub(super) awaited_by: Option<Arc<str>>,
}

/// A change of a claim.
pub(super) enum ClaimChange {
    Status {
        /// The whole status
        status: Box<SharedLBStatus>,
        /// Slots in the claim's old status that an older claim holds
        lost: Vec<ListenerKey>,
    },
    /// Our finalizer is added.
    Protect,
    /// Our finalizer is removed.
    Release,
}

/// A change of the companion Service of a claim.
pub(super) enum CompanionWrite {
    Create(Box<Service>),
    Correct(ObjectMeta, Box<Service>),
    Delete(ObjectMeta),
}

/// A write to a class. The class is neither written again nor decided on before the answer.
pub(super) struct ClassWrite {
    /// The class as it was decided on
    pub(super) class: Arc<ClassObject>,
    pub(super) what: ClassChange,
}

/// A change of a class.
pub(super) enum ClassChange {
    Status(Box<SharedLBClassStatus>),
    /// Our finalizer is added.
    Protect,
    /// Our finalizer is removed.
    Release,
}

/// The arguments of a new LB loop.
pub(super) struct StartLoadBalancer {
    pub(super) index: u32,
    pub(super) class_uid: Arc<str>,
    pub(super) plan: Arc<Plan>,
    /// Whether the load balancer existed, since the class' status has its address
    pub(super) existed: bool,
    /// Whether its address is overdue by the class' status
    pub(super) address_overdue: bool,
}

/// Figures of a class, for metrics.
pub(super) struct Figures {
    /// Claims by verdict, in the order of [`VERDICTS`]
    pub(super) claims: [usize; VERDICTS.len()],
    /// Slots of each load balancer by state, in the order of [`SLOT_STATES`]
    pub(super) slots: Vec<(u32, [u32; SLOT_STATES.len()])>,
    pub(super) usage: Usage,
    /// `None`: the class has no prices
    pub(super) cost: Option<Cost>,
}

/// The answer to a write.
pub(super) enum Answer {
    Claim(ClaimWrite, Result<Box<ClaimObject>, WriteError>),
    /// `None`: the Service was deleted
    Companion(Arc<ClaimObject>, Result<Option<Box<ServiceObject>>, WriteError>),
    Class(ClassWrite, Result<Box<ClassObject>, WriteError>),
}
