//! How many targets the ports of claims have now, for load balancers that take
//! only so many.

use std::sync::Arc;

use sharedlb_crds::{Endpoints, SharedLBClassSpec};
use sharedlb_providers::Provider;

use crate::assign::{Claim, PortRequest};
use crate::claim::ClaimObject;
use crate::cluster::backends::Backends;

/// Counts the targets of claims.
pub(super) struct TargetCounts<'a> {
    backends: &'a Backends,
    provider: &'a Arc<dyn Provider>,
    endpoints: Endpoints,
    /// The most that one listener has
    most: u32,
}

impl<'a> TargetCounts<'a> {
    /// Those that this provider would register for a class with this spec.
    pub(super) fn new(backends: &'a Backends, provider: &'a Arc<dyn Provider>, spec: &SharedLBClassSpec) -> Self {
        let most = provider.capabilities().max_targets_per_listener.unwrap_or(u32::MAX);
        Self { backends, provider, endpoints: spec.endpoints, most }
    }

    /// What the claim asks for, with the targets of each of its ports.
    pub(super) fn request(&self, claim: &ClaimObject) -> Claim {
        let mut request = claim.request.clone();
        for port in &mut request.ports {
            port.targets = self.of_port(claim, port);
        }
        request
    }

    /// A port that has no backends is about to get some, so it counts as one.
    pub(super) fn at_least(&self) -> u32 {
        1
    }

    fn of_port(&self, claim: &ClaimObject, port: &PortRequest) -> u32 {
        let backends = match claim.target.of_port(&port.name) {
            Some((service, to)) => {
                let backends = self.backends.of(service, to, port.protocol, self.endpoints);
                backends.into_iter().filter_map(|backend| self.provider.as_observed(backend)).count()
            }
            None => 0,
        };
        u32::try_from(backends).unwrap_or(u32::MAX).clamp(self.at_least(), self.most)
    }
}
