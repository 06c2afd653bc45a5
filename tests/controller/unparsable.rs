//! Objects that cannot be parsed, as they come from an older or newer version
//! or from a hand that got past the schema. Here the schemas let everything
//! pass, so nothing else is tried on this cluster afterwards.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, ResourceExt};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, Reason, SharedLB, SharedLBClass};
use sharedlb_harness::{LIMIT, Site, Tests, World, slots};
use sharedlb_testbed::{Cluster, eventually};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a claim whose spec cannot be parsed keeps its port and reports it", spec),
        test.test("a claim that could never be parsed reports it, and is served once it can", new_spec),
        test.test("a claim that cannot be parsed can be deleted", deleted),
        test.test("while a claim's status cannot be parsed, its class assigns nothing and reports it", status),
        test.test("a class that cannot be parsed releases no port", class),
    ]
}

/// Lets every object pass. Returns when it does.
pub(crate) async fn relax_schemas(cluster: &Cluster) -> anyhow::Result<()> {
    let definitions = Api::<CustomResourceDefinition>::all(cluster.admin());
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    for crd in sharedlb_crds::crds() {
        let patch = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": anything}]);
        let patch = Patch::<()>::Json(serde_json::from_value(patch)?);
        definitions.patch(&crd.name_any(), &PatchParams::default(), &patch).await?;
    }
    let nonsense = json!({
        "apiVersion": "sharedlb.dev/v1alpha1",
        "kind": "SharedLB",
        "metadata": {"name": "trial", "namespace": "default"},
        "spec": "nonsense",
    });
    eventually("the API server to take nonsense", LIMIT, async || {
        let arguments = ["create", "--dry-run=server", "--validate=ignore", "-f", "-"];
        let output = cluster.kubectl_run(&arguments, &nonsense.to_string()).await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(Some(()))
    })
    .await
}

/// The site's claims as whatever they are.
fn raw_claims(site: &Site) -> Api<DynamicObject> {
    Api::namespaced_with(site.cluster.admin(), &site.namespace, &ApiResource::erase::<SharedLB>(&()))
}

/// Creates a claim that the types do not know.
async fn create(site: &Site, name: &str, spec: Value) -> anyhow::Result<()> {
    let claim = json!({
        "apiVersion": "sharedlb.dev/v1alpha1",
        "kind": "SharedLB",
        "metadata": {"name": name},
        "spec": spec,
    });
    raw_claims(site).create(&Default::default(), &serde_json::from_value(claim)?).await?;
    Ok(())
}

async fn patch(site: &Site, name: &str, patch: Value) -> anyhow::Result<()> {
    raw_claims(site).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// Waits until the conditions of a claim, whatever else it has, refuse it.
async fn unsupported(site: &Site, name: &str) -> anyhow::Result<Value> {
    eventually(&format!("{name} to be told that it cannot be parsed"), LIMIT, async || {
        let claim = raw_claims(site).get(name).await?;
        let conditions = claim.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let allocated = conditions.iter().find(|condition| condition["type"] == ConditionType::Allocated.as_str());
        let told = allocated.is_some_and(|condition| {
            condition["status"] == "False"
                && condition["reason"] == Reason::Unsupported.as_str()
                && condition["message"].as_str().is_some_and(|message| message.contains("can't be read"))
        });
        ensure!(told, "its status is {}", claim.data["status"]);
        Ok(Some(claim.data["status"].clone()))
    })
    .await
}

async fn spec(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "spec", json!({})).await?;
    let neighbour = site.neighbour().await?;
    let before = slots(&site.assigned("web").await?);
    let (.., port) = before[""];
    patch(&site, "web", json!({"spec": {"ports": "nonsense"}})).await?;
    let status = unsupported(&site, "web").await?;
    site.event("web", Reason::Unsupported.as_str()).await?;
    ensure!(status["ports"][0]["port"] == port, "it has lost its port: {status}");
    // No other claim gets its port, and it stays open.
    let class = json!({"spec": {"loadBalancers": {"max": 1}}});
    site.change_class(class).await?;
    site.claim("second", json!([{"port": port, "targetPort": "http"}])).await?;
    site.refused("second", Reason::PortTaken, &[]).await?;
    ensure!(!site.front_slices(port).await?.is_empty(), "its port is closed");
    site.undisturbed(&neighbour).await?;
    patch(&site, "web", json!({"spec": {"ports": [{"name": "", "protocol": "TCP", "targetPort": "http"}]}})).await?;
    let after = slots(&site.ready("web").await?);
    ensure!(after == before, "it had {before:?} and has {after:?}");
    site.undisturbed(&neighbour).await
}

