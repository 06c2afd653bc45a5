//! The names of the companion Service of a claim, and of its ports.

use std::num::NonZeroU16;
use std::sync::Arc;

use sharedlb_providers::Transport;

use crate::kubernetes::{ObjectKey, ObjectMeta, names};

/// The longest name of a Service, in characters (a DNS label, RFC 1035).
pub(crate) const NAME_MAX: usize = 63;
pub(crate) const PREFIX: &str = "slb-";

/// The key of the companion Service. Its name has a hash of the claim's uid, so that no other
/// claim has it, not even a former one of the same name.
pub(crate) fn key(claim: &ObjectMeta) -> ObjectKey {
    let readable = format!("{PREFIX}{}", claim.key.name.replace('.', "-"));
    ObjectKey { namespace: claim.key.namespace.clone(), name: names::hashed(&readable, &claim.uid, NAME_MAX).into() }
}

/// The port of a claim for which the Service has ports. They are named by the number that the
/// claim holds, which stays when the port is renamed or changes its target, place or protocol,
/// so that the Service's endpoints and node ports stay too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CompanionPort {
    /// The port of the load balancer
    pub number: NonZeroU16,
    /// The name of the claim's port
    pub name: Arc<str>,
}

impl CompanionPort {
    /// The name of the Service's port for one transport. (A port of both protocols is
    /// two ports of the Service.)
    pub(crate) fn port_name(&self, transport: Transport) -> String {
        format!("{}-{}", transport.lower_case(), self.number)
    }

    /// Whether the Service's port of this name is for this one. A Service of an earlier version
    /// has the claim's own name for it until it is written again and its endpoints are listed.
    /// (That name ends in the protocol, so the two differ.)
    pub(crate) fn is_named(&self, name: &str, transport: Transport) -> bool {
        name == self.port_name(transport) || name == self.former_name(transport)
    }

    fn former_name(&self, transport: Transport) -> String {
        let suffix = transport.lower_case();
        if self.name.is_empty() { suffix.to_owned() } else { format!("{}-{suffix}", self.name) }
    }
}
