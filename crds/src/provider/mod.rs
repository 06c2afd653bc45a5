//! The providers that a class can have.

mod aws;
mod gcp;
mod http_updater;
mod service;
mod vip;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

pub use self::aws::{
    AwsHealthCheck, AwsHealthCheckProtocol, AwsIpAddressType, AwsProvider, AwsScheme, AwsSubnetMapping,
    AwsTargetGroupIpAddressType,
};
pub use self::gcp::{
    GcpFirewall, GcpFirewallManagement, GcpHealthCheck, GcpNetworkTier, GcpProvider, GcpScheme, GcpSessionAffinity,
    SecretReference,
};
pub use self::http_updater::{HttpUpdaterProvider, HttpUpdaterSecret, HttpUpdaterVerification};
pub use self::service::{IpFamily, IpFamilyPolicy, ParkedPorts, ServiceProvider};
pub use self::vip::VipProvider;

/// The provider of a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Provider {
    /// An ordinary Service of type LoadBalancer.
    Service(ServiceProvider),
    /// A Network Load Balancer of AWS.
    Aws(Box<AwsProvider>),
    /// Virtual IP addresses that the nodes of the cluster serve.
    Vip(VipProvider),
    /// A passthrough Network Load Balancer of Google Cloud.
    Gcp(Box<GcpProvider>),
    /// A host with NGINX, whose configuration an updater writes.
    HttpUpdater(Box<HttpUpdaterProvider>),
}

impl Provider {
    /// The name of its kind, as in the API.
    pub fn kind(&self) -> &'static str {
        match self {
            Provider::Service(_) => "service",
            Provider::Aws(_) => "aws",
            Provider::Vip(_) => "vip",
            Provider::Gcp(_) => "gcp",
            Provider::HttpUpdater(_) => "httpUpdater",
        }
    }
}

impl Default for Provider {
    fn default() -> Self {
        Provider::Service(ServiceProvider::default())
    }
}

/// The schema of [`Provider`]: the same in the API, but as a struct, so that the message of
/// the rule of "exactly one" can name the providers.
#[derive(Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "[has(self.service), has(self.aws), has(self.vip), has(self.gcp), has(self.httpUpdater)].filter(given, given).size() == 1",
        "give exactly one provider; there are: service, aws, vip, gcp, httpUpdater",
    ),
    validation = (
        "has(self.service) == has(oldSelf.service) && has(self.aws) == has(oldSelf.aws) && has(self.vip) == has(oldSelf.vip) \
         && has(self.gcp) == has(oldSelf.gcp) && has(self.httpUpdater) == has(oldSelf.httpUpdater)",
        "the kind of provider cannot be changed: make a new class, and move the claims to it",
    )
)]
pub(crate) struct ProviderSchema {
    /// An ordinary Service of type LoadBalancer, for any implementation of
    /// those: a cloud's controller, MetalLB, k3s. Needs no credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<ServiceProvider>,
    /// Network Load Balancers of AWS, which the controller itself creates and
    /// programs. Needs credentials with the permissions to do that.
    #[serde(skip_serializing_if = "Option::is_none")]
    aws: Option<AwsProvider>,
    /// Virtual IP addresses, which are the `addresses` of the class: kube-proxy
    /// or Cilium on every node accepts traffic to them. The packets must be
    /// brought to the nodes: by BGP, by routes, or by keepalived.
    #[serde(skip_serializing_if = "Option::is_none")]
    vip: Option<VipProvider>,
    /// Passthrough Network Load Balancers of Google Cloud, which the controller
    /// itself creates: one forwarding rule for all ports of an address. Needs
    /// credentials with the permissions to do that.
    #[serde(skip_serializing_if = "Option::is_none")]
    gcp: Option<GcpProvider>,
    /// A host with NGINX, whose configuration an updater writes: a program with
    /// the HTTP API of nginx-lb-updater, which the controller calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    http_updater: Option<HttpUpdaterProvider>,
}
