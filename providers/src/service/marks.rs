//! The labels and annotations that mark our objects, and their values for one class of one
//! cluster.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sharedlb_kubernetes::names::{
    CLASS_LABEL, CLUSTER_ID_LABEL, LOAD_BALANCER_LABEL, MANAGED_BY, MANAGED_BY_LABEL, SERVICE_NAME_LABEL,
    SLICE_MANAGED_BY_LABEL,
};

use super::name::ServiceName;
use crate::model::LbName;

/// Annotation of an EndpointSlice: the owner of its listener.
pub(super) const OWNER: &str = "sharedlb.dev/owner";
/// Annotation of an EndpointSlice: the protocol of its listener. Without it, the two slices of
/// a `TCP_UDP` listener could not be told from those of a TCP and a UDP listener.
pub(super) const PROTOCOL: &str = "sharedlb.dev/protocol";
/// Annotation of a Service: the attributes that we have set on it. By it, foreign annotations
/// and the API server's defaults are no drift, and attributes that were removed from the
/// class are.
pub(super) const ATTRIBUTES: &str = "sharedlb.dev/attributes";

/// The namespace and the marks of the objects of one class of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Marks {
    pub(super) namespace: String,
    /// A valid value of a label, by the rule of the API for names of classes
    class: String,
    /// A valid value of a label, as the command line requires
    cluster_id: String,
}

impl Marks {
    pub(crate) fn new(namespace: &str, class: &str, cluster_id: &str) -> Self {
        Self { namespace: namespace.into(), class: class.into(), cluster_id: cluster_id.into() }
    }

    /// The label selector of all our objects.
    pub(super) fn selector(&self) -> String {
        format!("{CLASS_LABEL}={},{CLUSTER_ID_LABEL}={}", self.class, self.cluster_id)
    }

    /// The label selector of one Service's EndpointSlices.
    pub(super) fn selector_of_slices(&self, service: &ServiceName) -> String {
        format!("{},{SERVICE_NAME_LABEL}={service}", self.selector())
    }

    /// Labels of the object that is a load balancer, or its journal.
    pub(crate) fn service_labels(&self, name: &LbName) -> BTreeMap<String, String> {
        let labels = [
            (MANAGED_BY_LABEL, MANAGED_BY),
            (CLASS_LABEL, &self.class),
            (CLUSTER_ID_LABEL, &self.cluster_id),
            (LOAD_BALANCER_LABEL, name.as_str()),
        ];
        labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
    }

    /// Labels of an EndpointSlice. Kubernetes' own controllers ignore it because of its
    /// `managed-by`.
    pub(super) fn slice_labels(&self, service: &ServiceName) -> BTreeMap<String, String> {
        let mut labels = self.service_labels(service.load_balancer());
        labels.insert(SERVICE_NAME_LABEL.into(), service.to_string());
        labels.insert(SLICE_MANAGED_BY_LABEL.into(), "sharedlb.dev".into());
        labels
    }

    /// The load balancer of an object of ours; `None`: the object is not ours.
    pub(crate) fn load_balancer(&self, metadata: &ObjectMeta) -> Option<LbName> {
        let labels = metadata.labels.as_ref()?;
        let ours =
            labels.get(CLASS_LABEL) == Some(&self.class) && labels.get(CLUSTER_ID_LABEL) == Some(&self.cluster_id);
        labels.get(LOAD_BALANCER_LABEL).filter(|_| ours).map(|name| LbName::from_recorded(name))
    }
}
