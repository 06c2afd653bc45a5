//! RBAC, once `deploy/` is applied.

use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use libtest_mimic::Trial;
use sharedlb_harness::Tests;
use sharedlb_testbed::{Cluster, eventually};

/// The longest that roles take to be put together and known.
const LIMIT: Duration = Duration::from_secs(20);

const CONTROLLER: &str = "system:serviceaccount:sharedlb-system:sharedlb";

pub(crate) fn trials(test: &Tests<Cluster>) -> Vec<Trial> {
    let mut trials = vec![
        test.test("an editor of a namespace may edit its claims, but not their status", |cluster| async move {
            tenant(&cluster.admin(), "edit", &["create", "patch", "delete", "get", "watch"], &[]).await
        }),
        test.test("an admin of a namespace may edit its claims, but not their status", |cluster| async move {
            tenant(&cluster.admin(), "admin", &["create", "patch", "delete", "get", "watch"], &[]).await
        }),
        test.test("a viewer of a namespace may only view its claims", |cluster| async move {
            tenant(&cluster.admin(), "view", &["get", "list", "watch"], &["create", "patch", "delete"]).await
        }),
    ];
    trials.push(test.test("the controller has the rights that it needs", |cluster| async move {
        for [verb, group, resource, namespace] in [
            ["watch", "sharedlb.dev", "sharedlbs", ""],
            ["patch", "sharedlb.dev", "sharedlbs", "team-a"],
            ["patch", "sharedlb.dev", "sharedlbs/status", "team-a"],
            ["patch", "sharedlb.dev", "sharedlbclasses/status", ""],
            ["create", "", "services", "team-a"],
            ["patch", "discovery.k8s.io", "endpointslices", "sharedlb-system"],
            ["patch", "", "services/status", "sharedlb-system"],
            ["create", "events.k8s.io", "events", "team-a"],
            ["create", "coordination.k8s.io", "leases", "sharedlb-system"],
            ["watch", "", "nodes", ""],
            ["watch", "networking.k8s.io", "servicecidrs", ""],
            // For its sources.
            ["create", "sharedlb.dev", "sharedlbs", "team-a"],
            ["delete", "sharedlb.dev", "sharedlbs", "team-a"],
            ["patch", "", "services/status", "team-a"],
            ["watch", "", "configmaps", ""],
            ["patch", "", "configmaps", "team-a"],
        ] {
            let question = Question { user: CONTROLLER, verb, group, resource, namespace };
            let what = format!("the controller to be allowed: {question:?}");
            eventually(&what, LIMIT, async || Ok(question.ask(&cluster.admin()).await?.then_some(()))).await?;
        }
        Ok(())
    }));
    trials.push(test.test("the controller has no other rights", |cluster| async move {
        let does = Question {
            user: CONTROLLER,
            verb: "patch",
            group: "sharedlb.dev",
            resource: "sharedlbs/status",
            namespace: "team-a",
        };
        let what = "the controller's role to count";
        eventually(what, LIMIT, async || Ok(does.ask(&cluster.admin()).await?.then_some(()))).await?;
        for [verb, group, resource, namespace] in [
            ["deletecollection", "sharedlb.dev", "sharedlbs", "team-a"],
            ["delete", "sharedlb.dev", "sharedlbclasses", ""],
            ["patch", "discovery.k8s.io", "endpointslices", "team-a"],
            ["get", "", "secrets", "sharedlb-system"],
            ["list", "", "pods", "team-a"],
            ["update", "", "services/status", "team-a"],
            ["create", "", "configmaps", "team-a"],
            ["patch", "", "namespaces", ""],
            // Any but its own, and any elsewhere.
            ["update", "coordination.k8s.io", "leases", "sharedlb-system"],
            ["create", "coordination.k8s.io", "leases", "kube-system"],
            ["patch", "", "nodes", ""],
        ] {
            let question = Question { user: CONTROLLER, verb, group, resource, namespace };
            ensure!(!question.ask(&cluster.admin()).await?, "it may: {question:?}");
        }
        Ok(())
    }));
    trials.push(test.test("rights that only a source needs are in the role of that source", |cluster| async move {
        let client = &cluster.admin();
        bind(client, "base-only", "sharedlb").await?;
        let may = |verb, group, resource| Question { user: "base-only", verb, group, resource, namespace: "default" };
        let patches = may("patch", "sharedlb.dev", "sharedlbs/status");
        eventually("the base role to count", LIMIT, async || Ok(patches.ask(client).await?.then_some(()))).await?;
        for question in [
            may("create", "sharedlb.dev", "sharedlbs"),
            may("delete", "sharedlb.dev", "sharedlbs"),
            may("patch", "", "services/status"),
            may("list", "", "configmaps"),
            may("patch", "", "configmaps"),
        ] {
            ensure!(!question.ask(client).await?, "it may: {question:?}");
        }
        Ok(())
    }));
    trials
}

/// Binds somebody to one of Kubernetes' own roles in the namespace `default`,
/// and asks what follows for claims. Nobody may ever write a status.
async fn tenant(client: &Client, role: &str, may: &[&str], may_not: &[&str]) -> anyhow::Result<()> {
    let user = &format!("tenant-{role}");
    bind(client, user, role).await?;
    let claims = |verb| Question { user, verb, group: "sharedlb.dev", resource: "sharedlbs", namespace: "default" };
    for verb in may {
        let what = format!("{role} to {verb} claims");
        eventually(&what, LIMIT, async || Ok(claims(verb).ask(client).await?.then_some(()))).await?;
    }
    for verb in may_not {
        ensure!(!claims(verb).ask(client).await?, "{role} may {verb} claims");
    }
    for verb in ["create", "patch", "update"] {
        let status = Question { resource: "sharedlbs/status", ..claims(verb) };
        ensure!(!status.ask(client).await?, "{role} may {verb} the status of claims");
    }
    Ok(())
}

async fn bind(client: &Client, user: &str, role: &str) -> anyhow::Result<()> {
    let binding = RoleBinding {
        metadata: ObjectMeta { name: Some(user.into()), ..ObjectMeta::default() },
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: "ClusterRole".into(),
            name: role.into(),
        },
        subjects: Some(vec![Subject { kind: "User".into(), name: user.into(), ..Subject::default() }]),
    };
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), "default");
    bindings.create(&PostParams::default(), &binding).await.context("binding the role")?;
    Ok(())
}

/// Whether a user may do something. A resource may have a subresource after a
/// slash; no namespace means all of them.
#[derive(Clone, Copy, Debug)]
struct Question<'a> {
    user: &'a str,
    verb: &'a str,
    group: &'a str,
    resource: &'a str,
    namespace: &'a str,
}

impl Question<'_> {
    async fn ask(&self, client: &Client) -> anyhow::Result<bool> {
        let (resource, subresource) = self.resource.split_once('/').unwrap_or((self.resource, ""));
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(self.user.into()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(self.verb.into()),
                    group: Some(self.group.into()),
                    resource: Some(resource.into()),
                    subresource: Some(subresource.into()),
                    namespace: Some(self.namespace.into()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.context("a review has an answer")?.allowed)
    }
}
