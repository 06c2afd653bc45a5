//! How the traffic of a class gets to pods.

use sharedlb_crds::{Endpoints, SharedLBClassSpec, TargetKind};
use sharedlb_providers::Capabilities;

/// How the traffic of a class gets to pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Which endpoints of a Service get traffic
    pub endpoints: Endpoints,
    /// Whether it goes to pods themselves, or to a port of every node
    pub targets: TargetKind,
}

impl Default for Reach {
    fn default() -> Self {
        Self { endpoints: Endpoints::default(), targets: TargetKind::Pod }
    }
}

impl Reach {
    /// The reach of a class with this spec, whose provider has these capabilities.
    pub(crate) fn of(spec: &SharedLBClassSpec, can: &Capabilities) -> Self {
        let best = if can.pod_targets { TargetKind::Pod } else { TargetKind::Node };
        Self { endpoints: spec.endpoints, targets: spec.targets.unwrap_or(best) }
    }
}
