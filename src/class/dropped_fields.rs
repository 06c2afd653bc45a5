//! Fields of a claim's status that the API server drops, since the
//! CustomResourceDefinition is that of an earlier version.

use sharedlb_crds::{PortStatus, SharedLBStatus};
use tracing::warn;

/// The fields that the API server dropped. A status that is rendered with them would be
/// written again and again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DroppedFields {
    target_port: bool,
    opened: bool,
}

impl DroppedFields {
    /// Compares a status that was written with what the API server kept of it.
    pub(super) fn learn(&mut self, written: &SharedLBStatus, kept: &SharedLBStatus) {
        let drops = |has: fn(&PortStatus) -> bool| written.ports.iter().any(has) && !kept.ports.iter().any(has);
        learn(&mut self.target_port, "targetPort", drops(|port| port.target_port.is_some()));
        learn(&mut self.opened, "opened", drops(|port| port.opened));
    }

    /// Removes these fields from a status.
    pub(super) fn remove_from(self, status: &mut SharedLBStatus) {
        for port in &mut status.ports {
            port.target_port.take_if(|_| self.target_port);
            port.opened &= !self.opened;
        }
    }
}

fn learn(known: &mut bool, field: &str, drops: bool) {
    if drops && !*known {
        warn!(
            "the API server drops status.ports[].{field} of SharedLBs: apply the CustomResourceDefinitions of this version, and restart the controller"
        );
        *known = true;
    }
}
