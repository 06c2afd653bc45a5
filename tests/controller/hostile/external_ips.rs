//! Services with the address of a load balancer as an external one
//! (CVE-2020-8554), and the policy of `deploy/` that denies it.

use std::sync::Arc;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sharedlb_harness::{LIMIT, Tests, World};
use sharedlb_testbed::eventually;

use super::tenant::{Tenant, change, forbidden};

pub(crate) fn trials(test: &Tests<World>) -> Vec<Trial> {
    vec![test.test("with the policy of deploy/, no Service of a tenant has external addresses", denied)]
}

async fn denied(world: Arc<World>) -> anyhow::Result<()> {
    let tenant = Tenant::open(&world, "external", json!({})).await?;
    let victims = tenant.victim.claims.get("neighbour").await?.status.and_then(|status| status.address);
    let external = json!([victims.context("an address")?]);
    let spec =
        |external: &Value| json!({"ports": [{"name": "x", "port": tenant.victims_port()}], "externalIPs": external});
    tenant.service("before", spec(&external)).await?;

    let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/deny-external-ips.yaml");
    world.cluster.kubectl_output(&["apply", "--validate=strict", "-f", policy]).await?;
    let services = tenant.api::<Service>();
    eventually("the policy to be enforced", LIMIT, async || {
        let trial: Service = serde_json::from_value(json!({"metadata": {"name": "trial"}, "spec": spec(&external)}))?;
        let tried = services.create(&PostParams { dry_run: true, ..PostParams::default() }, &trial).await;
        Ok(tried.is_err().then_some(()))
    })
    .await?;
    forbidden("have external addresses", tenant.service("new", spec(&external)).await)?;
    tenant.service("plain", spec(&json!([]))).await?;
    let added = change(&services, "plain", json!({"spec": {"externalIPs": external}})).await;
    forbidden("add external addresses", added)?;
    change(&services, "plain", json!({"spec": {"ports": [{"name": "x", "port": 81}]}})).await?;

    // What was there before stays as it is, and captures nothing more.
    change(&services, "before", json!({"metadata": {"labels": {"team": "red"}}})).await?;
    let ports = json!({"spec": {"ports": [{"name": "x", "port": 82}]}});
    forbidden("capture another port", change(&services, "before", ports.clone()).await)?;
    let more = json!({"spec": {"externalIPs": ["192.0.2.7", external[0]]}});
    forbidden("capture another address", change(&services, "before", more).await)?;
    change(&services, "before", json!({"spec": {"externalIPs": null}})).await?;
    change(&services, "before", ports).await?;
    services.delete("before", &DeleteParams::default()).await?;

    // The label is the admin's: a tenant cannot set it.
    let allowed = Patch::Merge(json!({"metadata": {"labels": {"sharedlb.dev/external-ips": "allowed"}}}));
    let name = tenant.site.namespace.as_str();
    let by_tenant = Api::<Namespace>::all(tenant.client.clone());
    let labelled = by_tenant.patch(name, &PatchParams::default(), &allowed).await;
    forbidden("exempt its namespace", labelled.map_err(Into::into))?;
    Api::<Namespace>::all(world.cluster.admin()).patch(name, &PatchParams::default(), &allowed).await?;
    eventually("the namespace to be exempt", LIMIT, async || {
        Ok(change(&services, "plain", json!({"spec": {"externalIPs": external}})).await.is_ok().then_some(()))
    })
    .await?;
    let kept = services.get("plain").await?.spec.and_then(|spec| spec.external_ips);
    ensure!(kept.is_some_and(|kept| kept.len() == 1), "it has no external address");
    tenant.victim_is_safe().await
}
