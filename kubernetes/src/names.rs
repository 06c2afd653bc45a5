//! Names of labels, and the name under which everything is written.

pub use sharedlb_crds::{
    CLASS_LABEL, CLUSTER_ID_LABEL, FIELD_MANAGER, LOAD_BALANCER_LABEL, MANAGED_BY, MANAGED_BY_LABEL,
};

/// Label of an `EndpointSlice`: the Service that it belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label of an `EndpointSlice`: the controller that writes it. The controllers of
/// Kubernetes leave alone what has another value than theirs.
pub const SLICE_MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
