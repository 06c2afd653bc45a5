//! The claim that a source keeps for one of its objects.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use sharedlb_crds::{CLAIM_FINALIZER, Reason, SOURCE_LABEL, SharedLB, SharedLBSpec, SharedLBStatus};

use super::{Problem, Source};
use crate::api::claim::ClaimObject;
use crate::kubernetes::cache::Cached;
use crate::kubernetes::{ObjectKey, ObjectMeta, names, text};

/// The longest name of a SharedLB, in characters (a DNS subdomain, RFC 1123).
const NAME_MAX: usize = 253;

/// The longest name of a class, in characters.
const CLASS_NAME_MAX: usize = 63;

/// A claim that a source keeps.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OwnedClaim {
    pub meta: ObjectMeta,
    /// The object that it is kept for
    pub source: ObjectKey,
    /// The uid of that object
    pub source_uid: Arc<str>,
    /// Its spec, or why that can't be parsed
    pub spec: Result<SharedLBSpec, String>,
    pub status: SharedLBStatus,
    labelled: bool,
}

impl Cached for OwnedClaim {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
}

impl OwnedClaim {
    /// Converts a claim; `None`: it is not one of this source.
    ///
    /// It is one if an object of the source's kind is its controller and it has
    /// the name that the source gives to the claim of that object. So a claim
    /// that a user wrote is never taken for one, whatever its labels.
    pub(crate) fn parse<S: Source>(object: &DynamicObject) -> Option<Self> {
        let owners = object.metadata.owner_references.as_ref()?;
        let is_source = |owner: &&OwnerReference| {
            owner.controller == Some(true)
                && owner.kind == S::Kind::kind(&())
                && owner.api_version == S::Kind::api_version(&())
        };
        let owner = owners.iter().find(is_source)?;
        let namespace: Arc<str> = object.metadata.namespace.as_deref()?.into();
        let source = ObjectKey { namespace, name: owner.name.as_str().into() };
        if *name::<S>(&source.name) != *object.metadata.name.as_deref()? {
            return None;
        }
        let label = object.metadata.labels.as_ref().and_then(|labels| labels.get(SOURCE_LABEL));
        let labelled = label.is_some_and(|value| value == S::NAME);
        let ClaimObject { meta, spec, status, .. } = ClaimObject::parse(object);
        Some(Self { meta, source, source_uid: owner.uid.as_str().into(), spec, status, labelled })
    }

    /// Whether it is as the source would create it now.
    pub(crate) fn is(&self, spec: &SharedLBSpec) -> bool {
        self.labelled && self.spec.as_ref().is_ok_and(|found| found == spec)
    }

    /// Whether it has to be recreated: it was for a former object of the same name, or it
    /// has another class, which cannot be changed.
    pub(crate) fn must_be_replaced(&self, source: &ObjectMeta, spec: &SharedLBSpec) -> bool {
        self.source_uid != source.uid || self.spec.as_ref().is_ok_and(|found| found.class_name != spec.class_name)
    }

    /// The problem for its object while it is being deleted and foreign finalizers keep it:
    /// until it is gone, no other claim can have its name.
    pub(crate) fn kept_by_others(&self) -> Option<Problem> {
        let others = self.meta.finalizers.iter().filter(|finalizer| *finalizer != CLAIM_FINALIZER);
        let others: Vec<String> = others.map(|finalizer| text::value(finalizer)).collect();
        let (plural, keep) = if others.len() == 1 { ("", "keeps") } else { ("s", "keep") };
        let message = format!(
            "SharedLB {} is being deleted, and its ports are given back, but finalizer{plural} {} {keep} it: remove the finalizer{plural}, and it is recreated",
            self.meta.key.name,
            others.join(", ")
        );
        (!others.is_empty()).then_some(Problem { reason: Reason::NameTaken, message })
    }

    /// Whether its status is about its current spec.
    pub(crate) fn is_observed(&self) -> bool {
        self.status.observed_generation == Some(self.meta.generation)
    }
}

/// The name of the claim of an object of this name. It begins with the kind, so
/// that neither a user's claim nor another source's is likely to have it.
pub(super) fn name<S: Source>(source: &str) -> String {
    names::shortened(format!("{}-{source}", S::NAME), source, NAME_MAX)
}

/// Whether the API server takes this for the name of a claim's class.
pub(super) fn is_class_name(name: &str) -> bool {
    let end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inner = |c: char| end(c) || c == '-' || c == '.';
    name.len() <= CLASS_NAME_MAX && name.starts_with(end) && name.ends_with(end) && name.chars().all(inner)
}

/// The claim for this object. It has the finalizer of claims from the start, which the
/// class would put on later: so its ports are planned one write earlier. A claim that
/// holds nothing is released by its class all the same, also by one that does not exist.
pub(super) fn claim<S: Source>(source: &ObjectMeta, spec: SharedLBSpec) -> SharedLB {
    let mut claim = SharedLB::new(&name::<S>(&source.key.name), spec);
    claim.metadata = kube::core::ObjectMeta {
        namespace: Some(source.key.namespace.to_string()),
        finalizers: Some(vec![CLAIM_FINALIZER.to_owned()]),
        labels: Some([(SOURCE_LABEL.to_owned(), S::NAME.to_owned())].into()),
        owner_references: Some(vec![OwnerReference {
            api_version: S::Kind::api_version(&()).into_owned(),
            kind: S::Kind::kind(&()).into_owned(),
            name: source.key.name.to_string(),
            uid: source.uid.to_string(),
            controller: Some(true),
            // The deletion of the owner need not wait: the source deletes the claim itself.
            block_owner_deletion: Some(false),
        }]),
        ..claim.metadata
    };
    claim
}

/// The merge patch that sets a claim right.
pub(super) fn correction<S: Source>(spec: &SharedLBSpec) -> Value {
    // A field that is left out would stay as it is.
    let mut whole = json!({
        "className": null, "selector": null, "serviceName": null, "address": null, "ports": null,
        "loadBalancerSourceRanges": null, "sessionAffinity": null, "sessionAffinityConfig": null,
    });
    if let (Value::Object(whole), Ok(Value::Object(spec))) = (&mut whole, serde_json::to_value(spec)) {
        whole.extend(spec);
    }
    json!({"metadata": {"labels": {SOURCE_LABEL: S::NAME}}, "spec": whole})
}
