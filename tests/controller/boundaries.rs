//! Which namespaces may use a class, and their quotas.

use std::sync::Arc;

use anyhow::ensure;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::Reason;
use sharedlb_harness::{LIMIT, Site, Tests, World, slots};
use sharedlb_testbed::eventually;

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a namespace that the class does not allow is refused, and served once it does", not_permitted),
        test.test("a namespace that is no longer allowed keeps its ports and gets no new ones", no_longer_permitted),
        test.test("a namespace at its quota is refused, and others are not", quota),
        test.test("a namespace is deleted with its claims, and their ports are released", namespace_deleted),
        test.test("a claim can be deleted without its class", class_away),
    ]
}

async fn label(site: &Site, namespace: &str, labels: Value) -> anyhow::Result<()> {
    let namespaces = Api::<Namespace>::all(site.cluster.admin());
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    namespaces.patch(namespace, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// A class for namespaces with the label `lb: <name>`, in one of those, with
/// a neighbour.
async fn selective(world: &World, name: &str) -> anyhow::Result<Site> {
    let labels = json!({"lb": name});
    let class = json!({"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": labels}}});
    let site = Site::with_pod(&world.cluster, name, class).await?;
    label(&site, name, labels).await?;
    Ok(site)
}

async fn not_permitted(world: Arc<World>) -> anyhow::Result<()> {
    let site = selective(&world, "not-permitted").await?;
    let neighbour = site.neighbour().await?;
    let other = site.other_namespace("not-permitted-2").await?;
    other.claim("web", json!([{"targetPort": "http"}])).await?;
    other.refused("web", Reason::NotPermitted, &["not-permitted-2", "spec.allowedNamespaces"]).await?;
    site.undisturbed(&neighbour).await?;
    label(&site, "not-permitted-2", json!({"lb": "not-permitted"})).await?;
    other.ready("web").await?;
    site.undisturbed(&neighbour).await
}

async fn no_longer_permitted(world: Arc<World>) -> anyhow::Result<()> {
    let site = selective(&world, "unpermitted").await?;
    let neighbour = site.neighbour().await?;
    label(&site, "unpermitted", json!({"lb": null})).await?;
    // Namespaces are watched apart from claims: once one that was labelled later
    // counts, this one does not.
    let other = site.other_namespace("unpermitted-2").await?;
    label(&site, "unpermitted-2", json!({"lb": "unpermitted"})).await?;
    other.assigned("web").await?;
    site.claim("web", json!([{"targetPort": "http"}])).await?;
    site.refused("web", Reason::NotPermitted, &["spec.allowedNamespaces"]).await?;
    site.undisturbed(&neighbour).await
}

async fn quota(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "quota", json!({"portsPerNamespace": 2})).await?;
    let neighbour = site.neighbour().await?;
    let two = json!([{"name": "a", "targetPort": "http"}, {"name": "b", "targetPort": "http"}]);
    site.claim("greedy", two).await?;
    site.refused("greedy", Reason::QuotaExceeded, &["1 of 2 ports", "spec.portsPerNamespace"]).await?;
    site.assigned("modest").await?;
    site.other_namespace("quota-2").await?.assigned("other").await?;
    site.undisturbed(&neighbour).await?;
    site.change_class(json!({"spec": {"portsPerNamespace": 4}})).await?;
    site.ready("greedy").await?;
    site.undisturbed(&neighbour).await
}

async fn namespace_deleted(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "deleted", json!({"reclaimDelaySeconds": 3600})).await?;
    let neighbour = site.neighbour().await?;
    let doomed = site.other_namespace("deleted-2").await?;
    let mut ports = Vec::new();
    for name in ["one", "two", "three"] {
        ports.extend(slots(&doomed.assigned(name).await?).into_values().map(|(.., port)| (name, port)));
    }
    doomed.claim("elsewhere", json!([{"name": "a", "port": neighbour.slot().2, "targetPort": 1}])).await?;
    let namespaces = Api::<Namespace>::all(world.cluster.admin());
    namespaces.delete("deleted-2", &DeleteParams::default()).await?;
    eventually("the namespace to be gone", LIMIT, async || {
        let namespace = namespaces.get_opt("deleted-2").await?;
        ensure!(namespace.is_none(), "{:?}", namespace.and_then(|namespace| namespace.status));
        Ok(Some(()))
    })
    .await?;
    for (name, port) in ports {
        doomed.released(name, port).await?;
        eventually("its listener to be closed", LIMIT, async || {
            Ok(site.front_slices(port).await?.is_empty().then_some(()))
        })
        .await?;
    }
    site.undisturbed(&neighbour).await
}

async fn class_away(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::in_class(&world.cluster, "class-away", "there-is-none").await?;
    site.claim("web", json!([{"targetPort": "http"}])).await?;
    site.refused("web", Reason::NoClass, &["there-is-none"]).await?;
    site.delete("web").await
}
