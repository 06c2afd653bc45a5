//! Attempts to take another claim's port.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::DeleteParams;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_crds::{ConditionType, Reason};
use sharedlb_harness::{LIMIT, Tests, World, condition, slots};
use sharedlb_testbed::eventually;

use super::tenant::{Tenant, change, create, forbidden};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![
        test.test("a tenant can't write a status that names another's port", own_status),
        test.test("status, age and owner of a new claim are ignored", born_with_status),
        test.test("a recreated claim is a newcomer", created_again),
        test.test("a finalizer that a tenant removes is added again", finalizer_off),
        test.test("the port of a claim that is deleted without its finalizer cools down", gone_without_finalizer),
        test.test("a deleted claim that only the tenant's finalizer keeps releases its port", own_finalizer),
        test.test(
            "a user's claim with the name of a source's claim is not taken over, and the Service reports it",
            name_of_a_source,
        ),
        test.test("a Service with our label that already has an address is still served", labelled),
        test.test("a forged claim of a source is corrected, and gains nothing", forged_as_a_source),
    ]
}

fn one_load_balancer() -> Value {
    json!({"loadBalancers": {"max": 1}})
}

/// A status that holds this port.
fn status(port: u16) -> Value {
    json!({
        "className": "default", "loadBalancerIndex": 0, "address": "203.0.113.1",
        "ports": [{"name": "", "protocol": "TCP", "port": port}],
        "loadBalancer": {"ingress": [{"ip": "203.0.113.1", "ports": [{"port": port, "protocol": "TCP"}]}]},
        "conditions": [],
    })
}

async fn own_status(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "own-status", one_load_balancer()).await?;
    let before = slots(&tenant.site.assigned("web").await?);
    let forged = json!({"status": status(tenant.victims_port())});
    let patch = kube::api::Patch::Merge(forged.clone());
    let patched = tenant.raw_claims().patch_status("web", &Default::default(), &patch).await;
    forbidden("patch a status", patched.map_err(Into::into))?;
    let mut whole = tenant.raw_claims().get("web").await?;
    whole.data["status"] = forged["status"].clone();
    let replaced = tenant.raw_claims().replace_status("web", &Default::default(), &whole).await;
    forbidden("replace a status", replaced.map_err(Into::into))?;
    // Written as a part of the claim, it is not there.
    change(&tenant.raw_claims(), "web", forged).await?;
    tenant.raw_claims().replace("web", &Default::default(), &whole).await.ok();
    ensure!(slots(&tenant.site.claims.get("web").await?) == before, "the status was written");
    tenant.victim_is_safe().await
}

async fn born_with_status(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "born-with", one_load_balancer()).await?;
    let (victims, port) = (&tenant.victim.namespace, tenant.victims_port());
    let victims_claim = tenant.victim.claims.get("neighbour").await?;
    let forged = json!({
        "status": status(port),
        "metadata": {
            "uid": victims_claim.uid(), "creationTimestamp": "1970-01-01T00:00:00Z", "generation": 99,
            "finalizers": ["sharedlb.dev/release-ports"],
            "annotations": {"sharedlb.dev/claim": format!("{victims}/neighbour"), "sharedlb.dev/owner": victims},
            "labels": {"sharedlb.dev/class": tenant.site.class, "sharedlb.dev/claim": "neighbour"},
            "managedFields": [{
                "manager": "sharedlb", "operation": "Apply", "apiVersion": "sharedlb.dev/v1alpha1",
                "fieldsType": "FieldsV1", "fieldsV1": {"f:status": {}},
            }],
        },
    });
    let made = tenant.forged("forged", json!({"port": port, "targetPort": "http"}), forged).await?;
    ensure!(made.uid() != victims_claim.uid(), "it has the victim's uid");
    ensure!(made.creation_timestamp() >= victims_claim.creation_timestamp(), "it is older than it is");
    tenant.site.refused("forged", Reason::PortTaken, &[&port.to_string()]).await?;
    // Sooner or later Kubernetes deletes an object whose owner is in another namespace.
    let owner = json!({
        "apiVersion": "sharedlb.dev/v1alpha1", "kind": "SharedLB", "name": "neighbour",
        "uid": victims_claim.uid(), "controller": false,
    });
    let owned = json!({"status": status(port), "metadata": {"ownerReferences": [owner]}});
    tenant.forged("owned", json!({"port": port, "targetPort": "http"}), owned).await?;
    eventually("the owned claim to be refused or deleted", LIMIT, async || {
        let Some(claim) = tenant.site.claims.get_opt("owned").await? else { return Ok(Some(())) };
        let is_refused = condition(&claim, ConditionType::Allocated).is_some_and(|found| found.status == "False");
        Ok(is_refused.then_some(()))
    })
    .await?;
    tenant.victim_is_safe().await
}

