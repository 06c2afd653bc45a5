//! How many targets the ports of claims have now, for load balancers with a limit of
//! targets.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::sync::Arc;

use sharedlb_crds::{SharedLBClassSpec, TargetKind};
use sharedlb_providers::Provider;

use super::claims::ClaimState;
use crate::allocation::{ClaimRequest, PortRequest, numbers};
use crate::api::claim::ClaimObject;
use crate::api::companion_name;
use crate::backends::{Backends, Reach};
use crate::load_balancer::usable::usable_backends;

/// The ports that a claim requests, with the targets that they have now.
pub(super) struct CountedRequest {
    pub(super) request: ClaimRequest,
    /// Whether all targets are counted: Kubernetes lists the pods a moment after their
    /// Service is created.
    pub(super) known: bool,
}

/// Counts the targets of claims.
pub(super) struct TargetCounts<'a> {
    backends: &'a Backends,
    provider: &'a Arc<dyn Provider>,
    reach: Reach,
    /// The fewest that a port counts as: a port without backends is about to get some
    least: u32,
    /// The most that one listener has
    most: u32,
}

impl<'a> TargetCounts<'a> {
    /// Counts the targets that this provider would register for a class with this spec.
    pub(super) fn new(backends: &'a Backends, provider: &'a Arc<dyn Provider>, spec: &SharedLBClassSpec) -> Self {
        let can = provider.capabilities();
        let reach = Reach::of(spec, &can);
        let least = match reach.targets {
            TargetKind::Pod => 1,
            TargetKind::Node => u32::try_from(backends.nodes().max(1)).unwrap_or(u32::MAX),
        };
        let most = can.max_targets_per_listener.unwrap_or(u32::MAX);
        Self { backends, provider, reach, least: least.min(most), most }
    }

    /// Counts those of all ports of a claim.
    pub(super) fn of(&self, entry: &ClaimState) -> CountedRequest {
        let mut request = entry.claim.request.clone();
        for (port, number) in request.ports.iter_mut().zip(numbers(&entry.claim.request)) {
            port.targets = self.of_port(&entry.claim, port, number);
        }
        CountedRequest { request, known: self.are_known(entry) }
    }

    fn are_known(&self, ClaimState { claim, companion_error, .. }: &ClaimState) -> bool {
        let Some(service) = claim.target.service.as_ref().filter(|_| self.reach.targets == TargetKind::Pod) else {
            return true;
        };
        let to_be_listed = match self.backends.service(service) {
            Some(found) => found.has_selector,
            // The companion Service is about to be created, unless that failed.
            None => *service == companion_name::key(&claim.meta) && companion_error.is_none(),
        };
        !to_be_listed || self.backends.has_listed(service)
    }

    /// The fewest targets that a port counts as.
    pub(super) fn least(&self) -> u32 {
        self.least
    }

    /// Counts the targets of a port that has this number, or continues it.
    fn of_port(&self, claim: &ClaimObject, port: &PortRequest, number: Option<NonZeroU16>) -> u32 {
        let to = claim.target.of_port(&port.name, number);
        let targets = match to {
            Some((service, to)) if self.reach.targets == TargetKind::Pod => {
                let backends = self.backends.of(service, &to, port.protocol, self.reach.endpoints);
                // A provider that limits targets checks their IP family in `as_observed`.
                usable_backends(&**self.provider, &BTreeSet::new(), port.protocol, backends).backends.len()
            }
            // Every node is one.
            _ => 0,
        };
        u32::try_from(targets).unwrap_or(u32::MAX).clamp(self.least, self.most)
    }
}