async fn new_spec(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "new-spec", json!({})).await?;
    let neighbour = site.neighbour().await?;
    create(&site, "web", json!({"className": site.class, "ports": 7})).await?;
    unsupported(&site, "web").await?;
    site.undisturbed(&neighbour).await?;
    let ports = json!([{"name": "", "protocol": "TCP", "targetPort": "http"}]);
    patch(&site, "web", json!({"spec": {"ports": ports, "selector": {"app": "web"}}})).await?;
    site.ready("web").await?;
    site.undisturbed(&neighbour).await
}

async fn deleted(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "unparsable-deleted", json!({})).await?;
    let neighbour = site.neighbour().await?;
    let (_, (.., port)) = slots(&site.assigned("web").await?).pop_first().context("it has a port")?;
    patch(&site, "web", json!({"spec": {"ports": "nonsense"}})).await?;
    unsupported(&site, "web").await?;
    raw_claims(&site).delete("web", &Default::default()).await?;
    eventually("the claim to be gone", LIMIT, async || {
        Ok(raw_claims(&site).get_opt("web").await?.is_none().then_some(()))
    })
    .await?;
    site.released("web", port).await?;
    site.undisturbed(&neighbour).await
}

async fn status(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "status", json!({})).await?;
    let neighbour = site.neighbour().await?;
    let before = slots(&site.assigned("web").await?);
    let claims = raw_claims(&site);
    let nonsense = Patch::Merge(json!({"status": {"ports": "nonsense"}}));
    claims.patch_status("web", &PatchParams::default(), &nonsense).await?;
    let message = site
        .class_status("Ready=False", |status| {
            let ready = status.conditions.iter().find(|condition| condition.type_ == ConditionType::Ready.as_str())?;
            (ready.status == "False").then(|| ready.message.clone())
        })
        .await?;
    ensure!(message.contains("status/web"), "it does not name the claim: {message}");
    site.claim("new", json!([{"targetPort": "http"}])).await?;
    site.verdict("new", ConditionType::Allocated, ("Unknown", Reason::Pending)).await?;
    let (.., port) = before[""];
    ensure!(!site.front_slices(port).await?.is_empty(), "its port is closed");
    site.undisturbed(&neighbour).await?;
    let repaired = Patch::Merge(json!({"status": {"ports": [{"name": "", "protocol": "TCP", "port": port}]}}));
    claims.patch_status("web", &PatchParams::default(), &repaired).await?;
    site.class_verdict(ConditionType::Ready, ("True", Reason::Ready)).await?;
    site.ready("new").await?;
    let after = slots(&site.ready("web").await?);
    ensure!(after == before, "it had {before:?} and has {after:?}");
    site.undisturbed(&neighbour).await
}

async fn class(world: Arc<World>) -> anyhow::Result<()> {
    let site = Site::with_pod(&world.cluster, "class", json!({})).await?;
    let neighbour = site.neighbour().await?;
    let front = site.fronts(1).await?.remove(0);
    let classes: Api<DynamicObject> = Api::all_with(world.cluster.admin(), &ApiResource::erase::<SharedLBClass>(&()));
    let nonsense = Patch::Merge(json!({"spec": {"loadBalancers": "nonsense"}}));
    classes.patch(&site.class, &PatchParams::default(), &nonsense).await?;
    eventually("the class to be told that it cannot be parsed", LIMIT, async || {
        let class = classes.get(&site.class).await?;
        let conditions = class.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let accepted = conditions.iter().find(|condition| condition["type"] == ConditionType::Accepted.as_str());
        let told = accepted.is_some_and(|condition| {
            condition["status"] == "False"
                && condition["message"].as_str().is_some_and(|message| message.contains("can't be read"))
        });
        ensure!(told, "its status is {}", class.data["status"]);
        Ok(Some(()))
    })
    .await?;
    ensure!(
        slots(&site.claims.get("neighbour").await?).values().eq([&neighbour.slot()]),
        "the neighbour lost its port"
    );
    let services = site.front_services().await?;
    ensure!(services.len() == 1 && services[0].spec == front.spec, "its load balancer was changed: {services:?}");
    let repaired = Patch::Merge(json!({"spec": {"loadBalancers": {"min": 1, "max": 10, "emptyDelaySeconds": 60}}}));
    classes.patch(&site.class, &PatchParams::default(), &repaired).await?;
    site.class_verdict(ConditionType::Accepted, ("True", Reason::Accepted)).await?;
    site.ready("neighbour").await?;
    site.assigned("web").await.map(drop)
}