async fn created_again(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "again-and-again", one_load_balancer()).await?;
    let port = tenant.victims_port();
    for attempt in 0..5 {
        let asked =
            if attempt == 2 { json!({"targetPort": "http"}) } else { json!({"port": port, "targetPort": "http"}) };
        tenant.site.claim("web", json!([asked])).await?;
        tenant.site.claims.delete("web", &DeleteParams::default()).await?;
        tenant.site.gone("web").await?;
    }
    tenant.site.claim("web", json!([{"port": port, "targetPort": "http"}])).await?;
    tenant.site.refused("web", Reason::PortTaken, &[]).await?;
    // A name that sorts before the victim's counts for nothing either.
    tenant.site.claim("a", json!([{"port": port, "targetPort": "http"}])).await?;
    tenant.site.refused("a", Reason::PortTaken, &[]).await?;
    tenant.victim_is_safe().await
}

async fn finalizer_off(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "finalizer-off", one_load_balancer()).await?;
    let before = slots(&tenant.site.assigned("web").await?);
    change(&tenant.raw_claims(), "web", json!({"metadata": {"finalizers": null}})).await?;
    eventually("the finalizer to be there again", LIMIT, async || {
        Ok((!tenant.site.claims.get("web").await?.finalizers().is_empty()).then_some(()))
    })
    .await?;
    ensure!(slots(&tenant.site.ready("web").await?) == before, "it lost its port");
    tenant.victim_is_safe().await
}

async fn gone_without_finalizer(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"max": 1}, "reclaimDelaySeconds": 3600});
    let tenant = Tenant::open(&world, "gone-without", class).await?;
    let (_, (.., port)) = slots(&tenant.site.assigned("web").await?).pop_first().context("it has a port")?;
    // Deleted first, it waits for the finalizer, and nothing puts one on again.
    let blocked = json!({"metadata": {"finalizers": ["example.com/mine", "sharedlb.dev/release-ports"]}});
    change(&tenant.raw_claims(), "web", blocked).await?;
    tenant.site.claims.delete("web", &DeleteParams::default()).await?;
    change(&tenant.raw_claims(), "web", json!({"metadata": {"finalizers": null}})).await?;
    tenant.site.gone("web").await?;
    tenant.site.released("web", port).await?;
    tenant.victim.claim("later", json!([{"port": port, "targetPort": "http"}])).await?;
    tenant.victim.refused("later", Reason::PortTaken, &[]).await?;
    tenant.victim_is_safe().await
}

async fn own_finalizer(world: Arc<World>) -> anyhow::Result<()> {
    let class = json!({"loadBalancers": {"max": 1}, "reclaimDelaySeconds": 1});
    let tenant = Tenant::open(&world, "own-finalizer", class).await?;
    tenant
        .forged("web", json!({"targetPort": "http"}), json!({"metadata": {"finalizers": ["example.com/mine"]}}))
        .await?;
    let (_, (.., port)) = slots(&tenant.site.ready("web").await?).pop_first().context("it has a port")?;
    tenant.site.claims.delete("web", &DeleteParams::default()).await?;
    tenant.victim.claim("later", json!([{"port": port, "targetPort": "http"}])).await?;
    tenant.victim.ready("later").await?;
    let kept = tenant.site.claims.get("web").await?;
    ensure!(kept.finalizers() == ["example.com/mine"], "its finalizers are {:?}", kept.finalizers());
    // Nor does it keep the class.
    tenant.victim.claims.delete("later", &DeleteParams::default()).await?;
    tenant.victim_is_safe().await?;
    tenant.victim.claims.delete("neighbour", &DeleteParams::default()).await?;
    tenant.site.delete_class().await?;
    tenant.site.class_gone().await
}

