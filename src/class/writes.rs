//! The writes of the class loop to the Kubernetes API.
//!
//! Each carries the uid and resourceVersion of what it was decided on, so that
//! it fails with a conflict if that has changed since.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sharedlb_crds::{CLAIM_FINALIZER, CLASS_FINALIZER, SharedLB, SharedLBClass, SharedLBClassStatus, SharedLBStatus};

use crate::api::claim::ClaimObject;
use crate::api::class::ClassObject;
use crate::backends::ServiceObject;
pub(super) use crate::kubernetes::writes::WriteError;
use crate::kubernetes::{ObjectMeta, parameters};
use crate::process::metrics::{Metrics, count_write};

/// Writes to the Kubernetes API, and counts the writes.
#[derive(Clone)]
pub(super) struct Writer {
    client: Client,
    claims: ApiResource,
    classes: ApiResource,
    metrics: Arc<Metrics>,
}

impl Writer {
    pub(super) fn new(client: Client, metrics: Arc<Metrics>) -> Self {
        let (claims, classes) = (ApiResource::erase::<SharedLB>(&()), ApiResource::erase::<SharedLBClass>(&()));
        Self { client, claims, classes, metrics }
    }

    /// The whole status of a claim.
    pub(super) async fn claim_status(
        &self,
        claim: &ObjectMeta,
        status: &SharedLBStatus,
    ) -> Result<ClaimObject, WriteError> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &claim.key.namespace, &self.claims);
        let written = self.status(&api, claim, status);
        Ok(ClaimObject::parse(&self.count("SharedLB", "status", written).await?))
    }

    /// The whole status of a class.
    pub(super) async fn class_status(
        &self,
        class: &ObjectMeta,
        status: &SharedLBClassStatus,
    ) -> Result<ClassObject, WriteError> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &self.classes);
        let written = self.status(&api, class, status);
        Ok(ClassObject::parse(&self.count("SharedLBClass", "status", written).await?))
    }

    /// Replaces the whole status. (A server-side apply would keep entries of lists that
    /// another client added, so that a status that was tampered with could never be
    /// corrected.)
    async fn status(
        &self,
        api: &Api<DynamicObject>,
        meta: &ObjectMeta,
        status: &impl Serialize,
    ) -> Result<DynamicObject, WriteError> {
        let patch = json!([
            {"op": "replace", "path": "/metadata/uid", "value": &*meta.uid},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": meta.version.to_string()},
            {"op": "add", "path": "/status", "value": status},
        ]);
        self.json_patch(api, &meta.key.name, patch, true).await
    }

    async fn json_patch<K>(&self, api: &Api<K>, name: &str, patch: Value, status: bool) -> Result<K, WriteError>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let patch = serde_json::from_value(patch).map_err(|error| WriteError::Refused(error.to_string()))?;
        let (params, patch) = (parameters::patch(), Patch::Json::<()>(patch));
        Ok(if status {
            api.patch_status(name, &params, &patch).await?
        } else {
            api.patch(name, &params, &patch).await?
        })
    }

    /// Adds our finalizer to a claim, or removes it.
    pub(super) async fn claim_finalizer(&self, claim: &ObjectMeta, wanted: bool) -> Result<ClaimObject, WriteError> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &claim.key.namespace, &self.claims);
        let written = self.finalizer(&api, claim, CLAIM_FINALIZER, wanted);
        Ok(ClaimObject::parse(&self.count("SharedLB", "finalizer", written).await?))
    }

    /// Adds our finalizer to a class, or removes it.
    pub(super) async fn class_finalizer(&self, class: &ObjectMeta, wanted: bool) -> Result<ClassObject, WriteError> {
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &self.classes);
        let written = self.finalizer(&api, class, CLASS_FINALIZER, wanted);
        Ok(ClassObject::parse(&self.count("SharedLBClass", "finalizer", written).await?))
    }

    /// Writes the whole list as it was read, with or without ours. (A server-side apply
    /// could not remove one that was restored from a backup, since that has another field
    /// manager.)
    async fn finalizer(
        &self,
        api: &Api<DynamicObject>,
        meta: &ObjectMeta,
        ours: &str,
        wanted: bool,
    ) -> Result<DynamicObject, WriteError> {
        let others = meta.finalizers.iter().map(String::as_str).filter(|finalizer| *finalizer != ours);
        let finalizers: Vec<&str> = others.chain(wanted.then_some(ours)).collect();
        let patch = json!({"metadata": {
            "uid": &*meta.uid, "resourceVersion": meta.version.to_string(), "finalizers": finalizers,
        }});
        Ok(api.patch(&meta.key.name, &parameters::patch(), &Patch::Merge(patch)).await?)
    }

    /// Creates the companion Service of a claim.
    pub(super) async fn create_service(&self, service: &Service) -> Result<ServiceObject, WriteError> {
        let api = self.services(service.metadata.namespace.as_deref());
        let written = async { Ok(api.create(&parameters::post(), service).await?) };
        Ok(ServiceObject::parse(&self.count("Service", "create", written).await?))
    }

    /// Corrects the companion Service of a claim, which is there as `found`.
    pub(super) async fn correct_service(
        &self,
        found: &ObjectMeta,
        service: &Service,
    ) -> Result<ServiceObject, WriteError> {
        let api = self.services(service.metadata.namespace.as_deref());
        let spec = service.spec.clone().unwrap_or_default();
        let patch = json!([
            {"op": "replace", "path": "/metadata/uid", "value": &*found.uid},
            {"op": "replace", "path": "/metadata/resourceVersion", "value": found.version.to_string()},
            // A Service that was changed to ExternalName has lost the fields below.
            {"op": "add", "path": "/spec/type", "value": spec.type_.as_deref().unwrap_or("ClusterIP")},
            {"op": "add", "path": "/spec/clusterIP", "value": spec.cluster_ip},
            {"op": "add", "path": "/spec/ipFamilyPolicy", "value": spec.ip_family_policy},
            {"op": "add", "path": "/spec/externalName", "value": null},
            {"op": "add", "path": "/spec/selector", "value": spec.selector},
            {"op": "add", "path": "/spec/ports", "value": spec.ports},
        ]);
        let written = self.json_patch(&api, &found.key.name, patch, false);
        Ok(ServiceObject::parse(&self.count("Service", "patch", written).await?))
    }

    /// Deletes the companion Service of a claim that no longer needs one.
    pub(super) async fn delete_service(&self, found: &ObjectMeta) -> Result<(), WriteError> {
        let api = self.services(Some(&found.key.namespace));
        let written = async {
            api.delete(&found.key.name, &parameters::delete(found)).await?;
            Ok(())
        };
        match self.count("Service", "delete", written).await {
            Err(WriteError::Gone) => Ok(()),
            result => result,
        }
    }

    fn services(&self, namespace: Option<&str>) -> Api<Service> {
        Api::namespaced(self.client.clone(), namespace.unwrap_or_default())
    }

    fn count<T>(
        &self,
        kind: &'static str,
        operation: &'static str,
        write: impl Future<Output = Result<T, WriteError>>,
    ) -> impl Future<Output = Result<T, WriteError>> {
        count_write(&self.metrics, kind, operation, write)
    }
}
