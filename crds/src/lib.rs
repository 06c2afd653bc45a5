//! The Kubernetes API of SharedLB, group `sharedlb.dev`, version `v1alpha1`.
//!
//! [`SharedLB`] is what a team asks for, a *claim*; [`SharedLBClass`] is what
//! the administrator offers. The doc comments of the types are also what
//! `kubectl explain` prints, so they are written for the people who fill the
//! fields in. Rules across fields are CEL in the generated definitions: there
//! is no webhook to run, and the same rules are tested here without a server.

// `KubeSchema` copies each struct, `pub` and all, into a function.
#![allow(unreachable_pub)]
// Two columns of one type are two columns.
#![allow(clippy::duplicated_attributes)]

mod class;
mod condition;
mod definitions;
mod port;
mod provider;
mod shared_lb;

pub use class::{
    AddressRange, AllowedNamespaces, AllowedNamespacesFrom, Capacity, Endpoints, LoadBalancerLimits,
    LoadBalancerStatus, PortRanges, ReleasedPort, SharedLBClass, SharedLBClassSpec, SharedLBClassStatus, TargetKind,
};
pub use condition::{ConditionType, Reason};
pub use definitions::{crds, yaml};
pub use port::{PortRange, Protocol, Transport};
pub use provider::{
    AwsHealthCheck, AwsHealthCheckProtocol, AwsIpAddressType, AwsProvider, AwsScheme, AwsSubnetMapping,
    AwsTargetGroupIpAddressType, IpFamily, IpFamilyPolicy, Provider, ServiceProvider,
};
pub use shared_lb::{
    Ingress, IngressPort, LoadBalancerIngress, PortStatus, SharedLB, SharedLBPort, SharedLBSpec, SharedLBStatus,
};

/// The API group of every type here.
pub const GROUP: &str = "sharedlb.dev";

/// The version of the API that the types here are.
pub const VERSION: &str = "v1alpha1";

/// Keeps a claim until the release of its ports is recorded.
pub const CLAIM_FINALIZER: &str = "sharedlb.dev/release-ports";

/// Keeps a class until no claim uses it and no load balancer of it is left.
pub const CLASS_FINALIZER: &str = "sharedlb.dev/in-use";

/// The annotation that makes a class the default one, with the value `true`.
pub const DEFAULT_CLASS_ANNOTATION: &str = "sharedlb.dev/is-default-class";

/// The label that names the claim for which an object was made.
pub const CLAIM_LABEL: &str = "sharedlb.dev/claim";

/// The label that names the class for which an object was made.
pub const CLASS_LABEL: &str = "sharedlb.dev/class";

/// The label that names the load balancer to which an object belongs.
pub const LOAD_BALANCER_LABEL: &str = "sharedlb.dev/load-balancer";

/// The label that says which cluster an object was made for.
pub const CLUSTER_ID_LABEL: &str = "sharedlb.dev/cluster-id";

/// The label of a claim that SharedLB keeps for another object: of what kind
/// that is, `service` or `configmap`.
pub const SOURCE_LABEL: &str = "sharedlb.dev/source";

/// The annotation of an object by which SharedLB remembers that it keeps a
/// claim for it, with the claim's name.
pub const CLAIM_ANNOTATION: &str = "sharedlb.dev/claim";

/// What the `loadBalancerClass` of a Service begins with that is to share the
/// load balancers of a class: the name of the class follows.
pub const SERVICE_CLASS_PREFIX: &str = "sharedlb.dev/";

/// The annotation that names the class for a Service without a
/// `loadBalancerClass`.
pub const CLASS_ANNOTATION: &str = "sharedlb.dev/class";

/// The annotation of a Service with the value `true` whose ports are to be
/// assigned instead of asked for by number.
pub const ASSIGN_PORTS_ANNOTATION: &str = "sharedlb.dev/assign-ports";

/// The annotation of a Service that insists on the load balancer with this
/// address.
pub const ADDRESS_ANNOTATION: &str = "sharedlb.dev/address";

/// The label that marks every object that SharedLB makes.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "sharedlb";

/// The field manager of everything that SharedLB writes.
pub const FIELD_MANAGER: &str = "sharedlb";
