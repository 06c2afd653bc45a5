//! The rights that the controller needs, as SECURITY.md lists them, and which of them it lacks.

use std::fmt;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Service;
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Serialize;
use sharedlb_crds::{Provider, SERVICE_CLASS_PREFIX, SharedLBClass};

/// How many questions are asked at once.
const AT_ONCE: usize = 8;

/// One verb on one kind of object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Right {
    group: &'static str,
    resource: &'static str,
    verb: &'static str,
    /// The namespace; `None`: all
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => Ok(()),
        }
    }
}

const OURS: &str = sharedlb_crds::GROUP;
const SLICES: &str = "discovery.k8s.io";

/// What every controller needs in the whole cluster.
const ALWAYS: &[(&str, &str, &[&str])] = &[
    (OURS, "sharedlbs", &["get", "list", "watch", "patch"]),
    (OURS, "sharedlbclasses", &["get", "list", "watch", "patch"]),
    (OURS, "sharedlbs/status", &["patch"]),
    (OURS, "sharedlbclasses/status", &["patch"]),
    ("", "services", &["get", "list", "watch", "create", "patch", "delete"]),
    (SLICES, "endpointslices", &["get", "list", "watch"]),
    ("", "nodes", &["get", "list", "watch"]),
    ("", "namespaces", &["get", "list", "watch"]),
    ("events.k8s.io", "events", &["create"]),
];

/// What the source of Services needs besides.
const FOR_SERVICES: &[(&str, &str, &[&str])] =
    &[(OURS, "sharedlbs", &["create", "delete"]), ("", "services/status", &["patch"])];

/// What a load balancer that is a Service needs in its namespace.
const FOR_SLICES: &[(&str, &str, &[&str])] =
    &[(SLICES, "endpointslices", &["create", "patch", "delete", "deletecollection"])];

/// What a load balancer needs besides whose status the controller writes.
const FOR_STATUSES: &[(&str, &str, &[&str])] = &[("", "services/status", &["patch"])];

/// What the journal of an updater needs in the system namespace.
const FOR_JOURNALS: &[(&str, &str, &[&str])] = &[("", "configmaps", &["get", "create", "patch", "delete"])];

/// What the controller needs for these classes and Services. The Lease is in the system
/// namespace, and so are load balancers that are Services, unless their class has another one.
pub(crate) fn needed(classes: &[SharedLBClass], services: &[Service], system_namespace: &str) -> Vec<Right> {
    let mut rights = of(ALWAYS, None);
    let lease = [("coordination.k8s.io", "leases", &["create", "get", "update"] as &[&str])];
    rights.extend(of(&lease, Some(system_namespace)));
    if services.iter().any(is_claim) {
        rights.extend(of(FOR_SERVICES, None));
    }
    for class in classes {
        match &class.spec.provider {
            Provider::Service(service) => rights.extend(of(FOR_SLICES, Some(&service.namespace))),
            Provider::Vip(_) | Provider::Gcp(_) => {
                rights.extend(of(FOR_SLICES, Some(system_namespace)));
                rights.extend(of(FOR_STATUSES, Some(system_namespace)));
            }
            Provider::HttpUpdater(_) => rights.extend(of(FOR_JOURNALS, Some(system_namespace))),
            Provider::Aws(_) => {}
        }
    }
    let mut once: Vec<Right> = Vec::new();
    for right in rights {
        if !once.contains(&right) {
            once.push(right);
        }
    }
    once
}

/// Whether a Service shares a load balancer of SharedLB.
pub(crate) fn is_claim(service: &Service) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
    class.is_some_and(|class| class.starts_with(SERVICE_CLASS_PREFIX))
}

fn of(rules: &[(&'static str, &'static str, &[&'static str])], namespace: Option<&str>) -> Vec<Right> {
    let right = |group, resource, verb| Right { group, resource, verb, namespace: namespace.map(str::to_owned) };
    rules.iter().flat_map(|(group, resource, verbs)| verbs.iter().map(|verb| right(*group, *resource, *verb))).collect()
}

/// Which of these rights a service account lacks.
///
/// # Errors
/// If the API server does not say: the user must have the right to create
/// SubjectAccessReviews.
pub(crate) async fn lacking(client: &Client, user: &str, rights: Vec<Right>) -> Result<Vec<Right>, kube::Error> {
    let reviews = Api::<SubjectAccessReview>::all(client.clone());
    let asked = stream::iter(rights).map(async |right| {
        let answer = reviews.create(&PostParams::default(), &right.review(user)).await?;
        let is_allowed = answer.status.is_some_and(|status| status.allowed);
        Ok((!is_allowed).then_some(right))
    });
    asked.buffered(AT_ONCE).try_filter_map(async |lacks| Ok(lacks)).try_collect().await
}

impl Right {
    fn review(&self, user: &str) -> SubjectAccessReview {
        let (resource, subresource) = match self.resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (self.resource, None),
        };
        // The Role for the Lease names it.
        let name = (resource == "leases" && self.verb != "create").then(|| "sharedlb".to_owned());
        SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.to_owned()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(self.group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource: subresource.map(str::to_owned),
                    verb: Some(self.verb.to_owned()),
                    namespace: self.namespace.clone(),
                    name,
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::{class, object};

    fn shown(rights: &[Right]) -> Vec<String> {
        rights.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rights_of_a_provider_and_of_a_source_are_needed_where_they_are_in_use() {
        let none = shown(&needed(&[], &[], "system"));
        assert!(none.contains(&"update leases.coordination.k8s.io in namespace system".to_owned()), "{none:?}");
        assert!(!none.iter().any(|right| right.contains("services/status")), "{none:?}");
        let vip: SharedLBClass = object(json!({"metadata": {"name": "v"}, "spec": {"provider": {"vip": {}}}}));
        let of_vip = shown(&needed(&[vip], &[], "system"));
        assert!(of_vip.contains(&"patch services/status in namespace system".to_owned()), "{of_vip:?}");
        let of_service = shown(&needed(&[class("default", 0, &[])], &[], "system"));
        let slices = "create endpointslices.discovery.k8s.io in namespace sharedlb-system".to_owned();
        assert!(of_service.contains(&slices), "the namespace of the class: {of_service:?}");
        let service = object(json!({"spec": {"loadBalancerClass": "sharedlb.dev/default"}}));
        let of_source = shown(&needed(&[], &[service], "system"));
        assert!(of_source.contains(&"patch services/status".to_owned()), "{of_source:?}");
    }
}
