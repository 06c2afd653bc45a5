//! The writes of a source: each carries the uid and resourceVersion of what it
//! was decided on, so that it fails with a conflict if that has changed since.

use std::marker::PhantomData;
use std::sync::Arc;

use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use sharedlb_crds::SharedLB;

use super::{ObjectChange, OwnedClaim, Source};
use crate::kubernetes::writes::WriteError;
use crate::kubernetes::{ObjectKey, ObjectMeta, parameters};
use crate::process::metrics::{Metrics, PendingWrite, count_write};

/// Writes to the Kubernetes API for one source, and counts the writes.
pub(super) struct Writer<S> {
    client: Client,
    claims: ApiResource,
    metrics: Arc<Metrics>,
    source: PhantomData<fn() -> S>,
}

impl<S> Clone for Writer<S> {
    fn clone(&self) -> Self {
        let client = self.client.clone();
        let claims = self.claims.clone();
        let metrics = self.metrics.clone();
        Self { client, claims, metrics, source: PhantomData }
    }
}

impl<S: Source> Writer<S> {
    pub(super) fn new(client: Client, metrics: Arc<Metrics>) -> Self {
        Self { client, claims: ApiResource::erase::<SharedLB>(&()), metrics, source: PhantomData }
    }

    /// Counts a write to an object of a kind as pending, until the returned value is dropped.
    pub(super) fn pending(&self, kind: &'static str) -> PendingWrite {
        self.metrics.pending_write(kind)
    }

    /// Creates a claim. If a claim of that name exists, it is returned if it is this
    /// source's, else `None`.
    pub(super) async fn create(&self, claim: &SharedLB) -> Result<Option<OwnedClaim>, WriteError> {
        let namespace = claim.namespace().unwrap_or_default();
        let created = async {
            let object: DynamicObject = serde_json::to_value(claim)
                .and_then(serde_json::from_value)
                .map_err(|error| WriteError::Refused(error.to_string()))?;
            Ok(self.claims_in(&namespace).create(&parameters::post(), &object).await?)
        };
        match count_write(&self.metrics, "SharedLB", "create", created).await {
            // The reply to an earlier create was lost, or it is a user's claim.
            Err(WriteError::Conflict) => {
                let found = async { Ok(self.claims_in(&namespace).get(&claim.name_any()).await?) };
                let found = count_write(&self.metrics, "SharedLB", "get", found).await?;
                Ok(OwnedClaim::parse::<S>(&found))
            }
            result => {
                let created = OwnedClaim::parse::<S>(&result?);
                match created.as_ref().filter(|created| lacks_source_ranges(&json!(claim.spec), created)) {
                    // It would be served to all clients.
                    Some(open_to_all) => self.delete(&open_to_all.meta).await.and(Err(older_definition())),
                    None => Ok(created),
                }
            }
        }
    }

    /// Corrects a claim.
    pub(super) async fn correct(&self, claim: &ObjectMeta, patch: Value) -> Result<Option<OwnedClaim>, WriteError> {
        let spec = patch["spec"].clone();
        let (params, patch) = merge_patch(claim, patch);
        let api = self.claims_in(&claim.key.namespace);
        let written = async { Ok(api.patch(&claim.key.name, &params, &patch).await?) };
        let corrected = OwnedClaim::parse::<S>(&count_write(&self.metrics, "SharedLB", "patch", written).await?);
        match corrected {
            Some(corrected) if lacks_source_ranges(&spec, &corrected) => Err(older_definition()),
            corrected => Ok(corrected),
        }
    }

    /// Deletes a claim. Returns it if finalizers keep it.
    pub(super) async fn delete(&self, claim: &ObjectMeta) -> Result<Option<OwnedClaim>, WriteError> {
        let api = self.claims_in(&claim.key.namespace);
        let params = parameters::delete_version(claim);
        let deleted = async { Ok(api.delete(&claim.key.name, &params).await?.left()) };
        match count_write(&self.metrics, "SharedLB", "delete", deleted).await {
            Err(WriteError::Gone) => Ok(None),
            result => {
                // An object that is returned without a deletionTimestamp is gone.
                let kept = result?.filter(|kept| kept.metadata.deletion_timestamp.is_some());
                Ok(kept.and_then(|kept| OwnedClaim::parse::<S>(&kept)))
            }
        }
    }

    /// Changes the object itself.
    pub(super) async fn change(&self, object: &ObjectMeta, change: &ObjectChange) -> Result<S::Kind, WriteError> {
        let api: Api<S::Kind> = Api::namespaced(self.client.clone(), &object.key.namespace);
        let (params, patch) = merge_patch(object, change.patch.clone());
        let written = async {
            Ok(match change.status {
                true => api.patch_status(&object.key.name, &params, &patch).await?,
                false => api.patch(&object.key.name, &params, &patch).await?,
            })
        };
        count_write(&self.metrics, S::KIND, change.what, written).await
    }

    fn claims_in(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &self.claims)
    }
}

/// Whether the API server has dropped the source ranges of this spec.
fn lacks_source_ranges(sent: &Value, kept: &OwnedClaim) -> bool {
    let has_some = sent["loadBalancerSourceRanges"].as_array().is_some_and(|ranges| !ranges.is_empty());
    has_some && kept.spec.as_ref().is_ok_and(|spec| spec.load_balancer_source_ranges.is_empty())
}

fn older_definition() -> WriteError {
    WriteError::Refused(
        "the API server drops loadBalancerSourceRanges of SharedLBs: ask the admin to apply the \
         CustomResourceDefinitions of this version"
            .to_owned(),
    )
}

fn merge_patch(meta: &ObjectMeta, mut patch: Value) -> (PatchParams, Patch<Value>) {
    patch["metadata"]["uid"] = json!(&*meta.uid);
    patch["metadata"]["resourceVersion"] = json!(meta.version.to_string());
    (parameters::patch(), Patch::Merge(patch))
}

/// The key of the claim for the object of this key.
pub(super) fn claim_key<S: Source>(source: &ObjectKey) -> ObjectKey {
    ObjectKey { namespace: source.namespace.clone(), name: super::owned::name::<S>(&source.name).into() }
}
