//! Claims as tests read them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use sharedlb_crds::{ConditionType, SharedLB};

/// A port that a claim was given: the index of the load balancer, the protocol
/// and the number.
pub type Slot = (u32, &'static str, u16);

/// A claim's slots by the names of its ports.
pub fn slots(claim: &SharedLB) -> BTreeMap<String, Slot> {
    let Some(status) = &claim.status else { return BTreeMap::new() };
    let index = status.load_balancer_index.unwrap_or(u32::MAX);
    status.ports.iter().map(|port| (port.name.clone(), (index, port.protocol.as_str(), port.port.get()))).collect()
}

/// What a claim's status says about one thing.
pub fn condition(claim: &SharedLB, kind: ConditionType) -> Option<&Condition> {
    let conditions = &claim.status.as_ref()?.conditions;
    conditions.iter().find(|condition| condition.type_ == kind.as_str())
}
