//! The Kubernetes API of SharedLB, group `sharedlb.dev`, version `v1alpha1`.
//!
//! A team writes a [`SharedLB`], a *claim*; an administrator writes a [`SharedLBClass`].
//! `kubectl explain` prints the doc comments of the types, so they are written for the
//! authors of these objects. Rules across fields are CEL in the generated definitions:
//! there is no webhook to run, and the rules are tested here without a server.

// `KubeSchema` copies each struct, `pub` and all, into a function.
#![allow(unreachable_pub)]
// Two columns of one type are two columns.
#![allow(clippy::duplicated_attributes)]

mod class;
mod condition;
mod definitions;
mod port;
mod pricing;
mod provider;
mod shared_lb;

pub use class::{
    AddressRange, AllowedNamespaces, AllowedNamespacesFrom, Capacity, Endpoints, LoadBalancerLimits,
    LoadBalancerStatus, PortRanges, ReleasedPort, SharedLBClass, SharedLBClassSpec, SharedLBClassStatus, TargetKind,
};
pub use condition::{ConditionType, Reason};
pub use definitions::{crds, yaml};
pub use port::{PortRange, Protocol, Transport};
pub use pricing::{InvalidPrice, Price, Pricing, PricingPreset};
pub use provider::{
    AwsHealthCheck, AwsHealthCheckProtocol, AwsIpAddressType, AwsProvider, AwsScheme, AwsSubnetMapping,
    AwsTargetGroupIpAddressType, GcpFirewall, GcpFirewallManagement, GcpHealthCheck, GcpNetworkTier, GcpProvider,
    GcpScheme, GcpSessionAffinity, HttpUpdaterProvider, HttpUpdaterSecret, HttpUpdaterVerification, IpFamily,
    IpFamilyPolicy, ParkedPorts, Provider, SecretReference, ServiceProvider, VipProvider,
};
pub use shared_lb::{
    ClientIpConfig, Ingress, IngressPort, LoadBalancerIngress, PortStatus, SessionAffinity, SessionAffinityConfig,
    SharedLB, SharedLBPort, SharedLBSpec, SharedLBStatus,
};

/// The API group of every type here.
pub const GROUP: &str = "sharedlb.dev";

/// Keeps a claim until the release of its ports is recorded.
pub const CLAIM_FINALIZER: &str = "sharedlb.dev/release-ports";

/// Keeps a class until no claim uses it and no load balancer of it is left.
pub const CLASS_FINALIZER: &str = "sharedlb.dev/in-use";

/// The annotation that makes a class the default one, with the value `true`.
pub const DEFAULT_CLASS_ANNOTATION: &str = "sharedlb.dev/is-default-class";

/// The annotation of a Secret with credentials: the hosts to which they may be sent, separated by
/// commas.
pub const ALLOWED_HOSTS_ANNOTATION: &str = "sharedlb.dev/allowed-hosts";

/// The label that names the claim for which an object was created.
pub const CLAIM_LABEL: &str = "sharedlb.dev/claim";

/// The label that names the class for which an object was created.
pub const CLASS_LABEL: &str = "sharedlb.dev/class";

/// The label that names the load balancer to which an object belongs.
pub const LOAD_BALANCER_LABEL: &str = "sharedlb.dev/load-balancer";

/// The label with the id of the cluster for which an object was created.
pub const CLUSTER_ID_LABEL: &str = "sharedlb.dev/cluster-id";

/// The label of a claim that a source keeps for another object, with the kind of that:
/// `service` or `configmap`.
pub const SOURCE_LABEL: &str = "sharedlb.dev/source";

/// The annotation of an object for which a source keeps a claim, with the claim's name.
pub const CLAIM_ANNOTATION: &str = "sharedlb.dev/claim";

/// The prefix of the `loadBalancerClass` of a Service that shares the load balancers of a
/// class: the name of the class follows.
pub const SERVICE_CLASS_PREFIX: &str = "sharedlb.dev/";

/// The annotation that names the class for a Service without a
/// `loadBalancerClass`.
pub const CLASS_ANNOTATION: &str = "sharedlb.dev/class";

/// The annotation of a Service whose ports are assigned instead of requested by number, with
/// the value `true`.
pub const ASSIGN_PORTS_ANNOTATION: &str = "sharedlb.dev/assign-ports";

/// The annotation of a Service that requests the load balancer with this address.
pub const ADDRESS_ANNOTATION: &str = "sharedlb.dev/address";

/// The label of the Services and EndpointSlices that SharedLB creates: load balancers of
/// the provider `service`, and companion Services. A SharedLB that a source creates has
/// [`SOURCE_LABEL`] instead.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "sharedlb";

/// The field manager of everything that SharedLB writes.
pub const FIELD_MANAGER: &str = "sharedlb";
