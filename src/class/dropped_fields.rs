//! Fields of a status that the API server drops, since the
//! CustomResourceDefinition is that of an earlier version.

use sharedlb_crds::{PortStatus, SharedLBClassStatus, SharedLBStatus};
use tracing::warn;

/// The fields that the API server dropped. A status that is rendered with them would be
/// written again and again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct DroppedFields {
    target_port: bool,
    opened: bool,
    addresses: bool,
    class_addresses: bool,
}

impl DroppedFields {
    /// Compares a status that was written with what the API server kept of it.
    pub(super) fn learn(&mut self, written: &SharedLBStatus, kept: &SharedLBStatus) {
        let drops = |has: fn(&PortStatus) -> bool| written.ports.iter().any(has) && !kept.ports.iter().any(has);
        learn(
            &mut self.target_port,
            "status.ports[].targetPort of SharedLBs",
            drops(|port| port.target_port.is_some()),
        );
        learn(&mut self.opened, "status.ports[].opened of SharedLBs", drops(|port| port.opened));
        let drops_addresses = !written.addresses.is_empty() && kept.addresses.is_empty();
        learn(&mut self.addresses, "status.addresses of SharedLBs", drops_addresses);
    }

    /// The same of the status of a class.
    pub(super) fn learn_of_class(&mut self, written: &SharedLBClassStatus, kept: &SharedLBClassStatus) {
        let has = |status: &SharedLBClassStatus| status.load_balancers.iter().any(|lb| !lb.addresses.is_empty());
        let drops = has(written) && !has(kept);
        learn(&mut self.class_addresses, "status.loadBalancers[].addresses of SharedLBClasses", drops);
    }

    /// Removes these fields from a status.
    pub(super) fn remove_from(self, status: &mut SharedLBStatus) {
        for port in &mut status.ports {
            port.target_port.take_if(|_| self.target_port);
            port.opened &= !self.opened;
        }
        if self.addresses {
            status.addresses.clear();
        }
    }

    /// Removes these fields from the status of a class.
    pub(super) fn remove_from_class(self, status: &mut SharedLBClassStatus) {
        if self.class_addresses {
            status.load_balancers.iter_mut().for_each(|lb| lb.addresses.clear());
        }
    }
}

fn learn(known: &mut bool, field: &str, drops: bool) {
    if drops && !*known {
        warn!(
            "the API server drops {field}: apply the CustomResourceDefinitions of this version, and restart the controller"
        );
        *known = true;
    }
}
