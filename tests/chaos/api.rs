//! Objects as JSON, straight from and to the API server.

use std::time::Duration;

use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;

/// How long a request may take: the API server may just have gone away.
const LIMIT: Duration = Duration::from_secs(5);

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Claim,
    Class,
    ConfigMap,
    Namespace,
    Pod,
    Service,
    Slice,
}

impl Kind {
    /// The kind that an object says it is of.
    pub(crate) fn of(object: &Value) -> Option<Self> {
        let kinds = [Self::Claim, Self::Class, Self::ConfigMap, Self::Namespace, Self::Pod, Self::Service, Self::Slice];
        kinds.into_iter().find(|kind| object["kind"] == kind.resource().kind.as_str())
    }

    fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = match self {
            Self::Claim => ("sharedlb.dev", "v1alpha1", "SharedLB", "sharedlbs"),
            Self::Class => ("sharedlb.dev", "v1alpha1", "SharedLBClass", "sharedlbclasses"),
            Self::ConfigMap => ("", "v1", "ConfigMap", "configmaps"),
            Self::Namespace => ("", "v1", "Namespace", "namespaces"),
            Self::Pod => ("", "v1", "Pod", "pods"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::Slice => ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }
}

/// The API server, without any proxy, with all rights.
#[derive(Clone)]
pub(crate) struct Server(pub(crate) Client);

impl Server {
    /// What is in no namespace is in "".
    fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        match namespace {
            "" => Api::all_with(self.0.clone(), &kind.resource()),
            namespace => Api::namespaced_with(self.0.clone(), namespace, &kind.resource()),
        }
    }

    pub(crate) async fn create(&self, namespace: &str, object: &Value) -> kube::Result<()> {
        let kind = Kind::of(object).unwrap_or(Kind::ConfigMap);
        let object: DynamicObject = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
        let (api, params) = (self.api(kind, namespace), PostParams::default());
        limited(api.create(&params, &object)).await.map(drop)
    }

    pub(crate) async fn delete(&self, kind: Kind, namespace: &str, name: &str) -> kube::Result<()> {
        let params = match kind {
            // There is no kubelet that would need the time.
            Kind::Pod => DeleteParams::default().grace_period(0),
            _ => DeleteParams::default(),
        };
        limited(self.api(kind, namespace).delete(name, &params)).await.map(drop)
    }

    /// Changes an object by a merge patch.
    pub(crate) async fn change(&self, kind: Kind, namespace: &str, name: &str, patch: Value) -> kube::Result<Value> {
        let (api, params, patch) = (self.api(kind, namespace), PatchParams::default(), Patch::Merge(patch));
        limited(api.patch(name, &params, &patch)).await.map(to_value)
    }

    /// Changes an object's status by a merge patch.
    pub(crate) async fn change_status(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        patch: Value,
    ) -> kube::Result<()> {
        let (api, params, patch) = (self.api(kind, namespace), PatchParams::default(), Patch::Merge(patch));
        limited(api.patch_status(name, &params, &patch)).await.map(drop)
    }

    pub(crate) async fn get(&self, kind: Kind, namespace: &str, name: &str) -> kube::Result<Option<Value>> {
        Ok(limited(self.api(kind, namespace).get_opt(name)).await?.map(to_value))
    }

    /// All objects of a kind, in one namespace or ("") in all, that have these
    /// labels.
    pub(crate) async fn list(&self, kind: Kind, namespace: &str, labels: &str) -> kube::Result<Vec<Value>> {
        let (api, params) = (self.api(kind, namespace), ListParams::default().labels(labels));
        let list = limited(api.list(&params)).await?;
        Ok(list.items.into_iter().map(to_value).collect())
    }
}

async fn limited<T>(request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    tokio::time::timeout(LIMIT, request).await.unwrap_or_else(|late| Err(kube::Error::Service(late.into())))
}

fn to_value(object: DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// The text at a path of an object; "" if there is none.
pub(crate) fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The name of an object.
pub(crate) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// The entries of a list in an object.
pub(crate) fn entries<'a>(object: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(path).and_then(Value::as_array).into_iter().flatten()
}
