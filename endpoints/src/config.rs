//! What a load balancer is told when it is made.

use crate::select::Rules;

/// The Service to balance over, and how.
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) service: String,
    pub(crate) namespace: Option<String>,
    pub(crate) policy: Policy,
    pub(crate) rules: Rules,
}

impl Config {
    /// The Service of this name, in the client's own namespace: that of the pod in a cluster, that
    /// of the current context in a kubeconfig file.
    #[must_use]
    pub fn new(service: impl Into<String>) -> Self {
        Self { service: service.into(), namespace: None, policy: Policy::default(), rules: Rules::default() }
    }

    /// The namespace of the Service.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// The name of the Service's port (`spec.ports[].name`). It may be another number in each pod.
    ///
    /// Needed if the Service has several ports; without it, the only port is used.
    #[must_use]
    pub fn port(mut self, name: impl Into<String>) -> Self {
        self.rules.port = Some(name.into());
        self
    }

    /// Which addresses of a dual-stack Service are used. Default: IPv4, or else IPv6.
    #[must_use]
    pub fn families(mut self, families: Families) -> Self {
        self.rules.families = families;
        self
    }

    /// The zone of this client (label `topology.kubernetes.io/zone` of its node).
    ///
    /// With it, zone hints (`trafficDistribution` of the Service) are followed as kube-proxy does:
    /// only the endpoints for this zone are used, if every ready endpoint has a hint and at least
    /// one is for this zone. Default: hints are ignored.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.rules.zone = Some(zone.into());
        self
    }

    /// How an endpoint is chosen. Default: [`Policy::PowerOfTwoChoices`].
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }
}

/// How the endpoint of a request is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// Of two endpoints drawn at random, the one with fewer requests in flight. Slow endpoints get
    /// fewer requests, and many clients do not all choose the same one.
    #[default]
    PowerOfTwoChoices,
    /// One after another, from a random start: many clients that start at once do not begin with
    /// the same endpoint.
    RoundRobin,
}

/// Which IP families are used.
///
/// A family is preferred among endpoints that are equally fit: ready endpoints of the other family
/// go before terminating ones of the preferred family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Families {
    /// IPv4, or IPv6 if no IPv4 endpoint is fit.
    #[default]
    PreferIpv4,
    /// IPv6, or IPv4 if no IPv6 endpoint is fit.
    PreferIpv6,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}
