//! What a step of a class asks for: data, which the executor carries out.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use sharedlb_crds::{SharedLBClassStatus, SharedLBStatus};
use sharedlb_providers::ListenerKey;
use tokio::time::Instant;

use super::writes::WriteError;
use crate::api::claim::ClaimObject;
use crate::api::class::ClassObject;
use crate::backends::ServiceObject;
use crate::kubernetes::ObjectMeta;
use crate::load_balancer::desired::Plan;
use crate::process::metrics::VERDICTS;

/// One thing that a step asks for. The effects of a step are carried out in their
/// order; no later one waits for the answer to an earlier one.
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
    /// Reconcile the class at this time, although nothing happens until then.
    WakeAt(Instant),
    /// Reconcile the class again; its debounce applies.
    Again,
}

/// A write to a claim, on the version that it was decided on.
pub(super) struct ClaimWrite {
    /// The claim as it was decided on
    pub(super) claim: Arc<ClaimObject>,
    /// What is written
    pub(super) what: ClaimChange,
    /// The class that waits for the answer before it decides again
    pub(super) awaited_by: Option<Arc<str>>,
}

/// What is written to a claim.
pub(super) enum ClaimChange {
    Status {
        /// The whole status
        status: Box<SharedLBStatus>,
        /// Slots that the status named and that an older claim holds
        lost: Vec<ListenerKey>,
    },
    /// Our finalizer is added.
    Protect,
    /// Our finalizer is removed.
    Release,
}

/// What is written to the companion Service of a claim.
pub(super) enum CompanionWrite {
    Create(Box<Service>),
    Correct(ObjectMeta, Box<Service>),
    Delete(ObjectMeta),
}

/// A write to a class. No other write of it, and no decision, is made before the
/// answer.
pub(super) struct ClassWrite {
    /// The class as it was decided on
    pub(super) class: Arc<ClassObject>,
    /// What is written
    pub(super) what: ClassChange,
}

/// What is written to a class.
pub(super) enum ClassChange {
    Status(Box<SharedLBClassStatus>),
    /// Our finalizer is added.
    Protect,
    /// Our finalizer is removed.
    Release,
}

/// What the LB loop of a load balancer begins with.
pub(super) struct StartLoadBalancer {
    pub(super) index: u32,
    /// The uid of its class
    pub(super) class_uid: Arc<str>,
    pub(super) plan: Arc<Plan>,
    /// Whether the class' status says that it has an address, and so existed
    pub(super) existed: bool,
    /// Whether the class' status says that its address is overdue
    pub(super) address_overdue: bool,
}

/// Figures of a class, for metrics.
pub(super) struct Figures {
    /// Claims by verdict, in the order of [`VERDICTS`]
    pub(super) claims: [usize; VERDICTS.len()],
    /// Slots of each load balancer, by state
    pub(super) slots: Vec<(u32, [(&'static str, u32); 3])>,
}

/// The answer to a write.
pub(super) enum Answer {
    Claim(ClaimWrite, Result<Box<ClaimObject>, WriteError>),
    /// `None`: the Service was deleted
    Companion(Arc<ClaimObject>, Result<Option<Box<ServiceObject>>, WriteError>),
    Class(ClassWrite, Result<Box<ClassObject>, WriteError>),
}