/// A Service that shares a load balancer of the class.
fn sharing(tenant: &Tenant) -> Value {
    json!({
        "type": "LoadBalancer", "loadBalancerClass": format!("sharedlb.dev/{}", tenant.site.class),
        "allocateLoadBalancerNodePorts": false, "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 8080, "targetPort": "http"}],
    })
}

async fn name_of_a_source(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "name-of-source", one_load_balancer()).await?;
    let forged = json!({"metadata": {"labels": {"sharedlb.dev/source": "service"}}});
    tenant.forged("service-web", json!({"targetPort": "http"}), forged).await?;
    let before = tenant.site.ready("service-web").await?;
    tenant.service("web", sharing(&tenant)).await?;
    let services = tenant.api::<Service>();
    eventually("the Service to be told that the name is taken", LIMIT, async || {
        let status = services.get("web").await?.status.unwrap_or_default();
        let told = status.conditions.iter().flatten().any(|condition| condition.reason == "NameTaken");
        Ok(told.then_some(()))
    })
    .await?;
    let after = tenant.site.claims.get("service-web").await?;
    ensure!(after.spec == before.spec && slots(&after) == slots(&before), "the user's claim was changed");
    tenant.victim_is_safe().await
}

async fn labelled(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "labelled", one_load_balancer()).await?;
    tenant.service("web", sharing(&tenant)).await?;
    tenant.site.ready("service-web").await?;
    let services = tenant.api::<Service>();
    let hidden = json!({
        "metadata": {"labels": {"app.kubernetes.io/managed-by": "sharedlb"}},
        "spec": {"ports": [{"name": "http", "port": tenant.victims_port(), "targetPort": "http"}]},
    });
    change(&services, "web", hidden).await?;
    eventually("the Service to be told that the port is taken", LIMIT, async || {
        let status = services.get("web").await?.status.unwrap_or_default();
        let told = status.conditions.iter().flatten().any(|condition| condition.reason == "PortTaken");
        let address = status.load_balancer.and_then(|found| found.ingress).is_some_and(|all| !all.is_empty());
        ensure!(told && !address, "it is told {:?}", status.conditions);
        Ok(Some(()))
    })
    .await?;
    services.delete("web", &DeleteParams::default()).await?;
    tenant.site.gone("service-web").await?;
    tenant.victim_is_safe().await
}

async fn forged_as_a_source(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "forged-source", one_load_balancer()).await?;
    // Of a Service that is the victim's, and of one's own.
    let foreign = create::<Service>(
        &kube::Api::namespaced(world.cluster.admin(), &tenant.victim.namespace),
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 1}]}}),
    )
    .await?;
    let owned = |service: &Service| {
        json!({"metadata": {"ownerReferences": [{
            "apiVersion": "v1", "kind": "Service", "name": service.name_any(), "uid": service.uid(), "controller": true,
        }]}})
    };
    tenant.forged("service-web", json!({"targetPort": "http"}), owned(&foreign)).await?;
    // There is no such Service here, so the claim is an orphan of the source.
    tenant.site.gone("service-web").await?;
    let own = tenant.service("own", sharing(&tenant)).await?;
    tenant.site.ready("service-own").await?;
    tenant
        .site
        .change(
            "service-own",
            json!({"spec": {"ports": [{"name": "http", "port": tenant.victims_port(), "targetPort": 8080}]}}),
        )
        .await?;
    eventually("the claim to be set right", LIMIT, async || {
        let claim = tenant.site.claims.get("service-own").await?;
        let asked = claim.spec.ports[0].port.map(std::num::NonZeroU16::get);
        Ok((asked == Some(8080)).then_some(()))
    })
    .await?;
    tenant.site.verdict("service-own", ConditionType::Ready, ("True", Reason::Ready)).await?;
    let still = tenant.api::<Service>().get("own").await?;
    ensure!(still.uid() == own.uid() && still.spec.is_some(), "the Service is another one");
    let victims: Vec<_> =
        tenant.victim.claims.list(&Default::default()).await?.iter().map(ResourceExt::name_any).collect();
    ensure!(victims == ["neighbour"], "the victim has the claims {victims:?}");
    tenant.victim_is_safe().await
}
